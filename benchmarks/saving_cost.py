"""What it costs a step that nothing is lost: signals heeded, numbers checked, steps reported, checkpoints written.

    python benchmarks/saving_cost.py --config config.yaml [--set KEY=VALUE ...] [--pairs 20] [--block 10]
        [--folder DIR] [--json FILE]

One run of a job on rows of equal length, in one process: blocks of steps with all of it on, each beside a block with
all of it off, which of the two first being drawn. A block with it on begins with a checkpoint, written to `--folder`
while its other steps are computed; what is left of the write at its end counts as its time. Ratios are of the two
blocks of a pair, and medians over the pairs. Off means: no handler for signals and time limits, no report, no look at
loss and gradient before the optimizer's step, no copy of the random generators after it, no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from our_trainer import benchmark_job, facts_of, load, make_trainer, summary_of
from paired_blocks import Block, Save, figures
from peers.measure import synchronize
from peers.rows import draw_lengths

from gptoss_ft.config import JobConfig
from gptoss_ft.reporting.console import make_console, quiet_libraries
from gptoss_ft.runtime import Device, find_device, import_unsloth, prepare_environment

WARM_UP = 4


class Switch:
    """Has what others do done or not."""

    def __init__(self) -> None:
        self.on = True

    def covers(self, owner: Any, name: str, instead: Callable[..., Any] = lambda *args, **kwargs: None) -> None:
        """While this is off, `owner`'s function `name` is `instead`."""
        function = getattr(owner, name)

        def switched(*args: Any, **kwargs: Any) -> Any:
            return (function if self.on else instead)(*args, **kwargs)

        setattr(owner, name, switched)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--block", type=int, default=10, help="steps of a block, and so of each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go, a disk that is to be measured")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    job = benchmark_job(arguments.config, arguments.overrides, steps_of(arguments.pairs, arguments.block))
    prepare_environment()
    device = find_device(job.model.device)
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, quiet_libraries(Path(name) / "libraries.log"):
        import_unsloth(device)
        found = measure(job, device, Path(name), arguments.pairs, arguments.block, arguments.seed)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def steps_of(pairs: int, block: int) -> int:
    """All steps of the run: after those of the blocks one more, for the trainer saves at its last."""
    return WARM_UP + 2 * pairs * block + 1


def measure(job: JobConfig, device: Device, folder: Path, pairs: int, block: int, seed: int) -> dict[str, Any]:
    """Train, and what came out. After `import_unsloth`."""
    from gptoss_ft.model.repository import find_repository
    from gptoss_ft.planning.choice import effective_batch
    from gptoss_ft.planning.run_plan import plan_run
    from gptoss_ft.reporting.output_folder import OutputFolder
    from gptoss_ft.reporting.step_log import StepLog
    from gptoss_ft.training.callbacks import StepReporter
    from gptoss_ft.training.trainer import run

    samples = effective_batch(job) * steps_of(pairs, block)
    lengths = draw_lengths("full", samples, job.model.max_seq_length, seed=0)
    plan = plan_run(job, find_repository(job.model), summary_of(lengths, job), device).plan
    loaded = load(job, device, plan.offload_embedding)
    trainer = make_trainer(loaded, loaded.random_rows(lengths), job, folder, plan)
    log = StepLog(OutputFolder(folder, None), make_console(sys.stderr))
    reporter = StepReporter(log, device, job.training.loss_alarm)
    meter = make_meter(trainer, reporter, pairs, block, seed)
    run(trainer, reporter, None)
    facts = {"device": device.name, "plan": facts_of(trainer.plan), "save_steps": block, "pairs": pairs}
    return facts | figures(meter.blocks, meter.saves, block) | {"saves": [asdict(save) for save in meter.saves]}


def make_meter(trainer: Any, reporter: Any, pairs: int, block: int, seed: int) -> Any:
    """The callback that switches and times, put before all others. After `import_unsloth`."""
    from transformers import TrainerCallback

    switch, drawn = Switch(), random.Random(seed)
    order = [on for _ in range(pairs) for on in drawn.sample([True, False], 2)]
    cover_all(switch, trainer, reporter)

    class Meter(TrainerCallback):
        def __init__(self) -> None:
            self.blocks: list[Block] = []
            self.saves: list[Save] = []
            self.writing = self.is_done = False
            self._step_began = self._block_began = 0.0
            self._written_in = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step - WARM_UP
            if step >= 0 and step % block == 0:
                self._end_block()
                self._begin_block(step // block)
            elif step > 0:
                self._end_step()
            self._written_in = self.writing

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            step = state.global_step - WARM_UP - 1
            control.should_save = switch.on and 0 <= step < len(order) * block and step % block == 0
            return control

        def _begin_block(self, number: int) -> None:
            self.is_done = number == len(order)
            if not self.is_done:
                self.blocks.append(Block(on=order[number]))
            switch.on = self.is_done or order[number]
            self._block_began = self._step_began = time.perf_counter()

        def _end_step(self) -> None:
            now = time.perf_counter()
            self.blocks[-1].steps.append(now - self._step_began)
            self.blocks[-1].written_in.append(self._written_in or self.writing)
            self._step_began = now

        def _end_block(self) -> None:
            """With what is left of a write, which is its own."""
            if self.blocks:
                synchronize()
                self._end_step()
                trainer.checkpoints.finish()
                self.blocks[-1].seconds = time.perf_counter() - self._block_began

    meter = Meter()
    trainer.callback_handler.callbacks.insert(0, meter)
    time_saves(trainer, meter)
    return meter


def cover_all(switch: Switch, trainer: Any, reporter: Any) -> None:
    """Everything that `switch` is to switch."""
    from gptoss_ft.training import planned_trainer
    from gptoss_ft.training.interruption import StopRequest

    events = ("on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "on_save")
    ours = [each for each in trainer.callback_handler.callbacks if type(each).__module__.startswith("gptoss_ft.")]
    for callback in (*ours, trainer.stop, reporter):
        for event in events:
            switch.covers(callback, event)
    is_wanted = vars(StopRequest)["is_wanted"].fget
    setattr(StopRequest, "is_wanted", property(lambda stop: switch.on and is_wanted(stop)))  # noqa: B010  # for mypy
    stock = super(planned_trainer.PlannedTrainer, trainer)._get_grad_norm
    switch.covers(trainer, "_get_grad_norm", stock)
    switch.covers(planned_trainer, "random_state", dict)


def time_saves(trainer: Any, meter: Any) -> None:
    """Have `meter` know of each checkpoint."""
    save, write = trainer._save_checkpoint, trainer.checkpoints._write

    def timed_save(*args: Any, **kwargs: Any) -> None:
        if meter.is_done:
            save(*args, **kwargs)
            return
        synchronize()
        began = time.perf_counter()
        meter.saves.append(Save(0.0))
        save(*args, **kwargs)
        meter.saves[-1].stopped = time.perf_counter() - began

    def timed_write(snapshot: Any) -> None:
        if meter.is_done:
            write(snapshot)
            return
        began, meter.writing = time.perf_counter(), True
        own = meter.saves[-1]
        own.bytes = snapshot.bytes
        try:
            write(snapshot)
        finally:
            own.written, meter.writing = time.perf_counter() - began, False

    trainer._save_checkpoint, trainer.checkpoints._write = timed_save, timed_write


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if name != "saves":
            shown = f"{value:.4f}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):45} {shown}")


if __name__ == "__main__":
    main()
