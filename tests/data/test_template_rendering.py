"""Tokens against transformers' own `apply_chat_template(tokenize=True)`, and labels against what the template says.

The tiny llama's template is ChatML; other templates stand in this file, each with what is peculiar to its kind.
"""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gptoss_ft.data.chat_templates import chat_template_text, check_control_tokens
from gptoss_ft.data.conversation import Conversation, Message, RowError, Text, Tool, ToolCall
from gptoss_ft.data.rendering import IGNORED, Draft, Encoder, Sample, TrainOn, assemble
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError
from gptoss_ft.tiny import rows as tiny_rows

SYSTEM = Message("system", "Be brief.")
HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello there.")
BYE, SO_LONG = Message("user", "Bye"), Message("assistant", "So long.")
TWO_TURNS = (SYSTEM, HI, HELLO, BYE, SO_LONG)

# As Llama 3's: the beginning-of-text token is the template's, and the date is today's unless it is given.
LLAMA_3 = """\
{{- bos_token }}
{%- if date_string is not defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{{- '<|im_start|>system\\nToday Date: ' + date_string + '<|im_end|>' }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""
CALLS_STRFTIME = "{{ strftime_now('%Y-%m-%d') }}\n" + LLAMA_3.partition("{%- for")[1] + LLAMA_3.partition("{%- for")[2]
# As Qwen 3's: the thinking of the last answer is written, stripped, and that of earlier ones is not.
THINKS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if loop.last and message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content.strip() + '\\n</think>\\n\\n' }}{%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""  # noqa: E501
REFUSES_SYSTEM = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.content + '<|im_end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>' }}{%- endif %}
"""
LAST_FIRST = "{%- for message in messages | reverse %}{{ message.content + '<|im_end|>' }}{%- endfor %}"
NO_PROMPT = "{%- for message in messages %}{{ message.content + '<|im_end|>' }}{%- endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


@dataclass(frozen=True)
class Rendered:
    """A sample, and its readings: everything, the trained tokens alone, and each answer, as text."""

    sample: Sample
    whole: str
    trained: str
    answers: list[str]

    @property
    def input_ids(self) -> list[int]:
        return [int(token) for token in self.sample.input_ids]


def renderer_of(
    tokenizer: PreTrainedTokenizerBase, train_on: TrainOn = "completions", date: str | None = None
) -> TemplateRenderer:
    return TemplateRenderer(tokenizer, Encoder(tokenizer), "medium", date, train_on)


def samples_of(
    tokenizer: PreTrainedTokenizerBase,
    record: Conversation | Text,
    train_on: TrainOn = "completions",
    date: str | None = None,
) -> list[Rendered]:
    results = []
    for sample in assemble(renderer_of(tokenizer, train_on, date).draft(record), Encoder(tokenizer)):
        if isinstance(sample, RowError):
            raise sample
        assert len(sample.labels) == len(sample.input_ids)
        is_trained = sample.labels != IGNORED
        assert (sample.labels[is_trained] == sample.input_ids[is_trained]).all()
        assert sample.trained_tokens == is_trained.sum()
        answers = [tokenizer.decode(sample.labels[start:end]) for start, end in sample.answers]
        trained = tokenizer.decode(sample.labels[is_trained])
        results.append(Rendered(sample, tokenizer.decode(sample.input_ids), trained, answers))
    return results


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    record: Conversation | Text,
    train_on: TrainOn = "completions",
    date: str | None = None,
) -> Rendered:
    (result,) = samples_of(tokenizer, record, train_on, date)
    return result


def drafts(tokenizer: PreTrainedTokenizerBase, record: Conversation | Text, date: str | None = None) -> list[Draft]:
    return renderer_of(tokenizer, date=date).draft(record)


def with_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None, **attributes: Any
) -> PreTrainedTokenizerBase:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    for name, value in attributes.items():
        setattr(changed, name, value)
    return changed


