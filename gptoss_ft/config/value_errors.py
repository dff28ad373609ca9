"""pydantic's errors → sentences: what was read, what was wanted, what may have been meant."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from gptoss_ft.config.keys import LISTED, by_owner
from gptoss_ft.config.reference import value_schema
from gptoss_ft.config.words import choices_of, in_words, shown_value


class _Wrong(NamedTuple):
    """A value that was refused: its dotted key, itself, its JSON schema; whether it is the name in a mapping."""

    key: str
    value: Any
    schema: dict[str, Any]
    is_name: bool


def in_plain_words(
    error: ValidationError, values: Mapping[str, Any], place: Callable[[str], str]
) -> Sequence[tuple[str, str]]:
    """(dotted key, message) of each wrong value, once, however many branches of its type it fails.

    `values` are the values as they were read: by section and key, with a list of them where `dataset` is one;
    `place` says where a key stands.
    """
    messages: dict[str, str] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "entries":
            messages |= _unfit_entries(details["ctx"]["faults"], values)
            continue
        wrong = _locate(details["loc"], values)
        if wrong.key in messages:
            continue
        read = f"read {shown_value(wrong.value, wrong.key)}{' as a name' * wrong.is_name}; "
        if details["type"] == "two_ends":
            messages[wrong.key] = read + _two_ends(values["training"], place)
        elif details["type"] == "value_error":
            messages[wrong.key] = read + str(details["ctx"]["error"])
        else:
            messages[wrong.key] = read + "wanted " + in_words(wrong.schema) + _hint(wrong.value, wrong.schema)
    return list(messages.items())


def _unfit_entries(faults: Sequence[tuple[str, str]], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    owners = dict(by_owner(values))
    for key, message in faults:
        owner, _, name = key.rpartition(".")
        value = owners[owner].get(name, value_schema(LISTED, name)["default"])
        yield key, f"read {shown_value(value, key)}; {message}"


def _locate(location: tuple[int | str, ...], values: Mapping[str, Any]) -> _Wrong:
    """What is wrong, as deep as the value reaches.

    pydantic's location mixes keys and indices with names of union branches, which are no part of the value.
    """
    section, *rest = location
    owner, given = str(section), values.get(str(section), {})
    if section == LISTED:
        rest = rest[1:]  # which of its two shapes it has
    if isinstance(given, list):
        owner, given = f"{owner}[{rest[0]}]", given[int(rest[0])]
        rest = rest[1:]
    name, *rest = rest
    path, schema = f"{owner}.{name}", value_schema(str(section), str(name))
    value = given.get(str(name), schema["default"])
    for part in rest:
        branches = schema.get("anyOf", [schema])
        items = next((branch["items"] for branch in branches if "items" in branch), None)
        entries = next(
            (branch["additionalProperties"] for branch in branches if "additionalProperties" in branch), None
        )
        if isinstance(part, int) and isinstance(value, list) and items is not None:
            path, value, schema = f"{path}[{part}]", value[part], items
        elif isinstance(part, str) and isinstance(value, dict) and part in value and entries is not None:
            path, schema = f"{path}.{part}", entries
            if rest[-1] == "[key]" and part != "[key]":  # pydantic's mark of a wrong name, not a wrong value
                return _Wrong(path, part, schema, is_name=True)
            value = value[part]
    return _Wrong(path, value, schema, is_name=False)


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
