"""What the hub answers, and a hub that cannot be reached."""

import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from answering_hub import GATED_CURE, NAME, NETWORK_CURE, OFFLINE_CURE, PRIVATE_CURE, Hub, check, told
from datasets import load_dataset
from huggingface_hub import HfApi
from huggingface_hub.utils import hf_raise_for_status

from gptoss_ft.errors import DataError, ExitCode, HubError


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
