"""A manifest that is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.reporting.manifest import read_manifest


@pytest.mark.parametrize("dataset", [{"path": "a"}, [{"path": "a"}, {"path": "b"}]], ids=["one data set", "a list"])
def test_a_job_of_one_data_set_or_of_several(tmp_path: Path, dataset: Any) -> None:
    content = {"status": "finished", "config": JobConfig.model_validate({"dataset": dataset}).model_dump(mode="json")}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path) == content


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": []}', '{"config": {"lora": 1}}', '{"config": {"dataset": [1]}}']
)
def test_what_is_no_manifest(tmp_path: Path, content: str) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(content)
    assert read_manifest(tmp_path) is None
