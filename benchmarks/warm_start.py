"""Where the time goes between a process's start and the end of its first optimizer steps, cold and warm.

    python benchmarks/warm_start.py --config config.yaml [--set KEY=VALUE ...] [--starts 2] [--steps 3] [--json FILE]
        [--profile PHASE]

Trains the job once per start, each in a fresh process with the same cache, and ends it after `--steps` steps. Prints
seconds since the process's start at the end of each phase, and what torch.compile found in its caches. The first start
is cold only with an empty cache: GPTOSS_FT_CACHE=$(mktemp -d). With `--profile` the last start prints which functions
that phase was spent in (and takes longer): "import unsloth", tokenizer, data, "base model", adapters or trainer.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
# What torch counts when a graph is looked for in its caches.
COUNTERS = ("inductor", "aot_autograd", "frames")
PROFILE = ".profile.txt"
# That a profile names.
FUNCTIONS = 40


class Clock:
    """Seconds since the process's start, by phase."""

    def __init__(self, started: float, report: Path, profile: str | None) -> None:
        self._started, self._report, self._profile = started, report, profile
        self.phases: dict[str, float] = {}

    def note(self, phase: str) -> None:
        self.phases.setdefault(phase, round(time.time() - self._started, 2))

    def after(self, phase: str, module: ModuleType, name: str, then: Callable[[], None] = lambda: None) -> None:
        """Have `module`'s function `name` note the phase's end, and call `then`, when it returns."""
        function: Callable[..., Any] = getattr(module, name)
        called = self._profiled(function) if phase == self._profile else function

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = called(*args, **kwargs)
            self.note(phase)
            then()
            return result

        setattr(module, name, noted)

    def _profiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, and then a file beside the report of what took most of its time."""

        def called(*args: Any, **kwargs: Any) -> Any:
            profile = cProfile.Profile()
            result = profile.runcall(function, *args, **kwargs)
            with self._report.with_suffix(PROFILE).open("w") as stream:
                for order in (pstats.SortKey.CUMULATIVE, pstats.SortKey.TIME):
                    pstats.Stats(profile, stream=stream).sort_stats(order).print_stats(FUNCTIONS)
            return result

        return called

    def end(self) -> None:
        """Write the report and end the process."""
        from torch._dynamo.utils import compilation_time_metrics, counters

        found = {name: dict(counters[name]) for name in COUNTERS}
        compiled = {name: sum(seconds) for name, seconds in compilation_time_metrics.items()}
        self._report.write_text(json.dumps({"phases": self.phases, "counters": found, "compile seconds": compiled}))
        sys.stdout.flush()
        os._exit(0)


def train_a_little(
    arguments: Sequence[str], started: float, steps: int, report: Path, profiled: str | None = None
) -> None:
    """Run the command line `train` in this process, timed, up to the end of step `steps`."""
    sys.path.insert(0, str(ROOT))
    from gptoss_ft import cli, job

    clock = Clock(started, report, profiled)
    clock.note("command line")
    clock.after("device", job, "find_device")
    clock.after("first rows", job, "check_first_rows")
    clock.after("import unsloth", job, "import_unsloth", lambda: _time_the_rest(clock, steps))
    sys.argv = ["train.py", "train", *arguments]
    cli.main()


def _time_the_rest(clock: Clock, steps: int) -> None:
    from transformers import TrainerCallback
    from transformers.trainer_callback import CallbackHandler

    from gptoss_ft import finetuning
    from gptoss_ft.model import building

    clock.after("tokenizer", finetuning, "load_job_tokenizer")
    clock.after("data", finetuning, "prepare")
    clock.after("base model", building, "load_base")
    clock.after("adapters", building, "attach")
    clock.after("trainer", finetuning, "build_trainer")

    class StepClock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.note(f"step {state.global_step}")
            if state.global_step >= steps:
                clock.end()

    begin = CallbackHandler.on_train_begin

    def begun(handler: Any, *args: Any, **kwargs: Any) -> Any:
        handler.add_callback(StepClock())
        return begin(handler, *args, **kwargs)

    setattr(CallbackHandler, begin.__name__, begun)


def measure(arguments: Sequence[str], starts: int, steps: int, profiled: str | None) -> list[dict[str, Any]]:
    """What `starts` processes reported, one after the other."""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(starts):
            report = Path(folder, f"{number}.json")
            environment = {**os.environ, "GPTOSS_FT_OUTPUT_ROOT": f"{folder}/outputs-{number}"}
            inside = ["--inside", str(report), "--started", str(time.time()), "--steps", str(steps)]
            if profiled and number == starts - 1:
                inside += ["--profile", profiled]
            ended = subprocess.run(
                [sys.executable, __file__, *inside, *arguments], env=environment, stdout=subprocess.DEVNULL
            )
            if not report.is_file():
                raise SystemExit(f"start {number} ended with {ended.returncode} before step {steps}")
            reports.append(json.loads(report.read_text()))
            if report.with_suffix(PROFILE).exists():
                print(report.with_suffix(PROFILE).read_text())
    return reports


def show(reports: Sequence[dict[str, Any]]) -> None:
    """A line a phase: for every start the seconds since the process's start, and those of the phase."""
    phases = list(reports[-1]["phases"])
    print(f"{'until the end of':18}" + "".join(f"   start {number}" + " " * 8 for number in range(len(reports))))
    before = [0.0] * len(reports)
    for phase in phases:
        now = [report["phases"][phase] for report in reports]
        each = zip(now, before, strict=True)
        print(f"{phase:18}" + "".join(f"{at:8.1f} ({at - then:5.1f})  " for at, then in each))
        before = now
    for number, report in enumerate(reports):
        print(f"start {number}: {json.dumps(report['counters'])}")
        slowest = sorted(report["compile seconds"].items(), key=lambda item: -item[1])[:8]
        print(f"start {number}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=2, help="processes, one after the other")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of each")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    parser.add_argument("--profile", metavar="PHASE", help="print what this phase of the last start was spent in")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options, arguments = parser.parse_known_args()
    if options.inside is not None:
        train_a_little(arguments, options.started, options.steps, options.inside, options.profile)
        return
    reports = measure(arguments, options.starts, options.steps, options.profile)
    show(reports)
    if options.json is not None:
        options.json.write_text(json.dumps(reports, indent=2) + "\n")


if __name__ == "__main__":
    main()
