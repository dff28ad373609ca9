"""How a command ends: a `JobError` as one message with its place and its cure, and its exit code."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console

from gptoss_ft.config import ConfigSource
from gptoss_ft.errors import DiskError, Interrupted, JobError, is_disk_full
from gptoss_ft.full_disk import full_disk
from gptoss_ft.redaction import redacted

# What an interruption leaves, and what to do after it or once a full disk has room: that may depend on how far it came.
Interruption = tuple[str, Callable[[], str]]


def _begins_anew() -> str:
    return "The same command begins anew."


def _continues() -> str:
    return "The same command continues."


ANEW: Interruption = ("nothing is left half done", _begins_anew)
FILES_KEPT: Interruption = ("the files of weights that were whole are kept", _continues)
UPLOAD_KEPT: Interruption = ("what has arrived at the hub is not sent again", _continues)


@contextmanager
def errors_shown(source: ConfigSource | None = None, interruption: Interruption = ANEW) -> Iterator[None]:
    """End the program with a `JobError`'s message and exit code; `source` knows the place of its key."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Before and after training, where the trainer's own handling is not yet or no longer in force.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        # `nohup` has HUP ignored, and means it.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    left, how_to_go_on = interruption
    try:
        yield
    except DiskError as error:
        _show_disk_error(error, source, how_to_go_on())
        raise typer.Exit(error.exit_code) from None
    except JobError as error:
        show_error(error, source)
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        # Every file that a run writes can be the one that does not fit.
        if not is_disk_full(error):
            raise
        full = full_disk(error)
        _show_disk_error(full, None, how_to_go_on())
        raise typer.Exit(full.exit_code) from None
    except KeyboardInterrupt:
        stop = Interrupted(f"at once; {left}", how_to_go_on())
        show_error(stop, None)
        raise typer.Exit(stop.exit_code) from None


def _show_disk_error(error: DiskError, source: ConfigSource | None, how_to_go_on: str) -> None:
    show_error(DiskError(error.message, f"{error.cure} {how_to_go_on}", error.key), source)


def show_error(error: JobError, source: ConfigSource | None) -> None:
    # `:100:` in a place is no emoji.
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    message = str(source.problem(error.key, error.message)) if source is not None and error.key else error.message
    label = "stopped" if isinstance(error, Interrupted) else "error"
    console.print(f"[bold red]{label}:[/] ", end="")
    console.print(redacted(message), markup=False)
    if error.cure:
        console.print(redacted(error.cure), markup=False, style="dim")
