"""Runs of the tiny job that are killed at seeded moments and continued by the same command, against one that was not.

    PYTHONPATH=. python benchmarks/kill_and_continue.py [--runs 50] [--signal KILL|TERM] [--seed 0]
        [--logging-steps 1 5] [--dropout 0 0.1] [--output FILE]

A moment is something seen in the output folder: a line of the log, a file of a checkpoint that is being written, a
name that appeared or went away, looked at every millisecond. It is chosen from those that the uninterrupted run showed:
in preparation, at a step, inside a save, or at the end. Final adapter, the last checkpoint's optimizer state, and every
logged loss must be the same to the bit. Runs are forks of a process that has imported everything. On a CPU.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

JOB = """
model: {{name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}}
dataset: {{path: tiny/multilingual-thinking, max_samples: 24}}
lora: {lora}
training: {{max_steps: 10, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 3, save_total_limit: 2,
           logging_steps: {logging_steps}, output_dir: run}}
tracking: {{report_to: none}}
"""
LOGGED = ("step", "loss", "learning_rate", "grad_norm", "epoch", "tokens")
PHASES = ("preparation", "step", "save", "end")
MOST_KILLS = 3
POLL_SECONDS = 0.001


@dataclass
class Comparison:
    """One run: its settings, what was killed where, and what of its end differs from the uninterrupted one's."""

    logging_steps: int
    dropout: float
    seed: int
    kills: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="killed runs in all, spread over the settings")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logging-steps", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        number, settings = signal.Signals[f"SIG{chosen.signal}"], list(product(chosen.logging_steps, chosen.dropout))
        results = list(compare(Path(folder), settings, chosen.runs, number, chosen.seed))
    equal = sum(not result.different for result in results)
    kills = sum(len(result.kills) for result in results)
    print(f"{equal} of {len(results)} runs, killed {kills} times by SIG{chosen.signal}, ended like one that was not")
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0 if equal == len(results) else 1


def import_everything() -> None:
    """What a run imports, once, for all its forks."""
    # Threads do not survive a fork.
    os.environ["OMP_NUM_THREADS"] = "1"
    from gptoss_ft import runtime

    runtime.prepare_environment()
    runtime.import_unsloth(runtime.find_device("cpu"))
    import torch

    import gptoss_ft.finetuning  # noqa: F401

    torch.use_deterministic_algorithms(True)


def compare(
    folder: Path, settings: list[tuple[int, float]], runs: int, number: signal.Signals, seed: int
) -> Iterator[Comparison]:
    """Run, kill and continue, in turn with each of `settings` (logging_steps, dropout); print a line for each run."""
    print(f"{'logging_steps':>13}  {'dropout':>7}  {'seed':>4}  {'equal':>5}  killed at")
    references: dict[tuple[int, float], tuple[Path, dict[str, int]]] = {}
    for index in range(runs):
        logging_steps, dropout = settings[index % len(settings)]
        if (logging_steps, dropout) not in references:
            place = _new_folder(folder / f"reference-{logging_steps}-{dropout}", logging_steps, dropout)
            events = Events(place / "outputs" / "run")
            if code := _run(place, events, None, number):
                raise RuntimeError(f"the uninterrupted run ended with {code}:\n{(place / 'screen').read_text()}")
            references[logging_steps, dropout] = place, events.counts
        reference, counts = references[logging_steps, dropout]
        place = _new_folder(folder / f"killed-{index}", logging_steps, dropout)
        result = Comparison(logging_steps, dropout, seed + index)
        _kill_and_continue(place, counts, number, result)
        if _finished(place):
            result.different += differences(reference / "outputs" / "run", place / "outputs" / "run")
        said = "yes" if not result.different else "NO"
        print(f"{logging_steps:13}  {dropout:7}  {result.seed:4}  {said:>5}  {', '.join(result.kills)}", flush=True)
        for difference in result.different:
            print(f"{'':15}{difference}")
        shutil.rmtree(place)
        yield result


