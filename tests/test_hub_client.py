"""The real client against a hub on this machine that misbehaves: downloads go on, and end whole or in one sentence."""

import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import config as datasets_config
from download_hub import DownloadHub, download_hub
from huggingface_hub import constants
from local_hub import Fault
from rich.console import Console

from gptoss_ft import hub_client, hub_hashes
from gptoss_ft.config import DatasetSection, ModelSection
from gptoss_ft.data.sources import open_source
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, ExitCode, HubError, JobError
from gptoss_ft.model.loading import fetch
from gptoss_ft.model.repository import bytes_to_fetch, find_repository
from gptoss_ft.reporting.console import make_console, quiet_libraries

NAME = "ann/model"
MODEL = ModelSection(name=NAME, load_in_4bit=False, max_seq_length=64)
WEIGHTS = "model.safetensors"
PIECE = 1024
ROWS = b"".join(json.dumps({"text": f"row {number}"}).encode() + b"\n" for number in range(5000))

FULL_DISK = """
from gptoss_ft.config import ModelSection
from gptoss_ft.errors import JobError
from gptoss_ft.model.loading import fetch
from rich.console import Console

try:
    fetch(ModelSection(name="{name}"), "{name}", Console(quiet=True))
except JobError as error:
    print(int(error.exit_code), error.message.partition(" (")[0])
"""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited, in place of waiting."""
    asked: list[float] = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked


@pytest.fixture
def hub(tmp_path: Path, waits: list[float], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadHub]:
    with download_hub() as hub:
        hub.files[NAME] = {path.name: path.read_bytes() for path in tiny_llama.iterdir()}
        hub.files["datasets/ann/rows"] = {"train.jsonl": ROWS}
        for place in (constants, datasets_config):
            monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(datasets_config, "HF_ENDPOINT", hub.address)
        monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        # Only whole pieces are kept of a file whose connection ends.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
        monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
        yield hub


def fetched(tmp_path: Path) -> dict[str, bytes]:
    fetch(MODEL, NAME, Console(quiet=True))
    (folder,) = (tmp_path / "hub" / "models--ann--model" / "snapshots").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_hub_that_is_well(hub: DownloadHub, tmp_path: Path, waits: list[float]) -> None:
    assert bytes_to_fetch(MODEL, NAME) == sum(map(len, hub.files[NAME].values()))
    assert fetched(tmp_path) == hub.files[NAME]
    assert bytes_to_fetch(MODEL, NAME) == 0
    assert find_repository(MODEL) == NAME
    assert load_tokenizer(NAME, None, None)("x").input_ids
    assert [row.content for row in open_source(rows()).rows()][-1] == {"text": "row 4999"}
    assert waits == []


def rows() -> DatasetSection:
    return DatasetSection(path="ann/rows")


@pytest.mark.parametrize("answer", ["reset", "short"])
def test_a_connection_that_ends_in_mid_file_goes_on_from_there(hub: DownloadHub, tmp_path: Path, answer: str) -> None:
    hub.faults.append(Fault("GET", WEIGHTS, answer, times=2))
    assert fetched(tmp_path) == hub.files[NAME]
    size = len(hub.files[NAME][WEIGHTS])
    first = size // 2 // PIECE * PIECE
    begins = hub.begins(WEIGHTS)
    if answer == "short":
        assert begins == [None, first, first + (size - first) // 2 // PIECE * PIECE]
    else:
        # A reset takes along what had arrived and was not read yet, which is all of it where the machine is busy.
        assert begins[0] is None and len(begins) == 3
        assert 0 <= (begins[1] or 0) <= first and (begins[1] or 0) <= (begins[2] or 0) < size


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("pattern", ["api/models", "resolve/.*/config.json", WEIGHTS])
def test_a_hub_that_is_out_of_order_for_a_while(
    hub: DownloadHub, tmp_path: Path, waits: list[float], status: int, pattern: str
) -> None:
    hub.faults.append(Fault("GET", pattern, status, times=2))
    assert fetched(tmp_path) == hub.files[NAME]
    assert waits == [2, 4]


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"Retry-After": "7"}, 7), ({"RateLimit": '"api";r=0;t=55'}, 56)],
    ids=["retry-after", "ratelimit"],
)
def test_a_hub_that_was_asked_too_often_says_when_to_come_back(
    hub: DownloadHub, tmp_path: Path, waits: list[float], headers: dict[str, str], wait: float
) -> None:
    hub.faults.append(Fault("GET", "api/models/ann/model/revision", 429, times=2, headers=headers))
    assert fetched(tmp_path) == hub.files[NAME]
    assert waits == [wait, wait]


def test_what_has_arrived_is_not_fetched_again(hub: DownloadHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET", WEIGHTS, 503))
    with pytest.raises(HubError) as caught:
        fetched(tmp_path)
    assert caught.value.message == f"the hub answered 503 for {NAME}"
    before = len(hub.begins("tokenizer.json"))
    hub.faults.clear()
    assert fetched(tmp_path) == hub.files[NAME]
    assert (before, len(hub.begins("tokenizer.json"))) == (1, 1)


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


def test_a_long_wait_is_told_on_the_screen(
    hub: DownloadHub, tmp_path: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    make_console()
    hub.faults.append(Fault("GET", "api/models/ann/model/revision", 503, times=3))
    with quiet_libraries(tmp_path / "libraries.log"):
        assert fetched(tmp_path) == hub.files[NAME]
    assert waits == [2, 4, 8]
    told = "the hub answered 503 to /api/models/ann/model/revision/main; trying again in"
    assert capsys.readouterr().out == f"{told} 8 s\n"
    log = (tmp_path / "libraries.log").read_text()
    assert [f"{told} {seconds} s" in log for seconds in (2, 4, 8)] == [True] * 3


def test_a_wait_of_the_hubs_own_client_is_told_in_the_same_words(
    hub: DownloadHub, tmp_path: Path, waits: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    make_console()
    hub.faults.append(Fault("HEAD", WEIGHTS, 429, times=2, headers={"RateLimit": '"resolvers";r=0;t=55'}))
    assert fetched(tmp_path) == hub.files[NAME]
    assert waits == [56]
    path = f"/{NAME}/resolve/{'c' * 40}/{WEIGHTS}"
    # As lines of their own, and nothing of the client's beside it.
    told, others = capfd.readouterr()
    assert told == f"the hub answered 429 to {path}; trying again in 56 s\n"
    assert "Rate limited" not in others


def test_a_hub_that_does_not_answer_is_named_by_what_was_asked(
    capfd: pytest.CaptureFixture[str], waits: list[float]
) -> None:
    make_console()
    assert hub_client.patiently(lambda: "an answer") == "an answer"
    client = logging.getLogger("huggingface_hub.utils._http")
    for name in ("config.json", "tokenizer.json"):
        client.warning(
            f"'[Errno 111] refused\n(Request ID: 1)' thrown while requesting HEAD https://hub/ann/model/{name}"
        )
        client.warning("Retrying in 8s [Retry 4/5].")
    assert capfd.readouterr().out == "".join(
        f"the hub did not answer to /ann/model/{name}; trying again in 8 s\n"
        for name in ("config.json", "tokenizer.json")
    )


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


def test_a_full_cache_disk(hub: DownloadHub, tmp_path: Path) -> None:
    """Of a file system that is really full; in a mount namespace of its own, so that no root is needed."""
    code = FULL_DISK.format(endpoint=hub.address, name=NAME)
    cache = tmp_path / "small"
    cache.mkdir()
    script = f'mount -t tmpfs -o size=300k none "{cache}" && exec "$@"'
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.stdout.splitlines()[-1:] == [f"4 the disk is full: {NAME} cannot be stored"], ended.stderr


def test_a_wrong_token_and_a_gated_model(hub: DownloadHub, tmp_path: Path, waits: list[float]) -> None:
    for status, code, words in (
        (401, "", f"the hub refused the token for {NAME} (401)"),
        (403, "GatedRepo", f"{NAME} is gated: access was not granted with the token in use"),
        (404, "RepoNotFound", f"{NAME} is not on the hub, or is private"),
    ):
        hub.faults[:] = [Fault(method, NAME, status, headers={"X-Error-Code": code}) for method in ("GET", "HEAD")]
        asks: list[Callable[[], object]] = [
            lambda: fetched(tmp_path), lambda: bytes_to_fetch(MODEL, NAME), lambda: find_repository(MODEL)
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(JobError) as caught:
                ask()
            assert (caught.value.exit_code, caught.value.message) == (ExitCode.HUB, words)
    assert waits == []


def test_offline_with_a_full_cache_asks_nobody_and_waits_for_nothing(
    hub: DownloadHub, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path)
    open_source(rows())
    load_tokenizer(NAME, None, None)
    hub.requests.clear()
    for place in (constants, datasets_config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", True)
    assert fetched(tmp_path) == hub.files[NAME]
    assert bytes_to_fetch(MODEL, NAME) == 0
    assert find_repository(MODEL) == NAME
    assert load_tokenizer(NAME, None, None)("x").input_ids
    assert next(iter(open_source(rows()).rows())).content == {"text": "row 0"}
    assert (hub.requests, waits) == ([], [])


def test_without_a_network_a_full_cache_is_enough(
    hub: DownloadHub, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path)
    load_tokenizer(NAME, None, None)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert fetched(tmp_path) == hub.files[NAME]
        assert find_repository(MODEL) == NAME
        assert load_tokenizer(NAME, None, None)("x").input_ids
    assert waits == []


@pytest.mark.parametrize("names", [["pytorch_model.bin"], []], ids=["pickle", "none"])
def test_weights_that_are_not_safetensors_are_refused(hub: DownloadHub, tmp_path: Path, names: list[str]) -> None:
    del hub.files[NAME][WEIGHTS]
    hub.files[NAME] |= dict.fromkeys(names, b"cos\nsystem\n(S'touch pickled'\ntR.")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in hub.files[NAME].items():
        (folder / name).write_bytes(content)
    for place, ask in (
        (NAME, lambda: fetched(tmp_path)),
        (NAME, lambda: bytes_to_fetch(MODEL, NAME)),
        (str(folder), lambda: fetch(MODEL, str(folder), Console(quiet=True))),
    ):
        with pytest.raises(DataError) as caught:
            ask()
        assert caught.value.message.startswith(f"{place} has no weights as safetensors; pickles")
    assert not hub.begins("pytorch_model.bin")


def test_a_data_set_that_is_a_script_is_refused(hub: DownloadHub, tmp_path: Path) -> None:
    hub.files["datasets/ann/rows"] = {"rows.py": f"open({str(tmp_path / 'ran')!r}, 'w')".encode()}
    with pytest.raises(DataError) as caught:
        open_source(rows())
    assert caught.value.message == "ann/rows is a script, which is not run"
    assert not (tmp_path / "ran").exists()
