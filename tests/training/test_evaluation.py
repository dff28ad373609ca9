"""Evaluation while the tiny model is trained: its numbers, the best checkpoint, and when a run stops early."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from gptoss_ft import finetuning, job
from gptoss_ft.config import load_job_config
from gptoss_ft.errors import Interrupted, NotFiniteError, SettingError
from gptoss_ft.job import RunResult
from gptoss_ft.reporting.output_folder import Start

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 16, eval_fraction: 0.25}
lora: {target_modules: [q_proj, k_proj, v_proj, o_proj]}
training: {max_steps: 6, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 2, eval_steps: 1, output_dir: run}
tracking: {report_to: none}
"""
# So small that no loss becomes lower, and so large that the adapter of each step is another.
STANDSTILL = "training.learning_rate=1e-30"

Run = Callable[..., RunResult]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the small job with overrides; its output goes to tmp_path/outputs/run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUN_EVALUATION", raising=False)
    Path("job.yaml").write_text(JOB)
    return lambda *overrides, restart=False: job.train(load_job_config(Path("job.yaml"), overrides), Start(restart))


def evaluations() -> dict[int, float]:
    """The evaluation losses in log.jsonl, by step."""
    records = [json.loads(line) for line in Path("outputs/run/log.jsonl").read_text().splitlines()]
    return {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}


def checkpoints() -> list[str]:
    return sorted(path.name for path in Path("outputs/run").glob("checkpoint-*"))


def assert_same_adapter(one: Path, other: Path) -> None:
    tensors, others = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


class SignalAt(TrainerCallback):
    """Sends this process a signal while step `step` is being computed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: Any, control: object, **kwargs: object) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, step: int, *overrides: str) -> None:
    build = finetuning.build_trainer
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(
            finetuning, "build_trainer", lambda *args: [t := build(*args), t.add_callback(SignalAt(step))][0]
        )
        run(*overrides)


def test_training_is_the_same_with_and_without_evaluations(run: Run) -> None:
    same = ("lora.dropout=0.2", "training.max_steps=4")
    with_them = run(*same).losses
    assert sorted(evaluations()) == [1, 2, 3, 4]
    without = run(*same, "training.eval_steps=", "training.load_best_model_at_end=false", restart=True).losses
    assert with_them == without


def test_evaluations_are_shown_logged_and_the_best_checkpoint_is_final_model(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("training.save_total_limit=1", "training.eval_steps=2")
    losses = evaluations()
    assert sorted(losses) == [2, 4, 6]
    assert losses[6] < losses[4] < losses[2]
    assert checkpoints() == ["checkpoint-6"]
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-6"))
    said = capsys.readouterr().out
    assert f"eval {losses[4]:.4f}" in said
    report = json.loads(Path("outputs/run/evaluation.json").read_text())
    assert report["total"]["loss"] == pytest.approx(losses[6], abs=1e-5)
    assert report["total"]["base_loss"] > losses[2]
    assert report["samples"] == 4
    assert sum(channel["tokens"] for channel in report["channels"].values()) == report["total"]["tokens"]
    manifest = json.loads(Path("outputs/run/manifest.json").read_text())
    assert manifest["evaluation"] == report
    assert manifest["status"] == "finished"


def test_a_run_stops_early_and_the_best_checkpoint_survives(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(STANDSTILL, "training.early_stopping_patience=2", "training.save_total_limit=1")
    # Evaluated after 1: the lowest; after 2 and 3: not lower. Of 2 there is a checkpoint, and 3 is the last.
    assert sorted(evaluations()) == [1, 2, 3]
    assert checkpoints() == ["checkpoint-2", "checkpoint-3"]
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-2"))
    with pytest.raises(AssertionError):
        assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-3"))
    assert "checkpoint-2" in capsys.readouterr().out
    assert json.loads(Path("outputs/run/manifest.json").read_text())["status"] == "finished"


def test_the_last_checkpoint_is_final_model_where_the_best_is_not_wanted(run: Run) -> None:
    result = run(STANDSTILL, "training.max_steps=4", "training.load_best_model_at_end=false")
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-4"))


def test_a_run_that_stopped_early_only_lacks_final_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    early = (STANDSTILL, "training.early_stopping_patience=2")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(finetuning, "save_final_model", fail)
        run(*early)
    result = run(*early)
    assert checkpoints() == ["checkpoint-2", "checkpoint-3"]
    assert sorted(evaluations()) == [1, 2, 3]
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-2"))


def test_a_run_that_goes_on_knows_what_was_evaluated_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    early = (STANDSTILL, "training.early_stopping_patience=3")
    interrupted(run, monkeypatch, 3, *early)
    assert checkpoints() == ["checkpoint-2", "checkpoint-3"]
    result = run(*early)
    assert sorted(evaluations()) == [1, 2, 3, 4]
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-2"))


def test_what_a_signal_alone_has_saved_is_no_candidate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(run, monkeypatch, 3)
    losses = evaluations()
    assert losses[3] < losses[2]
    state = json.loads(Path("outputs/run/checkpoint-3/trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_metric"]) == (2, pytest.approx(losses[2]))


def test_a_run_whose_folder_was_moved_knows_its_best_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    early = (STANDSTILL, "training.early_stopping_patience=3", "training.save_total_limit=1")
    interrupted(run, monkeypatch, 3, *early)
    Path("outputs").rename("moved")
    monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", "moved")
    result = run(*early)
    assert sorted(path.name for path in Path("moved/run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert_same_adapter(result.final_model, Path("moved/run/checkpoint-2"))
    state = json.loads(Path("moved/run/checkpoint-4/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "moved/run/checkpoint-2"


def test_the_best_evaluation_without_a_checkpoint_hides_no_checkpoint(run: Run) -> None:
    result = run(STANDSTILL, "training.max_steps=4", "training.save_total_limit=1")
    losses = evaluations()
    assert losses[1] == losses[2] == losses[4]
    # The first evaluation is the best of all, and has no checkpoint; of the two with one the earlier is the best.
    assert checkpoints() == ["checkpoint-2", "checkpoint-4"]
    assert_same_adapter(result.final_model, Path("outputs/run/checkpoint-2"))


def test_an_evaluation_that_fails_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NotFiniteError("evaluation: the loss is nan")

    with monkeypatch.context() as patched, pytest.raises(NotFiniteError):
        patched.setattr(finetuning, "evaluate_split", fail)
        run("training.eval_steps=", "training.max_steps=2")
    before = Path("outputs/run/final_model/adapter_model.safetensors").read_bytes()
    monkeypatch.setenv("RUN_EVALUATION", "false")
    result = run("training.eval_steps=", "training.max_steps=2")
    assert (result.final_model / "adapter_model.safetensors").read_bytes() == before
    assert len(result.losses) == 2
    assert not Path("outputs/run/evaluation.json").exists()
    assert json.loads(Path("outputs/run/manifest.json").read_text())["status"] == "finished"


def test_evaluations_need_held_out_rows(run: Run) -> None:
    with pytest.raises(SettingError, match="no row is held out for evaluation") as caught:
        run("dataset.eval_fraction=0")
    assert caught.value.key == "dataset.eval_fraction"
