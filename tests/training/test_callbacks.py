import pytest

from gptoss_ft.training.callbacks import LOSSES, LossAlarm


def said(alarm: LossAlarm, losses: list[float]) -> list[str]:
    return [words for loss in losses if (words := alarm.take(loss))]


def test_a_loss_that_rises_past_the_multiple_is_told_once() -> None:
    alarm = LossAlarm(2.0, [])
    assert said(alarm, [3.0, *[1.0] * LOSSES]) == []
    # The mean of ten is 1.9, then 2.8.
    assert said(alarm, [10.0]) == []
    assert said(alarm, [10.0]) == [
        "the loss rises: 2.8000 over the last 10 lines, and it was 1.0000 before (training.loss_alarm: 2)"
    ]
    assert said(alarm, [100.0] * 5) == []


def test_few_losses_are_no_mean() -> None:
    assert said(LossAlarm(2.0, []), [1.0, *[50.0] * (LOSSES - 1), 50.0]) == []


@pytest.mark.parametrize(("earlier", "times"), [([1.0] * LOSSES, 1), ([*[1.0] * LOSSES, 10.0, 10.0], 0)])
def test_a_run_that_goes_on_knows_what_was_logged(earlier: list[float], times: int) -> None:
    assert len(said(LossAlarm(2.0, earlier), [10.0, 10.0, 10.0])) == times
