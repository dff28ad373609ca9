"""Checkpoints as folders: written beside, sealed, renamed; found whole or set aside. Without torch.

A checkpoint is whole when every file is there with the size and SHA-256 that its checkpoint.json names. That file is
written last, inside a folder that has its name only after every byte is on the disk: `seal` flushes, `publish` renames.
What a killed run leaves half done has a hidden name, and `sweep` removes it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_ft.reporting.files import flush_file, flush_folder, follow_umask

CHECKPOINT = "checkpoint-"
MANIFEST = "checkpoint.json"
_WHOLE_NAME = re.compile(rf"{CHECKPOINT}(\d+)")


@dataclass(frozen=True)
class Damage:
    """A checkpoint that is not whole: its name, what is wrong with it, and the name that it has now."""

    name: str
    wrong: str
    aside: str


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def checkpoints_in(folder: Path) -> list[Path]:
    """Folders named checkpoint-N, whole or not, the newest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if _WHOLE_NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def partial_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` is while it is written."""
    return folder / f".{CHECKPOINT}{step}.partial"


def seal(partial: Path, step: int) -> None:
    """Flush every file of `partial` to the disk and write its checkpoint.json. `OSError` where the disk is full."""
    follow_umask(partial)
    files = {}
    for path in _files_in(partial):
        flush_file(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    with (partial / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({"step": step, "files": files}, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    flush_folder(partial)


def publish(partial: Path, checkpoint: Path) -> None:
    """Give a sealed folder its name, for good."""
    partial.rename(checkpoint)
    flush_folder(checkpoint.parent)


def sealed_files(checkpoint: Path) -> dict[str, dict[str, Any]] | None:
    """The bytes and SHA-256 of each file by its name, as checkpoint.json has them; None where that is missing, or not
    what was written."""
    content = _read(checkpoint)
    return content["files"] if content is not None else None


def what_is_wrong(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole, in words that name the file; None when it is. Sizes first, then hashes."""
    try:
        manifest = _read(checkpoint)
        if manifest is None:
            return f"{MANIFEST} is missing, or not what was written"
        if manifest["step"] != step_of(checkpoint):
            return f"{MANIFEST} is that of step {manifest['step']}"
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, facts in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != facts["bytes"]:
                return f"{name} has {size:,} bytes of {facts['bytes']:,}"
        for name, facts in files.items():
            if _sha256(checkpoint / name) != facts["sha256"]:
                return f"{name} is not what was written: its SHA-256 differs"
    except OSError as error:
        # What may be read another time, or by another user, is not damaged.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO):
            raise
        return f"{Path(error.filename or checkpoint).name} cannot be read: {error.strerror}"
    return None


def newest_whole(folder: Path) -> tuple[Path | None, list[Damage]]:
    """The newest checkpoint that is whole, and those newer ones that are not, which are renamed checkpoint-N.damaged-K.
    For whoever holds the folder's lock."""
    damages: list[Damage] = []
    for checkpoint in checkpoints_in(folder):
        wrong = what_is_wrong(checkpoint)
        if wrong is None:
            return checkpoint, damages
        damages.append(set_aside(checkpoint, wrong))
    return None, damages


def set_aside(checkpoint: Path, wrong: str) -> Damage:
    number = 1
    while (aside := checkpoint.with_name(f"{checkpoint.name}.damaged-{number}")).exists():
        number += 1
    checkpoint.rename(aside)
    return Damage(checkpoint.name, wrong, aside.name)


def sweep(folder: Path) -> None:
    """Remove what a dead run was writing or removing. For whoever holds the folder's lock."""
    for path in folder.glob(f".{CHECKPOINT}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove(checkpoint: Path) -> None:
    """Rename, then delete: a kill in between leaves nothing that looks like a checkpoint."""
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    checkpoint.rename(removed)
    shutil.rmtree(removed)


def keep_newest(folder: Path, limit: int | None, best: Path | None) -> None:
    """Remove the oldest checkpoints but for `limit`, None: none. The newest and the best always stay."""
    if limit is None:
        return
    newest_first = checkpoints_in(folder)
    kept = newest_first[:1] + [path for path in newest_first[1:] if best is not None and path.name == best.name]
    others = [path for path in newest_first if path not in kept]
    for path in reversed(others[max(0, limit - len(kept)) :]):
        remove(path)


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)


def _read(checkpoint: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        named = isinstance(content["step"], int) and all(
            Path(name).name == name and isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)
            for name, facts in content["files"].items()
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if named else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
