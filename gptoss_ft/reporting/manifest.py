"""manifest.json: what was trained, on what, with which code. It also marks a folder as a job's own."""

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import gptoss_ft
from gptoss_ft.config import JobConfig
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.files import write_json
from gptoss_ft.runtime import Device, code_commit, image_id

NAME = "manifest.json"
PACKAGES = (
    "unsloth", "unsloth_zoo", "torch", "triton", "transformers", "trl", "peft", "accelerate", "datasets",
    "bitsandbytes", "tokenizers", "huggingface-hub", "safetensors", "pydantic",
)  # fmt: skip

Status = Literal["running", "interrupted", "finished"]


class Manifest:
    """The manifest of a job that trains: what does not change is gathered once, the status is written as it does.

    `history` is what an earlier run has left of itself: when it `started`, and each time that it was `continued`.
    """

    def __init__(
        self,
        folder: Path,
        job: JobConfig,
        device: Device,
        data: dict[str, Any],
        model: dict[str, Any],
        history: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._facts = {
            **history,
            "config": job.model_dump(mode="json"),
            "data": data,
            "model": model,
            "device": asdict(device),
            "code": code_facts(),
            "versions": library_versions(),
        }

    def write(self, status: Status, **more: Any) -> None:
        """Write manifest.json with its status, and what became known by now (`result`)."""
        self._facts.update(more)
        write_json(self._folder / NAME, {"status": status, "updated": now(), **self._facts})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in `folder`; None where there is none, or one that cannot be read."""
    try:
        content: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sections = content.get("config") if isinstance(content, dict) else None
    if not isinstance(sections, dict):
        return None
    # `dataset` may be a list of entries.
    owners = [owner for keys in sections.values() for owner in (keys if isinstance(keys, list) else [keys])]
    return content if all(isinstance(keys, dict) for keys in owners) else None


def refuse_unreadable(folder: Path, others: str) -> None:
    """Raise `OutputError` where `folder` has a manifest and `read_manifest` none. `others` are cures beside a copy."""
    if (folder / NAME).exists():
        raise OutputError(
            f"{folder / NAME} cannot be read, so what was trained there is not known",
            f"Put a copy of it back, {others}.",
            "training.output_dir",
        )


def code_facts() -> dict[str, str | None]:
    """Which code this is: the package's version, and what is known of its commit, image and lock."""
    return {
        "gptoss_ft": gptoss_ft.__version__,
        "commit": code_commit(),
        "image": image_id(),
        "lock_sha256": _lock_sha256(),
    }


def library_versions() -> dict[str, str]:
    """Python and the libraries that compute or decide what is computed."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _lock_sha256() -> str | None:
    lock = Path(gptoss_ft.__file__).parents[1] / "requirements.txt"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def now() -> str:
    """The time in UTC, as 2026-11-21T20:05:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")
