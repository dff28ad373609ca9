"""This project's model and trainer, on rows of random tokens: what several benchmarks watch from inside."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.rows import Rows, draw_rows, table

from gptoss_ft.config import JobConfig, load_job_config
from gptoss_ft.data.summary import SplitSummary, Summary, count
from gptoss_ft.planning.plan import Plan
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.memory_report import peak_gib, start_measuring
from gptoss_ft.runtime import Device

# Of a job's keys those that only cost time here, and those that would end its run elsewhere.
FIXED = (
    "training.num_train_epochs=", "training.eval_steps=", "training.early_stopping_patience=",
    "training.save_steps=1000000", "training.logging_steps=1", "tracking.report_to=none", "evaluation.prompts=[]",
)  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """The model with its adapters on, and its tokenizer; after `import_unsloth`."""

    model: Any
    tokenizer: Any
    device: Device

    @cached_property
    def _untrained(self) -> list[Any]:
        return [own.detach().cpu().clone() for own in self.model.parameters() if own.requires_grad]

    def set_back(self) -> None:
        """Undo all training since this was called first."""
        import torch

        trained = (own for own in self.model.parameters() if own.requires_grad)
        with torch.no_grad():
            for own, before in zip(trained, self._untrained, strict=True):
                own.copy_(before)

    def random_rows(self, lengths: NDArray[np.int64]) -> Rows:
        return draw_rows(lengths, len(self.tokenizer), self.tokenizer.pad_token_id, seed=0)


@dataclass(frozen=True)
class Trained:
    """The peak of reserved GPU memory in GiB (None where it ran out), seconds of all steps, the loss of each in nats a
    token, and the plan at the end."""

    peak_gib: float | None
    seconds: float
    losses: list[float]
    plan: dict[str, Any]


def benchmark_job(config: Path, overrides: list[str], steps: int) -> JobConfig:
    """The job of `config` with so many optimizer steps."""
    return load_job_config(config, [*overrides, *FIXED, f"training.max_steps={steps}"]).job


def summary_of(lengths: NDArray[np.int64], job: JobConfig) -> Summary:
    """What preparing rows of these lengths would have counted."""
    tokens, number = int(lengths.sum()), len(lengths)
    counts = SplitSummary(samples=number, rows=number, tokens=tokens, trained_tokens=tokens, lengths=count(lengths))
    return Summary(key="random rows", tokenizer="", max_seq_length=job.model.max_seq_length, train=counts)


def plan_of(job: JobConfig, lengths: NDArray[np.int64], device: Device) -> Plan:
    """The plan of a run on rows of these lengths that has the whole device, whatever this process holds of it."""
    from gptoss_ft.model.repository import find_repository
    from gptoss_ft.planning.choice import effective_batch, make_plan
    from gptoss_ft.planning.gpus import GpuMemory, computes_groups
    from gptoss_ft.planning.lengths import Lengths
    from gptoss_ft.planning.shapes import PACKABLE, read_shapes

    counted = Lengths.counted(summary_of(lengths, job).train.lengths, effective_batch(job))
    shapes = read_shapes(job, find_repository(job.model))
    gpu = GpuMemory(device.name, device.total_gib, device.bf16, computes_groups(device.capability))
    return make_plan(job, shapes, counted, gpu, shapes is not None and shapes.kind in PACKABLE)


def load(job: JobConfig, device: Device, offload_embedding: bool) -> Loaded:
    """Load as a run does. After `import_unsloth`."""
    from gptoss_ft.data.tokenizer import load_job_tokenizer
    from gptoss_ft.model.building import build_model
    from gptoss_ft.model.repository import find_repository

    tokenizer = load_job_tokenizer(job.model)
    model = build_model(job, find_repository(job.model), device, make_console(), offload_embedding)
    return Loaded(model, tokenizer, device)


def make_trainer(loaded: Loaded, rows: Rows, job: JobConfig, folder: Path, plan: Plan) -> Any:
    """A run's trainer on these rows, which are shuffled as a run shuffles its own."""
    from gptoss_ft.data.storage import PreparedData
    from gptoss_ft.model.attention import document_attention
    from gptoss_ft.training.trainer import build_trainer

    train = table(rows.each())
    data = PreparedData(train, train.slice(0, 0), summary_of(rows.lengths, job), folder)
    attention = document_attention(loaded.model)
    if attention is None and plan.rows == "packed":
        plan = plan.padded()
    return build_trainer(
        loaded.model, loaded.tokenizer, data, job, folder, loaded.device, plan, attention, lambda smaller: None
    )


def facts_of(plan: Plan) -> dict[str, Any]:
    """How steps are computed; a trainer whose memory ran out has another plan than it began with."""
    names = ("rows", "row_tokens", "rows_at_once", "checkpointed_layers", "keep_dequantized", "offload_embedding")
    return {name: getattr(plan, name) for name in names}


def train_on(loaded: Loaded, rows: Rows, job: JobConfig, folder: Path, plan: Plan) -> Trained:
    """Train all of the job's steps, and let go of what they held."""
    import torch

    start_measuring(loaded.device)
    started = time.monotonic()
    trainer = make_trainer(loaded, rows, job, folder, plan)
    try:
        trainer.train()
        peak: float | None = round(peak_gib(loaded.device), 2)
    except torch.OutOfMemoryError:
        peak = None
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    trained = Trained(peak, round(time.monotonic() - started, 1), losses, facts_of(trainer.plan))
    del trainer
    loaded.model.zero_grad(set_to_none=True)
    gc.collect()
    return trained
