"""What happens beside a step: it is reported, and so is a loss that rises."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gptoss_ft.reporting.memory_report import peak_gib
from gptoss_ft.reporting.step_log import EvalRecord, SkipRecord, StepLog, StepRecord
from gptoss_ft.runtime import Device, release_cached_memory

# Losses that a mean is taken over before it is compared.
LOSSES = 10


class LossAlarm:
    """Goes off once, when the mean of the last `LOSSES` losses is more than `multiple` of the lowest such mean.

    `earlier` are the losses that a run which goes on has logged before.
    """

    def __init__(self, multiple: float, earlier: Iterable[float]) -> None:
        self._multiple = multiple
        self._last: deque[float] = deque(maxlen=LOSSES)
        self._lowest = float("inf")
        self._is_off = False
        for loss in earlier:
            self.take(loss)

    def take(self, loss: float) -> str | None:
        """What is to be said of the next loss, in nats a token; None for nothing."""
        self._last.append(loss)
        mean = sum(self._last) / len(self._last)
        if self._is_off or len(self._last) < LOSSES:
            return None
        self._lowest = min(self._lowest, mean)
        self._is_off = mean > self._multiple * self._lowest
        if not self._is_off:
            return None
        return (
            f"the loss rises: {mean:.4f} over the last {LOSSES} lines, and it was {self._lowest:.4f} before "
            f"(training.loss_alarm: {self._multiple:g})"
        )


class StepReporter(TrainerCallback, ExportableState):
    """Turns the trainer's logs into `StepRecord`s and `EvalRecord`s. A run that goes on counts its time from the start,
    as its checkpoint has kept it. `loss_alarm` is the multiple for `LossAlarm` (None: without)."""

    def __init__(self, log: StepLog, device: Device, loss_alarm: float | None) -> None:
        self._log = log
        self._device = device
        earlier = (record.loss for record in log.records)
        self._alarm = None if loss_alarm is None else LossAlarm(loss_alarm, earlier)
        self._started = self._last_time = 0.0
        self._last_tokens = 0

    def state(self) -> dict[str, Any]:
        now = time.monotonic()
        kept = {"seconds": now - self._started, "since_log": now - self._last_time, "last_tokens": self._last_tokens}
        return {"args": {}, "attributes": kept}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = self._last_time = time.monotonic()
        if state.global_step:
            states: Any = state.stateful_callbacks
            kept = states[type(self).__name__]["attributes"]
            self._started -= kept["seconds"]
            self._last_time -= kept["since_log"]
            self._last_tokens = kept["last_tokens"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        is_last = state.global_step >= state.max_steps
        # An evaluation may be followed by a checkpoint.
        if control.should_save or control.should_evaluate or is_last:
            # Whatever `logging_steps` is: the log tells of the step that a checkpoint or an evaluation is of.
            control.should_log = True
            release_cached_memory(self._device)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        release_cached_memory(self._device)

    def add_skip(self, step: int, why: str) -> None:
        self._log.add_skip(SkipRecord(step, why))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "eval_loss" in logs:
            # Not a part of the time that the next steps take.
            self._last_time += logs["eval_runtime"]
            self._log.add_evaluation(EvalRecord(state.global_step, logs["eval_loss"], int(logs["eval_tokens"])))
        if "loss" not in logs:
            # An evaluation, or the summary at the end of training.
            return
        now, tokens = time.monotonic(), state.num_input_tokens_seen
        per_step = (now - self._started) / state.global_step
        record = StepRecord(
            step=state.global_step,
            steps=state.max_steps,
            epoch=round(state.epoch or 0.0, 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            tokens=tokens,
            tokens_per_second=round((tokens - self._last_tokens) / (now - self._last_time), 1),
            gib=round(peak_gib(self._device), 3),
            seconds=round(now - self._started, 3),
            seconds_left=round(per_step * (state.max_steps - state.global_step), 1),
        )
        self._last_time, self._last_tokens = now, tokens
        self._log.add(record)
        if self._alarm is not None and (words := self._alarm.take(record.loss)):
            self._log.warn(words)
