"""A loss or gradient that is not finite: which rows are named, and that no weight is changed by it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from gptoss_ft import finetuning, job
from gptoss_ft.config import JobConfig, TrainingSection, load_job_config
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.errors import Interrupted, NotFiniteError
from gptoss_ft.job import RunResult
from gptoss_ft.reporting.checkpoint_folder import what_is_wrong
from gptoss_ft.training.finite_steps import FiniteSteps

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 12}
lora: {dropout: 0.1, target_modules: [q_proj, k_proj, v_proj, o_proj]}
training: {max_steps: 6, per_device_train_batch_size: 1, gradient_accumulation_steps: 4, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 9, output_dir: run}
performance: {plan: off}
tracking: {report_to: none}
"""
# The sampler's order: the rows of the second step of three are these.
SECOND = torch.randperm(12, generator=torch.Generator().manual_seed(3407)).tolist()[4:8]
ROW = SECOND[2]
SKIP = "training.on_nonfinite=skip"

Run = Callable[..., RunResult]


class Poison(TrainerCallback):
    """Makes what is computed of one row not finite, in whichever step it comes: its loss, or its gradients alone. Knows
    the row by its tokens; keeps the trained weights as each step left them."""

    def __init__(self, trainer: Any, ids: list[int], in_gradient: bool) -> None:
        self._ids, self._in_gradient, self._is_in = torch.tensor(ids), in_gradient, False
        self.weights: list[dict[str, torch.Tensor]] = []
        self.model = trainer.model
        self.model.get_base_model().register_forward_pre_hook(self._look, with_kwargs=True)
        next(own for own in self.model.parameters() if own.requires_grad).register_hook(self._spoil_gradient)
        compute = trainer.compute_loss

        def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = compute(*args, **kwargs)
            return loss * float("nan") if self._is_in and not in_gradient else loss

        trainer.compute_loss = spoiled

    def _look(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        length = len(self._ids)
        self._is_in = ids.shape[1] >= length and bool((ids[:, :length] == self._ids).all(dim=1).any())

    def _spoil_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf") if self._is_in and self._in_gradient else gradient

    def taken(self) -> dict[str, torch.Tensor]:
        return {name: own.detach().clone() for name, own in self.model.named_parameters() if own.requires_grad}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.weights.append(self.taken())


class SignalAt(TrainerCallback):
    """Sends this process a signal while step `step` is being computed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: Any, control: object, **kwargs: object) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return lambda *overrides: job.train(load_job_config(Path("job.yaml"), overrides))


@pytest.fixture
def poison(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Poison]]:
    """Poison every run from now on; those of them that began."""
    config: JobConfig = load_job_config(Path("job.yaml"), []).job
    data = prepare(config, open_entries(config), load_job_tokenizer(config.model))
    row = next(each for each in data.train.to_pylist() if each["source_row"] == ROW)
    build = finetuning.build_trainer

    def poison(in_gradient: bool = False, signal_at: int | None = None) -> list[Poison]:
        begun: list[Poison] = []

        def build_poisoned(*args: Any) -> Any:
            trainer = build(*args)
            begun.append(Poison(trainer, row["input_ids"], in_gradient))
            trainer.add_callback(begun[-1])
            if signal_at is not None:
                trainer.add_callback(SignalAt(signal_at))
            return trainer

        monkeypatch.setattr(finetuning, "build_trainer", build_poisoned)
        return begun

    return poison


def log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("outputs/run/log.jsonl").read_text().splitlines()]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_run_stops_before_the_weights_change_and_names_the_row(
    run: Run, poison: Callable[..., list[Poison]]
) -> None:
    begun = poison()
    with pytest.raises(NotFiniteError, match=rf"^step 2: loss is nan: row {ROW}$"):
        run("training.save_steps=1")
    (only,) = begun
    assert len(only.weights) == len(log()) == 1
    assert same(only.taken(), only.weights[0])
    assert [path.name for path in Path("outputs/run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert what_is_wrong(Path("outputs/run/checkpoint-1")) is None


def test_of_a_gradient_all_rows_of_the_step_are_named(run: Run, poison: Callable[..., list[Poison]]) -> None:
    begun = poison(in_gradient=True)
    first, second, third, last = sorted(SECOND)
    rows = f"rows {first}, {second}, {third} and {last}"
    with pytest.raises(NotFiniteError, match=rf"^step 2: grad_norm is (inf|nan): {rows}$"):
        run()
    assert same(begun[0].taken(), begun[0].weights[0])


def test_a_skipped_step_leaves_the_weights_and_is_logged(
    run: Run, poison: Callable[..., list[Poison]], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = poison()
    result = run(SKIP)
    skipped = [line for line in log() if "skipped" in line]
    # Six steps of four are two passes over twelve rows.
    assert [line["skipped"] for line in skipped] == [f"loss is nan: row {ROW}"] * 2
    steps = {line["step"] for line in skipped}
    assert 2 in steps
    assert [line["step"] for line in log() if "loss" in line] == sorted({1, 2, 3, 4, 5, 6} - steps)
    weights = begun[0].weights
    unchanged = {number for number in range(2, 7) if same(weights[number - 1], weights[number - 2])}
    assert unchanged == steps
    assert all(torch.isfinite(torch.tensor(result.losses)))
    assert f"step {min(steps)} is skipped: loss is nan: row {ROW}" in " ".join(capsys.readouterr().out.split())


def test_one_more_than_may_be_skipped_stops_the_run(run: Run, poison: Callable[..., list[Poison]]) -> None:
    poison()
    with pytest.raises(NotFiniteError, match=rf"row {ROW}, after 1 steps that were skipped \(training.max_skipped"):
        run(SKIP, "training.max_skipped_steps=1")


@pytest.mark.parametrize("in_gradient", [False, True])
def test_losses_are_means_over_the_steps_that_were_not_skipped(
    run: Run, poison: Callable[..., list[Poison]], in_gradient: bool
) -> None:
    poison(in_gradient)
    run(SKIP)
    each = {line["step"]: line["loss"] for line in log() if "loss" in line}
    run(SKIP, "training.logging_steps=3", "training.output_dir=threes")
    lines = [json.loads(line) for line in Path("outputs/threes/log.jsonl").read_text().splitlines()]
    assert sum("skipped" in line for line in lines) == 2
    for line in lines:
        if "loss" in line:
            those = [each[step] for step in range(line["step"] - 2, line["step"] + 1) if step in each]
            assert len(those) == 2
            assert line["loss"] == pytest.approx(sum(those) / 2, rel=1e-5)


def test_a_run_that_goes_on_has_skipped_the_same_steps(run: Run, poison: Callable[..., list[Poison]]) -> None:
    poison()
    whole = run(SKIP, "training.logging_steps=4", "training.output_dir=whole")
    poison(signal_at=4)
    with pytest.raises(Interrupted):
        run(SKIP, "training.logging_steps=4")
    poison()
    continued = run(SKIP, "training.logging_steps=4")
    assert continued.losses == whole.losses
    weights = [Path(f"outputs/{name}/final_model/adapter_model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


def test_skipped_steps_are_counted_and_told() -> None:
    told: list[tuple[int, str]] = []
    training = TrainingSection(on_nonfinite="skip", max_skipped_steps=2)
    steps = FiniteSteps(training, lambda samples: f"rows {samples}")
    steps.told = lambda step, why: told.append((step, why))
    steps.leave_out(3, float("nan"), 1.0, [1])
    steps.leave_out(4, 1.0, float("inf"), [2])
    assert told == [(3, "loss is nan: rows [1]"), (4, "grad_norm is inf: rows [2]")]
    assert steps.skipped == 2
    with pytest.raises(NotFiniteError, match=r"step 5: loss is -inf: rows \[3\], after 2 steps"):
        steps.leave_out(5, float("-inf"), 1.0, [3])
    with pytest.raises(NotFiniteError, match=r"step 1: loss is nan: rows \[0\]$"):
        FiniteSteps(TrainingSection(), lambda samples: f"rows {samples}").leave_out(1, float("nan"), 1.0, [0])


@pytest.mark.parametrize("training", [TrainingSection(), TrainingSection(on_nonfinite="skip", max_skipped_steps=1)])
def test_who_goes_on_with_less_patience_stops_at_the_next_one(training: TrainingSection) -> None:
    steps = FiniteSteps(training, lambda samples: f"rows {samples}")
    steps.skipped = 2
    with pytest.raises(NotFiniteError, match=r"step 7: loss is nan: rows \[0\]"):
        steps.leave_out(7, float("nan"), 1.0, [0])
