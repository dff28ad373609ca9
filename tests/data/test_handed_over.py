"""Prepared data that is handed over: what is read is what was prepared, or it is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection
from gptoss_ft.data import handed_over
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.handed_over import read_prepared, write_prepared
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, ExitCode

Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


@pytest.fixture
def data(tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    job = JobConfig(dataset=DatasetSection(path="tiny/multilingual-thinking", eval_fraction=0.1, max_samples=30))
    return prepare(job, open_entries(job), tokenizer)


@pytest.fixture
def folder(data: PreparedData, tmp_path: Path) -> Path:
    path = tmp_path / "handed over"
    path.mkdir()
    write_prepared(data, path)
    return path


def job_of(folder: Path, max_seq_length: int = 1024) -> JobConfig:
    return JobConfig(model=ModelSection(max_seq_length=max_seq_length), dataset=DatasetSection(prepared=str(folder)))


def refused(folder: Path, tokenizer: PreTrainedTokenizerBase, max_seq_length: int = 1024) -> DataError:
    with pytest.raises(DataError) as caught:
        prepare(job_of(folder, max_seq_length), (), tokenizer)
    assert (caught.value.key, caught.value.exit_code) == ("dataset.prepared", ExitCode.DATA)
    return caught.value


def test_what_is_read_is_what_was_prepared(
    data: PreparedData, folder: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["eval.parquet", "summary.json", "train.parquet"]
    job = job_of(folder)
    assert open_entries(job) == ()
    found = prepare(job, (), tokenizer)
    assert found.summary == data.summary
    assert found.train.to_pylist() == data.train.to_pylist()
    assert found.eval.to_pylist() == data.eval.to_pylist()
    assert (found.train.num_rows, found.eval.num_rows) == (27, 3)
    assert found.train.schema.equals(data.train.schema)
    assert pq.read_table(folder / "train.parquet").to_pylist() == data.train.to_pylist()
    monkeypatch.setattr(handed_over, "_convert", lambda *_: pytest.fail("converted again"))
    assert prepare(job, (), tokenizer).summary == data.summary


@pytest.mark.parametrize("rows", [1, 4, 10_000])
def test_groups_of_rows_do_not_matter(
    data: PreparedData, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(handed_over, "SAMPLES_PER_GROUP", rows)
    write_prepared(data, tmp_path)
    assert read_prepared(tmp_path, data.summary.tokenizer, 1024).summary.fingerprint == data.summary.fingerprint


def test_data_without_evaluation(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = JobConfig(dataset=DatasetSection(path="tiny/text", format="custom", max_samples=5))
    data = prepare(job, open_entries(job), tokenizer)
    write_prepared(data, tmp_path)
    found = prepare(job_of(tmp_path), (), tokenizer)
    assert (found.train.num_rows, found.eval.num_rows) == (5, 0)
    assert found.summary == data.summary


def test_a_damaged_copy_in_the_cache_is_made_again(
    folder: Path, tokenizer: PreTrainedTokenizerBase, cache: Path, data: PreparedData
) -> None:
    prepare(job_of(folder), (), tokenizer)
    (copy,) = (path for path in (cache / "prepared").iterdir() if path.name.startswith("of-") and path.is_dir())
    (copy / "train.arrow").unlink()
    assert prepare(job_of(folder), (), tokenizer).train.to_pylist() == data.train.to_pylist()


def edited(table: pa.Table, column: str, change: Callable[[list[Any]], Any]) -> pa.Table:
    values = table[column].to_pylist()
    change(values)
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(column), pa.array(values, table.schema.field(column).type))


EDITS: dict[str, Edit] = {
    "a row less": lambda table: table.slice(1),
    "a row twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "another order": lambda table: table.take(list(range(table.num_rows))[::-1]),
    "another token": lambda table: edited(table, "input_ids", lambda ids: ids[3].__setitem__(5, 7)),
    "another label": lambda table: edited(table, "labels", lambda labels: labels[0].__setitem__(0, 7)),
    "labels of another sample": lambda table: edited(
        table, "labels", lambda labels: labels[1].insert(0, labels[0].pop())
    ),
    "another type": lambda table: table.set_column(2, "source", table["source"].cast(pa.int64())),
    "a column less": lambda table: table.drop_columns(["sample_index"]),
    "a column more": lambda table: table.append_column("note", pa.array(["x"] * table.num_rows)),
}


@pytest.mark.parametrize("edit", list(EDITS.values()), ids=list(EDITS))
def test_edited_samples_are_refused(folder: Path, tokenizer: PreTrainedTokenizerBase, edit: Edit, cache: Path) -> None:
    pq.write_table(edit(pq.read_table(folder / "train.parquet")), folder / "train.parquet")
    error = refused(folder, tokenizer)
    assert "does not hold the samples that its summary.json tells of" in error.message
    assert error.cure.startswith("Prepare the data again")
    assert not [path for path in (cache / "prepared").iterdir() if path.name.startswith("of-") and path.is_dir()]


@pytest.mark.parametrize("change", [lambda ids: ids.__setitem__(2, None), lambda ids: ids[2].__setitem__(0, None)])
def test_samples_with_holes_are_refused(
    folder: Path, tokenizer: PreTrainedTokenizerBase, change: Callable[[list[Any]], None]
) -> None:
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(edited(table, "input_ids", change), folder / "train.parquet")
    assert str(folder) in refused(folder, tokenizer).message


def test_exchanged_splits_are_refused(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (folder / "train.parquet").rename(folder / "other")
    (folder / "eval.parquet").rename(folder / "train.parquet")
    (folder / "other").rename(folder / "eval.parquet")
    assert "does not hold the samples" in refused(folder, tokenizer).message


@pytest.mark.parametrize("content", [b"", b"not Parquet at all", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_not_parquet_is_named(folder: Path, tokenizer: PreTrainedTokenizerBase, content: bytes) -> None:
    (folder / "eval.parquet").write_bytes(content)
    assert refused(folder, tokenizer).message.startswith(f"{folder / 'eval.parquet'}: not Parquet: ")


def test_a_file_that_was_cut_off_is_named(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(folder, tokenizer).message.startswith(f"{path}: not Parquet: ")


@pytest.mark.parametrize("name", ["train.parquet", "eval.parquet"])
def test_a_missing_file_is_named(folder: Path, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    (folder / name).unlink()
    assert refused(folder, tokenizer).message == f"{folder / name} cannot be read: No such file or directory"


def test_a_folder_of_something_else(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    missing = refused(tmp_path / "nowhere", tokenizer)
    assert (
        missing.message == f"{tmp_path / 'nowhere'} holds no summary.json that can be read: No such file or directory"
    )
    assert missing.cure == "Name a folder that `prepare --output` wrote."
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file", tokenizer).message.endswith(": Not a directory")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("key", None, "key: Field required"), ("words", 1, "words: Extra inputs are not permitted")],
)
def test_another_versions_summary_is_refused(
    folder: Path, tokenizer: PreTrainedTokenizerBase, key: str, value: int | None, wanted: str
) -> None:
    path = folder / "summary.json"
    facts = json.loads(path.read_text())
    facts[key] = value
    path.write_text(json.dumps({name: fact for name, fact in facts.items() if fact is not None}))
    assert refused(folder, tokenizer).message == f"{path} is not one of this version's: {wanted}"


def test_a_summary_that_is_not_json(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (folder / "summary.json").write_bytes(b"\xff{")
    assert refused(folder, tokenizer).message.startswith(f"{folder / 'summary.json'} is not one of this version's: ")


def test_another_tokenizer_is_refused(folder: Path, tiny_llama: Path) -> None:
    error = refused(folder, load_tokenizer(str(tiny_llama), None, None))
    assert error.message == f"{folder} was prepared with another tokenizer or chat template than that of model.name"


def test_samples_longer_than_the_model_takes_are_refused(
    data: PreparedData, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    longest = max(len(ids) for table in (data.train, data.eval) for ids in table["input_ids"].to_pylist())
    assert prepare(job_of(folder, longest), (), tokenizer).train.num_rows == 27
    error = refused(folder, tokenizer, longest - 1)
    assert error.message == (
        f"{folder} holds a sample of {longest} tokens, more than model.max_seq_length {longest - 1}"
    )
    assert error.cure == f"Set model.max_seq_length to {longest} or more, or prepare it again."


def test_samples_that_are_evaluated_on_may_not_be_longer_either(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = folder / "summary.json"
    facts = json.loads(path.read_text())
    facts["eval"]["lengths"] = {"2000": 3}
    path.write_text(json.dumps(facts))
    assert "a sample of 2,000 tokens" in refused(folder, tokenizer).message
