"""Optimizer steps' tokens and rows from the lengths of samples."""

from collections import Counter

import numpy as np
import pytest

from gptoss_ft.planning.lengths import Lengths, packed


def test_lengths_from_counts() -> None:
    lengths = Lengths.counted(Counter({30: 2, 10: 1}), 2)
    assert lengths.values.tolist() == [10, 30, 30]
    assert (lengths.longest, lengths.mean, lengths.step_bound) == (30, pytest.approx(70 / 3), 60)
    assert lengths.mean_step_tokens == pytest.approx(140 / 3)


def test_first_fit() -> None:
    assert packed([9, 6, 4, 1], 10) == [10, 10]
    assert packed([12, 3], 10) == [12, 3]
    assert packed([5, 5, 5], 100) == [15]


def test_every_drawn_step_holds_the_effective_batch() -> None:
    values = np.random.default_rng(1).integers(10, 100, 50)
    lengths = Lengths(values, 8)
    # All in one row, then one sample a row.
    assert all(len(step) == 1 for step in lengths.rows(lengths.step_bound))
    assert all(len(step) == 8 for step in lengths.rows(1))
    sums = [sum(step) for step in lengths.rows(lengths.step_bound)]
    assert sum(sums) / len(sums) == pytest.approx(lengths.mean_step_tokens, rel=0.05)
    assert max(sums) <= lengths.step_bound
    assert lengths.rows(200) == Lengths(values, 8).rows(200)


def test_rows_never_exceed_their_budget_and_lose_no_token() -> None:
    lengths = Lengths(np.random.default_rng(2).integers(1, 120, 200), 16)
    for budget in (120, 333, 1000):
        for row_wise, whole in zip(lengths.rows(budget), lengths.rows(lengths.step_bound), strict=True):
            assert max(row_wise) <= budget
            assert sum(row_wise) == sum(whole)


def test_padded_rows_are_as_long_as_their_longest() -> None:
    lengths = Lengths(np.array([10, 20, 30, 40]), 4)
    assert all(step == [80, 40] for step in lengths.padded_rows(2))
    assert all(step == [40, 30, 20, 10] for step in lengths.padded_rows(1))


def test_quantiles_of_the_steps() -> None:
    lengths = Lengths(np.full(100, 7), 4)
    assert (lengths.step_tokens(0.5), lengths.step_tokens(0.95), lengths.step_bound) == (28, 28, 28)


def test_fewer_samples_than_a_step_holds() -> None:
    lengths = Lengths(np.array([5, 6]), 4)
    assert (lengths.step_bound, lengths.mean_step_tokens) == (11, 11)
    assert lengths.rows(100)[0] == [11]
