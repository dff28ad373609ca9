"""What a person sees: our own lines, with colour on a terminal and plain text elsewhere.

The libraries' banners, bars and warnings go to `libraries.log` in the output folder instead.
"""

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from gptoss_ft.redaction import RedactedStream, redacted

LIBRARIES_LOG = "libraries.log"
# Where output is a file or a pipe there is no width to ask for.
PLAIN_WIDTH = 120
# `extra` of a log record that is also for the screen, as what a person waits for.
TOLD = {"told": True}
# What would move the cursor, ring the bell or turn the direction of reading, in a terminal as in a browser.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def make_console(stream: TextIO | None = None) -> Console:
    """A console on the standard output as it is now, so that it stays ours while libraries are silenced; what our own
    code logs with `TOLD` is shown there, too."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    # `:100:` is no emoji, in a place as in text.
    console = Console(file=stream, width=width, highlight=False, soft_wrap=True, emoji=False)
    if stream is sys.stdout:
        show_told(lambda notice: console.print(f"[dim]{escape(visible(notice))}[/]"))
    return console


def show_told(show: Callable[[str], None]) -> None:
    """Have `show` called with what our own code logs with `TOLD`, from now on alone."""
    logging.getLogger("gptoss_ft").handlers = [_Told(show)]


class _Told(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "told"):
            return
        try:
            self._show(redacted(record.getMessage()))
        except Exception:
            self.handleError(record)


def show_section(console: Console, title: str, values: Mapping[str, object]) -> None:
    """Print a heading and its values, one a line, aligned."""
    width = max(map(len, values))
    console.print(f"[bold cyan]{title}[/]")
    for name, value in values.items():
        console.print(f"  [dim]{name:{width}}[/]  {escape(_as_text(value))}")


def show_passed(console: Console, name: str, found: object) -> None:
    """A check that has passed, and what it found."""
    console.print(f"[green]✓[/] {name:6}  {escape(visible(str(found)))}")


def show_failed(console: Console, name: str) -> None:
    console.print(f"[red]✗[/] {name}")


def _as_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)


@contextmanager
def working(console: Console, words: str) -> Iterator[None]:
    """Tell what takes its time: with a spinner on a terminal, as a line elsewhere."""
    if not console.is_terminal:
        console.print(f"[dim]{escape(words)}[/]")
        yield
        return
    with console.status(escape(words)):
        yield


def visible(text: str) -> str:
    """`text` with control characters as `\\x1b`; line ends and tabs stay."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def counted(number: int, noun: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


@contextmanager
def quiet_libraries(log: Path) -> Iterator[None]:
    """Send what libraries print, log and warn to the file `log`, without secrets, for as long as this lasts."""
    # Left open on purpose: handlers made meanwhile keep writing to it until the process ends.
    stream = RedactedStream(log.open("a", encoding="utf-8", buffering=1))
    stdout, stderr = sys.stdout, sys.stderr
    root = logging.getLogger()
    handlers = root.handlers[:]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    root.handlers = [handler]
    sys.stdout = sys.stderr = stream
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            sys.stdout, sys.stderr = stdout, stderr
            root.handlers = handlers
