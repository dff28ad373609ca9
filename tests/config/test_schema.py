"""The types and rules of single sections, and that config.schema.json judges as they do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from gptoss_ft.config import JobConfig, json_schema
from gptoss_ft.config.schema import KEYS, SECTIONS
from gptoss_ft.config.sections import TrainingSection
from gptoss_ft.config.values import SCHEDULER_KWARGS, Optimizer, Scheduler

ROOT = Path(__file__).parents[2]


def section(name: str, **values: Any) -> Any:
    return getattr(JobConfig.model_validate({name: values}), name)


def test_steps_default_only_without_epochs() -> None:
    assert section("training").max_steps == 20
    assert section("training", num_train_epochs=None).max_steps == 20
    for epochs in ({}, {"num_train_epochs": None}):
        with pytest.raises(ValidationError, match="nothing ends the run"):
            section("training", max_steps=None, **epochs)
    assert section("training", max_steps=7).max_steps == 7
    by_epochs = section("training", num_train_epochs=2)
    assert (by_epochs.max_steps, by_epochs.num_train_epochs) == (None, 2.0)


def test_a_resolved_job_validates_to_itself() -> None:
    jobs: list[dict[str, Any]] = [
        {},
        {"training": {"num_train_epochs": 0.5}},
        {"training": {"max_steps": 3, "warmup_steps": 0.25}},
        {"dataset": [{"path": "a", "rename_columns": {"question": "instruction"}}, {"path": "b", "eval": True}]},
    ]
    for values in jobs:
        job = JobConfig.model_validate(values)
        assert JobConfig.model_validate_json(job.model_dump_json()) == job
        assert JobConfig.model_validate(job.model_dump()) == job
        assert JobConfig.model_validate(job.model_dump(mode="json")) == job


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        JobConfig().lora.r = 4


@pytest.mark.parametrize(
    ("given", "kept"),
    [("none", []), ("wandb", ["wandb"]), ([], []), (["tensorboard", "wandb"], ["tensorboard", "wandb"])],
)
def test_report_to_takes_a_list_a_name_or_none(given: Any, kept: list[str]) -> None:
    assert section("tracking", report_to=given).report_to == kept


def test_whole_number_for_a_number_is_taken_but_not_the_reverse() -> None:
    assert section("training", learning_rate=1).learning_rate == 1.0
    assert section("training", warmup_steps=0.1).warmup_steps == 0.1
    assert type(section("training", warmup_steps=3).warmup_steps) is int
    for wrong in (20.0, "20", True, [20]):
        with pytest.raises(ValidationError):
            section("training", max_steps=wrong)


@pytest.mark.parametrize(
    ("scheduler", "kwargs"),
    [
        ("linear", {}),
        ("cosine", {"num_cycles": 0.5}),
        ("polynomial", {"lr_end": 1e-6, "power": 2}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "1-sqrt"}),
    ],
)
def test_scheduler_kwargs_that_fit(scheduler: str, kwargs: dict[str, Any]) -> None:
    training = section("training", lr_scheduler_type=scheduler, lr_scheduler_kwargs=kwargs)
    assert training.lr_scheduler_kwargs == kwargs


@pytest.mark.parametrize(
    ("scheduler", "kwargs"),
    [
        ("linear", {"num_cycles": 1}),
        ("cosine", {"num_cycles": "1"}),
        ("cosine", {"num_cycles": -1}),
        ("cosine_with_min_lr", {}),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}),
        ("warmup_stable_decay", {}),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "square"}),
    ],
)
def test_scheduler_kwargs_that_do_not_fit(scheduler: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section("training", lr_scheduler_type=scheduler, lr_scheduler_kwargs=kwargs)


def test_schedules_and_optimizers_are_those_of_transformers() -> None:
    import inspect

    from transformers import optimization
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(SCHEDULER_KWARGS) == set(get_args(Scheduler))
    assert set(get_args(Optimizer)) <= {name.value for name in OptimizerNames}
    not_ours = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for name, kwargs in SCHEDULER_KWARGS.items():
        function: Any = optimization.TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
        assert set(kwargs) == set(inspect.signature(function).parameters) - not_ours, name


def test_importing_and_validating_is_fast_and_needs_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from pathlib import Path; from gptoss_ft.config import load_job_config\n"
        "load_job_config(Path('config.yaml')); seconds = time.perf_counter() - start\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy imports'\n"
        "assert seconds < 0.5 * 4, seconds\n"  # 0.25 s on an idle core; the factor is for a busy one
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Values of every kind, for every key: the file for editors and the models must agree on them.
PROBES: list[Any] = [
    None, True, False, 0, 1, 2, 15, 16, -1, 0.5, 1.5, -0.5, 2**33,
    "", "text", "auto", "cpu", "20", " padded", "two\nlines", "owner/name", "a/b/c", "2025-06-01", "unsloth",
    [], ["text"], ["wandb"], [1], [None], [["text"]], ["tensorboard", "wandb"],
    {}, {"num_cycles": 1}, {"text": [1]}, {"text": "b"}, {" a": "b"}, {"": "b"}, {"a": ""},
]  # fmt: skip

# What only the models can judge: rules over several keys, dates of the calendar, folders.
BEYOND_JSON_SCHEMA = {
    "training.early_stopping_patience",
    "training.eval_steps",
    "training.lr_scheduler_kwargs",
    "training.lr_scheduler_type",
    "training.max_steps",
    "training.output_dir",
    "dataset.prompt_date",
    "dataset.weight",
    "dataset.eval",
}
# The same within a list of two entries, of which the other is a default one.
BEYOND_JSON_SCHEMA_IN_A_LIST = {"dataset.prompt_date", "dataset.weight", "dataset.prepared"}


def is_taken(data: dict[str, Any]) -> bool:
    try:
        JobConfig.model_validate(data)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", list(KEYS))
def test_the_json_schema_judges_as_the_models_do(name: str) -> None:
    schema = json.loads(json_schema())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for key in KEYS[name]:
        for probe in PROBES:
            if f"{name}.{key}" in BEYOND_JSON_SCHEMA:
                continue
            data = {name: {key: probe}}
            assert validator.is_valid(data) == is_taken(data), data


def test_the_json_schema_judges_entries_of_a_list_as_the_models_do() -> None:
    validator = Draft202012Validator(json.loads(json_schema()))
    for key in KEYS["dataset"]:
        for probe in PROBES:
            if f"dataset.{key}" in BEYOND_JSON_SCHEMA_IN_A_LIST:
                continue
            data = {"dataset": [{key: probe}, {}]}
            assert validator.is_valid(data) == is_taken(data), data
    whole: list[Any] = [[], [{}], [None], [{}, None], [[]], ["path"], [{"pth": "x"}], 3, "path"]
    for dataset in whole:
        assert validator.is_valid({"dataset": dataset}) == is_taken({"dataset": dataset}), dataset


def test_the_json_schema_refuses_unknown_keys_and_takes_empty_sections() -> None:
    validator = Draft202012Validator(json.loads(json_schema()))
    assert validator.is_valid({"lora": None})
    assert not validator.is_valid({"lora": {"rank": 8}})
    assert not validator.is_valid({"lorra": {}})


def test_every_key_has_a_description() -> None:
    for model in SECTIONS.values():
        assert all(key.description for key in model.model_fields.values())
    assert list(KEYS) == list(JobConfig.model_fields)
    assert KEYS["training"] == list(TrainingSection.model_fields)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"eval_steps": 4}, r"wanted a divisor of save_steps \(10\), so that every checkpoint is evaluated"),
        ({"early_stopping_patience": 2}, "wanted null, or eval_steps beside it"),
    ],
)
def test_the_best_model_can_be_known(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        section("training", **keys)
    kept = section("training", eval_steps=5, early_stopping_patience=2)
    assert (kept.eval_steps, kept.early_stopping_patience, kept.load_best_model_at_end) == (5, 2, True)
