"""config.yaml and `--set` → a JobConfig and the place of every value, or a ConfigError of every mistake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gptoss_ft.config.schema import KEYS, JobConfig
from gptoss_ft.config.value_errors import in_plain_words
from gptoss_ft.config.words import shown_text, shown_value, unknown_key
from gptoss_ft.config.yaml_text import Mark, read_text
from gptoss_ft.config.yaml_tree import Node, read_tree
from gptoss_ft.errors import ConfigError, Problem

_BEHIND_THE_FILE = (2**31, 0)  # sorts behind every line
CURE = "docs/configuration.md lists every key, what it takes and its default."


@dataclass(frozen=True)
class ConfigSource:
    """Where each value of a job came from.

    `path` is the file as the user named it, `marks` the place of every section and value in it by dotted key
    (`lora.r`, `lora.target_modules[1]`), `overrides` the keys that `--set` gave.
    """

    path: str
    marks: Mapping[str, Mark]
    overrides: tuple[str, ...]

    def place(self, key: str) -> str:
        """`config.yaml:12:19` or `--set lora.r`; for a key nobody gave, its section's, and `(default)`."""
        section, _, name = key.partition(".")
        name = name.partition("[")[0].partition(".")[0]
        if section not in KEYS or (name and name not in KEYS[section]):
            raise KeyError(key)
        whole = f"{section}.{name}" if name else section
        if whole in self.overrides:
            return f"--set {whole}"
        for known in (key, whole, section):
            if known in self.marks:
                mark = self.marks[known]
                note = " (default)" if known == section and name else ""
                return f"{self.path}:{mark.line}:{mark.column}{note}"
        return f"{self.path} (default)"

    def problem(self, key: str, message: str) -> Problem:
        """A mistake that a later room found, with its place: a length beyond the model's own, say."""
        return _problem(self.place(key), key, message)


def _problem(place: str, key: str, message: str) -> Problem:
    """`config.yaml:12:19: lora.r: message`, but `--set lora.r: message`, which names its key already."""
    return Problem(place, f"{shown_text(key)}: {message}" if key and place != f"--set {key}" else message)


@dataclass(frozen=True)
class LoadedConfig:
    """A job, and where each of its values came from."""

    job: JobConfig
    source: ConfigSource


class _Mistakes:
    """Every mistake found so far, to be shown in the order of the file, those of overrides behind."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[tuple[tuple[int, int], Problem]] = []

    def at(self, mark: Mark, key: str, message: str) -> None:
        self.found.append((mark, _problem(f"{self.path}:{mark.line}:{mark.column}", key, message)))

    def in_override(self, key: str, message: str) -> None:
        self.found.append((_BEHIND_THE_FILE, Problem(f"--set {key}", message)))

    def of_value(self, source: ConfigSource, key: str, message: str) -> None:
        place = source.place(key)
        order = _BEHIND_THE_FILE if place.startswith("--set ") else source.marks.get(key, (0, 0))
        self.found.append((order, _problem(place, key, message)))

    def raise_any(self) -> None:
        if self.found:
            raise ConfigError([problem for _, problem in sorted(self.found, key=lambda item: item[0])], CURE)


def load_job_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check a job. `overrides` are `KEY=VALUE`, with VALUE in YAML (empty: null).

    Raises ConfigError with all mistakes of the file and of the overrides, and nothing else for bad input.
    """
    mistakes = _Mistakes(str(path))
    root, faults = read_tree(read_text(path), lambda mark: f"{path}:{mark.line}:{mark.column}")
    for fault in faults:
        mistakes.at(fault.mark, fault.path, fault.message)
    if root is None and not faults:
        mistakes.at(Mark(1, 1), "", "empty; write at least one section, or {} for a job of defaults")
    nodes, marks = _sections(root, mistakes)
    given = _overrides(overrides, mistakes)
    source = ConfigSource(str(path), marks, tuple(f"{section}.{key}" for section, key in given))
    if root is None:  # a rule over several values would be judged without the file's
        mistakes.raise_any()
    for (section, key), node in given.items():
        nodes.setdefault(section, {})[key] = node
    values = {section: {key: node.plain() for key, node in keys.items()} for section, keys in nodes.items()}
    try:
        job = JobConfig.model_validate(values)
    except ValidationError as error:
        for key, message in in_plain_words(error, values, source.place):
            mistakes.of_value(source, key, message)
    mistakes.raise_any()
    return LoadedConfig(job, source)


def _sections(root: Node | None, mistakes: _Mistakes) -> tuple[dict[str, dict[str, Node]], dict[str, Mark]]:
    """The known keys of each section, and the place of everything; unknown keys become mistakes."""
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
            mistakes.at(entry.key_mark, section, unknown_key(section))
            continue
        marks[section] = entry.key_mark
        nodes[section] = {}
        if entry.node.value is None:  # `lora:` with every key below it taken out
            continue
        if not isinstance(entry.node.value, dict):
            read = shown_value(entry.node.plain(), section)
            wanted = f"wanted keys below it, such as {KEYS[section][0]}"
            mistakes.at(entry.node.mark, section, f"read {read}; {wanted}")
            continue
        for key, value in entry.node.value.items():
            if key not in KEYS[section]:
                full = f"{section}.{key}"
                mistakes.at(value.key_mark, full, unknown_key(full))
                continue
            nodes[section][key] = value.node
            _mark_all(f"{section}.{key}", value.node, marks)
    return nodes, marks


def _mark_all(path: str, node: Node, marks: dict[str, Mark]) -> None:
    marks[path] = node.mark
    if isinstance(node.value, list):
        for index, item in enumerate(node.value):
            _mark_all(f"{path}[{index}]", item, marks)
    elif isinstance(node.value, dict):
        for key, entry in node.value.items():
            _mark_all(f"{path}.{key}", entry.node, marks)


def _overrides(overrides: Sequence[str], mistakes: _Mistakes) -> dict[tuple[str, str], Node]:
    """(section, key) → value; a key given twice has its last value."""
    given: dict[tuple[str, str], Node] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        section, _, name = key.partition(".")
        if not equals:
            mistakes.in_override(shown_text(key), "wanted KEY=VALUE, such as training.max_steps=100")
        elif key in KEYS:
            example = f"{key}.{KEYS[key][0]}=…"
            mistakes.in_override(key, f"a section; set one of its keys, such as {example}")
        elif name not in KEYS.get(section, ()):
            mistakes.in_override(shown_text(key), unknown_key(key))
        else:
            root, faults = read_tree(text, lambda mark: f"column {mark.column} of the value")
            for fault in faults:
                mistakes.in_override(key, fault.message)
            if not faults:
                given[section, name] = Node(Mark(1, 1), None) if root is None else root
    return given
