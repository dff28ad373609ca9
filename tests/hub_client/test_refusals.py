"""What the hub refuses and what is refused of the hub, each in one sentence with its exit code."""

from collections.abc import Callable
from pathlib import Path

import pytest
from download_hub import DownloadHub
from hub_downloads import MODEL, NAME, WEIGHTS, fetched, rows
from local_hub import Fault
from rich.console import Console

from gptoss_ft.data.sources import open_source
from gptoss_ft.errors import DataError, ExitCode, JobError
from gptoss_ft.model.loading import fetch
from gptoss_ft.model.repository import bytes_to_fetch, find_repository


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
