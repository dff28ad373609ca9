"""Samples in files: what is written is what is read, whole or not at all, and memory-mapped."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_ft.data.rendering import IGNORED, Sample
from gptoss_ft.data.storage import (
    SCHEMA,
    SPLITS,
    SUMMARY,
    PreparedData,
    Rendered,
    RenderedFile,
    SampleHash,
    SplitWriter,
    from_cache,
    to_batch,
    write_summary,
)
from gptoss_ft.data.summary import SourceSummary, Summary
from gptoss_ft.errors import MachineError

INT32 = st.integers(-(2**31), 2**31 - 1)
# SHA-256 over four: of the lengths, of the tokens, of the lengths of labels, of the labels, all as little-endian int32.
HASH_OF_TWO = "65f1d766aa9d46d199a55b6dff843a45bcb105579b8f6915f6d14c73c696a8f3"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sample_of(ids: list[int], labels: list[int], channel: str = "final", is_plain: bool = False) -> Sample:
    trained = [(at, at + 1, channel) for at, label in enumerate(labels) if label != IGNORED]
    return Sample(np.array(ids, np.int32), np.array(labels, np.int32), trained, [], is_plain)


TWO = [
    Rendered(sample_of([1, 2, 3], [IGNORED, 2, 9]), 0, 4, 0, "low"),
    Rendered(sample_of([5], [5], "text", is_plain=True), 1, 2**40, 3, "high"),
]


def batch_of(samples: list[tuple[list[int], list[int]]]) -> pa.RecordBatch:
    return to_batch([Rendered(sample_of(ids, labels), 0, row, 0, "low") for row, (ids, labels) in enumerate(samples)])


def hash_of(*batches: pa.RecordBatch) -> str:
    digest = SampleHash()
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


def make(folder: Path, numbers: int = 3) -> None:
    """Prepared data of `numbers` training samples and one evaluation sample."""
    summary = Summary(key="k", tokenizer="t", max_seq_length=8)
    for split in SPLITS:
        writer = SplitWriter(folder / f"{split}.arrow")
        writer.write(batch_of([([number, 7], [IGNORED, 7]) for number in range(numbers if split == "train" else 1)]))
        writer.close()
        setattr(summary, split, writer.summary)
    write_summary(folder, summary)


def test_a_batch_holds_every_fact() -> None:
    batch = to_batch(TWO)
    assert batch.select(SCHEMA.names).to_pylist() == [
        {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 9], "source": 0, "source_row": 4, "sample_index": 0},
        {"input_ids": [5], "labels": [5], "source": 1, "source_row": 2**40, "sample_index": 3},
    ]
    assert batch.select(SCHEMA.names).schema.equals(SCHEMA)
    facts = batch.select(["effort", "is_plain", "trained_final", "trained_text", "trained_prompt"]).to_pylist()
    assert facts == [
        {"effort": 0, "is_plain": False, "trained_final": 2, "trained_text": 0, "trained_prompt": 0},
        {"effort": 2, "is_plain": True, "trained_final": 0, "trained_text": 1, "trained_prompt": 0},
    ]


def test_equal_samples_have_equal_digests() -> None:
    same, other_labels, other_ids = ([1, 2], [IGNORED, 2]), ([1, 2], [1, 2]), ([1, 3], [IGNORED, 2])
    digests = batch_of([same, other_labels, other_ids, same]).column("digest").to_pylist()
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


def test_a_file_of_rendered_samples_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = RenderedFile(tmp_path / "rendered.arrow")
    with file.writer() as writer:
        writer.write_batch(to_batch(TWO[:1]))
        writer.write_batch(to_batch(TWO[1:]))
    assert [batch.num_rows for batch in file.batches()] == [1, 1]
    assert [row for batch in file.batches() for row in batch.to_pylist()] == to_batch(TWO).to_pylist()
    assert file.column("source_row").tolist() == [4, 2**40]
    assert file.column("digest").tolist() == to_batch(TWO).column("digest").to_pylist()


def test_a_column_keeps_no_tokens_in_memory(tmp_path: Path) -> None:
    rendered = RenderedFile(tmp_path / "rendered.arrow")
    with rendered.writer() as writer:
        for _ in range(4):
            writer.write_batch(batch_of([([1] * 1000, [1] * 1000)] * 500))  # 4 MB
    before = pa.total_allocated_bytes()
    column = rendered.column("source_row")
    assert len(column) == 2000
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_a_file_without_samples(tmp_path: Path) -> None:
    file = RenderedFile(tmp_path / "rendered.arrow")
    with file.writer():
        pass
    assert list(file.batches()) == []
    assert file.column("source").tolist() == []


@given(st.lists(st.lists(st.tuples(INT32, INT32), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_the_hash_does_not_depend_on_batches(samples: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    batch = batch_of([([a for a, _ in sample], [b for _, b in sample]) for sample in samples])
    cut = data.draw(st.integers(0, len(samples)))
    assert hash_of(batch.slice(0, cut), batch.slice(cut)) == hash_of(batch)
    assert hash_of(*(batch.slice(at, 1) for at in range(len(samples)))) == hash_of(batch)


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert hash_of(to_batch(TWO)) == HASH_OF_TWO


def test_the_hash_tells_where_samples_and_labels_end() -> None:
    one = hash_of(batch_of([([1, 2], [1, 2]), ([3], [3])]))
    assert one != hash_of(batch_of([([1], [1]), ([2, 3], [2, 3])]))
    assert one != hash_of(batch_of([([3], [3]), ([1, 2], [1, 2])]))
    assert one != hash_of(batch_of([([1, 2], [1, 2]), ([3], [IGNORED])]))
    assert one != hash_of(batch_of([([1, 2], [1]), ([3], [2, 3])]))


def test_what_goes_into_a_split_is_counted(tmp_path: Path) -> None:
    thought = sample_of([1, 2], [1, 2], "analysis")
    rows = [
        Rendered(thought, 0, 0, 0, "low"),
        Rendered(sample_of([1, 2, 3], [IGNORED, 2, 3]), 0, 0, 1, "low"),
        Rendered(sample_of([4, 5], [4, 5], "text", is_plain=True), 1, 0, 0, "high"),
    ]
    writer = SplitWriter(tmp_path / "train.arrow")
    # A row whose samples are in two batches is one row.
    for batch in (to_batch(rows[:1]), to_batch(rows[1:]), to_batch(rows[1:]).slice(0, 0)):
        writer.write(batch)
    writer.close()
    counts = writer.summary
    assert (counts.samples, counts.rows, counts.tokens, counts.trained_tokens, counts.plain_texts) == (3, 2, 7, 6, 1)
    assert counts.channels == {"analysis": 2, "final": 2, "text": 2}
    assert counts.efforts == {"low": 2, "high": 1}
    assert counts.lengths == {2: 2, 3: 1}
    assert writer.hash.hexdigest() == hash_of(to_batch(rows))
    assert pa.ipc.open_file(str(tmp_path / "train.arrow")).read_all().to_pylist() == [
        {key: row[key] for key in SCHEMA.names} for row in to_batch(rows).to_pylist()
    ]


def test_samples_are_mapped_and_not_read(tmp_path: Path) -> None:
    long = [([1] * 100_000, [1] * 100_000)] * 4
    make(tmp_path)
    writer = SplitWriter(tmp_path / "train.arrow")
    for _ in range(4):
        writer.write(batch_of(long))
    writer.close()
    before = pa.total_allocated_bytes()
    data = PreparedData.load(tmp_path)
    assert data.train.nbytes > 12_000_000
    assert data.train["input_ids"][15].values.to_numpy().sum() == 100_000
    assert pa.total_allocated_bytes() - before < 100_000


def test_the_cache_makes_what_is_not_there_once(cache: Path) -> None:
    made: list[Path] = []

    def counted(folder: Path) -> None:
        made.append(folder)
        make(folder)

    first, second = from_cache("data", counted), from_cache("data", counted)
    assert len(made) == 1
    assert first.train.to_pylist() == second.train.to_pylist()
    assert [row["input_ids"] for row in second.train.to_pylist()] == [[0, 7], [1, 7], [2, 7]]
    assert (second.eval.num_rows, second.summary.train.samples) == (1, 3)
    assert sorted(path.name for path in (cache / "prepared").iterdir()) == ["data", "data.lock"]


def damaged_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("name", ["train.arrow", "eval.arrow", SUMMARY])
@pytest.mark.parametrize("damage", [Path.unlink, damaged_end, lambda path: path.write_bytes(b"")])
def test_a_damaged_folder_is_made_anew(cache: Path, name: str, damage: Callable[[Path], None]) -> None:
    whole = from_cache("data", make)
    expected = whole.train.to_pylist()
    damage(cache / "prepared/data" / name)
    assert from_cache("data", make).train.to_pylist() == expected
    from_cache("data", lambda folder: pytest.fail("made again"))


def test_samples_that_the_summary_does_not_count_are_made_anew(cache: Path) -> None:
    from_cache("data", make)
    make(cache / "prepared/data", numbers=5)
    summary = cache / "prepared/data" / SUMMARY
    summary.write_text(summary.read_text().replace('"samples": 5', '"samples": 4'))
    assert from_cache("data", make).train.num_rows == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_preparation_leaves_nothing(cache: Path, error: type[BaseException]) -> None:
    def interrupted(folder: Path) -> None:
        make(folder)
        raise error

    with pytest.raises(error):
        from_cache("data", interrupted)
    assert [path.name for path in (cache / "prepared").iterdir()] == ["data.lock"]
    assert from_cache("data", make).train.num_rows == 3


def test_what_a_killed_process_left_is_not_taken_for_whole(cache: Path) -> None:
    left = cache / "prepared/data.part"
    left.mkdir(parents=True)
    make(left, numbers=7)
    (left / "rendered.arrow").write_bytes(b"half")
    assert from_cache("data", make).train.num_rows == 3
    assert not left.exists()
    assert not (cache / "prepared/data/rendered.arrow").exists()


def test_a_cache_that_cannot_be_written_is_the_machines(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(MachineError) as caught:
        from_cache("data", make)
    assert caught.value.message == f"{cache / 'prepared'} cannot be written: Not a directory"
    assert "GPTOSS_FT_CACHE" in caught.value.cure


def _ask(cache: str, log: str) -> int:
    os.environ["GPTOSS_FT_CACHE"] = cache

    def slow(folder: Path) -> None:
        with open(log, "a") as stream:
            stream.write("made\n")
        time.sleep(0.5)
        make(folder)

    return int(from_cache("data", slow).train.num_rows)


def test_of_two_processes_one_makes_it(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = [pool.submit(_ask, str(cache), str(log)) for _ in range(2)]
        assert [future.result(timeout=60) for future in found] == [3, 3]
    assert log.read_text() == "made\n"


def test_samples_are_named_by_their_rows(tmp_path: Path) -> None:
    rows = pa.table({"source": [0, 0, 0, 1, 1], "source_row": [3, 3, 5, 3, 8]})
    one = Summary(key="", tokenizer="", max_seq_length=9, sources=[SourceSummary(description="", fingerprint="")])
    two = one.model_copy(update={"sources": one.sources * 2})
    assert PreparedData(rows, rows, one, tmp_path).named([2, 0, 1]) == "rows 3 and 5"
    assert PreparedData(rows, rows, one, tmp_path).named([1]) == "row 3"
    assert PreparedData(rows, rows, two, tmp_path).named([4, 0, 2, 3]) == (
        "rows 3 and 5 of dataset[0], rows 3 and 8 of dataset[1]"
    )
