"""A plan: how an optimizer step is computed, with the reason for each choice, and what comes after it when memory runs
out all the same."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.memory import MemoryEstimate, estimate
from gptoss_ft.planning.shapes import ModelShapes

# Rows are multiples of this many tokens: flex attention's block.
BLOCK = 128
# Of packed rows at most this many lengths occur, so that little is compiled for.
BUCKETS = 8


Tokens = TypeVar("Tokens", int, NDArray[np.int64])


def bucketed(tokens: Tokens, row_tokens: int, multiple: int = BLOCK) -> Tokens:
    """The length that a packed row of so many tokens is padded to: one of `BUCKETS`, a multiple of `multiple`, and no
    more than `row_tokens` rounded up to one."""
    bucket = _up(-(-row_tokens // BUCKETS), multiple)
    longest = _up(row_tokens, multiple)
    padded: Tokens = -(-tokens // bucket) * bucket
    return min(padded, longest) if isinstance(padded, int) else np.minimum(padded, longest)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Reason(NamedTuple):
    choice: str
    why: str


@dataclass(frozen=True)
class Room:
    """A model, a job, what is held where, and the GiB that may be reserved: how much fits."""

    shapes: ModelShapes
    job: JobConfig
    keep_dequantized: bool
    offload_embedding: bool
    budget_gib: float

    @property
    def most_checkpointed(self) -> int:
        """Layers that may be recomputed: none where the config says so."""
        return self.shapes.layers if self.job.training.gradient_checkpointing else 0

    def estimate(self, tokens: int, checkpointed: int) -> MemoryEstimate:
        return estimate(self.shapes, self.job, tokens, checkpointed, self.keep_dequantized, self.offload_embedding)

    def fits(self, tokens: int, checkpointed: int) -> bool:
        return self.estimate(tokens, checkpointed).peak_gib <= self.budget_gib

    def checkpointed(self, tokens: int) -> int:
        """The fewest layers to recompute for a row of so many tokens; all that may be where none is enough."""
        low, high = 0, self.most_checkpointed
        while low < high:
            middle = (low + high) // 2
            if self.fits(tokens, middle):
                high = middle
            else:
                low = middle + 1
        return low

    def most_tokens(self, checkpointed: int, limit: int) -> int:
        """Tokens of the longest row that fits, a multiple of `BLOCK`; 0 where none does, `limit` rounded up at most."""
        low, high = 0, -(-limit // BLOCK)
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(middle * BLOCK, checkpointed):
                low = middle
            else:
                high = middle - 1
        return low * BLOCK


@dataclass(frozen=True)
class Plan:
    """How the samples of an optimizer step are computed.

    `rows`: "packed" lays samples end to end into rows of at most `row_tokens` tokens; "padded" computes `rows_at_once`
    samples at a time, padded to the longest; "as configured" leaves the step as `training` says. `row_tokens` are the
    tokens of the longest micro-batch, padding included. `checkpointed_layers` are recomputed for a row of that length.
    `estimate`, `tokens_per_second` and `seconds` (of the whole job) are None where they are not known.
    """

    rows: Literal["packed", "padded", "as configured"]
    row_tokens: int
    rows_at_once: int
    checkpointed_layers: int
    keep_dequantized: bool
    offload_embedding: bool
    estimate: MemoryEstimate | None
    reasons: tuple[Reason, ...]
    tokens_per_second: float | None
    seconds: float | None
    fits: bool
    cures: tuple[str, ...]
    longest_sample: int
    room: Room | None = field(repr=False)

    @property
    def key(self) -> str:
        """What of it decides how a step is computed; plans of one job and model with the same key are the same."""
        kept = "kept" if self.keep_dequantized else "not kept"
        return f"{self.rows} {self.row_tokens} {self.rows_at_once} {self.checkpointed_layers} {kept}"

    def checkpointed(self, tokens: int) -> int:
        """Layers to recompute for a row of so many tokens: shorter rows need fewer, and none needs more than
        `checkpointed_layers`, for none is longer than `row_tokens`."""
        if self.room is None or self.rows == "as configured":
            return self.checkpointed_layers
        return min(self._by_blocks(-(-tokens // BLOCK)), self.checkpointed_layers)

    def _by_blocks(self, blocks: int) -> int:
        if blocks not in self._known and self.room is not None:
            self._known[blocks] = self.room.checkpointed(blocks * BLOCK)
        return self._known[blocks]

    @cached_property
    def _known(self) -> dict[int, int]:
        return {}

    def smaller(self) -> "Plan | None":
        """The next plan to try when memory runs out: no experts kept, half as many layers that are not recomputed, half
        the row (or half the samples at once) down to the longest sample; None when there is nothing left to give."""
        if self.room is None or self.rows == "as configured":
            return None
        if self.keep_dequantized:
            return self._with(keep_dequantized=False)
        most = self.room.most_checkpointed
        whole = most - self.checkpointed_layers
        # The last one comes and goes as a recomputed one does.
        if whole > 1:
            return self._with(checkpointed_layers=most - whole // 2)
        if self.rows == "packed":
            half = max(self.row_tokens // 2, self.longest_sample)
            if half < self.row_tokens:
                return self._with(row_tokens=half)
            return None
        if self.rows_at_once > 1:
            at_once = self.rows_at_once // 2
            return self._with(rows_at_once=at_once, row_tokens=at_once * self.longest_sample)
        return None

    def padded(self) -> "Plan":
        """The same without rows of several documents: as many samples at once as fit into the row, padded."""
        if self.rows != "packed":
            return self
        return replace(self, rows="padded", rows_at_once=max(1, self.row_tokens // self.longest_sample))

    def _with(self, **changes: object) -> "Plan":
        """The changed plan, whose shorter rows keep to its own estimate: the one before it was too low."""
        changed: Plan = replace(self, **changes)  # type: ignore[arg-type]
        assert changed.room is not None
        room = replace(changed.room, keep_dequantized=changed.keep_dequantized)
        expected = room.estimate(changed.row_tokens, changed.checkpointed_layers)
        room = replace(room, budget_gib=min(expected.peak_gib, room.budget_gib))
        return replace(changed, estimate=expected, room=room)
