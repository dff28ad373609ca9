"""Commands that work in a run's folder, as many as like at once; and `train --restart`, which moves it away."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ft.errors import OutputError


@contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Nobody moves the folder `run` for as long as this lasts: a hidden file beside it says so. `OutputError` where it
    is being moved."""
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
            raise OutputError(f"{run} is being moved aside by train --restart", "Name the folder anew.") from None
        yield


@contextmanager
def not_in_use(run: Path) -> Iterator[None]:
    """No command works in the folder `run` for as long as this lasts. `OutputError` where one does, `OSError` where
    nothing can be written beside it."""
    with _lock_file(run).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another command is using {run}",
                "Wait for it, or set training.output_dir to another folder.",
                "training.output_dir",
            ) from None
        yield


def _lock_file(run: Path) -> Path:
    place = run.resolve()
    return place.with_name(f".{place.name}.used.lock")
