"""Runs of the tiny job that are killed at seeded moments and continued by the same command, against one that was not.

    PYTHONPATH=. python benchmarks/kill_and_continue.py [--runs 50] [--signal KILL|TERM] [--seed 0]
        [--logging-steps 1 5] [--dropout 0 0.1] [--eval-steps 0 1] [--output FILE]

A moment (interrupted_runs.py) is chosen from those that the uninterrupted run showed: in preparation, at a step, inside
a save, or at the end. Runs take the settings in turn. Final adapter, the last checkpoint's optimizer state, and every
logged loss must be the same to the bit. With evaluations (`--eval-steps`, 0: without) the rate is so high that the best
checkpoint, of which the final adapter is made, is not the last. Runs are forks of a process that has imported
everything. On a CPU.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

from interrupted_runs import INTERRUPTED, InterruptedJob, Told, make_parser, show, tell
from tiny_runs import exit_code_of, import_everything, start

# With evaluations: so high a rate that the last checkpoint is not the best.
HIGH_RATE = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "early_stopping_patience": 5}


@dataclass(frozen=True)
class Setting:
    """What of the job differs between runs."""

    logging_steps: int
    dropout: float
    eval_steps: int

    def changes(self) -> dict[str, dict[str, Any]]:
        """In the tiny job's sections."""
        training = {"max_steps": 10, "gradient_accumulation_steps": 2, "save_steps": 3}
        changes: dict[str, dict[str, Any]] = {
            "dataset": {"max_samples": 24},
            "training": {**training, "logging_steps": self.logging_steps},
        }
        if self.dropout:
            # Experts held as one parameter cannot have it.
            modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
            changes["lora"] = {"dropout": self.dropout, "target_modules": modules}
        if self.eval_steps:
            changes["dataset"]["eval_fraction"] = 0.25
            changes["training"] |= {**HIGH_RATE, "eval_steps": self.eval_steps}
        return changes


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__, runs=50)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--logging-steps", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--eval-steps", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args(arguments)
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        settings = [Setting(*each) for each in product(chosen.logging_steps, chosen.dropout, chosen.eval_steps)]
        number = signal.Signals[f"SIG{chosen.signal}"]
        compared = compare(Path(folder), settings, number, chosen.seed)
        return tell(compared, chosen.runs, f"killed by {number.name}", chosen.output)


def compare(folder: Path, settings: list[Setting], number: signal.Signals, seed: int) -> Iterator[Told]:
    """Run, kill and continue, in turn with each of `settings`, without end; print a line for each run."""
    print(f"{'logging_steps':>13}  {'dropout':>7}  {'eval_steps':>10}  {'seed':>4}  {'equal':>5}  killed at")
    references: dict[Setting, Killed] = {}
    for index in count():
        setting = settings[index % len(settings)]
        if setting not in references:
            references[setting] = Killed(folder / f"reference-{len(references)}", setting, number)
            references[setting].run_whole()
        killed = Killed(folder / f"killed-{index}", setting, number)
        result = killed.continued(references[setting], seed + index, (-number, INTERRUPTED))
        columns = f"{setting.logging_steps:13}  {setting.dropout:7}  {setting.eval_steps:10}  "
        show(result, result.interruptions, 15, before=columns)
        shutil.rmtree(killed.place)
        yield result, asdict(setting) | asdict(result)


class Killed(InterruptedJob):
    """The job with a setting, each time in a fork that ends by the signal `number`."""

    def __init__(self, place: Path, setting: Setting, number: signal.Signals) -> None:
        super().__init__(place, **setting.changes())
        self._number = number

    def start(self) -> tuple[Callable[[], int | None], Callable[[], None]]:
        child = start(self.place, {"GPTOSS_FT_CACHE": str(self.place / "cache")})
        return lambda: exit_code_of(child), lambda: os.kill(child, self._number)


if __name__ == "__main__":
    sys.exit(main())
