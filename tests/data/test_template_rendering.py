"""Tokens against transformers' own `apply_chat_template(tokenize=True)`, and labels against what the template says.

The tiny llama's template is ChatML; other templates stand in this file, each with what is peculiar to its kind.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import FORMATS
from gptoss_ft.data.conversation import Conversation, Message, RowError, Text
from gptoss_ft.data.rendering import IGNORED, Sample, TrainOn
from gptoss_ft.data.sources import open_source
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError

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
    """A sample, and its two readings: everything, and the trained tokens alone, as text."""

    sample: Sample
    whole: str
    trained: str


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    record: Conversation | Text,
    train_on: TrainOn = "completions",
    date: str | None = None,
) -> Rendered:
    (sample,) = TemplateRenderer(tokenizer, date, train_on).render(record)
    assert len(sample.labels) == len(sample.input_ids)
    assert all(label in (IGNORED, token) for label, token in zip(sample.labels, sample.input_ids, strict=True))
    trained = [label for label in sample.labels if label != IGNORED]
    return Rendered(sample, tokenizer.decode(sample.input_ids), tokenizer.decode(trained))


def with_template(tokenizer: PreTrainedTokenizerBase, template: str | None, **settings: Any) -> PreTrainedTokenizerBase:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    for name, value in settings.items():
        setattr(changed, name, value)
    return changed


def as_transformers(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], **settings: Any) -> list[int]:
    """The tokens of `messages` by transformers alone."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return list(tokenizer.apply_chat_template(plain, tokenize=True, return_dict=False, **settings))


def test_one_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation((HI, HELLO)))
    assert result.whole == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>\n"
    assert result.trained == "Hello there.<|im_end|>"
    assert result.sample.input_ids == as_transformers(tokenizer, (HI, HELLO))


def test_every_answer_is_trained_once_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation(TWO_TURNS))
    assert result.sample.input_ids == as_transformers(tokenizer, TWO_TURNS)
    assert result.trained == "Hello there.<|im_end|>So long.<|im_end|>"
    assert not result.sample.is_plain


def test_what_is_trained_is_what_follows_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = rendered(tokenizer, Conversation(TWO_TURNS)).sample
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = [IGNORED] * len(sample.input_ids)
    for position in (2, 4):
        prompt = as_transformers(tokenizer, TWO_TURNS[:position], add_generation_prompt=True)
        assert sample.input_ids[: len(prompt)] == prompt
        end = sample.input_ids.index(end_of_turn, len(prompt)) + 1
        expected[len(prompt) : end] = sample.input_ids[len(prompt) : end]
    assert sample.labels == expected


