"""Weights that are read before they are loaded."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from gptoss_ft.config import ModelSection
from gptoss_ft.model import read_ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_all_of_every_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"model-00001-of-00002.safetensors": 3_000_000, "model-00002-of-00002.safetensors": 17}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "training.bin").write_bytes(b"x")
    monkeypatch.setattr(read_ahead, "PIECE", 1_000_000)
    seen: list[Path] = []
    read = read_ahead._read

    def noted(files: Sequence[Path]) -> None:
        read(files)
        seen.extend(files)

    monkeypatch.setattr(read_ahead, "_read", noted)
    read_ahead.read_weights_ahead(ModelSection(name=str(tmp_path)))
    for thread in threads():
        thread.join(10)
    assert [path.name for path in seen] == sorted(sizes)
    assert not threads()


def test_weights_that_do_not_fit_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(read_ahead, "_available_bytes", lambda: 199)
    monkeypatch.setattr(read_ahead, "_read", lambda files: pytest.fail("read"))
    read_ahead.read_weights_ahead(ModelSection(name=str(tmp_path)))
    assert not threads()


@pytest.mark.parametrize("name", ["./nope", "owner/not-in-the-cache", "tiny/gpt-oss", "a b"])
def test_what_cannot_be_found_is_not_its_to_tell(name: str) -> None:
    read_ahead.read_weights_ahead(ModelSection(name=name, load_in_4bit=False))


def test_the_system_says_how_much_memory_there_is() -> None:
    assert 2**28 < read_ahead._available_bytes() < 2**50