def as_transformers(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], **arguments: Any) -> list[int]:
    """The tokens of `messages` by transformers alone."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(plain, tokenize=True, return_dict=False, **arguments))


def test_one_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation((HI, HELLO)))
    assert result.whole == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>\n"
    assert result.trained == "Hello there.<|im_end|>"
    assert result.input_ids == as_transformers(tokenizer, (HI, HELLO))


def test_every_answer_is_trained_once_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation(TWO_TURNS))
    assert result.input_ids == as_transformers(tokenizer, TWO_TURNS)
    assert result.trained == "Hello there.<|im_end|>So long.<|im_end|>"
    assert not result.sample.is_plain


def test_what_is_trained_is_what_follows_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation(TWO_TURNS))
    ids, end_of_turn = result.input_ids, tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected, places = [IGNORED] * len(ids), []
    for position in (2, 4):
        prompt = as_transformers(tokenizer, TWO_TURNS[:position], add_generation_prompt=True)
        assert ids[: len(prompt)] == prompt
        end = ids.index(end_of_turn, len(prompt)) + 1
        expected[len(prompt) : end] = ids[len(prompt) : end]
        places.append((len(prompt), end))
    assert list(result.sample.labels) == expected
    assert result.sample.answers == places
    assert result.sample.channels == {"answer": sum(end - start for start, end in places)}


def test_an_answer_that_is_context_only_is_not_trained(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation((HI, replace(HELLO, train=False), BYE, SO_LONG)))
    assert result.answers == ["So long.<|im_end|>"]
    assert result.trained == "So long.<|im_end|>"
    assert drafts(tokenizer, Conversation((HI, replace(HELLO, train=False)))) == []


def test_the_embedded_conversations_equal_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    for row in tiny_rows.multilingual_thinking():
        messages = tuple(Message(message["role"], message["content"]) for message in row["messages"])
        result = rendered(tokenizer, Conversation(messages))
        assert result.input_ids == as_transformers(tokenizer, messages)
        answers = [message.content for message in messages if message.role == "assistant"]
        assert result.answers == [f"{answer}<|im_end|>" for answer in answers]


def test_everything_trains_every_token(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation(TWO_TURNS), "everything")
    assert list(result.sample.labels) == result.input_ids == as_transformers(tokenizer, TWO_TURNS)
    assert len(result.answers) == 2
    assert set(result.sample.channels) == {"prompt", "answer"}


def test_a_developer_is_a_system_message_to_a_template(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation((Message("developer", "Be brief."), HI, HELLO)))
    assert result.input_ids == as_transformers(tokenizer, (SYSTEM, HI, HELLO))


def test_the_beginning_of_text_is_there_once(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = with_template(tokenizer, LLAMA_3, bos_token="<|endoftext|>")
    result = rendered(llama, Conversation((HI, HELLO)), date="2024-02-01")
    bos = llama.bos_token_id
    assert result.input_ids.count(bos) == 1
    assert result.input_ids[0] == bos
    assert result.sample.labels[0] == IGNORED
    assert result.trained == "Hello there.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "beginning"),
    [
        (LLAMA_3, "<|endoftext|><|im_start|>system\nToday Date: 01 Feb 2024<|im_end|>"),
        (LLAMA_3.replace("date_string", "today"), "<|endoftext|><|im_start|>system\nToday Date: 01 Feb 2024<|im_end|>"),
        (CALLS_STRFTIME, "2024-02-01"),
    ],
    ids=["date_string", "strftime_now alone", "another format"],
)
def test_the_date_is_the_literal_of_the_config(
    tokenizer: PreTrainedTokenizerBase, template: str, beginning: str
) -> None:
    dated = with_template(tokenizer, template, bos_token="<|endoftext|>")
    result = rendered(dated, Conversation((HI, HELLO)), date="2024-02-01")
    assert result.whole.startswith(f"{beginning}<|im_start|>user\n\nHi<|im_end|>")
    assert result.trained == "Hello there.<|im_end|>"


def test_a_template_that_trims_trains_the_trimmed_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = with_template(tokenizer, LLAMA_3, bos_token="<|endoftext|>")
    messages = (HI, Message("assistant", "\n Hello. \n"))
    result = rendered(llama, Conversation(messages), date="2024-02-01")
    assert result.trained == "Hello.<|im_end|>"
    assert result.input_ids == as_transformers(llama, messages, date_string="01 Feb 2024")


def test_thinking_that_the_template_leaves_out_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    thought = Conversation((HI, Message("assistant", "Hello", thinking="A greeting.")))
    with pytest.raises(RowError, match=r"^has thinking, which the model's chat template leaves out$"):
        drafts(tokenizer, thought)


def test_thinking_that_the_template_writes_is_trained(tokenizer: PreTrainedTokenizerBase) -> None:
    thinks = with_template(tokenizer, THINKS)
    messages = (HI, Message("assistant", "Hello.", "One."), BYE, Message("assistant", "So long.", "\n Two.\n"))
    first, second = samples_of(thinks, Conversation(messages))
    assert first.answers == ["<think>\nOne.\n</think>\n\nHello.<|im_end|>"]
    assert second.answers == ["<think>\nTwo.\n</think>\n\nSo long.<|im_end|>"]
    # The earlier answer's thinking is gone from the later one's context, as when the model is used.
    assert second.whole.startswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )


def test_what_the_template_refuses_is_the_rows_fault(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = renderer_of(with_template(tokenizer, REFUSES_SYSTEM))
    assert len(renderer.draft(Conversation((HI, HELLO)))) == 1
    with pytest.raises(RowError, match=r"^the model's chat template refuses it: System role not supported$"):
        renderer.draft(Conversation((SYSTEM, HI, HELLO)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].name.first }}", "'dict object' has no attribute 'name'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0] + 1 }}", "unsupported operand type(s) for +: 'dict' and 'int'"),
    ],
)
def test_what_fails_inside_the_template_is_the_rows_fault(
    tokenizer: PreTrainedTokenizerBase, template: str, reason: str
) -> None:
    renderer = renderer_of(with_template(tokenizer, template))
    with pytest.raises(RowError) as caught:
        renderer.draft(Conversation((HI, HELLO)))
    assert str(caught.value) == f"the model's chat template refuses it: {reason}"


def test_a_template_that_is_no_jinja_is_not_the_rows_fault(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = renderer_of(with_template(tokenizer, "{{ messages }}\n{% if %}"))
    with pytest.raises(DataError) as caught:
        renderer.draft(Conversation((HI, HELLO)))
    assert caught.value.message == (
        "the chat template is not valid Jinja, line 2: Expected an expression, got 'end of statement block'"
    )
    assert caught.value.key == "model.chat_template"


def test_a_template_whose_prompt_is_not_the_beginning_of_the_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = renderer_of(with_template(tokenizer, LAST_FIRST))
    with pytest.raises(RowError) as caught:
        renderer.draft(Conversation((HI, HELLO)))
    assert str(caught.value) == (
        "the model's chat template renders the conversation's beginning differently without its end"
    )


def test_without_a_template_there_are_no_conversations(tokenizer: PreTrainedTokenizerBase, tiny_llama: Path) -> None:
    renderer = renderer_of(with_template(tokenizer, None))
    with pytest.raises(DataError) as caught:
        renderer.draft(Conversation((HI, HELLO)))
    assert caught.value.message == f"{tiny_llama} has no chat template, which conversations need"
    assert caught.value.cure == "Name one in model.chat_template, or use dataset.format: custom with text."
    assert caught.value.key == "model.chat_template"
    assert rendered(with_template(tokenizer, None), Text("Hi.")).whole == "Hi.<|im_end|>"


def test_plain_text_is_trained_whole_with_the_end_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Text("# 제목\n\nA text."))
    assert result.whole == result.trained == "# 제목\n\nA text.<|im_end|>"
    assert result.sample.is_plain
    assert result.sample.labels[-1] == tokenizer.eos_token_id


def test_plain_text_begins_with_an_untrained_beginning_of_text(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = with_template(tokenizer, LLAMA_3, bos_token="<|endoftext|>")
    for text in ("A text.", "<|endoftext|>A text.", "<|endoftext|>A text.<|im_end|>", "A text.<|im_end|>"):
        result = rendered(llama, Text(text))
        assert result.whole == "<|endoftext|>A text.<|im_end|>"
        assert result.trained == "A text.<|im_end|>"
        assert result.sample.is_plain


def test_plain_text_needs_an_end_of_text(tokenizer: PreTrainedTokenizerBase, tiny_llama: Path) -> None:
    renderer = renderer_of(with_template(tokenizer, None, eos_token=None))
    with pytest.raises(DataError) as caught:
        renderer.draft(Text("A text."))
    assert caught.value.message == f"{tiny_llama} has no end-of-text token"


MARKED_UP = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello there.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\nSo long.<|im_end|>\n"
)


def test_text_in_the_templates_markup_is_the_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Text(MARKED_UP))
    assert result.whole == MARKED_UP
    conversation = rendered(tokenizer, Conversation(TWO_TURNS))
    assert result.input_ids == conversation.input_ids
    assert list(result.sample.labels) == list(conversation.sample.labels)
    assert result.sample.answers == conversation.sample.answers
    assert rendered(tokenizer, Text(MARKED_UP), "everything").trained == MARKED_UP


def test_text_in_markup_that_breaks_off_is_trained_to_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello th"
    result = rendered(tokenizer, Text(text))
    assert result.trained == "Hello th"
    # It counts as an answer that ends there, so that a truncation leaves no stump of it.
    assert result.answers == ["Hello th"]
    cut, lost = result.sample.truncated(len(result.input_ids) - 1)
    assert (cut.trained_tokens, lost) == (0, 1)


def test_an_answer_in_text_whose_opening_swallows_its_white_space_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    model = with_template(tokenizer, None)
    model.chat_template = str(tokenizer.chat_template)
    model.add_tokens([AddedToken("assistant\n\n", special=False, normalized=False)])
    begun = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(model, Text(f"{begun}Hello<|im_end|>\n")).answers == ["Hello<|im_end|>"]
    with pytest.raises(RowError) as caught:
        drafts(model, Text(f"{begun}Hello<|im_end|>\n{begun}\nHello<|im_end|>\n"))
    assert str(caught.value) == "an answer begins with white space that tokenizes as one with what opens it"
    assert caught.value.fault == "chat template"


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_text_in_markup_may_end_in_a_prompt(tokenizer: PreTrainedTokenizerBase, ending: str) -> None:
    result = rendered(tokenizer, Text(f"{MARKED_UP}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant{ending}"))
    assert result.answers[:2] == ["Hello there.<|im_end|>", "So long.<|im_end|>"]


def test_text_in_markup_without_an_answer_trains_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    assert rendered(tokenizer, Text("<|im_start|>user\nHi<|im_end|>\n")).sample.trained_tokens == 0


def test_answers_in_text_are_not_to_be_found_without_a_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts_nothing = with_template(tokenizer, NO_PROMPT)
    assert rendered(prompts_nothing, Conversation((HI, HELLO))).trained == "Hello there.<|im_end|>"
    with pytest.raises(DataError) as caught:
        drafts(prompts_nothing, Text("Hi<|im_end|>Hello<|im_end|>"))
    assert caught.value.key == "dataset.train_on"
    assert rendered(prompts_nothing, Text("Hi<|im_end|>"), "everything").trained == "Hi<|im_end|>"


def test_reasoning_effort_reaches_a_template_that_states_it(tiny_gpt_oss: Path) -> None:
    """A gpt-oss template named as model.chat_template is rendered by it, and not by our own harmony renderer."""
    tokenizer = load_tokenizer(str(tiny_gpt_oss), None, str(tiny_gpt_oss / "chat_template.jinja"))
    conversation = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    renderer = TemplateRenderer(tokenizer, Encoder(tokenizer), "high", "2025-06-01", "completions")
    (draft,) = renderer.draft(conversation)
    assert draft.whole is not None and "Reasoning: high" in str(draft.whole[0].tokens)
    assert "Current date: 2025-06-01" in str(draft.whole[0].tokens)
    (draft,) = renderer.draft(replace(conversation, effort="low"))
    assert draft.whole is not None and "Reasoning: low" in str(draft.whole[0].tokens)


def test_a_template_that_states_a_date_needs_one(tiny_gpt_oss: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt_oss), None, None)
    conversation = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    with pytest.raises(DataError, match="states a date, and dataset") as caught:
        drafts(tokenizer, conversation)
    assert caught.value.key == "dataset.prompt_date"


# The templates that TRL ships, on the tiny vocabulary with the control tokens of each family.

FAMILIES = {
    "gemma": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    "llama": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    "phi": ("<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "qwen": (),
}
DATE = "2024-02-01"


def family(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer as a model of the built-in template's family has it: control tokens, beginning of text, and
    Phi's that swallow the white space after them."""
    changed = with_template(tokenizer, chat_template_text(name))
    kind = name.partition("-")[0]
    tokens = [AddedToken(token, special=True, normalized=False, rstrip=kind == "phi") for token in FAMILIES[kind]]
    changed.add_tokens(tokens, special_tokens=True)
    # Qwen 3's vocabulary has these as ordinary tokens.
    changed.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    if FAMILIES[kind]:
        changed.bos_token = FAMILIES[kind][0]
    if kind == "phi":
        changed.eos_token = "<|endoftext|>"
    check_control_tokens(changed, name)
    return changed


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llama-3", "<|eot_id|>"),
        ("llama-3.1", "<|eot_id|>"),
        ("llama-3.2", "<|eot_id|>"),
        ("qwen-2.5", "<|im_end|>"),
        ("qwen-3-instruct", "<|im_end|>"),
        ("gemma-3", "<end_of_turn>"),
        ("phi-3", "<|end|>"),
        ("phi-3.5", "<|end|>"),
    ],
)
def test_a_models_template_is_rendered_as_transformers_does(
    tokenizer: PreTrainedTokenizerBase, name: str, end: str
) -> None:
    model = family(tokenizer, name)
    result = rendered(model, Conversation(TWO_TURNS), date=DATE)
    assert result.input_ids == as_transformers(model, TWO_TURNS, date_string="01 Feb 2024")
    assert result.answers == [f"Hello there.{end}", f"So long.{end}"]
    assert result.trained == "".join(result.answers)
    assert list(result.sample.input_ids).count(model.bos_token_id) == (name.startswith(("llama", "gemma")))


