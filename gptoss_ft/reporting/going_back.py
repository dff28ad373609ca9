"""`train --from CHECKPOINT`: a run goes on from another checkpoint than its newest; nothing of it is deleted."""

import re
import shutil
from pathlib import Path

from gptoss_ft.config import JOB_FILE
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.checkpoint_folder import (
    CHECKPOINT,
    checkpoints_in,
    partial_of,
    publish,
    seal,
    step_of,
    what_is_wrong,
)
from gptoss_ft.reporting.files import write_json
from gptoss_ft.reporting.in_use import not_in_use
from gptoss_ft.reporting.manifest import NAME, read_manifest
from gptoss_ft.runtime import named_folder

ASIDE = "set-aside-"
LOG = "log.jsonl"
# What the end of a run leaves, and what is made of that.
OF_THE_END = (
    "final_model", "memory_report.json", "evaluation.json", "samples.jsonl", "merged_model", "portable_adapter",
)  # fmt: skip


def named_checkpoint(run: Path, name: str) -> Path:
    """The checkpoint that `name` means: `checkpoint-N` of the folder `run`, or a path. `OutputError`, which lists those
    that are there, where it is missing or not whole."""
    checkpoint = run / name if re.fullmatch(rf"{CHECKPOINT}\d+", name) else named_folder(name)
    folder = checkpoint.parent
    if not checkpoint.is_dir() or not re.fullmatch(rf"{CHECKPOINT}\d+", checkpoint.name):
        raise OutputError(f"there is no checkpoint {checkpoint}", _those_in(folder if folder.is_dir() else run))
    if wrong := what_is_wrong(checkpoint):
        raise OutputError(f"{checkpoint} is not whole: {wrong}", _those_in(folder))
    if read_manifest(folder) is None:
        raise OutputError(
            f"{checkpoint} lies beside no {NAME}, so what it was trained on is not known",
            "Name a checkpoint in a run's folder; or train on from its weights alone, with model.adapter.",
        )
    return checkpoint


def go_back(run: Path, checkpoint: Path) -> tuple[Path, Path | None]:
    """Make `checkpoint` the newest of the folder `run`, copied if it lies elsewhere. Gives its place in `run`, and the
    folder in there to which all that came later is moved: a run's folder itself, to look at and to go back to. For
    whoever holds the folder's lock; a kill in between is mended by the same command."""
    own = run / checkpoint.name
    if own.exists() and own.samefile(checkpoint):
        return own, _set_aside(run, step_of(checkpoint))
    aside = _set_aside(run, -1)
    _unfinished(checkpoint.parent, run)
    log = checkpoint.with_name(LOG)
    if log.is_file():
        shutil.copyfile(log, run / LOG)
    partial = partial_of(run, step_of(checkpoint))
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    seal(partial, step_of(checkpoint))
    publish(partial, own)
    return own, aside


def _set_aside(run: Path, step: int) -> Path | None:
    later = [checkpoint for checkpoint in checkpoints_in(run) if step_of(checkpoint) > step]
    later += [run / name for name in OF_THE_END if (run / name).exists()]
    if not later:
        return None
    with not_in_use(run):
        aside = _free_place(run)
        aside.mkdir()
        for name in (NAME, JOB_FILE, LOG):
            if (run / name).is_file():
                shutil.copyfile(run / name, aside / name)
        _unfinished(run, run)
        for path in later:
            path.rename(aside / path.name)
    return aside


def _unfinished(source: Path, run: Path) -> None:
    """Write the manifest of the run in `source` to `run`, as that of one that may go on."""
    write_json(run / NAME, {**(read_manifest(source) or {}), "status": "interrupted"})


def _free_place(run: Path) -> Path:
    number = 1
    while (aside := run / f"{ASIDE}{number}").exists():
        number += 1
    return aside


def _those_in(folder: Path) -> str:
    there = [(path.name, what_is_wrong(path)) for path in checkpoints_in(folder)]
    if not there:
        return f"{folder} holds none."
    return f"There are: {'; '.join(f'{name} (not whole: {wrong})' if wrong else name for name, wrong in there)}."
