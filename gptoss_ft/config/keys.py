"""Dotted keys: `lora.r`, and where `dataset` is a list of entries, `dataset[1].path`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gptoss_ft.config.schema import KEYS

LISTED = "dataset"  # the one section that may be a list of entries

_KEY = re.compile(r"(?P<section>\w+)(?P<index>\[[0-9]+\])?(?:\.(?P<name>\w+)(?P<rest>[.\[].*)?)?", re.ASCII | re.DOTALL)


class Key(NamedTuple):
    """A key of the schema in its parts.

    `owner` is the section or entry it is in (`lora`, `dataset[1]`), `name` its name in there (empty: the owner
    itself is meant), `rest` what follows: an index, or a name in a mapping.
    """

    section: str
    owner: str
    name: str
    rest: str


def parse_key(text: str) -> Key | None:
    """The parts of a dotted key; None where the schema has no such key."""
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    section, index, name, rest = (part or "" for part in match.group("section", "index", "name", "rest"))
    if section not in KEYS or (index and section != LISTED) or (name and name not in KEYS[section]):
        return None
    return Key(section, section + index, name, rest)


def by_owner(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(`lora`, its values) for each section of a job, and for each entry of a list (`dataset[1]`, its values)."""
    for section, values in config.items():
        if isinstance(values, list):
            yield from ((f"{section}[{index}]", entry) for index, entry in enumerate(values))
        else:
            yield section, values
