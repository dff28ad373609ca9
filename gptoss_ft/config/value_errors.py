"""pydantic's errors → sentences: what was read, what was wanted, what may have been meant."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gptoss_ft.config.reference import value_schema
from gptoss_ft.config.words import choices_of, in_words, shown_value


def in_plain_words(
    error: ValidationError, values: Mapping[str, Mapping[str, Any]], place: Callable[[str], str]
) -> Sequence[tuple[str, str]]:
    """(dotted key, message) of each wrong value, once, however many branches of its type it fails.

    `values` are the values by section and key, as they were read; `place` says where a key stands.
    """
    messages: dict[str, str] = {}
    for details in error.errors(include_url=False):
        key, value, schema = _locate(details, values)
        if key in messages:
            continue
        read = f"read {shown_value(value, key)}; "
        if details["type"] == "two_ends":
            messages[key] = read + _two_ends(values["training"], place)
        elif details["type"] == "value_error":
            messages[key] = read + str(details["ctx"]["error"])
        else:
            messages[key] = read + "wanted " + in_words(schema) + _hint(value, schema)
    return list(messages.items())


def _locate(details: ErrorDetails, values: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """The dotted key, value and JSON schema of what is wrong, as deep as the value reaches.

    pydantic's location mixes keys and indices with names of union branches, which are no part of the value.
    """
    section, key, *rest = details["loc"]
    path, schema = f"{section}.{key}", value_schema(str(section), str(key))
    value = values.get(str(section), {}).get(str(key), schema["default"])
    for part in rest:
        branches = schema.get("anyOf", [schema])
        items = next((branch["items"] for branch in branches if "items" in branch), None)
        entries = next(
            (branch["additionalProperties"] for branch in branches if "additionalProperties" in branch), None
        )
        if isinstance(part, int) and isinstance(value, list) and items is not None:
            path, value, schema = f"{path}[{part}]", value[part], items
        elif isinstance(part, str) and isinstance(value, dict) and part in value and entries is not None:
            path, value, schema = f"{path}.{part}", value[part], entries
    return path, value, schema


# What other tools take for a word of YAML.
_WORDS = {"none": "null", "nil": "null", "yes": "true", "on": "true", "no": "false", "off": "false"}


def _hint(value: Any, schema: dict[str, Any]) -> str:
    """What a person may have meant by a wrong value, where that can be guessed."""
    takes_text = any(branch.get("patternErrorMessage") == "text" for branch in schema.get("anyOf", [schema]))
    if isinstance(value, str):
        choices = choices_of(schema)
        meant = _WORDS.get(value.lower(), value.lower())
        if near := get_close_matches(meant, choices, n=1):
            return f"; did you mean {near[0]}?"
        return "; on one line, with no space around it" if takes_text else ""
    return "; quotes make it text" if takes_text and isinstance(value, bool | int | float) else ""


def _two_ends(training: Mapping[str, Any], place: Callable[[str], str]) -> str:
    epochs, steps = "training.num_train_epochs", "training.max_steps"
    where = f"{epochs} is {shown_value(training['num_train_epochs'])} at {place(epochs)}"
    by_override = {key for key in (steps, epochs) if place(key).startswith("--set ")}
    if len(by_override) == 1:
        other = epochs if steps in by_override else steps
        cure = f"pass --set {other}=null as well"
    else:
        cure = "write null for one of them"
    return f"a run ends by steps or by epochs, and {where}; {cure}"
