"""The benchmark of starts, on the tiny job."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24}
training: {max_steps: 4, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, warmup_steps: 1,
           optim: adamw_torch_fused, output_dir: run}
tracking: {report_to: none}
"""
PHASES = [
    "command line", "device", "first rows", "import unsloth", "tokenizer", "data", "base model", "adapters", "trainer",
    "step 1", "step 2",
]  # fmt: skip


def test_every_phase_up_to_the_last_step_is_timed(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    ended = subprocess.run(
        [sys.executable, ROOT / "benchmarks/warm_start.py", "--config", "job.yaml", "--starts", "1", "--steps", "2",
         "--json", "starts.json", "--profile", "adapters"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (report,) = json.loads((tmp_path / "starts.json").read_text())
    assert list(report["phases"]) == PHASES
    seconds = list(report["phases"].values())
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < 100
    profile, title, table = ended.stdout.partition("until the end of")
    assert "attach" in profile and "cumulative time" in profile and title
    assert [line[:18].rstrip() for line in table.splitlines()[1 : len(PHASES) + 1]] == PHASES
    assert not (tmp_path / "outputs").exists()
