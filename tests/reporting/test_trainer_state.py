"""The names under which training keeps its state are those that are asked for."""

from gptoss_ft.reporting import trainer_state
from gptoss_ft.training.callbacks import StepReporter
from gptoss_ft.training.evaluation import HeldOutLoss


def test_state_is_kept_by_the_classes_names() -> None:
    assert (HeldOutLoss.__name__, StepReporter.__name__) == (trainer_state.EARLY_STOP, trainer_state.TIME)
