import numpy as np
import pyarrow as pa
import pytest

from gptoss_ft.data.packing import AT_ONCE, packed_dataset, rows_of, sample_lengths


def lengths_of(number: int, most: int) -> np.ndarray:
    drawn = np.random.default_rng(0).lognormal(np.log(most / 2), 0.5, number).astype(np.int64)
    return np.clip(drawn, 1, most)


def test_every_sample_is_in_one_row_and_no_row_is_too_long() -> None:
    lengths = lengths_of(AT_ONCE + 500, 1024)
    rows = rows_of(lengths, 1024, seed=7)
    assert sorted(index for row in rows.members for index in row) == list(range(len(lengths)))
    assert max(int(lengths[row].sum()) for row in rows.members) <= 1024
    assert rows.tokens == lengths.sum()
    # No way needs fewer rows than the tokens fill.
    assert len(rows.members) >= -(-rows.tokens // 1024)
    assert rows.filled > 0.9


def test_rows_are_fixed_by_the_seed() -> None:
    lengths = lengths_of(AT_ONCE + 500, 256)
    assert rows_of(lengths, 256, 1) == rows_of(lengths, 256, 1)
    assert rows_of(lengths, 256, 1) != rows_of(lengths, 256, 2)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([10, 10, 10], 3),
        ([6, 4, 5, 5], 2),
        ([7, 3, 3, 7], 2),
        ([1] * 10, 1),
        ([], 0),
    ],
)
def test_small_cases_by_hand(lengths: list[int], rows: int) -> None:
    assert len(rows_of(np.array(lengths, np.int64), 10, 0).members) == rows


def test_a_row_is_its_samples_end_to_end() -> None:
    ids = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    labels = [[-100, 2, 3], [-100], [-100, 6], [-100, -100, 9, 10]]
    types = {"input_ids": pa.array(ids, pa.list_(pa.int32())), "labels": pa.array(labels, pa.list_(pa.int32()))}
    samples = pa.table(types)
    assert sample_lengths(samples).tolist() == [3, 1, 2, 4]
    rows = rows_of(sample_lengths(samples), 5, 0)
    dataset = packed_dataset(samples, rows)
    assert len(dataset) == 2
    for members, row in zip(rows.members, dataset, strict=True):
        assert list(row["input_ids"]) == [token for member in members for token in ids[member]]
        assert list(row["labels"]) == [label for member in members for label in labels[member]]
        assert row["lengths"] == [len(ids[member]) for member in members]
        assert row["members"] == members
