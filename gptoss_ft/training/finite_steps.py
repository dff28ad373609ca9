"""A loss or a gradient that is not finite: seen before the optimizer changes a weight, and its rows named."""

import math
from collections.abc import Callable, Sequence

from gptoss_ft.config import TrainingSection
from gptoss_ft.errors import NotFiniteError

CURE = (
    "Look at these rows, lower training.learning_rate, or set training.on_nonfinite to skip; the checkpoints so far "
    "are kept."
)
# Told of a step that was left out: its number, and in words why.
Skipped = Callable[[int, str], None]


class FiniteSteps:
    """What becomes of steps that are not finite: the run stops, or leaves up to `training.max_skipped_steps` of them
    out. `named` puts samples, by their index, into words."""

    def __init__(self, training: TrainingSection, named: Callable[[Sequence[int]], str]) -> None:
        self._most = training.max_skipped_steps if training.on_nonfinite == "skip" else 0
        self._named = named
        self.skipped = 0
        self.told: Skipped | None = None

    def leave_out(self, step: int, loss: float, grad_norm: float, samples: Sequence[int]) -> None:
        """Count a step that is left out. `NotFiniteError` where none, or no further one, may be."""
        number = f"loss is {loss}" if not math.isfinite(loss) else f"grad_norm is {grad_norm}"
        words = f"{number}: {self._named(samples)}"
        # More than may be: an earlier run of the job was allowed to.
        if self.skipped >= self._most:
            before = (
                f", after {self.skipped} steps that were skipped (training.max_skipped_steps)" if self._most else ""
            )
            raise NotFiniteError(f"step {step}: {words}{before}", CURE)
        self.skipped += 1
        if self.told is not None:
            self.told(step, words)
