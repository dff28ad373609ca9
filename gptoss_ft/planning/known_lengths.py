"""The lengths of a job's samples: remembered, from prepared data, or assumed.

What a run, `prepare` or `validate` has prepared lies in the cache under a key that needs the tokenizer, whose import
takes seconds. So the lengths, which are all that a plan needs, are kept a second time under a key that needs nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.data.summary import RENDERING_VERSION, Summary
from gptoss_ft.errors import JobError
from gptoss_ft.planning.choice import effective_batch
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.reporting.files import write_json
from gptoss_ft.runtime import cache_folder


class Known(NamedTuple):
    """Lengths, and in words where they come from."""

    lengths: Lengths
    source: str


def remember(job: JobConfig, summary: Summary) -> None:
    """Keep the lengths of the samples to train on for the next plan of this job, where they can be kept."""
    path = _path(job)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, summary.train.lengths)


def known_lengths(job: JobConfig, console: Console) -> Known:
    """The lengths of the job's samples. What was never prepared is prepared, as training would; where that cannot be
    done, each sample is taken to have `model.max_seq_length` tokens."""
    batch = effective_batch(job)
    counted = _remembered(job)
    if counted is not None:
        return Known(Lengths.counted(counted, batch), "prepared before")
    try:
        summary = _prepare(job, console)
    except JobError as error:
        length = job.model.max_seq_length
        why = error.message.partition("\n")[0]
        return Known(Lengths.all_of(length, batch), f"assumed to be model.max_seq_length, {length:,}: {why}")
    remember(job, summary)
    return Known(Lengths.counted(summary.train.lengths, batch), "prepared now")


def _remembered(job: JobConfig) -> Mapping[int, int] | None:
    """How often each length occurs; None where the job's data was not prepared, or has changed since."""
    try:
        if (handed_over := job.datasets[0].prepared) is not None:
            summary = Path(os.path.expanduser(handed_over)) / "summary.json"
            counted: Mapping[int, int] = Summary.model_validate_json(summary.read_bytes()).train.lengths
        else:
            content = json.loads(_path(job).read_text(encoding="utf-8"))
            counted = {int(length): int(number) for length, number in content.items()}
    except (OSError, ValueError, AttributeError, ValidationError):
        return None
    return counted if sum(counted.values()) else None


def _path(job: JobConfig) -> Path:
    """Where the lengths of this job's samples are kept: under a hash of the settings that decide them, and of name,
    size and time of local files."""
    decides = {
        "model": job.model.model_dump(mode="json", include={"name", "revision", "chat_template", "max_seq_length"}),
        "template": list(_state_of(Path(os.path.expanduser(job.model.chat_template or "")))),
        "rendering": RENDERING_VERSION,
        "seed": job.training.seed,
        "entries": [[entry.model_dump(mode="json"), *_files(entry)] for entry in job.datasets],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "lengths" / f"{key[:32]}.json"


def _files(entry: DatasetSection) -> Iterator[tuple[str, int, int]]:
    path = Path(os.path.expanduser(entry.path)).absolute()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        yield from _state_of(file)


def _state_of(file: Path) -> Iterator[tuple[str, int, int]]:
    if file.is_file():
        state = file.stat()
        yield str(file), state.st_size, state.st_mtime_ns


def _prepare(job: JobConfig, console: Console) -> Summary:
    from gptoss_ft.data.entries import open_entries
    from gptoss_ft.data.intake import check_first_rows
    from gptoss_ft.reporting.console import quiet_libraries
    from gptoss_ft.reporting.narration import preparing

    console.print("[dim]preparing the data, whose lengths are not known yet[/]")
    entries = open_entries(job)
    check_first_rows(entries)
    with quiet_libraries(Path(os.devnull)):
        from gptoss_ft.data.prepare import prepare
        from gptoss_ft.data.tokenizer import load_job_tokenizer

        with preparing(console) as progress:
            return prepare(job, entries, load_job_tokenizer(job.model), progress).summary
