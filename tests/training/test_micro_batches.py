"""How the samples of an optimizer step are divided; values by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plans import plan

from gptoss_ft.training.micro_batches import Document, Step, balanced, collate, divide


def document(length: int, first: int = 1) -> Document:
    ids = torch.arange(first, first + length)
    return Document(ids, torch.where(torch.arange(length) < length // 2, -100, ids), first)


def step(*lengths: int) -> Step:
    return Step(tuple((document(length, 100 * number),) for number, length in enumerate(lengths, 1)))


def test_packed_rows_hold_documents_end_to_end_and_padding_after_them() -> None:
    (found,) = divide(step(3, 2), plan("packed", row_tokens=64), 8)
    assert found.ids.tolist() == [[100, 101, 102, 200, 201, 0, 0, 0]]
    # The first token of a document has nothing of its own before it, whatever its label is.
    assert found.labels.tolist() == [[-100, 101, 102, -100, 201, -100, -100, -100]]
    assert found.documents is not None
    assert found.documents.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert found.attention_mask is None
    assert found.samples == (100, 200)


def test_padded_rows_are_masked_where_they_are_padding() -> None:
    first, second = divide(step(3, 2, 5), plan("padded", rows_at_once=2), 4)
    assert first.ids.tolist() == [[100, 101, 102, 0], [200, 201, 0, 0]]
    assert first.labels.tolist() == [[-100, 101, 102, -100], [-100, 201, -100, -100]]
    assert first.attention_mask is not None
    assert first.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert second.ids.shape == (1, 8)
    assert (first.samples, second.samples) == ((100, 200), (300,))
    assert first.documents is None


def test_rows_that_were_filled_before_stay_as_they_are() -> None:
    row = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "lengths": [3, 2], "members": [7, 4]}
    rows = [row] * 2
    first, second = divide(collate(rows), plan("as configured"), 1)
    assert first.ids.tolist() == second.ids.tolist() == [[1, 2, 3, 4, 5]]
    assert first.documents is not None
    assert first.documents.tolist() == [[0, 0, 0, 1, 1]]
    assert first.samples == (7, 4)


def test_rows_have_few_lengths() -> None:
    lengths = set()
    for total in range(8, 1025, 8):
        (row,) = divide(step(total // 2, total // 2), plan("packed", row_tokens=1024), 1)
        lengths.add(row.tokens)
    assert lengths == set(range(128, 1025, 128))


def test_trained_tokens_have_one_of_their_own_before_them() -> None:
    ids = torch.tensor([5, 6, 7])
    assert Document(ids, ids, 0).trained == 2
    assert Document(ids, torch.tensor([5, -100, 7]), 0).trained == 1


@pytest.mark.parametrize(
    ("lengths", "most", "rows"),
    [([50, 50], 100, [100]), ([60, 50, 40, 30], 100, [90, 90]), ([70, 20, 20], 60, [40, 70])],
)
def test_rows_are_few_and_even(lengths: list[int], most: int, rows: list[int]) -> None:
    found = balanced([document(length) for length in lengths], most)
    assert sorted(sum(map(len, row)) for row in found) == rows


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(60, 200))
def test_no_document_is_lost_and_no_row_too_long(lengths: list[int], most: int) -> None:
    documents = [document(length) for length in lengths]
    rows = balanced(documents, most)
    assert sorted(id(own) for row in rows for own in row) == sorted(map(id, documents))
    assert max(sum(map(len, row)) for row in rows) <= most
