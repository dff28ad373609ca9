"""Downloads from a hub on this machine by the real client: they go on where they ended, and end whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import config as datasets_config
from download_hub import DownloadHub
from hub_downloads import MODEL, NAME, PIECE, WEIGHTS, fetched, rows
from huggingface_hub import constants
from local_hub import Fault

from gptoss_ft.data.sources import open_source
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import HubError
from gptoss_ft.model.repository import bytes_to_fetch, find_repository

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


def test_a_hub_that_is_well(hub: DownloadHub, tmp_path: Path, waits: list[float]) -> None:
    assert bytes_to_fetch(MODEL, NAME) == sum(map(len, hub.files[NAME].values()))
    assert fetched(tmp_path) == hub.files[NAME]
    assert bytes_to_fetch(MODEL, NAME) == 0
    assert find_repository(MODEL) == NAME
    assert load_tokenizer(NAME, None, None)("x").input_ids
    assert [row.content for row in open_source(rows()).rows()][-1] == {"text": "row 4999"}
    assert waits == []


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


def test_what_has_arrived_is_not_fetched_again(hub: DownloadHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET", WEIGHTS, 503))
    with pytest.raises(HubError) as caught:
        fetched(tmp_path)
    assert caught.value.message == f"the hub answered 503 for {NAME}"
    before = len(hub.begins("tokenizer.json"))
    hub.faults.clear()
    assert fetched(tmp_path) == hub.files[NAME]
    assert (before, len(hub.begins("tokenizer.json"))) == (1, 1)


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
