"""What ends training before its last step with its state saved: a signal, or `training.time_limit`.

The step that is being computed is finished where it and a checkpoint fit into the time that is left, and given up where
they do not: it has changed nothing yet. A second signal ends the run at once.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from gptoss_ft.config import TrainingSection
from gptoss_ft.runtime import process_seconds
from gptoss_ft.training.checkpoints import CheckpointWriter
from gptoss_ft.training.evaluation import is_evaluated

# A login that ends (HUP) is a reason to save the state, too; USR1 is what schedulers warn with.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# `timeout` and some schedulers send a signal to the process and to its group: the same one twice at once.
SAME_SIGNAL_SECONDS = 1.0
# A step is expected to take as long as the longest of so many before it.
STEPS_REMEMBERED = 20

# The signals that are handled at present.
_heeded: list[signal.Signals] = []


class StepAbandoned(Exception):
    """Raised out of a step that does not fit into the time that is left, before it has changed any weight."""


class StopRequest(TrainerCallback):
    """Asks the trainer to save and stop once a signal came in, or when there is no time for another step.

    `checkpoints` knows how long one takes; a signal leaves `training.grace_seconds`; the minutes of
    `training.time_limit` count from the start of the process.
    """

    def __init__(self, checkpoints: CheckpointWriter, training: TrainingSection) -> None:
        self.signal: signal.Signals | None = None
        self.since = 0.0
        self.has_stopped = False
        self._checkpoints = checkpoints
        self._training = training
        minutes = training.time_limit
        self._limit = None if minutes is None else time.monotonic() - process_seconds() + 60 * minutes
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._began = 0.0
        # The longest evaluation so far, and how long those take that come before the next checkpoint can be written.
        self._evaluation = self._evaluations = 0.0

    def heed(self, number: int) -> None:
        """Called between any two bytecodes, in the middle of an optimizer step as well: it only takes note."""
        if self.signal is None:
            self.signal, self.since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self.since > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    @property
    def is_wanted(self) -> bool:
        return self.signal is not None or not self._fits(self.step_seconds)

    @property
    def leaves_no_step(self) -> bool:
        """Whether the time limit ended the run before it had done a step."""
        return self.has_stopped and self.signal is None and not self._steps

    @property
    def step_seconds(self) -> float:
        """What a step is expected to take; 0 before the first."""
        return max(self._steps, default=0.0)

    def give_up_unless_it_fits(self, seconds: float) -> None:
        """`StepAbandoned` where a step that needs so many more seconds, and a checkpoint, do not fit."""
        if not self._fits(seconds):
            self.has_stopped = True
            raise StepAbandoned

    def _fits(self, seconds: float) -> bool:
        ends = [self._limit] if self._limit is not None else []
        if self.signal is not None:
            ends.append(self.since + self._training.grace_seconds)
        needed = seconds + self._evaluations + self._checkpoints.expected_seconds
        return not ends or time.monotonic() + needed <= min(ends)

    def _evaluation_after(self, step: int, state: TrainerState) -> float:
        every = self._training.eval_steps
        return self._evaluation if every is not None and is_evaluated(step, state.max_steps, every) else 0.0

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._began = time.monotonic()
        self._evaluations = self._evaluation_after(state.global_step + 1, state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        self._steps.append(time.monotonic() - self._began)
        # Its own is still to come, and that of the next step.
        self._evaluations = sum(
            self._evaluation_after(step, state) for step in (state.global_step, state.global_step + 1)
        )
        if self.is_wanted:
            self.has_stopped = control.should_save = control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._evaluation = max(self._evaluation, kwargs["metrics"]["eval_runtime"])

    def told(self, state: TrainerState) -> str:
        """How the run ended."""
        why = "interrupted" if self.signal is not None else "ended by training.time_limit"
        saved = "the state is saved" if state.global_step else "before there was a state to save"
        return f"{why} after {state.global_step} of {state.max_steps} steps, {saved}"


@contextmanager
def stop_on_signal(request: StopRequest) -> Iterator[None]:
    """Handle `SIGNALS` for as long as this lasts; one that was ignored before (`nohup`) still is."""

    def handle(number: int, frame: FrameType | None) -> None:
        request.heed(number)

    _heeded.extend(number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN)
    previous = {number: signal.signal(number, handle) for number in _heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _heeded.clear()


def _give_up_in_child() -> None:
    """A process that is forked off, as a data worker is, ends by a signal as any other does; but a terminal sends INT
    to all of them, and the parent still needs it."""
    for number in _heeded:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_give_up_in_child)
