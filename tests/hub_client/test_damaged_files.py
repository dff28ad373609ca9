"""Files that arrive damaged, from the hub and from mirrors of it: found by their hashes, and fetched once more."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from download_hub import DownloadHub
from hub_downloads import NAME, WEIGHTS, fetched, rows
from local_hub import Fault

from gptoss_ft import hub_hashes
from gptoss_ft.data.sources import open_source
from gptoss_ft.errors import HubError


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_other_bytes_of_the_same_length_are_found_and_fetched_again(
    hub: DownloadHub, tmp_path: Path, name: str
) -> None:
    hub.faults.append(Fault("GET", f"resolve/.*/{name}", "flip", times=1))
    assert fetched(tmp_path) == hub.files[NAME]
    assert hub.begins(name) == [None, None]


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


# ETags of mirrors: hashes in the form of git's that are none of git's, and in another form.
ETAGS: dict[str, Callable[[bytes], str]] = {
    "sha1": sha1,
    "salted": lambda content: sha1(b"another than git's" + content),
    "md5": lambda content: hashlib.md5(content, usedforsecurity=False).hexdigest(),
}


@pytest.mark.parametrize("etag", ETAGS.values(), ids=ETAGS)
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_files_of_a_mirror_are_compared_with_the_list_of_hashes(
    hub: DownloadHub, tmp_path: Path, etag: Callable[[bytes], str], name: str
) -> None:
    hub.etag = etag
    hub.faults.append(Fault("GET", f"resolve/.*/{name}", "flip", times=1))
    assert fetched(tmp_path) == hub.files[NAME]
    assert {file: len(hub.begins(file)) for file in hub.files[NAME]} == {
        file: 2 if file == name else 1 for file in hub.files[NAME]
    }
    before = len(hub.asked("POST", "paths-info"))
    assert fetched(tmp_path) == hub.files[NAME]
    assert len(hub.asked("POST", "paths-info")) == before > 0


@pytest.mark.parametrize("etag", ETAGS.values(), ids=ETAGS)
def test_files_of_a_mirror_without_hashes_are_used_and_not_called_compared(
    hub: DownloadHub, tmp_path: Path, etag: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    hub.etag = etag
    hub.faults.append(Fault("POST", "paths-info", 404))
    for _ in range(2):
        caplog.clear()
        assert fetched(tmp_path) == hub.files[NAME]
        assert len([words for words in caplog.messages if "was not compared" in words]) == len(hub.files[NAME])
    assert all(len(hub.begins(file)) == 1 for file in hub.files[NAME])
    assert not (tmp_path / "cache" / "compared").exists()


@pytest.mark.parametrize(
    "answer",
    [
        "<html>a login</html>", "null", "7", '["config.json"]', '[{"path": "config.json"}]', '[{"type": "file"}]',
        '[{"type": "file", "path": "config.json", "size": 1, "oid": "x", "lfs": "y"}]',
        '[{"type": "file", "path": "config.json", "size": 1, "oid": "another form than git\'s"}]',
        '[{"type": "file", "path": "config.json", "size": 1, "oid": null}]',
        '[{"type": "file", "path": ["config.json"], "size": 1, "oid": "a"}]',
    ],
)  # fmt: skip
def test_what_is_no_list_of_hashes_says_nothing(hub: DownloadHub, tmp_path: Path, answer: str) -> None:
    hub.etag = ETAGS["md5"]
    hub.faults.append(Fault("POST", "paths-info", 200, body=answer.encode()))
    assert fetched(tmp_path) == hub.files[NAME]
    assert all(len(hub.begins(file)) == 1 for file in hub.files[NAME])


def test_what_gives_no_etag_is_no_hub(hub: DownloadHub, tmp_path: Path) -> None:
    hub.etag = lambda content: None
    with pytest.raises(HubError) as caught:
        fetched(tmp_path)
    assert caught.value.message.startswith(f"what answers for {NAME} does not answer as the hub does: ")


def test_two_processes_may_find_the_same_file_damaged(
    hub: DownloadHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path)
    (path,) = (tmp_path / "hub").glob(f"models--ann--model/snapshots/*/{WEIGHTS}")
    whole = path.read_bytes()
    shutil.rmtree(tmp_path / "cache" / "compared")
    has_hash = hub_hashes._has_hash

    for other in (lambda: path.resolve().unlink(), lambda: path.resolve().write_bytes(whole)):
        path.resolve().write_bytes(whole[::-1])

        def beside(file: Any, wanted: str, other: Callable[[], object] = other) -> bool:
            found = has_hash(file, wanted)
            if not found:
                other()
            return found

        monkeypatch.setattr(hub_hashes, "_has_hash", beside)
        assert fetched(tmp_path) == hub.files[NAME]
        monkeypatch.setattr(hub_hashes, "_has_hash", has_hash)
        # What the other has fetched is not fetched again.
    assert len(hub.begins(WEIGHTS)) == 2


def test_a_file_that_is_damaged_twice_is_told_and_not_kept(hub: DownloadHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET", WEIGHTS, "flip"))
    with pytest.raises(HubError) as caught:
        fetched(tmp_path)
    assert caught.value.message == f"{WEIGHTS} of {NAME} arrived damaged twice"
    assert not list(tmp_path.rglob(WEIGHTS))
    hub.faults.clear()
    assert fetched(tmp_path) == hub.files[NAME]


@pytest.mark.parametrize("mask", [1, 2], ids=["unreadable", "readable"])
def test_rows_that_arrived_damaged_are_fetched_and_read_again(hub: DownloadHub, mask: int) -> None:
    hub.faults.append(Fault("GET", "train.jsonl", "flip" if mask == 1 else "swap", times=1))
    assert [row.content for row in open_source(rows()).rows()][-1] == {"text": "row 4999"}
    assert hub.begins("train.jsonl") == [None, None]
