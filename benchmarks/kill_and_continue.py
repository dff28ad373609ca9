"""Runs of the tiny job that are killed at seeded moments and continued by the same command, against one that was not.

    PYTHONPATH=. python benchmarks/kill_and_continue.py [--runs 50] [--signal KILL|TERM] [--seed 0]
        [--logging-steps 1 5] [--dropout 0 0.1] [--eval-steps 0 1] [--output FILE]

A moment is something seen in the output folder or the cache: a line of the log, a file of a checkpoint that is being
written, a name that appeared, looked at every millisecond. It is chosen from those that the uninterrupted run showed:
in preparation, at a step, inside a save, or at the end. Final adapter, the last checkpoint's optimizer state, and every
logged loss must be the same to the bit. With evaluations (`--eval-steps`, 0: without) the rate is so high that the best
checkpoint, of which the final adapter is made, is not the last. Runs are forks of a process that has imported
everything. On a CPU.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path

from tiny_runs import (
    Continued,
    Events,
    Moment,
    differences,
    enough,
    exit_code_of,
    has_finished,
    import_everything,
    interrupt_and_continue,
    screen_of,
    start,
    wait_for,
)

JOB = """
model: {{name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}}
dataset: {{path: tiny/multilingual-thinking, max_samples: 24{held_out}}}
lora: {lora}
training: {{max_steps: 10, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, warmup_steps: 1,
           optim: adamw_torch_fused, save_steps: 3, save_total_limit: 2, logging_steps: {logging_steps},
           output_dir: run, {evaluated}}}
tracking: {{report_to: none}}
"""
UNEVALUATED = "learning_rate: 5e-3"
EVALUATED = "learning_rate: 0.2, lr_scheduler_type: constant, eval_steps: {eval_steps}, early_stopping_patience: 5"
INTERRUPTED = 75


@dataclass(frozen=True)
class Setting:
    """What of the job differs between runs."""

    logging_steps: int
    dropout: float
    eval_steps: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="killed runs in all, spread over the settings")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logging-steps", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--eval-steps", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        settings = [Setting(*each) for each in product(chosen.logging_steps, chosen.dropout, chosen.eval_steps)]
        number = signal.Signals[f"SIG{chosen.signal}"]
        compared = compare(Path(folder), settings, number, chosen.seed)
        results = list(enough(compared, chosen.runs, lambda result: result[1]))
    equal = sum(not result.different for _, result in results)
    kills = [len(result.interruptions) for _, result in results if result.interruptions]
    print(
        f"{equal} of {len(results)} runs, {len(kills)} of them killed by SIG{chosen.signal}, {sum(kills)} times in "
        "all, ended like one that was not"
    )
    if chosen.output is not None:
        facts = [asdict(setting) | asdict(result) for setting, result in results]
        chosen.output.write_text(json.dumps(facts, indent=2) + "\n")
    return 0 if equal == len(results) else 1


def compare(
    folder: Path, settings: list[Setting], number: signal.Signals, seed: int
) -> Iterator[tuple[Setting, Continued]]:
    """Run, kill and continue, in turn with each of `settings`, without end; print a line for each run."""
    print(f"{'logging_steps':>13}  {'dropout':>7}  {'eval_steps':>10}  {'seed':>4}  {'equal':>5}  killed at")
    references: dict[Setting, tuple[Path, dict[str, int]]] = {}
    for index in count():
        setting = settings[index % len(settings)]
        if setting not in references:
            references[setting] = _reference(folder / f"reference-{len(references)}", setting)
        reference, counts = references[setting]
        killed = Killed(folder / f"killed-{index}", setting, number)
        result = interrupt_and_continue(killed.run, killed.place, counts, seed + index, (-number, INTERRUPTED))
        if has_finished(killed.output):
            result.different += differences(reference, killed.output)
        said = "yes" if not result.different else "NO"
        at = ", ".join(result.interruptions)
        each = f"{setting.logging_steps:13}  {setting.dropout:7}  {setting.eval_steps:10}"
        print(f"{each}  {result.seed:4}  {said:>5}  {at}", flush=True)
        for difference in result.different:
            print(f"{'':15}{difference}")
        shutil.rmtree(killed.place)
        yield setting, result


def _reference(place: Path, setting: Setting) -> tuple[Path, dict[str, int]]:
    """The output folder of a run that nothing interrupts, and what was seen of it by phase."""
    job = Killed(place, setting, signal.SIGKILL)
    if code := job.run(None):
        raise RuntimeError(f"the uninterrupted run ended with {code}:\n{screen_of(place)}")
    return job.output, job.counts


class Killed:
    """The job in `place`, each time in a fork that ends by the signal `number`. Output and cache are its own."""

    def __init__(self, place: Path, setting: Setting, number: signal.Signals) -> None:
        self.place, self._number = place, number
        self.output = place / "outputs" / "run"
        self.counts: dict[str, int] = {}
        place.mkdir(parents=True)
        # Experts held as one parameter cannot have dropout.
        modules = "target_modules: [q_proj, k_proj, v_proj, o_proj]"
        lora = f"{{dropout: {setting.dropout}, {modules}}}" if setting.dropout else "{}"
        evaluated, held_out = UNEVALUATED, ""
        if setting.eval_steps:
            evaluated, held_out = EVALUATED.format(eval_steps=setting.eval_steps), ", eval_fraction: 0.25"
        (place / "job.yaml").write_text(
            JOB.format(logging_steps=setting.logging_steps, lora=lora, evaluated=evaluated, held_out=held_out)
        )

    def run(self, moment: Moment | None) -> int:
        """The exit code, or the negative number of the signal."""
        events = Events(self.output, self.place / "cache")
        child = start(self.place, {"GPTOSS_FT_CACHE": str(self.place / "cache")})
        code = wait_for(lambda: exit_code_of(child), events, moment, lambda: os.kill(child, self._number))
        self.counts = events.counts
        return code


if __name__ == "__main__":
    sys.exit(main())
