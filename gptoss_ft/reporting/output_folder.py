"""Whose an output folder is: nobody's, this job's unfinished one, or one that must not be touched."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from gptoss_ft.config import JobConfig, by_owner
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.checkpoint_folder import Damage, checkpoints_in, newest_whole, step_of, sweep, what_is_wrong
from gptoss_ft.reporting.console import LIBRARIES_LOG
from gptoss_ft.reporting.in_use import not_in_use
from gptoss_ft.reporting.manifest import NAME, read_manifest
from gptoss_ft.reporting.only_writer import only_writer
from gptoss_ft.runtime import output_root

FINAL_MODEL = "final_model"
MERGED_MODEL = "merged_model"
TRAINER_STATE = "trainer_state.json"
# The callbacks whose state in trainer_state.json says whether a run stopped early, and how long it took.
EARLY_STOP = "HeldOutLoss"
TIME = "StepReporter"
CURE = "Pass --restart to keep it aside and train again, or set training.output_dir to another folder."


@dataclass(frozen=True)
class OutputFolder:
    """The folder of this job, and the checkpoint that it goes on from (None: from the start). `damages` are the newer
    ones that are not whole, set aside."""

    path: Path
    resume_from: Path | None
    damages: tuple[Damage, ...] = ()

    @property
    def resume_step(self) -> int:
        """Optimizer steps that are done already."""
        return step_of(self.resume_from) if self.resume_from else 0

    @property
    def earlier_seconds(self) -> float:
        """How long training took until the checkpoint."""
        state = _state_of(self.resume_from) if self.resume_from else {}
        return float(_attributes(state, TIME).get("seconds", 0.0))

    @property
    def is_complete(self) -> bool:
        """Whether all of the job's steps are done, or it stopped early, and only final_model is missing."""
        if self.resume_from is None:
            return False
        state = _state_of(self.resume_from)
        early = _attributes(state, EARLY_STOP).get("has_stopped", False)
        return bool(early or state["global_step"] >= state["max_steps"])


@dataclass(frozen=True)
class BestCheckpoint:
    """A checkpoint, its loss on the held-out rows in nats a token, and why it is not whole."""

    path: Path
    loss: float
    wrong: str | None


def folder_of(job: JobConfig) -> Path:
    return output_root() / job.training.output_dir


@contextmanager
def claimed_folder(job: JobConfig, restart: bool) -> Iterator[OutputFolder]:
    """The job's folder, made or recognised as this job's unfinished one, and no other run's for as long as this lasts.

    With `restart` a folder that is there is kept aside as NAME.old-N. Otherwise one that is another job's, a
    finished job's or nobody's we know is an `OutputError`, and is left as it is.
    """
    path = folder_of(job)
    with only_writer(path, _not_writable):
        yield _open(path, job, restart)


def _open(path: Path, job: JobConfig, restart: bool) -> OutputFolder:
    try:
        if restart and path.exists():
            with not_in_use(path):
                path.rename(_free_name(path))
        _refuse_foreign(path, job)
        path.mkdir(parents=True, exist_ok=True)
        (path / LIBRARIES_LOG).touch()
        sweep(path)
        newest, damages = newest_whole(path)
    except OSError as error:
        raise _not_writable(path, error) from None
    return OutputFolder(path, newest, tuple(damages))


def _not_writable(path: Path, error: OSError) -> OutputError:
    if isinstance(error, Timeout):
        return OutputError(
            f"another run is writing to {path}", "Wait for it, or set training.output_dir.", key="training.output_dir"
        )
    return OutputError(
        f"the output folder {path} cannot be written: {error.strerror}",
        "Make it and its parent writable, or name another place: OUTPUT_ROOT for train.sh, or training.output_dir.",
        key="training.output_dir",
    )


def refuse_other_data(output: OutputFolder, fingerprint: str) -> None:
    """Raise `OutputError` when the run that this one goes on from saw other tokens, whatever their source's name."""
    manifest = read_manifest(output.path) if output.resume_from else None
    if manifest is not None and manifest.get("data", {}).get("sha256") != fingerprint:
        raise OutputError(
            f"{output.path} holds an unfinished job; the rows changed since it began",
            CURE,
            "dataset.path",
        )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def _refuse_foreign(path: Path, job: JobConfig) -> None:
    if not path.exists():
        return
    manifest = read_manifest(path)
    if manifest is None:
        _refuse_strange(path)
        return
    if manifest.get("status") == "finished":
        raise OutputError(f"{path} holds a finished job of {manifest.get('updated')}", CURE, "training.output_dir")
    changed = changed_keys(manifest.get("config", {}), job.model_dump(mode="json"))
    if changed:
        raise OutputError(
            f"{path} holds an unfinished job whose config differs in {', '.join(changed)}", CURE, "training.output_dir"
        )


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


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the keys whose values differ between two configs, sorted.

    A section or an entry of a list that only one of them has is named as a whole (`dataset[1]`). How a step is computed
    is not what it is: `performance` may differ.
    """
    of_before, of_now = (
        {owner: values for owner, values in by_owner(config) if owner != "performance"} for config in (before, now)
    )
    one_sided = of_before.keys() ^ of_now.keys()
    shared = of_before.keys() & of_now.keys()
    flat_before, flat_now = (
        {key: value for owner in shared for key, value in _flatten(owner, config[owner])}
        for config in (of_before, of_now)
    )
    differing = {key for key in flat_before.keys() | flat_now.keys() if flat_before.get(key) != flat_now.get(key)}
    return sorted(one_sided | differing)


def _flatten(owner: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return ((f"{owner}.{key}", json.dumps(value, sort_keys=True)) for key, value in values.items())


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
