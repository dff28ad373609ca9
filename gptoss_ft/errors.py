"""What can go wrong for a user, and the exit code of each kind.

A `JobError` is a user's mistake or the machine's: it is shown as one message with its cure and no
traceback, and ends the program with the code of its kind. Anything else is a defect of ours, keeps its
traceback and ends with `ExitCode.DEFECT`.
"""

import errno
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The one enumeration of exit codes; README lists it for users."""

    DONE = 0
    DEFECT = 1
    CONFIG = 2
    DATA = 3
    MACHINE = 4
    HUB = 5
    EXPORT = 6
    NOT_FINITE = 7
    INTERRUPTED = 75


class JobError(Exception):
    """An error that a person can act on.

    `message` says what was found, `cure` what to do about it; `key` names the config key that it is about
    (`dataset.path`), so that the place in the file can be shown with it.
    """

    exit_code: ClassVar[ExitCode]

    def __init__(self, message: str, cure: str = "", key: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.key = key


@dataclass(frozen=True)
class Problem:
    """One mistake in a config: where it stands (`config.yaml:12:3`, `--set lora.r`), and what is wrong."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(JobError):
    """The configuration or the command line is wrong; carries every problem that was found."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: list[Problem], cure: str = "") -> None:
        super().__init__("\n".join(str(problem) for problem in problems), cure)
        self.problems = problems


class SettingError(JobError):
    """A setting of the config that turned out wrong once the model or the data were known; `key` names it."""

    exit_code = ExitCode.CONFIG


class DataError(JobError):
    """The data set cannot be read or holds a row that cannot be trained on."""

    exit_code = ExitCode.DATA


class OutputError(JobError):
    """The output folder belongs to another or a finished job, or cannot be written."""

    exit_code = ExitCode.DATA


class MachineError(JobError):
    """No GPU, too old a driver, not enough memory or disk."""

    exit_code = ExitCode.MACHINE


class DiskError(MachineError):
    """The disk does not take what a command writes. Once that is mended the command goes on: its end says how."""


class HubError(JobError):
    """The hub refused, a token is missing or wrong, or there is no network."""

    exit_code = ExitCode.HUB


class ExportError(JobError):
    """What was exported is not the model that was trained, or not what another program can load."""

    exit_code = ExitCode.EXPORT


def is_disk_full(error: BaseException) -> bool:
    """Whether a library's exception means that a write did not fit; safetensors and torch say so in words alone."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error) or "Disk quota exceeded" in str(error)


class NotFiniteError(JobError):
    """A loss or gradient that is not finite."""

    exit_code = ExitCode.NOT_FINITE


class Interrupted(JobError):
    """Stopped by a signal, with the state saved."""

    exit_code = ExitCode.INTERRUPTED
