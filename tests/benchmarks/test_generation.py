"""The benchmark of generation, on the tiny model and the CPU."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "generation.py"


def test_both_sides_are_measured_at_each_batch_size() -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", "tiny/gpt-oss", "--merged", "tiny/gpt-oss", "--new-tokens", "6",
         "--rounds", "2", "--batches", "1", "3"],
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    table, line = ran.stdout.rsplit("\n", 2)[0], ran.stdout.splitlines()[-1]
    rows = json.loads(line)
    assert [(row["side"], row["batch"]) for row in rows] == [("ours", 1), ("ours", 3), ("plain", 1), ("plain", 3)]
    for row in rows:
        assert row["tokens_per_second"] > 0
        # All rounds but the first, which compiles, are as long as their tokens take.
        assert 0 < row["first_token_seconds"] < 6 * row["batch"] / row["tokens_per_second"] * 3
    assert len(table.splitlines()) == 5
