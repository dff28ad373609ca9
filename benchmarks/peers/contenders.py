"""Runs one contender in a fresh process and reads what it measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from peers.measure import ALPHA, ATTENTION, LEARNING_RATE, MLP, RANK, SEED, Steps, Task

BENCHMARKS = Path(__file__).resolve().parents[1]
REPOSITORY = BENCHMARKS.parent
POLL_SECONDS = 0.05
# Steps to a checkpoint.
NEVER = 1_000_000


@dataclass(frozen=True)
class Setting:
    """Around a contender: `folder` is its own and empty, `cache` holds the compile caches of all, `prepared` the rows
    as ours reads them; `overrides` change keys of our job. A contender is given up after `timeout_seconds`."""

    folder: Path
    cache: Path
    prepared: Path
    overrides: tuple[str, ...]
    timeout_seconds: float


class ContenderError(Exception):
    """A contender ended without a result."""


def environment(name: str, task: Task, setting: Setting) -> dict[str, str]:
    """The variables of a contender's process. Its compile caches are its own, so that no other warms them."""
    cache = setting.cache / name
    changed = {
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(cache / "unsloth_compiled"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
    }
    if name == "ours":
        for variable in [*changed][1:]:
            # It sets them itself.
            del changed[variable]
        changed |= {"GPTOSS_FT_CACHE": str(cache), "GPTOSS_FT_OUTPUT_ROOT": str(setting.folder / "outputs")}
    if not task.on_gpu:
        changed |= {"CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "TORCHDYNAMO_DISABLE": "1"}
    return {**os.environ, **changed}


def job_of(task: Task, steps: int, setting: Setting) -> dict[str, object]:
    """Our job on the same rows, as config.yaml holds it: everything about speed is left at its default."""
    cookbook = task.experts == "cookbook"
    lora: dict[str, object] = {"r": RANK, "alpha": ALPHA, "dropout": 0.0, "target_modules": list(ATTENTION)}
    if cookbook:
        lora["target_parameters"] = task.fused_targets()
    elif task.experts == "all":
        lora["target_modules"] = [*ATTENTION, *MLP]
    return {
        "model": {
            "name": task.model, "max_seq_length": task.longest, "load_in_4bit": task.on_gpu and not cookbook,
            "dtype": "bfloat16" if task.on_gpu else "float32", "device": task.device,
        },
        "lora": lora,
        "dataset": {"prepared": str(setting.prepared)},
        "training": {
            "max_steps": steps, "per_device_train_batch_size": task.micro_batch,
            "gradient_accumulation_steps": task.effective_batch // task.micro_batch, "learning_rate": LEARNING_RATE,
            "optim": "adamw_8bit" if task.on_gpu else "adamw_torch_fused", "save_steps": NEVER, "seed": SEED,
            "output_dir": "ours",
        },
        "evaluation": {"prompts": []},
        "tracking": {"report_to": "none"},
    }  # fmt: skip


def run_peer(module: str, name: str, task: Task, setting: Setting) -> tuple[Steps, float]:
    """Run a peer; its `Steps`, and the seconds from its process's start to the end of step 1. One that takes too long
    is ended, and has as many steps as it came to."""
    told, output = setting.folder / f"{name}-task.json", setting.folder / f"{name}-steps.json"
    task.save(told)
    started = time.time()
    run_module([f"peers.{module}", str(told), str(output)], name, task, setting)
    if not output.exists():
        raise ContenderError("took too long")
    steps = Steps(**json.loads(output.read_text(encoding="utf-8")))
    return steps, steps.first_step_at - started


def run_module(arguments: list[str], name: str, task: Task, setting: Setting) -> None:
    """Run a module of benchmarks/, in the environment of contender `name`, to its end or that of its time."""
    _run([sys.executable, "-m", *arguments], name, task, setting, None)


def run_ours(task: Task, tokens: list[int], setting: Setting) -> tuple[Steps, float]:
    """Run `train.py train` until the last step's line is in its log; after it comes only what is saved. As `run_peer`
    otherwise."""
    config = setting.folder / "ours.yaml"
    config.write_text(yaml.safe_dump(job_of(task, len(tokens), setting)), encoding="utf-8")
    entry = ["-m", "peers.capped", str(task.cap_gib)] if task.cap_gib else [str(REPOSITORY / "train.py")]
    overrides = list(setting.overrides)
    if task.cap_gib:
        overrides.insert(0, f"performance.memory_limit_gib={task.cap_gib}")
    command = [sys.executable, *entry, "train", "--config", str(config)]
    watch = LogWatch(setting.folder / "outputs" / "ours" / "log.jsonl", len(tokens))
    started = time.time()
    _run([*command, *(part for one in overrides for part in ("--set", one))], "ours", task, setting, watch)
    steps = watch.steps(tokens)
    return steps, steps.first_step_at - started


class LogWatch:
    """Follows our log.jsonl: one line a step, `seconds` since training started."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        self._steps = steps
        self._lines: list[str] = []
        self.first_step_at = 0.0

    def is_complete(self) -> bool:
        """Whether every step's line is there; notes when the first was."""
        if self._path.exists():
            self._lines = [line for line in self._path.read_text(encoding="utf-8").splitlines(True) if line[-1] == "\n"]
        if self._lines and not self.first_step_at:
            self.first_step_at = time.time()
        return len(self._lines) >= self._steps

    def steps(self, tokens: list[int]) -> Steps:
        """What the log says; `ContenderError` unless the steps held the tokens that the others' do."""
        if not self._lines:
            raise ContenderError("took too long")
        records = [json.loads(line) for line in self._lines]
        ends = [0.0, *(record["seconds"] for record in records)]
        seen = [0, *(record["tokens"] for record in records)]
        trained = [after - before for before, after in pairwise(seen)]
        if trained != tokens[: len(trained)]:
            raise ContenderError(f"other samples in a step: {trained[:4]} tokens, wanted {tokens[:4]}")
        return Steps(
            seconds=[round(after - before, 4) for before, after in pairwise(ends)],
            tokens=trained,
            losses=[record["loss"] for record in records],
            peak_reserved_gib=max(record["gib"] for record in records),
            first_step_at=self.first_step_at,
        )


def _run(command: list[str], name: str, task: Task, setting: Setting, watch: LogWatch | None) -> None:
    log = setting.folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, cwd=setting.folder, env=environment(name, task, setting), stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + setting.timeout_seconds
        try:
            code = _wait(process, deadline, watch)
        finally:
            if process.poll() is None:
                # With whatever it started: compile workers.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        text = log.read_text(encoding="utf-8", errors="replace")
        last = [line.strip() for line in text.splitlines() if line.strip()][-3:]
        raise ContenderError(" | ".join(last) or f"exit code {code}")


def _wait(process: subprocess.Popen[bytes], deadline: float, watch: LogWatch | None) -> int:
    """The process's exit code; 0 when `watch` has seen all that it waits for, or time is up."""
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
        if watch is not None and watch.is_complete():
            break
    return 0
