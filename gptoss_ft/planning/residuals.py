"""Estimated against measured peaks: what calibration.py is fitted and held to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.calibration import MEMORY, MemoryCalibration
from gptoss_ft.planning.memory import estimate
from gptoss_ft.planning.shapes import shapes_of


@dataclass(frozen=True)
class Measured:
    """A run's peak and what it ran: `config` is the model's config.json, `job` sections of the job, `row_tokens` the
    tokens of its longest micro-batch, padding included; `source` says where the figure stands."""

    source: str
    config: Mapping[str, Any]
    job: Mapping[str, Any]
    row_tokens: int
    checkpointed_layers: int
    keep_dequantized: bool
    offload_embedding: bool
    peak_reserved_gib: float


class Residual(NamedTuple):
    """`relative` is above 0 where the estimate is above what was measured."""

    measured: Measured
    estimated_gib: float
    relative: float


def read_measured(path: Path) -> list[Measured]:
    """The runs in a JSON file of `models` (name → config.json; with `like`, another one's with changes) and `runs`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    models: dict[str, Any] = {}
    for name, config in content["models"].items():
        base = models[config["like"]] if "like" in config else {}
        models[name] = {**base, **{key: value for key, value in config.items() if key != "like"}}
    return [Measured(config=models[run.pop("model")], **run) for run in content["runs"]]


def residuals(measured: Iterable[Measured], calibration: MemoryCalibration = MEMORY) -> list[Residual]:
    """Each run with its estimate."""
    found = []
    for run in measured:
        job = JobConfig.model_validate(run.job)
        shapes = shapes_of(run.config, job)
        if shapes is None:
            raise ValueError(f"{run.source}: an architecture without shapes")
        peak = estimate(
            shapes,
            job,
            run.row_tokens,
            run.checkpointed_layers,
            run.keep_dequantized,
            run.offload_embedding,
            calibration,
        ).peak_gib
        found.append(Residual(run, peak, peak / run.peak_reserved_gib - 1))
    return found
