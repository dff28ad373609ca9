"""Rows of a data set → records. A format is one function from a row to a `Record`, registered by name.

A new format is a function `(row, its columns) -> Record` that raises `RowError`, a `Format` in `FORMATS`, and its
name in `DatasetSection.format`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Conversation, Message, Record, Role, RowError, Text, check_order
from gptoss_ft.errors import DataError

Row = Mapping[str, Any]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
# The question and answer columns of korean_textbooks' older layout.
QUESTION_ANSWER = ("0", "1")


@dataclass(frozen=True)
class Format:
    """`columns` names the columns it reads, given those there are, or raises `DataError`; `adapt` reads a row."""

    columns: Callable[[DatasetSection, Sequence[str]], tuple[str, ...]]
    adapt: Callable[[Row, tuple[str, ...]], Record]


def _conversation_column(config: DatasetSection, columns: Sequence[str]) -> tuple[str, ...]:
    wanted = [config.messages_column] if config.messages_column else ["messages", "conversations"]
    for column in wanted:
        if column in columns:
            return (column,)
    raise DataError(
        f"no column {' or '.join(wanted)}; there are: {', '.join(columns)}",
        "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are.",
        key="dataset.messages_column" if config.messages_column else "dataset.format",
    )


def _text_columns(config: DatasetSection, columns: Sequence[str]) -> tuple[str, ...]:
    if config.text_column in columns:
        return (config.text_column,)
    if config.text_column == "text" and set(columns) == set(QUESTION_ANSWER):
        return QUESTION_ANSWER
    raise DataError(
        f"no column {config.text_column}; there are: {', '.join(columns)}",
        "Name the column of text in dataset.text_column, or set dataset.format: sharegpt for conversations.",
        key="dataset.text_column",
    )


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{what} is {'missing' if value is None else type(value).__name__}, wanted a string")
    return value


def _message(raw: object, number: int) -> Message:
    if not isinstance(raw, Mapping):
        raise RowError(f"message {number} is {type(raw).__name__}, wanted an object with role and content")
    role_key, content_key = ("from", "value") if "from" in raw else ("role", "content")
    role = _string(raw.get(role_key), f"message {number}: {role_key}")
    if role not in ROLES:
        raise RowError(f"message {number}: unknown role {role!r}; known are {', '.join(ROLES)}")
    content = _string(raw.get(content_key), f"message {number}: {content_key}")
    # Arrow fills a key that only some messages have with None, and data sets write '' for "no thinking".
    thinking = raw.get("thinking") or raw.get("reasoning_content") or None
    if thinking is not None:
        thinking = _string(thinking, f"message {number}: thinking")
        if ROLES[role] != "assistant":
            raise RowError(f"message {number}: thinking belongs to the assistant, not to {role}")
    if raw.get("tool_calls"):
        raise RowError(f"message {number}: tool calls are not rendered yet")
    return Message(ROLES[role], content, thinking)


def _adapt_conversation(row: Row, columns: tuple[str, ...]) -> Record:
    raw = row.get(columns[0])
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise RowError(f"{columns[0]} is {type(raw).__name__}, wanted a list of messages")
    messages = tuple(_message(item, number) for number, item in enumerate(raw, start=1))
    check_order(messages)
    return Conversation(messages)


def _adapt_text(row: Row, columns: tuple[str, ...]) -> Record:
    if columns == QUESTION_ANSWER:
        question, answer = (_string(row.get(column), f"column {column}") for column in columns)
        messages = (Message("user", question), Message("assistant", answer))
        check_order(messages)
        return Conversation(messages)
    text = _string(row.get(columns[0]), f"column {columns[0]}")
    if not text.strip():
        raise RowError(f"column {columns[0]} is empty")
    return Text(text)


FORMATS: dict[str, Format] = {
    "sharegpt": Format(_conversation_column, _adapt_conversation),
    "custom": Format(_text_columns, _adapt_text),
}


def check_columns(config: DatasetSection, columns: Sequence[str]) -> None:
    """Raise `DataError` unless the data set has the columns that its format reads."""
    FORMATS[config.format].columns(config, columns)
