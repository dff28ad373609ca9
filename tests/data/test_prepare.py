"""Rows → prepared samples: every row is either kept or counted as left out, and the second time nothing is rendered."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection, TrainingSection
from gptoss_ft.data import prepare as prepare_module
from gptoss_ft.data.adapters import Adapter
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.intake import Intake
from gptoss_ft.data.prepare import make_renderer, prepare, tokenizer_fingerprint
from gptoss_ft.data.rendering import IGNORED, Draft, Encoder, Part, Sample, assemble
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, ExitCode, SettingError

Rows = list[dict[str, Any]]
Write = Callable[..., str]
Origin = tuple[int, int, int]

NO_ANSWER = "ends with a user message: there is no answer to learn"
# Rows 0 to 19 of one data set, of which a quarter is evaluated on, by seed: the same everywhere and always.
EVALUATED_OF_20 = {3407: [4, 12, 13, 17, 18], 1: [1, 3, 10, 17, 19]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def chatml(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


@pytest.fixture(scope="module")
def harmony(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(rows: Rows, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


def talks(count: int, first: int = 0) -> Rows:
    return [talk(f"Question {number}?", f"Answer {number}.") for number in range(first, first + count)]


BAD = {"messages": [{"role": "user", "content": "Hi"}]}


def job_of(
    *entries: dict[str, Any], max_seq_length: int = 1024, template: str | None = None, **training: Any
) -> JobConfig:
    sections = [DatasetSection(**entry) for entry in entries]
    return JobConfig(
        model=ModelSection(max_seq_length=max_seq_length, chat_template=template),
        dataset=sections if len(sections) > 1 else sections[0],
        training=TrainingSection(**training),
    )


def prepared(tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> PreparedData:
    data = prepare(job, open_entries(job), tokenizer)
    check(data)
    return data


def failed(tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> DataError:
    with pytest.raises(DataError) as caught:
        prepare(job, open_entries(job), tokenizer)
    assert caught.value.exit_code == ExitCode.DATA
    return caught.value


def origins(table: Any) -> list[Origin]:
    columns = (table[name].to_pylist() for name in ("source", "source_row", "sample_index"))
    return list(zip(*columns, strict=True))


def rows_of(table: Any, source: int = 0) -> list[int]:
    """The distinct rows of one entry, ascending."""
    return sorted({row for index, row, _ in origins(table) if index == source})


def check(data: PreparedData) -> None:
    """What must hold of any prepared data."""
    trained, evaluated = origins(data.train), origins(data.eval)
    assert len(set(trained + evaluated)) == len(trained) + len(evaluated)
    assert not {origin[:2] for origin in trained} & {origin[:2] for origin in evaluated}
    for index, counts in enumerate(data.summary.sources):
        kept = {row for source, row, _ in trained + evaluated if source == index}
        assert counts.kept == len(kept)
        assert counts.rows == counts.kept + counts.dropped.total()
        assert all(0 <= row < counts.rows for row in kept)
        assert counts.dropped.keys() == counts.examples.keys()
    for table, split in ((data.train, data.summary.train), (data.eval, data.summary.eval)):
        ids, labels = table["input_ids"].to_pylist(), table["labels"].to_pylist()
        assert origins(table) == sorted(origins(table))
        assert (split.samples, split.tokens) == (len(ids), sum(map(len, ids)))
        assert split.rows == len({origin[:2] for origin in origins(table)})
        assert split.trained_tokens == sum(label != IGNORED for each in labels for label in each)
        assert split.channels.total() == split.trained_tokens
        # Texts state no effort.
        assert split.efforts.total() <= split.lengths.total() == split.samples
        assert [len(each) for each in ids] == [len(each) for each in labels]
        assert all(any(label != IGNORED for label in each) for each in labels)
        assert max(map(len, ids), default=0) <= data.summary.max_seq_length


def texts(tokenizer: PreTrainedTokenizerBase, table: Any) -> list[str]:
    return [str(tokenizer.decode(ids)) for ids in table["input_ids"].to_pylist()]


def answers(tokenizer: PreTrainedTokenizerBase, table: Any) -> list[str]:
    return [
        str(tokenizer.decode([label for label in labels if label != IGNORED])) for labels in table["labels"].to_pylist()
    ]


# Samples and where they come from.


def test_samples_with_their_origin(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    data = prepared(chatml, job_of({"path": write(talks(2))}))
    assert data.train.column_names == ["input_ids", "labels", "source", "source_row", "sample_index"]
    assert [str(data.train.schema.field(name).type) for name in data.train.column_names] == [
        "list<item: int32>", "list<item: int32>", "int32", "int64", "int32",
    ]  # fmt: skip
    assert texts(chatml, data.train) == [
        f"<|im_start|>user\nQuestion {at}?<|im_end|>\n<|im_start|>assistant\nAnswer {at}.<|im_end|>\n" for at in (0, 1)
    ]
    assert answers(chatml, data.train) == ["Answer 0.<|im_end|>", "Answer 1.<|im_end|>"]
    assert origins(data.train) == [(0, 0, 0), (0, 1, 0)]
    assert (data.eval.num_rows, data.eval.schema) == (0, data.train.schema)


def test_thinking_makes_a_sample_of_each_answer(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    first, second = (talk(f"{at}?", f"{at}!", thinking=f"Hm {at}")["messages"] for at in (1, 2))
    data = prepared(harmony, job_of({"path": write([{"messages": first + second}, *talks(1)])}))
    assert origins(data.train) == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert (data.summary.rows, data.summary.sources[0].kept, data.summary.train.rows) == (2, 2, 2)
    assert set(data.summary.train.channels) == {"analysis", "final"}
    answer = "<|channel|>analysis<|message|>Hm {0}<|end|><|start|>assistant<|channel|>final<|message|>{0}!<|return|>"
    assert answers(harmony, data.train)[:2] == [answer.format(1), answer.format(2)]


def test_rows_count_from_0_and_bad_ones_count(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = Path(write([talk("a", "b"), BAD, talk("c", "d")]))
    path.write_bytes(path.read_bytes() + b"\nnope\n" + json.dumps(talk("e", "f")).encode())
    data = prepared(chatml, job_of({"path": str(path), "on_invalid": "drop"}))
    assert origins(data.train) == [(0, 0, 0), (0, 2, 0), (0, 4, 0)]
    (counts,) = data.summary.sources
    assert (counts.rows, counts.kept) == (5, 3)
    assert counts.dropped == {"invalid: wrong role order": 1, "invalid: not readable": 1}
    assert counts.examples == {
        "invalid: wrong role order": [f"row 1 ({path}:2): {NO_ANSWER}"],
        "invalid: not readable": [f"row 3 ({path}:5): not JSON: Expecting value at column 1"],
    }


def test_several_entries_of_all_formats(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    job = job_of(
        {"path": write(talks(2), "a.jsonl")},
        {"path": write([{"instruction": "Add", "input": "1 1", "output": "2"}], "b.jsonl"), "format": "alpaca"},
        {"path": write([{"prompt": "Q", "completion": "A"}] * 3, "c.jsonl"), "format": "prompt_completion"},
        {"path": write([{"text": "Once."}, {"text": " "}], "d.jsonl"), "format": "custom", "on_invalid": "drop"},
    )
    data = prepared(harmony, job)
    assert origins(data.train) == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 2, 0), (3, 0, 0)]
    assert [(counts.rows, counts.kept) for counts in data.summary.sources] == [(2, 2), (1, 1), (3, 3), (2, 1)]
    assert answers(harmony, data.train)[2:] == [
        "<|channel|>final<|message|>2<|return|>",
        *["<|channel|>final<|message|>A<|return|>"] * 3,
        "Once.<|endoftext|>",
    ]
    assert "Add\n\n1 1<|end|>" in texts(harmony, data.train)[2]
    assert (data.summary.train.plain_texts, data.summary.train.channels["text"]) == (1, len(data.train["labels"][6]))


def test_texts_with_markup_train_the_answers(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    markup = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    unanswered = "<|im_start|>user\nHi<|im_end|>\n"
    path = write([{"text": text} for text in ("One.", markup, unanswered)])
    data = prepared(chatml, job_of({"path": path, "format": "custom"}))
    assert answers(chatml, data.train)[1] == "Hello<|im_end|>"
    assert data.summary.train.plain_texts == 1
    assert data.summary.dropped == {"without a trained token": 1}
    both = prepared(chatml, job_of({"path": path, "format": "custom", "train_on": "everything"}))
    assert answers(chatml, both.train)[1:] == [markup, unanswered]


def test_efforts_are_counted(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [{**row, "level": level} for row, level in zip(talks(3), ("low", "high", "low"), strict=True)]
    data = prepared(harmony, job_of({"path": write(rows), "reasoning_effort": "level"}))
    assert data.summary.train.efforts == {"low": 2, "high": 1}
    assert ["Reasoning: high" in text for text in texts(harmony, data.train)] == [False, True, False]
    with pytest.raises(SettingError):
        open_entries(job_of({"path": write(rows), "reasoning_effort": "none"}))


@pytest.mark.parametrize(
    ("name", "data_format"),
    [("tiny/multilingual-thinking", "sharegpt"), ("tiny/finetome", "sharegpt"), ("tiny/text", "custom")],
)
@pytest.mark.parametrize("max_seq_length", [1024, 130])
@pytest.mark.parametrize("policy", ["drop", "truncate"])
def test_every_embedded_row_is_kept_or_counted(
    harmony: PreTrainedTokenizerBase, name: str, data_format: str, max_seq_length: int, policy: str
) -> None:
    entry = {"path": name, "format": data_format, "on_too_long": policy, "eval_fraction": 0.1}
    data = prepared(harmony, job_of(entry, max_seq_length=max_seq_length))
    longer = sum(times for length, times in data.summary.rendered_lengths.items() if length > max_seq_length)
    assert data.summary.rows == data.summary.rendered_lengths.total() == 144
    dropped = data.summary.dropped["longer than max_seq_length"]
    assert data.summary.sources[0].truncated == (longer - dropped if policy == "truncate" else 0)
    assert dropped == longer if policy == "drop" else dropped <= longer


# Policies.


def test_an_invalid_row_stops_the_run(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([*talks(2), BAD, *talks(1), talk("Hi", "\ud83d")])
    error = failed(chatml, job_of({"path": path}))
    assert error.message == (
        f"{path}: 2 rows of 5 cannot be trained on\n"
        f"  row 2 ({path}:3): {NO_ANSWER}\n"
        f"  row 4 ({path}:5): message 2: content: character 0 is half of a surrogate pair"
    )
    assert error.key == "dataset.path"


def test_ten_invalid_rows_are_enough(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([*talks(1), *[BAD] * 12])
    lines = failed(chatml, job_of({"path": path}, {"path": path})).message.splitlines()
    assert lines[0] == f"{path}: at least 10 rows cannot be trained on"
    assert lines[1:] == [f"  row {at} ({path}:{at + 1}): {NO_ANSWER}" for at in range(1, 11)]


def test_too_many_invalid_rows_stop_the_run_unless_allowed(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([BAD, BAD, *talks(1)])
    error = failed(chatml, job_of({"path": path, "on_invalid": "drop"}))
    assert error.message.splitlines() == [
        f"{path}: 66.7% of 3 rows are invalid",
        f"  2 invalid: wrong role order: row 0 ({path}:1): {NO_ANSWER}",
    ]
    assert "dataset.max_invalid_fraction (now 0.5)" in error.cure
    data = prepared(chatml, job_of({"path": path, "on_invalid": "drop", "max_invalid_fraction": 0.7}))
    assert origins(data.train) == [(0, 2, 0)]


def test_a_row_that_one_answer_makes_invalid_is_invalid_as_a_whole(
    chatml: PreTrainedTokenizerBase, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts whose parts tokenize to something else than the whole are known only once they are tokenized."""
    draft = TemplateRenderer.draft

    def twice(self: TemplateRenderer, record: Any) -> list[Draft]:
        (first,) = draft(self, record)
        is_odd = record.messages[0].content == "odd"
        return [first, Draft(first.parts, whole=[Part("else")] if is_odd else None)]

    monkeypatch.setattr(TemplateRenderer, "draft", twice)
    path = write([talk("fine", "1"), talk("odd", "2"), talk("fine", "3")])
    data = prepared(chatml, job_of({"path": path, "on_invalid": "drop"}))
    assert origins(data.train) == [(0, 0, 0), (0, 0, 1), (0, 2, 0), (0, 2, 1)]
    assert data.summary.sources[0].examples == {
        "invalid: chat template": [f"row 1 ({path}:2): tokenizes differently as prompt and answer than as a whole"]
    }


