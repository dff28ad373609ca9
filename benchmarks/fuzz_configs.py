"""Wrong configs, by the thousand, through `validate --config-only`: each is a job, or errors with their places.

    python benchmarks/fuzz_configs.py --examples 10000 --seed 1

Each config is written to a file and checked by the command line itself, in this process. It must end with exit code 0,
or with 2 and nothing but lines that name a place inside the file (or the `--set`, or a default), within SECONDS of
processor time; anything else is a finding, kept under --findings. Prints a Markdown table; ends with 1 where there are
findings. Needs no model and no GPU; 10,000 take some minutes.
"""

import argparse
import io
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple

import broken_configs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gptoss_ft import cli
from gptoss_ft.config.mistakes import CURE, MOST_SHOWN

SECONDS = 1.0  # of processor time, for one config
HANGS_AFTER = 30  # seconds of the clock
LONGEST_LINE = 1_000  # characters
BREAKS = re.compile(r"\r\n|\r|\n")


class Judged(NamedTuple):
    """How one config ended: `accepted`, `refused`, or a finding; how long it took, and the number of its mistakes."""

    outcome: str
    seconds: float
    mistakes: int = 0

    @property
    def is_finding(self) -> bool:
        return self.outcome not in ("accepted", "refused")


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` of the code under test catches it."""


def judge(file: Path, overrides: Sequence[str] = ()) -> Judged:
    """Run `validate --config-only` on a file, as the command line does."""
    arguments = ["gptoss_ft", "validate", "--config-only", "--config", str(file)]
    arguments += [word for text in overrides for word in ("--set", text)]
    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()
    with _signals_kept(), redirect_stdout(out), redirect_stderr(err):
        code = _code_of(arguments)
    seconds = time.process_time() - start
    if isinstance(code, str):
        return Judged(code, seconds)
    if seconds > SECONDS:
        return Judged("took too long", seconds)
    lines = err.getvalue().splitlines()
    if "Traceback" in err.getvalue():
        return Judged(f"traceback: {lines[-1]}", seconds)
    if code == 0:
        return Judged("wrote on stderr without an error" if lines else "accepted", seconds)
    if code != 2:
        return Judged(f"exit code {code}", seconds)
    found = fault(lines, file) or ("wrote on stdout beside its errors" if out.getvalue() else "")
    return Judged(found or "refused", seconds, len(lines))


def _code_of(arguments: list[str]) -> int | str:
    """The exit code; or how it ended otherwise, in words."""
    before, sys.argv = sys.argv, arguments
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else f"exit code {end.code!r}"
    except Hang:
        return f"hung for {HANGS_AFTER} s"
    finally:
        sys.argv = before
    return "returned"


def fault(lines: Sequence[str], file: Path) -> str:
    """What is wrong with the errors that were shown; empty where each has a place that the file has."""
    if not lines or not lines[0].startswith("error: "):
        return "no error shown"
    text = BREAKS.split(file.read_bytes().decode("utf-8-sig", "replace"))
    problems = [lines[0].removeprefix("error: "), *lines[1:]]
    if problems[-1].endswith((CURE, "Save the file as UTF-8.")):
        problems.pop()
    for problem in problems:
        rest = problem.removeprefix(str(file))
        placed = re.match(r":(\d+):(\d+)(?: \(default\))?: .", rest)
        if placed is not None and rest != problem:
            line, column = int(placed[1]), int(placed[2])
            if not (1 <= line <= len(text) and 1 <= column <= len(text[line - 1]) + 1):
                return "a place that the file does not have"
        elif not problem.startswith("--set ") and not rest.startswith((": larger than", " (default): ")):
            return "an error without its place"
    if len(problems) > MOST_SHOWN or max(map(len, problems)) > LONGEST_LINE:
        return "more text than anyone reads"
    return ""


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The alarm set, and the handlers of the command line undone."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def fuzz(examples: int, number: int, folder: Path, findings: Path | None = None) -> list[Judged]:
    """Judge as many configs; what is found is kept in `findings`, with its `--set` beside it."""
    judged: list[Judged] = []
    texts = broken_configs.bases()
    file = folder / "job.yaml"

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(texts), st.integers(0, 2**64 - 1))
    def feed(base: str, drawn: int) -> None:
        random = Random(drawn)
        file.write_bytes(broken_configs.broken(base, random))
        overrides = [broken_configs.override(random) for _ in range(random.choice([0, 0, 0, 0, 0, 0, 1, 3]))]
        result = judge(file, overrides)
        judged.append(result)
        if result.is_finding and findings is not None:
            findings.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "_", result.outcome)[:80]
            shutil.copyfile(file, findings / f"{name}-{drawn}.yaml")
            (findings / f"{name}-{drawn}.set").write_text(repr(overrides))

    feed()
    return judged


def table(judged: Sequence[Judged], seconds: float) -> str:
    """The figures as Markdown."""
    counts = Counter(result.outcome for result in judged)
    times = sorted(result.seconds for result in judged)
    found = {name: number for name, number in counts.items() if name not in ("accepted", "refused")}
    rows = [
        ("configs", f"{len(judged):,}"),
        ("accepted, exit code 0", f"{counts['accepted']:,}"),
        ("refused with places, exit code 2", f"{counts['refused']:,}"),
        ("mistakes shown", f"{sum(result.mistakes for result in judged):,}"),
        ("anything else", f"{sum(found.values()):,}"),
        ("median, 99th percentile, longest", ", ".join(f"{1000 * _quantile(times, q):.0f} ms" for q in (0.5, 0.99, 1))),
        ("in all", f"{seconds:.0f} s"),
        *((f"finding: {name}", f"{number:,}") for name, number in found.items()),
    ]
    return "\n".join(["| what | figure |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, help="folder that gets the configs that were not handled")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        judged = fuzz(options.examples, options.seed, Path(folder), options.findings)
    print(table(judged, time.monotonic() - start))
    return 1 if any(result.is_finding for result in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
