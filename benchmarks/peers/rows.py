"""Rows of random tokens, made once and handed to every contender."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Distribution = Literal["lognormal", "full"]

# The median of the drawn lengths as a share of the longest, and the share of them that is cut at the longest.
MEDIAN = 600 / 1024
CUT = 0.1
# The standard normal's quantile at 1 - CUT.
CUT_QUANTILE = 1.2815515655
SHORTEST = 8


@dataclass(frozen=True)
class Rows:
    """Rows in the order in which they are trained on: their tokens end to end (int32), and their lengths (int64).
    All tokens are trained."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, lengths=self.lengths)

    @classmethod
    def load(cls, path: Path) -> Rows:
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["lengths"])

    def each(self) -> list[NDArray[np.int32]]:
        """The rows one by one."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])

    def tokens_of_steps(self, effective_batch: int) -> list[int]:
        """Tokens of every optimizer step that takes `effective_batch` rows."""
        return [int(total) for total in self.lengths.reshape(-1, effective_batch).sum(axis=1)]

    def dataset(self) -> Any:
        """As a `datasets.Dataset` with input_ids and labels. Imports datasets."""
        from datasets import Dataset

        rows = [row.tolist() for row in self.each()]
        return Dataset.from_dict({"input_ids": rows, "labels": rows})


def draw_lengths(distribution: Distribution, count: int, longest: int, seed: int) -> NDArray[np.int64]:
    """`count` lengths from SHORTEST to `longest`: log-normal and cut at `longest`, or all of them `longest`."""
    if distribution == "full":
        return np.full(count, longest, np.int64)
    sigma = -math.log(MEDIAN) / CUT_QUANTILE
    drawn = np.random.default_rng(seed).lognormal(math.log(MEDIAN * longest), sigma, count)
    return np.clip(np.rint(drawn), SHORTEST, longest).astype(np.int64)


def draw_rows(lengths: NDArray[np.int64], vocabulary: int, padding_id: int, seed: int) -> Rows:
    """Rows of uniformly drawn ids below `vocabulary`. None is `padding_id`, which a collator might mask."""
    ids = np.random.default_rng((seed, 1)).integers(0, vocabulary - 1, int(lengths.sum()), np.int32)
    return Rows(np.where(ids >= padding_id, ids + np.int32(1), ids), lengths)


def shuffled_back(rows: Rows, seed: int) -> list[NDArray[np.int32]]:
    """The rows laid so that a `Trainer` with this seed, which shuffles them, takes them in their order.

    transformers 5.17.0 draws one permutation from a generator seeded with the run's seed.
    """
    import torch

    order = torch.randperm(len(rows.lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    laid: list[NDArray[np.int32]] = [rows.ids] * len(order)
    for row, place in zip(rows.each(), order, strict=True):
        laid[place] = row
    return laid


def table(rows: list[NDArray[np.int32]]) -> pa.Table:
    """Rows in the schema of this project's prepared data."""
    import pyarrow as pa

    from gptoss_ft.data.storage import SCHEMA

    numbers = list(range(len(rows)))
    columns = {
        "input_ids": rows, "labels": rows, "source": [0] * len(rows), "source_row": numbers,
        "sample_index": [0] * len(rows),
    }  # fmt: skip
    return pa.table(columns, SCHEMA)


def write_prepared_folder(rows: list[NDArray[np.int32]], tokenizer_hash: str, folder: Path) -> None:
    """Write rows as `prepare --output` writes them, for `dataset.prepared`."""
    import hashlib
    from collections import Counter

    import pyarrow.parquet as pq

    from gptoss_ft.data.storage import SPLITS, SampleHash, write_summary
    from gptoss_ft.data.summary import SplitSummary, Summary

    train = table(rows)
    digests = []
    for split, content in zip(SPLITS, (train, train.slice(0, 0)), strict=True):
        pq.write_table(content, folder / f"{split}.parquet")
        digest = SampleHash()
        for batch in content.combine_chunks().to_batches():
            digest.update(batch)
        digests.append(digest.hexdigest())
    lengths = Counter(len(row) for row in rows)
    tokens = sum(len(row) for row in rows)
    counts = SplitSummary(samples=len(rows), rows=len(rows), tokens=tokens, trained_tokens=tokens, lengths=lengths)
    fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()
    summary = Summary(
        key="random rows", tokenizer=tokenizer_hash, max_seq_length=max(lengths), rendered_lengths=lengths,
        train=counts, fingerprint=fingerprint,
    )  # fmt: skip
    write_summary(folder, summary)
