"""Runs of the tiny job that are interrupted at seeded moments and continued by the same command.

A moment is something seen in the output folder or the cache: a line of the log, a file of a checkpoint that is being
written, a name that appeared, looked at every millisecond. What interrupts is a subclass of `InterruptedJob`.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tiny_runs import POLL_SECONDS, differences, has_finished, screen_of, write_job

PHASES = ("preparation", "step", "save", "end")
MOST_INTERRUPTIONS = 3
# One can be done before its moment comes; it counts for nothing.
MOST_TRIES = 3
# The exit code of a run that ended before its last step, its state saved.
INTERRUPTED = 75

# How often something of a phase has been seen.
Moment = tuple[str, int]


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


# With what is written of it to `--output`.
Told = tuple[Continued, Mapping[str, Any]]


class InterruptedJob:
    """The job in `place`, whose output and cache are its own; `counts` is what was seen of its last run, by phase."""

    def __init__(self, place: Path, **changes: Mapping[str, Any]) -> None:
        self.place, self.output = place, place / "outputs" / "run"
        self.counts: dict[str, int] = {}
        place.mkdir(parents=True)
        write_job(place, **changes)

    def start(self) -> tuple[Callable[[], int | None], Callable[[], None]]:
        """Start a run; gives what tells its exit code once it has ended, and what interrupts it."""
        raise NotImplementedError

    def run(self, moment: Moment | None) -> int:
        """The exit code of a run that is interrupted at `moment`."""
        events = Events(self.output, self.place / "cache")
        ended, interrupt = self.start()
        code = wait_for(ended, events, moment, interrupt)
        self.counts = events.counts
        return code

    def run_whole(self) -> None:
        if code := self.run(None):
            raise RuntimeError(f"the uninterrupted run ended with {code}:\n{screen_of(self.place)}")

    def continued(self, reference: "InterruptedJob", seed: int, expected: tuple[int, ...]) -> Continued:
        """Interrupt and continue it until it is done, and compare its end with that of `reference`."""
        result = interrupt_and_continue(self.run, self.place, reference.counts, seed, expected)
        if has_finished(self.output):
            result.different += differences(reference.output, self.output)
        return result


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


def enough(told: Iterator[Told], runs: int) -> Iterator[Told]:
    """The first that are `told`, up to the one with which `runs` of them were interrupted."""
    interrupted = 0
    for result, facts in islice(told, MOST_TRIES * runs):
        yield result, facts
        interrupted += bool(result.interruptions)
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


def make_parser(description: str | None, runs: int) -> argparse.ArgumentParser:
    """What both programs take; `runs` is the default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="interrupted runs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    return parser


def show(result: Continued, at: list[str], indent: int, before: str = "") -> None:
    """A line for the run, which begins with `before`, and one for each difference, indented."""
    said = "yes" if not result.different else "NO"
    print(f"{before}{result.seed:4}  {said:>5}  {', '.join(at)}", flush=True)
    for difference in result.different:
        print(f"{'':{indent}}{difference}")


def tell(told: Iterator[Told], runs: int, how: str, output: Path | None) -> int:
    """Until `runs` were interrupted, said in words by `how`; how many ended like the reference. Gives the exit code."""
    taken = list(enough(told, runs))
    equal = sum(not result.different for result, _ in taken)
    interruptions = [len(result.interruptions) for result, _ in taken if result.interruptions]
    print(
        f"{equal} of {len(taken)} runs, {len(interruptions)} of them {how}, {sum(interruptions)} times in all, "
        "ended like one that was not"
    )
    if output is not None:
        output.write_text(json.dumps([facts for _, facts in taken], indent=2) + "\n")
    return 0 if equal == len(taken) else 1
