"""One process at a time writes to a folder."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gptoss_ft.errors import OutputError

# What to raise of a folder: where another process writes to it the error is a `Timeout`.
Refusal = Callable[[Path, OSError], OutputError]


def chosen_by(option: str) -> Refusal:
    """Refusals of a folder that an option of the command line chose."""

    def refusal(folder: Path, error: OSError) -> OutputError:
        if isinstance(error, Timeout):
            return OutputError(f"another process is writing to {folder}", f"Wait for it, or choose another {option}.")
        return OutputError(f"{folder} cannot be written: {error.strerror}", f"Choose another {option}.")

    return refusal


BY_OUTPUT = chosen_by("--output")


@contextmanager
def only_writer(folder: Path, refusal: Refusal = BY_OUTPUT) -> Iterator[None]:
    """No other process writes to `folder`, which need not be there, for as long as this lasts: a hidden file beside it
    says so. `refusal`'s error where one does, or where nothing can be written."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) and not Path(lock.lock_file).exists():
            # filelock 4.2 waits for a lock that nobody holds where no file can be made, as in /proc.
            error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise refusal(folder, error) from None
    with lock:
        yield
