"""Commands that work in a run's folder, as many as like at once; and those that move it, or what is in it: `train`
with --restart or --from."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ft.errors import OutputError


@contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Nobody moves the folder `run`, or what is in it, for as long as this lasts: a hidden file beside it says so.
    `OutputError` where that is being moved, or nothing can be locked."""
    try:
        stream = _lock_file(run).open("a")
    except OSError:
        # Where nothing can be written, nothing can be moved.
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{run}, or what is in it, is being moved aside by train --restart or --from", "Name the folder anew."
            ) from None
        except OSError as error:
            raise _not_lockable(run, error) from None
        yield


@contextmanager
def not_in_use(run: Path) -> Iterator[None]:
    """No command works in the folder `run` for as long as this lasts. `OutputError` where one does, or nothing can be
    locked; `OSError` where nothing can be written beside it."""
    with _lock_file(run).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another command is using {run}",
                "Wait for it, or set training.output_dir to another folder.",
                "training.output_dir",
            ) from None
        except OSError as error:
            raise _not_lockable(run, error) from None
        yield


def _not_lockable(run: Path, error: OSError) -> OutputError:
    """As on a network's file system whose server knows no locks."""
    return OutputError(
        f"{run.parent} lets no file be locked: {error.strerror}",
        "Mount it with locks, or use a folder on another file system.",
        "training.output_dir",
    )


def _lock_file(run: Path) -> Path:
    place = run.resolve()
    return place.with_name(f".{place.name}.used.lock")
