"""Jobs with marked tokens in their environment, ended in every way: no file, output or command line shows a token."""

import importlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_hub import DownloadHub, download_hub
from local_hub import Fault

from gptoss_ft.errors import ExitCode

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
marked_tokens = importlib.import_module("marked_tokens")
job_endings = importlib.import_module("job_endings")
TOKENS: dict[str, str] = marked_tokens.TOKENS
Place = job_endings.Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever is done in it, nothing shows a token afterwards."""
    made = Place(tmp_path)
    with marked_tokens.Watch() as watch:
        yield made
    assert watch.seen
    assert watch.found == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert made.said in files
    search = marked_tokens.Search()
    for path in files:
        search.look_into(path, str(path))
    assert search.found == []


@pytest.fixture
def hub() -> Iterator[DownloadHub]:
    with download_hub() as served:
        yield served


def test_a_job_that_is_killed(place: Place) -> None:
    assert job_endings.is_killed(place) == -signal.SIGKILL, place.said.read_text()
    run = place.outputs / "run"
    assert list(run.glob("checkpoint-*")) and list(run.rglob("*.wandb")) and (run / "libraries.log").is_file()


def test_a_disk_that_is_full(place: Place) -> None:
    assert job_endings.disk_is_full(place) == ExitCode.MACHINE, place.said.read_text()
    assert (place.folder / "kept" / "run" / "libraries.log").is_file()


def test_a_hub_that_refuses_the_token_and_says_it(place: Place, hub: DownloadHub) -> None:
    words = {"X-Error-Message": f"no such token: {TOKENS['HF_TOKEN']}"}
    hub.faults = [Fault(method, ".", 401, headers=words) for method in ("GET", "HEAD", "POST")]
    code = place.run("--set", "dataset.path=ann/rows", HF_ENDPOINT=hub.address)
    assert code == ExitCode.HUB, place.said.read_text()
    assert {request.token for request in hub.requests} == {TOKENS["HF_TOKEN"]}


def test_without_a_network(place: Place) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert place.run("push", "--model", "ann/model", HF_ENDPOINT=address) == ExitCode.HUB


def test_a_token_in_the_config_is_refused_and_not_told(place: Place) -> None:
    job = place.config.read_text()
    secrets = [
        f"project: {TOKENS['WANDB_API_KEY']}",
        f"run_name: a-{TOKENS['SERVICE_API_KEY']}",
        "run_name: " + "hf_" + "aBcDeFgH" * 4 + "iJ",
    ]
    for secret in secrets:
        place.config.write_text(job.replace("report_to: [tensorboard, wandb]", secret))
        assert place.run() == ExitCode.CONFIG
    place.config.unlink()
    said = place.said.read_text()
    assert said.count("holds what looks like an access token") == len(secrets)
    assert "set HF_TOKEN or WANDB_API_KEY in the environment" in said


def test_a_defect_whose_exception_holds_a_token(place: Place) -> None:
    """Of a library that is broken: what Python shows of it is shown, but for the token."""
    assert job_endings.code_is_broken(place) == ExitCode.DEFECT
    said = place.said.read_text()
    assert "Traceback (most recent call last):" in said
    assert said.splitlines()[-1] == "RuntimeError: sent (token)"
