"""A job as others may see it: without the paths of the machine that it ran on."""

import os
from pathlib import Path

from gptoss_ft.config import JobConfig
from gptoss_ft.data.readers import READERS

# Each can be a file or folder of the user's.
PATHS = {
    "model": ("name", "adapter", "chat_template"),
    "dataset": ("path", "prepared"),
    "hub": ("card_template",),
}


def public_job(job: JobConfig) -> JobConfig:
    """`job` with the last part alone of every path that is this machine's: `/home/ann/rows.jsonl` is `rows.jsonl`."""
    content = job.model_dump(mode="json")
    for section, keys in PATHS.items():
        entries = content[section] if isinstance(content[section], list) else [content[section]]
        for entry in entries:
            entry.update({key: shown_name(entry[key]) for key in keys})
    return JobConfig.model_validate(content)


def shown_name(name: str | None) -> str | None:
    """A hub id as it is, of a path its last part, None as None."""
    return Path(name).name if name is not None and is_path(name) else name


def is_path(name: str) -> bool:
    """Whether a name is that of a file or folder, by its look or because it is there. Embedded names are neither."""
    looks_so = name.startswith(("/", ".", "~")) or Path(name).suffix.lower() in (*READERS, ".jinja", ".j2", ".txt")
    return looks_so or name.count("/") > 1 or os.path.exists(name)


def hub_id(name: str) -> str | None:
    """`name` where it can be a repository on the hub, else None: a path, a name of the embedded default."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from gptoss_ft import tiny

    if is_path(name) or tiny.is_tiny(name) or "/" not in name:
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name
