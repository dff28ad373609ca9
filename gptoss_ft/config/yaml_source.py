"""config.yaml and `--set` → a JobConfig and the place of every value, or a ConfigError of every mistake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptoss_ft.config.keys import LISTED, parse_key
from gptoss_ft.config.mistakes import Mistakes
from gptoss_ft.config.places import ConfigSource
from gptoss_ft.config.schema import KEYS, JobConfig
from gptoss_ft.config.secret_values import IN_A_CONFIG, secret_keys
from gptoss_ft.config.value_errors import in_plain_words
from gptoss_ft.config.words import shown_text, shown_value, unknown_key
from gptoss_ft.config.yaml_text import Mark, read_text
from gptoss_ft.config.yaml_tree import Node, read_tree


@dataclass(frozen=True)
class LoadedConfig:
    """A job, and where each of its values came from."""

    job: JobConfig
    source: ConfigSource


def load_job_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check a job. `overrides` are `KEY=VALUE`, with VALUE in YAML (empty: null).

    Raises ConfigError with the mistakes of the file and of the overrides (of many the first MOST_SHOWN), and nothing
    else for bad input.
    """
    mistakes = Mistakes(str(path))
    root, faults = read_tree(read_text(path), lambda mark: f"{path}:{mark.line}:{mark.column}")
    for fault in faults:
        mistakes.at(fault.mark, fault.path, fault.message)
    if root is None and not faults:
        mistakes.at(Mark(1, 1), "", "empty; write at least one section, or {} for a job of defaults")
    nodes, marks = _sections(root, mistakes)
    given = _overrides(overrides, mistakes)
    source = ConfigSource(str(path), marks, tuple(f"{owner}.{key}" for owner, key in given))
    if root is None:  # a rule over several values would be judged without the file's
        mistakes.raise_any()
    for (owner, key), node in given.items():
        if advice := _misplaced(owner, key, nodes):
            mistakes.in_override(shown_text(f"{owner}.{key}"), advice)
        else:
            nodes.setdefault(owner, {})[key] = node
    values = _plain(nodes)
    secret = set(secret_keys(values))
    for key in secret:
        mistakes.of_value(source, key, IN_A_CONFIG)
    try:
        job = JobConfig.model_validate(values)
    except ValidationError as error:
        for key, message in in_plain_words(error, values, source.place):
            if key not in secret:
                mistakes.of_value(source, key, message)
    mistakes.raise_any()
    return LoadedConfig(job, source)


def _sections(root: Node | None, mistakes: Mistakes) -> tuple[dict[str, dict[str, Node]], dict[str, Mark]]:
    """The known keys of each section or entry, and the place of everything; unknown keys become mistakes."""
    nodes: dict[str, dict[str, Node]] = {}
    marks: dict[str, Mark] = {}
    if root is None:
        return nodes, marks
    if not isinstance(root.value, dict):
        sections = ", ".join(KEYS)
        read = shown_value(root.plain())
        mistakes.at(root.mark, "", f"read {read}; wanted the sections {sections}, each with keys below")
        return nodes, marks
    for section, entry in root.value.items():
        if section not in KEYS:
            mistakes.unknown(entry.key_mark, section)
            continue
        marks[section] = entry.key_mark
        content = entry.node.value
        if section == LISTED and isinstance(content, list) and content:
            for index, item in enumerate(content):
                owner = f"{section}[{index}]"
                marks[owner] = item.mark
                nodes[owner] = _known_keys(section, owner, item, marks, mistakes)
        else:
            # `lora:` with every key below it taken out reads as null
            nodes[section] = {} if content is None else _known_keys(section, section, entry.node, marks, mistakes)
    return nodes, marks


def _known_keys(section: str, owner: str, node: Node, marks: dict[str, Mark], mistakes: Mistakes) -> dict[str, Node]:
    """The known keys of one section or entry, the `owner`; none where it is not a mapping, which is a mistake."""
    if not isinstance(node.value, dict):
        if (node.mark, owner) in mistakes.in_file:  # refused as it was read
            return {}
        or_list = ", or a list of entries with such keys" if owner == LISTED else ""
        read = shown_value(node.plain(), owner)
        mistakes.at(node.mark, owner, f"read {read}; wanted keys below it, such as {KEYS[section][0]}{or_list}")
        return {}
    known = {}
    for key, value in node.value.items():
        full = f"{owner}.{key}"
        if key in KEYS[section]:
            known[key] = value.node
            _mark_all(full, value.node, marks)
        else:
            mistakes.unknown(value.key_mark, full)
    return known


def _plain(nodes: Mapping[str, Mapping[str, Node]]) -> dict[str, Any]:
    """The values without places, by section and key; entries (`dataset[0]`, `dataset[1]`, …) as a list again."""
    values: dict[str, Any] = {}
    for owner, keys in nodes.items():
        section, bracket, _ = owner.partition("[")
        plain = {key: node.plain() for key, node in keys.items()}
        if bracket:
            values.setdefault(section, []).append(plain)
        else:
            values[section] = plain
    return values


def _mark_all(path: str, node: Node, marks: dict[str, Mark]) -> None:
    marks[path] = node.mark
    if isinstance(node.value, list):
        for index, item in enumerate(node.value):
            _mark_all(f"{path}[{index}]", item, marks)
    elif isinstance(node.value, dict):
        for key, entry in node.value.items():
            _mark_all(f"{path}.{key}", entry.node, marks)


def _overrides(overrides: Sequence[str], mistakes: Mistakes) -> dict[tuple[str, str], Node]:
    """(section or entry, key) → value; a key given twice has its last value."""
    given: dict[tuple[str, str], Node] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        parsed = parse_key(key)
        if not equals or not key:
            mistakes.in_override(shown_text(key), "wanted KEY=VALUE, such as training.max_steps=100")
        elif parsed is None or parsed.rest:
            mistakes.in_override(shown_text(key), unknown_key(key))
        elif not parsed.name:
            kind = "a section" if parsed.owner == parsed.section else "an entry"
            example = f"{parsed.owner}.{KEYS[parsed.section][0]}=…"
            mistakes.in_override(shown_text(key), f"{kind}; set one of its keys, such as {shown_text(example)}")
        else:
            root, faults = read_tree(text, lambda mark: f"column {mark.column} of the value")
            for fault in faults:
                mistakes.in_override(shown_text(key), fault.message)
            if not faults:
                given[parsed.owner, parsed.name] = Node(Mark(1, 1), None) if root is None else root
    return given


def _misplaced(owner: str, key: str, nodes: Mapping[str, object]) -> str:
    """What to say of an override of an entry that the file does not have; empty where the file has it."""
    section, bracket, _ = owner.partition("[")
    entries = [name for name in nodes if name.startswith(f"{section}[")]
    if entries and not bracket:
        return f"{section} is a list; name the entry, as in {entries[0]}.{key}"
    if bracket and not entries:
        return f"{section} is not a list; leave the index out, as in {section}.{key}"
    if bracket and owner not in nodes:
        return f"{section} has {len(entries)} {'entry' if len(entries) == 1 else 'entries'}, counted from 0"
    return ""
