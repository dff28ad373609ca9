"""The kinds of error, and what counts as a full disk."""

import errno

import pytest
from safetensors import SafetensorError

from gptoss_ft import errors
from gptoss_ft.errors import JobError, is_disk_full


def test_every_kind_of_error_has_its_code() -> None:
    kinds = {name: kind.exit_code for name, kind in vars(errors).items() if _is_kind(kind)}
    assert kinds == {
        "ConfigError": 2, "SettingError": 2, "DataError": 3, "OutputError": 3, "MachineError": 4, "DiskError": 4,
        "HubError": 5, "ExportError": 6, "NotFiniteError": 7, "Interrupted": 75,
    }  # fmt: skip


def _is_kind(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, JobError) and value is not JobError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("no space in this name"), False),
    ],
)
def test_a_full_disk_is_recognised(error: Exception, expected: bool) -> None:
    assert is_disk_full(error) is expected
