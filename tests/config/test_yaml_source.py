"""Good files and overrides → values with their places."""

import pytest
from config_files import TWO_ENTRIES, load

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_values_of_yaml_1_2() -> None:
    job = load(
        "training: {learning_rate: 2e-4, weight_decay: 1e-1, seed: 0x10, warmup_steps: +7}\n"
        "dataset: {name: on, revision: 2025-01-01, prompt_date: 2025-02-28, split: 'train[:10%]'}\n"
        "model:\n  name: >-\n    folded/name\n"
        "lora:\n"
    ).job
    assert (job.training.learning_rate, job.training.weight_decay) == (2e-4, 0.1)
    assert (job.training.seed, job.training.warmup_steps) == (16, 7)
    assert (job.dataset.name, job.dataset.revision, job.dataset.prompt_date) == (
        "on",
        "2025-01-01",
        "2025-02-28",
    )
    assert (job.dataset.split, job.model.name, job.lora.r) == ("train[:10%]", "folded/name", 8)


def test_anchors_and_merge_keys() -> None:
    loaded = load("lora:\n  <<: [{r: 4, alpha: 4}, {r: 5, dropout: 0.5}]\n  alpha: &a 32\ntraining:\n  seed: *a\n")
    assert (loaded.job.lora.r, loaded.job.lora.alpha, loaded.job.lora.dropout) == (4, 32, 0.5)
    assert loaded.job.training.seed == 32
    assert loaded.source.place("lora.r") == "config.yaml:2:12"
    assert loaded.source.place("training.seed") == "config.yaml:5:9"


def test_overrides_replace_the_file_and_the_last_one_counts() -> None:
    text = "training:\n  max_steps: oops\nlora:\n  target_modules: [a, b, 3]\n"
    overrides = ("training.max_steps=2", " training.max_steps =3", "lora.target_modules=[c]", "hub.repo_id=")
    job = load(text, *overrides).job
    assert (job.training.max_steps, job.lora.target_modules, job.hub.repo_id) == (3, ["c"], None)


def test_places() -> None:
    source = load("model:\n  max_seq_length: 2048\nlora: {target_modules: [a, b]}\n", "lora.r=4").source
    assert source.place("model") == "config.yaml:1:1"
    assert source.place("model.max_seq_length") == "config.yaml:2:19"
    assert source.place("lora.target_modules[1]") == "config.yaml:3:28"
    assert source.place("model.name") == "config.yaml:1:1 (default)"
    assert source.place("training.max_steps") == "config.yaml (default)"
    assert source.place("lora.r") == "--set lora.r"
    with pytest.raises(KeyError):
        source.place("lora.rank")


def test_a_list_of_entries() -> None:
    loaded = load(TWO_ENTRIES, "dataset[1].path=c", "dataset[0].max_samples=", "dataset[1].eval=true")
    assert [(entry.path, entry.max_samples, entry.eval) for entry in loaded.job.datasets] == [
        ("a", None, False),
        ("c", None, True),
    ]
    assert loaded.job.dataset == list(loaded.job.datasets)
    assert loaded.source.overrides == ("dataset[1].path", "dataset[0].max_samples", "dataset[1].eval")


def test_entries_share_keys_by_anchors_and_merge_keys() -> None:
    text = "dataset:\n- &a {path: a, format: custom, weight: 1}\n- <<: *a\n  path: b\n  weight: 2\n- *a\n"
    entries = load(text).job.datasets
    assert [(entry.path, entry.format, entry.weight) for entry in entries] == [
        ("a", "custom", 1.0),
        ("b", "custom", 2.0),
        ("a", "custom", 1.0),
    ]


def test_places_in_a_list() -> None:
    source = load(TWO_ENTRIES + "    rename_columns: {a: b}\n", "dataset[1].split=x").source
    assert source.place("dataset") == "config.yaml:1:1"
    assert source.place("dataset[0]") == "config.yaml:2:5"
    assert source.place("dataset[1].path") == "config.yaml:4:11"
    assert source.place("dataset[1].rename_columns.a") == "config.yaml:5:25"
    assert source.place("dataset[0].max_samples") == "config.yaml:3:18"
    assert source.place("dataset[1].max_samples") == "config.yaml:4:5 (default)"
    assert source.place("dataset[1].split") == "--set dataset[1].split"
    assert source.place("dataset.path") == source.place("dataset[2].path") == "config.yaml:1:1"
    assert str(source.problem("dataset[1].path", "no such file")) == "config.yaml:4:11: dataset[1].path: no such file"
    for unknown in ("dataset[0].pth", "dataset[].path", "lora[0].r", "dataset[0]x"):
        with pytest.raises(KeyError):
            source.place(unknown)


def test_places_of_the_only_entry() -> None:
    source = load("dataset:\n  path: a\n", "dataset.split=x").source
    for owner in ("dataset", "dataset[0]"):
        assert source.place(f"{owner}.path") == "config.yaml:2:9"
        assert source.place(f"{owner}.split") == "--set dataset.split"
        assert source.place(f"{owner}.name") == "config.yaml:1:1 (default)"
    assert load("{}").source.place("dataset[0].path") == "config.yaml (default)"


def test_later_rooms_name_the_place() -> None:
    source = load("model:\n  max_seq_length: 2048\n", "lora.r=4").source
    problem = source.problem("model.max_seq_length", "read 2048; the model takes 1024")
    assert str(problem) == "config.yaml:2:19: model.max_seq_length: read 2048; the model takes 1024"
    assert str(source.problem("lora.r", "too much")) == "--set lora.r: too much"
