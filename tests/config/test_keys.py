"""Dotted keys taken apart, and the owners of a job's values."""

import pytest

from gptoss_ft.config import JobConfig, by_owner
from gptoss_ft.config.keys import Key, parse_key
from gptoss_ft.config.schema import KEYS


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lora", Key("lora", "lora", "", "")),
        ("lora.r", Key("lora", "lora", "r", "")),
        ("lora.target_modules[1]", Key("lora", "lora", "target_modules", "[1]")),
        ("dataset.path", Key("dataset", "dataset", "path", "")),
        ("dataset[12]", Key("dataset", "dataset[12]", "", "")),
        ("dataset[0].path", Key("dataset", "dataset[0]", "path", "")),
        ("dataset[0].rename_columns.a.b\nc", Key("dataset", "dataset[0]", "rename_columns", ".a.b\nc")),
    ],
)
def test_known_keys(text: str, parts: Key) -> None:
    assert parse_key(text) == parts
    assert ".".join(filter(None, (parts.owner, parts.name))) + parts.rest == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "lora.", "lorra", "lora.rank", "lora[0]", "lora[0].r", "dataset[]", "dataset[-1].path", "dataset[1",
     "dataset[0]path", "dataset[0].pth", "dataset[0][1].path", "dataset[\u0663].path", " lora.r", "lora.r ",
     "lora.r\n"],
)  # fmt: skip
def test_unknown_keys(text: str) -> None:
    assert parse_key(text) is None


def test_every_key_of_the_schema_is_known() -> None:
    for section, keys in KEYS.items():
        assert [parse_key(f"{section}.{key}") for key in keys] == [Key(section, section, key, "") for key in keys]


def test_the_owners_of_a_jobs_values() -> None:
    mapping = JobConfig().model_dump()
    assert dict(by_owner(mapping)) == mapping
    several = JobConfig.model_validate({"dataset": [{"path": "a"}, {"path": "b"}]}).model_dump()
    owners = dict(by_owner(several))
    assert list(owners) == [
        "model",
        "lora",
        "dataset[0]",
        "dataset[1]",
        "training",
        "performance",
        "evaluation",
        "tracking",
        "hub",
    ]
    assert [owners["dataset[0]"]["path"], owners["dataset[1]"]["path"]] == ["a", "b"]
