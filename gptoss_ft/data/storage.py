"""Samples on disk: Arrow files that are read through memory mapping, so that a data set may be larger than memory.

A folder of prepared data holds train.arrow, eval.arrow and summary.json.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import ValidationError

from gptoss_ft.data.conversation import Effort
from gptoss_ft.data.rendering import CHANNELS, Sample
from gptoss_ft.data.summary import SplitSummary, Summary, count
from gptoss_ft.errors import MachineError
from gptoss_ft.runtime import cache_folder

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = ("train", "eval")
SUMMARY = "summary.json"
NO_EFFORT = -1
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")

# int32 holds every token id and the ignored label, at half of int64's size.
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("source", pa.int32()),
        ("source_row", pa.int64()),
        ("sample_index", pa.int32()),
    ]
)
# What the choice of samples and the counts need to know of each, until they are final.
FACTS = (
    pa.field("digest", pa.uint64()),
    pa.field("effort", pa.int8()),
    pa.field("is_plain", pa.bool_()),
    *(pa.field(f"trained_{channel}", pa.int32()) for channel in CHANNELS),
)
_RENDERED_SCHEMA = pa.schema([*SCHEMA, *FACTS])


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sample with its origin: entry of the data set, 0-based row in it, index within the row; and its effort."""

    sample: Sample
    source: int
    source_row: int
    sample_index: int
    effort: Effort | None


