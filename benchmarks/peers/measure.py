"""What a peer's process is told, and what it measures of its own steps."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

Experts = Literal["all", "cookbook", "none"]

GIB = 1024**3
SEED = 3407
RANK = 8
ALPHA = 16
LEARNING_RATE = 2e-4
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
# The layers that OpenAI's cookbook on fine-tuning gpt-oss with transformers puts expert adapters on.
COOKBOOK_LAYERS = (7, 15, 23)
FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@dataclass(frozen=True)
class Task:
    """What a contender trains: the model's folder, the rows' file, samples of an optimizer step and of a micro-batch,
    which experts get an adapter, the kind of device, and the most memory in GiB (None: all there is).

    `weights_at_random`: `model` holds a config alone, the weights are drawn on the device. `recompute`: with gradient
    checkpointing, as far as that is not a contender's own choice.
    """

    model: str
    rows: str
    effective_batch: int
    micro_batch: int
    longest: int
    experts: Experts
    device: Literal["cuda", "cpu"]
    cap_gib: float | None
    weights_at_random: bool = False
    recompute: bool = True

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def fused_targets(self) -> list[str] | None:
        """The experts' fused parameters that get an adapter, in the names of PEFT's `target_parameters`."""
        if self.experts == "none":
            return None
        layers = [f"{layer}." for layer in COOKBOOK_LAYERS] if self.experts == "cookbook" else [""]
        return [f"{layer}{name}" for layer in layers for name in FUSED]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Steps:
    """What a contender measured: seconds and tokens of every optimizer step, its loss (nats a token), the peak of
    reserved GPU memory while training in GiB (0 on a CPU), and the clock's seconds at the end of step 1."""

    seconds: list[float]
    tokens: list[int]
    losses: list[float]
    peak_reserved_gib: float
    first_step_at: float


def read_task() -> tuple[Task, Path]:
    """The task of this process, and where its `Steps` are to be written."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    return Task(**json.loads(arguments.task.read_text(encoding="utf-8"))), arguments.output


def hold_to_cap(cap_gib: float | None) -> None:
    """Let CUDA's allocator reserve no more than this; then an allocation raises as on a smaller card."""
    import torch

    if cap_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(cap_gib * GIB / total)


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_clock(tokens: list[int], output: Path) -> Any:
    """A callback that writes `Steps` into `output` after every step, so that a process that is ended early has told
    what it did; `tokens` of every step, in order. After Unsloth's import, where there is one: imports transformers."""
    import torch
    from transformers import TrainerCallback

    on_gpu = torch.cuda.is_available()

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self._ends: list[float] = []

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            synchronize()
            self._ends = [time.time()]

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            synchronize()
            self._ends.append(time.time())

        def on_log(self, args: Any, state: Any, *others: Any, **kwargs: Any) -> None:
            seconds = [round(end - start, 4) for start, end in pairwise(self._ends)]
            steps = Steps(
                seconds=seconds,
                tokens=tokens[: len(seconds)],
                losses=[entry["loss"] for entry in state.log_history if "loss" in entry],
                peak_reserved_gib=torch.cuda.max_memory_reserved() / GIB if on_gpu else 0.0,
                first_step_at=self._ends[1],
            )
            beside = output.with_suffix(".part")
            beside.write_text(json.dumps(asdict(steps)), encoding="utf-8")
            beside.rename(output)

    return Clock()
