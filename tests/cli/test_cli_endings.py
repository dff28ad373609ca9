"""Interruptions, a full disk, and defects of ours."""

import errno
import importlib
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run

from gptoss_ft import cli, job
from gptoss_ft.config import LoadedConfig
from gptoss_ft.errors import DiskError, ExitCode, Interrupted
from gptoss_ft.reporting.output_folder import Start


def raise_in_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    def train(*_: object) -> None:
        act()

    monkeypatch.setattr(job, "train", train)


def stop() -> None:
    raise Interrupted("interrupted after 3 of 9 steps, the state is saved", "The same command continues.")


def test_an_interrupted_run(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_training(monkeypatch, stop)
    train().check(
        ExitCode.INTERRUPTED,
        "stopped: interrupted after 3 of 9 steps, the state is saved",
        "The same command continues.",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training(train: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    raise_in_training(monkeypatch, lambda: signal.raise_signal(number))
    train().check(
        ExitCode.INTERRUPTED,
        "stopped: at once; steps since the last checkpoint, if any, are lost",
        "The same command continues.",
    )


def test_an_interrupted_merge_says_what_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("outputs/run/final_model")
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    shutil.copyfile("job.yaml", folder.parent / "job.yaml")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name, words, cure in (
        ("merge", "the files of weights that were whole are kept", "The same command continues."),
        ("push", "what has arrived at the hub is not sent again", "The same command continues."),
        ("evaluate", "nothing is left half done", "The same command begins anew."),
    ):
        monkeypatch.setattr(importlib.import_module(STORIES[name][0]), STORIES[name][1], interrupted)
        run(name, "--model", str(folder)).check(ExitCode.INTERRUPTED, f"stopped: at once; {words}", cure)


STORIES = {
    "merge": ("gptoss_ft.publishing.merge_command", "merge_adapter"),
    "push": ("gptoss_ft.publishing.push_command", "push_model"),
    "evaluate": ("gptoss_ft.inference.evaluate_command", "evaluate"),
}


def test_a_defect_keeps_its_traceback_without_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "hf_" + "K4" * 17

    def fail() -> None:
        raise RuntimeError(f"a shape is wrong: {token}")

    raise_in_training(monkeypatch, fail)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "job.yaml"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == ExitCode.DEFECT
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "RuntimeError: a shape is wrong: (token)")
    assert any(line.endswith(", in fail") for line in lines)


def test_an_interruption_of_what_would_begin_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_training(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    run("--config", "job.yaml", "--restart").check(
        ExitCode.INTERRUPTED,
        "stopped: at once; steps since the last checkpoint, if any, are lost",
        "The same command begins anew.",
    )


FULL = OSError(errno.ENOSPC, "No space left on device", "/full")


@pytest.mark.parametrize(
    ("options", "moves", "go_on"),
    [
        ((), False, "The same command continues."),
        (("--restart",), False, "The same command begins anew."),
        (("--restart",), True, "The same command, without --restart, continues."),
        (("--from", "checkpoint-2"), False, "The same command continues."),
        (("--from", "checkpoint-2"), True, "The same command, without --from, continues."),
    ],
)
@pytest.mark.parametrize("error", [FULL, DiskError("no space is left on the disk under /full", "Make space.")])
def test_how_to_go_on_after_a_full_disk_depends_on_what_was_moved(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], moves: bool, go_on: str, error: Exception
) -> None:
    def train(loaded: LoadedConfig, start: Start) -> None:
        start.has_moved = moves
        raise error

    monkeypatch.setattr(job, "train", train)
    run("--config", "job.yaml", *options).check(
        ExitCode.MACHINE, "error: no space is left on the disk under /full", f"Make space. {go_on}"
    )
