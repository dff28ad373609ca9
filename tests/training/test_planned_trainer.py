"""However a step is computed, it is the same step: gradients against one sample at a time, by stock code.

Also on a GPU, where other kernels compute:

    GPTOSS_FT_TEST_DEVICE=cuda bash test.sh tests/training/test_planned_trainer.py
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from plans import plan
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from gptoss_ft.config import JobConfig
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.summary import Summary
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.model.attention import blind_to_documents, document_attention
from gptoss_ft.model.building import build_model
from gptoss_ft.model.repository import find_repository
from gptoss_ft.planning.plan import Plan
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device
from gptoss_ft.training.micro_batches import collate, divide
from gptoss_ft.training.planned_trainer import Replanned
from gptoss_ft.training.trainer import build_trainer

LENGTHS = (37, 150, 5, 64, 21, 90)


PLANS = {
    "one at a time": plan("as configured"),
    "three at a time": plan("as configured", rows_at_once=3),
    "padded": plan("padded", rows_at_once=6),
    "packed": plan("packed"),
    "packed, recomputed": plan("packed", checkpointed=2),
    "packed, half recomputed": plan("packed", checkpointed=1),
    "packed in several rows": plan("packed", row_tokens=160),
}


@pytest.fixture(scope="module", params=["tiny/gpt-oss", "tiny/llama"])
def trained(request: pytest.FixtureRequest, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Any:
    job = JobConfig.model_validate(
        {
            "model": {
                "name": request.param, "load_in_4bit": False, "dtype": "float32", "device": device.kind,
                "max_seq_length": 256,
            },
            "training": {
                "max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3,
                "gradient_checkpointing": True, "max_grad_norm": 0.0, "learning_rate": 1e-9, "save_steps": 99,
                "optim": "adamw_torch_fused",
            },
            "tracking": {"report_to": []},
        }
    )  # fmt: skip
    tokenizer = load_job_tokenizer(job.model)
    model = build_model(job, find_repository(job.model), device, make_console())
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # B starts at 0, and with it A has no gradient.
            if weight.requires_grad and "lora_B" in name:
                weight.normal_(std=0.05)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 400, (length,), generator=generator) for length in LENGTHS]
    # A prompt of a third, but one sample is trained from its first token on.
    labels = [own.clone() for own in ids]
    for label in labels[1:]:
        label[: len(label) // 3] = -100
    folder = tmp_path_factory.mktemp("planned")
    rows = pa.table({"input_ids": [list(own.tolist()) for own in ids], "labels": [own.tolist() for own in labels]})
    data = PreparedData(rows, rows[:0], Summary(key="", tokenizer="", max_seq_length=256), folder)
    return SimpleNamespace(model=model, tokenizer=tokenizer, job=job, data=data, ids=ids, labels=labels, folder=folder)


def alone(trained: Any) -> tuple[dict[str, torch.Tensor], float]:
    """The gradients and the loss of the step, one sample at a time, without the trainer."""
    trained.model.zero_grad(set_to_none=True)
    trained.model.train()
    count, total = sum(int((own[1:] != -100).sum()) for own in trained.labels), 0.0
    device = trained.model.device
    for ids, labels in zip(trained.ids, trained.labels, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            # Unsloth has none else, on a GPU in training.
            patch.setenv("UNSLOTH_RETURN_LOGITS", "1")
            logits = trained.model(input_ids=ids[None].to(device), use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[1:].to(device), reduction="sum") / count
        loss.backward()
        total += float(loss)
    return taken(trained.model), total


def taken(model: Any) -> dict[str, torch.Tensor]:
    return {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.all: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.all = taken(kwargs["model"])


def trainer_of(trained: Any, device: Device, plan: Plan, replanned: Replanned = lambda _: None) -> Any:
    attention = document_attention(trained.model)
    folder: Path = trained.folder
    return build_trainer(
        trained.model, trained.tokenizer, trained.data, trained.job, folder, device, plan, attention, replanned
    )


def by_trainer(trained: Any, device: Device, plan: Plan) -> tuple[dict[str, torch.Tensor], float, Any]:
    trainer, gradients = trainer_of(trained, device, plan), Gradients()
    before = {name: own.detach().clone() for name, own in trained.model.named_parameters() if own.requires_grad}
    trainer.add_callback(gradients)
    trainer.train()
    with torch.no_grad():
        for name, own in trained.model.named_parameters():
            if name in before:
                own.copy_(before[name])
    return gradients.all, trainer.state.log_history[0]["loss"], trainer


def off_by(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest ‖found − wanted‖ / ‖wanted‖ of a parameter."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_computes_the_gradients_of_one_sample_at_a_time(trained: Any, device: Device, name: str) -> None:
    wanted, total = alone(trained)
    found, loss, trainer = by_trainer(trained, device, PLANS[name])
    assert off_by(found, wanted) < 1e-5
    assert loss == pytest.approx(total, rel=1e-4)
    assert trainer.state.num_input_tokens_seen == sum(LENGTHS)


def test_without_a_plan_layers_are_recomputed_as_configured(trained: Any, device: Device) -> None:
    recomputed: list[int] = []
    layers = [each for each in trained.model.modules() if isinstance(each, GradientCheckpointingLayer)]

    def see(module: Any, args: Any) -> None:
        recomputed.append(sum(layer.gradient_checkpointing for layer in layers))

    hook = trained.model.get_base_model().register_forward_pre_hook(see)
    by_trainer(trained, device, PLANS["one at a time"])
    by_trainer(trained, device, PLANS["packed, half recomputed"])
    hook.remove()
    assert recomputed == [2] * len(LENGTHS) + [1]


@pytest.mark.parametrize("trained", ["tiny/gpt-oss"], indirect=True)
@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_the_experts_balance_is_a_mean_over_micro_batches(trained: Any, device: Device, at_once: int) -> None:
    training = trained.job.training.model_copy(update={"router_aux_loss_coef": 0.5})
    settings = SimpleNamespace(**{**vars(trained), "job": trained.job.model_copy(update={"training": training})})
    _, loss, _ = by_trainer(settings, device, plan("as configured", rows_at_once=at_once))
    _, plain, _ = by_trainer(trained, device, plan("as configured", rows_at_once=at_once))
    # Balanced, it is 1 in transformers' units (the experts of a token).
    chosen = trained.model.config.num_experts_per_tok
    assert 0.5 * chosen * 0.9 < loss - plain < 0.5 * chosen * 1.5


def test_documents_that_see_each_other_are_found_out(trained: Any, device: Device) -> None:
    wanted, _ = alone(trained)
    with blind_to_documents():
        found, _, _ = by_trainer(trained, device, PLANS["packed"])
    assert off_by(found, wanted) > 0.05


@dataclass(frozen=True)
class Shrinking(Plan):
    """Half the row is the next smaller plan."""

    def smaller(self) -> Plan | None:
        return plan("packed", row_tokens=self.row_tokens // 2) if self.row_tokens > 200 else None


def shrinking(row_tokens: int) -> Plan:
    return Shrinking(**vars(plan("packed", row_tokens=row_tokens)))


@pytest.fixture
def small_memory(trained: Any) -> Any:
    """Raises as CUDA does at the second of the rows that are longer than 150 tokens: one has left its gradients."""
    long: list[int] = []

    def limit(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > 150:
            long.append(kwargs["input_ids"].numel())
            if len(long) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = trained.model.get_base_model().register_forward_pre_hook(limit, with_kwargs=True)
    yield
    hook.remove()


def test_a_step_that_ran_out_of_memory_is_computed_again(trained: Any, device: Device, small_memory: None) -> None:
    told: list[Plan] = []
    trainer = trainer_of(trained, device, shrinking(320), told.append)
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    wanted, _ = alone(trained)
    assert [(smaller.rows, smaller.row_tokens) for smaller in told] == [("packed", 160)]
    assert trainer.plan is told[0]
    assert off_by(gradients.all, wanted) < 1e-5
    assert trainer.state.num_input_tokens_seen == sum(LENGTHS)


def test_a_plan_that_became_smaller_stays_so_when_the_run_goes_on(trained: Any, device: Device) -> None:
    trainer = trainer_of(trained, device, shrinking(320))
    kept = trainer.totals()
    trainer.restore_totals({**kept, "plan": plan("packed", row_tokens=160).key})
    assert trainer.plan.row_tokens == 160
    # Of another machine's plan nothing is known here.
    trainer = trainer_of(trained, device, shrinking(320))
    trainer.restore_totals({**kept, "plan": plan("padded").key})
    assert trainer.plan.row_tokens == 320


def test_a_run_without_a_step_left_has_the_smaller_plan_too(
    trained: Any, device: Device, small_memory: None, tmp_path: Path
) -> None:
    settings = SimpleNamespace(**{**vars(trained), "folder": tmp_path})
    trainer = trainer_of(settings, device, shrinking(320))
    trainer.train()
    trainer.checkpoints.wait()
    again = trainer_of(settings, device, shrinking(320))
    again.load_totals(tmp_path / "checkpoint-1")
    assert again.plan.row_tokens == trainer.plan.row_tokens == 160


def test_a_norm_that_is_not_finite_is_not_logged(trained: Any, device: Device) -> None:
    trainer = trainer_of(trained, device, PLANS["packed"])
    trainer.state.global_step = 1
    trainer.log({"loss": 2.5, "grad_norm": float("inf"), "learning_rate": 1e-4})
    (kept,) = trainer.state.log_history
    assert kept["loss"] == 2.5
    assert "grad_norm" not in kept


def test_losses_of_half_precision_are_summed_in_float32(trained: Any, device: Device) -> None:
    trainer = trainer_of(trained, device, PLANS["one at a time"])
    trainer._one_of = lambda *_: torch.tensor(1 / 3, dtype=torch.bfloat16)
    step = collate(
        [
            {"input_ids": ids.tolist(), "labels": label.tolist(), "sample": index}
            for index, (ids, label) in enumerate(zip(trained.ids, trained.labels, strict=True))
        ]
    )
    computed = trainer._all_of(trained.model, divide(step, PLANS["one at a time"], 1), torch.tensor(1))
    assert computed.losses.dtype == torch.float32
    assert len(computed.losses) == len(LENGTHS)


def test_where_no_plan_is_smaller_memory_has_run_out(trained: Any, device: Device, small_memory: None) -> None:
    trainer = trainer_of(trained, device, plan("packed", row_tokens=220))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()


class Alike(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, number: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * number.sum()}


def test_samples_come_in_the_order_that_stock_accumulation_takes_them(
    trained: Any, device: Device, tmp_path: Path
) -> None:
    """Two passes over 10 samples, 2 × 2 to a step: the last step of a pass has two."""
    stock: list[list[int]] = []

    class Recorder(Trainer):
        def get_batch_samples(self, *args: Any) -> Any:
            batches, count = super().get_batch_samples(*args)
            stock.append([int(number) for batch in batches for number in batch["number"]])
            return batches, count

    common = {"num_train_epochs": 2, "report_to": "none", "save_strategy": "no", "seed": 5, "use_cpu": True}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, **common
    )
    numbers = Dataset.from_dict({"number": list(range(10)), "labels": [0] * 10})
    Recorder(Alike(), arguments, train_dataset=numbers).train()

    ids = [[7, number, 9] for number in range(10)]
    rows = pa.table({"input_ids": ids, "labels": ids})
    data = PreparedData(rows, rows[:0], Summary(key="", tokenizer="", max_seq_length=256), tmp_path)
    training = {
        **trained.job.model_dump()["training"], "max_steps": None, "num_train_epochs": 2, "seed": 5,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    job = JobConfig.model_validate({**trained.job.model_dump(), "training": training})
    settings = SimpleNamespace(**{**vars(trained), "data": data, "job": job, "folder": tmp_path})
    trainer, ours = trainer_of(settings, device, plan("packed")), []
    step = trainer.training_step

    def recorded(model: Any, inputs: Any, count: Any = None) -> torch.Tensor:
        ours.append([int(document.ids[1]) for document in inputs.documents])
        loss: torch.Tensor = step(model, inputs, count)
        return loss

    trainer.training_step = recorded
    trainer.train()
    assert ours == stock
    assert [len(step) for step in ours] == [4, 4, 2] * 2
