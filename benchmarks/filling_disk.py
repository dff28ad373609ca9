"""A small file system that becomes full at a chosen moment of a run, from inside the run.

Python tells an audit hook of every file that it opens and every folder that it makes, before it does; the three
libraries that write without Python are made to tell of it, too.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Lacking = Literal["blocks", "inodes"]
FILLER = ".filler"
_SMALLEST_BLOCK = 1024
_LARGEST_PIECE = 64 << 20
_SIZE, _INODES = 192 << 20, 2048
_WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Moment:
    """The moment before the file `what` (below the disk's folder) is written for the `time`th time, counted from 1."""

    what: str
    time: int


class Disk:
    """The file system at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, lacking: Lacking, left: int) -> None:
        """Leave no room but for `left` bytes, or no inode for a new file."""
        filler = self.folder / FILLER
        filler.mkdir()
        if lacking == "blocks":
            self._fill_blocks(filler / "blocks", left)
        else:
            _fill_inodes(filler)

    def _fill_blocks(self, file: Path, left: int) -> None:
        piece, size = _LARGEST_PIECE, 0
        with file.open("wb") as stream:
            while piece >= _SMALLEST_BLOCK:
                free = os.statvfs(self.folder)
                taken = min(piece, free.f_bavail * free.f_frsize - left)
                if taken <= 0:
                    return
                try:
                    os.posix_fallocate(stream.fileno(), size, taken)
                    size += taken
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2

    def make_room(self) -> None:
        shutil.rmtree(self.folder / FILLER, ignore_errors=True)

    def clear(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name != "lost+found":
                shutil.rmtree(entry)


def _fill_inodes(folder: Path) -> None:
    number = 0
    while True:
        try:
            os.mknod(folder / str(number))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
        number += 1


@contextmanager
def small_disk(folder: Path, kind: str) -> Iterator[Disk]:
    """A file system of its own at `folder`. Ends the program where this user may not mount one."""
    folder.mkdir()
    image = folder.with_suffix(".img")
    if kind == "ext4":
        with image.open("wb") as stream:
            stream.truncate(_SIZE)
        # Without what only root may take: this is root.
        make = ["mkfs.ext4", "-q", "-m", "0", "-N", str(_INODES), str(image)]
        mount = ["mount", "-o", "loop", str(image), str(folder)]
        commands = [make, mount]
    else:
        commands = [["mount", "-t", "tmpfs", "-o", f"size={_SIZE},nr_inodes={_INODES}", "none", str(folder)]]
    for command in commands:
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{command[0]}: {ended.stderr.strip()}\nAs root, or: --file-system tmpfs under unshare.")
    # Told to end, it leaves no mount behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Watch:
    """Calls `reached` before each write below `folder` of this process; what `reached` does itself is not watched."""

    def __init__(self, folder: Path, reached: Callable[[Moment], None]) -> None:
        self._folder, self._reached = str(folder), reached
        self._times: dict[str, int] = {}
        self._within = threading.local()
        self._lock = threading.Lock()

    def begin(self) -> None:
        _have_libraries_tell()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "os.mkdir" or (event == "open" and isinstance(details[2], int) and details[2] & _WRITING):
            path = details[0]
        elif event == "os.rename":
            path = details[1]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)) and not getattr(self._within, "reached", False):
            self._tell(os.path.abspath(os.fsdecode(path)))

    def _tell(self, path: str) -> None:
        if not path.startswith(f"{self._folder}/"):
            return
        # A process's own number is in the names of its temporary files, or what `uuid` or `tempfile` drew.
        what = re.sub(rf"\b{os.getpid()}\b|\b[0-9a-f]{{32}}\b", "N", path.removeprefix(f"{self._folder}/"))
        with self._lock:
            self._times[what] = self._times.get(what, 0) + 1
            self._within.reached = True
            try:
                self._reached(Moment(what, self._times[what]))
            finally:
                self._within.reached = False


def _have_libraries_tell() -> None:
    """safetensors, tokenizers and Arrow write files without Python."""
    import pyarrow as pa
    import safetensors.torch
    from transformers import PreTrainedTokenizerFast

    _have_tell(safetensors.torch, "serialize_file", lambda tensors, filename, **_: os.fspath(filename))
    _have_tell(
        PreTrainedTokenizerFast, "_save_pretrained", lambda _, save_directory, **__: f"{save_directory}/tokenizer.json"
    )
    _have_tell(pa, "OSFile", lambda path, mode="r": path if "w" in mode else None)
    _have_tell(pa.ipc, "new_file", lambda sink, *_, **__: sink if isinstance(sink, str) else None)


def _have_tell(owner: Any, name: str, path_of: Callable[..., str | None]) -> None:
    """Have `owner`'s function `name` tell of the file that it is about to write, None: of none."""
    function = getattr(owner, name)

    def telling(*args: Any, **kwargs: Any) -> Any:
        if (path := path_of(*args, **kwargs)) is not None:
            sys.audit("open", path, None, os.O_WRONLY)
        return function(*args, **kwargs)

    setattr(owner, name, telling)
