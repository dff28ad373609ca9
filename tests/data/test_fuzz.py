"""Rows and files that nobody has written on purpose: every one is a sample, a counted drop, or an error that names it.

Good rows of every format are changed at random: keys renamed and removed, values replaced by anything, strings cut and
filled with control tokens, bytes of the file flipped, lines joined and cut, Parquet columns of other types.
"""

import copy
import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.intake import Intake, LaidOut, check_first_rows
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.rendering import IGNORED
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, JobError, SettingError

Row = dict[str, Any]

ROWS_A_FILE = 40
ROWS_WANTED = 10_000

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Where."}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Seoul"}'}}
GOOD_ROWS: dict[str, list[Row]] = {
    "sharegpt": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello", "thinking": "They greet."},
            ],
            "tools": None,
        },
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {"role": "assistant", "content": "", "thinking": "Ask.", "tool_calls": [CALL]},
                {"role": "tool", "content": '{"rain": true}', "tool_call_id": "call_1"},
                {"role": "assistant", "content": "Yes.", "train": True},
            ],
            "tools": [TOOL],
        },
        {"messages": [{"from": "human", "value": "Größe?"}, {"from": "gpt", "value": "한국어 😀"}], "tools": "[]"},
    ],
    "alpaca": [
        {"instruction": "Add.", "input": "1 and 1", "output": "2"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
    ],
    "prompt_completion": [
        {"prompt": "Once", "completion": " upon a time"},
        {
            "prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
            "completion": [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long."}],
        },
    ],
    "custom": [
        {"text": "Plain text, a line of it."},
        {"text": "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"},
        {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"},
    ],
}
TOKENS = [
    "<|start|>", "<|end|>", "<|return|>", "<|call|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|endoftext|>",
    "<|im_start|>", "<|im_end|>", "assistant", "analysis", "</think>", "functions.", "{{ x }}", "{% endif %}",
]  # fmt: skip
ODD_TEXT = [
    "",
    " ",
    "\0",
    "\ud83d",
    "\udcff",
    "\ufeff",
    "\u2028",
    "\r\n",
    "\ue000",
    "a" * 3000,
    "😀" * 50,
    "null",
    "[]",
    "{",
]
NAMES = [
    "role", "content", "from", "value", "name", "thinking", "tool_calls", "function", "arguments", "messages", "text",
    "output", "prompt", "completion", "tools", "parameters", "type", "properties", "train", "id", "enum", "items",
]  # fmt: skip
ROLES = ["system", "developer", "user", "assistant", "tool", "human", "gpt", "function_call", "observation", "nobody"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner),
    max_leaves=6,
)


class Mutator:
    """Changes rows at random; `values` are put in the place of others."""

    def __init__(self, random: Random, values: list[Any]) -> None:
        self.random = random
        self.values = values

    def rows(self, good: list[Row], count: int) -> list[Row]:
        """As many rows; the first has the columns of the format, so that the others are read at all."""
        return [self.random.choice(good), *(self.row(self.random.choice(good)) for _ in range(count - 1))]

    def row(self, good: Row) -> Row:
        row = copy.deepcopy(good)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3, 6])):
            self._change_somewhere(row)
        return row

    def _change_somewhere(self, row: Row) -> None:
        node: Any = row
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                return
            key = self.random.choice(keys)
            if isinstance(node[key], dict | list) and self.random.random() < 0.8:
                node = node[key]
                continue
            self._change(node, key)
            return

    def _change(self, node: Any, key: Any) -> None:
        action = self.random.randrange(8)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[self.random.choice(NAMES)] = node.pop(key)
        elif action == 2 and isinstance(node, list):
            node.insert(self.random.randrange(len(node) + 1), copy.deepcopy(self.random.choice(node)))
        elif action == 3 and isinstance(node, list):
            self.random.shuffle(node)
        elif action == 4 and isinstance(node[key], dict | list):
            node[key] = json.dumps(node[key])
        elif action == 5 or not isinstance(node[key], str):
            node[key] = copy.deepcopy(self.random.choice([*self.values, self.random.choice(ROLES)]))
        else:
            node[key] = self.text(node[key])

    def text(self, text: str) -> str:
        start, end = sorted(self.random.randrange(len(text) + 1) for _ in range(2))
        return text[:start] + self.random.choice([*TOKENS, *ODD_TEXT, *ROLES]) + text[end:]

    def content(self, content: bytes) -> bytes:
        """Bytes of a file: flipped, lines joined, the end cut off."""
        changed = bytearray(content)
        action = self.random.randrange(4)
        if action == 0:
            for _ in range(self.random.choice([1, 3, 20])):
                changed[self.random.randrange(len(changed))] = self.random.randrange(256)
        elif action == 1:
            ends = [at for at, byte in enumerate(changed) if byte in b'\n"{,']
            for at in sorted(self.random.sample(ends, min(3, len(ends))), reverse=True):
                del changed[at]
        elif action == 2:
            del changed[self.random.randrange(len(changed)) :]
        else:
            # Where a value begins, or anywhere.
            begins = [at + 1 for at, byte in enumerate(changed) if byte in b":,[\n"]
            at = self.random.choice([self.random.choice(begins or [0]), self.random.randrange(len(changed))])
            changed[at:at] = self.random.choice([b"\n", b"\xff", b"\0", b"[" * 3000, b"1" * 5000, b'"', b"\r", b"NaN"])
        return bytes(changed)


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(rows))


