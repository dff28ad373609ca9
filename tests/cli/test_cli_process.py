"""The same through the process that a user starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from command_line import OFFLINE, OFFLINE_CURE, ROOT, Ended

from gptoss_ft.errors import ExitCode


def started(*arguments: str) -> Ended:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_process_without_its_config() -> None:
    started("--config", "nope.yaml").begins(ExitCode.CONFIG, "error: nope.yaml: no such file")


def test_the_process_without_its_data() -> None:
    ended = started("--config", "job.yaml", "--set", "dataset.path=nope.csv")
    assert ended.code == ExitCode.DATA
    assert ended.stderr.startswith("error: --set dataset.path: no such file or folder: nope.csv\n")
    assert "gptoss_ft" in ended.stdout  # the config was shown before
    assert not Path("outputs").exists()


def test_the_process_without_a_hub() -> None:
    started("--config", "job.yaml", "--set", "dataset.path=owner/name").check(
        ExitCode.HUB, f"error: --set dataset.path: owner/name {OFFLINE}", OFFLINE_CURE
    )


def test_the_process_with_a_corrupt_tokenizer(model: Callable[..., str]) -> None:
    ended = started("--config", "job.yaml", "--set", model(tokenizer__json=b"garbage"))
    assert ended.code == ExitCode.DATA
    assert "./model has no tokenizer that can be read (tokenizer.json): JSONDecodeError: " in ended.stderr
    # What Unsloth and the others print goes to their log.
    assert len(ended.stderr.splitlines()) == 2
