"""The samples of an optimizer step, divided into the micro-batches that are computed one after the other.

However they are divided, the step is the same: each token's loss counts once, divided by the trained tokens of the
whole step. A token is trained where its label is and a token of its own document comes before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import torch

from gptoss_ft.data.rendering import IGNORED
from gptoss_ft.planning.plan import Plan, bucketed


@dataclass(frozen=True)
class Document:
    """One sample: its token ids and labels, int64 [length], and its index in the training data."""

    ids: torch.Tensor
    labels: torch.Tensor
    sample: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        """Tokens whose loss counts."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass computes; all int64 [rows, length].

    `documents`, int32 [1, length], number the documents of a packed row, of which its padding is the last; None where
    each row is one sample, padded on the right, with its `attention_mask`. `samples` are the documents' own indices.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    documents: torch.Tensor | None
    attention_mask: torch.Tensor | None
    samples: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.ids.numel()


@dataclass(frozen=True)
class Step:
    """The documents of each row of an optimizer step, in their order; without packing a row is one document. On the
    CPU: what is not a tensor, a list or a mapping, the data loader leaves where it is."""

    rows: tuple[tuple[Document, ...], ...]

    @property
    def documents(self) -> list[Document]:
        return [document for row in self.rows for document in row]


def collate(rows: Sequence[dict[str, Any]]) -> Step:
    """The data loader's batch of rows: `input_ids`, `labels` and the index of the `sample`; with packing, the
    `lengths` and indices of the samples in it (`members`)."""
    return Step(tuple(_split(row) for row in rows))


def _split(row: dict[str, Any]) -> tuple[Document, ...]:
    lengths, members = (
        ([len(row["input_ids"])], [row["sample"]]) if "sample" in row else (row["lengths"], row["members"])
    )
    ids, labels = (
        torch.split(torch.tensor(row[column], dtype=torch.int64), lengths) for column in ("input_ids", "labels")
    )
    return tuple(Document(own, label, sample) for own, label, sample in zip(ids, labels, members, strict=True))


def divide(step: Step, plan: Plan, multiple: int) -> list[MicroBatch]:
    """The micro-batches of an optimizer step, their lengths multiples of `multiple`; packed rows have few lengths, so
    that little is compiled for."""
    documents = step.documents
    if plan.rows == "packed":
        rows = balanced(documents, plan.row_tokens)
        return [_packed(row, bucketed(_total(row), plan.row_tokens, multiple)) for row in rows]
    if all(len(row) == 1 for row in step.rows):
        at_once = plan.rows_at_once
        return [_padded(documents[i : i + at_once], multiple) for i in range(0, len(documents), at_once)]
    # Rows that were filled before: each as it is.
    return [_packed(row, _up(_total(row), multiple)) for row in step.rows]


def balanced(documents: Sequence[Document], most: int) -> list[list[Document]]:
    """The documents in as few rows of at most `most` tokens as first-fit decreasing finds, of lengths as equal as can
    be: the longest row is what takes the memory. A longer document has a row of its own."""
    longest_first = sorted(documents, key=len, reverse=True)
    rows: list[list[Document]] = []
    for document in longest_first:
        for row in rows:
            if _total(row) + len(document) <= most:
                row.append(document)
                break
        else:
            rows.append([document])
    even = _spread(longest_first, len(rows))
    return even if max(map(_total, even)) <= max(map(_total, rows)) else rows


def _spread(longest_first: Sequence[Document], number: int) -> list[list[Document]]:
    """Each document to the row that is shortest so far."""
    rows: list[list[Document]] = [[] for _ in range(number)]
    shortest: list[tuple[int, int]] = [(0, row) for row in range(number)]
    for document in longest_first:
        total, row = heappop(shortest)
        rows[row].append(document)
        heappush(shortest, (total + len(document), row))
    return rows


def _packed(documents: Sequence[Document], length: int) -> MicroBatch:
    ids, labels = torch.zeros(length, dtype=torch.int64), torch.full((length,), IGNORED)
    numbers = torch.full((length,), len(documents), dtype=torch.int32)
    start = 0
    for number, document in enumerate(documents):
        end = start + len(document)
        ids[start:end], labels[start:end], numbers[start:end] = document.ids, document.labels, number
        # Nothing of its own document comes before the first token.
        labels[start] = IGNORED
        start = end
    return MicroBatch(ids[None], labels[None], numbers[None], None, _samples(documents))


def _padded(documents: Sequence[Document], multiple: int) -> MicroBatch:
    shape = (len(documents), _up(max(map(len, documents)), multiple))
    ids, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, document in enumerate(documents):
        ids[row, : len(document)], labels[row, : len(document)] = document.ids, document.labels
        mask[row, : len(document)] = 1
    return MicroBatch(ids, labels, None, mask, _samples(documents))


def _samples(documents: Sequence[Document]) -> tuple[int, ...]:
    return tuple(document.sample for document in documents)


def _total(documents: Sequence[Document]) -> int:
    return sum(map(len, documents))


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
