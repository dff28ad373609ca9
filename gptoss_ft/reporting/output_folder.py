"""Whose an output folder is: nobody's, this job's unfinished one, or one that must not be touched."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from gptoss_ft.config import JobConfig, TrainingSection
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.checkpoint_folder import Damage, checkpoints_in, newest_whole, step_of, sweep, what_is_wrong
from gptoss_ft.reporting.console import LIBRARIES_LOG
from gptoss_ft.reporting.going_back import go_back, named_checkpoint
from gptoss_ft.reporting.in_use import not_in_use
from gptoss_ft.reporting.manifest import NAME, code_facts, library_versions, now, read_manifest
from gptoss_ft.reporting.only_writer import Writer, in_words, only_writer
from gptoss_ft.reporting.same_job import Change, code_changes, config_changes, refuse_changes
from gptoss_ft.runtime import output_root

FINAL_MODEL = "final_model"
MERGED_MODEL = "merged_model"
TRAINER_STATE = "trainer_state.json"
# The callbacks whose state in trainer_state.json says whether a run stopped early, and how long it took.
EARLY_STOP = "HeldOutLoss"
TIME = "StepReporter"
CURE = "Pass --restart to keep it aside and train again, or set training.output_dir to another folder."


# Of steps divided by the steps of an epoch.
EPOCH_ROUNDING = 1e-6


@dataclass(frozen=True)
class Start:
    """How a run is to begin. `restart`: a folder that is there is kept aside. `checkpoint`: go on from this one
    (`checkpoint-N`, or a path), not from the newest. `allowed`: keys in which it may differ from the run before."""

    restart: bool = False
    checkpoint: str | None = None
    allowed: tuple[str, ...] = ()

    @property
    def how_to_continue(self) -> str:
        """What to do after an interruption: the same command, but for what it would do once more."""
        once = "--restart" if self.restart else "--from" if self.checkpoint else None
        return f"The same command, without {once}, continues." if once else "The same command continues."


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
    start: Start = AS_EVER
    gone: Writer | None = None
    earlier: dict[str, Any] | None = None
    changes: tuple[Change, ...] = ()
    aside: Path | None = None

    def accepting(self, changes: Sequence[Change], place: str) -> "OutputFolder":
        """With more changes, which were found out later. `OutputError`, shown with the key `place`, where one is not
        allowed."""
        together = (*self.changes, *changes)
        holder = self.resume_from.parent if self.resume_from is not None else self.path
        refuse_changes(holder, together, self.start.allowed, _beginning(self.earlier), place)
        return replace(self, changes=together)

    def gone_back(self) -> "OutputFolder":
        """With the checkpoint that `start` names as the newest, once nothing stands against it any more."""
        if self.start.checkpoint is None or self.resume_from is None:
            return self
        own, aside = go_back(self.path, self.resume_from)
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
        state = _state_of(self.resume_from) if self.resume_from else {}
        return float(_attributes(state, TIME).get("seconds", 0.0))

    def is_complete(self, training: TrainingSection) -> bool:
        """Whether all steps that `training` asks for are done, or it stopped early, and only final_model is missing.
        What the run before was asked for does not count: that may have changed."""
        if self.resume_from is None:
            return False
        state = _state_of(self.resume_from)
        patience = training.early_stopping_patience
        if patience is not None and _attributes(state, EARLY_STOP).get("waited", 0) >= patience:
            return True
        if training.num_train_epochs is not None:
            return float(state["epoch"]) > training.num_train_epochs - EPOCH_ROUNDING
        assert training.max_steps is not None
        return self.resume_step >= training.max_steps


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint, its loss on the held-out rows in nats a token, and why it is not whole."""

    path: Path
    loss: float
    wrong: str | None


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
        if start.restart and path.exists():
            aside = _free_name(path)
            with not_in_use(path):
                path.rename(aside)
            return OutputFolder(_made(path), None, start=start, aside=aside)
        earlier = _manifest_of(path)
        chosen = named_checkpoint(path, start.checkpoint) if start.checkpoint else None
        if chosen is not None:
            earlier = read_manifest(chosen.parent)
        elif earlier is not None and earlier.get("status") == "finished":
            raise OutputError(f"{path} holds a finished job of {earlier.get('updated')}", CURE, "training.output_dir")
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
        _refuse_strange(path)
    return manifest


def _refuse_strange(path: Path) -> None:
    """A folder without a manifest: fine when it is empty or holds only the log of a run that failed early, or what a
    killed one had written of its manifest."""
    if not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder", key="training.output_dir")
    own = (LIBRARIES_LOG, f".{NAME}.")
    strange = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(own))
    if strange:
        raise OutputError(
            f"{path} is not empty and holds no {NAME}: {', '.join(strange[:3])}",
            "Set training.output_dir to another folder, or pass --restart to keep this one aside.",
            "training.output_dir",
        )


def better_checkpoint(path: Path) -> BestCheckpoint | None:
    """The checkpoint in the folder of a run that has the lowest loss on held-out rows; None where that is the newest
    one, or none was evaluated."""
    newest = next(iter(checkpoints_in(path)), None)
    state = _state_of(newest) if newest else {}
    if newest is None or state.get("best_model_checkpoint") is None:
        return None
    # By its name: the folder may have another place by now.
    best = path / Path(state["best_model_checkpoint"]).name
    return BestCheckpoint(best, state["best_metric"], what_is_wrong(best)) if best != newest else None


def _state_of(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state in a checkpoint that is whole."""
    state: dict[str, Any] = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    return state


def _attributes(state: dict[str, Any], callback: str) -> dict[str, Any]:
    attributes: dict[str, Any] = state.get("stateful_callbacks", {}).get(callback, {}).get("attributes", {})
    return attributes
