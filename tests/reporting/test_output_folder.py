"""Which keys of two configs differ."""

from typing import Any

from gptoss_ft.config import JobConfig
from gptoss_ft.reporting.output_folder import changed_keys


def config(dataset: Any, **sections: Any) -> dict[str, Any]:
    return JobConfig.model_validate({"dataset": dataset, **sections}).model_dump(mode="json")


def test_equal_configs_differ_in_nothing() -> None:
    for dataset in ({"path": "a"}, [{"path": "a"}], [{"path": "a"}, {"path": "b"}]):
        assert changed_keys(config(dataset), config(dataset)) == []


def test_changed_values_are_named_by_their_keys() -> None:
    before, now = config({"path": "a"}), config({"path": "b", "split": "x"}, lora={"target_modules": ["q_proj"]})
    assert changed_keys(before, now) == ["dataset.path", "dataset.split", "lora.target_modules"]


def test_changed_values_of_entries_are_named_with_their_index() -> None:
    before = config([{"path": "a"}, {"path": "b"}])
    now = config([{"path": "a", "rename_columns": {"q": "instruction"}}, {"path": "c"}])
    assert changed_keys(before, now) == ["dataset[0].rename_columns", "dataset[1].path"]


def test_an_entry_that_only_one_has_is_named_as_a_whole() -> None:
    one, two = config([{"path": "a"}]), config([{"path": "a"}, {"path": "b"}])
    assert changed_keys(one, two) == changed_keys(two, one) == ["dataset[1]"]
    assert changed_keys(config({"path": "a"}), one) == ["dataset", "dataset[0]"]


def test_a_key_that_an_older_config_lacks_is_changed() -> None:
    before, now = config({"path": "a"}), config({"path": "a"})
    del before["dataset"]["weight"]
    assert changed_keys(before, now) == ["dataset.weight"]
    del before["hub"]
    assert changed_keys(before, now) == ["dataset.weight", "hub"]
