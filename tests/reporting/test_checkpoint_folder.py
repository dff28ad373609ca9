"""Which checkpoint is found, what becomes of the others, and what a kill leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_ft.reporting.checkpoint_folder import (
    checkpoints_in,
    keep_newest,
    newest_whole,
    partial_of,
    publish,
    seal,
    sweep,
    what_is_wrong,
)

FILES = {"adapter_model.safetensors": b"a" * 100, "optimizer.pt": b"o" * 50, "trainer_state.json": b"{}"}


def write(folder: Path, step: int) -> Path:
    partial = partial_of(folder, step)
    partial.mkdir()
    for name, content in FILES.items():
        (partial / name).write_bytes(content)
    seal(partial, step)
    publish(partial, folder / f"checkpoint-{step}")
    return folder / f"checkpoint-{step}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_manifest_names_every_file(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 3)
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    assert manifest["step"] == 3
    assert {name: facts["bytes"] for name, facts in manifest["files"].items()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert what_is_wrong(checkpoint) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, "checkpoint.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    before = write(tmp_path, 2)
    damage(write(tmp_path, 4) / name)
    found, damages = newest_whole(tmp_path)
    if name == "checkpoint.json" and damage is truncate:
        # Its last byte is a line's end.
        assert found == tmp_path / "checkpoint-4"
        return
    assert found == before
    assert [(each.name, each.aside) for each in damages] == [("checkpoint-4", "checkpoint-4.damaged-1")]
    assert name in damages[0].wrong
    assert newest_whole(tmp_path) == (before, [])


def test_damage_is_told_in_words(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 2)
    truncate(checkpoint / "optimizer.pt")
    assert what_is_wrong(checkpoint) == "optimizer.pt has 49 bytes of 50"
    (checkpoint / "optimizer.pt").unlink()
    assert what_is_wrong(checkpoint) == "optimizer.pt is missing"
    shutil.copytree(write(tmp_path, 4), tmp_path / "checkpoint-6")
    assert what_is_wrong(tmp_path / "checkpoint-6") == "checkpoint.json is that of step 4"


OUTSIDE = '{"step": 2, "files": {"../x": {"bytes": 1, "sha256": ""}}}'


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"step": 2, "files": []}', OUTSIDE])
def test_a_manifest_that_is_none_makes_no_checkpoint(tmp_path: Path, manifest: str) -> None:
    (write(tmp_path, 2) / "checkpoint.json").write_text(manifest)
    found, damages = newest_whole(tmp_path)
    assert found is None
    assert damages[0].wrong == "checkpoint.json is missing, or not what was written"


def test_every_damaged_one_gets_a_name_of_its_own(tmp_path: Path) -> None:
    for number in (1, 2):
        flip(write(tmp_path, 4) / "optimizer.pt")
        assert newest_whole(tmp_path)[1][0].aside == f"checkpoint-4.damaged-{number}"


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [8, 6, 4, 2]),
        (3, None, [8, 6, 4]),
        (1, None, [8]),
        (1, 2, [8, 2]),
        (2, 2, [8, 2]),
        (3, 2, [8, 6, 2]),
        (1, 8, [8]),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path: Path, limit: int | None, best: int | None, kept: list[int]) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step)
    keep_newest(tmp_path, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{step}" for step in kept]
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_a_kill_between_rename_and_delete_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, newest = write(tmp_path, 2), write(tmp_path, 4)

    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        keep_newest(tmp_path, 1, None)
    assert not oldest.exists()
    assert newest_whole(tmp_path) == (newest, [])
    partial_of(tmp_path, 6).mkdir()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
