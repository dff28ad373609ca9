"""The speed benchmark and those beside it run on the tiny model and the CPU, contenders and all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 64, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking}
training: {gradient_accumulation_steps: 2, optim: adamw_torch_fused}
"""


def run(folder: Path, script: str, *arguments: str) -> list[str]:
    """What the script printed, run in `folder`; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_every_contender_trains_on_the_same_samples_of_each_step(tmp_path: Path) -> None:
    contenders = ["ours", "notebook", "trl-2"]
    lines = run(
        tmp_path, "training_speed.py", "--model", "tiny/gpt-oss", "--model-16bit", "tiny/gpt-oss", "--device", "cpu",
        "--contenders", ",".join(contenders), "--steps", "3", "--warm-up", "1", "--longest", "96",
        "--json", "speed.json", "--logs", "logs",
    )  # fmt: skip
    assert [line.split()[0] for line in lines[-3:]] == contenders
    results: list[dict[str, Any]] = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert [result["contender"] for result in results] == contenders
    first = results[0]["steps"]
    assert len(first["losses"]) == 3 and len(set(first["tokens"])) == 3
    for result in results:
        steps = result["steps"]
        assert result["counted"] == 2
        assert steps["tokens"] == first["tokens"]
        # The same samples, weights and targets, and the mean over the step's tokens however they are divided.
        assert steps["losses"] == pytest.approx(first["losses"], rel=1e-4)
        assert result["first_step_seconds"] > steps["seconds"][0]
        assert result["tokens_per_second"] > 0


def test_a_contender_that_fails_or_takes_too_long_does_not_end_the_others(tmp_path: Path) -> None:
    lines = run(
        tmp_path, "training_speed.py", "--model", "tiny/gpt-oss", "--device", "cpu", "--contenders", "ours,notebook",
        "--steps", "2", "--warm-up", "1", "--longest", "96", "--json", "speed.json", "--timeout", "2",
        "--set", "training.no_such_key=1",
    )  # fmt: skip
    failed, late = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert "no_such_key" in failed["error"]
    assert late["error"] == "took too long"
    assert lines[-1].split() == ["notebook", "took", "too", "long"]


def test_the_gradient_is_the_recipes_and_not_without_the_mask(tmp_path: Path) -> None:
    run(
        tmp_path, "step_gradients.py", "--model", "tiny/gpt-oss", "--device", "cpu", "--longest", "96",
        "--json", "gradients.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "gradients.json").read_text())
    assert found["plan"]["rows"] == "packed"
    cosines = {one["gradient"]: one["cosine"] for one in found["compared"]}
    lengths = {one["gradient"]: one["length"] for one in found["compared"]}
    for same in ("recipe-one-by-one", "recipe-padded", "ours"):
        assert (cosines[same], lengths[same]) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-4))
    assert cosines["ours-without-mask"] < 0.95


def test_a_profile_tells_the_groups_and_the_floor(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    lines = run(tmp_path, "step_profile.py", "--config", "job.yaml", "--warm-up", "1", "--output", "profile")
    profile = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert profile["tokens"] == 2 * 64
    # Two layers of width 64: 4 heads and 2 of keys and values, 16 wide; router, 2 of 4 experts, 64 wide; 1,088 words.
    layer = 64 * 16 * (4 + 2 + 2) + 64 * 16 * 4 + 4 * 64 + 2 * 3 * 64 * 64
    assert profile["active_parameters"] == 2 * layer + 1088 * 64
    assert profile["floor_ms"] == pytest.approx(
        4 * profile["active_parameters"] * 128 / profile["measured_tflops"] / 1e9, rel=0.05
    )
    spent = profile["groups_ms"]
    for group in ("expert matmul", "LoRA matmul", "unembedding and cross entropy", "attention"):
        assert spent[group] > 0, group
    assert spent["dequantization of NF4 weights"] == 0
    assert profile["idle_ms"] == pytest.approx(max(0, profile["step_ms"] - profile["busy_ms"]), abs=0.01)
    assert len(json.loads((tmp_path / "profile" / "kernels.json").read_text())) == 40
    assert "tokens/s; floor" in lines[-1]


def test_the_longest_length_is_searched_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    lines = run(
        tmp_path, "longest.py", "--config", "job.yaml", "--from", "128", "--multiple", "128", "--most", "512",
        "--json", "longest.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "longest.json").read_text())
    assert [trial["length"] for trial in found["trials"]] == [128, 256, 512]
    assert (found["longest"], found["searched_out"]) == (512, True)
    assert json.loads(lines[-1])["longest"] == 512
