"""What of a folder is staged for the hub."""

import json
from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.publishing.upload import staged

PATH = "/home/ann/models/llama"


@pytest.mark.parametrize("name", ["final_model", "checkpoint-5"])
@pytest.mark.parametrize(
    ("base", "model", "shown"),
    [
        (PATH, PATH, "llama"),
        ("/home/ann/.cache/hub/snapshots/0123abc", "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("unsloth/gpt-oss-20b", "openai/gpt-oss-20b", "unsloth/gpt-oss-20b"),
    ],
)
def test_an_adapters_base_is_named_without_this_machines_path(
    tmp_path: Path, name: str, base: str, model: str, shown: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    own = folder / "adapter_config.json"
    own.write_text(json.dumps({"r": 8, "base_model_name_or_path": base}))
    job = JobConfig.model_validate({"model": {"name": model}, "dataset": {"path": "/home/ann/rows.jsonl"}})
    with staged(folder, job, "ann/x") as files:
        sent = {path.name: path.read_text(encoding="utf-8") for path in files.iterdir()}
    assert json.loads(sent["adapter_config.json"]) == {"r": 8, "base_model_name_or_path": shown}
    assert sorted(sent) == ["README.md", "adapter_config.json"]
    assert "/home/ann" not in "".join(sent.values())
    assert json.loads(own.read_text())["base_model_name_or_path"] == base


def test_an_adapter_config_that_is_none_goes_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[")
    job = JobConfig.model_validate({"dataset": {"path": "tiny/text"}})
    with staged(tmp_path, job, "ann/x") as files:
        assert (files / "adapter_config.json").read_text() == "["
