"""Lengths of the samples that are trained on, and what they make of an optimizer step's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Optimizer steps that are drawn to see how samples fall into rows; fewer where a step holds many samples.
STEPS_DRAWN = 64
SAMPLES_DRAWN = 2048


@dataclass(frozen=True, eq=False)
class Lengths:
    """`values` are the samples' lengths in tokens (int64, one a sample), `effective_batch` the samples of an optimizer
    step. `assumed` says that they are not of real samples."""

    values: NDArray[np.int64]
    effective_batch: int
    assumed: bool = False

    @classmethod
    def counted(cls, lengths: Mapping[int, int], effective_batch: int) -> "Lengths":
        """From how often each length occurs, as `Summary.train.lengths` says."""
        ordered = sorted(lengths)
        values = np.repeat(np.array(ordered, np.int64), [lengths[length] for length in ordered])
        return cls(values, effective_batch)

    @classmethod
    def all_of(cls, length: int, effective_batch: int) -> "Lengths":
        """Nothing is known: every sample is taken to be as long as it may be."""
        return cls(np.full(effective_batch, length, np.int64), effective_batch, assumed=True)

    @property
    def longest(self) -> int:
        return int(np.max(self.values))

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @cached_property
    def step_bound(self) -> int:
        """No optimizer step holds more tokens: the longest samples of all in one."""
        return int(np.sort(self.values)[-self.effective_batch :].sum())

    @cached_property
    def _steps(self) -> tuple[tuple[int, ...], ...]:
        """Drawn optimizer steps, each the lengths of its samples, longest first; the same at every call."""
        batch = min(self.effective_batch, len(self.values))
        count = max(8, min(STEPS_DRAWN, SAMPLES_DRAWN // batch))
        drawn = np.random.default_rng(0)
        # As the trainer does it: a shuffled pass over the data, and another one when it is used up.
        passes = [drawn.permutation(self.values) for _ in range(-(-count * batch // len(self.values)))]
        flat = np.concatenate(passes)[: count * batch].reshape(count, batch)
        return tuple(tuple(sorted(step.tolist(), reverse=True)) for step in flat)

    def step_tokens(self, share: float) -> int:
        """Tokens of an optimizer step that this share of the steps does not exceed."""
        return int(np.quantile([sum(step) for step in self._steps], share, method="inverted_cdf"))

    @property
    def mean_step_tokens(self) -> float:
        return self.mean * min(self.effective_batch, len(self.values))

    def rows(self, row_tokens: int) -> list[list[int]]:
        """Tokens of each row, for each drawn step, where samples are laid into rows of at most `row_tokens`."""
        return [packed(step, row_tokens) for step in self._steps]

    def padded_rows(self, rows_at_once: int) -> list[list[int]]:
        """As `rows`, where so many samples are padded to the longest of them."""
        return [
            [max(step[at : at + rows_at_once]) * len(step[at : at + rows_at_once])
             for at in range(0, len(step), rows_at_once)]
            for step in self._steps
        ]  # fmt: skip


def packed(lengths: Sequence[int], row_tokens: int) -> list[int]:
    """Tokens of each row when samples (longest first) go each into the first row with room for it. One that is longer
    than a row stands alone."""
    rows: list[int] = []
    for length in lengths:
        for row, tokens in enumerate(rows):
            if tokens + length <= row_tokens:
                rows[row] += length
                break
        else:
            rows.append(length)
    return rows
