"""One wrong value of each kind, in a file and in an override → its exact line."""

import pytest
from config_files import errors

from gptoss_ft.config.secret_values import IN_A_CONFIG

pytestmark = pytest.mark.usefixtures("empty_folder")

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
