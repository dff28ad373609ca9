"""What the hub's client really raises, against a server of ours that answers as the hub does → one sentence each."""

import errno
import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import requests
from datasets import config as datasets_config
from datasets import load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub
from huggingface_hub.utils import hf_raise_for_status
from safetensors import SafetensorError, safe_open

from gptoss_ft.errors import DataError, ExitCode, HubError, JobError, MachineError, SettingError
from gptoss_ft.hub_errors import explained
from gptoss_ft.redaction import redacted

NAME = "owner/name"
GATED_CURE = "Accept its terms on https://huggingface.co/{}, then set HF_TOKEN to a token of that account."
PRIVATE_CURE = "Check the name; for a private repository set HF_TOKEN to a token that can read it."
WITHOUT_NETWORK = " The job configs/smoke.yaml runs without a network."
NETWORK_CURE = (
    "Check the network, the proxy (https_proxy) and HF_ENDPOINT; with all in the cache, set HF_HUB_OFFLINE=1."
    + WITHOUT_NETWORK
)
OFFLINE_CURE = f"Check the network and HF_HUB_OFFLINE, or download it once with a network.{WITHOUT_NETWORK}"


@dataclass
class Hub:
    """A server on this machine that gives every request the same answer, and the client that asks it."""

    address: str
    cache: Path
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def answers(self, status: int, code: str = "", message: str = "") -> None:
        self.status = status
        self.headers = {"X-Error-Code": code} if code else {}
        if message:
            self.headers["X-Error-Message"] = message

    def download(self) -> str:
        return HfApi(endpoint=self.address).hf_hub_download(NAME, "config.json", cache_dir=self.cache)

    def model_info(self) -> object:
        return HfApi(endpoint=self.address).model_info(NAME)

    def create(self) -> object:
        return HfApi(endpoint=self.address, token="hf_x").create_repo(NAME)

    def whoami(self) -> object:
        return HfApi(endpoint=self.address).whoami(token="hf_x")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets_config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits 23 s in all before it gives up


@pytest.fixture
def server(online: None, tmp_path: Path) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Hub(f"http://127.0.0.1:{http.server_port}", tmp_path)
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def told(call: Callable[[], object], key: str = "model.name") -> JobError:
    with pytest.raises(JobError) as caught, explained(NAME, key):
        call()
    assert caught.value.key == key
    assert caught.value.__cause__ is not None  # the library's own is kept for who wants it
    return caught.value


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def check(error: JobError, kind: type[JobError], code: ExitCode, message: str, cure: str) -> None:
    assert type(error) is kind
    assert (error.message, error.cure, error.exit_code) == (message, cure, code)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("asked", [Hub.download, Hub.model_info])
def test_a_gated_repository(server: Hub, status: int, asked: Callable[[Hub], object]) -> None:
    server.answers(status, "GatedRepo", f"Access to model {NAME} is restricted. You must be authenticated.")
    message = f"{NAME} is gated: access was not granted with the token in use"
    check(told(lambda: asked(server)), HubError, ExitCode.HUB, message, GATED_CURE.format(NAME))
    of_data = told(lambda: asked(server), "dataset.path")
    check(of_data, HubError, ExitCode.HUB, message, GATED_CURE.format(f"datasets/{NAME}"))


def test_no_such_repository(server: Hub) -> None:
    # Without a token the hub answers 401 for a repository that is not there, so as not to tell of private ones.
    # An answer without the header is taken for that only under https.
    bare = httpx.Response(401, request=httpx.Request("GET", f"https://huggingface.co/api/models/{NAME}"))
    for call in (server.download, server.model_info, lambda: hf_raise_for_status(bare)):
        for status in (401, 404):
            server.answers(status, "RepoNotFound")
            message = f"{NAME} is not on the hub, or is private"
            check(told(call), HubError, ExitCode.HUB, message, PRIVATE_CURE)


def test_no_such_revision(server: Hub) -> None:
    server.answers(404, "RevisionNotFound")
    check(
        told(server.download),
        HubError,
        ExitCode.HUB,
        f"{NAME} has no such revision",
        "Check the revision, or leave it null.",
    )


def test_no_such_file_in_the_repository(server: Hub) -> None:
    server.answers(404, "EntryNotFound")
    error = told(server.download)
    assert (type(error), error.exit_code) == (DataError, ExitCode.DATA)
    assert error.message.startswith(f"{NAME} holds none of the files that are needed: 404 Client Error.")


def test_a_token_that_the_hub_does_not_know(server: Hub) -> None:
    server.answers(401, "", "Invalid credentials in Authorization header")
    message, cure = f"the hub refused the token for {NAME} (401)", "Set HF_TOKEN to a valid token."
    for call in (server.download, server.model_info, server.whoami):
        check(told(call), HubError, ExitCode.HUB, message, cure)


def test_a_token_without_the_right_to_write(server: Hub) -> None:
    server.answers(403)
    message, cure = f"the token may not do this with {NAME} (403)", "Use a token with the rights it needs."
    check(told(server.create, "hub.repo_id"), HubError, ExitCode.HUB, message, cure)


@pytest.mark.parametrize("status", [500, 418])
def test_a_hub_that_is_out_of_order(server: Hub, status: int) -> None:
    server.answers(status)
    message, cure = f"the hub answered {status} for {NAME}", "Try again in a while."
    check(told(server.model_info), HubError, ExitCode.HUB, message, cure)
    check(told(server.download), HubError, ExitCode.HUB, message, cure)


