"""Runs of a tiny job, and whether two of them ended the same: what several benchmarks need.

A run may be a fork of one process that has imported everything: the command `train.py train --config job.yaml` in a
folder of its own, a second of work without the seconds of imports; on a CPU, with one thread.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

JOB: dict[str, dict[str, Any]] = {
    "model": {
        "name": "tiny/gpt-oss", "max_seq_length": 256, "load_in_4bit": False, "dtype": "float32", "device": "cpu",
    },
    "dataset": {"path": "tiny/multilingual-thinking", "max_samples": 16},
    "training": {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 5e-3, "warmup_steps": 1,
        "optim": "adamw_torch_fused", "save_steps": 2, "save_total_limit": 2, "logging_steps": 1, "output_dir": "run",
    },
    "tracking": {"report_to": "none"},
}  # fmt: skip
LOGGED = ("step", "loss", "learning_rate", "grad_norm", "epoch", "tokens", "eval_loss")
SCREEN = "screen"
POLL_SECONDS = 0.001


def write_job(place: Path, **changes: Mapping[str, Any]) -> None:
    """`place`/job.yaml: the tiny job with `changes` in its sections, as JSON, which is YAML, too."""
    job = {name: {**JOB.get(name, {}), **changes.get(name, {})} for name in JOB | changes}
    (place / "job.yaml").write_text(json.dumps(job, indent=2) + "\n")


def import_everything() -> None:
    """What a run imports, once, for all its forks."""
    # Threads do not survive a fork.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Else each run asks git, whose answer may change while they run.
    os.environ.setdefault("GPTOSS_FT_COMMIT", "benchmark")
    from gptoss_ft import runtime

    runtime.prepare_environment()
    runtime.import_unsloth(runtime.find_device("cpu"))
    import torch

    import gptoss_ft.cli
    import gptoss_ft.finetuning
    import gptoss_ft.job  # noqa: F401

    torch.use_deterministic_algorithms(True)


def start(place: Path, variables: Mapping[str, str] | None = None, before: Callable[[], None] | None = None) -> int:
    """The job of `place`/job.yaml in a fork; its process id. It says its words into `place`/screen. `variables` are set
    and `before` is called in the fork, before all else."""
    child = os.fork()
    if child == 0:
        _be_the_job(place, variables or {}, before)
    return child


def screen_of(place: Path) -> str:
    """What the last run of `place` said."""
    return (place / SCREEN).read_text(encoding="utf-8", errors="replace")


def _be_the_job(place: Path, variables: Mapping[str, str], before: Callable[[], None] | None) -> None:
    """In the fork: the same command, its words in `place`/screen."""
    from gptoss_ft.cli import main as command

    code = 1
    try:
        os.chdir(place)
        screen = os.open(SCREEN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        os.environ.update(variables)
        sys.argv = ["train.py", "train", "--config", "job.yaml"]
        if before is not None:
            before()
        command()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def exit_code_of(child: int) -> int | None:
    """The exit code of a fork, or the negative number of the signal that ended it; None while it runs."""
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def has_finished(run: Path) -> bool:
    """Whether the output folder `run` is that of a job that is done."""
    manifest = run / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] == "finished"


def differences(reference: Path, other: Path) -> list[str]:
    """What of two finished runs is not the same to the bit: final adapter, the last checkpoint's optimizer state, and
    every logged loss."""
    import torch

    found = []
    adapter = Path("final_model") / "adapter_model.safetensors"
    if (reference / adapter).read_bytes() != (other / adapter).read_bytes():
        found.append("the final adapter differs")
    last = max(reference.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-"))).name
    states = [torch.load(run / last / "optimizer.pt", weights_only=True) for run in (reference, other)]
    if not _same(*states):
        found.append(f"the optimizer's state of {last} differs")
    first, second = _logged(reference), _logged(other)
    if first != second:
        found.append(f"the logs differ: {[line for line in second if line not in first][:2]}, {len(second)} lines")
    return found


def _logged(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [{key: line[key] for key in LOGGED if key in line} for line in lines]


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
