"""YAML text → a tree of plain values that remembers where each of them stands.

It is built from ruamel.yaml's events, not by its constructors: so every value has a place, duplicate keys
have two, nothing is built that a config cannot hold (dates, sets, Python objects), and no input, however deep
or self-referring, costs more than a message. Scalars follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2,
§10.3.2): `2e-4` is a number; `on`, `yes` and `2025-06-01` are text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from gptoss_ft.config.words import shown_text, shown_value
from gptoss_ft.config.yaml_text import Fault, Mark, Stop, events, mark_of

MAX_DEPTH = 20
MAX_VALUES = 10_000  # with every alias written out: a few lines of aliases of aliases can stand for billions
TEXT_OF_A_VALUE = 100  # characters that count as one more value: an alias of a long text is as dear
MAX_DIGITS = 18  # what fits 64 bits; Python refuses to print integers beyond 4300 digits

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Entry:
    key_mark: Mark
    node: "Node"


@dataclass(slots=True)
class Node:
    """A value and where it stands; `size` counts the values in it, itself included, and long text as several."""

    mark: Mark
    value: "Scalar | list[Node] | dict[str, Entry]"
    size: int = 1

    def plain(self) -> Any:
        """The value without places: None, bool, int, float, str, list or dict."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class _Refused(Exception):
    """One value that cannot be taken; reading goes on behind it."""


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been reached."""

    node: Node
    key: str | None = None
    key_mark: Mark | None = None
    merges: list[Node] = field(default_factory=list)


def read_tree(text: str, place: Callable[[Mark], str]) -> tuple[Node | None, list[Fault]]:
    """Parse one YAML document. `place` words a position, for faults that have two.

    Returns the root (None for an empty text, and where reading had to stop) and all that is wrong.
    A scalar, alias or key with a fault is left out of the tree; as the item of a list it is null.
    """
    builder = _Builder(place)
    try:
        for event in events(text):
            builder.take(event)
    except Stop as stop:
        return None, [*builder.faults, stop.fault]
    return builder.root, builder.faults


def _core_schema(text: str) -> Scalar:
    """The value of a scalar written without quotes, by the core schema of YAML 1.2."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise _Refused(f"read a number of {len(text)} digits; wanted at most {MAX_DIGITS}")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _tag_refused(tag: str) -> str:
    short = tag.replace("tag:yaml.org,2002:", "!!")
    return f"the YAML tag {shown_text(short)} is not read; write the plain value, text in quotes"


class _Builder:
    """Takes the events of one document, in order, and keeps the lists and mappings still open on a stack."""

    def __init__(self, place: Callable[[Mark], str]) -> None:
        self.place = place
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.documents = 0
        self.values = 0

    def take(self, event: Event) -> None:
        mark = mark_of(event.start_mark)
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise Stop(mark, "a second document starts here; one file is one job, so take out the `---`")
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            closed = self.stack.pop()
            self._merge(closed)
            self._put(closed.node)
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            node = Node(mark, {} if isinstance(event, MappingStartEvent) else [])
            if event.tag is not None:
                self._fault(mark, _tag_refused(event.tag))
            self._anchor(event, node)
            self.stack.append(_Open(node))
            if len(self.stack) > MAX_DEPTH:
                raise Stop(mark, f"lists or mappings more than {MAX_DEPTH} deep")
            self._count(1, mark)
        elif isinstance(event, ScalarEvent | AliasEvent):
            try:
                self._put(self._alias(event, mark) if isinstance(event, AliasEvent) else self._scalar(event, mark))
            except _Refused as refused:
                self._fault(mark, str(refused))
                self._drop(mark)

    def _scalar(self, event: ScalarEvent, mark: Mark) -> Node:
        size = 1 + len(event.value) // TEXT_OF_A_VALUE
        self._count(size, mark)
        if event.tag is not None:
            raise _Refused(_tag_refused(event.tag))
        key_mark = self.stack[-1].key_mark if self.stack else None
        if key_mark is not None and event.value == "" and event.style is None:
            mark = key_mark  # ruamel.yaml puts an empty value at the next token, often the next line
        node = Node(mark, _core_schema(event.value) if event.style is None else event.value, size)
        self._anchor(event, node)
        return node

    def _alias(self, event: AliasEvent, mark: Mark) -> Node:
        target = self.anchors.get(event.anchor)
        if target is None:
            raise _Refused(f"*{shown_text(event.anchor)} refers to nothing: no &{shown_text(event.anchor)} above it")
        if any(frame.node is target for frame in self.stack):
            raise _Refused(f"*{shown_text(event.anchor)} refers to what it is part of")
        self._count(target.size, mark)
        return Node(mark, target.value, target.size)

    def _put(self, node: Node) -> None:
        """Give a finished value to what holds it: as the root, an item, a key, or the value of a key."""
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        holder = frame.node.value
        if isinstance(holder, list):
            holder.append(node)
        elif isinstance(holder, dict) and frame.key_mark is None:
            frame.key_mark, frame.key = node.mark, self._key(node)
            return
        elif isinstance(holder, dict) and frame.key_mark is not None:
            if frame.key == "<<":
                frame.merges.append(node)
            elif frame.key is not None and frame.key in holder:
                first = self.place(holder[frame.key].key_mark)
                self._fault(frame.key_mark, f"written twice; first at {first}")
            elif frame.key is not None:
                holder[frame.key] = Entry(frame.key_mark, node)
            frame.key, frame.key_mark = None, None
        frame.node.size += node.size

    def _drop(self, mark: Mark) -> None:
        """Pass over a refused value: a refused key still has a value to come, which goes with it.

        In a list null stands in for it, so that the items behind keep their index.
        """
        frame = self.stack[-1] if self.stack else None
        if frame is not None and isinstance(frame.node.value, list):
            frame.node.value.append(Node(mark, None))
        if frame is not None and isinstance(frame.node.value, dict):
            frame.key_mark = frame.node.mark if frame.key_mark is None else None
            frame.key = None

    def _key(self, node: Node) -> str | None:
        if isinstance(node.value, str):
            return node.value
        if isinstance(node.value, list | dict):
            self._fault(node.mark, "a list or mapping as a key; text that starts with { or [ needs quotes")
        else:
            self._fault(node.mark, f"read {shown_value(node.value)} as a key; wanted a name")
        return None

    def _merge(self, closed: _Open) -> None:
        """`<<: *other` adds the keys of another mapping that are not written out (yaml.org/type/merge)."""
        entries = closed.node.value
        for merge in closed.merges:
            for source in merge.value if isinstance(merge.value, list) else [merge]:
                if not (isinstance(source.value, dict) and isinstance(entries, dict)):
                    self._fault(
                        source.mark,
                        f"read << with {shown_value(source.plain())}; wanted a mapping or its alias",
                    )
                    continue
                for key, entry in source.value.items():
                    entries.setdefault(key, entry)

    def _anchor(self, event: NodeEvent, node: Node) -> None:
        if event.anchor is not None:
            self.anchors[event.anchor] = node

    def _count(self, values: int, mark: Mark) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise Stop(mark, f"more than {MAX_VALUES} values, or as much text, with aliases written out")

    def _fault(self, mark: Mark, message: str) -> None:
        self.faults.append(Fault(mark, self._path(), message))

    def _path(self) -> str:
        """The dotted key of what is being read, as far as it has one: `dataset[1].path`."""
        path = ""
        for frame in self.stack:
            if isinstance(frame.node.value, list):
                path += f"[{len(frame.node.value)}]" if path else ""
            elif frame.key is not None:
                path += f".{frame.key}" if path else frame.key
            else:
                break
        return path
