"""The table of estimated beside measured peaks."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_every_measured_run_is_shown_and_summed_up() -> None:
    shown = subprocess.run(
        [sys.executable, "benchmarks/memory_model.py"],
        cwd=PROJECT, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown[0].split() == ["row", "tokens", "recomputed", "measured", "estimated", "%", "source"]
    first = next(line for line in shown if "notebook recipe, 1 × 1,024" in line)
    assert first.split()[:3] == ["1,024", "24", "15.70"]
    assert re.fullmatch(r"\d+ runs, from [+-]\d\.\d % to \+\d\.\d %; GiB reserved", shown[-1])
