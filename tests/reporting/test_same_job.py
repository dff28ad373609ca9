"""What of two runs differs, and what of that may."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.config.schema import KEYS, SECTIONS
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.same_job import (
    FREE_KEYS,
    FREE_SECTIONS,
    FREE_WITHOUT_EVALUATION,
    OF_THE_ROWS,
    UNFIT_KEYS,
    Change,
    code_changes,
    config_changes,
    data_changes,
    refuse_changes,
    weights_changes,
)

NAMES = {f"{section}.{key}" for section, keys in KEYS.items() for key in keys}
CODE: dict[str, Any] = {"gptoss_ft": "0.1.0", "commit": "a" * 40, "image": None, "lock_sha256": "b" * 64}
VERSIONS = {"python": "3.11.9", "torch": "2.11.0"}
RATE = Change("training.learning_rate", "0.0002", "0.001")
RANK = Change("lora.r", "8", "16")
STEPS = Change("training.logging_steps", "1", "5", free=True)


def job(dataset: Any, **sections: Any) -> JobConfig:
    return JobConfig.model_validate({"dataset": dataset, **sections})


def differences(before: Any, now: Any) -> list[str]:
    return [str(change) for change in config_changes(before.model_dump(mode="json"), now)]


def test_equal_configs_differ_in_nothing() -> None:
    for dataset in ({"path": "a"}, [{"path": "a"}], [{"path": "a"}, {"path": "b"}]):
        assert differences(job(dataset), job(dataset)) == []


def test_a_change_is_told_with_both_values() -> None:
    before, now = job({"path": "a"}), job({"path": "b", "split": "x"}, lora={"target_modules": ["q_proj"]})
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert differences(before, now) == [
        f'lora.target_modules: {json.dumps(every)} → ["q_proj"]',
        'dataset.path: "a" → "b"',
        'dataset.split: "train" → "x"',
    ]
    assert differences(job({"path": "a"}), job({"path": "a"}, training={"max_steps": None, "num_train_epochs": 2})) == [
        "training.num_train_epochs: null → 2.0",
        "training.max_steps: 20 → null",
    ]


def test_entries_are_told_by_their_index() -> None:
    before = job([{"path": "a"}, {"path": "b"}])
    now = job([{"path": "a", "rename_columns": {"q": "instruction"}}, {"path": "c"}])
    assert differences(before, now) == [
        'dataset[0].rename_columns: {} → {q: "instruction"}',
        'dataset[1].path: "b" → "c"',
    ]


def test_an_entry_that_only_one_has_is_told_as_a_whole() -> None:
    one, two = job([{"path": "a"}]), job([{"path": "a"}, {"path": "b"}])
    assert differences(one, two) == ['dataset[1]: none → "b"']
    assert differences(two, one) == differences(two, job({"path": "a"})) == ['dataset[1]: "b" → none']


def test_one_data_set_is_the_same_as_a_list_of_it() -> None:
    alone, listed = job({"path": "a"}), job([{"path": "a"}])
    assert differences(alone, listed) == differences(listed, alone) == []
    assert differences(listed, job({"path": "b"})) == ['dataset.path: "a" → "b"']


def test_a_key_or_section_that_an_older_manifest_lacks_had_its_default() -> None:
    now = job({"path": "a"}, training={"packing": True})
    before = now.model_dump(mode="json")
    del before["dataset"]["weight"], before["hub"], before["training"]["packing"]
    before["training"]["of_another_version"] = 1
    assert [str(change) for change in config_changes(before, now)] == ["training.packing: false → true"]


def test_what_may_change_freely_is_in_the_schema() -> None:
    assert SECTIONS.keys() >= FREE_SECTIONS
    assert FREE_KEYS | UNFIT_KEYS | {FREE_WITHOUT_EVALUATION} <= NAMES
    assert set(OF_THE_ROWS) <= NAMES | SECTIONS.keys()
    before = job({"path": "a"})
    now = job({"path": "a"}, training={"logging_steps": 5, "output_dir": "x"}, tracking={"project": "x"})
    assert [change.free for change in config_changes(before.model_dump(mode="json"), now)] == [True, True, True]


@pytest.mark.parametrize(("eval_steps", "free"), [(None, True), (5, False)])
def test_how_often_is_saved_is_free_where_no_best_checkpoint_is_looked_for(eval_steps: int | None, free: bool) -> None:
    before = job({"path": "a", "eval_fraction": 0.5}, training={"eval_steps": eval_steps, "save_steps": 10})
    now = job({"path": "a", "eval_fraction": 0.5}, training={"eval_steps": eval_steps, "save_steps": 20})
    assert [change.free for change in config_changes(before.model_dump(mode="json"), now)] == [free]


def test_versions_need_permission_and_a_commit_does_not() -> None:
    manifest = {"code": CODE, "versions": VERSIONS}
    assert code_changes(manifest, CODE, VERSIONS) == []
    other = CODE | {"gptoss_ft": "0.2.0", "commit": "c" * 40 + "-dirty", "image": "sha256:1"}
    assert [(str(one), one.free) for one in code_changes(manifest, other, VERSIONS | {"torch": "2.12.0"})] == [
        ("code gptoss_ft: 0.1.0 → 0.2.0", False),
        ("code torch: 2.11.0 → 2.12.0", False),
        ("code commit: aaaaaaaaaaaa → cccccccccccc", True),
        ("code image: none → sha256:1", True),
    ]
    unknown = code_changes({}, CODE, {"torch": "2.11.0"})
    assert [str(change) for change in unknown[:2]] == ["code gptoss_ft: none → 0.1.0", "code torch: none → 2.11.0"]


def test_other_rows_and_other_weights() -> None:
    facts = {"rows": 24, "samples": 23, "sha256": "a" * 64}
    assert data_changes(None, facts) == data_changes({"data": facts}, facts) == []
    (change,) = data_changes({"data": facts}, facts | {"rows": 25, "sha256": "b" * 64})
    assert str(change) == ("data: 24 rows, 23 samples, sha256 aaaaaaaaaaaa → 25 rows, 23 samples, sha256 bbbbbbbbbbbb")
    manifest = {"model": {"commit": "a" * 40}}
    assert weights_changes(None, "b" * 40) == weights_changes(manifest, None) == []
    assert weights_changes(manifest, "a" * 40) == weights_changes({"model": {"commit": None}}, "a" * 40) == []
    assert [str(one) for one in weights_changes(manifest, "b" * 40)] == ["model.revision: aaaaaaaaaaaa → bbbbbbbbbbbb"]


def refused(changes: list[Change], *allowed: str) -> OutputError:
    with pytest.raises(OutputError) as raised:
        refuse_changes(Path("outputs/run"), changes, allowed, "2026-11-21T20:05:00+00:00", "training.output_dir")
    return raised.value


def test_what_is_not_allowed_is_refused_with_the_way_to_allow_it() -> None:
    code = Change("code torch", "2.11.0", "2.12.0")
    error = refused([RATE, STEPS, code])
    assert error.message.splitlines() == [
        "outputs/run holds a job that began 2026-11-21T20:05:00+00:00; since then this changed:",
        "  training.learning_rate: 0.0002 → 0.001",
        "  code torch: 2.11.0 → 2.12.0",
    ]
    assert "pass --allow-changed training.learning_rate --allow-changed code to go on" in error.cure
    assert error.key == "training.output_dir"
    assert "learning_rate" not in refused([RATE, code], "training").message


def test_of_a_job_that_was_named_by_its_checkpoint_another_is_to_be_named() -> None:
    with pytest.raises(OutputError) as raised:
        refuse_changes(Path("outputs/run"), [RATE], (), "2026-11-21T20:05:00+00:00", None)
    assert raised.value.key == ""
    assert raised.value.cure == (
        "Set it back, pass --allow-changed training.learning_rate to go on with what it is now, "
        "or name a checkpoint of this job with --from."
    )


@pytest.mark.parametrize("allowed", [("training.learning_rate",), ("training",), ("code", "training")])
def test_what_is_allowed_is_not_refused(allowed: tuple[str, ...]) -> None:
    refuse_changes(Path("run"), [RATE, STEPS], allowed, "", "")


def test_a_name_that_only_begins_alike_allows_nothing() -> None:
    assert refused([RATE], "training.learning").message.count("→") == 1


def test_what_a_checkpoint_does_not_fit_cannot_be_allowed() -> None:
    error = refused([RATE, RANK], "lora", "training")
    assert error.message.endswith(":\n  lora.r: 8 → 16")
    assert "--allow-changed" not in error.cure
    assert error.cure.endswith("The checkpoints' weights or optimizer state do not fit another lora.r.")


def test_with_another_data_set_go_other_rows() -> None:
    rows = Change("data", "24 rows", "25 rows")
    refused([rows])
    for key in ("dataset[1].path", "model.max_seq_length", "training.seed"):
        refuse_changes(Path("run"), [Change(key, "a", "b"), rows], [key], "", "")
    refused([RATE, rows], "training.learning_rate")


def test_a_key_with_brackets_is_quoted_for_the_shell() -> None:
    assert "pass --allow-changed 'dataset[1].path' to go on" in refused([Change("dataset[1].path", "a", "b")]).cure
