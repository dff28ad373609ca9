"""The benchmark of evaluation's memory runs on the tiny model at its longest sample."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation_memory.py"
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 4096, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking}
lora: {target_modules: [q_proj]}
training: {gradient_accumulation_steps: 1, optim: adamw_torch_fused}
"""


def test_it_tells_the_peak_of_each_phase(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    command = [sys.executable, str(SCRIPT), "--config", "job.yaml", "--set", "model.max_seq_length=512"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    child = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    assert (found["length"], found["micro_batch"]) == (512, 1)
    peaks = [found[f"{phase}_gib"] for phase in ("training", "evaluation", "unsloths_evaluation")]
    # Of a process, the peak so far.
    assert 0 < peaks[0] <= peaks[1] <= peaks[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]
