"""Small files are whole or not there, also where the disk is full."""

import errno
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.reporting.files import write_json


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "facts.json", {"a": 1})

    def half(path: Path, text: str, **options: Any) -> int:
        path.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "facts.json", {"a": 2})
    assert (tmp_path / "facts.json").read_text("utf-8") == '{\n  "a": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