def to_batch(samples: Sequence[Rendered]) -> pa.RecordBatch:
    """Samples as one Arrow batch with their facts."""
    each = [rendered.sample for rendered in samples]
    channels = [sample.channels for sample in each]
    columns = [
        _lists([sample.input_ids for sample in each]),
        _lists([sample.labels for sample in each]),
        pa.array([rendered.source for rendered in samples], pa.int32()),
        pa.array([rendered.source_row for rendered in samples], pa.int64()),
        pa.array([rendered.sample_index for rendered in samples], pa.int32()),
        pa.array([_digest(sample) for sample in each], pa.uint64()),
        pa.array([_effort_number(rendered.effort) for rendered in samples], pa.int8()),
        pa.array([sample.is_plain for sample in each], pa.bool_()),
        *(pa.array([trained[channel] for trained in channels], pa.int32()) for channel in CHANNELS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_RENDERED_SCHEMA)


def _effort_number(effort: Effort | None) -> int:
    return NO_EFFORT if effort is None else EFFORTS.index(effort)


def _lists(arrays: Sequence[NDArray[np.int32]]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def _digest(sample: Sample) -> int:
    """Eight bytes of a hash of the sample's tokens and labels, by which equal samples are found."""
    hashed = hashlib.blake2b(sample.input_ids.tobytes(), digest_size=8)
    hashed.update(sample.labels.tobytes())
    return int.from_bytes(hashed.digest(), "little")


class RenderedFile:
    """Batches with facts in a file: written in order, then read again, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with pa.OSFile(str(self.path), "wb") as stream, pa.ipc.new_file(stream, _RENDERED_SCHEMA) as writer:
            yield writer

    def column(self, name: str) -> NDArray[Any]:
        """One column of fixed width over all batches; the others are not read."""
        options = pa.ipc.IpcReadOptions(included_fields=[_RENDERED_SCHEMA.get_field_index(name)])
        # A copy, for a column keeps all of its batch in memory.
        parts = [batch.column(0).to_numpy().copy() for batch in _batches(self.path, options)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def batches(self) -> Iterator[pa.RecordBatch]:
        return _batches(self.path)


def _batches(path: Path, options: Any = None) -> Iterator[pa.RecordBatch]:
    # Not memory-mapped: pages of a mapped file count as the process's memory.
    with pa.OSFile(str(path)) as stream, pa.ipc.open_file(stream, options=options) as reader:
        for at in range(reader.num_record_batches):
            yield reader.get_batch(at)


class SampleHash:
    """SHA-256 over every length, token and label in order, however the samples are grouped into batches."""

    def __init__(self) -> None:
        self._hashes = [hashlib.sha256() for _ in range(4)]

    def update(self, batch: pa.RecordBatch) -> None:
        ids, labels = batch.column("input_ids"), batch.column("labels")
        columns = (ids.value_lengths(), ids.flatten(), labels.value_lengths(), labels.flatten())
        for digest, values in zip(self._hashes, columns, strict=True):
            digest.update(values.to_numpy().astype("<i4", copy=False).tobytes())

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(digest.digest() for digest in self._hashes)).hexdigest()


class SplitWriter:
    """Writes one split's file, in the order of sources and rows, and counts what goes into it."""

    def __init__(self, path: Path) -> None:
        self.summary = SplitSummary()
        self.hash = SampleHash()
        self._last_row: tuple[int, int] | None = None
        self._writer: Any = pa.ipc.new_file(str(path), SCHEMA)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch that holds facts."""
        if not batch.num_rows:
            return
        self._writer.write_batch(batch.select(SCHEMA.names))
        self.hash.update(batch)
        counts, lengths = self.summary, batch.column("input_ids").value_lengths().to_numpy()
        counts.samples += batch.num_rows
        counts.tokens += int(lengths.sum())
        counts.lengths.update(count(lengths))
        counts.plain_texts += int(batch.column("is_plain").to_numpy(zero_copy_only=False).sum())
        for channel in CHANNELS:
            if trained := int(batch.column(f"trained_{channel}").to_numpy().sum()):
                counts.trained_tokens += trained
                counts.channels[channel] += trained
        for effort, times in count(batch.column("effort").to_numpy()).items():
            if effort != NO_EFFORT:
                counts.efforts[EFFORTS[effort]] += times
        rows = list(zip(batch.column("source").to_pylist(), batch.column("source_row").to_pylist(), strict=True))
        counts.rows += sum(row != before for before, row in pairwise([self._last_row, *rows]))
        self._last_row = rows[-1]

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True)
class PreparedData:
    """Samples that are ready: memory-mapped tables of `input_ids`, `labels` (list of int32), `source`, `source_row`
    and `sample_index`, their summary, and the folder in the cache that holds all of it."""

    train: pa.Table
    eval: pa.Table
    summary: Summary
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> "PreparedData":
        """Open what `prepare` left in the cache."""
        summary = Summary.model_validate_json((folder / SUMMARY).read_bytes())
        return cls(_mapped(folder / "train.arrow"), _mapped(folder / "eval.arrow"), summary, folder)

    def named(self, samples: Sequence[int]) -> str:
        """The rows that training samples, by their index, come from: `rows 3 and 17`, or with several entries of the
        data set `row 3 of dataset[0], row 17 of dataset[1]`."""
        of_source: dict[int, set[int]] = {}
        for index in samples:
            source, row = (self.train[name][index].as_py() for name in ("source", "source_row"))
            of_source.setdefault(source, set()).add(row)
        is_list = len(self.summary.sources) > 1
        return ", ".join(
            f"row{'s' * (len(rows) > 1)} {_enumerated(rows)}{f' of dataset[{source}]' * is_list}"
            for source, rows in sorted(of_source.items())
        )

    def batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        """A split's samples, a batch at a time."""
        return _batches(self.folder / f"{split}.arrow")


def _enumerated(numbers: set[int]) -> str:
    *others, last = map(str, sorted(numbers))
    return f"{', '.join(others)} and {last}" if others else last


def from_cache(name: str, make: Callable[[Path], None]) -> PreparedData:
    """Open the prepared data `name` in the cache; where there is none, or it is damaged, let `make` write it anew.

    `make` writes into a folder beside, which becomes the one in the cache when it is complete. Any number of processes
    may ask for the same data: one makes it while the others wait. Raises `MachineError` where the cache cannot be
    written.
    """
    folder = cache_folder() / "prepared" / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.with_suffix(".lock")).acquire()
    except OSError as error:
        raise MachineError(
            f"{folder.parent} cannot be written: {error.strerror}", "Set GPTOSS_FT_CACHE to another folder."
        ) from None
    with held:
        if (data := _load_whole(folder)) is not None:
            return data
        beside = folder.with_suffix(".part")
        for rest in (folder, beside):
            shutil.rmtree(rest, ignore_errors=True)
        beside.mkdir()
        try:
            make(beside)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return PreparedData.load(folder)


def _load_whole(folder: Path) -> PreparedData | None:
    """What lies in `folder`; None where there is nothing, or a part of it."""
    try:
        data = PreparedData.load(folder)
    except (OSError, ValidationError, pa.ArrowException):
        return None
    counted = (data.summary.train.samples, data.summary.eval.samples)
    return data if (data.train.num_rows, data.eval.num_rows) == counted else None


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_summary(folder: Path, summary: Summary) -> None:
    (folder / SUMMARY).write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
