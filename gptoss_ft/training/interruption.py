"""Signals while training: the first ends the run at the next step, state saved; the second at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest(TrainerCallback):
    """Asks the trainer to save and stop once a signal came in."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True
        return control


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Handle SIGTERM and SIGINT for as long as this lasts."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
