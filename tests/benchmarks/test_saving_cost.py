"""The benchmark of what saving costs: its arithmetic, and a short run of the tiny job."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))
paired = importlib.import_module("paired_blocks")
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 64, load_in_4bit: false, dtype: float32, device: cpu}
training: {per_device_train_batch_size: 1, gradient_accumulation_steps: 1, optim: adamw_torch_fused, output_dir: run}
"""


def test_ratios_are_of_the_blocks_of_a_pair() -> None:
    blocks = [
        paired.Block(True, 6.3, [2.0, 1.5, 1.1, 1.1], [False, True, False, False]),
        paired.Block(False, 4.0, [1.0, 1.0, 1.0, 1.0], [False] * 4),
        paired.Block(False, 8.0, [2.0, 2.0, 2.0, 2.0], [False] * 4),
        paired.Block(True, 9.0, [3.0, 2.4, 2.0, 2.0], [False, True, False, False]),
    ]
    saves = [paired.Save(0.5, 1.0, 2**29), paired.Save(0.7, 2.0, 2**29)]
    found = paired.figures(blocks, saves, 4)
    assert found["step_seconds"] == 1.5
    assert found["save_stops_training_seconds"] == pytest.approx(0.6)
    assert found["save_is_written_in_seconds"] == 1.5
    assert found["save_gib"] == 0.5
    assert found["ratio_of_steps_without_a_write"] == pytest.approx(1.05)
    assert found["ratio_of_steps_during_a_write"] == pytest.approx(1.35)
    assert found["ratio_with_a_checkpoint_every_4_steps"] == pytest.approx((6.3 / 4 + 9 / 8) / 2)


def test_a_short_run_is_measured(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    command = [
        sys.executable, str(REPOSITORY / "benchmarks" / "saving_cost.py"), "--config", str(tmp_path / "job.yaml"),
        "--pairs", "2", "--block", "3", "--folder", str(tmp_path), "--json", str(tmp_path / "found.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, said
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["saves"]) == 2
    assert all(save["stopped"] > 0 and save["written"] > 0 and save["bytes"] > 10**5 for save in found["saves"])
    assert 0.2 < found["ratio_with_a_checkpoint_every_3_steps"] < 20
    assert {path.name for path in tmp_path.iterdir()} == {"job.yaml", "found.json"}
