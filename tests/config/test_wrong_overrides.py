"""Overrides that fit nothing, alone and beside a file → exact lines."""

import pytest
from config_files import SECTIONS, STEPS_OR_EPOCHS, TWO_ENTRIES, errors, load

pytestmark = pytest.mark.usefixtures("empty_folder")

ENTRY_OVERRIDES = {
    "dataset.max_samples=2": "--set dataset.max_samples: dataset is a list; name the entry, "
    "as in dataset[0].max_samples",
    "dataset[2].max_samples=2": "--set dataset[2].max_samples: dataset has 2 entries, counted from 0",
    f"dataset[{'9' * 30}].path=x": f"--set dataset[{'9' * 30}].path: dataset has 2 entries, counted from 0",
    "dataset[0]={path: c}": "--set dataset[0]: an entry; set one of its keys, such as dataset[0].path=…",
    "dataset[1].pth=x": "--set dataset[1].pth: unknown key; did you mean dataset[1].path?",
    "dataset[-1].path=x": "--set dataset[-1].path: unknown key; did you mean dataset.path?",
    "dataset[1].path=3": "--set dataset[1].path: read 3; wanted text; quotes make it text",
    "dataset[1].path=[8": "--set dataset[1].path: not YAML: a `,` or the closing `]` is missing",
    "dataset[0].prepared=x": '--set dataset[0].prepared: read "x"; wanted null in a list: prepared data stands alone',
    "dataset[1].weight=2": "config.yaml:2:5 (default): dataset[0].weight: read null; wanted a number above 0: "
    "dataset[1] has a weight, so each entry needs one",
    "dataset[0].rename_columns.a=b": "--set dataset[0].rename_columns.a: unknown key; "
    "did you mean dataset[0].rename_columns, which takes a mapping?",
    "dataset[0].rename_columns={a: 1}": (
        "--set dataset[0].rename_columns: dataset[0].rename_columns.a: read 1; wanted text; quotes make it text"
    ),
    "lora[0].r=8": "--set lora[0].r: unknown key; did you mean lora.r?",
}


@pytest.mark.parametrize("override", list(ENTRY_OVERRIDES))
def test_a_wrong_override_of_an_entry(override: str) -> None:
    assert errors(TWO_ENTRIES, override) == [ENTRY_OVERRIDES[override]]


@pytest.mark.parametrize("text", ["{}", "dataset:\n", "dataset: {path: a}\n"])
def test_an_index_where_the_dataset_is_no_list(text: str) -> None:
    for index in (0, 1):
        assert errors(text, f"dataset[{index}].path=x") == [
            f"--set dataset[{index}].path: dataset is not a list; leave the index out, as in dataset.path"
        ]


OVERRIDES = {
    "training.max_steps": "--set training.max_steps: wanted KEY=VALUE, such as training.max_steps=100",
    "hf_abcdefgh": "--set ***: wanted KEY=VALUE, such as training.max_steps=100",
    "": "--set : wanted KEY=VALUE, such as training.max_steps=100",
    "max_steps=3": "--set max_steps: unknown key; did you mean training.max_steps?",
    "train.max_steps=3": "--set train.max_steps: unknown key; did you mean training.max_steps?",
    "lora=8": "--set lora: a section; set one of its keys, such as lora.r=…",
    "lora={r: 8}": "--set lora: a section; set one of its keys, such as lora.r=…",
    "training.lr_scheduler_kwargs.power=2": "--set training.lr_scheduler_kwargs.power: unknown key; "
    "did you mean training.lr_scheduler_kwargs, which takes a mapping?",
    "lora.r=": "--set lora.r: read null; wanted a whole number, 1 or more",
    "lora.r=[8": "--set lora.r: not YAML: a `,` or the closing `]` is missing",
    "lora.r=8\n---\n9": "--set lora.r: a second document starts here; one file is one job, so take out the `---`",
    "lora.target_modules=[a, 5]": (
        "--set lora.target_modules: lora.target_modules[1]: read 5; wanted text; quotes make it text"
    ),
    "tracking.run_name=a: b": '--set tracking.run_name: read {a: "b"}; wanted text, or null',
    "model.name=\udcff": "--set model.name: the character U+DCFF, which has no place in a text file",
}


@pytest.mark.parametrize("override", list(OVERRIDES))
def test_a_wrong_override(override: str) -> None:
    assert errors("{}", override) == [OVERRIDES[override]]


def test_the_file_and_the_overrides_are_shown_at_once_in_the_order_of_the_file() -> None:
    text = "training:\n  save_steps: 0\n  logging_step: 1\nlora: {r: 1.5}\n"
    assert errors(text, "lora.alpha=0", "nope=1") == [
        "config.yaml:2:15: training.save_steps: read 0; wanted a whole number, 1 or more",
        "config.yaml:3:3: training.logging_step: unknown key; did you mean training.logging_steps?",
        "config.yaml:4:11: lora.r: read 1.5; wanted a whole number, 1 or more",
        f"--set nope: unknown key; the sections are {SECTIONS}",
        "--set lora.alpha: read 0; wanted a whole number, 1 or more",
    ]


def test_steps_and_epochs_from_two_places_name_the_override_that_is_missing() -> None:
    assert errors("training:\n  num_train_epochs: 3\n", "training.max_steps=2") == [
        f"--set training.max_steps: read 2; {STEPS_OR_EPOCHS} 3 at config.yaml:2:21; "
        "pass --set training.num_train_epochs=null as well"
    ]
    assert errors("training:\n  max_steps: 2\n", "training.num_train_epochs=0.5") == [
        f"config.yaml:2:14: training.max_steps: read 2; {STEPS_OR_EPOCHS} 0.5 at "
        "--set training.num_train_epochs; pass --set training.max_steps=null as well"
    ]
    assert errors("{}", "training.num_train_epochs=1", "training.max_steps=2") == [
        f"--set training.max_steps: read 2; {STEPS_OR_EPOCHS} 1 at --set training.num_train_epochs; "
        "write null for one of them"
    ]
    both = ("training.num_train_epochs=0.5", "training.max_steps=null")
    assert load("training:\n  max_steps: 2\n", *both).job.training.max_steps is None
