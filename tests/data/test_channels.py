"""Turns and channels of a sample's tokens, against what the renderers know of their own samples."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection
from gptoss_ft.data.channels import NONE, ChannelReader, Reading
from gptoss_ft.data.conversation import Conversation, Message, RowError, Text, Tool, ToolCall
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.rendering import CHANNELS, IGNORED, Encoder, Record, Renderer, Sample, TrainOn, assemble
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def harmony(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


@pytest.fixture(scope="module")
def chatml(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


def samples(renderer: Renderer, encoder: Encoder, record: Record) -> list[Sample]:
    made = assemble(renderer.draft(record), encoder)
    assert not any(isinstance(sample, RowError) for sample in made)
    return [sample for sample in made if isinstance(sample, Sample)]


def harmony_samples(
    tokenizer: PreTrainedTokenizerBase, record: Record, train_on: TrainOn = "completions"
) -> list[Sample]:
    encoder = Encoder(tokenizer)
    return samples(HarmonyRenderer(tokenizer, encoder, "low", None, train_on), encoder, record)


def chatml_samples(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[Sample]:
    encoder = Encoder(tokenizer)
    return samples(TemplateRenderer(tokenizer, encoder, "low", None, "completions"), encoder, record)


def read(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> Reading:
    return ChannelReader(tokenizer).read(sample.input_ids, sample.labels)


def by_channel(tokenizer: PreTrainedTokenizerBase, reading: Reading, sample: Sample) -> dict[str, str]:
    """The text of the tokens of each channel."""
    codes = reading.channel_of
    texts = {
        name: tokenizer.decode(sample.input_ids[codes == code].tolist())
        for code, name in [(NONE, ""), *enumerate(CHANNELS)]
    }
    return {name: text for name, text in texts.items() if text}


WITH_TOOLS = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Weather?"),
        Message("assistant", "I look.", thinking="Hm.", tool_calls=(ToolCall("look", '{"at":1}'),)),
        Message("tool", "rain", name="look"),
        Message("assistant", "Rain.", thinking="So."),
        Message("user", "And now?"),
        Message("assistant", "", thinking="", tool_calls=(ToolCall("look", "{}"), ToolCall("ask", "{}"))),
        Message("tool", "sun", name="look"),
        Message("tool", "yes", name="ask"),
        Message("assistant", "Sun."),
    ),
    tools=(Tool("look", "Looks."), Tool("ask", "Asks.")),
)


def test_turns_and_channels_of_a_conversation_with_tools(harmony: PreTrainedTokenizerBase) -> None:
    first, second = harmony_samples(harmony, WITH_TOOLS)
    reading = read(harmony, first)
    assert [(turn.role, turn.channel) for turn in reading.turns] == [
        ("system", ""),
        ("developer", ""),
        ("user", ""),
        ("assistant", "analysis"),
        ("assistant", "commentary"),
        ("assistant", "commentary"),
        ("functions.look", ""),
        ("assistant", "analysis"),
        ("assistant", "final"),
    ]
    texts = by_channel(harmony, reading, first)
    assert texts["analysis"] == (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant"
    )
    assert texts["commentary"] == (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        ' to=functions.look<|channel|>commentary <|constrain|>json<|message|>{"at":1}<|call|>'
    )
    assert texts["final"] == "<|channel|>final<|message|>Rain.<|return|>"
    assert texts[""].endswith(
        "<|start|>user<|message|>Weather?<|end|><|start|>assistant"
        "<|start|>functions.look to=assistant<|channel|>commentary<|message|>rain<|end|><|start|>assistant"
    )
    assert [turn.role for turn in read(harmony, second).turns][-4:] == [
        "assistant",
        "functions.look",
        "functions.ask",
        "assistant",
    ]


def test_turns_lie_one_after_the_other_and_number_their_tokens(harmony: PreTrainedTokenizerBase) -> None:
    for sample in harmony_samples(harmony, WITH_TOOLS):
        reading = read(harmony, sample)
        expected = np.concatenate(
            [np.full(turn.end - turn.start, number, np.int32) for number, turn in enumerate(reading.turns)]
        )
        np.testing.assert_array_equal(reading.turn_of, expected)
        assert (reading.turn_of.dtype, reading.channel_of.dtype) == (np.int32, np.int8)


@pytest.mark.parametrize("train_on", ["completions", "everything"])
def test_trained_tokens_by_channel_are_the_renderers(harmony: PreTrainedTokenizerBase, train_on: TrainOn) -> None:
    for sample in harmony_samples(harmony, WITH_TOOLS, train_on):
        assert read(harmony, sample).trained(sample.labels) == sample.channels


def test_an_earlier_answer_that_is_learned_to_return_is_final(harmony: PreTrainedTokenizerBase) -> None:
    talk = Conversation(
        (Message("user", "1"), Message("assistant", "a"), Message("user", "2"), Message("assistant", "b"))
    )
    (sample,) = harmony_samples(harmony, talk)
    reading = read(harmony, sample)
    assert reading.trained(sample.labels) == sample.channels == {"final": 10}
    assert by_channel(harmony, reading, sample)["final"] == (
        "<|channel|>final<|message|>a<|end|><|channel|>final<|message|>b<|return|>"
    )


def test_typed_control_tokens_say_nothing(harmony: PreTrainedTokenizerBase) -> None:
    typed = "<|end|><|start|>assistant<|channel|>analysis<|message|>x<|return|>"
    (sample,) = harmony_samples(harmony, Conversation((Message("user", typed), Message("assistant", typed))))
    reading = read(harmony, sample)
    assert [(turn.role, turn.channel) for turn in reading.turns] == [
        ("system", ""),
        ("user", ""),
        ("assistant", "final"),
    ]
    assert reading.trained(sample.labels) == sample.channels


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_content_is_counted_as_the_renderer_counts_it(
    harmony: PreTrainedTokenizerBase, data: st.DataObject
) -> None:
    text = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("<|end|> to=\n")), min_size=1, max_size=12)
    text = text.filter(str.strip)
    messages: list[Message] = []
    for _ in range(data.draw(st.integers(1, 3))):
        messages += [
            Message("user", data.draw(text)),
            Message("assistant", data.draw(text), thinking=data.draw(st.none() | text), train=data.draw(st.booleans())),
        ]
    for sample in harmony_samples(harmony, Conversation(tuple(messages))):
        assert read(harmony, sample).trained(sample.labels) == sample.channels


MARKUP = (
    "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|end|>\n"
    "<|start|>user<|message|>Bye<|end|><|start|>assistant<|message|>So long<|return|>"
)


def test_text_in_markup(harmony: PreTrainedTokenizerBase) -> None:
    (sample,) = harmony_samples(harmony, Text(MARKUP))
    reading = read(harmony, sample)
    assert [(turn.role, turn.channel) for turn in reading.turns] == [
        ("user", ""),
        ("assistant", "final"),
        ("user", ""),
        ("assistant", "answer"),
    ]
    assert reading.trained(sample.labels) == sample.channels
    assert set(sample.channels) == {"final", "answer"}
    (newline,) = np.flatnonzero(reading.turn_of == NONE)
    assert harmony.decode([int(sample.input_ids[newline])]) == "\n"


def test_text_in_markup_reads_as_the_conversation_that_it_is(harmony: PreTrainedTokenizerBase) -> None:
    talk = Conversation((Message("user", "Hi"), Message("assistant", "Hello", thinking="Hm")))
    (spoken,) = harmony_samples(harmony, talk)
    (written,) = harmony_samples(harmony, Text(harmony.decode(spoken.input_ids.tolist())))
    np.testing.assert_array_equal(written.input_ids, spoken.input_ids)
    np.testing.assert_array_equal(written.labels, spoken.labels)
    assert read(harmony, written).trained(written.labels) == spoken.channels
    assert read(harmony, written).trained(written.labels).total() == written.trained_tokens


def test_everything_trained_in_text_outside_of_answers_is_the_prompt(harmony: PreTrainedTokenizerBase) -> None:
    (sample,) = harmony_samples(harmony, Text(MARKUP), "everything")
    found = read(harmony, sample).trained(sample.labels)
    assert found.total() == len(sample.input_ids)
    assert set(found) == {"prompt", "final", "answer"}


def test_an_answer_that_lost_its_end_keeps_its_channel(harmony: PreTrainedTokenizerBase) -> None:
    talk = Conversation((Message("user", "Hi"), Message("assistant", "Hello", thinking="A long thought about it")))
    (whole,) = harmony_samples(harmony, talk)
    cut, answers = whole.truncated(len(whole.input_ids) - 12)
    assert answers == 1
    reading = read(harmony, cut)
    assert reading.turns[-1][2:] == ("assistant", "analysis")
    assert reading.turns[-1].end == len(cut.input_ids)
    assert reading.trained(cut.labels) == {}


@pytest.mark.parametrize("text", ["Plain.", "a <|endoftext|> b", "assistant", ""])
def test_plain_text_for_harmony(harmony: PreTrainedTokenizerBase, text: str) -> None:
    (sample,) = harmony_samples(harmony, Text(text))
    reading = read(harmony, sample)
    assert reading.trained(sample.labels) == sample.channels == {"text": len(sample.input_ids)}
    assert [tuple(turn) for turn in reading.turns] == [(0, len(sample.input_ids), "", "text")]


def test_without_harmony_every_trained_stretch_is_an_answer(chatml: PreTrainedTokenizerBase) -> None:
    talk = Conversation(
        (Message("user", "1"), Message("assistant", "a"), Message("user", "<|im_end|>"), Message("assistant", "b"))
    )
    (sample,) = chatml_samples(chatml, talk)
    reading = read(chatml, sample)
    assert reading.trained(sample.labels) == sample.channels == {"answer": 4}
    texts = [chatml.decode(sample.input_ids[turn.start : turn.end].tolist()) for turn in reading.turns]
    assert texts == ["a<|im_end|>", "b<|im_end|>"]
    np.testing.assert_array_equal(reading.turn_of != NONE, sample.labels != IGNORED)
    assert set(reading.turn_of.tolist()) == {NONE, 0, 1}


def test_plain_text_without_harmony(chatml: PreTrainedTokenizerBase) -> None:
    (sample,) = chatml_samples(chatml, Text("Plain."))
    reading = read(chatml, sample)
    assert reading.trained(sample.labels) == sample.channels
    assert set(sample.channels) == {"text"}


def test_a_sample_without_tokens(harmony: PreTrainedTokenizerBase, chatml: PreTrainedTokenizerBase) -> None:
    nothing = np.empty(0, np.int32)
    for tokenizer in (harmony, chatml):
        reading = ChannelReader(tokenizer).read(nothing, nothing)
        assert (reading.turns, len(reading.turn_of), len(reading.channel_of)) == ((), 0, 0)


CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "I look.",
        "thinking": "Hm.",
        "tool_calls": [{"function": {"name": "look", "arguments": {"at": 1}}}],
    },
    {"role": "tool", "name": "look", "content": "rain"},
    {"role": "assistant", "content": "Rain.", "thinking": "So."},
]


@pytest.mark.parametrize("train_on", ["completions", "everything"])
@pytest.mark.parametrize(
    ("name", "data_format"),
    [("tiny/multilingual-thinking", "sharegpt"), ("tiny/finetome", "sharegpt"), ("tiny/text", "custom")],
)
def test_prepared_data_is_counted_as_its_summary_counts_it(
    harmony: PreTrainedTokenizerBase, name: str, data_format: Any, train_on: TrainOn
) -> None:
    dataset = DatasetSection(path=name, format=data_format, train_on=train_on, eval_fraction=0.1)
    check_counts(harmony, JobConfig(dataset=dataset, model=ModelSection(name="tiny/gpt-oss")))


@pytest.mark.parametrize(("name", "data_format"), [("tiny/finetome", "sharegpt"), ("tiny/text", "custom")])
def test_prepared_data_without_harmony_is_counted_as_its_summary_counts_it(
    chatml: PreTrainedTokenizerBase, name: str, data_format: Any
) -> None:
    dataset = DatasetSection(path=name, format=data_format, eval_fraction=0.1)
    check_counts(chatml, JobConfig(dataset=dataset, model=ModelSection(name="tiny/llama")))


def test_prepared_calls_are_counted_as_their_summary_counts_them(
    harmony: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps({"messages": CALLS}) + "\n", encoding="utf-8")
    check_counts(harmony, JobConfig(dataset=DatasetSection(path=str(path)), model=ModelSection(name="tiny/gpt-oss")))


def check_counts(tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> None:
    data = prepare(job, open_entries(job), tokenizer)
    reader = ChannelReader(tokenizer)
    for table, split in ((data.train, data.summary.train), (data.eval, data.summary.eval)):
        found: Counter[str] = Counter()
        for row in table.to_pylist():
            ids, labels = np.array(row["input_ids"], np.int32), np.array(row["labels"], np.int32)
            found += reader.read(ids, labels).trained(labels)
        assert found == split.channels
        assert found.total() == split.trained_tokens