def test_answers_that_change_when_another_follows_are_samples_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    """Qwen 3's template writes an empty thinking before the last answer, and none before earlier ones."""
    qwen = family(tokenizer, "qwen-3")
    first, second = samples_of(qwen, Conversation(TWO_TURNS))
    assert first.input_ids == as_transformers(qwen, TWO_TURNS[:3])
    assert second.input_ids == as_transformers(qwen, TWO_TURNS)
    assert first.answers == ["<think>\n\n</think>\n\nHello there.<|im_end|>"]
    assert second.answers == ["<think>\n\n</think>\n\nSo long.<|im_end|>"]


def test_an_ending_in_words_makes_every_answer_a_sample_of_its_own(tokenizer: PreTrainedTokenizerBase) -> None:
    ends = with_template(
        tokenizer, str(tokenizer.chat_template) + "{%- if not add_generation_prompt %}The end{% endif %}"
    )
    first, second = samples_of(ends, Conversation((HI, HELLO, BYE, SO_LONG)))
    assert first.whole.endswith("Hello there.<|im_end|>\nThe end")
    assert first.answers == ["Hello there.<|im_end|>"]
    assert second.answers == ["So long.<|im_end|>"]


@pytest.mark.parametrize("name", ["qwen-3", "qwen-3.6"])
def test_thinking_inside_the_content_is_found_where_the_template_puts_it(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    qwen = family(tokenizer, name)
    messages = (HI, Message("assistant", "<think>A greeting.</think>Hello"), BYE, SO_LONG)
    first, second = samples_of(qwen, Conversation(messages))
    assert first.answers[0].endswith("A greeting.\n</think>\n\nHello<|im_end|>")
    assert "A greeting." not in second.whole
    assert second.answers[0].endswith("So long.<|im_end|>")


def test_a_prompt_that_opens_the_thinking_is_left_out_where_there_is_none(tokenizer: PreTrainedTokenizerBase) -> None:
    qwen = family(tokenizer, "qwen-3.6")
    without = rendered(qwen, Conversation((HI, HELLO)))
    assert without.whole.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nHello there.<|im_end|>\n")
    assert without.answers == ["Hello there.<|im_end|>"]
    assert without.input_ids == as_transformers(qwen, (HI, HELLO))
    thinking = rendered(qwen, Conversation((HI, replace(HELLO, thinking="A greeting."))))
    assert thinking.answers == ["A greeting.\n</think>\n\nHello there.<|im_end|>"]
    text = rendered(qwen, Text("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"))
    assert text.answers == ["Hello<|im_end|>"]


def test_an_answer_that_begins_with_white_space_that_the_prompt_swallows(tokenizer: PreTrainedTokenizerBase) -> None:
    phi = family(tokenizer, "phi-3")
    messages = (HI, Message("assistant", " \n Hello"))
    result = rendered(phi, Conversation(messages))
    assert result.input_ids == as_transformers(phi, messages)
    assert result.answers == ["Hello<|end|>"]


def test_a_tokenizer_that_begins_every_text_itself_begins_it_once(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = family(tokenizer, "llama-3.1")
    bos = llama.bos_token
    llama.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, llama.bos_token_id)]
    )
    assert llama("Hi")["input_ids"][0] == llama.bos_token_id
    typed = (Message("system", f"{bos}Be brief."), HI, HELLO)
    for record in (Conversation(TWO_TURNS), Conversation(typed), Text("A text."), Text(f"{bos}A text.")):
        ids = rendered(llama, record, date=DATE).input_ids
        assert ids[0] == llama.bos_token_id
        assert ids.count(llama.bos_token_id) == 1


