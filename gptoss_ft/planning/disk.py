"""What a run writes to its output folder, from shapes and settings alone, and whether there is room for it."""

import math
from pathlib import Path

from gptoss_ft.config import JobConfig, TrainingSection
from gptoss_ft.errors import DiskError
from gptoss_ft.planning.adapter_size import trained_values
from gptoss_ft.planning.memory import optimizer_bytes
from gptoss_ft.planning.shapes import read_shapes
from gptoss_ft.planning.steps import steps_in_all
from gptoss_ft.reporting.checkpoint_folder import checkpoints_in
from gptoss_ft.runtime import GIB, free_gib

# Adapters are trained in float32.
ADAPTER_BYTES = 4
# A tokenizer, and files of settings, in each folder.
BESIDE_GIB = 0.03


def refuse_too_little_disk(job: JobConfig, repository: str, rows: int, folder: Path) -> None:
    """Raise `DiskError` unless the checkpoints that are kept, the one that is being written and final_model fit
    beside what is free; those that are there already count. `rows` are the samples, or full rows, of an epoch. A model
    of an unknown kind is let through."""
    shapes = read_shapes(job, repository)
    if shapes is None:
        return
    values = trained_values(job.lora, shapes)
    adapter_gib = values * ADAPTER_BYTES / GIB + BESIDE_GIB
    checkpoint_gib = adapter_gib + optimizer_bytes(job, shapes, on_disk=True) / GIB
    kept = _checkpoints(job.training, rows)
    there = sum(path.stat().st_size for one in checkpoints_in(folder) for path in one.iterdir() if path.is_file()) / GIB
    needed = kept * checkpoint_gib + adapter_gib - there
    free = free_gib(folder)
    if free < needed:
        raise DiskError(
            f"{folder} has {free:.2f} GiB free; checkpoints ({kept} x {checkpoint_gib:.2f} GiB) and final_model need "
            f"{needed:.2f}",
            "Make space, name another place (OUTPUT_ROOT for train.sh, or training.output_dir), lower "
            "training.save_total_limit or raise training.save_steps.",
            key="training.save_total_limit",
        )


def _checkpoints(training: TrainingSection, rows: int) -> int:
    """The most that are there at once: with a limit, those that it leaves, the best and the one that is written."""
    all_of_them = math.ceil(steps_in_all(training, rows) / training.save_steps)
    limit = training.save_total_limit
    return all_of_them if limit is None else min(all_of_them, max(limit, 2) + 1)
