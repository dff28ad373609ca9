"""Signals while training: the first ends the run at the next step, state saved; the second at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl

# A login that ends (HUP) is a reason to save the state, too.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# `timeout` and some schedulers send a signal to the process and to its group: the same one twice at once.
SAME_SIGNAL_SECONDS = 1.0


class StopRequest(TrainerCallback):
    """Asks the trainer to save and stop once a signal came in."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.since = 0.0

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True
        return control


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Handle `SIGNALS` for as long as this lasts; one that was ignored before (`nohup`) still is."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal, request.since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - request.since > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
