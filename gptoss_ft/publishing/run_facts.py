"""What a run wrote about itself, read back for the model card: each file may be missing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptoss_ft.reporting import manifest, step_log
from gptoss_ft.reporting.checkpoint_folder import CHECKPOINT
from gptoss_ft.reporting.evaluation_report import EVALUATION
from gptoss_ft.reporting.files import write_json

SAMPLES = "samples.jsonl"
MEMORY = "memory_report.json"
# In what was made from an adapter: which one, by its name in the run's folder.
SOURCE = "source.json"


@dataclass(frozen=True)
class RunFacts:
    """The contents of manifest.json, memory_report.json and evaluation.json (None where there is none), the records of
    log.jsonl that hold a training loss, and the rows of samples.jsonl."""

    manifest: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    records: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    answers: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def read_facts(folder: Path) -> RunFacts:
    """The facts of the run that `folder` is of: an output folder, or a model in one. Of a checkpoint, and of what was
    made from one, those that were known at its step. A file that cannot be read counts as missing."""
    run = next((place for place in (folder, folder.absolute().parent) if (place / manifest.NAME).is_file()), None)
    if run is None:
        return RunFacts()
    records = [record for record in _rows(run / step_log.NAME) if "loss" in record and "step" in record]
    step = _step_of(folder)
    if step is not None:
        early = [record for record in records if record["step"] <= step]
        return RunFacts(manifest.read_manifest(run), _mapping(run / MEMORY), None, early)
    return RunFacts(
        manifest.read_manifest(run), _mapping(run / MEMORY), _mapping(run / EVALUATION), records, _rows(run / SAMPLES)
    )


def write_source(folder: Path, adapter: Path) -> None:
    """Note in `folder`/source.json which adapter the model in it was made from: its name, not where it lies."""
    write_json(folder / SOURCE, {"adapter": adapter.absolute().name})


def _step_of(folder: Path) -> int | None:
    """The step of the checkpoint that `folder` is, or was made from; None for what is of the run's end."""
    source = _mapping(folder / SOURCE) or {}
    name = str(source.get("adapter", folder.absolute().name))
    step = name.removeprefix(CHECKPOINT)
    return int(step) if name.startswith(CHECKPOINT) and step.isdecimal() else None


def _mapping(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> Mapping[str, Any] | None:
    # A kill in the middle of a write leaves half a line.
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
