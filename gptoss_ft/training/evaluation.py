"""Evaluation during training: every `eval_steps` steps, which checkpoint is the best, and when to stop early."""

import time
from typing import Any

import pyarrow as pa
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gptoss_ft.config import TrainingSection
from gptoss_ft.data.channels import ChannelReader
from gptoss_ft.inference.evaluate import measure


def is_evaluated(step: int, max_steps: int, eval_steps: int) -> bool:
    """Whether an evaluation follows this step: every `eval_steps`, and the last."""
    return step % eval_steps == 0 or step >= max_steps


class HeldOutLoss(TrainerCallback, ExportableState):
    """Asks the trainer for evaluations and draws the conclusions.

    The best checkpoint is the evaluated one with the lowest loss, of those that a run has which nothing interrupts;
    `TrainerState` names it, so that a run that goes on
    knows it. transformers' own notion of the best (`metric_for_best_model`) also counts evaluations of which there is
    no checkpoint, and then names none.

    A run stops early after `patience` evaluations in a row without a lower loss; None: never. That and the lowest loss
    are kept in every checkpoint's trainer_state.json.
    """

    def __init__(self, eval_steps: int, patience: int | None) -> None:
        self._eval_steps = eval_steps
        self._patience = patience
        self._lowest: float | None = None
        self._waited = 0

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"lowest": self._lowest, "waited": self._waited}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # transformers can restore callbacks, but then restores the signal's order to stop as well.
        states: Any = state.stateful_callbacks
        # None where the run began without evaluation.
        if kept := states.get(type(self).__name__):
            self._lowest, self._waited = kept["attributes"]["lowest"], kept["attributes"]["waited"]
        if state.best_model_checkpoint is None:
            # It is gone, or damaged: the next one that is evaluated is the best of those that are there.
            state.best_metric = state.best_global_step = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if is_evaluated(state.global_step, state.max_steps, self._eval_steps):
            control.should_evaluate = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = kwargs["metrics"]["eval_loss"]
        if self._lowest is None or loss < self._lowest:
            self._lowest, self._waited = loss, 0
        else:
            self._waited += 1
        ends = state.global_step >= state.max_steps
        if self._patience is not None and self._waited >= self._patience:
            ends = control.should_training_stop = control.should_save = True
        # The trainer saves after it has evaluated. What a signal alone has saved is no candidate: without the signal
        # there would be another final model.
        is_saved_anyway = ends or state.global_step % state.save_steps == 0
        if is_saved_anyway and (state.best_metric is None or loss < state.best_metric):
            state.best_metric, state.best_global_step = loss, state.global_step


def evaluate_while_training(trainer: Any, samples: pa.Table, reader: ChannelReader, training: TrainingSection) -> None:
    """Have `trainer` evaluate on `samples` every `training.eval_steps` steps, and after the last."""
    assert training.eval_steps is not None

    def evaluate(**_: Any) -> dict[str, float]:
        started = time.monotonic()
        total = measure(trainer.model, samples, reader, trainer.evaluated_at_once).total
        seconds = round(time.monotonic() - started, 3)
        metrics = {"eval_loss": total.mean, "eval_tokens": total.tokens, "eval_runtime": seconds}
        # Not TRL's, which would add training's metrics so far, and forget them.
        Trainer.log(trainer, dict(metrics))
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    # In place of the trainer's own loop, which computes all logits, and attention densely.
    trainer.evaluate = evaluate
    trainer.add_callback(HeldOutLoss(training.eval_steps, training.early_stopping_patience))
