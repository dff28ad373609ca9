"""Files of messages and of questions that are broken: each is read, or named in a `DataError` with file and line."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

from broken_json import broken

from gptoss_ft.errors import DataError
from gptoss_ft.inference.prompts import Question, read_batch, read_messages_file

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": "",
        "thinking": "Ask.",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Seoul"}'}}
        ],
    },
    {"role": "tool", "content": "yes", "tool_call_id": "1"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}]
GOOD: list[Any] = [
    MESSAGES,
    {"messages": MESSAGES, "tools": TOOLS},
    {"messages": [{"from": "human", "value": "Größe?"}], "reasoning_effort": "low", "id": 7},
    {"prompt": "Hi", "tools": TOOLS, "reasoning_effort": "high"},
]
FILES = 2_000


def test_a_broken_messages_file_is_read_or_named(tmp_path: Path) -> None:
    file, read = tmp_path / "messages.json", 0
    for seed in range(FILES):
        random = Random(seed)
        file.write_bytes(broken(random.choice(GOOD[:2]), random))
        try:
            assert isinstance(read_messages_file(file), Question)
            read += 1
        except DataError as error:
            assert error.message.startswith(str(file)), seed
    assert FILES // 20 < read < FILES // 2


def test_a_broken_batch_is_read_or_each_line_named(tmp_path: Path) -> None:
    file, read = tmp_path / "questions.jsonl", 0
    for seed in range(FILES):
        random = Random(seed)
        file.write_bytes(broken(random.choice(GOOD[1:]), random) + b"\n" + json.dumps(GOOD[3]).encode())
        try:
            assert all(isinstance(question, Question) for question in read_batch(file))
            read += 1
        except DataError as error:
            named = error.message.splitlines()[0]
            assert re.match(rf"{re.escape(str(file))}(:\d+: | is not UTF-8)", named), seed
    assert FILES // 20 < read < FILES // 2
