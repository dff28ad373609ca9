"""Bad files and overrides → exact lines; good ones → values with their places; noise → never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection, LoadedConfig, load_job_config
from gptoss_ft.config.secret_values import IN_A_CONFIG
from gptoss_ft.errors import ConfigError, ExitCode

CONFIG = Path("config.yaml")
DEFAULT = (Path(__file__).parents[2] / "config.yaml").read_bytes()


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, *overrides: str) -> LoadedConfig:
    CONFIG.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_job_config(CONFIG, overrides)


def errors(text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert caught.value.exit_code == ExitCode.CONFIG
    return [str(problem) for problem in caught.value.problems]


STEPS_OR_EPOCHS = "a run ends by steps or by epochs, and training.num_train_epochs is"
SECTIONS = "model, lora, dataset, training, performance, evaluation, tracking, hub"
HUB_KEYS = "the keys of hub are repo_id, private, push, tags, card_language, card_template, license"
VALUES = {  # one wrong value: section, key, value as written, the rest of the error
    ("model", "name", ""): "read null; wanted text",
    ("model", "name", '""'): 'read ""; wanted text; on one line, with no space around it',
    ("model", "name", '"a\\nb"'): 'read "a\\u000ab"; wanted text; on one line, with no space around it',
    ("model", "name", "20"): "read 20; wanted text; quotes make it text",
    ("model", "revision", "12e4"): "read 120000.0; wanted text, or null; quotes make it text",
    ("model", "adapter", "None"): 'read "None"; wanted null, which is how YAML writes nothing',
    ("model", "name", "[a]"): 'read ["a"]; wanted text',
    ("model", "max_seq_length", "8"): "read 8; wanted a whole number, 16 or more",
    ("model", "max_seq_length", '"1024"'): 'read "1024"; wanted a whole number, 16 or more',
    ("model", "max_seq_length", "1_024"): 'read "1_024"; wanted a whole number, 16 or more',
    ("model", "max_seq_length", "1024.0"): "read 1024.0; wanted a whole number, 16 or more",
    ("model", "max_seq_length", "true"): "read true; wanted a whole number, 16 or more",
    ("model", "load_in_4bit", "1"): "read 1; wanted true or false",
    ("model", "load_in_4bit", "yes"): 'read "yes"; wanted true or false; did you mean true?',
    ("model", "load_in_4bit", "off"): 'read "off"; wanted true or false; did you mean false?',
    (
        "model",
        "dtype",
        "bf16",
    ): 'read "bf16"; wanted auto, bfloat16, float16 or float32; did you mean bfloat16?',
    ("model", "device", "GPU"): 'read "GPU"; wanted cuda, cpu or auto; did you mean cpu?',
    ("lora", "r", "0"): "read 0; wanted a whole number, 1 or more",
    ("lora", "r", "-0x8"): 'read "-0x8"; wanted a whole number, 1 or more',
    ("lora", "r", "1" * 19): "read a number of 19 digits; wanted at most 18",
    ("lora", "dropout", "1.0"): "read 1.0; wanted a number from 0 to below 1",
    ("lora", "dropout", ".nan"): "read .nan; wanted a number from 0 to below 1",
    ("lora", "dropout", "-.inf"): "read -.inf; wanted a number from 0 to below 1",
    ("lora", "target_modules", "[]"): "read []; wanted a list of text, at least one",
    ("lora", "target_modules", "q_proj"): 'read "q_proj"; wanted a list of text, at least one',
    ("lora", "target_parameters", "{a: 1}"): "read {a: 1}; wanted a list of text, or null",
    ("dataset", "max_samples", "0"): "read 0; wanted a whole number, 1 or more, or null",
    ("dataset", "max_samples", "None"): ('read "None"; wanted a whole number, 1 or more, or null; did you mean null?'),
    ("dataset", "prompt_date", "2025-02-30"): (
        'read "2025-02-30"; wanted a date of the calendar, as YYYY-MM-DD, or null'
    ),
    ("dataset", "prompt_date", "2025-06-01T10:00:00Z"): (
        'read "2025-06-01T10:00:00Z"; wanted a date of the calendar, as YYYY-MM-DD, or null'
    ),
    ("dataset", "prompt_date", "20250601"): "read 20250601; wanted a date as YYYY-MM-DD, or null",
    ("dataset", "train_on", "completion"): (
        'read "completion"; wanted completions or everything; did you mean completions?'
    ),
    ("dataset", "format", "alpacca"): (
        'read "alpacca"; wanted sharegpt, alpaca, prompt_completion or custom; did you mean alpaca?'
    ),
    ("dataset", "eval_fraction", "1"): "read 1; wanted a number from 0 to below 1",
    ("dataset", "max_invalid_fraction", "1.5"): "read 1.5; wanted a number from 0 to 1",
    ("dataset", "weight", "0"): "read 0; wanted a number above 0, or null",
    ("dataset", "role_key", "5"): "read 5; wanted text, or null; quotes make it text",
    ("dataset", "role_key", "none"): 'read "none"; wanted null, which is how YAML writes nothing',
    ("dataset", "rename_columns", "[a]"): 'read ["a"]; wanted a mapping of names to text',
    ("dataset", "rename_columns", "null"): "read null; wanted a mapping of names to text",
    ("dataset", "eval", "true"): (
        "read true; wanted an entry without eval: true, for nothing would be left to train on"
    ),
    ("dataset", "weight", "2"): ("read 2; wanted null: a weight is relative to other entries, and there is only one"),
    ("training", "learning_rate", "2e4"): "read 20000.0; wanted a number above 0, at most 1",
    ("training", "learning_rate", "1e999"): "read .inf; wanted a number above 0, at most 1",
    ("training", "learning_rate", "2e-4x"): 'read "2e-4x"; wanted a number above 0, at most 1',
    ("training", "warmup_steps", "1.5"): ("read 1.5; wanted a whole number, 0 or more, or a number from 0 to below 1"),
    ("training", "num_train_epochs", "0"): "read 0; wanted a number above 0, or null",
    ("training", "gradient_checkpointing", "unsloht"): (
        'read "unsloht"; wanted true, false or unsloth; did you mean unsloth?'
    ),
    ("training", "seed", "-1"): "read -1; wanted a whole number from 0 to 4294967295",
    ("training", "output_dir", "../x"): (
        'read "../x"; wanted a folder inside outputs/: no / at the start, no .. in it'
    ),
    ("training", "output_dir", "/tmp/x"): (
        'read "/tmp/x"; wanted a folder inside outputs/: no / at the start, no .. in it'
    ),
    ("training", "lr_scheduler_kwargs", "{num_cycles: 2}"): (
        "read {num_cycles: 2}; wanted {}, which is all that lr_scheduler_type linear takes"
    ),
    ("tracking", "report_to", "mlflow"): (
        'read "mlflow"; wanted a list of tensorboard or wandb, or tensorboard, wandb or none'
    ),
    ("hub", "repo_id", "me"): 'read "me"; wanted a repository as owner/name, or null',
    ("hub", "repo_id", "hf_" + "a" * 30): IN_A_CONFIG,
    ("lora", "bias", "x" * 200): f'read "{"x" * 78}…; wanted none, all or lora_only',
    (
        "model",
        "load_in_4bit",
        "!!bool true",
    ): "the YAML tag !!bool is not read; write the plain value, text in quotes",
    ("lora", "r", "!!python/object/apply:os.system [ls]"): (
        "the YAML tag !!python/object/apply:os.system is not read; write the plain value, text in quotes"
    ),
    ("lora", "r", "*rank"): "*rank refers to nothing: no &rank above it",
}


@pytest.mark.parametrize(("section", "key", "value"), list(VALUES))
def test_a_wrong_value(section: str, key: str, value: str) -> None:
    place = f"config.yaml:2:{len(key) + 5 if value else 3}"  # an empty value is where its key is
    found = errors(f"{section}:\n  {key}: {value}\n")
    assert found[0] == f"{place}: {section}.{key}: {VALUES[section, key, value]}"


@pytest.mark.parametrize(("section", "key", "value"), list(VALUES))
def test_the_same_wrong_value_by_override(section: str, key: str, value: str) -> None:
    found = errors("{}", f"{section}.{key}={value}")
    assert found[0] == f"--set {section}.{key}: {VALUES[section, key, value]}"


FILES: dict[str | bytes, list[str]] = {
    "": ["1:1: empty; write at least one section, or {} for a job of defaults"],
    "# nothing\n": ["1:1: empty; write at least one section, or {} for a job of defaults"],
    "- a\n": [f'1:1: read ["a"]; wanted the sections {SECTIONS}, each with keys below'],
    "gpt\n": [f'1:1: read "gpt"; wanted the sections {SECTIONS}, each with keys below'],
    "model: gpt\n": ['1:8: model: read "gpt"; wanted keys below it, such as name'],
    "lora:\n- r\n": ['2:1: lora: read ["r"]; wanted keys below it, such as r'],
    "max_steps: 3\n": ["1:1: max_steps: unknown key; did you mean training.max_steps?"],
    "trainign:\n  max_steps: 3\n": ["1:1: trainign: unknown key; did you mean training?"],
    "extra: 1\n": [f"1:1: extra: unknown key; the sections are {SECTIONS}"],
    "model.name: x\n": ["1:1: model.name: unknown key; did you mean name: in the section model:?"],
    "lora:\n  rank: 1\n": ["2:3: lora.rank: unknown key; did you mean lora.r?"],
    "lora:\n  max_steps: 1\n": ["2:3: lora.max_steps: unknown key; did you mean training.max_steps?"],
    "lora:\n  lora_alpha: 1\n": ["2:3: lora.lora_alpha: unknown key; did you mean lora.alpha?"],
    "lora:\n  hub:\n    push: true\n": [
        "2:3: lora.hub: unknown key; did you mean the section hub: at the start of a line?"
    ],
    "hub:\n  zzz: 1\n": ["2:3: hub.zzz: unknown key; " + HUB_KEYS],
    "hub:\n  token: hf_abcdefgh\n": [
        "2:3: hub.token: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment"
    ],
    "dataset:\n  api_key: x\n": [
        "2:3: dataset.api_key: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment"
    ],
    "dataset:\n  role_keys: x\n": ["2:3: dataset.role_keys: unknown key; did you mean dataset.role_key?"],
    "dataset:\n  rename_columns: {a: 3, ' b': c}\n": [
        "2:23: dataset.rename_columns.a: read 3; wanted text; quotes make it text",
        '2:32: dataset.rename_columns. b: read " b" as a name; wanted text; on one line, with no space around it',
    ],
    "dataset: {eval: true, eval_fraction: 0.5}\n": [
        "1:38: dataset.eval_fraction: read 0.5; wanted 0, because eval: true already uses every row for evaluation"
    ],
    "datasets:\n- path: a\n": ["1:1: datasets: unknown key; did you mean dataset?"],
    "dataset[0].path: x\n": ["1:1: dataset[0].path: unknown key; did you mean path: in the section dataset:?"],
    "lora: {target_modules: [*x, 4]}\n": [
        "1:25: lora.target_modules[0]: *x refers to nothing: no &x above it",
        "1:29: lora.target_modules[1]: read 4; wanted text; quotes make it text",
    ],
    "hub:\n  hf_abcdefgh: 1\n": ["2:3: hub.***: unknown key; " + HUB_KEYS],
    "lora:\n  r: 1\n  alpha: 2\n  r: 3\n": ["4:3: lora.r: written twice; first at config.yaml:2:3"],
    "lora: {}\nmodel: {}\nlora: {}\n": ["3:1: lora: written twice; first at config.yaml:1:1"],
    "lora:\n  target_modules: [a, 5, null]\n": [
        "2:23: lora.target_modules[1]: read 5; wanted text; quotes make it text",
        "2:26: lora.target_modules[2]: read null; wanted text",
    ],
    "training:\n  lr_scheduler_type: cosine\n  lr_scheduler_kwargs:\n    num_cycles: [1]\n": [
        "4:17: training.lr_scheduler_kwargs.num_cycles: read [1]; wanted a whole number, or a number, or text"
    ],
    "training:\n  lr_scheduler_kwargs: {float: {float: 1}}\n": [
        "2:32: training.lr_scheduler_kwargs.float: read {float: 1}; wanted a whole number, or a number, or text",
    ],
    'training:\n  lr_scheduler_kwargs: {"\\ud800": 1}\n': [
        "2:24: training.lr_scheduler_kwargs: read {\\ud800: 1}; "
        "wanted {}, which is all that lr_scheduler_type linear takes"
    ],
    "training:\n  lr_scheduler_type: cosine_with_min_lr\n": [
        "1:1 (default): training.lr_scheduler_kwargs: read {}; "
        "wanted one of min_lr and min_lr_rate, which cosine_with_min_lr ends at"
    ],
    "training:\n  num_train_epochs: 3\n  max_steps: 4\n": [
        f"3:14: training.max_steps: read 4; {STEPS_OR_EPOCHS} 3 at config.yaml:2:21; write null for one of them"
    ],
    "1: 2\nmodel: {{ name }}\n": [
        "1:1: read 1 as a key; wanted a name",
        "2:9: model: a list or mapping as a key; text that starts with { or [ needs quotes",
    ],
    "lora: &l\n  r: *l\n": ["2:6: lora.r: *l refers to what it is part of"],
    "lora: {r: &r 0, alpha: *r}\n": [
        "1:11: lora.r: read 0; wanted a whole number, 1 or more",
        "1:24: lora.alpha: read 0; wanted a whole number, 1 or more",
    ],
    "lora:\n  <<: {r: 0}\n": ["2:11: lora.r: read 0; wanted a whole number, 1 or more"],
    "lora:\n  <<: 5\n": ["2:7: lora: read << with 5; wanted a mapping or its alias"],
    "lora: !!set {r}\n": ["1:7: lora: the YAML tag !!set is not read; write the plain value, text in quotes",
                          "1:14: lora.r: read null; wanted a whole number, 1 or more"],
    "lora: {}\n---\nlora: {}\n": [
        "2:1: a second document starts here; one file is one job, so take out the `---`"
    ],
    "model:\n\tname: x\n": ["2:1: not YAML: a tab where YAML wants spaces; indent with spaces"],
    "lora:\n  r: 1\n   alpha: 2\n": [
        "3:9: not YAML: a `:` out of place; check the indentation, and quote text with `: ` in it"
    ],
    "lora:\n  r: 1\n alpha: 2\n": ["3:2: not YAML: the indentation does not fit the lines above"],
    "lora:\n  target_modules: [a,\n  r: 8\n": ["2:19: not YAML: a `,` or the closing `]` is missing"],
    "lora: {r: 8\n": ["1:7: not YAML: a `,` or the closing `}` is missing"],
    "model:\n  name: 'x\n  r: 1\n": ["2:9: not YAML: a quote that is never closed"],
    "model:\n  name: @x\n": ["2:9: not YAML: text that starts with @ needs quotes"],
    'model:\n  name: "C:\\models"\n': [
        "2:13: not YAML: an escape that YAML does not have; in single quotes a \\ is just a \\"
    ],
    'model:\n  name: "\\U00110000"\n': ["2:10: not YAML: an escape beyond U+10FFFF, where characters end"],
    b"model:\r\n  name: caf\xe9\r\n": ["2:12: not UTF-8 text: the byte 0xe9"],
    b"\xff\xfem\x00": ["1:1: not UTF-8 text: the byte 0xff"],
    b"model:\n  name: a\x00b\n": ["2:10: the character U+0000, which has no place in a text file"],
    b"\xef\xbb\xbflora:\r\n  r: 0\r\n": ["2:6: lora.r: read 0; wanted a whole number, 1 or more"],
    b"[" * 5000: ["1:21: lists or mappings more than 20 deep"],
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ): ["4:29: more than 10000 values, or as much text, with aliases written out"],
    "lora:\n  r: 0\n  alpah: 3\nmodel:\n  dtype: 1\n": [
        "2:6: lora.r: read 0; wanted a whole number, 1 or more",
        "3:3: lora.alpah: unknown key; did you mean lora.alpha?",
        "5:10: model.dtype: read 1; wanted auto, bfloat16, float16 or float32",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", list(FILES), ids=lambda text: repr(text)[:40])
def test_a_wrong_file(text: str | bytes) -> None:
    assert errors(text) == [f"config.yaml:{line}" for line in FILES[text]]


OR_A_LIST = "wanted keys below it, such as path, or a list of entries with such keys"
LISTS: dict[str, list[str]] = {
    "dataset: 3\n": [f"1:10: dataset: read 3; {OR_A_LIST}"],
    "dataset: []\n": [f"1:10: dataset: read []; {OR_A_LIST}"],
    "dataset: !!seq []\n": ["1:10: dataset: the YAML tag !!seq is not read; write the plain value, text in quotes"],
    "dataset: [3, [a], {}]\n": [
        "1:11: dataset[0]: read 3; wanted keys below it, such as path",
        '1:14: dataset[1]: read ["a"]; wanted keys below it, such as path',
    ],
    "dataset:\n-\n- path: a\n": ["2:2: dataset[0]: read null; wanted keys below it, such as path"],
    "dataset:\n- path: a\n- pth: b\n  sead: 1\n": [
        "3:3: dataset[1].pth: unknown key; did you mean dataset[1].path?",
        "4:3: dataset[1].sead: unknown key; did you mean training.seed?",
    ],
    "dataset:\n- val_set_size: 1\n  lora: {r: 8}\n  zzz: 1\n": [
        "2:3: dataset[0].val_set_size: unknown key; did you mean dataset[0].eval_fraction?",
        "3:3: dataset[0].lora: unknown key; did you mean the section lora: at the start of a line?",
        f"4:3: dataset[0].zzz: unknown key; the keys of dataset[0] are {', '.join(DatasetSection.model_fields)}",
    ],
    "dataset:\n- path: a\n- path: 3\n  format: Alpaca\n  prompt_date: 2025-02-30\n- max_samples: 0\n": [
        "3:9: dataset[1].path: read 3; wanted text; quotes make it text",
        '4:11: dataset[1].format: read "Alpaca"; wanted sharegpt, alpaca, prompt_completion or custom; '
        "did you mean alpaca?",
        '5:16: dataset[1].prompt_date: read "2025-02-30"; wanted a date of the calendar, as YYYY-MM-DD, or null',
        "6:16: dataset[2].max_samples: read 0; wanted a whole number, 1 or more, or null",
    ],
    "dataset:\n- path: a\n- path: b\n  path: c\n": ["4:3: dataset[1].path: written twice; first at config.yaml:3:3"],
    "dataset:\n- {}\n- rename_columns: {a: [b]}\n": ['3:23: dataset[1].rename_columns.a: read ["b"]; wanted text'],
    "dataset:\n- {}\n- token: x\n  split: [hf_abcdefgh]\n": [
        "3:3: dataset[1].token: unknown key; secrets have no place in a config: "
        "set HF_TOKEN or WANDB_API_KEY in the environment",
        '4:10: dataset[1].split: read ["***"]; wanted text',
    ],
    "dataset: [*x, {path: 2}]\n": [
        "1:11: dataset[0]: *x refers to nothing: no &x above it",
        "1:22: dataset[1].path: read 2; wanted text; quotes make it text",
    ],
    "dataset:\n- path: a\n- <<: 5\n- {[a]: b}\n": [
        "3:7: dataset[1]: read << with 5; wanted a mapping or its alias",
        "4:4: dataset[2]: a list or mapping as a key; text that starts with { or [ needs quotes",
    ],
    "dataset: &d [{path: *d}]\n": ["1:21: dataset[0].path: *d refers to what it is part of"],
    "dataset:\n- weight: 2\n- path: b\n- eval: true\n  weight: 1\n- path: c\n": [
        "3:3 (default): dataset[1].weight: read null; wanted a number above 0: dataset[0] has a weight, "
        "so each entry needs one",
        "5:11: dataset[2].weight: read 1; wanted null: a weight is a share of the training rows, "
        "and eval: true has none",
    ],
    "dataset: [{prepared: a}, {}, {prepared: b}]\n": [
        '1:22: dataset[0].prepared: read "a"; wanted null in a list: prepared data stands alone',
        '1:41: dataset[2].prepared: read "b"; wanted null in a list: prepared data stands alone',
    ],
    "lora: {r: 0}\ndataset: [{path: [a]}]\n": [
        "1:11: lora.r: read 0; wanted a whole number, 1 or more",
        '2:18: dataset[0].path: read ["a"]; wanted text',
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", list(LISTS))
def test_a_wrong_list(text: str) -> None:
    assert errors(text) == [f"config.yaml:{line}" for line in LISTS[text]]


TWO_ENTRIES = "dataset:\n  - path: a\n    max_samples: 5\n  - path: b\n"
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


def test_of_many_mistakes_the_first_are_shown() -> None:
    with pytest.raises(ConfigError) as wrong:
        load("lora:\n" + "".join(f"  target_module{number}: 1\n" for number in range(4_900)))
    assert [problem.place for problem in wrong.value.problems] == [f"config.yaml:{line}:3" for line in range(2, 52)]
    assert wrong.value.cure == (
        "There are 4,850 more such mistakes. docs/configuration.md lists every key, what it takes and its default."
    )


def test_a_long_text_counts_as_often_as_its_alias_stands() -> None:
    # 9,000 of them would be 180 MB to look through, and to show.
    assert errors(f"long: &long {'x' * 20_000}\nlora: {{target_modules: [{'*long, ' * 9_000}]}}\n")[-1] == (
        "config.yaml:2:361: more than 10000 values, or as much text, with aliases written out"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('a: "\\U99999999"\n', "1:5: not YAML: an escape beyond U+10FFFF, where characters end"),
        (f"%YAML {'1' * 5_000}.1\n---\na: 1\n", "1:1: not YAML: a version of YAML that there is none of"),
        ("# job\n%YAML 1.3\n---\na: 1\n", "2:1: not YAML: a version of YAML that there is none of"),
    ],
)
def test_what_the_yaml_library_lets_through(text: str, problem: str) -> None:
    assert errors(text) == [f"config.yaml:{problem}"]


def test_files_that_cannot_be_read() -> None:
    Path("configs").mkdir()
    Path("configs/smoke.yaml").write_text("{}")
    with pytest.raises(ConfigError) as missing:
        load_job_config(Path("confg.yaml"))
    assert str(missing.value) == "confg.yaml: no such file"
    assert missing.value.cure == f"The current folder is {Path.cwd()}; it has configs/smoke.yaml."
    with pytest.raises(ConfigError, match=r"^configs: a folder; wanted a YAML file$"):
        load_job_config(Path("configs"))
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_job_config(Path("configs/smoke.yaml/x"))
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_job_config(Path("a\0b"))
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        load("#" * 300_000)


def test_a_file_that_the_system_refuses_to_read() -> None:
    # A file that not even root can read from its beginning.
    CONFIG.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"^config.yaml: cannot be read: Input/output error$"):
        load_job_config(CONFIG)


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


# --- noise -----------------------------------------------------------------------------------------------

SMALL = (
    b"model: &m\n  name: 'a b'\n  dtype: \"x\\u0041\"\nlora: {r: &r 8, alpha: *r, target_modules: [a, b]}\n"
    b"training:\n  <<: {max_steps: 3}\n  lr_scheduler_kwargs:\n    ? a\n    : 1\n  optim: >-\n    sgd\n"
)
SMALL_LIST = (
    b"dataset:\n- &a\n  path: a\n  weight: 1\n- <<: *a\n  path: 'b'\n  rename_columns: {x: y}\n"
    b"- {eval: true, name: [c]}\n- *a\n"
)
PIECES = st.sampled_from(
    [": ", ":", "\n", "\t", "'", '"', "[", "]", "{", "}", "&a ", "*a", "*m", "*r", "!!set ", "!<x> ", "!", "!a!b c",
     "%YAML 1.1\n---\n", "%YAML 9\n---\n", "%TAG ! x\n---\n", "---\n", "...\n", "? ", "- ", "|", "|-0\n", ">+9\n",
     "<<: ", "=", "@", "`", "#", "\x00", "\x85", "\u2028", "\ufeff", "\r\n", ".nan", "1e999", "0x", "0o8", "~", "\\",
     '"\\ud800"', '"\\U00110000"', "null", "true", ",", "1:30", "2025-01-01", "!!binary x", "!%41", "!<%zz>",
     "\U0001f600", "hf_abcdefgh", "lora", "max_steps", "training:\n  ", "9" * 40,
     "dataset: ", "dataset[0]", "\n- ", "\n- path: ", "prepared: x"]
)  # fmt: skip
NOISE = st.one_of(PIECES.map(str.encode), st.binary(max_size=4))
EDITS = st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0, 0, 1, 3, 10]), NOISE), max_size=6)
KEYS_TRIED = st.sampled_from(
    ["lora.r", "lora", "dataset.prompt_date", "lora.target_modules", "model.name", "x.y", "", "dataset.path",
     "dataset[0].path", "dataset[1].weight", "dataset[2].rename_columns", "dataset[9].eval", "dataset[0]", "dataset[",
     "dataset[0].rename_columns.x", "dataset[0][0].path", "dataset[\u0663].path", "lora[0].r"]
)  # fmt: skip
SET = st.builds(
    lambda key, equals, pieces: key + equals + "".join(pieces),
    KEYS_TRIED, st.sampled_from(["=", "=", "", " = "]), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=4),
)  # fmt: skip


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    base=st.sampled_from([SMALL, SMALL, SMALL_LIST, SMALL_LIST, b"", b"lora:\n  r: 1\n"]),
    edits=EDITS,
    overrides=st.lists(SET, max_size=2),
)
def test_noise_gives_a_job_or_a_config_error(
    base: bytes, edits: list[tuple[int, int, bytes]], overrides: list[str]
) -> None:
    data = bytearray(base)
    for at, cut, piece in edits:
        data[at : at + cut] = piece
    _job_or_config_error(bytes(data), overrides)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.integers(0, len(DEFAULT)), cut=st.integers(0, 40), piece=NOISE)
def test_noise_in_the_default_config(at: int, cut: int, piece: bytes) -> None:
    _job_or_config_error(DEFAULT[:at] + piece + DEFAULT[at + cut :], [])


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 40), st.floats(), st.text(max_size=4),
    st.sampled_from(["a", "medium", "custom", "drop", "error", "2025-06-01", "hf_abcdefgh"]),
)  # fmt: skip
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
ENTRY = st.dictionaries(
    st.sampled_from([*DatasetSection.model_fields, "pth"]) | st.text(max_size=3), NESTED, max_size=3
)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(dataset=st.one_of(NESTED, ENTRY, st.lists(ENTRY | NESTED, max_size=3)))
def test_any_dataset_gives_a_job_or_errors_with_places(dataset: Any) -> None:
    _job_or_config_error(json.dumps({"dataset": dataset}).encode(), [])


VALID_ENTRY = st.fixed_dictionaries(
    {"path": st.sampled_from(["a", "b/c"])},
    optional={
        "format": st.sampled_from(["sharegpt", "alpaca", "prompt_completion", "custom"]),
        "eval_fraction": st.floats(0, 1, exclude_max=True),
        "max_samples": st.none() | st.integers(1, 9),
        "rename_columns": st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
        "role_key": st.none() | st.just("who"),
    },
)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(dataset=VALID_ENTRY | st.lists(VALID_ENTRY, min_size=1, max_size=4))
def test_a_dumped_job_loads_to_itself_and_keeps_its_shape(dataset: Any) -> None:
    loaded = load(json.dumps({"dataset": dataset}))
    dumped = loaded.job.model_dump()
    assert isinstance(dumped["dataset"], list) == isinstance(dataset, list)
    entries = dataset if isinstance(dataset, list) else [dataset]
    for index, (entry, taken) in enumerate(zip(entries, loaded.job.datasets, strict=True)):
        assert {key: getattr(taken, key) for key in entry} == entry
        owner = f"dataset[{index}]" if isinstance(dataset, list) else "dataset"
        assert all(f"{owner}.{key}" in loaded.source.marks for key in entry)
    assert load(json.dumps(dumped)).job == loaded.job


def _job_or_config_error(data: bytes, overrides: list[str]) -> None:
    problems = []
    try:
        load(data, *overrides).job.model_dump_json()
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems] or ["an error must say what is wrong\n"]
    assert all(problem.isprintable() for problem in problems)
    assert not any("hf_abc" in problem for problem in problems)
