"""Rows → the tokenized data set: every row is either in it or counted as left out, and the counts are exact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection
from gptoss_ft.data.conversation import Conversation, Record, RowError
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.prepare import SAMPLES_PER_BATCH, TokenizedDataset, make_renderer, prepare
from gptoss_ft.data.rendering import IGNORED, Renderer, Sample
from gptoss_ft.data.sources import open_source
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, ExitCode

Rows = list[dict[str, Any]]
Write = Callable[[Rows], Path]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerBase) -> TemplateRenderer:
    return TemplateRenderer(tokenizer, None, "completions")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(rows: Rows) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def prepared(path: Path | str, renderer: Renderer, max_seq_length: int = 1024, **settings: Any) -> TokenizedDataset:
    config = DatasetSection(path=str(path), **settings)
    return prepare(config, open_source(config), renderer, max_seq_length)


def talk(question: str, answer: str, thinking: str | None = None) -> dict[str, Any]:
    messages: Rows = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [messages[0], {**messages[1], "thinking": thinking}]}


class OneTokenALetter:
    """The sample of a conversation is the letters of its last answer, of a text its letters; the token is the code."""

    def render(self, record: Record) -> list[Sample]:
        if not isinstance(record, Conversation):
            sample = Sample(is_plain=True)
            sample.add([ord(letter) for letter in record.text], True)
            return [sample]
        if record.messages[-1].content == "refused":
            raise RowError("is refused")
        sample = Sample()
        sample.add([1], False)
        sample.add([ord(letter) for letter in record.messages[-1].content], record.messages[0].content != "untrained")
        return [sample]


def test_samples_and_counts(write: Write) -> None:
    path = write(
        [talk("q", "abc"), talk("untrained", "xy"), talk("q", "too long"), talk("q", "de"), talk("q", "long2")]
    )
    data = prepared(path, OneTokenALetter(), max_seq_length=4)
    assert data.samples.to_list() == [
        {"input_ids": [1, 97, 98, 99], "labels": [IGNORED, 97, 98, 99]},
        {"input_ids": [1, 100, 101], "labels": [IGNORED, 100, 101]},
    ]
    tally = data.tally
    assert (tally.rows, tally.tokens, tally.trained_tokens, tally.texts) == (5, 7, 5, 0)
    assert tally.dropped == {"longer than 4 tokens": 2, "without a trained token": 1}
    assert tally.lengths == [4, 3, 9, 3, 6]
    assert tally.rows == data.samples.num_rows + tally.dropped.total()
    assert data.as_json() == {
        "source": str(path),
        "source_fingerprint": open_source(DatasetSection(path=str(path))).fingerprint,
        "samples": 2,
        "rows": 5,
        "dropped": {"longer than 4 tokens": 2, "without a trained token": 1},
        "tokens": 7,
        "trained_tokens": 5,
        "sha256": data.fingerprint,
    }


def test_a_sample_of_exactly_the_longest_length_is_kept(write: Write) -> None:
    data = prepared(write([talk("q", "abc")]), OneTokenALetter(), max_seq_length=4)
    assert (data.samples.num_rows, data.tally.dropped.total()) == (1, 0)


def test_the_columns_are_int32(write: Write, renderer: TemplateRenderer) -> None:
    samples = prepared(write([talk("Hi", "Hello")]), renderer).samples
    assert samples.column_names == ["input_ids", "labels"]
    for column in samples.data.schema:
        assert column.type == pa.list_(pa.int32())


def test_all_too_long_names_the_length_that_would_do(write: Write) -> None:
    path = write([talk("q", "a" * length) for length in (20, 30, 40)])
    with pytest.raises(DataError) as caught:
        prepared(path, OneTokenALetter(), max_seq_length=16)
    error = caught.value
    assert error.message == f"{path}: no sample is left to train on (3 longer than 16 tokens)"
    assert error.cure == "Raise model.max_seq_length: 41 keeps 99 % of the samples."
    assert error.exit_code == ExitCode.DATA
    assert prepared(path, OneTokenALetter(), max_seq_length=41).samples.num_rows == 3


def test_nothing_trained_does_not_blame_the_length(write: Write) -> None:
    path = write([talk("untrained", "a"), talk("untrained", "b")])
    with pytest.raises(DataError) as caught:
        prepared(path, OneTokenALetter())
    assert caught.value.message == f"{path}: no sample is left to train on (2 without a trained token)"
    assert "dataset.train_on: everything" in caught.value.cure
    assert "max_seq_length" not in caught.value.cure


def test_a_row_that_cannot_be_adapted_is_named(write: Write, renderer: TemplateRenderer) -> None:
    path = write([talk("Hi", "Hello"), talk("Hi", "Hello"), {"messages": [{"role": "user", "content": "Hi"}]}])
    with pytest.raises(DataError) as caught:
        prepared(path, renderer)
    error = caught.value
    assert error.message == f"{path}, row 2: ends with a user message: there is no answer to learn"
    assert error.cure == "Mend or remove the row (rows count from 0)."
    assert (error.key, error.exit_code) == ("dataset.path", ExitCode.DATA)


def test_a_row_that_cannot_be_rendered_is_named(write: Write) -> None:
    path = write([talk("q", "refused")])
    with pytest.raises(DataError) as caught:
        prepared(path, OneTokenALetter(), max_samples=1)
    assert caught.value.message == f"{path}, the first 1, row 0: is refused"


def test_a_row_with_half_a_surrogate_pair_is_named(write: Write, renderer: TemplateRenderer) -> None:
    path = write([talk("Hi", "Hello"), talk("Hi", "\ud83d")])
    with pytest.raises(DataError) as caught:
        prepared(path, renderer)
    assert caught.value.message == f"{path}, row 1: holds a character that is not valid Unicode"


def test_the_row_that_stops_the_reading_is_not_counted_as_another(write: Write, renderer: TemplateRenderer) -> None:
    path = write([talk("Hi", "Hello")])
    path.write_text(path.read_text(encoding="utf-8") + "nope\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepared(path, renderer)
    assert caught.value.message == f"{path}:2:1: not JSON: Expecting value"


def test_the_fingerprint_is_of_tokens_and_labels(
    write: Write, tokenizer: PreTrainedTokenizerBase, renderer: TemplateRenderer
) -> None:
    rows = [talk("Hi", "Hello"), talk("Bye", "So long")]
    first, again = prepared(write(rows), renderer), prepared(write(rows), renderer)
    assert first.fingerprint == again.fingerprint
    assert first.samples.to_list() == again.samples.to_list()
    assert prepared(write(rows[::-1]), renderer).fingerprint != first.fingerprint
    everything = prepared(write(rows), TemplateRenderer(tokenizer, None, "everything"))
    assert everything.samples["input_ids"] == first.samples["input_ids"]
    assert everything.fingerprint != first.fingerprint
    unread = prepared(write([{**row, "id": number} for number, row in enumerate(rows)]), renderer)
    assert unread.fingerprint == first.fingerprint
    assert unread.source.fingerprint != first.source.fingerprint


def test_the_fingerprint_and_order_are_the_same_over_batches(write: Write) -> None:
    rows = [talk("q", f"{number}") for number in range(SAMPLES_PER_BATCH + 2)]
    data = prepared(write(rows), OneTokenALetter())
    answers = ["".join(map(chr, ids[1:])) for ids in data.samples["input_ids"]]
    assert answers == [f"{number}" for number in range(SAMPLES_PER_BATCH + 2)]
    assert data.fingerprint == prepared(write(rows), OneTokenALetter()).fingerprint


def test_plain_texts_are_counted(write: Write, renderer: TemplateRenderer) -> None:
    markup = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    data = prepared(write([{"text": "One."}, {"text": markup}, {"text": "Two."}]), renderer, format="custom")
    assert (data.tally.texts, data.samples.num_rows) == (2, 3)


@pytest.mark.parametrize(
    ("name", "data_format"),
    [("tiny/multilingual-thinking", "sharegpt"), ("tiny/finetome", "sharegpt"), ("tiny/text", "custom")],
)
@pytest.mark.parametrize("max_seq_length", [1024, 120])
def test_every_embedded_row_is_kept_or_dropped(
    tiny_gpt_oss: Path, name: str, data_format: str, max_seq_length: int
) -> None:
    renderer = HarmonyRenderer(load_tokenizer(str(tiny_gpt_oss), None, None), "low", None, "completions")
    data = prepared(name, renderer, max_seq_length, format=data_format)
    kept, tally = data.samples.to_list(), data.tally
    # One answer with thinking a row, or none: every row is one sample.
    assert tally.rows == 144 == len(kept) + tally.dropped.total() == len(tally.lengths)
    assert tally.dropped.total() == sum(length > max_seq_length for length in tally.lengths)
    assert tally.tokens == sum(len(sample["input_ids"]) for sample in kept)
    assert tally.trained_tokens == sum(label != IGNORED for sample in kept for label in sample["labels"])
    assert tally.texts == (144 if name == "tiny/text" else 0)
    assert max(len(sample["input_ids"]) for sample in kept) <= max_seq_length


def test_a_conversation_with_thinking_is_as_many_samples_as_answers(write: Write, tiny_gpt_oss: Path) -> None:
    first, second = talk("1", "a", "Hm")["messages"], talk("2", "b", "Hmm")["messages"]
    renderer = HarmonyRenderer(load_tokenizer(str(tiny_gpt_oss), None, None), "low", None, "completions")
    data = prepared(write([{"messages": first + second}]), renderer)
    assert (data.tally.rows, data.samples.num_rows) == (1, 2)


def test_the_renderer_is_the_models_own(tiny_gpt_oss: Path, tiny_llama: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}", encoding="utf-8")
    job = JobConfig(dataset=DatasetSection(reasoning_effort="high", prompt_date="2024-02-29", train_on="everything"))
    with_template = JobConfig(model=ModelSection(chat_template=str(template)))

    harmony = make_renderer(load_tokenizer(str(tiny_gpt_oss), None, None), job)
    assert isinstance(harmony, HarmonyRenderer)
    assert (harmony.effort, harmony.date, harmony.train_on) == ("high", "2024-02-29", "everything")
    llama = make_renderer(load_tokenizer(str(tiny_llama), None, None), job)
    assert isinstance(llama, TemplateRenderer)
    assert (llama.date, llama.train_on) == ("2024-02-29", "everything")
    assert isinstance(
        make_renderer(load_tokenizer(str(tiny_gpt_oss), None, str(template)), with_template), TemplateRenderer
    )
