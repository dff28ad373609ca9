"""Configs as they go wrong: config.yaml and the recipes, changed at random as trees and as text.

`broken(base, random)` gives the bytes of one; the same seed gives the same bytes. Some of what comes out is a valid
job: a value was replaced by another that its key takes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[1]


class Pairs(list[list[Any]]):
    """A mapping as [key, value] pairs, which can hold a key twice."""


class Raw(str):
    """A piece of YAML, written as it stands."""


def _nested(opening: str, closing: str, depth: int) -> Raw:
    return Raw(opening * depth + closing * depth)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
LONG_LAUGH = 'long: &long "' + "ha" * 10_000 + '"\n'
SHARED = "shared: &shared {r: 4, alpha: 8, path: rows.jsonl}\n"
LONG = 20_000
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 2**31, 2**63, 2**64, -(2**63), 10**17, 1e-300, 1e300,
    *map(Raw, ("1e999", "-1e999", ".nan", ".inf", "-.inf", "0x" + "f" * 16, "0o777", "9" * 19, "9" * 5000, "1_000")),
    *map(Raw, ("1e" + "9" * 30, "0." + "0" * 400 + "1", "+.5", "1:30", "0b1", "08", "2e4", "~", "Null", "TRUE", "yes")),
    "", " ", "on", "none", "null", "x", "tiny/llama", "owner/name", "../../etc/passwd", "~/x", "/dev/zero", "a\\b",
    "hf_" + "a" * 30, "sk-" + "b" * 40, "{{ 7 * 7 }}", "${HOME}", "$(id)", "%s%n", "text # no comment", "a: b", "- a",
    "مرحبا بالعالم", "\u202eabc\u202c", "\u200f", "한국어 😀", "e\u0301" * 40, "\ufeff", "\u2028", "\x85", "\u00a0x",
    "\t", "a\tb", "a\nb", "\r", "a" * LONG, "😀" * 5000, "a " * 3000,
    *map(Raw, ('"\\0"', '"\\ud800"', '"\\U00110000"', '"\\x0"', '"\\q"', "'it''s'", "'open", '"open', "\\U00110000")),
    *map(Raw, ("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary aGk=", "!!set {a}")),
    *map(Raw, ("!!str 1", "!!int x", "! 1", "!local {a: 1}", "!e!x 1", "!<tag:x> 1", "!!timestamp 2001-01-01", "!")),
    *map(Raw, ("&a [*a]", "*nope", "*a5", "*shared", "&x 1", "&shared 2", "& 1", "*", "&a &b 1", "&x !!str &y 1")),
    *map(Raw, ("|\n  text\n   more", ">-\n  a\n\n  b", "|9\n x", ">+", "|", "@x", "`x`", "%x", ", ", "? a", "- - - 1")),
    *map(Raw, ("[", "]", "{", "}", "[1", "{a", "{a: 1", "[a: 1, b]", "{a, b: , : c}", "[[], {}]", "{? [1] : 2}")),
    *(_nested("[", "]", depth) for depth in (3, 18, 19, 25, 1000, 30_000)),
    *(_nested("{a: ", "}", depth) for depth in (3, 19, 25, 1000)),
    [], ["x"], [1, "x", None], ["q_proj"] * 500, [Raw("*long")] * 15, [Raw("*long")] * 3000,
    Pairs(), Pairs([["x", 1]]), [Pairs([["path", "x"]])],
]  # fmt: skip
KEYS: list[str] = [
    "<<", "~", "1", "true", "1.5", "[a]", "{a: b}", "? a", "- a", "*shared", "&k a", "!!str r", "'r'", '"\\u0072"',
    '""', "r ", "R", "г", "r\u200b", "\u202er", "hf_token", "token", "lora.r", "dataset[0]", "__class__",
    "model_config", "k" * 2000, "k" * 200, "model", "dataset", "training", "rank", "lr", "max_steps", "é" * 300, "\t",
]  # fmt: skip
PIECES: list[str] = [
    "\t", " ", "\n", "\r", "\r\n", "\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ufeff", "\ufffe",
    "\u200f", "😀", ":", ": ", "- ", "#", " #", "? ", "&a ", "*a ", "!!python/object:os.system ", "!", "|", ">", "'",
    '"', "[", "]", "{", "}", ",", "%YAML 1.1\n---\n", "%YAML 2.0\n---\n", "%YAML 1." + "1" * 5000 + "\n---\n",
    "\n---\n",
    "%TAG ! tag:x,2000:\n---\n", "%FOO bar\n---\n", "%\n", "\n...\n", "--- |\n", "---", "<<: *shared\n", "@", "`", "\\",
    "x" * LONG, "\n" * 3000, " " * LONG, "- " * 2000, "? " * 2000, "[" * LONG, "a: " * 500, "# " + "c" * LONG + "\n",
    "\n".join(f"k{number}: {number}" for number in range(3000)) + "\n",
    "\n".join(f"  target_module{number}: {number}" for number in range(5000)) + "\n",
    "\ndataset:\n" + "  - path: 1\n" * 3000, "\ndataset: [" + "{}, " * 4000 + "]\n",
    "\nlora: {target_modules: [" + "1, " * 9000 + "]}\n",
]  # fmt: skip


def bases() -> list[str]:
    """The texts that are changed: config.yaml, every recipe, and one with a list of data sets."""
    paths = [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "configs").glob("*.yaml"))]
    listed = (
        "dataset:\n  - {path: a.jsonl, weight: 3}\n  - path: b.jsonl\n    weight: 1\n    rename_columns: {q: text}\n"
    )
    return [*(path.read_text(encoding="utf-8") for path in paths), listed]


def broken(base: str, random: Random) -> bytes:
    """`base` with a few changes, most often to what it says, else to how it is written; sometimes to both."""
    way = random.random()
    text = base
    if way < 0.7:
        tree = _pairs(YAML(typ="safe", pure=True).load(base))
        for _ in range(random.choice([1, 1, 2, 3, 8])):
            _change_tree(tree, random)
        text = random.choice(["", "", "", SHARED, LAUGHS, LONG_LAUGH]) + _block(tree, 0, random)
    if way > 0.6:
        for _ in range(random.choice([1, 1, 2, 5])):
            text = _change_text(text, random)
    return _encoded(text, random)


def override(random: Random) -> str:
    """One `--set`, seldom right."""
    section, key = random.choice(["lora", "model", "dataset", "dataset[0]", "training", "x", ""]), random.choice(KEYS)
    name = random.choice(["lora.r", "training.max_steps", "dataset.path", f"{section}.{key}", section, key])
    value = _flow(random.choice(VALUES), random)
    return (name + random.choice(["=", "=", "=", "", "=="]) + value).replace("\0", "")


def _pairs(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([[key, _pairs(item)] for key, item in value.items()])
    return [_pairs(item) for item in value] if isinstance(value, list) else value


def _change_tree(tree: Pairs, random: Random) -> None:
    """One change at a random mapping of the tree."""
    holder = tree
    while inner := [value for _, value in holder if isinstance(value, Pairs) and value]:
        if random.random() < 0.25:
            break
        holder = random.choice(inner)
    if not holder:
        return
    at = random.randrange(len(holder))
    pair = holder[at]
    change = random.randrange(9)
    if change == 0:
        del holder[at]
    elif change == 1:
        holder.insert(random.randrange(len(holder) + 1), [pair[0], random.choice([pair[1], *VALUES])])
    elif change == 2:
        pair[0] = random.choice([*KEYS, _misspelt(str(pair[0]), random)])
    elif change == 3:
        pair[1] = random.choice([[pair[1]], Pairs([pair[:]]), Pairs([["<<", pair[1]]]), [pair[1]] * 3])
    elif change == 4:
        tree.append(pair[:])  # a key of a section where sections stand
    elif change == 5:
        holder.append(["<<", Raw(random.choice(["*shared", "[*shared, *a5]", "*nope", "1", "{r: 2}", "[{r: 2}, 3]"]))])
    elif change == 6 and not isinstance(pair[1], Pairs | list):
        mark = random.choice(["&shared ", "!!str ", "!!python/object:x ", "&a !x ", "*shared ", "! "])
        pair[1] = Raw(mark + _flow(pair[1], random))
    else:
        pair[1] = random.choice(VALUES)


def _misspelt(name: str, random: Random) -> str:
    at = random.randrange(len(name) + 1)
    return name[:at] + random.choice(["", "x", "_", name[:1], name]) + name[at + random.randrange(2) :]


def _block(tree: Pairs, indent: int, random: Random) -> str:
    lines = []
    for key, value in tree:
        start = " " * indent + str(key) + ":"
        if isinstance(value, Pairs) and value and random.random() < 0.9 and indent < 8:
            lines.append(f"{start}\n{_block(value, indent + 2, random)}")
        else:
            lines.append(f"{start} {_flow(value, random)}\n")
    return "".join(lines)


def _flow(value: Any, random: Random) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{key}: {_flow(item, random)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item, random) for item in value) + "]"
    if isinstance(value, str) and random.random() < 0.3:
        return value
    return json.dumps(value, ensure_ascii=random.random() < 0.5)


def _change_text(text: str, random: Random) -> str:
    start, end = sorted(random.randrange(len(text) + 1) for _ in range(2))
    lines = text.splitlines(keepends=True) or [""]
    line = random.randrange(len(lines))
    changes: list[Callable[[], str]] = [
        lambda: text[:start] + random.choice(PIECES) + text[start:],
        lambda: text[:start] + random.choice(PIECES) + text[start:],
        lambda: text[:start] + random.choice(PIECES) + text[min(end, start + random.randrange(30)) :],
        lambda: text[:start] + text[end:],
        lambda: text[:start],
        lambda: "".join(_with(lines, line, lines[line] * random.choice([2, 2, 300]))),
        lambda: "".join(_with(lines, line, random.choice([" ", "\t", "   "]) + lines[line])),
        lambda: "".join(_with(lines, line, lines[line].lstrip())),
        lambda: "".join(_with(lines, line, random.choice(PIECES) + lines[line])),
        lambda: "".join(random.sample(lines, len(lines))),
        lambda: text.replace("\n", random.choice(["\r\n", "\r", "\n\n", "\x85", "\n\t"])),
        lambda: text.replace("  ", "\t"),
        lambda: text + "---\n" + text,
        lambda: random.choice(
            ["", "{}", "[]", "null", "#", "---", "\ufeff", "|", "- a", "x", "\t", "%YAML 1.2\n--- {}"]
        ),
    ]
    return random.choice(changes)()


def _with(lines: Sequence[str], at: int, line: str) -> list[str]:
    return [*lines[:at], line, *lines[at + 1 :]]


def _encoded(text: str, random: Random) -> bytes:
    """As bytes: nearly always UTF-8, with or without its mark; else another encoding, or with bytes that are none."""
    way = random.randrange(30)
    if way == 0:
        return text.encode(random.choice(["utf-16", "utf-32", "utf-16-be", "utf-7"]), "replace")
    data = text.encode("latin-1" if way == 1 else "utf-8-sig" if way == 2 else "utf-8", "replace")
    if way == 3:
        at = random.randrange(len(data) + 1)
        data = data[:at] + random.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]) + data[at:]
    return data