class Events:
    """Counts what is seen in an output folder, by phase."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.counts = dict.fromkeys(PHASES, 0)

    def look(self) -> list[str]:
        """The phases of what is new since the last look."""
        now = dict(self._there())
        new = [phase for thing, phase in now.items() if thing not in self._seen]
        self._seen |= now.keys()
        for phase in new:
            self.counts[phase] += 1
        return new

    def _there(self) -> Iterator[tuple[str, str]]:
        try:
            entries = sorted(os.scandir(self._folder), key=lambda entry: entry.name)
            has_logged = any(entry.name == "log.jsonl" and entry.stat().st_size > 0 for entry in entries)
            for entry in entries:
                if entry.name.startswith((".checkpoint-", "checkpoint-")):
                    yield entry.name, "save"
                    for file in os.scandir(entry.path):
                        yield f"{entry.name}/{file.name} {file.stat().st_size}", "save"
                elif entry.name == "log.jsonl":
                    yield f"log {entry.stat().st_size}", "step"
                elif entry.name.startswith((".final_model", "final_model")):
                    yield entry.name, "end"
                    for file in os.scandir(entry.path):
                        yield f"{entry.name}/{file.name}", "end"
                else:
                    yield f"{entry.name} {entry.stat().st_mtime_ns}", "end" if has_logged else "preparation"
        except OSError:
            # It went away while it was looked at.
            return


def _new_folder(place: Path, logging_steps: int, dropout: float) -> Path:
    place.mkdir(parents=True)
    # Experts held as one parameter cannot have dropout.
    lora = f"{{dropout: {dropout}, target_modules: [q_proj, k_proj, v_proj, o_proj]}}" if dropout else "{}"
    (place / "job.yaml").write_text(JOB.format(logging_steps=logging_steps, lora=lora))
    return place


def _kill_and_continue(place: Path, counts: dict[str, int], number: signal.Signals, result: Comparison) -> None:
    drawn = random.Random(result.seed)
    for _ in range(drawn.randint(1, MOST_KILLS)):
        phase = drawn.choice([phase for phase in PHASES if counts[phase]])
        moment = drawn.randint(1, counts[phase])
        if not _finished(place):
            code = _run(place, Events(place / "outputs" / "run"), (phase, moment), number)
            result.exit_codes.append(code)
            if code:
                result.kills.append(f"{phase} {moment}")
            if code not in (0, -number, 75):
                result.different.append(f"ended with {code}: {(place / 'screen').read_text()[-2000:]}")
    if not _finished(place):
        code = _run(place, Events(place / "outputs" / "run"), None, number)
        result.exit_codes.append(code)
        if code:
            result.different.append(f"did not end: {code}, {(place / 'screen').read_text()[-2000:]}")


def _finished(place: Path) -> bool:
    manifest = place / "outputs" / "run" / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] == "finished"


def _run(place: Path, events: Events, moment: tuple[str, int] | None, number: signal.Signals) -> int:
    """The job in a fork, killed at `moment`; its exit code, or the negative number of the signal that ended it."""
    events.look()
    events.counts = dict.fromkeys(PHASES, 0)
    child = os.fork()
    if child == 0:
        _be_the_job(place)
    sent = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        events.look()
        if ended:
            return os.waitstatus_to_exitcode(status)
        if moment is not None and not sent and events.counts[moment[0]] >= moment[1]:
            os.kill(child, number)
            sent = True
        time.sleep(POLL_SECONDS)


def _be_the_job(place: Path) -> None:
    """In the fork: the same command, its words in `place`/screen."""
    from gptoss_ft.cli import main as command

    code = 1
    try:
        os.chdir(place)
        screen = os.open("screen", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        sys.argv = ["train.py", "train", "--config", "job.yaml"]
        command()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def differences(reference: Path, other: Path) -> list[str]:
    """What of two finished runs is not the same to the bit."""
    import torch

    found = []
    adapter = Path("final_model") / "adapter_model.safetensors"
    if (reference / adapter).read_bytes() != (other / adapter).read_bytes():
        found.append("the final adapter differs")
    last = max(reference.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-"))).name
    states = [torch.load(run / last / "optimizer.pt", weights_only=True) for run in (reference, other)]
    if not _same(*states):
        found.append(f"the optimizer's state of {last} differs")
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (reference, other)]
    first, second = ([{key: line[key] for key in LOGGED} for line in log] for log in logs)
    if first != second:
        found.append(f"the logs differ: {[line for line in second if line not in first][:2]}, {len(second)} lines")
    return found


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


if __name__ == "__main__":
    sys.exit(main())
