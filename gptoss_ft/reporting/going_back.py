"""`train --from CHECKPOINT`: a run goes on from another checkpoint than its newest; nothing of it is deleted."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from gptoss_ft.config import JOB_FILE
from gptoss_ft.errors import OutputError, is_disk_full
from gptoss_ft.reporting.checkpoint_folder import (
    CHECKPOINT,
    checkpoints_in,
    partial_of,
    publish,
    seal,
    sealed_files,
    step_of,
    what_is_wrong,
)
from gptoss_ft.reporting.files import flush_folder, write_json
from gptoss_ft.reporting.in_use import not_in_use
from gptoss_ft.reporting.manifest import NAME, read_manifest, refuse_unreadable
from gptoss_ft.runtime import named_folder

ASIDE = "set-aside-"
PARTIAL = ".partial"
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
    if not re.fullmatch(rf"{CHECKPOINT}\d+", checkpoint.name):
        raise OutputError(
            f"--from {name}: wanted checkpoint-N of the output folder, or the path of one", _those_in(run)
        )
    if not checkpoint.is_dir():
        raise OutputError(f"there is no checkpoint {checkpoint}", _those_in(folder if folder.is_dir() else run))
    if wrong := what_is_wrong(checkpoint):
        raise OutputError(f"{checkpoint} is not whole: {wrong}", _those_in(folder))
    if read_manifest(folder) is None:
        refuse_unreadable(folder, "or train on from the checkpoint's weights alone, with model.adapter")
        raise OutputError(
            f"{checkpoint} lies beside no {NAME}, so what it was trained on is not known",
            "Name a checkpoint in a run's folder; or train on from its weights alone, with model.adapter.",
        )
    return checkpoint


def is_half_back(run: Path) -> bool:
    """Whether `go_back` was cut off in the folder `run`: what is there now is not what any run left."""
    return next(run.glob(_partial_aside("*")), None) is not None


def go_back(run: Path, checkpoint: Path) -> tuple[Path, Path | None]:
    """Make `checkpoint` the newest of the folder `run`, copied if it lies elsewhere. Gives its place in `run`, and the
    folder in there to which all that came later is moved: a run's folder itself, to look at and to go back to. For
    whoever holds the folder's lock; a kill in between is mended by the same command.

    `OutputError` where the checkpoint cannot be copied, before anything has moved, or a command uses the folder.
    """
    own, step = run / checkpoint.name, step_of(checkpoint)
    is_foreign = not (own.exists() and own.samefile(checkpoint))
    # A call that was cut off may have copied it.
    is_missing = is_foreign and not (_is_copy(own, checkpoint) and what_is_wrong(own) is None)
    copy = _copied(checkpoint, run) if is_missing else None
    kept = None if is_missing else own
    later = [path for path in checkpoints_in(run) if path != kept and (is_foreign or step_of(path) > step)]
    later += [run / name for name in OF_THE_END if (run / name).exists()]
    if not (later or is_foreign or is_half_back(run)):
        return own, None
    with not_in_use(run):
        aside = _begun_aside(run, later)
        for path in later:
            path.rename(aside / path.name)
        if is_foreign:
            _copy_log(checkpoint.parent, run)
        source = checkpoint.parent if is_foreign else run
        write_json(run / NAME, {**(read_manifest(source) or {}), "status": "interrupted"})
        # A checkpoint never lies beside the manifest of a run that it is not of.
        if copy is not None:
            publish(copy, own)
        return own, _ended_aside(aside)


def _copied(checkpoint: Path, run: Path) -> Path:
    """A copy of the checkpoint under its hidden name in `run`, sealed and equal."""
    partial = partial_of(run, step_of(checkpoint))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        # File by file: of what was read-only, or somebody else's, the bytes alone.
        for name in sealed_files(checkpoint) or ():
            shutil.copyfile(checkpoint / name, partial / name)
        seal(partial, step_of(checkpoint))
        if _is_copy(partial, checkpoint):
            return partial
        wrong = "it changed meanwhile, or the disk errs"
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_disk_full(error):
            raise
        wrong = error.strerror or str(error)
    shutil.rmtree(partial, ignore_errors=True)
    raise OutputError(f"{checkpoint} cannot be copied: {wrong}", _those_in(checkpoint.parent))


def _is_copy(other: Path, checkpoint: Path) -> bool:
    """Whether `other` was sealed with the same bytes."""
    files = sealed_files(checkpoint)
    return files is not None and sealed_files(other) == files


def _begun_aside(run: Path, later: Sequence[Path]) -> Path:
    """The hidden folder for `later`: that of a call that was cut off, or a new one, which begins with copies of what
    describes the run."""
    for begun in sorted(run.glob(_partial_aside("*"))):
        if not any((begun / path.name).exists() for path in later):
            return begun
        # It went back to another checkpoint than this one does.
        _ended_aside(begun)
    new = run / f".{ASIDE}new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name in (NAME, JOB_FILE, LOG):
        if (run / name).is_file():
            shutil.copyfile(run / name, new / name)
    number = 1
    while (run / f"{ASIDE}{number}").exists():
        number += 1
    return new.rename(run / _partial_aside(number))


def _ended_aside(begun: Path) -> Path | None:
    """Give it its name, for good; None where nothing was set aside."""
    if not any(begun.iterdir()):
        begun.rmdir()
        return None
    ended = begun.rename(begun.with_name(begun.name.removeprefix(".").removesuffix(PARTIAL)))
    flush_folder(ended.parent)
    return ended


def _partial_aside(number: int | str) -> str:
    return f".{ASIDE}{number}{PARTIAL}"


def _copy_log(source: Path, run: Path) -> None:
    if (source / LOG).is_file():
        shutil.copyfile(source / LOG, run / LOG)
    else:
        (run / LOG).unlink(missing_ok=True)


def _those_in(folder: Path) -> str:
    there = [(path.name, what_is_wrong(path)) for path in checkpoints_in(folder)]
    if not there:
        return f"{folder} holds none."
    return f"{folder} holds: {'; '.join(f'{name} (not whole: {wrong})' if wrong else name for name, wrong in there)}."
