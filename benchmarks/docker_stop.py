"""Runs in the container that `docker stop` ends at seeded moments and the same `bash train.sh` continues.

    PYTHONPATH=. python benchmarks/docker_stop.py [--runs 10] [--image gptoss_ft:latest] [--seed 0] [--output FILE]

A moment is something seen in the output folder or the cache, as in kill_and_continue.py. A run that is stopped must end
with 75 within the time that train.sh gives it, and the last one like one that was not stopped: final adapter, the last
checkpoint's optimizer state and every logged loss the same to the bit. A tiny job, without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from tiny_runs import (
    SCREEN,
    Continued,
    Events,
    Moment,
    differences,
    enough,
    has_finished,
    interrupt_and_continue,
    screen_of,
    wait_for,
)

ROOT = Path(__file__).parents[1]
# Long enough for a command that takes a fifth of a second to arrive in the middle.
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24}
training: {max_steps: 60, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 10, save_total_limit: 2, logging_steps: 1,
           output_dir: run}
tracking: {report_to: none}
"""
INTERRUPTED = 75


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--image", default="gptoss_ft:latest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(Path(folder), chosen.image, chosen.seed)
        results = list(enough(compared, chosen.runs, lambda result: result[0]))
    equal = sum(not result.different for result, _ in results)
    stops = [len(result.interruptions) for result, _ in results if result.interruptions]
    print(
        f"{equal} of {len(results)} runs, {len(stops)} of them stopped by docker stop, {sum(stops)} times in all, "
        "ended like one that was not"
    )
    if chosen.output is not None:
        facts = [asdict(result) | {"seconds_to_stop": seconds} for result, seconds in results]
        chosen.output.write_text(json.dumps(facts, indent=2) + "\n")
    return 0 if equal == len(results) else 1


def compare(folder: Path, image: str, seed: int) -> Iterator[tuple[Continued, list[float]]]:
    """Run, stop and continue, without end; print a line for each run. With each, the seconds from `docker stop` to the
    end."""
    reference = Stopped(folder / "reference", image)
    if code := reference.run(None):
        raise RuntimeError(f"the uninterrupted run ended with {code}:\n{screen_of(reference.place)}")
    print(f"{'seed':>4}  {'equal':>5}  stopped at (seconds until it had ended)")
    for index in count():
        job = Stopped(folder / f"stopped-{index}", image)
        result = interrupt_and_continue(job.run, job.place, reference.counts, seed + index, (INTERRUPTED,))
        if has_finished(job.output):
            result.different += differences(reference.output, job.output)
        said = "yes" if not result.different else "NO"
        at = [f"{where} ({after:.1f})" for where, after in zip(result.interruptions, job.seconds, strict=False)]
        print(f"{result.seed:4}  {said:>5}  {', '.join(at)}", flush=True)
        for difference in result.different:
            print(f"{'':6}{difference}")
        yield result, job.seconds


@dataclass
class Stopped:
    """The job in `place`, each time in a container of its own. Output and cache are its own."""

    place: Path
    image: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place.mkdir()
        (self.place / "job.yaml").write_text(JOB)

    @property
    def output(self) -> Path:
        return self.place / "outputs" / "run"

    def run(self, moment: Moment | None) -> int:
        """train.sh's exit code; at `moment` its container is stopped."""
        name = f"docker_stop-{os.getpid()}"
        environment = os.environ | {
            "IMAGE": self.image,
            "GPUS": "none",
            "OUTPUT_ROOT": str(self.place / "outputs"),
            "GPTOSS_FT_CACHE": str(self.place / "cache"),
            # One thread adds up in one order.
            "DOCKER_RUN_ARGS": f"--name {name} --network none --env OMP_NUM_THREADS=1",
        }
        events = Events(self.output, self.place / "cache")
        with (self.place / SCREEN).open("wb") as screen:
            process = subprocess.Popen(
                ["bash", str(ROOT / "train.sh"), "--config", "job.yaml"],
                cwd=self.place, env=environment, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen,
            )  # fmt: skip
            stopped: list[float] = []

            def stop() -> None:
                stopped.append(time.monotonic())
                # It returns when the container has ended, whatever of: a run that was done before it is no error here.
                subprocess.run(["docker", "stop", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

            code = wait_for(process.poll, events, moment, stop)
        if stopped and code:
            self.seconds.append(round(time.monotonic() - stopped[0], 2))
        self.counts = events.counts
        return code


if __name__ == "__main__":
    sys.exit(main())
