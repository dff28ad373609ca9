"""How errors and the reference speak: a value as it was read, a type in words, the nearest known key."""

import re
from difflib import get_close_matches
from typing import Any

from gptoss_ft.config.keys import parse_key
from gptoss_ft.config.schema import KEYS

_NAMES = {key for keys in KEYS.values() for key in keys}
_FULL = [f"{section}.{key}" for section, keys in KEYS.items() for key in keys]

LONGEST_SHOWN = 80  # characters

# Tokens of Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS and W&B: errors are copied into issues and logs.
_SECRET_VALUE = re.compile(
    r"(?:hf_|gh[opsu]_|github_pat_|glpat-|wandb_v1_|(?<![A-Za-z0-9])(?:sk-|xox[abp]-|AKIA))[\w-]{4,}"
    r"|(?<![A-Za-z0-9])[0-9a-fA-F]{40,}(?![A-Za-z0-9])"
)
_SECRET_NAME = re.compile("token|secret|key|password", re.IGNORECASE)

# What other trainers call our keys, where no spelling is close.
_OTHER_NAMES = {
    "base_model": "model.name",
    "model_name_or_path": "model.name",
    "sequence_len": "model.max_seq_length",
    "cutoff_len": "model.max_seq_length",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "datasets": "dataset",
    "val_set_size": "dataset.eval_fraction",
    "test_size": "dataset.eval_fraction",
    "message_field_role": "dataset.role_key",
    "message_field_content": "dataset.content_key",
    "field_messages": "dataset.messages_column",
    "field_tools": "dataset.tools_column",
    "lr": "training.learning_rate",
    "batch_size": "training.per_device_train_batch_size",
    "micro_batch_size": "training.per_device_train_batch_size",
    "num_epochs": "training.num_train_epochs",
    "epochs": "training.num_train_epochs",
    "warmup_ratio": "training.warmup_steps",
    "optimizer": "training.optim",
    "scheduler": "training.lr_scheduler_type",
    "wandb_project": "tracking.project",
    "hub_model_id": "hub.repo_id",
    "push_to_hub": "hub.push",
}


def shown_text(text: str) -> str:
    """`text` safe to print: tokens as ***, unprintable characters escaped, at most LONGEST_SHOWN long."""
    text = _SECRET_VALUE.sub("***", text)
    text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[: LONGEST_SHOWN + 1])
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def shown_value(value: Any, name: str = "") -> str:
    """A value as YAML would write it on one line; *** where `name` or the value itself speaks of a secret."""
    return "***" if _is_secret(name) else shown_text(_flow(value))


def _is_secret(name: str) -> bool:
    """Whether a key is named like one that holds a secret; the schema's own (`role_key`) hold none."""
    return _SECRET_NAME.search(name) is not None and name.rpartition(".")[2] not in _NAMES


def _flow(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = ((key, "***" if _is_secret(key) else _flow(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    return str(value)


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema of one value in plain words: `a whole number, 1 or more, or null`."""
    phrases: list[str] = []
    choices: list[str] = []
    for branch in schema.get("anyOf", [schema]):
        kind = branch.get("type")
        if kind == "array":
            phrases.append(
                "a list of " + in_words(branch["items"]) + (", at least one" if "minItems" in branch else "")
            )
        elif kind == "object":
            only_text = branch["additionalProperties"].get("type") == "string"
            phrases.append("a mapping of names to " + ("text" if only_text else "numbers or text"))
        elif kind in ("integer", "number"):
            phrases.append(("a whole number" if kind == "integer" else "a number") + _range_in_words(branch))
        else:
            choices += choices_of(branch)
            if not choices_of(branch):
                text = "a date as YYYY-MM-DD" if branch.get("format") == "date" else "text"
                phrases.append(branch.get("patternErrorMessage", text))
    last = " or ".join(filter(None, [", ".join(choices[:-1]), *choices[-1:]]))
    return ", or ".join([*phrases, *filter(None, [last])])


def choices_of(schema: dict[str, Any]) -> list[str]:
    """The words that a value may be, as YAML writes them: enums, true and false, null."""
    if "anyOf" in schema:
        return [choice for branch in schema["anyOf"] for choice in choices_of(branch)]
    by_type = {"boolean": ["true", "false"], "null": ["null"]}
    if "const" in schema:
        return [schema["const"]]
    return list(schema.get("enum", by_type.get(schema.get("type", ""), [])))


def _range_in_words(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    upper = f"at most {high}" if high is not None else f"below {below}" if below is not None else ""
    if low is not None:
        return f" from {low} to {upper.removeprefix('at most ')}" if upper else f", {low} or more"
    if above is not None:
        return f" above {above}" + (f", {upper}" if upper else "")
    return ""


def unknown_key(key: str) -> str:
    """What to say of a key that the schema lacks: the nearest known one, else all that could stand there."""
    return f"unknown key; {_advice(key)}"


def _advice(key: str) -> str:
    owner, _, name = key.rpartition(".")
    parent, known = parse_key(owner), parse_key(key)
    if parent is not None and parent.name:
        return f"did you mean {parent.owner}.{parent.name}, which takes a mapping?"
    if known is not None and known.name and not known.rest:
        return f"did you mean {name}: in the section {known.section}:?"
    if name in KEYS:
        return f"did you mean the section {name}: at the start of a line?"
    siblings = KEYS[parent.section] if parent is not None else list(KEYS)
    within = f"{owner}." if parent is not None else ""
    by_name = {full.rpartition(".")[2]: full for full in _FULL}
    near = get_close_matches(name, siblings, n=1)
    near_elsewhere = get_close_matches(name, by_name, n=1, cutoff=0.75)
    if exact := [full for full in _FULL if full.endswith("." + name)]:
        guess = " or ".join(exact)
    elif name in _OTHER_NAMES:
        guess = _OTHER_NAMES[name]
    elif _SECRET_NAME.search(name) and not get_close_matches(name, siblings, n=1, cutoff=0.8):
        return "secrets have no place in a config: set HF_TOKEN or WANDB_API_KEY in the environment"
    elif near:
        guess = within + near[0]
    elif near_elsewhere:
        guess = by_name[near_elsewhere[0]]
    else:
        return (f"the keys of {owner}" if parent is not None else "the sections") + " are " + ", ".join(siblings)
    return f"did you mean {guess.replace(f'{parent.section}.', within) if parent is not None else guess}?"
