"""Which trackers are on, and what a run is called."""

import pytest

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection, TrackingSection
from gptoss_ft.training.tracking import run_name, trackers


def job(**tracking: object) -> JobConfig:
    return JobConfig(tracking=TrackingSection.model_validate(tracking))


def test_wandb_switches_itself_on_with_a_key_and_off_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers(job()) == ["tensorboard"]
    assert trackers(job(report_to=["tensorboard", "wandb"])) == ["tensorboard"]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert trackers(job()) == ["tensorboard", "wandb"]
    assert trackers(job(report_to="wandb")) == ["wandb"]
    assert trackers(job(report_to="none")) == []


def test_a_run_is_named_after_model_data_and_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_USER", "ada")
    assert run_name(JobConfig()) == "gpt-oss-20b-Multilingual-Thinking-ada"
    local = JobConfig(model=ModelSection(name="/models/own"), dataset=DatasetSection(path="data/rows.jsonl"))
    assert run_name(local) == "own-rows-ada"
    assert run_name(job(run_name="tuesday")) == "tuesday"
