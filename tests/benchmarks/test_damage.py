"""Some damages to a killed run's checkpoint; all of them: benchmarks/damage.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_a_damaged_checkpoint_is_never_used(tmp_path: Path) -> None:
    command = [
        sys.executable, str(REPOSITORY / "benchmarks" / "damage.py"), "--points", "2", "--seed", "3",
        "--output", str(tmp_path / "results.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate(timeout=280)[0].decode()
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["wrong"] for result in results] == [[], [], []]
    assert [result["went_on_from"] == "the beginning" for result in results] == [False, False, True]