# Tools.

ADD = Tool(
    "add_numbers",
    "Adds two numbers.",
    {"type": "object", "properties": {"left": {"type": "number"}, "right": {"type": "number"}}, "required": ["left"]},
)
CALL = Message("assistant", tool_calls=(ToolCall("add_numbers", '{"left": 2, "right": 4.5}'),))
RESULT = Message("tool", '{"sum": 6.5}', name="add_numbers")
ASK, IT_IS = Message("user", "What is 2 + 4.5?"), Message("assistant", "It is 6.5.")
WITH_TOOLS = Conversation((ASK, CALL, RESULT, IT_IS), (ADD,))


def with_tools_as_transformers(tokenizer: PreTrainedTokenizerBase, **arguments: Any) -> list[int]:
    """The tokens of WITH_TOOLS by transformers alone."""
    function = {"name": "add_numbers", "arguments": {"left": 2, "right": 4.5}}
    messages = [
        {"role": "user", "content": ASK.content},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": "add_numbers", "content": RESULT.content},
        {"role": "assistant", "content": IT_IS.content},
    ]
    definition = {"name": ADD.name, "description": ADD.description, "parameters": ADD.parameters}
    tools = [{"type": "function", "function": definition}]
    return list(tokenizer.apply_chat_template(messages, tools, tokenize=True, return_dict=False, **arguments))


