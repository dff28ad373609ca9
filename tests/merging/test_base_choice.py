"""Into which weights: what a name stands for, and at which commit."""

import json
from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig, ModelSection
from gptoss_ft.merging import base_choice
from gptoss_ft.merging.base_choice import Base, BaseChoice, choose_base
from gptoss_ft.model import repository
from gptoss_ft.model.repository import find_repository
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device

MAPPED = "unsloth/gpt-oss-20b"
IN_4BIT = "unsloth/gpt-oss-20b-unsloth-bnb-4bit"
OWN = "owner/model"
COMMIT = "a" * 40


class Hub:
    """Stands for the hub, whose answers are no matter here: which repository was fetched at which revision."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, ("", "")

    def fetch(self, section: ModelSection, repository: str, console: object) -> Path:
        self.fetched = (repository, section.revision or "newest")
        return self.folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    made.folder.mkdir()
    (made.folder / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    monkeypatch.setattr(base_choice, "_fetched", made.fetch)
    monkeypatch.setattr(repository, "_check_length", lambda config, repository: None)
    return made


def chosen(run: Path, trained_on: str, device: Device, base: Base = "trained", **model: object) -> BaseChoice:
    """The choice for an adapter of a run that has written down what it loaded, at `COMMIT`."""
    (run / "final_model").mkdir()
    config = JobConfig.model_validate({"model": model})
    manifest = {"config": config.model_dump(mode="json"), "model": {"repository": trained_on, "commit": COMMIT}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return choose_base(config.model, run / "final_model", base, device, make_console())


def test_of_a_mapped_name_the_commit_is_fetched_and_the_name_still_loads(
    hub: Hub, device: Device, tmp_path: Path
) -> None:
    found = chosen(tmp_path, IN_4BIT, device, name=MAPPED)
    assert hub.fetched == (IN_4BIT, COMMIT)
    assert find_repository(found.section) == IN_4BIT
    assert found.words == f"{IN_4BIT}, which it was trained on, dequantized from bitsandbytes"


def test_of_the_model_itself_the_commit_is_loaded_too(hub: Hub, device: Device, tmp_path: Path) -> None:
    found = chosen(tmp_path, OWN, device, name=OWN)
    assert hub.fetched == (OWN, COMMIT)
    assert found.section.revision == COMMIT


def test_another_repository_than_the_runs_is_told(hub: Hub, device: Device, tmp_path: Path) -> None:
    found = chosen(tmp_path, "old/place", device, name=OWN)
    assert hub.fetched == (OWN, "newest")
    assert found.words.startswith("owner/model, in the place of old/place, which it was trained on")


def test_a_pinned_revision_holds_for_the_original_too(hub: Hub, device: Device, tmp_path: Path) -> None:
    (hub.folder / "config.json").write_text("{}")
    chosen(tmp_path, OWN, device, "original", name=OWN, revision="v1")
    assert hub.fetched == (OWN, "v1")
