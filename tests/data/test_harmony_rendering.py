"""Rows → samples against openai-harmony, the format's own implementation, on the real vocabulary.

`harmony_reference` derives tokens and labels a second time, from openai-harmony's prompts and parser alone.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import openai_harmony as oh
import pytest
from harmony_reference import Reference
from hypothesis import HealthCheck, given, seed, settings
from strategies import Case, Said, cases
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import open_adapter
from gptoss_ft.data.conversation import Conversation, Effort, Message, Record, RowError, Text, ToolCall, is_effort
from gptoss_ft.data.harmony_rendering import HarmonyRenderer, is_harmony
from gptoss_ft.data.rendering import IGNORED, Encoder, Sample, TrainOn, assemble
from gptoss_ft.data.sources import open_source
from gptoss_ft.data.tokenizer import load_tokenizer

DATE = "2025-06-01"
Render = Callable[..., list[Sample]]


@pytest.fixture(scope="module")
def tokenizer(real_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return real_tokenizer


@pytest.fixture(scope="module")
def harmony(harmony_of_real_tokenizer: oh.HarmonyEncoding) -> oh.HarmonyEncoding:
    return harmony_of_real_tokenizer


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


def make_render(tokenizer: PreTrainedTokenizerBase) -> Render:
    encoder = Encoder(tokenizer)

    @cache
    def renderer(effort: Effort, date: str | None, train_on: TrainOn) -> HarmonyRenderer:
        return HarmonyRenderer(tokenizer, encoder, effort, date, train_on)

    def render(
        record: Record, effort: Effort = "medium", date: str | None = DATE, train_on: TrainOn = "completions"
    ) -> list[Sample]:
        samples = assemble(renderer(effort, date, train_on).draft(record), encoder)
        return [sample for sample in samples if isinstance(sample, Sample)]

    return render


@pytest.fixture(scope="module")
def render(tokenizer: PreTrainedTokenizerBase) -> Render:
    return make_render(tokenizer)


@pytest.fixture(scope="module")
def render_tiny(tiny_tokenizer: PreTrainedTokenizerBase) -> Render:
    return make_render(tiny_tokenizer)


def samples_of(case: Case, render: Render) -> list[Sample]:
    """The samples of a raw row, in the way that preparing it makes them."""
    config = DatasetSection(**case.settings)
    record = open_adapter(config, list(case.row)).adapt(case.row)
    effort = config.reasoning_effort if is_effort(config.reasoning_effort) else "medium"
    return render(record, effort, case.date)


def check(case: Case, samples: list[Sample], harmony: oh.HarmonyEncoding) -> None:
    reference = Reference(case, harmony)
    expected = reference.samples()
    assert [sample.input_ids.tolist() for sample in samples] == [input_ids for input_ids, _ in expected]
    assert [sample.labels.tolist() for sample in samples] == [labels for _, labels in expected]
    # Nothing is trained besides what the model says when it is used.
    assert reference.check_in_use(samples) == sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    trained = [utterance for index in range(len(samples)) for utterance in reference.trained_in(index)]
    assert trained == [utterance for utterance in reference.utterances() if utterance.trained]


SHAPES = [
    "system message", "developer message", "tools", "tool calls", "several calls", "preamble", "function_call",
    "results by id", "results by name", "results by order", "ends in a call", "thinking before a call",
    "thinking in none", "thinking in some answers", "thinking in all answers", "empty thinking kept",
    "empty thinking dropped", "not trained", "prompt and completion", "effort by row", "effort low", "effort medium",
    "effort high", "control tokens typed", "1 turns", "2 turns", "3 turns", "4 turns", "5 turns", "6 turns",
]  # fmt: skip


@pytest.mark.parametrize("part", [1, 2])  # two processes share them
def test_rows_of_every_shape_equal_openai_harmony_in_every_token_and_label(
    part: int, render: Render, harmony: oh.HarmonyEncoding
) -> None:
    rows: set[str] = set()
    shapes: Counter[str] = Counter()

    @seed(part)
    @given(case=cases())
    # Some examples come twice: a few more are asked for than are wanted.
    @settings(max_examples=2_600, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def compare(case: Case) -> None:
        row = json.dumps([case.row, case.settings, case.date])
        if row in rows:
            return
        check(case, samples_of(case, render), harmony)
        rows.add(row)
        shapes.update(case.shapes)

    compare()
    assert len(rows) >= 2_500
    assert {shape: shapes[shape] for shape in SHAPES if shapes[shape] < 50} == {}


def records(path: Path, **settings: str) -> list[Record]:
    config = DatasetSection(path=str(path), **settings)
    source = open_source(config)
    adapter = open_adapter(config, source.columns)
    return [adapter.adapt(row.content) for row in source.rows() if not isinstance(row.content, RowError)]


def plain_case(conversation: Conversation, effort: str = "medium") -> Case:
    """What a conversation without tools says."""
    said, instructions, turn = [], None, -1
    for position, message in enumerate(conversation.messages):
        if message.role in ("system", "developer"):
            instructions = message.content
        elif message.role == "user":
            turn += 1
            said.append(Said("user", turn, message.content))
        else:
            for channel, text in (("analysis", message.thinking), ("final", message.content)):
                if text is not None:
                    said.append(Said("assistant", turn, text, channel, answer=position, trained=True))
    return Case({}, {}, effort, DATE, instructions, [], said, set())


def test_multilingual_thinking_equals_openai_harmony(
    render: Render, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    conversations = records(samples_folder / "multilingual_thinking.jsonl", format="sharegpt")
    assert len(conversations) == 64
    for conversation in conversations:
        assert isinstance(conversation, Conversation)
        assert conversation.has_thinking
        samples = render(conversation)
        assert len(samples) == 1
        check(plain_case(conversation), samples, harmony)


def test_finetome_equals_openai_harmony_and_trains_every_answer(
    render: Render, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    conversations = records(samples_folder / "finetome.jsonl", format="sharegpt")
    answers = 0
    for conversation in conversations:
        assert isinstance(conversation, Conversation)
        samples = render(conversation)
        assert len(samples) == 1
        answers += len(samples[0].answers)
        check(plain_case(conversation), samples, harmony)
    assert len(conversations) == 64
    assert answers > 64


def test_korean_questions_and_answers_equal_openai_harmony(
    render: Render, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    conversations = records(samples_folder / "korean_textbooks_01.jsonl", format="custom")
    assert len(conversations) == 64
    for conversation in conversations:
        assert isinstance(conversation, Conversation)
        check(plain_case(conversation, "low"), render(conversation, "low"), harmony)


def test_plain_korean_text_is_trained_whole_and_ends_in_a_trained_end_of_text(
    tokenizer: PreTrainedTokenizerBase, render: Render, samples_folder: Path
) -> None:
    texts = records(samples_folder / "korean_textbooks_text.jsonl", format="custom")
    assert len(texts) == 64
    for text in texts:
        assert isinstance(text, Text)
        (sample,) = render(text)
        assert sample.is_plain
        assert sample.labels.tolist() == sample.input_ids.tolist()
        assert sample.input_ids[-1] == 199999
        assert tokenizer.decode(sample.input_ids[:-1]) == text.text


THINKS = (
    Message("system", "Be brief."),
    Message("user", "2 + 2?"),
    Message("assistant", "4.", thinking="Easy."),
    Message("user", "3 + 3?"),
    Message("assistant", tool_calls=(ToolCall("add", '{"a": 3}'),), thinking="Look it up."),
    Message("tool", "6", name="add"),
    Message("assistant", "6."),
    Message("user", "4 + 4?"),
    Message("assistant", "8.", thinking="Doubling."),
)


def shown(tokenizer: PreTrainedTokenizerBase, sample: Sample, after: str) -> str:
    text = tokenizer.decode(sample.input_ids)
    return text[text.index(after) :]


def trained_text(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> str:
    return tokenizer.decode([label for label in sample.labels if label != IGNORED])


def test_thinking_of_earlier_turns_is_gone_and_that_of_the_same_turn_stays(
    tokenizer: PreTrainedTokenizerBase, render: Render
) -> None:
    samples = render(Conversation(THINKS))
    question = "<|start|>user<|message|>2 + 2?<|end|><|start|>assistant"
    first = f"{question}<|channel|>final<|message|>4.<|end|><|start|>user<|message|>3 + 3?<|end|><|start|>assistant"
    call = ' to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 3}<|call|>'
    result = "<|start|>functions.add to=assistant<|channel|>commentary<|message|>6<|end|><|start|>assistant"
    thought = "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant"
    six = "<|channel|>final<|message|>6."
    assert [shown(tokenizer, sample, "<|start|>user") for sample in samples] == [
        f"{question}<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>4.<|return|>",
        f"{first}{thought}{call}{result}{six}<|return|>",
        f"{first}{call}{result}{six}<|end|><|start|>user<|message|>4 + 4?<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>Doubling.<|end|><|start|>assistant<|channel|>final<|message|>8.<|return|>",
    ]
    assert [trained_text(tokenizer, sample) for sample in samples] == [
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>4.<|return|>",
        f"{thought}{call}{six}<|return|>",
        "<|channel|>analysis<|message|>Doubling.<|end|><|start|>assistant<|channel|>final<|message|>8.<|return|>",
    ]


def test_an_answer_that_is_not_to_be_trained_is_context_and_one_without_others_gives_no_sample(
    tokenizer: PreTrainedTokenizerBase, render: Render
) -> None:
    untrained = tuple(replace(message, train=message.content == "8.") for message in THINKS)
    (sample,) = render(Conversation(untrained))
    assert sample.input_ids.tolist() == render(Conversation(THINKS))[2].input_ids.tolist()
    assert trained_text(tokenizer, sample).endswith("<|channel|>final<|message|>8.<|return|>")
    assert render(Conversation(tuple(replace(message, train=False) for message in THINKS))) == []


def test_a_conversations_own_effort_overrules_the_jobs(tokenizer: PreTrainedTokenizerBase, render: Render) -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Hello"))
    (sample,) = render(Conversation(messages, effort="high"), "low")
    assert "\nReasoning: high\n" in tokenizer.decode(sample.input_ids)


def test_without_a_date_the_line_is_left_out(tokenizer: PreTrainedTokenizerBase, render: Render) -> None:
    (sample,) = render(Conversation((Message("user", "Hi"), Message("assistant", "Hello"))), date=None)
    assert tokenizer.decode(sample.input_ids) == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )


@pytest.mark.parametrize("name", ["a<|channel|>b", "<|constrain|>"])
def test_a_call_that_the_parser_could_not_tell_from_its_header_is_refused(render_tiny: Render, name: str) -> None:
    messages = (Message("user", "Hi"), Message("assistant", tool_calls=(ToolCall(name, "{}"),)))
    with pytest.raises(RowError, match="cannot be told from the header") as refused:
        render_tiny(Conversation(messages))
    assert refused.value.fault == "tool calls"


def test_the_tiny_model_speaks_harmony_too(tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render) -> None:
    assert is_harmony(tiny_tokenizer)
    messages = (Message("user", "Hi"), Message("assistant", "Hello", thinking="A greeting."))
    (sample,) = render_tiny(Conversation(messages), "low")
    assert trained_text(tiny_tokenizer, sample) == (
        "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )


def different(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> list[tuple[str, str]]:
    """Each trained position whose label is not its token, as token and label."""
    positions = (sample.labels != IGNORED) & (sample.labels != sample.input_ids)
    return [
        (tokenizer.decode([token]), tokenizer.decode([label]))
        for token, label in zip(sample.input_ids[positions], sample.labels[positions], strict=True)
    ]


def test_everything_trains_the_prompt_too(tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render) -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "1"), Message("assistant", "2"))
    (sample,) = render_tiny(Conversation(messages), train_on="everything")
    assert sample.trained_tokens == len(sample.input_ids)
    assert sample.channels["prompt"] > 0
    # The one label that is not the input: an earlier answer ends in <|return|> when it is produced.
    assert different(tiny_tokenizer, sample) == [("<|end|>", "<|return|>")]


def test_everything_leaves_out_an_answer_that_is_not_to_be_trained(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render
) -> None:
    hello = Message("assistant", "Hello", train=False)
    (sample,) = render_tiny(
        Conversation((Message("user", "Hi"), hello, Message("user", "1"), Message("assistant", "2"))),
        train_on="everything",
    )
    left_out = tiny_tokenizer.decode(sample.input_ids[sample.labels == IGNORED])
    assert left_out == "<|channel|>final<|message|>Hello<|end|>"
    assert trained_text(tiny_tokenizer, sample).endswith(
        "<|start|>user<|message|>1<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>"
    )
    assert len(sample.answers) == 1


def test_everything_trains_an_answer_in_one_of_several_samples(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render
) -> None:
    call = ' to=functions.add<|channel|>commentary <|constrain|>json<|message|>{"a": 3}<|call|>'
    samples = render_tiny(Conversation(THINKS), train_on="everything")
    left_out = [tiny_tokenizer.decode(sample.input_ids[sample.labels == IGNORED]) for sample in samples]
    four, six = (f"<|channel|>final<|message|>{text}<|end|>" for text in ("4.", "6."))
    assert left_out == ["", four, f"{four}{call}{six}"]
    by_completions = render_tiny(Conversation(THINKS))
    assert [sample.answers for sample in samples] == [sample.answers for sample in by_completions]
    for everything, completions in zip(samples, by_completions, strict=True):
        learned = completions.labels != IGNORED
        assert everything.labels[learned].tolist() == completions.labels[learned].tolist()


@pytest.mark.parametrize("content", ["<think>Hm.</think>Hello", "\n<think>\n</think>"])
@pytest.mark.parametrize("train", [True, False])
def test_thinking_inside_the_content_is_refused(render_tiny: Render, content: str, train: bool) -> None:
    messages = (Message("user", "Hi"), Message("assistant", content, train=train))
    with pytest.raises(RowError) as refused:
        render_tiny(Conversation((*messages, Message("user", "1"), Message("assistant", "2"))))
    assert str(refused.value) == (
        "message 2: thinking stands in the content, in <think>…</think>; give it under the key thinking"
    )
    assert refused.value.fault == "wrong shape"


def test_words_about_markup_of_thinking_are_an_answer(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render
) -> None:
    for content in ("<think> opens it.", "It is <think>Hm.</think>"):
        messages = (Message("user", "<think>a</think>"), Message("assistant", content))
        (sample,) = render_tiny(Conversation(messages))
        assert trained_text(tiny_tokenizer, sample) == f"<|channel|>final<|message|>{content}<|return|>"


# Text in the model's own markup.
ASK = "<|start|>user<|message|>Hi<|end|>"
THINK = "<|channel|>analysis<|message|>Hm<|end|>"
CALL = " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
CALL_AFTER_CHANNEL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
RESULT = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>1<|end|>"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|>"
FINAL = "<|channel|>final<|message|>Hello"
OPEN = "<|start|>assistant"


@pytest.mark.parametrize(
    ("text", "trained", "answers"),
    [
        pytest.param(
            f"{ASK}{OPEN}{THINK}{OPEN}{FINAL}<|end|>{ASK}{OPEN}{FINAL}<|return|>",
            [f"{THINK}{OPEN}{FINAL}<|return|>", f"{FINAL}<|return|>"],
            2,
            id="an answer after thinking, and another one",
        ),
        pytest.param(
            f"{ASK}{OPEN}{THINK}{OPEN}{PREAMBLE}{OPEN}{CALL}{RESULT}{OPEN}{THINK}{OPEN}{FINAL}<|end|>",
            [f"{THINK}{OPEN}{PREAMBLE}{OPEN}{CALL}", f"{THINK}{OPEN}{FINAL}<|return|>"],
            2,
            id="a tool call",
        ),
        pytest.param(
            f"{ASK}{OPEN}{CALL}{OPEN}{CALL_AFTER_CHANNEL}{RESULT}{RESULT}{OPEN}{FINAL}<|return|>",
            [CALL, CALL_AFTER_CHANNEL, f"{FINAL}<|return|>"],
            3,
            id="two calls, between which generation stops",
        ),
        pytest.param(
            f"{ASK}{OPEN}{FINAL}<|end|>{OPEN}{FINAL}<|end|>",
            [f"{FINAL}<|return|>", f"{FINAL}<|return|>"],
            2,
            id="two final answers in a row",
        ),
        pytest.param(f"{ASK}{OPEN}{THINK}{OPEN}{FINAL}", [f"{THINK}{OPEN}{FINAL}"], 1, id="ends in mid-answer"),
        pytest.param(f"{ASK}{OPEN}{THINK[: -len('<|end|>')]}", [THINK[: -len("<|end|>")]], 1, id="ends in mid-thought"),
        pytest.param(f"{ASK}{OPEN}{THINK}{OPEN}", [f"{THINK}{OPEN}"], 1, id="ends in an opening of the model's own"),
        pytest.param(f"{ASK}{OPEN}{THINK}", [THINK], 1, id="ends after a thought"),
        pytest.param(f"{ASK}{OPEN}{THINK}\n", [THINK], 1, id="ends after a thought and a line break"),
        pytest.param(f"{ASK}{OPEN}", [], 0, id="ends in the prompt"),
        pytest.param(
            f"{ASK}{OPEN}{FINAL}{ASK}{OPEN}{FINAL}<|end|>",
            [FINAL, f"{FINAL}<|return|>"],
            2,
            id="an answer that is not ended, and another one",
        ),
        pytest.param(
            f"{OPEN}{THINK}\n{OPEN}{FINAL}<|end|>\n", [THINK, f"{FINAL}<|return|>"], 1, id="line breaks in between"
        ),
        pytest.param(f"{OPEN}<|message|>Hi<|end|>", ["<|message|>Hi<|end|>"], 1, id="no channel"),
        pytest.param("<|start|>user<|message|>Hi<|end|>", [], 0, id="no assistant"),
        pytest.param("Before.<|end|>" + ASK, [], 0, id="text before the first message"),
    ],
)
def test_text_in_the_models_markup_trains_the_assistants_parts(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render, text: str, trained: list[str], answers: int
) -> None:
    (sample,) = render_tiny(Text(text))
    assert not sample.is_plain
    assert tiny_tokenizer.decode(sample.input_ids) == text
    assert trained_text(tiny_tokenizer, sample) == "".join(trained)
    stretches = "".join("x" if label != IGNORED else " " for label in sample.labels).split()
    assert [len(stretch) for stretch in stretches] == [
        len(tiny_tokenizer(stretch, add_special_tokens=False).input_ids) for stretch in trained
    ]
    assert len(sample.answers) == answers


@pytest.mark.parametrize("text", [f"{THINK}{OPEN}{FINAL}", THINK, f"{THINK}{OPEN}", f"{THINK}{OPEN}{PREAMBLE}"])
def test_a_truncation_leaves_no_stump_of_an_answer_without_its_end(render_tiny: Render, text: str) -> None:
    (sample,) = render_tiny(Text(f"{ASK}{OPEN}{text}"))
    assert sample.answers == [(sample.spans[0][0], len(sample.input_ids))]
    cut, lost = sample.truncated(len(sample.input_ids) - 1)
    assert (cut.trained_tokens, cut.answers, lost) == (0, [], 1)


@pytest.mark.parametrize(
    "text", ["Hi", "<|end|> ends", "a <|endoftext|> b", "<|start|>user", "<|message|>Hi<|end|>", "Hi<|endoftext|> "]
)
def test_control_tokens_in_plain_text_are_words_but_for_one_end_of_text_at_its_end(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render, text: str
) -> None:
    (sample,) = render_tiny(Text(text))
    end = tiny_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    plain = tiny_tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert sample.is_plain
    assert sample.input_ids.tolist() == sample.labels.tolist() == [*plain, end]
    (ended,) = render_tiny(Text(f"{text}<|endoftext|>"))
    assert ended.input_ids.tolist() == [*plain, end]
    (twice,) = render_tiny(Text(f"{text}<|endoftext|><|endoftext|>"))
    assert tiny_tokenizer.decode(twice.input_ids) == f"{text}<|endoftext|><|endoftext|>"
    assert twice.input_ids.tolist().count(end) == 1


def test_text_in_markup_is_trained_whole_with_everything(
    tiny_tokenizer: PreTrainedTokenizerBase, render_tiny: Render
) -> None:
    (sample,) = render_tiny(Text(f"{ASK}{OPEN}{FINAL}<|end|>{ASK}"), train_on="everything")
    assert sample.trained_tokens == len(sample.input_ids)
    assert different(tiny_tokenizer, sample) == [("<|end|>", "<|return|>")]
    assert {channel for _, _, channel in sample.spans} == {"prompt", "final"}


def test_markup_of_a_rendered_conversation_gives_its_tokens_and_labels(
    tokenizer: PreTrainedTokenizerBase, render: Render
) -> None:
    for sample in render(Conversation(tuple(replace(message, thinking=None) for message in THINKS))):
        (again,) = render(Text(tokenizer.decode(sample.input_ids)))
        assert again.input_ids.tolist() == sample.input_ids.tolist()
        assert again.labels.tolist() == sample.labels.tolist()
