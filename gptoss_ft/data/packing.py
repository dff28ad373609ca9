"""Full rows: samples laid end to end until a row of `max_seq_length` is full, for `training.packing`.

Which samples share a row is fixed by their lengths and a seed. It changes the batch: an optimizer step takes rows.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from gptoss_ft.config import JobConfig

# Samples among which a row's are chosen: enough to fill rows to within a percent, and near each other in the shuffled
# order, so that rows are no more alike than chance makes them.
AT_ONCE = 8192


@dataclass(frozen=True)
class FullRows:
    """The samples of each row, by their index, and how many tokens all rows hold and could hold."""

    members: list[list[int]]
    tokens: int
    room: int

    @property
    def filled(self) -> float:
        return self.tokens / self.room


def fill_rows(samples: pa.Table, job: JobConfig) -> FullRows:
    """The rows of a job's training samples."""
    return rows_of(sample_lengths(samples), job.model.max_seq_length, job.training.seed)


def rows_of(lengths: NDArray[np.integer], most: int, seed: int) -> FullRows:
    """Rows of at most `most` tokens out of samples of these lengths, none longer: best fit, the longest first, in
    groups of `AT_ONCE` samples of an order shuffled by `seed`."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    members: list[list[int]] = []
    for start in range(0, len(order), AT_ONCE):
        group = order[start : start + AT_ONCE]
        longest_first = group[np.argsort(-lengths[group], kind="stable")]
        members += _best_fit([(int(index), int(lengths[index])) for index in longest_first], most)
    return FullRows(members, int(lengths.sum()), most * len(members))


def _best_fit(samples: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Each sample (index, length) to the row that it leaves the least room in."""
    rows: list[list[int]] = []
    # (room left, row), sorted.
    rooms: list[tuple[int, int]] = []
    for index, length in samples:
        place = bisect_left(rooms, (length, 0))
        if place == len(rooms):
            rows.append([index])
            left, row = most - length, len(rows) - 1
        else:
            room, row = rooms.pop(place)
            rows[row].append(index)
            left = room - length
        insort(rooms, (left, row))
    return rows


def packed_dataset(samples: pa.Table, rows: FullRows) -> Dataset:
    """The rows as a data set of `input_ids`, `labels`, and the `lengths` and indices (`members`) of the documents, put
    together as they are read."""
    columns = Dataset(samples.select(["input_ids", "labels"])).with_format("numpy")

    def put_together(batch: dict[str, list[list[int]]]) -> dict[str, list[Any]]:
        rows = [columns[members] for members in batch["members"]]
        joined: dict[str, list[Any]] = {
            name: [np.concatenate(list(row[name])) for row in rows] for name in ("input_ids", "labels")
        }
        lengths = [[len(ids) for ids in row["input_ids"]] for row in rows]
        return {**joined, "lengths": lengths, "members": batch["members"]}

    return Dataset.from_dict({"members": rows.members}).with_transform(put_together)


def sample_lengths(samples: pa.Table) -> NDArray[np.int64]:
    """Tokens of each sample, int64 [samples]."""
    lengths: NDArray[np.int64] = pc.list_value_length(samples["input_ids"]).to_numpy().astype(np.int64)
    return lengths
