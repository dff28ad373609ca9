"""What a checkpoint's trainer_state.json says of the run that wrote it. Without transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_ft.config import TrainingSection
from gptoss_ft.reporting.checkpoint_folder import checkpoints_in, step_of, what_is_wrong

TRAINER_STATE = "trainer_state.json"
# The trainer's callbacks whose state says whether a run stopped early, and how long it took: the names of their
# classes, since transformers keeps it by these.
EARLY_STOP = "HeldOutLoss"
TIME = "StepReporter"
# Of steps divided by the steps of an epoch.
EPOCH_ROUNDING = 1e-6


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint, its loss on the held-out rows in nats a token, and why it is not whole."""

    path: Path
    loss: float
    wrong: str | None


def seconds_until(checkpoint: Path) -> float:
    """How long training took until the checkpoint, which is whole."""
    return float(_attributes(_state_of(checkpoint), TIME).get("seconds", 0.0))


def ends_with(checkpoint: Path, training: TrainingSection) -> bool:
    """Whether all steps that `training` asks for are done with the checkpoint, which is whole, or the run stopped early
    at it. What the run before was asked for does not count: that may have changed."""
    state = _state_of(checkpoint)
    patience = training.early_stopping_patience
    if patience is not None and _attributes(state, EARLY_STOP).get("waited", 0) >= patience:
        return True
    if training.num_train_epochs is not None:
        return float(state["epoch"]) > training.num_train_epochs - EPOCH_ROUNDING
    assert training.max_steps is not None
    return step_of(checkpoint) >= training.max_steps


def better_checkpoint(path: Path) -> BestCheckpoint | None:
    """The checkpoint in the folder of a run that has the lowest loss on held-out rows; None where that is the newest
    one, or none was evaluated."""
    newest = next(iter(checkpoints_in(path)), None)
    state = _state_of(newest) if newest else {}
    if newest is None or state.get("best_model_checkpoint") is None:
        return None
    # By its name: the folder may have another place by now.
    best = path / Path(state["best_model_checkpoint"]).name
    return BestCheckpoint(best, state["best_metric"], what_is_wrong(best)) if best != newest else None


def _state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    return state


def _attributes(state: dict[str, Any], callback: str) -> dict[str, Any]:
    attributes: dict[str, Any] = state.get("stateful_callbacks", {}).get(callback, {}).get("attributes", {})
    return attributes
