"""A run in the container that `docker stop` ends and train.sh continues; ten of them: benchmarks/docker_stop.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker
REPOSITORY = Path(__file__).parents[2]


def test_a_stopped_run_ends_like_one_that_was_not(image: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "docker_stop.py", "--runs", "1", "--seed", "3", "--image", image,
         "--output", tmp_path / "results.json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert not any(result["different"] for result in results)
    assert len(results[-1]["interruptions"]) == len(results[-1]["seconds_to_stop"]) > 0
    assert set(results[-1]["exit_codes"]) == {75, 0}
