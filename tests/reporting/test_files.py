"""Small files are whole or not there, also where the disk is full."""

import errno
import os
from pathlib import Path

import pytest

from gptoss_ft.reporting.files import write_json


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "facts.json", {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "facts.json", {"a": 2})
    assert (tmp_path / "facts.json").read_text("utf-8") == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[Path, list[str]]] = []

    def flush(descriptor: int) -> None:
        there = sorted(path.name for path in tmp_path.iterdir())
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), there))

    monkeypatch.setattr(os, "fsync", flush)
    write_json(tmp_path / "facts.json", {"a": 1})
    beside = tmp_path / f".facts.json.{os.getpid()}"
    assert flushed == [(beside, [beside.name]), (tmp_path, ["facts.json"])]
