"""TRL's SFTTrainer, but that a step can be left out: what it has counted and summed is put back.

Imported after Unsloth, which replaces TRL's classes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from gptoss_ft.training.saving_trainer import SavingTrainer


@dataclass(frozen=True)
class Counted:
    """What was counted before a step: how many values each of TRL's metrics had, TRL's tokens, the tokens seen; and the
    sum of the losses since the last log, a scalar on the device."""

    metrics: dict[str, int]
    tokens: int
    seen: int
    loss: torch.Tensor


class CountingTrainer(SavingTrainer):
    """The mean loss of a log is that of the steps that were not left out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # How far the log goes, and the steps since then that were left out.
        self._logged_until = self._left_out = 0

    def totals(self) -> dict[str, Any]:
        return {**super().totals(), "without_loss": self._left_out}

    def restore_totals(self, kept: dict[str, Any]) -> None:
        super().restore_totals(kept)
        self._left_out, self._logged_until = kept["without_loss"], kept["last_logged"]

    def _count(self) -> None:
        """Remember what `_put_back` goes back to."""
        metrics = {name: len(values) for name, values in self._metrics["train"].items()}
        seen = self.state.num_input_tokens_seen
        self._counted = Counted(metrics, self._total_train_tokens, seen, self._tr_loss.clone())

    def _put_back(self, model: Any) -> None:
        """All as before the step, but for the random generators and the tokens seen."""
        model.zero_grad(set_to_none=True)
        metrics = self._metrics["train"]
        for name in list(metrics):
            if kept := self._counted.metrics.get(name):
                del metrics[name][kept:]
            else:
                del metrics[name]
        self._total_train_tokens = self._counted.tokens
        if "num_tokens" in metrics:
            metrics["num_tokens"] = [self._total_train_tokens]
        self._tr_loss.copy_(self._counted.loss)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Without a loss where every step was left out, and without a norm that is not finite: JSON has none."""
        if "loss" in logs:
            steps, self._logged_until = self.state.global_step - self._logged_until, self.state.global_step
            mean, had_one = logs.pop("loss"), steps - self._left_out
            if had_one:
                logs["loss"] = mean * steps / had_one if self._left_out else mean
            self._left_out = 0
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]
        super().log(logs, start_time)
