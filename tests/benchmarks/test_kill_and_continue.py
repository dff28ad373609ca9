"""A few of the runs that are killed and continued; all of them: benchmarks/kill_and_continue.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_killed_runs_end_like_one_that_was_not(tmp_path: Path) -> None:
    command = [
        sys.executable, str(REPOSITORY / "benchmarks" / "kill_and_continue.py"), "--runs", "2", "--seed", "2",
        "--logging-steps", "5", "--dropout", "0.1", "--eval-steps", "1", "--output", str(tmp_path / "results.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate(timeout=280)[0].decode()
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "results.json").read_text())
    assert not any(result["different"] for result in results)
    assert sum(bool(result["interruptions"]) for result in results) == 2
