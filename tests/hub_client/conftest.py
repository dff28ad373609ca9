"""A hub that misbehaves as it is told, and the real client pointed at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import config as datasets_config
from download_hub import DownloadHub, download_hub
from hub_downloads import NAME, PIECE, ROWS
from huggingface_hub import constants


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