def write_csv(path: Path, rows: list[Row]) -> None:
    columns = list(dict.fromkeys(str(column) for row in rows for column in row)) or ["none"]
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([row.get(column, "") for column in columns])


def write_parquet(path: Path, rows: list[Row], random: Random) -> None:
    """Columns of the types that they have, as JSON text where they have several, and sometimes of another type."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    arrays = {_without_surrogates(column): _column([row.get(column) for row in rows], random) for column in columns}
    pq.write_table(pa.table(arrays or {"none": pa.nulls(len(rows))}), path)


def _column(values: list[Any], random: Random) -> Any:
    try:
        array = pa.array(values)
        # Structs without fields can be made, but not written.
        pq.write_table(pa.table({"column": array}), pa.BufferOutputStream())
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
        array = pa.array([_without_surrogates(json.dumps(value)) for value in values])
    other = random.randrange(16)
    if other == 0:
        return pa.array(range(len(values)), random.choice([pa.int8(), pa.float16(), pa.timestamp("s"), pa.date32()]))
    if other == 1:
        return pa.array([2**62] * len(values), pa.timestamp("ns", "UTC"))
    if other == 2:
        return pa.array([b"\xff\xfe", None] * len(values), pa.binary())[: len(values)]
    if other == 3:
        # Claims to be text, and is none.
        return pa.array([b"good", b"\xff\xfe"] * len(values), pa.binary())[: len(values)].view(pa.string())
    if other == 4 and pa.types.is_string(array.type):
        return array.dictionary_encode()
    if other == 5 and pa.types.is_string(array.type):
        return array.cast(pa.large_string())
    if other == 6:
        return pa.array([[("role", "user")], None] * len(values), pa.map_(pa.string(), pa.string()))[: len(values)]
    return array


def _without_surrogates(text: str) -> str:
    return text.encode(errors="replace").decode()


@pytest.fixture(scope="module")
def tokenizers(tiny_gpt_oss: Path, tiny_llama: Path) -> list[PreTrainedTokenizerBase]:
    return [load_tokenizer(str(folder), None, None) for folder in (tiny_gpt_oss, tiny_llama)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every row that preparation takes in."""
    rows: list[int] = []
    take = Intake.take

    def counting(self: Intake, row: LaidOut, samples: Any) -> Iterator[Any]:
        rows.append(row.number)
        return take(self, row, samples)

    monkeypatch.setattr(Intake, "take", counting)
    return rows


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "format": draw(st.sampled_from(list(GOOD_ROWS))),
        # Reading goes on to the end more often than it stops at an error.
        "on_invalid": draw(st.sampled_from(["drop", "drop", "drop", "error"])),
        "max_invalid_fraction": draw(st.sampled_from([1.0, 1.0, 0.5])),
        "on_too_long": draw(st.sampled_from(["drop", "truncate", "truncate", "error"])),
        "train_on": draw(st.sampled_from(["completions", "everything"])),
        "empty_thinking": draw(st.sampled_from(["drop", "keep"])),
        "eval_fraction": draw(st.sampled_from([0.0, 0.2])),
    }


