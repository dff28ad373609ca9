"""What happens beside a step: it is reported, and a number that is not finite ends the run."""

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gptoss_ft.errors import NotFiniteError
from gptoss_ft.reporting.memory_report import peak_gib
from gptoss_ft.reporting.step_log import EvalRecord, StepLog, StepRecord
from gptoss_ft.runtime import Device, release_cached_memory


class StepReporter(TrainerCallback, ExportableState):
    """Turns the trainer's logs into `StepRecord`s and `EvalRecord`s. A run that goes on counts its time from the start,
    as its checkpoint has kept it."""

    def __init__(self, log: StepLog, device: Device) -> None:
        self._log = log
        self._device = device
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
            # Whatever `logging_steps` is: no number is saved that was not looked at (the trainer logs, then saves).
            control.should_log = True
            release_cached_memory(self._device)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        release_cached_memory(self._device)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "eval_loss" in logs:
            # Not a part of the time that the next steps take.
            self._last_time += logs["eval_runtime"]
            self._log.add_evaluation(EvalRecord(state.global_step, logs["eval_loss"], int(logs["eval_tokens"])))
        if "loss" not in logs:
            # An evaluation, or the summary at the end of training.
            return
        # In float16 the loss scaler starts too high and skips the steps whose gradient overflows.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise NotFiniteError(
                    f"step {state.global_step}: {name} is {logs[name]}",
                    "Lower training.learning_rate, or check the data set's rows; the checkpoints so far are kept.",
                )
        now, tokens = time.monotonic(), state.num_input_tokens_seen
        per_step = (now - self._started) / state.global_step
        record = StepRecord(
            step=state.global_step,
            steps=state.max_steps,
            epoch=round(state.epoch or 0.0, 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm", 0.0),
            tokens=tokens,
            tokens_per_second=round((tokens - self._last_tokens) / (now - self._last_time), 1),
            gib=round(peak_gib(self._device), 3),
            seconds=round(now - self._started, 3),
            seconds_left=round(per_step * (state.max_steps - state.global_step), 1),
        )
        self._last_time, self._last_tokens = now, tokens
        self._log.add(record)