def test_too_long_is_dropped_with_the_length_that_would_do(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([*talks(3), talk("long", "word " * 60)])
    data = prepared(chatml, job_of({"path": path}, max_seq_length=64))
    (counts,) = data.summary.sources
    longest = max(data.summary.rendered_lengths)
    assert counts.dropped == {"longer than max_seq_length": 1}
    assert counts.examples["longer than max_seq_length"] == [f"row 3 ({path}:4): {longest} tokens"]
    assert data.summary.length_that_keeps(0.99) == longest > 64
    assert prepared(chatml, job_of({"path": path}, max_seq_length=longest)).train.num_rows == 4


def test_all_too_long_names_the_length_that_would_do(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([talk("q", "word " * count) for count in (50, 60, 70)])
    error = failed(chatml, job_of({"path": path}, max_seq_length=16))
    assert error.message == f"{path}: no sample is left to train on (3 longer than max_seq_length)"
    wanted = int("".join(filter(str.isdigit, error.cure.partition(" keeps")[0])))
    assert error.cure == f"Raise model.max_seq_length: {wanted} keeps 99 % of the samples."
    assert prepared(chatml, job_of({"path": path}, max_seq_length=wanted)).train.num_rows == 3
    assert prepared(chatml, job_of({"path": path}, max_seq_length=wanted - 1)).train.num_rows == 2


def test_too_long_can_be_an_error(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([*talks(1), talk("long", "word " * 60)])
    error = failed(chatml, job_of({"path": path, "on_too_long": "error"}, max_seq_length=64))
    first, second = error.message.splitlines()
    assert first == f"{path}: 1 row of 2 cannot be trained on"
    assert second.startswith(f"  row 1 ({path}:2): ")
    assert second.endswith(" tokens, more than model.max_seq_length 64")


def test_truncate_keeps_whole_answers_alone(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    long = talk("And?", "word " * 60)["messages"]
    rows = [{"messages": [*talk("Hi", "Hello")["messages"], *long]}, {"messages": long}]
    data = prepared(chatml, job_of({"path": write(rows), "on_too_long": "truncate"}, max_seq_length=64))
    assert origins(data.train) == [(0, 0, 0)]
    assert len(data.train["input_ids"][0]) == 64
    assert answers(chatml, data.train) == ["Hello<|im_end|>"]
    (counts,) = data.summary.sources
    assert (counts.truncated, counts.cut_answers) == (1, 1)
    assert counts.dropped == {"longer than max_seq_length": 1}


def test_truncate_cuts_plain_text(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write([{"text": "word " * 60}])
    data = prepared(chatml, job_of({"path": path, "format": "custom", "on_too_long": "truncate"}, max_seq_length=20))
    assert data.train["labels"].to_pylist() == data.train["input_ids"].to_pylist()
    assert len(data.train["input_ids"][0]) == 20


def test_answers_that_are_context_alone(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    both = [*talk("a", "b", train=False)["messages"], *talk("c", "d")["messages"]]
    path = write([talk("a", "b", train=False), {"messages": both}])
    data = prepared(chatml, job_of({"path": path}))
    assert answers(chatml, data.train) == ["d<|im_end|>"]
    assert origins(data.train) == [(0, 1, 0)]
    assert data.summary.sources[0].examples == {
        "without a trained token": [f"row 0 ({path}:1): no answer in it is to be trained"]
    }


def test_nothing_trained_does_not_blame_the_length(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    error = failed(chatml, job_of({"path": (path := write([talk("a", "b", train=False)]))}, max_seq_length=16))
    assert error.message == f"{path}: no sample is left to train on (1 without a trained token)"
    assert "dataset.train_on: everything" in error.cure


# Which rows are trained on.


@pytest.mark.parametrize("seed", list(EVALUATED_OF_20))
def test_the_rows_that_are_evaluated_on_are_always_the_same(
    chatml: PreTrainedTokenizerBase, write: Write, seed: int
) -> None:
    data = prepared(chatml, job_of({"path": write(talks(20)), "eval_fraction": 0.25}, seed=seed))
    assert rows_of(data.eval) == EVALUATED_OF_20[seed]
    assert rows_of(data.train) == sorted(set(range(20)) - set(EVALUATED_OF_20[seed]))


def test_all_samples_of_a_row_are_on_one_side(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [
        {"messages": [m for at in (1, 2) for m in talk(f"{row} {at}?", f"{at}!", thinking="Hm")["messages"]]}
        for row in range(10)
    ]
    data = prepared(harmony, job_of({"path": write(rows), "eval_fraction": 0.3}))
    assert (data.train.num_rows, data.eval.num_rows) == (14, 6)
    assert (data.summary.train.rows, data.summary.eval.rows) == (7, 3)


def test_what_is_evaluated_on_is_taken_out_of_training(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    job = job_of({"path": write(talks(6), "a.jsonl")}, {"path": write(talks(3, first=4), "b.jsonl"), "eval": True})
    data = prepared(chatml, job)
    assert (rows_of(data.train, 0), rows_of(data.eval, 1)) == ([0, 1, 2, 3], [0, 1, 2])
    first, second = data.summary.sources
    assert (first.kept, first.dropped, first.dropped_samples) == (
        4, {"the same as an evaluation row": 2}, {"the same as an evaluation row": 2},
    )  # fmt: skip
    assert first.examples == {"the same as an evaluation row": ["row 4", "row 5"]}
    assert (second.kept, second.dropped.total()) == (3, 0)


def test_a_row_of_which_one_sample_is_evaluated_on_is_kept(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    first, second = (talk(f"{at}?", f"{at}!", thinking="Hm")["messages"] for at in (1, 2))
    job = job_of(
        {"path": write([{"messages": first + second}], "a.jsonl")},
        {"path": write([{"messages": first}], "b.jsonl"), "eval": True},
    )
    data = prepared(harmony, job)
    assert origins(data.train) == [(0, 0, 1)]
    assert (data.summary.sources[0].dropped, data.summary.sources[0].dropped_samples.total()) == ({}, 1)


def test_weights_are_shares_of_rows(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    first, second = write(talks(30), "a.jsonl"), write(talks(10, first=50), "b.jsonl")
    job = job_of({"path": first, "weight": 7.0}, {"path": second, "weight": 3.0})
    data = prepared(chatml, job)
    assert (len(rows_of(data.train, 0)), len(rows_of(data.train, 1))) == (23, 10)
    assert data.summary.sources[0].dropped == {"left out by dataset.weight": 7}
    write([*talks(9, first=50), talk("Other?", "Other.")], "b.jsonl")
    assert rows_of(prepared(chatml, job).train, 0) == rows_of(data.train, 0)
    reseeded = job.model_copy(update={"training": TrainingSection(seed=2)})
    assert rows_of(prepared(chatml, reseeded).train, 0) != rows_of(data.train, 0)


def test_a_row_that_is_left_out_for_two_reasons_is_counted_once(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    first = talk("1?", "1!", thinking="Hm")["messages"]
    rows = [{"messages": first + talk(f"{at}?", "!", thinking="Hm")["messages"]} for at in range(3)]
    job = job_of(
        {"path": write(rows, "a.jsonl"), "weight": 1.0},
        {"path": write(talks(1), "b.jsonl"), "weight": 1.0},
        {"path": write([{"messages": first}], "c.jsonl"), "eval": True},
    )
    counts = prepared(harmony, job).summary.sources[0]
    assert (counts.rows, counts.kept) == (3, 1)
    assert counts.dropped == {"the same as an evaluation row": 2}
    assert counts.dropped_samples == {"the same as an evaluation row": 3, "left out by dataset.weight": 2}


def test_a_single_row_cannot_be_held_out(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(talks(1))
    error = failed(chatml, job_of({"path": path, "eval_fraction": 0.1}))
    assert error.message == f"{path}: no sample is left to train on (all are evaluated on)"
    assert error.cure == "Give more rows, or hold fewer of them out for evaluation."
    assert error.key == "dataset.eval_fraction"


def test_evaluation_rows_that_are_all_there_is(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    path = write(talks(2))
    error = failed(chatml, job_of({"path": path}, {"path": path, "eval": True}))
    assert error.message == f"{path}; {path}: no sample is left to train on (2 the same as an evaluation row)"
    assert error.cure == "Give more rows, or hold fewer of them out for evaluation."


def test_an_entry_that_has_no_row_left_cannot_have_a_share(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    long = write([talk("long", "word " * 60)], "b.jsonl")
    job = job_of({"path": write(talks(3)), "weight": 1.0}, {"path": long, "weight": 1.0}, max_seq_length=64)
    error = failed(chatml, job)
    assert error.message == f"{long}: no row is left to train on, and without one there are no shares"
    assert error.key == "dataset[1].weight"


# The cache.


def test_the_second_time_nothing_is_rendered(
    chatml: PreTrainedTokenizerBase, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of({"path": write([*talks(4), BAD]), "on_invalid": "drop", "eval_fraction": 0.5})
    first = prepared(chatml, job)
    monkeypatch.setattr(Adapter, "adapt", lambda self, row: pytest.fail("rendered again"))
    second = prepared(chatml, job)
    assert second.summary == first.summary
    assert second.train.equals(first.train)
    assert second.eval.equals(first.eval)


def test_only_a_row_or_a_setting_that_decides_makes_another_key(
    chatml: PreTrainedTokenizerBase, harmony: PreTrainedTokenizerBase, write: Write, tmp_path: Path
) -> None:
    rows = [{**row, "level": "low", "other": row["messages"]} for row in talks(4)]
    entry = {"path": write(rows)}
    key = prepared(chatml, job_of(entry)).summary.key
    same = write(rows, "same.jsonl")
    os.utime(same, (1, 1))
    unchanged = [
        job_of({"path": same}),
        job_of({**entry, "split": "train"}),
        job_of(entry, seed=1),
        job_of(entry, learning_rate=1e-5, output_dir="other"),
    ]
    assert {prepared(chatml, job).summary.key for job in unchanged} == {key}
    changed = [
        job_of({"path": write([*rows, *talks(1)], "more.jsonl")}),
        job_of(entry, max_seq_length=512),
        job_of({**entry, "max_samples": 2}),
        job_of({**entry, "eval_fraction": 0.5}),
        job_of({**entry, "eval_fraction": 0.5}, seed=1),
        job_of({**entry, "train_on": "everything"}),
        job_of({**entry, "reasoning_effort": "high"}),
        job_of({**entry, "reasoning_effort": "level"}),
        job_of({**entry, "empty_thinking": "keep"}),
        job_of({**entry, "prompt_date": None}),
        job_of({**entry, "on_invalid": "drop"}),
        job_of({**entry, "on_too_long": "truncate"}),
        job_of({**entry, "messages_column": "other"}),
        job_of({**entry, "role_key": "role"}),
        job_of({**entry, "content_key": "content"}),
        job_of({**entry, "thinking_key": "thought"}),
        job_of({**entry, "rename_columns": {"level": "effort"}}),
        job_of(entry, entry),
        job_of(entry, {**entry, "eval": True, "max_samples": 1}),
        job_of({**entry, "weight": 1.0}, {**entry, "weight": 1.0}),
        job_of({**entry, "weight": 1.0}, {**entry, "weight": 1.0}, seed=1),
        job_of({**entry, "weight": 1.0}, {**entry, "weight": 2.0}),
    ]
    keys = [prepared(chatml, job).summary.key for job in changed]
    keys += [prepared(harmony, job_of(entry)).summary.key, key]
    assert len(set(keys)) == len(changed) + 2


def test_the_format_is_part_of_the_key(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [{"instruction": "Q", "output": "A", "prompt": "P", "completion": "C", "text": "T", "words": "W"}]
    path = write(rows)
    settings: list[dict[str, Any]] = [
        {"format": "alpaca"},
        {"format": "prompt_completion"},
        {"format": "custom"},
        {"format": "custom", "text_column": "words"},
        {"format": "custom", "text_column": "words", "rename_columns": {"text": "unused"}},
    ]
    found = [prepared(chatml, job_of({"path": path, **each})) for each in settings]
    assert len({data.summary.key for data in found}) == len(settings)
    assert len({data.summary.fingerprint for data in found}) == len(settings) - 1


def test_the_chat_template_and_the_rendering_are_part_of_the_key(
    chatml: PreTrainedTokenizerBase, tiny_llama: Path, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of({"path": write(talks(1))})
    first = prepared(chatml, job)
    template = tmp_path / "template.jinja"
    template.write_text(str(chatml.chat_template).replace("<|im_start|>", "<|im_start|> "), encoding="utf-8")
    other = load_tokenizer(str(tiny_llama), None, str(template))
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(chatml) == first.summary.tokenizer
    assert prepared(other, job).summary.key != first.summary.key
    added = load_tokenizer(str(tiny_llama), None, None)
    added.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    assert tokenizer_fingerprint(added) != tokenizer_fingerprint(chatml)
    other_end = load_tokenizer(str(tiny_llama), None, None)
    other_end.eos_token = "<|im_start|>"
    assert tokenizer_fingerprint(other_end) != tokenizer_fingerprint(chatml)
    monkeypatch.setattr(prepare_module, "RENDERING_VERSION", prepare_module.RENDERING_VERSION + 1)
    again = prepared(chatml, job)
    assert again.summary.key != first.summary.key
    assert again.summary.fingerprint == first.summary.fingerprint


def test_harmony_and_its_template_by_name_are_two_keys(
    harmony: PreTrainedTokenizerBase, tiny_gpt_oss: Path, write: Write
) -> None:
    template = str(tiny_gpt_oss / "chat_template.jinja")
    named = load_tokenizer(str(tiny_gpt_oss), None, template)
    assert tokenizer_fingerprint(named) == tokenizer_fingerprint(harmony)
    path = write([{"text": "Once."}])
    jobs = [job_of({"path": path, "format": "custom"}, template=each) for each in (None, template)]
    assert len({prepared(named, job).summary.key for job in jobs}) == 2


def test_the_same_bytes_as_another_kind_of_file_are_other_rows(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [{"data": [{"text": "inner"}], "text": "outer"}]
    jobs = [job_of({"path": write(rows, name), "format": "custom"}) for name in ("rows.jsonl", "rows.json")]
    found = [texts(chatml, prepared(chatml, job).train)[0] for job in jobs]
    assert [text.startswith(wanted) for text, wanted in zip(found, ("outer", "inner"), strict=True)] == [True, True]


def test_a_tokenizer_that_was_used_is_the_same(chatml: PreTrainedTokenizerBase, tiny_llama: Path) -> None:
    chatml(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(chatml) == tokenizer_fingerprint(load_tokenizer(str(tiny_llama), None, None))


def test_the_summary_names_the_file_that_was_asked_for(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    prepared(chatml, job_of({"path": write(talks(1))}))
    moved = write(talks(1), "moved.jsonl")
    assert prepared(chatml, job_of({"path": moved})).summary.description == moved


@pytest.mark.parametrize("damage", ["summary", "cut", "gone"])
def test_a_damaged_cache_is_rendered_again(
    chatml: PreTrainedTokenizerBase, write: Write, cache: Path, damage: str
) -> None:
    job = job_of({"path": write(talks(4))})
    first = prepared(chatml, job)
    wanted = first.train.to_pylist()
    folder = cache / "prepared" / first.summary.key[:32]
    if damage == "summary":
        (folder / "summary.json").write_text("{")
    elif damage == "cut":
        content = (folder / "train.arrow").read_bytes()
        (folder / "train.arrow").unlink()
        (folder / "train.arrow").write_bytes(content[: len(content) // 2])
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert prepared(chatml, job).train.to_pylist() == wanted


def test_an_interrupted_preparation_is_begun_again(
    chatml: PreTrainedTokenizerBase, write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of({"path": write(talks(10))})

    def interrupted(self: Intake, row: Any, samples: Any) -> Any:
        if row.number == 5:
            raise KeyboardInterrupt
        return iter(())

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(job, open_entries(job), chatml)
    assert [path.suffix for path in (cache / "prepared").iterdir()] == [".lock"]
    assert prepared(chatml, job).train.num_rows == 10


def test_a_refused_data_set_leaves_nothing_in_the_cache(
    chatml: PreTrainedTokenizerBase, write: Write, cache: Path
) -> None:
    failed(chatml, job_of({"path": write([*talks(1), BAD])}))
    assert [path.suffix for path in (cache / "prepared").iterdir()] == [".lock"]


def test_two_at_once_render_once(
    chatml: PreTrainedTokenizerBase, tiny_llama: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of({"path": write(talks(50))})
    adapted: list[int] = []
    adapt = Adapter.adapt

    def counted(self: Adapter, row: dict[str, Any]) -> Any:
        adapted.append(1)
        return adapt(self, row)

    monkeypatch.setattr(Adapter, "adapt", counted)
    found: list[PreparedData] = []
    together = Barrier(2)

    def one(tokenizer: PreTrainedTokenizerBase) -> None:
        together.wait(30)
        found.append(prepare(job, open_entries(job), tokenizer))

    threads = [Thread(target=one, args=[each]) for each in (chatml, load_tokenizer(str(tiny_llama), None, None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(adapted) == 50
    assert [data.train.num_rows for data in found] == [50, 50]


# How it is done does not change what is made.


def test_the_samples_do_not_depend_on_the_batches(
    harmony: PreTrainedTokenizerBase, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [talk(f"Question {at}?", "word " * at, thinking="Hm" if at % 3 else None) for at in range(1, 31)]
    rows.insert(7, BAD)
    job = job_of({"path": write(rows), "on_invalid": "drop", "eval_fraction": 0.2}, max_seq_length=125)
    found: list[PreparedData] = []
    for number, (at_once, characters) in enumerate([(256, 4_000_000), (1, 4_000_000), (7, 4_000_000), (256, 300)]):
        monkeypatch.setattr(prepare_module, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(prepare_module, "CHARACTERS_AT_ONCE", characters)
        monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / f"cache {number}"))
        found.append(prepared(harmony, job))
    assert all(data.summary == found[0].summary for data in found)
    assert all(data.train.to_pylist() == found[0].train.to_pylist() for data in found)
    assert found[0].summary.dropped.total() > 1
    assert found[0].summary.train.samples == 17


def test_the_fingerprint_is_of_tokens_and_labels(chatml: PreTrainedTokenizerBase, write: Write) -> None:
    rows = talks(2)
    first = prepared(chatml, job_of({"path": write(rows)}))
    assert prepared(chatml, job_of({"path": write(rows[::-1])})).summary.fingerprint != first.summary.fingerprint
    unread = prepared(chatml, job_of({"path": write([{**row, "id": at} for at, row in enumerate(rows)])}))
    assert unread.summary.fingerprint == first.summary.fingerprint
    assert unread.summary.key != first.summary.key
    everything = prepared(chatml, job_of({"path": write(rows), "train_on": "everything"}))
    assert everything.train["input_ids"].equals(first.train["input_ids"])
    assert everything.summary.fingerprint != first.summary.fingerprint


def test_one_encoder_lays_out_and_assembles(
    harmony: PreTrainedTokenizerBase, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two with locks of their own would switch the tokenizer between live and plain under each other's hands."""
    made: list[Encoder] = []
    used: list[Encoder] = []

    def making(*arguments: Any) -> Any:
        renderer = make_renderer(*arguments)
        made.append(renderer.encoder)
        return renderer

    def assembling(drafts: list[Draft], encoder: Encoder) -> list[Sample | Any]:
        used.append(encoder)
        return assemble(drafts, encoder)

    monkeypatch.setattr(prepare_module, "make_renderer", making)
    monkeypatch.setattr(prepare_module, "assemble", assembling)
    job = job_of({"path": write(talks(2))}, {"path": write([{"text": "a"}], "b.jsonl"), "format": "custom"})
    prepared(harmony, job)
    assert [id(encoder) for encoder in used] == [id(encoder) for encoder in made]


def test_control_tokens_in_content_stay_text_beside_markup(harmony: PreTrainedTokenizerBase, write: Write) -> None:
    rows = [talk(f"<|end|> {at}", f"<|return|> {at}") for at in range(300)]
    markup = [{"text": f"<|start|>assistant<|channel|>final<|message|>{at}<|return|>"} for at in range(300)]
    job = job_of({"path": write(rows)}, {"path": write(markup, "b.jsonl"), "format": "custom"})
    data = prepared(harmony, job)
    ends = harmony.convert_tokens_to_ids(["<|end|>", "<|return|>"])
    for at, ids in enumerate(data.train["input_ids"].to_pylist()):
        assert np.isin(ids, ends).sum() == (3 if at < 300 else 1)


def test_progress_is_told(chatml: PreTrainedTokenizerBase, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "ROWS_AT_ONCE", 4)
    told: list[tuple[int, int]] = []
    job = job_of({"path": write([*talks(3), BAD, *talks(6)]), "on_invalid": "drop"})
    prepare(job, open_entries(job), chatml, lambda rows, samples: told.append((rows, samples)))
    assert told == [(4, 3), (8, 7)]


def test_samples_are_mapped_from_the_file(chatml: PreTrainedTokenizerBase, write: Write, cache: Path) -> None:
    data = prepared(chatml, job_of({"path": write(talks(3))}))
    folder = cache / "prepared" / data.summary.key[:32]
    with (Path("/proc/self/maps")).open() as maps:
        assert str(folder / "train.arrow") in maps.read()
    assert sorted(path.name for path in folder.iterdir()) == ["eval.arrow", "summary.json", "train.arrow"]


def test_the_renderer_is_the_models_own(tiny_gpt_oss: Path, tiny_llama: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}", encoding="utf-8")
    config = DatasetSection(reasoning_effort="high", prompt_date="2024-02-29", train_on="everything")
    job, with_template = JobConfig(dataset=config), job_of({"path": "rows"}, template=str(template))

    harmony = make_renderer(load_tokenizer(str(tiny_gpt_oss), None, None), job, config)
    assert isinstance(harmony, HarmonyRenderer)
    assert (harmony.effort, harmony.date, harmony.train_on) == ("high", "2024-02-29", "everything")
    llama = make_renderer(load_tokenizer(str(tiny_llama), None, None), job, config)
    assert isinstance(llama, TemplateRenderer)
    assert (llama.effort, llama.date, llama.train_on) == ("high", "2024-02-29", "everything")
    named = load_tokenizer(str(tiny_gpt_oss), None, str(template))
    assert isinstance(make_renderer(named, with_template, config), TemplateRenderer)
    by_column = make_renderer(named, job, DatasetSection(reasoning_effort="level"))
    assert by_column.effort == "medium"
