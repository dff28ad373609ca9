"""A hub that is out of order for a while, by the real client: how long is waited, and what is told meanwhile."""

import logging
from pathlib import Path

import pytest
from download_hub import DownloadHub
from hub_downloads import NAME, WEIGHTS, fetched
from local_hub import Fault

from gptoss_ft import hub_client
from gptoss_ft.reporting.console import make_console, quiet_libraries


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
