"""What one optimizer step of our trainer spends its time on, by group of kernels, and how far that is from the floor.

    python benchmarks/step_profile.py --config config.yaml --set model.name=4BIT_DIR \\
        --set training.gradient_accumulation_steps=32 --lengths full --output profile/

Trains on random rows, all tokens trained: `--warm-up` steps, then `--steps` that are timed, then one under
torch.profiler. Writes profile.json and kernels.json (the longest kernels by name, with the group each was put into:
look there whether the rules fit) into --output, and of a GPU host.json: the operators that the host took longest for,
those that they call not counted, and how often it ran them. Small steps wait for it.

Percentages are of the timed steps' median. `idle` is what of that is left when at least one kernel runs in the rest;
kernels of two streams at once count both. The floor is 4 FLOP for each active parameter and token (forward, and the
gradient of the data; base weights get none) at the rate of a large matrix product that is measured first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kernel_groups import Kernel, Shapes, busy_microseconds, longest_names, milliseconds_by_group, read_trace
from our_trainer import benchmark_job, facts_of, load, make_trainer, summary_of
from peers.measure import synchronize
from peers.rows import draw_lengths

from gptoss_ft.config import JobConfig
from gptoss_ft.reporting.console import quiet_libraries
from gptoss_ft.reporting.memory_report import peak_gib
from gptoss_ft.runtime import Device, find_device, import_unsloth, prepare_environment

NAMES = 40


def measured_flops(on_gpu: bool) -> float:
    """FLOP a second of a large matrix product: bfloat16 on a GPU, float32 on a CPU."""
    import torch

    size, device, dtype = (8192, "cuda", torch.bfloat16) if on_gpu else (512, "cpu", torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(20):
        synchronize()
        started = time.perf_counter()
        left @ right
        synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times)


def make_watcher(first_timed: int, timed: int, trace: Path, on_gpu: bool) -> Any:
    """A callback that times `timed` steps from `first_timed` on and profiles the next one into `trace`."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
            self._profile = profile(activities=activities, record_shapes=True)
            self._ended = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == first_timed + timed:
                synchronize()
                self._profile.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            synchronize()
            now = time.perf_counter()
            if first_timed < state.global_step <= first_timed + timed:
                self.seconds.append(now - self._ended)
            elif state.global_step > first_timed + timed:
                self._profile.stop()
                self._profile.export_chrome_trace(str(trace))
            self._ended = now

    return Watcher()


def profile_step(job: JobConfig, device: Device, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and profile; what profile.json holds. Writes kernels.json. After `import_unsloth`."""
    from gptoss_ft.model.repository import find_repository
    from gptoss_ft.planning.choice import effective_batch
    from gptoss_ft.planning.run_plan import plan_run
    from gptoss_ft.planning.shapes import read_shapes

    repository = find_repository(job.model)
    model = read_shapes(job, repository)
    if model is None:
        raise SystemExit(f"step_profile: {job.model.name} is of a kind whose parameters cannot be counted here")
    on_gpu = device.kind == "cuda"
    rate = measured_flops(on_gpu)
    batch, longest = effective_batch(job), job.model.max_seq_length
    lengths = draw_lengths(arguments.lengths, batch * (arguments.warm_up + arguments.steps + 1), longest, seed=0)
    plan = plan_run(job, repository, summary_of(lengths, job), device).plan
    loaded = load(job, device, plan.offload_embedding)
    trainer = make_trainer(loaded, loaded.random_rows(lengths), job, folder, plan)
    watcher = make_watcher(arguments.warm_up, arguments.steps, folder / "trace.json", on_gpu)
    trainer.add_callback(watcher)
    trainer.train()

    seconds, peak = statistics.median(watcher.seconds), round(peak_gib(device), 2)
    # Reading the trace of a large step takes a while.
    print(f"median of {len(watcher.seconds)} steps {seconds:.4f} s, peak {peak} GiB", file=sys.__stdout__, flush=True)
    kernels = read_trace(folder / "trace.json", on_gpu)
    shapes = Shapes(model.vocabulary, job.lora.r)
    _write(arguments.output / "kernels.json", longest_names(kernels, shapes, NAMES))
    if on_gpu:
        operators = read_trace(folder / "trace.json", on_gpu=False)
        _write(arguments.output / "host.json", longest_names(operators, shapes, NAMES))
    tokens = float(lengths.mean()) * batch
    return {
        "device": device.name,
        "model": job.model.name,
        "effective_batch": batch,
        "lengths": arguments.lengths,
        "tokens": round(tokens),
        "plan": facts_of(trainer.plan),
        "peak_reserved_gib": peak,
        **summarize(kernels, shapes, seconds, tokens, model.active_parameters(), rate),
    }


def summarize(
    kernels: list[Kernel], shapes: Shapes, seconds: float, tokens: float, parameters: int, rate: float
) -> dict[str, Any]:
    """Step time, its groups in ms, idle time, and the floor; `tokens` of a step on average."""
    busy = busy_microseconds(kernels) / 1000
    floor = 4 * parameters * tokens / rate
    return {
        "step_ms": round(seconds * 1000, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "kernels": len(kernels),
        "busy_ms": round(busy, 3),
        "idle_ms": round(max(0.0, seconds * 1000 - busy), 3),
        "groups_ms": {group: round(spent, 3) for group, spent in milliseconds_by_group(kernels, shapes).items()},
        "active_parameters": parameters,
        "measured_tflops": round(rate / 1e12, 3),
        "floor_ms": round(floor * 1000, 3),
        "floor_tokens_per_second": round(tokens / floor, 1),
        "share_of_floor_rate": round(floor / seconds, 4),
    }


def show(profile: dict[str, Any]) -> None:
    print(json.dumps(profile["plan"]))
    step = profile["step_ms"]
    rows = [*profile["groups_ms"].items(), ("idle", profile["idle_ms"])]
    print(f"{'group':40} {'ms':>10} {'% of step':>10}")
    for name, spent in sorted(rows, key=lambda row: -row[1]):
        print(f"{name:40} {spent:10.2f} {100 * spent / step:10.1f}")
    print(
        f"step {step:.1f} ms, {profile['kernels']} kernels, {profile['tokens_per_second']:,.0f} tokens/s; "
        f"floor {profile['floor_ms']:.1f} ms, {profile['floor_tokens_per_second']:,.0f} tokens/s at "
        f"{profile['measured_tflops']:.4g} TFLOP/s: {100 * profile['share_of_floor_rate']:.1f} % of it"
    )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--lengths", choices=["lognormal", "full"], default="full")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before those that are timed")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    arguments = parser.parse_args()
    if arguments.warm_up < 1 or arguments.steps < 1:
        parser.error("--warm-up and --steps: want 1 or more")
    job = benchmark_job(arguments.config, arguments.overrides, arguments.warm_up + arguments.steps + 1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    prepare_environment()
    device = find_device(job.model.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries(arguments.output / "libraries.log"):
            import_unsloth(device)
            found = profile_step(job, device, arguments, folder)
    _write(arguments.output / "profile.json", found)
    show(found)


if __name__ == "__main__":
    main()
