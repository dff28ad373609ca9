"""Runs in the container that `docker stop` ends at seeded moments and the same `bash train.sh` continues.

    PYTHONPATH=. python benchmarks/docker_stop.py [--runs 10] [--image gptoss_ft:latest] [--seed 0] [--output FILE]

A moment is something seen in the output folder or the cache (interrupted_runs.py). A run that is stopped must end
with 75 within the time that train.sh gives it, and the last one like one that was not stopped: final adapter, the last
checkpoint's optimizer state and every logged loss the same to the bit. A tiny job, without a GPU.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

from interrupted_runs import INTERRUPTED, InterruptedJob, Moment, Told, make_parser, show, tell
from tiny_runs import SCREEN

ROOT = Path(__file__).parents[1]
# Long enough for a command that takes a fifth of a second to arrive in the middle.
LONG = {"max_steps": 60, "gradient_accumulation_steps": 2, "save_steps": 10}


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__, runs=10)
    parser.add_argument("--image", default="gptoss_ft:latest")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(Path(folder), chosen.image, chosen.seed)
        return tell(compared, chosen.runs, "stopped by docker stop", chosen.output)


def compare(folder: Path, image: str, seed: int) -> Iterator[Told]:
    """Run, stop and continue, without end; print a line for each run. With each, the seconds from `docker stop` to the
    end."""
    reference = Stopped(folder / "reference", image)
    reference.run_whole()
    print(f"{'seed':>4}  {'equal':>5}  stopped at (seconds until it had ended)")
    for index in count():
        job = Stopped(folder / f"stopped-{index}", image)
        result = job.continued(reference, seed + index, (INTERRUPTED,))
        show(result, [f"{at} ({s:.1f})" for at, s in zip(result.interruptions, job.seconds, strict=False)], 6)
        yield result, asdict(result) | {"seconds_to_stop": job.seconds}


class Stopped(InterruptedJob):
    """The job, each time in a container of its own; the code is train.sh's."""

    def __init__(self, place: Path, image: str) -> None:
        super().__init__(place, dataset={"max_samples": 24}, training=LONG)
        self._image = image
        self._stopped: list[float] = []
        self.seconds: list[float] = []

    def start(self) -> tuple[Callable[[], int | None], Callable[[], None]]:
        name = f"docker_stop-{os.getpid()}"
        environment = os.environ | {
            "IMAGE": self._image,
            "GPUS": "none",
            "OUTPUT_ROOT": str(self.place / "outputs"),
            "GPTOSS_FT_CACHE": str(self.place / "cache"),
            # One thread adds up in one order.
            "DOCKER_RUN_ARGS": f"--name {name} --network none --env OMP_NUM_THREADS=1",
        }
        with (self.place / SCREEN).open("wb") as screen:
            process = subprocess.Popen(
                ["bash", str(ROOT / "train.sh"), "--config", "job.yaml"],
                cwd=self.place, env=environment, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen,
            )  # fmt: skip

        def stop() -> None:
            self._stopped.append(time.monotonic())
            # It returns when the container has ended, whatever of: a run that was done before it is no error here.
            subprocess.run(["docker", "stop", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        return process.poll, stop

    def run(self, moment: Moment | None) -> int:
        self._stopped.clear()
        code = super().run(moment)
        if self._stopped and code:
            self.seconds.append(round(time.monotonic() - self._stopped[0], 2))
        return code


if __name__ == "__main__":
    sys.exit(main())
