"""The longest `model.max_seq_length` that trains under a cap of GPU memory.

    python benchmarks/longest.py --config config.yaml --set model.name=4BIT_DIR --cap 24 --from 16384 --json OUT.json

One model in one process. Each trial trains `STEPS` optimizer steps of one random row of exactly that many tokens, all
of them trained, after what the trial before held was freed. Lengths double from --from until one runs out of memory,
or halve until one does not; then the space between is bisected, in multiples of --multiple. Every trial is a line; the
last one is the answer, also where --seconds ended the search before it was found to the multiple (`searched_out` then
says false).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from our_trainer import Loaded, benchmark_job, load, plan_of, train_on
from peers.measure import hold_to_cap

from gptoss_ft.config import JobConfig
from gptoss_ft.reporting.console import quiet_libraries
from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment

STEPS = 2


@dataclass(frozen=True)
class Trial:
    """Whether `length` tokens trained; the peak in GiB (None where memory ran out), the seconds of both steps, and the
    plan at the end."""

    length: int
    trains: bool
    peak_gib: float | None
    seconds: float
    plan: dict[str, Any]


def search(
    trains: Callable[[int], bool], start: int, multiple: int, most: int, may_go_on: Callable[[], bool]
) -> tuple[int, bool]:
    """The longest multiple of `multiple` up to `most` for which `trains` holds (0: none), and whether the search came
    to its end. `trains` holds up to some length and not above; it is asked first for `start`."""
    works, fails = 0, most // multiple + 1
    at = min(max(1, start // multiple), most // multiple)
    while fails - works > 1:
        if not may_go_on():
            return works * multiple, False
        if trains(at * multiple):
            works = at
        else:
            fails = at
        if works == 0:
            at //= 2
        else:
            doubled = 2 * works
            # Above the largest that may be asked for, that one first.
            untried = fails == most // multiple + 1
            at = min(doubled, fails - 1) if untried else (works + fails) // 2
        at = max(1, at)
    return works * multiple, True


def attempt(loaded: Loaded, job: JobConfig, length: int, folder: Path) -> Trial:
    """Train `STEPS` steps on rows of `length` tokens."""
    own = job.model_copy(update={"model": job.model.model_copy(update={"max_seq_length": length})})
    rows = loaded.random_rows(np.full(STEPS, length))
    trained = train_on(loaded, rows, own, folder, plan_of(own, rows.lengths, loaded.device))
    return Trial(length, trained.peak_gib is not None, trained.peak_gib, trained.seconds, trained.plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cap", type=float, metavar="GIB", help="most GPU memory that may be reserved")
    parser.add_argument("--from", dest="start", type=int, default=8192, help="first length tried")
    parser.add_argument("--multiple", type=int, default=1024)
    parser.add_argument("--most", type=int, default=131072, help="longest length tried")
    parser.add_argument("--seconds", type=float, default=540, help="no trial starts later than this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    fixed = ["training.per_device_train_batch_size=1", "training.gradient_accumulation_steps=1"]
    if arguments.cap:
        fixed.append(f"performance.memory_limit_gib={arguments.cap}")
    overrides = [f"model.max_seq_length={arguments.most}", *fixed, *arguments.overrides]
    job = benchmark_job(arguments.config, overrides, STEPS)
    prepare_environment()
    device = find_device(job.model.device)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries(folder / "libraries.log"):
            import_unsloth(device)
            hold_to_cap(arguments.cap)
            # What the longest needs is held for all.
            loaded = load(job, device, plan_of(job, np.full(STEPS, arguments.most), device).offload_embedding)

            def trains(length: int) -> bool:
                trials.append(attempt(loaded, job, length, folder))
                print(json.dumps(asdict(trials[-1])), file=sys.__stdout__, flush=True)
                return trials[-1].trains

            longest, searched_out = search(
                trains, arguments.start, arguments.multiple, arguments.most,
                lambda: time.monotonic() - started < arguments.seconds,
            )  # fmt: skip
    found = {"device": device.name, "cap_gib": arguments.cap, "longest": longest, "searched_out": searched_out}
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "trials": [asdict(trial) for trial in trials]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
