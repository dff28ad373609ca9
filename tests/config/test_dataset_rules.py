"""Which entries of a dataset fit each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.config.dataset_rules import entry_faults


def faults(*entries: dict[str, Any]) -> list[str]:
    """The keys at fault in a list of entries."""
    return [key for key, _ in entry_faults([DatasetSection.model_validate(entry) for entry in entries])]


@pytest.mark.parametrize(
    "entries",
    [
        [{}],
        [{}, {}],
        [{}, {"eval": True}],
        [{"eval_fraction": 0.1}, {}],
        [{"weight": 1.0}, {"weight": 2.0}],
        [{"weight": 1.0}, {"weight": 2.0}, {"eval": True}],
        [{"weight": 1.0}, {"eval": True}],
    ],
)
def test_entries_that_fit(entries: list[dict[str, Any]]) -> None:
    assert faults(*entries) == []
    assert len(JobConfig.model_validate({"dataset": entries}).datasets) == len(entries)


@pytest.mark.parametrize(
    ("entries", "keys"),
    [
        ([{"eval": True}], ["dataset[0].eval"]),
        ([{"eval": True}, {"eval": True}], ["dataset[0].eval"]),
        ([{"weight": 2.0}], ["dataset[0].weight"]),
        ([{}, {"weight": 2.0}, {}], ["dataset[0].weight"]),
        ([{"weight": 1.0}, {"eval": True}, {}, {}], ["dataset[2].weight"]),
        ([{"weight": 1.0}, {"weight": 1.0}, {"weight": 1.0, "eval": True}], ["dataset[2].weight"]),
        ([{}, {"prepared": "a"}], ["dataset[1].prepared"]),
        ([{"prepared": "a"}], ["dataset[0].prepared"]),
        ([{"prepared": "a", "eval": True}], ["dataset[0].prepared", "dataset[0].eval"]),
    ],
)
def test_entries_that_do_not_fit(entries: list[dict[str, Any]], keys: list[str]) -> None:
    assert faults(*entries) == keys
    with pytest.raises(ValidationError):
        JobConfig.model_validate({"dataset": entries})


def test_a_mapping_is_named_without_an_index() -> None:
    wrong = DatasetSection(eval=True, weight=2.0)
    assert [key for key, _ in entry_faults(wrong)] == ["dataset.eval", "dataset.weight"]
    assert entry_faults(DatasetSection(prepared="a", path="b", eval_fraction=0.5)) == []


@given(st.lists(st.tuples(st.sampled_from([None, 0.5, 2.0]), st.booleans()), min_size=2, max_size=5))
def test_weights_fit_when_every_entry_to_train_on_has_one_or_none_has(drawn: list[tuple[float | None, bool]]) -> None:
    trained = {weight is not None for weight, is_eval in drawn if not is_eval}
    evaluated = {weight is not None for weight, is_eval in drawn if is_eval}
    fits = len(trained) == 1 and True not in evaluated
    assert (faults(*({"weight": weight, "eval": is_eval} for weight, is_eval in drawn)) == []) == fits
