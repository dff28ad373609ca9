"""A hub whose every answer is the same, and what is told of what its client raises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from gptoss_ft.errors import ExitCode, JobError
from gptoss_ft.hub_errors import explained

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
