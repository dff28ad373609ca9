"""What is made from the schema equals what is on disk, and says what is true."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from gptoss_ft.config import configuration_page, default_config, json_schema, load_job_config, write_reference
from gptoss_ft.config.reference import EXAMPLE_ENTRIES, EXAMPLE_ERRORS, EXAMPLE_MISTAKES, as_yaml, value_schema
from gptoss_ft.config.schema import KEYS, JobConfig
from gptoss_ft.errors import ConfigError

ROOT = Path(__file__).parents[2]


def on_disk(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def default_of(section: str, key: str) -> Any:
    return value_schema(section, key)["default"]


def test_generated_files_are_up_to_date() -> None:
    assert on_disk("config.schema.json") == json_schema(), "run: python -m gptoss_ft schema"
    assert on_disk("docs/configuration.md") == configuration_page(), "run: python -m gptoss_ft schema"


def test_config_yaml_is_the_default_job() -> None:
    cure = "from gptoss_ft.config import default_config gives the text of config.yaml"
    assert on_disk("config.yaml") == default_config(), cure
    assert load_job_config(ROOT / "config.yaml").job == JobConfig()


def test_config_yaml_has_every_key_with_its_default_below_a_comment() -> None:
    lines = on_disk("config.yaml").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=config.schema.json"
    assert max(map(len, lines)) <= 110
    data = YAML(typ="safe", pure=True).load(on_disk("config.yaml"))
    assert {section: list(keys) for section, keys in data.items()} == KEYS
    source = load_job_config(ROOT / "config.yaml").source
    for section, keys in KEYS.items():
        for key in keys:
            assert data[section][key] == default_of(section, key)
            line = source.marks[f"{section}.{key}"].line - 1
            assert lines[line].startswith(f"  {key}:")
            comment = " ".join(takewhile(lambda text: text.startswith("  # "), reversed(lines[:line])))
            words = " ".join(text.strip(" #") for text in comment.split("  # ")[::-1]).strip()
            assert words.endswith(f"default {as_yaml(default_of(section, key))})"), words


def test_schema_defaults_are_those_of_the_models() -> None:
    job = JobConfig().model_dump()
    for section, keys in KEYS.items():
        for key in keys:
            assert default_of(section, key) == job[section][key], f"{section}.{key}"


def test_config_yaml_passes_the_json_schema() -> None:
    data = YAML(typ="safe", pure=True).load(on_disk("config.yaml"))
    Draft202012Validator(json.loads(json_schema())).validate(json.loads(json.dumps(data, default=str)))


def test_json_schema_is_stable_and_complete() -> None:
    text = json_schema()
    assert text == json_schema()
    assert text.endswith("}\n")
    schema = json.loads(text)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$ref" not in text
    assert '"title"' not in text.replace('"title": "gptoss_ft job"', "")
    dataset, entries = schema["properties"].pop("dataset")["anyOf"]
    assert (entries["type"], entries["minItems"]) == ("array", 1)
    assert (dataset["type"], entries["items"]["type"]) == (["object", "null"], "object")
    for section in [*schema["properties"].values(), dataset, entries["items"]]:
        assert section["additionalProperties"] is False
        assert section["description"]
        assert all({"description", "default"} <= set(key) for key in section["properties"].values())
    for described in (dataset, entries["items"]):
        assert described["properties"] == {key: value_schema("dataset", key) for key in KEYS["dataset"]}


def test_the_page_has_a_row_for_every_key() -> None:
    rows = [line for line in configuration_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [key for keys in KEYS.values() for key in keys]
    assert "| `r` | a whole number, 1 or more | `8` | Rank of the adapter's" in configuration_page()


def test_the_list_on_the_page_is_a_job(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(EXAMPLE_ENTRIES)
    entries = load_job_config(tmp_path / "config.yaml").job.datasets
    assert [(entry.format, entry.weight, entry.eval) for entry in entries] == [
        ("sharegpt", 3.0, False),
        ("alpaca", 1.0, False),
        ("sharegpt", None, True),
    ]
    assert EXAMPLE_ENTRIES in configuration_page()


def test_the_errors_on_the_page_are_the_errors_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(EXAMPLE_MISTAKES)
    with pytest.raises(ConfigError) as caught:
        load_job_config(Path("config.yaml"))
    assert str(caught.value) + "\n" == EXAMPLE_ERRORS


def test_write_reference_writes_both_files(tmp_path: Path) -> None:
    paths = write_reference(tmp_path)
    assert paths == [tmp_path / "config.schema.json", tmp_path / "docs" / "configuration.md"]
    assert [path.read_text(encoding="utf-8") for path in paths] == [json_schema(), configuration_page()]
