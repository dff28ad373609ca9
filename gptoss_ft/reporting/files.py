"""Writing small files so that a reader never sees half of one."""

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptoss_ft.errors import OutputError


def write_json(path: Path, content: Any) -> None:
    """Write beside, flush, then rename: also after a power cut it is the old file or the new one. Its mode follows the
    umask."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """A row a line, written as `write_json` does."""
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def refuse_unwritable(path: Path) -> None:
    """Raise `OutputError` unless a file `path` can be written; found out before the work whose result it is to hold."""
    beside = _beside(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", "Name a file in a folder of yours.") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write(path: Path, text: str) -> None:
    beside = _beside(path)
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        # The disk is full: half a file is of no use.
        beside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Have what was written to a file on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, not those in its folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def follow_umask(folder: Path) -> None:
    """Give the files in `folder` the mode that the umask asks for: safetensors 0.8 makes its own with 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file() and stat.S_IMODE(file.stat().st_mode) == 0o600:
            file.chmod(0o666 & ~umask)
