"""One process at a time writes to a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gptoss_ft.errors import OutputError


@contextmanager
def only_writer(folder: Path, option: str = "--output") -> Iterator[None]:
    """No other process writes to `folder`, which need not be there, for as long as this lasts: a hidden file beside it
    says so. `OutputError` where one does, or where nothing can be written; `option` is what chose the folder."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"another process is writing to {folder}", f"Wait for it, or choose another {option}."
        ) from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}", f"Choose another {option}.") from None
    with lock:
        yield
