"""Whose an output folder is: nobody's, this job's unfinished one, or one that must not be touched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from gptoss_ft.config import JobConfig, TrainingSection
from gptoss_ft.errors import OutputError, is_disk_full
from gptoss_ft.reporting.checkpoint_folder import CHECKPOINT, Damage, checkpoints_in, newest_whole, step_of, sweep
from gptoss_ft.reporting.console import LIBRARIES_LOG
from gptoss_ft.reporting.going_back import ASIDE, go_back, is_half_back, named_checkpoint
from gptoss_ft.reporting.in_use import not_in_use
from gptoss_ft.reporting.manifest import (
    NAME,
    code_facts,
    library_versions,
    now,
    read_manifest,
    refuse_unreadable,
)
from gptoss_ft.reporting.only_writer import Writer, in_words, only_writer
from gptoss_ft.reporting.same_job import Change, code_changes, config_changes, refuse_changes
from gptoss_ft.reporting.trainer_state import ends_with, seconds_until
from gptoss_ft.runtime import output_root

FINAL_MODEL = "final_model"
MERGED_MODEL = "merged_model"
CURE = "Pass --restart to keep it aside and train again, or set training.output_dir to another folder."
FINISHED_CURE = f"{CURE} To train longer: --from its last checkpoint, with --allow-changed for what ends it."


@dataclass
class Start:
    """How a run is to begin. `restart`: a folder that is there is kept aside. `checkpoint`: go on from this one
    (`checkpoint-N`, or a path), not from the newest. `allowed`: keys in which it may differ from the run before.

    `has_moved`: what these two move has been moved, and must not be once more.
    """

    restart: bool = False
    checkpoint: str | None = None
    allowed: tuple[str, ...] = ()
    has_moved: bool = False

    def how_to_continue(self) -> str:
        """What to do after an interruption now: the same command, but for what it would do once more."""
        if self.has_moved:
            return f"The same command, without {'--restart' if self.restart else '--from'}, continues."
        return "The same command begins anew." if self.restart else "The same command continues."


# It moves nothing, and so stays as it is.
AS_EVER = Start()


@dataclass(frozen=True)
class OutputFolder:
    """The folder of this job, and the checkpoint that it goes on from (None: from the start).

    `damages` are the newer ones that are not whole, set aside. `gone` is the run before, if it was killed; `earlier`
    the manifest of the run that this one goes on from, and `changes` in what it differs. `aside` is where `--restart`
    or `--from` has put what was there.
    """

    path: Path
    resume_from: Path | None
    damages: tuple[Damage, ...] = ()
    start: Start = field(default_factory=Start)
    gone: Writer | None = None
    earlier: dict[str, Any] | None = None
    changes: tuple[Change, ...] = ()
    aside: Path | None = None

    def accepting(self, changes: Sequence[Change], place: str) -> "OutputFolder":
        """With more changes, which were found out later. `OutputError`, shown with the key `place`, where one is not
        allowed."""
        together = (*self.changes, *changes)
        holder = self.resume_from.parent if self.resume_from is not None else self.path
        is_here = holder.absolute() == self.path.absolute()
        refuse_changes(holder, together, self.start.allowed, _beginning(self.earlier), place if is_here else None)
        return replace(self, changes=together)

    def gone_back(self) -> "OutputFolder":
        """With the checkpoint that `start` names as the newest, once nothing stands against it any more."""
        if self.start.checkpoint is None or self.resume_from is None:
            return self
        try:
            own, aside = go_back(self.path, self.resume_from)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise _not_writable(self.path, error, None) from None
        self.start.has_moved = True
        return replace(self, resume_from=own, aside=aside)

    @property
    def history(self) -> dict[str, Any]:
        """For the manifest: when the job was started, and each time that it was continued, from what and with which
        changes."""
        if self.earlier is None or self.resume_from is None:
            return {"started": now(), "continued": []}
        this: dict[str, Any] = {"at": now(), "from": self.resume_from.name}
        this["changed"] = [change.as_facts() for change in self.changes]
        if self.aside is not None:
            this["set_aside"] = self.aside.name
        return {"started": self.earlier.get("started"), "continued": [*self.earlier.get("continued", []), this]}

    @property
    def resume_step(self) -> int:
        """Optimizer steps that are done already."""
        return step_of(self.resume_from) if self.resume_from else 0

    @property
    def earlier_seconds(self) -> float:
        """How long training took until the checkpoint."""
        return seconds_until(self.resume_from) if self.resume_from else 0.0

    def is_complete(self, training: TrainingSection) -> bool:
        """Whether training is done, and only final_model is missing."""
        return self.resume_from is not None and ends_with(self.resume_from, training)


def folder_of(job: JobConfig) -> Path:
    return output_root() / job.training.output_dir


@contextmanager
def claimed_folder(job: JobConfig, start: Start = AS_EVER) -> Iterator[OutputFolder]:
    """The job's folder, made or recognised as this job's unfinished one, and no other run's for as long as this lasts.

    One that is another job's, a finished job's or nobody's we know is an `OutputError`, and is left as it is, unless
    `start` says otherwise.
    """
    path = folder_of(job)
    with only_writer(path, _not_writable) as gone:
        yield replace(_open(path, job, start), gone=gone)


def _open(path: Path, job: JobConfig, start: Start) -> OutputFolder:
    try:
        if start.restart:
            return _restarted(path, start)
        if is_half_back(path) and start.checkpoint is None:
            raise OutputError(
                f"{path} was on its way back to a checkpoint when train --from was cut off",
                "Give the same --from again, or pass --restart to keep the folder aside and train again.",
                "training.output_dir",
            )
        earlier = None if is_half_back(path) else _manifest_of(path)
        chosen = named_checkpoint(path, start.checkpoint) if start.checkpoint else None
        if chosen is not None:
            earlier = read_manifest(chosen.parent)
            # Asked now, for it is minutes until anything is moved.
            with not_in_use(path):
                pass
        elif earlier is not None and earlier.get("status") == "finished":
            raise OutputError(
                f"{path} holds a finished job of {earlier.get('updated')}", FINISHED_CURE, "training.output_dir"
            )
        output = OutputFolder(path, chosen, start=start)
        # Without a checkpoint nothing of the run before is used.
        if earlier is not None and (chosen or checkpoints_in(path)):
            changes = [
                *config_changes(earlier["config"], job),
                *code_changes(earlier, code_facts(), library_versions()),
            ]
            output = replace(output, earlier=earlier).accepting(changes, "training.output_dir")
        sweep(_made(path))
        newest, damages = (chosen, []) if chosen is not None else newest_whole(path)
    except OSError as error:
        raise _not_writable(path, error, None) from None
    output = replace(output, resume_from=newest, damages=tuple(damages))
    if newest is not None and job.training.max_steps is not None and output.resume_step > job.training.max_steps:
        raise OutputError(
            f"read {job.training.max_steps}, but {newest} is already of step {output.resume_step}",
            "Set more steps, or name an earlier checkpoint with --from.",
            "training.max_steps",
        )
    return output if newest is not None else replace(output, earlier=None, changes=())


def _restarted(path: Path, start: Start) -> OutputFolder:
    aside = None
    if path.exists():
        aside = _free_name(path)
        with not_in_use(path):
            path.rename(aside)
    start.has_moved = True
    return OutputFolder(_made(path), None, start=start, aside=aside)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / LIBRARIES_LOG).touch()
    return path


def _not_writable(path: Path, error: OSError, writer: Writer | None) -> OutputError:
    if isinstance(error, Timeout):
        return OutputError(
            f"another run is writing to {path}{in_words(writer)}",
            "Wait for it, or set training.output_dir.",
            key="training.output_dir",
        )
    return OutputError(
        f"the output folder {path} cannot be written: {error.strerror}",
        "Make it and its parent writable, or name another place: OUTPUT_ROOT for train.sh, or training.output_dir.",
        key="training.output_dir",
    )


def _beginning(manifest: dict[str, Any] | None) -> str:
    return str((manifest or {}).get("started", "at a time that is not known"))


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def _manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of the job whose folder it is; None where it is nobody's. `OutputError` where it is a stranger's."""
    if not path.exists():
        return None
    manifest = read_manifest(path)
    if manifest is None:
        refuse_unreadable(path, "pass --restart to keep the folder aside, or set training.output_dir to another folder")
        _refuse_strange(path)
    return manifest


def _refuse_strange(path: Path) -> None:
    """A folder without a manifest: fine when it is empty or holds only the log of a run that failed early, or what a
    killed one had written of its manifest, or copied to begin with."""
    if not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder", key="training.output_dir")
    own = (LIBRARIES_LOG, f".{NAME}.", f".{CHECKPOINT}", f".{ASIDE}")
    strange = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(own))
    if strange:
        raise OutputError(
            f"{path} is not empty and holds no {NAME}: {', '.join(strange[:3])}",
            "Set training.output_dir to another folder, or pass --restart to keep this one aside.",
            "training.output_dir",
        )
