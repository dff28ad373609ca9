"""The entries of `dataset` opened, and errors that name the entry that they are about."""

from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.data.conversation import Conversation, RowError, Text
from gptoss_ft.data.entries import keyed, open_entries
from gptoss_ft.errors import ConfigError, DataError, JobError, SettingError

CHAT = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "n": 1}\n'


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text(CHAT, encoding="utf-8")
    return str(path)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.csv"
    path.write_text("text\na\n", encoding="utf-8")
    return str(path)


def job_of(*entries: dict[str, Any]) -> JobConfig:
    return JobConfig(dataset=[DatasetSection(**entry) for entry in entries])


def refusal(job: JobConfig) -> JobError:
    with pytest.raises(JobError) as caught:
        open_entries(job)
    return caught.value


def test_one_data_set_is_one_entry(chat: str) -> None:
    config = DatasetSection(path=chat)
    (entry,) = open_entries(JobConfig(dataset=config))
    assert (entry.index, entry.key, entry.config) == (0, "dataset", config)
    assert entry.source.columns == ("messages", "n")
    (row,) = entry.source.rows()
    assert not isinstance(row.content, RowError)
    assert isinstance(entry.adapter.adapt(row.content), Conversation)


def test_every_entry_of_a_list_has_its_own_format(chat: str, text: str) -> None:
    entries = open_entries(job_of({"path": chat}, {"path": text, "format": "custom"}, {"path": chat, "eval": True}))
    assert [(entry.index, entry.key) for entry in entries] == [(0, "dataset[0]"), (1, "dataset[1]"), (2, "dataset[2]")]
    assert [entry.source.description for entry in entries] == [chat, text, chat]
    assert entries[1].adapter.adapt({"text": "a"}) == Text("a")
    assert [entry.key for entry in open_entries(job_of({"path": chat}))] == ["dataset[0]"]


def test_prepared_data_has_no_entries(tmp_path: Path) -> None:
    config = DatasetSection(path="/nowhere.jsonl", prepared=str(tmp_path))
    assert open_entries(JobConfig(dataset=config)) == ()


MISTAKES: list[tuple[dict[str, Any], str, type[JobError]]] = [
    ({"path": "/nowhere.jsonl"}, "path", DataError),
    ({"split": "test"}, "split", DataError),
    ({"revision": "main"}, "revision", SettingError),
    ({"name": "small"}, "name", SettingError),
    ({"rename_columns": {"a": "b"}}, "rename_columns", SettingError),
    ({"messages_column": "chat"}, "messages_column", DataError),
    ({"format": "alpaca"}, "format", DataError),
    ({"format": "custom"}, "text_column", DataError),
    ({"reasoning_effort": "lo"}, "reasoning_effort", SettingError),
]


@pytest.mark.parametrize(("mistake", "key", "kind"), MISTAKES, ids=lambda case: str(case)[:30])
def test_a_mistake_has_the_key_of_its_entry(chat: str, mistake: dict[str, Any], key: str, kind: type[JobError]) -> None:
    wrong = {"path": chat, **mistake}
    in_a_list, alone = refusal(job_of({"path": chat}, wrong)), refusal(JobConfig(dataset=DatasetSection(**wrong)))
    assert type(in_a_list) is type(alone) is kind
    assert (in_a_list.key, alone.key) == (f"dataset[1].{key}", f"dataset.{key}")
    assert in_a_list.message == alone.message


@pytest.mark.parametrize(
    ("key", "expected"),
    [("dataset.path", "dataset[3].path"), ("model.name", "model.name"), ("", ""), ("dataset", "dataset")],
)
def test_only_the_keys_of_a_data_set_are_changed(key: str, expected: str) -> None:
    with pytest.raises(DataError) as caught, keyed("dataset[3]"):
        raise DataError("wrong", key=key)
    assert caught.value.key == expected


def test_other_errors_pass(chat: str) -> None:
    with pytest.raises(KeyError), keyed("dataset[3]"):
        raise KeyError("dataset.path")
    with pytest.raises(ConfigError), keyed("dataset[3]"):
        raise ConfigError([])
