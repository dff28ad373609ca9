"""JSON files as they go wrong: a good one with values, keys or bytes changed at random."""

import copy
import json
from random import Random
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 0.5, 2**63, 10**17, float("inf"), float("nan"), "", " ", "x", "none", "LORA", "\0",
    "\ud800", "a\nb", "😀" * 40, "../x", "owner/name", "hf_" + "a" * 30, [], {}, [[]], [None], ["x", 1], {"x": 1}, [{}],
]  # fmt: skip
PIECES = [
    b"\xff", b"\0", b"\xef\xbb\xbf", b"[" * 200_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b"-Infinity", b"1e999",
    b'"', b",", b"}", b"]", b"\n", b"\\ud800", b"\\x", b"//", b"null",
]  # fmt: skip


def broken(good: Any, random: Random) -> bytes:
    """The bytes of `good` with a few changes; seldom still what it was."""
    value = copy.deepcopy(good)
    for _ in range(random.choice([1, 1, 2, 4])):
        value = _changed(value, random)
    data = json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "backslashreplace")
    if random.random() < 0.25:
        at = random.randrange(len(data) + 1)
        data = random.choice([data[:at], data[:at] + random.choice(PIECES) + data[at + random.randrange(3) :]])
    return data


def _changed(value: Any, random: Random) -> Any:
    """`value` with one change, somewhere in it."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.05:
        return copy.deepcopy(random.choice(VALUES))
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    change = random.randrange(8)
    if change == 0:
        del value[key]
    elif change == 1 and isinstance(value, dict):
        value[random.choice([*map(str, value), "x", "", "function", "prompt"])] = value.pop(key)
    elif change == 2:
        value[key] = random.choice([[value[key]], {"x": value[key]}, json.dumps(value[key])])
    else:
        value[key] = _changed(value[key], random)
    return value
