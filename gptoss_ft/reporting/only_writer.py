"""One process at a time writes to a folder, whatever containers they are in: the lock is the kernel's, on a file."""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gptoss_ft.errors import OutputError, is_disk_full
from gptoss_ft.reporting.files import write_json


@dataclass(frozen=True)
class Writer:
    """Who writes to a folder: the machine's name (a container's: its id), the process there, since when in UTC."""

    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, which began {self.since}"


def in_words(writer: Writer | None) -> str:
    """The end of a sentence that says that there is one; nothing where it is not known who."""
    return f": {writer}" if writer is not None else ""


# What to raise of a folder: where another process writes to it the error is a `Timeout`, and who is known or None.
Refusal = Callable[[Path, OSError, Writer | None], OutputError]


def chosen_by(option: str) -> Refusal:
    """Refusals of a folder that an option of the command line chose."""

    def refusal(folder: Path, error: OSError, writer: Writer | None) -> OutputError:
        if isinstance(error, Timeout):
            return OutputError(
                f"another process is writing to {folder}{in_words(writer)}", f"Wait for it, or choose another {option}."
            )
        return OutputError(f"{folder} cannot be written: {error.strerror}", f"Choose another {option}.")

    return refusal


BY_OUTPUT = chosen_by("--output")


@contextmanager
def only_writer(folder: Path, refusal: Refusal = BY_OUTPUT) -> Iterator[Writer | None]:
    """No other process writes to `folder`, which need not be there, for as long as this lasts: hidden files beside it
    say so, and who it is. `refusal`'s error where one does, or where nothing can be written.

    Yields the writer before, if it ended without an end of its own: killed, or with the machine.
    """
    place = folder.resolve()
    lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0)
    told = place.with_name(f".{place.name}.writer.json")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) and not Path(lock.lock_file).exists():
            # filelock 4.2 waits for a lock that nobody holds where no file can be made, as in /proc.
            error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise refusal(folder, error, _read(told)) from None
    try:
        gone = _read(told)
        _tell(told, folder, refusal)
        try:
            yield gone
        finally:
            told.unlink(missing_ok=True)
    finally:
        lock.release()


def _tell(told: Path, folder: Path, refusal: Refusal) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    try:
        write_json(told, asdict(Writer(socket.gethostname(), os.getpid(), since)))
    except OSError as error:
        # What the command that shows it says of a full disk is more.
        if is_disk_full(error):
            raise
        raise refusal(folder, error, None) from None


def _read(told: Path) -> Writer | None:
    try:
        return Writer(**json.loads(told.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
