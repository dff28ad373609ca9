"""Which rendered samples are trained on and which are evaluated on: held-out rows, duplicates, the entries' shares.

Choices depend on the seed, the entry and the row's number alone, so that they are the same on every machine. Arrays
hold one value a sample, in the order of the rendered file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.storage import RenderedFile

Mask = NDArray[np.bool_]

DUPLICATE = "the same as an evaluation row"
BEYOND_SHARE = "left out by dataset.weight"


@dataclass(frozen=True)
class Selection:
    """Masks over the rendered samples, and for each reason the samples that it left out."""

    train: Mask
    eval: Mask
    left_out: dict[str, Mask]


def select(configs: Sequence[DatasetSection], rendered: RenderedFile, seed: int) -> Selection:
    """Choose among the samples of `rendered`, which come from the entries `configs`.

    Of an entry with `eval_fraction` that share of its rows, rounded and at least one, is evaluated on. Whatever equals
    an evaluation sample is not trained on. With weights the training rows are cut down to the entries' shares: as many
    as there can be without a row occurring twice.
    """
    source, row = rendered.column("source"), rendered.column("source_row")
    evaluated = np.zeros(len(source), bool)
    for index, config in enumerate(configs):
        if config.eval:
            evaluated |= source == index
        elif config.eval_fraction:
            rows = np.unique(row[source == index])
            number = max(1, round(config.eval_fraction * len(rows)))
            evaluated |= (source == index) & np.isin(row, _draw(rows, number, (seed, index, 0)))
    left_out: dict[str, Mask] = {}
    trained = ~evaluated
    if evaluated.any():
        digests = rendered.column("digest")
        same = trained & np.isin(digests, np.unique(digests[evaluated]))
        if same.any():
            left_out[DUPLICATE] = same
            trained &= ~same
    shares = [0.0 if config.eval else config.weight for config in configs]
    if any(shares):
        beyond = _beyond_shares(np.array(shares, float), source, row, trained, seed)
        left_out[BEYOND_SHARE] = beyond
        trained &= ~beyond
    return Selection(trained, evaluated, left_out)


def _beyond_shares(
    weights: NDArray[np.float64], source: NDArray[np.int32], row: NDArray[np.int64], trained: Mask, seed: int
) -> Mask:
    """The training samples of rows that are too many for their entry's share."""
    rows = [np.unique(row[trained & (source == index)]) for index in range(len(weights))]
    weighted = [index for index, weight in enumerate(weights) if weight > 0]
    scale = min(len(rows[index]) / weights[index] for index in weighted)
    beyond = np.zeros(len(source), bool)
    for index in weighted:
        kept = _draw(rows[index], round(scale * weights[index]), (seed, index, 1))
        beyond |= trained & (source == index) & ~np.isin(row, kept)
    return beyond


def _draw(rows: NDArray[np.int64], number: int, salt: tuple[int, int, int]) -> NDArray[np.int64]:
    """`number` of the rows, those with the smallest hash."""
    key = np.uint64(0)
    for part in salt:
        key = _mixed(np.array([key ^ np.uint64(part)]))[0]
    return rows[np.argsort(_mixed(rows.astype(np.uint64) ^ key), kind="stable")[:number]]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood 2014), a bijection that spreads neighbouring numbers."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