@pytest.mark.parametrize(
    ("status", "message", "cure"),
    [
        (404, f"the hub knows no {NAME} (404)", "Check the name, as owner/name."),
        (409, f"the hub refused {NAME} (409): not so", "Change what it names; again it says the same."),
        (429, f"the hub was asked too often for {NAME} (429)", "Try again in some minutes."),
    ],
)
def test_an_answer_that_trying_again_does_not_change(server: Hub, status: int, message: str, cure: str) -> None:
    server.answers(status, "", "not so")
    check(told(server.create, "hub.repo_id"), HubError, ExitCode.HUB, message, cure)


def test_no_token_is_in_a_message(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-known-form")
    other = "hf_" + "K4" * 17
    both = f"{other} and a-token-of-no-known-form"
    assert redacted(f"x {both} y hf_short") == "x (token) and (token) y hf_short"
    server.answers(400, "", both)
    with pytest.raises(HubError) as refused, explained(NAME, "hub.repo_id"):
        server.create()
    assert refused.value.message.endswith("(400): (token) and (token)")
    # The client's own quotes the hub's words.
    assert not any(secret in traceback_of(refused.value) for secret in (other, "a-token-of-no-known-form"))
    # What is not the hub's passes through, but not with a token in it.
    with pytest.raises(HubError) as caught, explained(NAME, "hub.repo_id"):
        raise ValueError(f"Illegal header value {both!r}")
    assert caught.value.message == f"{NAME}: Illegal header value '(token) and (token)'"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("outer", [ValueError("a shape is wrong"), ConnectionError("reset")], ids=["defect", "network"])
@pytest.mark.parametrize("is_cause", [True, False], ids=["cause", "context"])
def test_no_token_is_in_a_cause(outer: Exception, is_cause: bool) -> None:
    secret = "hf_" + "K4" * 17
    inner = httpx.LocalProtocolError(f"Illegal header value 'Bearer {secret}'")

    def raises() -> None:
        try:
            raise inner
        except httpx.LocalProtocolError:
            if is_cause:
                raise outer from inner
            raise outer  # noqa: B904  # what is tested

    with pytest.raises(JobError) as caught, explained(NAME, "model.name"):
        raises()
    assert secret not in traceback_of(caught.value)
    assert type(caught.value) is HubError


def test_a_defect_keeps_its_traceback_without_the_token_in_its_cause() -> None:
    secret = "hf_" + "K4" * 17

    def raises() -> None:
        try:
            raise KeyError(f"Bearer {secret}")
        except KeyError as error:
            raise ValueError("a shape is wrong") from error

    with pytest.raises(ValueError, match="a shape is wrong") as caught, explained(NAME, "model.name"):
        raises()
    shown = traceback_of(caught.value)
    assert secret not in shown
    assert "in raises" in shown


def traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_hub_that_redirects_for_ever(server: Hub) -> None:
    server.answers(302)
    server.headers["Location"] = "/again"
    message = f"the hub cannot be reached for {NAME}"
    check(told(server.model_info), HubError, ExitCode.HUB, message, NETWORK_CURE)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_refused_connection(online: None, closed_port: int, tmp_path: Path) -> None:
    nobody = Hub(f"http://127.0.0.1:{closed_port}", tmp_path)
    message = f"the hub cannot be reached for {NAME}"
    for call in (nobody.model_info, nobody.download):
        check(told(call), HubError, ExitCode.HUB, message, NETWORK_CURE)


@pytest.mark.parametrize("address", ["nope", "http://[::1"])
def test_an_endpoint_that_is_no_address(online: None, tmp_path: Path, address: str) -> None:
    message = f"the hub cannot be reached for {NAME}"
    check(told(Hub(address, tmp_path).model_info), HubError, ExitCode.HUB, message, NETWORK_CURE)


def test_a_hub_that_does_not_answer(online: None, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = HfApi(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        message = f"the hub cannot be reached for {NAME}"
        check(told(lambda: api.model_info(NAME, timeout=0.05)), HubError, ExitCode.HUB, message, NETWORK_CURE)


def test_each_try_of_the_client_is_not_told_on_the_terminal() -> None:
    assert logging.getLogger("huggingface_hub").getEffectiveLevel() == logging.ERROR


def test_without_a_network_by_choice(tmp_path: Path) -> None:
    message = f"{NAME} is not in the local cache and the hub cannot be reached"
    calls: list[Callable[[], object]] = [
        lambda: HfApi().model_info(NAME),
        lambda: HfApi().hf_hub_download(NAME, "config.json", cache_dir=tmp_path),
        lambda: HfApi().snapshot_download(NAME, cache_dir=tmp_path),
        lambda: load_dataset(NAME, cache_dir=str(tmp_path)),
    ]
    for call in calls:
        check(told(call), HubError, ExitCode.HUB, message, OFFLINE_CURE)


@pytest.mark.parametrize("name", ["./nope", "/nope/x", "a/b/c", "a b", "-x/y"])
def test_a_name_that_is_none(name: str) -> None:
    error = told(lambda: HfApi().model_info(name))
    check(
        error,
        DataError,
        ExitCode.DATA,
        f"{NAME} is neither a file or folder here nor a name on the hub",
        "Check the path, which starts from the current folder, or the name, as owner/name.",
    )


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