def test_the_embedded_conversations_equal_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    config = DatasetSection(path="tiny/finetome")
    source, format_ = open_source(config), FORMATS["sharegpt"]
    conversations = [format_.adapt(row, ("conversations",)) for row in source.rows()]
    assert len(conversations) == 144
    for conversation in conversations:
        assert isinstance(conversation, Conversation)
        result = rendered(tokenizer, conversation)
        assert result.sample.input_ids == as_transformers(tokenizer, conversation.messages)
        answers = [message.content for message in conversation.messages if message.role == "assistant"]
        assert result.trained == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_everything_trains_every_token(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = rendered(tokenizer, Conversation(TWO_TURNS), "everything").sample
    assert sample.labels == sample.input_ids == as_transformers(tokenizer, TWO_TURNS)


def test_a_developer_is_a_system_message_to_a_template(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Conversation((Message("developer", "Be brief."), HI, HELLO)))
    assert result.sample.input_ids == as_transformers(tokenizer, (SYSTEM, HI, HELLO))


def test_the_beginning_of_text_is_there_once(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = with_template(tokenizer, LLAMA_3, bos_token="<|endoftext|>")
    result = rendered(llama, Conversation((HI, HELLO)), date="2024-02-01")
    bos = llama.bos_token_id
    assert result.sample.input_ids.count(bos) == 1
    assert result.sample.input_ids[0] == bos
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
    assert result.sample.input_ids == as_transformers(llama, messages, date_string="01 Feb 2024")


def test_thinking_that_the_template_leaves_out_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    thought = Conversation((HI, Message("assistant", "Hello", thinking="A greeting.")))
    with pytest.raises(RowError, match=r"^has thinking, which the model's chat template leaves out$"):
        TemplateRenderer(tokenizer, None, "completions").render(thought)


def test_thinking_that_the_template_writes_is_trained(tokenizer: PreTrainedTokenizerBase) -> None:
    thinks = with_template(tokenizer, THINKS)
    messages = (HI, Message("assistant", "Hello.", "One."), BYE, Message("assistant", "So long.", "\n Two.\n"))
    first, second = TemplateRenderer(thinks, None, "completions").render(Conversation(messages))
    texts = [tokenizer.decode([label for label in sample.labels if label != IGNORED]) for sample in (first, second)]
    assert texts == [
        "<think>\nOne.\n</think>\n\nHello.<|im_end|>",
        "<think>\nTwo.\n</think>\n\nSo long.<|im_end|>",
    ]
    # The earlier answer's thinking is gone from the later one's context, as when the model is used.
    assert tokenizer.decode(second.input_ids).startswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )


def test_what_the_template_refuses_is_the_rows_fault(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = TemplateRenderer(with_template(tokenizer, REFUSES_SYSTEM), None, "completions")
    assert len(renderer.render(Conversation((HI, HELLO)))) == 1
    with pytest.raises(RowError, match=r"^the model's chat template refuses it: System role not supported$"):
        renderer.render(Conversation((SYSTEM, HI, HELLO)))


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
    renderer = TemplateRenderer(with_template(tokenizer, template), None, "completions")
    with pytest.raises(RowError) as caught:
        renderer.render(Conversation((HI, HELLO)))
    assert str(caught.value) == f"the model's chat template refuses it: {reason}"


def test_a_template_that_is_no_jinja_is_not_the_rows_fault(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = TemplateRenderer(with_template(tokenizer, "{{ messages }}\n{% if %}"), None, "completions")
    with pytest.raises(DataError) as caught:
        renderer.render(Conversation((HI, HELLO)))
    assert caught.value.message == (
        "the chat template is not valid Jinja, line 2: Expected an expression, got 'end of statement block'"
    )
    assert caught.value.key == "model.chat_template"


def test_a_template_whose_prompt_is_not_the_beginning_of_the_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = TemplateRenderer(with_template(tokenizer, LAST_FIRST), None, "completions")
    with pytest.raises(RowError) as caught:
        renderer.render(Conversation((HI, HELLO)))
    assert str(caught.value) == (
        "the model's chat template renders the conversation's beginning differently without its end"
    )


def test_without_a_template_there_are_no_conversations(tokenizer: PreTrainedTokenizerBase, tiny_llama: Path) -> None:
    renderer = TemplateRenderer(with_template(tokenizer, None), None, "completions")
    with pytest.raises(DataError) as caught:
        renderer.render(Conversation((HI, HELLO)))
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
    result = rendered(with_template(tokenizer, LLAMA_3, bos_token="<|endoftext|>"), Text("A text."))
    assert result.whole == "<|endoftext|>A text.<|im_end|>"
    assert result.trained == "A text.<|im_end|>"


def test_plain_text_needs_an_end_of_text(tokenizer: PreTrainedTokenizerBase, tiny_llama: Path) -> None:
    renderer = TemplateRenderer(with_template(tokenizer, None, eos_token=None), None, "completions")
    with pytest.raises(DataError) as caught:
        renderer.render(Text("A text."))
    assert caught.value.message == f"{tiny_llama} has no end-of-text token"


MARKED_UP = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello there.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\nSo long.<|im_end|>\n"
)


def test_text_in_the_templates_markup_is_the_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    result = rendered(tokenizer, Text(MARKED_UP))
    assert result.whole == MARKED_UP
    assert result.sample == rendered(tokenizer, Conversation(TWO_TURNS)).sample
    assert rendered(tokenizer, Text(MARKED_UP), "everything").trained == MARKED_UP


def test_text_in_markup_that_breaks_off_is_trained_to_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello th"
    assert rendered(tokenizer, Text(text)).trained == "Hello th"


def test_text_in_markup_without_an_answer_trains_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    assert rendered(tokenizer, Text("<|im_start|>user\nHi<|im_end|>\n")).sample.trained_tokens == 0


def test_answers_in_text_are_not_to_be_found_without_a_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts_nothing = with_template(tokenizer, NO_PROMPT)
    assert rendered(prompts_nothing, Conversation((HI, HELLO))).trained == "Hello there.<|im_end|>"
    with pytest.raises(DataError) as caught:
        TemplateRenderer(prompts_nothing, None, "completions").render(Text("Hi<|im_end|>Hello<|im_end|>"))
    assert caught.value.key == "dataset.train_on"
    assert rendered(prompts_nothing, Text("Hi<|im_end|>"), "everything").trained == "Hi<|im_end|>"


def test_reasoning_effort_reaches_a_template_that_states_it(tiny_gpt_oss: Path) -> None:
    """A gpt-oss template named as model.chat_template is rendered by it, and not by our own harmony renderer."""
    tokenizer = load_tokenizer(str(tiny_gpt_oss), None, str(tiny_gpt_oss / "chat_template.jinja"))
    conversation = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    (sample,) = TemplateRenderer(tokenizer, "2025-06-01", "completions", "high").render(conversation)
    text = tokenizer.decode(sample.input_ids)
    assert "Reasoning: high" in text
    assert "Current date: 2025-06-01" in text


def test_a_template_that_states_a_date_needs_one(tiny_gpt_oss: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt_oss), None, None)
    conversation = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    with pytest.raises(DataError, match="states a date, and dataset") as caught:
        TemplateRenderer(tokenizer, None, "completions").render(conversation)
    assert caught.value.key == "dataset.prompt_date"
