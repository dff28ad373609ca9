"""A config file → text → YAML events; each way in which that fails in plain words, with its place."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark
from ruamel.yaml.events import Event

from gptoss_ft.config.words import shown_text
from gptoss_ft.errors import ConfigError, Problem

MAX_BYTES = 256 * 1024  # the default config.yaml has about 8 KiB; a data set or a weight file is no config

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# What ruamel.yaml says of a syntax error → what a person can act on; whether to point at where it opens.
_SYNTAX = (
    (r"found character '\\t'", "a tab where YAML wants spaces; indent with spaces", False),
    (r"found character '(.)' that cannot start", "text that starts with {0} needs quotes", False),
    (
        r"mapping values are not allowed",
        "a `:` out of place; check the indentation, and quote text with `: ` in it",
        False,
    ),
    (r"could not find expected ':'", "a key without its `:`", True),
    (r"unexpected end of stream", "a quote that is never closed", True),
    (r"expected ',' or '(.)'", "a `,` or the closing `{0}` is missing", True),
    (r"expected <block end>", "the indentation does not fit the lines above", False),
    (
        r"expected the node content",
        "a value is missing, or text that starts with a sign of YAML needs quotes",
        False,
    ),
    (
        r"hexdecimal|unknown escape",
        "an escape that YAML does not have; in single quotes a \\ is just a \\",
        False,
    ),
    (r"expected '<document start>'", "text that belongs to no key; check the indentation", False),
)


class Mark(NamedTuple):
    """A place in the text, both counted from 1, as editors count."""

    line: int
    column: int


class Fault(NamedTuple):
    """Something wrong in the text; `path` is the dotted key it concerns, or empty."""

    mark: Mark
    path: str
    message: str


class Stop(Exception):
    """Reading cannot go on."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(mark, "", message)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark. Raises ConfigError where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "no such file")], _configs_here()) from None
    except IsADirectoryError:
        raise ConfigError([Problem(str(path), "a folder; wanted a YAML file")], _configs_here()) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError([Problem(str(path), f"cannot be read: {reason}")]) from None
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(str(path), f"larger than {MAX_BYTES // 1024} KiB; wanted a YAML file")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        mark = end_of(before)
        message = f"not UTF-8 text: the byte 0x{error.object[error.start]:02x}"
        raise ConfigError([Problem(f"{path}:{mark.line}:{mark.column}", message)], "Save the file as UTF-8.") from None


def _configs_here() -> str:
    found = [str(path) for pattern in ("*.yaml", "configs/*.yaml") for path in sorted(Path().glob(pattern))]
    here = f"The current folder is {Path.cwd()}; "
    return here + (f"it has {', '.join(found)}." if found else "it has no *.yaml and no configs/*.yaml.")


def end_of(text: str) -> "Mark":
    """The place behind the last character of `text`."""
    lines = re.split(r"\r\n|\r|\n", text)
    return Mark(len(lines), len(lines[-1]) + 1)


def events(text: str) -> Iterator[Event]:
    """The YAML events of `text`. Raises Stop at the first syntax error."""
    if bad := _UNPRINTABLE.search(text):
        raise Stop(
            end_of(text[: bad.start()]),
            f"the character U+{ord(bad.group()):04X}, which has no place in a text file",
        )
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error) from None
    except (ValueError, OverflowError, AssertionError) as error:
        raise _without_place(error, text) from None


def _without_place(error: Exception, text: str) -> Stop:
    """What ruamel.yaml 0.19.1 lets through of chr(), int() and its own assertions: an escape beyond what Python takes,
    or a version of YAML that there is none of."""
    if isinstance(error, OverflowError) or "chr()" in str(error):
        place, words = r"\\U(?!00(?:0|10))", "an escape beyond U+10FFFF, where characters end"
    else:
        place, words = r"^%YAML", "a version of YAML that there is none of"
    found = re.search(place, text, re.MULTILINE)
    return Stop(end_of(text[: found.start()]) if found else Mark(1, 1), f"not YAML: {words}")


def _syntax_error(error: MarkedYAMLError) -> Stop:
    problem, mark, opening = str(error.problem), error.problem_mark, error.context_mark
    for pattern, words, at_opening in _SYNTAX:
        if match := re.search(pattern, problem):
            problem = words.format(*match.groups())
            if at_opening and opening is not None and (mark is None or opening.line < mark.line):
                mark = opening
            break
    return Stop(mark_of(mark), f"not YAML: {shown_text(problem)}")


def mark_of(mark: StringMark | None) -> Mark:
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)