def check(data: PreparedData) -> None:
    origins = [
        set(zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True))
        for table in (data.train, data.eval)
    ]
    assert not origins[0] & origins[1]
    (counts,) = data.summary.sources
    assert counts.kept == len(origins[0] | origins[1])
    assert counts.rows == counts.kept + counts.dropped.total()
    assert data.train.num_rows == data.summary.train.samples > 0
    for table in (data.train, data.eval):
        for ids, labels in zip(table["input_ids"].to_pylist(), table["labels"].to_pylist(), strict=True):
            assert len(ids) == len(labels) <= data.summary.max_seq_length
            assert any(label != IGNORED for label in labels)


def check_error(error: JobError, path: Path) -> None:
    """It is the data's, says which key it is about, and names rows, the file, or the columns that there are."""
    assert isinstance(error, DataError | SettingError)
    assert error.key.startswith("dataset.")
    assert str(path) in error.message or re.search(r"^no column .*; there are: ", error.message, re.DOTALL)
    if "cannot be trained on" in error.message:
        named = error.message.splitlines()[1:]
        assert any(re.match(r"  row \d+( \(.*\))?: ", line) for line in named)


def outcome(job: JobConfig, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    try:
        entries = open_entries(job)
        check_first_rows(entries)
        data = prepare(job, entries, tokenizer)
    except JobError as error:
        check_error(error, path)
    else:
        check(data)


def job_of(path: Path, config: dict[str, Any], max_seq_length: int) -> JobConfig:
    return JobConfig(
        model=ModelSection(max_seq_length=max_seq_length), dataset=DatasetSection(path=str(path), **config)
    )


def test_every_row_is_a_sample_a_counted_drop_or_an_error_that_names_it(
    tokenizers: list[PreTrainedTokenizerBase], counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    fed: Counter[str] = Counter()

    @settings(max_examples=500, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        configs(), st.integers(0, 1), st.sampled_from([40, 120, 1024]), st.sampled_from(["jsonl", "jsonl", "parquet"]),
        st.lists(JSON, min_size=3, max_size=6), st.integers(0, 2**32 - 1),
    )  # fmt: skip
    def feed(
        config: dict[str, Any], which: int, max_seq_length: int, suffix: str, values: list[Any], seed: int
    ) -> None:
        random = Random(seed)
        mutator = Mutator(random, values)
        rows = mutator.rows(GOOD_ROWS[config["format"]], ROWS_A_FILE)
        path = tmp_path / f"rows.{suffix}"
        if suffix == "parquet":
            write_parquet(path, rows, random)
        else:
            write_jsonl(path, rows)
        outcome(job_of(path, config, max_seq_length), tokenizers[which], path)
        fed[config["format"]] += ROWS_A_FILE

    feed()
    assert len(counted) >= ROWS_WANTED
    assert min(fed[format_] for format_ in GOOD_ROWS) >= ROWS_WANTED // 4


def test_every_file_is_read_or_named(
    tokenizers: list[PreTrainedTokenizerBase], counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    files = 0

    @settings(max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        configs(),
        st.integers(0, 1),
        st.sampled_from(["jsonl", "jsonl", "json", "csv", "parquet"]),
        st.integers(0, 2**32 - 1),
    )
    def feed(config: dict[str, Any], which: int, suffix: str, seed: int) -> None:
        nonlocal files
        random = Random(seed)
        mutator = Mutator(random, [1, None, "x"])
        rows = mutator.rows(GOOD_ROWS[config["format"]], ROWS_A_FILE)
        path = tmp_path / f"rows.{suffix}"
        if suffix == "parquet":
            write_parquet(path, rows, random)
        else:
            {"jsonl": write_jsonl, "json": write_json, "csv": write_csv}[suffix](path, rows)
        for _ in range(random.choice([1, 1, 4])):
            path.write_bytes(mutator.content(path.read_bytes() or b" "))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome(job_of(path, config, 512), tokenizers[which], path)
        files += 1

    feed()
    assert files >= 400
    assert len(counted) >= 1_000
