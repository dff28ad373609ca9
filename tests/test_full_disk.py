"""An error of a full disk names a place, whatever the exception knew."""

import errno
import os
from pathlib import Path

import pytest

from gptoss_ft import full_disk as module
from gptoss_ft.errors import ExitCode
from gptoss_ft.full_disk import full_disk


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))


def test_the_file_is_named_where_the_exception_does() -> None:
    error = full_disk(OSError(errno.ENOSPC, "No space left on device", "/some/file"))
    assert error.message == "no space is left on the disk under /some/file"
    # How to go on is the command's to say.
    assert (error.exit_code, error.cure) == (ExitCode.MACHINE, "Make space.")


def test_else_the_folders_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = OSError(errno.ENOSPC, "No space left on device")
    assert full_disk(wanted).message.startswith(
        f"no space is left on the disk under one of {tmp_path}/outputs, {tmp_path}/cache, "
    )
    full = tmp_path / "cache"
    monkeypatch.setattr(module, "_is_full", lambda place: place == full)
    assert full_disk(wanted).message == f"no space is left on the disk under {full}"


@pytest.mark.parametrize(
    ("free_blocks", "free_inodes", "inodes", "full"),
    [(255, 9, 9, True), (256, 9, 9, False), (10**6, 0, 9, True), (10**6, 0, 0, False)],
)
def test_a_disk_is_full_without_blocks_or_inodes(
    free_blocks: int, free_inodes: int, inodes: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    #        block size, fragment size, blocks, free, available, inodes, free, available, flags, longest name
    state = (4096, 4096, 10**7, free_blocks, free_blocks, inodes, free_inodes, free_inodes, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda place: os.statvfs_result(state))
    assert module._is_full(Path("/not/there")) is full
