"""The peak of GPU memory that a plan expects, beside the one that its steps then reach.

    python benchmarks/peaks.py --config config.yaml --set model.name=4BIT_DIR --json peaks.json \\
        --case 1024:4 --case 1024:32 --case 16384:1:24 …

A case is LENGTH:SAMPLES[:GIB[:HAD]]: optimizer steps of SAMPLES random rows of LENGTH tokens, planned for a
`performance.memory_limit_gib` of GIB (none or *: the whole GPU). With HAD the allocator may reserve so many GiB and no
more, whatever the plan thinks: `1024:4:*:30` tells how a plan that was wrong ends, and that its losses are those of
`1024:4`. One model in one process, so the embedding
stays where it is: with --offload in the host's memory, else on the GPU. A line a case. The JSON's `runs` tell what
measured_peaks.json wants, with the tokens that the longest micro-batch really held.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from our_trainer import Loaded, benchmark_job, load, plan_of, train_on

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.plan import BLOCK, Plan
from gptoss_ft.reporting.console import quiet_libraries
from gptoss_ft.runtime import Device, find_device, import_unsloth, limit_gpu_memory, prepare_environment

STEPS = 2
LIMITS = (-0.05, 0.10)
# What a smaller plan has less of, or more.
SHRINK = ("row_tokens", "checkpointed_layers", "keep_dequantized")


@dataclass(frozen=True)
class Case:
    """Steps of `samples` rows of `length` tokens, planned for `limit_gib` (None: the whole GPU), of which `had_gib` can
    be had."""

    length: int
    samples: int
    limit_gib: float | None = None
    had_gib: float | None = None

    def __str__(self) -> str:
        limit = f" in {self.limit_gib:g} GiB" if self.limit_gib else ""
        return f"{self.samples} × {self.length:,}{limit}" + (
            f", {self.had_gib:g} GiB to be had" if self.had_gib else ""
        )

    def job(self, job: JobConfig) -> JobConfig:
        """`job` with this case's rows and limit."""
        changes: dict[str, dict[str, Any]] = {
            "model": {"max_seq_length": self.length},
            "training": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": self.samples},
            "performance": {"memory_limit_gib": self.limit_gib},
        }
        return job.model_copy(
            update={name: getattr(job, name).model_copy(update=values) for name, values in changes.items()}
        )


def case(text: str) -> Case:
    length, samples, *sizes = text.split(":")
    limit, had, *_ = [None if size == "*" else float(size) for size in sizes] + [None, None]
    return Case(int(length), int(samples), limit, had)


def longest_micro_batch(plan: Plan, case: Case) -> int:
    """Tokens of the longest micro-batch, padding included, of rows of one length."""
    import torch

    from gptoss_ft.training.micro_batches import Document, Step, divide

    nothing = torch.zeros(case.length, dtype=torch.int64)
    step = Step(((Document(nothing, nothing, 0),),) * case.samples)
    return max(micro_batch.tokens for micro_batch in divide(step, plan, BLOCK))


def planned(job: JobConfig, case: Case, device: Device, offload: bool) -> Plan:
    """A run's plan, its estimate for the embedding where it is. After `import_unsloth`."""
    plan = plan_of(job, np.full(STEPS * case.samples, case.length), device)
    if plan.room is None:
        raise SystemExit(f"peaks: {job.model.name} is of a kind whose shapes are not known here")
    room = replace(plan.room, offload_embedding=offload)
    return replace(plan, room=room, offload_embedding=offload)


def measure(loaded: Loaded, job: JobConfig, case: Case, folder: Path, offload: bool) -> dict[str, Any]:
    own = case.job(job)
    plan = planned(own, case, loaded.device, offload)
    assert plan.room is not None
    tokens = longest_micro_batch(plan, case)
    expected = plan.room.estimate(tokens, plan.checkpointed(tokens)).peak_gib
    rows = loaded.random_rows(np.full(STEPS * case.samples, case.length))
    loaded.set_back()
    limit_gpu_memory(loaded.device, case.had_gib or loaded.device.total_gib)
    trained = train_on(loaded, rows, own, folder, plan)
    return {
        "case": str(case),
        "row_tokens": tokens,
        "checkpointed_layers": plan.checkpointed(tokens),
        "keep_dequantized": plan.keep_dequantized,
        "offload_embedding": offload,
        "estimated_gib": round(expected, 2),
        "peak_reserved_gib": trained.peak_gib,
        "relative": round(expected / trained.peak_gib - 1, 4) if trained.peak_gib else None,
        "seconds": trained.seconds,
        "losses": trained.losses,
        "at_the_end": trained.plan,
        "memory_ran_out": trained.peak_gib is None or any(trained.plan[name] != getattr(plan, name) for name in SHRINK),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--case", dest="cases", type=case, action="append", required=True, metavar="LENGTH:SAMPLES[:GIB[:HAD]]"
    )
    parser.add_argument("--offload", action="store_true", help="the embedding in the host's memory")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    job = benchmark_job(arguments.config, arguments.overrides, STEPS)
    prepare_environment()
    device = find_device(job.model.device)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries(folder / "libraries.log"):
            import_unsloth(device)
            loaded = load(job, device, arguments.offload)
            for each in arguments.cases:
                runs.append(measure(loaded, job, each, folder, arguments.offload))
                print(json.dumps(runs[-1]), file=sys.__stdout__, flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps({"device": device.name, "runs": runs}, indent=1) + "\n")
    known = [run["relative"] for run in runs if run["relative"] is not None and not run["memory_ran_out"]]
    within = sum(LIMITS[0] <= one <= LIMITS[1] for one in known)
    span = f", from {min(known):+.1%} to {max(known):+.1%}" if known else ""
    print(f"{within} of {len(known)} that fit within −5 % and +10 %{span}; {len(runs) - len(known)} ran out of memory")


if __name__ == "__main__":
    main()
