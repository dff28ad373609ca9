"""What data sets, weights and disks raise, and what is no error of a download."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from answering_hub import GATED_CURE, NAME, PRIVATE_CURE, Hub, check, raising, told
from datasets import config as datasets_config
from datasets import load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from huggingface_hub import constants
from huggingface_hub import errors as hub
from safetensors import SafetensorError, safe_open

from gptoss_ft.errors import DataError, ExitCode, HubError, JobError, MachineError, SettingError
from gptoss_ft.hub_errors import explained


def test_datasets_words_for_what_the_hub_said(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_config, "HF_ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    gated = f"{NAME} is gated: access was not granted with the token in use"
    cases = {
        (401, "GatedRepo"): (gated, GATED_CURE.format(f"datasets/{NAME}")),
        (404, "RepoNotFound"): (f"{NAME} is not on the hub, or is private", PRIVATE_CURE),
        (404, "RevisionNotFound"): (f"{NAME} has no such revision", "Check the revision, or leave it null."),
    }
    for (status, code), (message, cure) in cases.items():
        server.answers(status, code)
        error = told(lambda: load_dataset(NAME, revision="abc", cache_dir=str(tmp_path)), "dataset.path")
        check(error, HubError, ExitCode.HUB, message, cure)
        assert isinstance(error.__cause__, DatasetNotFoundError)


def local_data(folder: Path, **settings: Any) -> Callable[[], object]:
    return lambda: load_dataset(str(folder), cache_dir=str(folder / "cache"), **settings)


def test_the_wrong_subset_or_split(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    wrong_subset = told(local_data(tmp_path, name="nope"), "dataset.path")
    assert wrong_subset.message == f"{NAME}: BuilderConfig 'nope' not found. Available: ['default']"
    wrong_split = told(local_data(tmp_path, split="test"), "dataset.path")
    assert wrong_split.message == f"{NAME}: Unknown split \"test\". Should be one of ['train']."
    for error in (wrong_subset, wrong_split):
        assert (type(error), error.exit_code) == (DataError, ExitCode.DATA)
        assert error.cure == "Check dataset.name and dataset.split."


def test_broken_and_missing_data_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    error = told(local_data(empty), "dataset.path")
    assert type(error) is DataError
    assert error.message.startswith(f"{NAME} holds none of the files that are needed: ")
    for name, content in (("train.parquet", b"garbage" * 20), ("train.jsonl", b'{"text": 1}\n{"text"\n')):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        error = told(local_data(folder), "dataset.path")
        assert (type(error), error.exit_code) == (DataError, ExitCode.DATA)
        assert error.message.startswith(f"{NAME} cannot be read: ")
        assert error.cure == "Its files are broken or differ in their columns."


def test_a_broken_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"garbage" * 20)
    error = told(lambda: safe_open(path, "np").__enter__())
    message = f"{NAME} holds a broken weights file: Error while deserializing header: header too large"
    check(error, DataError, ExitCode.DATA, message, "Download or copy it again.")
    assert isinstance(error.__cause__, SafetensorError)


def test_a_full_disk() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        error = told(raising(OSError(number, "No space left on device", "/cache/blob")))
        assert (type(error), error.exit_code) == (MachineError, ExitCode.MACHINE)
        assert error.message == f"the disk is full: {NAME} cannot be stored (/cache/blob)"
        assert error.cure == "Make room, or set HF_HOME to a folder on a larger disk."


REQUEST = httpx.Request("GET", "https://huggingface.co")
BUILT = [  # what a server on this machine cannot be made to do
    (httpx.ProxyError("503", request=REQUEST), HubError),
    (httpx.RemoteProtocolError("peer closed", request=REQUEST), HubError),
    (httpx.ReadTimeout("timed out", request=REQUEST), HubError),
    (hub.XetDownloadError("stopped"), HubError),
    (requests.ConnectionError("refused"), HubError),
    (requests.Timeout("timed out"), HubError),
    (ConnectionResetError(errno.ECONNRESET, "reset"), HubError),
    (TimeoutError("timed out"), HubError),
    (DataFilesNotFoundError("No (supported) data files found"), DataError),
    (EmptyDatasetError("The directory doesn't contain any data files"), DataError),
]


@pytest.mark.parametrize(("error", "kind"), BUILT, ids=lambda case: type(case).__name__)
def test_what_else_can_break_a_download(error: Exception, kind: type[JobError]) -> None:
    assert type(told(raising(error))) is kind


def test_the_cause_is_told_and_not_what_is_wrapped_around_it(server: Hub) -> None:
    def wrapped() -> None:
        try:
            server.model_info()
        except hub.HfHubHTTPError as error:
            raise OSError(f"Can't load the configuration of '{NAME}'") from error

    server.answers(401, "GatedRepo")
    assert told(wrapped).message == f"{NAME} is gated: access was not granted with the token in use"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a shape is wrong"),
        KeyError("BuilderConfig"),
        TypeError("x"),
        OSError(errno.EACCES, "Permission denied"),
        FileNotFoundError("x"),
        RuntimeError("CUDA error"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_about_the_hub_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explained(NAME, "model.name"):
        raise error
    assert caught.value is error
    assert error.__cause__ is None


def test_an_error_of_the_job_passes_through() -> None:
    error = SettingError("x", key="lora.r")
    with pytest.raises(SettingError) as caught, explained(NAME, "model.name"):
        raise error
    assert caught.value is error


def test_an_exception_that_hides_another_is_not_taken_for_it() -> None:
    def hides() -> None:
        try:
            raise ConnectionError("the hub")
        except ConnectionError:
            raise ValueError("a shape is wrong") from None

    with pytest.raises(ValueError, match="a shape is wrong"), explained(NAME, "model.name"):
        hides()
