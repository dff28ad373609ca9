"""Runs of a tiny job that are ended in the middle and continued, and whether two of them ended the same.

What several benchmarks need. A run may be a fork of one process that has imported everything: the command `train.py
train --config job.yaml` in a folder of its own, a second of work without the seconds of imports; on a CPU, with one
thread.
"""

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

LOGGED = ("step", "loss", "learning_rate", "grad_norm", "epoch", "tokens", "eval_loss")
PHASES = ("preparation", "step", "save", "end")
SCREEN = "screen"
MOST_INTERRUPTIONS = 3
# One can be done before its moment comes; it counts for nothing.
MOST_TRIES = 3
POLL_SECONDS = 0.001

# How often something of a phase has been seen.
Moment = tuple[str, int]
Result = TypeVar("Result")


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


class Events:
    """Counts what is seen by phase in an output folder, and in a cache."""

    def __init__(self, run: Path, cache: Path) -> None:
        self._run, self._cache = run, cache
        self._seen = set(dict(self._there()))
        self.counts = dict.fromkeys(PHASES, 0)

    def look(self) -> None:
        """Count what is new since the last look."""
        now = dict(self._there())
        for thing in now.keys() - self._seen:
            self.counts[now[thing]] += 1
        self._seen |= now.keys()

    def _there(self) -> Iterator[tuple[str, str]]:
        yield from ((f"cache {path} {size}", "preparation") for path, size, _ in _files(self._cache))
        log = self._run / "log.jsonl"
        for path, size, changed in _files(self._run):
            name = os.path.relpath(path, self._run)
            if name.startswith((".checkpoint-", "checkpoint-")):
                yield f"{name} {size}", "save"
            elif name.startswith((".final_model", "final_model")):
                yield name, "end"
            elif name == log.name:
                yield f"{name} {size}", "step"
            else:
                yield f"{name} {changed}", "end" if log.exists() and log.stat().st_size else "preparation"


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Files and folders below `folder` at any depth: path, bytes, time of change (ns)."""
    found = []
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            try:
                state = os.stat(path)
            except OSError:
                # It went away while it was looked at.
                continue
            found.append((path, state.st_size, state.st_mtime_ns))
    return found


@dataclass
class Continued:
    """A job that was interrupted: its seed, where, the exit codes of its runs, and what of its end differs from the one
    that was not."""

    seed: int
    interruptions: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def interrupt_and_continue(
    run: Callable[[Moment | None], int], place: Path, counts: dict[str, int], seed: int, expected: tuple[int, ...]
) -> Continued:
    """Have `run` the job of `place` again and again until it is done, interrupted at drawn moments at first: some of
    those that an uninterrupted one showed (`counts`). An interrupted run may end with the codes `expected`."""
    result, drawn, output = Continued(seed), random.Random(seed), place / "outputs" / "run"
    for _ in range(drawn.randint(1, MOST_INTERRUPTIONS)):
        phase = drawn.choice([phase for phase in PHASES if counts[phase]])
        moment = drawn.randint(1, counts[phase])
        if not has_finished(output):
            code = run((phase, moment))
            result.exit_codes.append(code)
            if code:
                result.interruptions.append(f"{phase} {moment}")
            if code not in (0, *expected):
                result.different.append(f"ended with {code}: {screen_of(place)[-2000:]}")
    if not has_finished(output):
        code = run(None)
        result.exit_codes.append(code)
        if code:
            result.different.append(f"did not end: {code}, {screen_of(place)[-2000:]}")
    return result


def enough(results: Iterator[Result], runs: int, continued: Callable[[Result], Continued]) -> Iterator[Result]:
    """The first of `results`, up to the one with which `runs` of them were interrupted."""
    interrupted = 0
    for result in islice(results, MOST_TRIES * runs):
        yield result
        interrupted += bool(continued(result).interruptions)
        if interrupted == runs:
            return


def wait_for(
    ended: Callable[[], int | None], events: Events, moment: Moment | None, interrupt: Callable[[], None]
) -> int:
    """The exit code that `ended` gives at last; at `moment`, `interrupt` once."""
    while (code := ended()) is None:
        events.look()
        if moment is not None and events.counts[moment[0]] >= moment[1]:
            interrupt()
            moment = None
        time.sleep(POLL_SECONDS)
    events.look()
    return code


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
