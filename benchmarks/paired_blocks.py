"""Blocks of steps with and without something, side by side: what it costs."""

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Block:
    """Steps one after the other: whether all was on; their seconds, in all and one by one; and which of them a write
    went on in."""

    on: bool
    seconds: float = 0.0
    steps: list[float] = field(default_factory=list)
    written_in: list[bool] = field(default_factory=list)


@dataclass
class Save:
    """Seconds that a checkpoint stopped training, that its files took to be whole beside training, and its bytes."""

    stopped: float
    written: float = 0.0
    bytes: int = 0


def figures(blocks: list[Block], saves: list[Save], block: int) -> dict[str, Any]:
    """Medians over pairs of blocks: of what a step takes, and of ratios with to without."""
    pairs = [sorted(blocks[at : at + 2], key=lambda each: each.on) for at in range(0, len(blocks), 2)]
    all_in, beside, during = [], [], []
    for off, on in pairs:
        usual = statistics.median(off.steps)
        all_in.append(on.seconds / off.seconds)
        # The first step of a block holds the checkpoint's copy.
        later = list(zip(on.steps, on.written_in, strict=True))[1:]
        beside += [seconds / usual for seconds, written_in in later if not written_in]
        during += [seconds / usual for seconds, written_in in later if written_in]
    seconds = statistics.median(seconds for off, _ in pairs for seconds in off.steps)
    stopped, written = (statistics.median(getattr(save, name) for save in saves) for name in ("stopped", "written"))
    return {
        "step_seconds": seconds,
        "save_stops_training_seconds": stopped,
        "save_is_written_in_seconds": written,
        "save_gib": saves[-1].bytes / 2**30,
        "ratio_of_steps_without_a_write": statistics.median(beside) if beside else None,
        "ratio_of_steps_during_a_write": statistics.median(during) if during else None,
        f"ratio_with_a_checkpoint_every_{block}_steps": statistics.median(all_in),
        "quartiles_of_that": statistics.quantiles(all_in, n=4) if len(all_in) > 1 else None,
    }