@pytest.mark.parametrize(
    ("name", "call", "end"),
    [
        ("llama-3.1", '{"name": "add_numbers", "parameters": {"left": 2, "right": 4.5}}', "<|eot_id|>"),
        ("llama-3.2", '{"name": "add_numbers", "parameters": {"left": 2, "right": 4.5}}', "<|eot_id|>"),
        (
            "qwen-2.5",
            '<tool_call>\n{"name": "add_numbers", "arguments": {"left": 2, "right": 4.5}}\n</tool_call>',
            "<|im_end|>",
        ),
    ],
)
def test_tools_are_rendered_as_transformers_does(
    tokenizer: PreTrainedTokenizerBase, name: str, call: str, end: str
) -> None:
    model = family(tokenizer, name)
    result = rendered(model, WITH_TOOLS, date=DATE)
    assert result.input_ids == with_tools_as_transformers(model, date_string="01 Feb 2024")
    assert result.answers == [f"{call}{end}", f"It is 6.5.{end}"]


@pytest.mark.parametrize(
    ("name", "conversation", "what"),
    [
        ("llama-3", replace(WITH_TOOLS, messages=(ASK, IT_IS)), "a tool definition"),
        ("llama-3", WITH_TOOLS, "a tool call"),
        ("phi-3", Conversation((ASK, CALL), ()), "a tool call"),
        ("llama-3.1", replace(WITH_TOOLS, messages=(ASK, replace(CALL, content="I add."))), "text of the assistant"),
        ("qwen-2.5", Conversation((ASK, replace(IT_IS, thinking="Easy."))), "thinking"),
        # What is left out is short enough to be found elsewhere by chance.
        ("phi-3", Conversation((Message("user", "f 1"), Message("assistant", "1", thinking="f"))), "thinking"),
        (
            "phi-3",
            Conversation((
                Message("user", "f 1 x"), Message("assistant", tool_calls=(ToolCall("f", '{"x": 1}'),)),
                Message("tool", "1", name="f"), Message("assistant", "1"),
            )),
            "a tool call",
        ),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(
    tokenizer: PreTrainedTokenizerBase, name: str, conversation: Conversation, what: str
) -> None:
    with pytest.raises(RowError) as caught:
        drafts(family(tokenizer, name), conversation, DATE)
    assert str(caught.value) == f"has {what}, which the model's chat template leaves out"
    assert caught.value.fault == "chat template"


LEAVES_OUT_RESULTS = """\
{%- for message in messages %}{%- if message.role != 'tool' %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if message.tool_calls %}{{- message.tool_calls | tojson }}{%- endif %}{{- '<|im_end|>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def test_a_tool_result_that_is_left_out_is_noticed_though_its_text_stands_elsewhere(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    conversation = Conversation((ASK, CALL, replace(RESULT, content="6.5"), IT_IS))
    with pytest.raises(RowError, match=r"^has a tool result, which"):
        drafts(with_template(tokenizer, LEAVES_OUT_RESULTS), conversation)


DROPS_INNER_THINKING = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1] + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def test_a_part_of_the_content_that_is_left_out_is_noticed(tokenizer: PreTrainedTokenizerBase) -> None:
    drops = with_template(tokenizer, DROPS_INNER_THINKING)
    thought = Message("assistant", "<think>A greeting.</think>Hello")
    with pytest.raises(RowError, match=r"^has text of the assistant, which"):
        drafts(drops, Conversation((HI, thought)))
    # As context it is what the model will be shown.
    result = rendered(drops, Conversation((HI, replace(thought, train=False), BYE, SO_LONG)))
    assert result.answers == ["So long.<|im_end|>"]
    assert "greeting" not in result.whole


def test_llama_takes_one_call_a_message(tokenizer: PreTrainedTokenizerBase) -> None:
    twice = replace(CALL, tool_calls=CALL.tool_calls * 2)
    with pytest.raises(RowError, match="This model only supports single tool-calls at once!"):
        drafts(family(tokenizer, "llama-3.1"), Conversation((ASK, twice)), DATE)


NAMES_CALLS = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + message.content }}
    {%- for call in message.tool_calls or [] %}{{- call.id + call.function | tojson }}{%- endfor %}
    {{- (message.tool_call_id or '') + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant' }}{%- endif %}
"""


def test_a_result_names_the_call_that_it_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    calls = (ToolCall("first", "{}"), ToolCall("second", "{}", "mine"), ToolCall("first", "{}"))
    results = tuple(
        Message("tool", text, name=name) for text, name in (("A", "second"), ("B", "first"), ("C", "first"))
    )
    messages = (ASK, Message("assistant", tool_calls=calls), *results, IT_IS)
    whole = rendered(with_template(tokenizer, NAMES_CALLS), Conversation(messages)).whole
    assert "toolAmine<|im_end|><|im_start|>toolBcall00001<|im_end|><|im_start|>toolCcall00002<|im_end|>" in whole


# Control tokens typed in content.


def test_a_typed_control_token_is_plain_text(tokenizer: PreTrainedTokenizerBase) -> None:
    question, answer = "What is <|im_end|>?\n<|im_start|>system", "<|im_end|> ends a turn, <|im_start|> begins one."
    result = rendered(tokenizer, Conversation((Message("user", question), Message("assistant", answer))))
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (result.input_ids.count(start), result.input_ids.count(end)) == (2, 2)
    assert result.whole == f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    assert result.answers == [f"{answer}<|im_end|>"]
    # Between two live tokens the text is tokenized as a whole.
    plain = tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert list(result.sample.labels[result.sample.answers[0][0] :][: len(plain)]) == plain


ESCAPES = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.content | tojson(ensure_ascii=True) }}
    {%- if message.tool_calls %}{{- message.tool_calls[0].function.arguments | tojson }}{%- endif %}{{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>' }}{%- endif %}
"""


def test_a_typed_control_token_survives_a_template_that_escapes(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(with_template(tokenizer, ESCAPES), Conversation((HI, Message("assistant", "é <|im_end|>"))))
    assert result.answers == ['"\\u00e9 <|im_end|>"<|im_end|>']
    assert result.input_ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_private_use_character_in_the_content_stays(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = "\ue000 \\ue001 <|im_end|> \ue002"
    assert rendered(tokenizer, Conversation((HI, Message("assistant", answer)))).answers == [f"{answer}<|im_end|>"]


TYPED = st.lists(
    st.sampled_from(
        [
            "<|im_end|>",
            "<|eot_id|>",
            "<|end|>",
            "<s>",
            "<|endoftext|>",
            "<|im_",
            "end|>",
            "<|",
            " ",
            "\n",
            "a",
            "é",
            '"',
        ]
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("name", ["llama-3.1", "qwen-2.5", "qwen-3", "gemma-3", "phi-3"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(TYPED, min_size=5, max_size=5), typed_in_tools=TYPED)
def test_typing_control_tokens_makes_none_live(
    tokenizer: PreTrainedTokenizerBase, name: str, words: list[str], typed_in_tools: str
) -> None:
    model = family(tokenizer, name)
    special = {token for token, added in model.added_tokens_decoder.items() if added.special}
    has_tools = name in ("llama-3.1", "qwen-2.5", "qwen-3")

    def counts(texts: list[str], argument: str) -> list[int]:
        system, *others = (f"x{text}x" for text in texts)
        messages = [Message("system", system)]
        for text in others[:2]:
            messages += [Message("user", text), Message("assistant", text)]
        tools = ()
        if has_tools:
            call = ToolCall("find", json.dumps({"query": argument, argument + "x": [argument]}))
            messages += [Message("user", others[2]), Message("assistant", tool_calls=(call,))]
            messages += [Message("tool", others[2], name="find"), Message("assistant", others[3])]
            tools = (Tool("find", f"Finds. {argument}", {"type": "object", "properties": {argument: {}}}),)
        samples = samples_of(model, Conversation(tuple(messages), tools), date=DATE)
        return [sum(token in special for token in sample.input_ids) for sample in samples]

    assert counts(words, typed_in_tools) == counts(["word"] * 5, "word")


# Tokenizers that put a space before what they are given.


def sentencepiece(kind: str) -> PreTrainedTokenizerBase:
    """A character-level tokenizer that marks the beginning of the text (Mistral's) or of every stretch (Llama 2's)."""
    characters = "▁\nabcdefghijklmnopqrstuvwxyzHBST.,[]/IN"
    vocabulary = {"<unk>": 0, **{character: at for at, character in enumerate(characters, start=1)}}
    for merge in ("▁h", "▁H", "▁T", "he"):
        vocabulary[merge] = len(vocabulary)
    merges = [("▁", "h"), ("▁", "H"), ("▁", "T"), ("h", "e")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    if kind == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", "[INST]", "[/INST]")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '[INST] ' + message.content + "
        "'[/INST]' }}{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
    )
    return tokenizer


@pytest.mark.parametrize("kind", ["first", "every"])
def test_a_tokenizer_that_adds_a_space_is_fed_as_transformers_does(kind: str) -> None:
    model = sentencepiece(kind)
    messages = (
        Message("user", "he hi"),
        Message("assistant", "he."),
        Message("user", "be"),
        Message("assistant", " hi"),
    )
    result = rendered(model, Conversation(messages))
    assert result.input_ids == as_transformers(model, messages)
    plain = list(model.convert_ids_to_tokens(result.sample.labels[result.sample.labels != IGNORED]))
    assert "".join(plain).count("</s>") == 2
    for position, (start, end) in zip((1, 3), result.sample.answers, strict=True):
        assert result.input_ids[:start] == as_transformers(model, messages[:position], add_generation_prompt=True)
        assert result.input_ids[:end] == as_transformers(model, messages[: position + 1])


@pytest.mark.parametrize("kind", ["first", "every"])
def test_a_typed_control_token_is_plain_text_to_a_tokenizer_that_adds_a_space(kind: str) -> None:
    model = sentencepiece(kind)
    result = rendered(model, Conversation((Message("user", "a</s>b"), Message("assistant", "he </s> said"))))
    tokens = model.convert_ids_to_tokens(result.input_ids)
    assert [tokens.count(token) for token in ("<s>", "</s>", "[INST]", "[/INST]")] == [1, 1, 1, 1]
    assert len(result.sample.answers) == 1


def test_a_prompt_that_grows_together_with_its_answer_is_refused() -> None:
    model = sentencepiece("first")
    model.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ ('a' if message.role == 'user' else 'h') + message.content }}"
        "{% endfor %}{% if add_generation_prompt %}h{% else %}{{ eos_token }}{% endif %}"
    )
    apart = rendered(model, Conversation((Message("user", "b"), Message("assistant", "i"))))
    assert model.convert_ids_to_tokens(apart.input_ids[slice(*apart.sample.answers[0])]) == ["i", "</s>"]
    with pytest.raises(RowError, match=r"^tokenizes differently as prompt and answer than as a whole$"):
        drafts(model, Conversation((Message("user", "b"), Message("assistant", "e"))))
