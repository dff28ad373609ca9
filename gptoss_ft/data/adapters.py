"""Rows of a data set → records. A format is one function from a row to a `Record`, registered by name.

A new format is a `Format` in `FORMATS`, and its name in `DatasetSection.format`.
"""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Conversation, Effort, Message, Record, RowError, Text, check_order, is_effort
from gptoss_ft.data.messages import read_messages, read_tools, string
from gptoss_ft.errors import DataError, SettingError

Row = Mapping[str, Any]

# The question and answer columns of korean_textbooks' older layout.
QUESTION_ANSWER = ("0", "1")


@dataclass(frozen=True)
class Format:
    """`columns` names the columns that every row must have, given those there are, or raises `DataError`; `adapt`
    makes a record of a row, given those columns, or raises `RowError`."""

    columns: Callable[[DatasetSection, Sequence[str]], tuple[str, ...]]
    adapt: Callable[[Row, tuple[str, ...], DatasetSection], Record]


@dataclass(frozen=True)
class Adapter:
    """The format of one data set, with the columns that it reads; `adapt(row)` makes a record or raises `RowError`."""

    config: DatasetSection
    format: Format
    columns: tuple[str, ...]

    def adapt(self, row: Row) -> Record:
        record = self.format.adapt(row, self.columns, self.config)
        if isinstance(record, Text):
            return record
        messages = self._with_system(row, record.messages)
        check_order(messages)
        tools = read_tools(row.get(self.config.tools_column), self.config.tools_column)
        return replace(record, messages=messages, tools=tools, effort=self._effort(row))

    def _with_system(self, row: Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages led by the column `system`, which descendants of ShareGPT's and Alpaca's formats have."""
        system = row.get("system")
        if not isinstance(system, str) or not system.strip():
            return messages
        if messages and messages[0].role in ("system", "developer"):
            raise RowError("has a system message, and a column system as well", "wrong role order")
        return (Message("system", string(system, "column system")), *messages)

    def _effort(self, row: Row) -> Effort | None:
        wanted = self.config.reasoning_effort
        if is_effort(wanted):
            return None
        value = row.get(wanted)
        if not is_effort(value):
            found = "missing" if value is None else reprlib.repr(value)
            raise RowError(f"column {wanted} is {found}, wanted low, medium or high", "reasoning effort")
        return value


def open_adapter(config: DatasetSection, columns: Sequence[str]) -> Adapter:
    """The adapter of `config.format` for a data set with these columns. Raises `DataError` when one that it needs is
    not there, `SettingError` for a reasoning effort that is neither a level nor a column."""
    effort = config.reasoning_effort
    if not is_effort(effort) and effort not in columns:
        raise SettingError(
            f"{effort} is no level of reasoning effort, and no column either; there are: {', '.join(columns)}",
            "Set low, medium or high, or the name of a column that holds one of them in each row.",
            key="dataset.reasoning_effort",
        )
    format_ = FORMATS[config.format]
    return Adapter(config, format_, format_.columns(config, columns))


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


def _adapt_conversation(row: Row, columns: tuple[str, ...], config: DatasetSection) -> Conversation:
    return Conversation(read_messages(row.get(columns[0]), config, columns[0]))


def _named_columns(*wanted: str) -> Callable[[DatasetSection, Sequence[str]], tuple[str, ...]]:
    def columns(config: DatasetSection, there: Sequence[str]) -> tuple[str, ...]:
        missing = [column for column in wanted if column not in there]
        if missing:
            raise DataError(
                f"no column {' or '.join(missing)}, which format {config.format} reads; there are: {', '.join(there)}",
                f"Name them in dataset.rename_columns, as {{question: {missing[0]}}}, or set dataset.format.",
                key="dataset.format",
            )
        return wanted

    return columns


def _adapt_alpaca(row: Row, columns: tuple[str, ...], config: DatasetSection) -> Conversation:
    if row.get("history"):
        raise RowError(
            "has a history, which format alpaca does not read; a list of messages can hold it", "wrong shape"
        )
    instruction = string(row.get("instruction"), "column instruction")
    given = "" if row.get("input") is None else string(row["input"], "column input")
    question = "\n\n".join(part for part in (instruction, given) if part.strip())
    if not question:
        raise RowError("columns instruction and input are empty", "wrong shape")
    answer = string(row.get("output"), "column output")
    return Conversation((Message("user", question), Message("assistant", answer)))


def _adapt_prompt_completion(row: Row, columns: tuple[str, ...], config: DatasetSection) -> Conversation:
    """Strings are a question and its answer; of lists of messages only the completion's answers are trained."""
    prompt, completion = _from_json(row.get("prompt"), config), _from_json(row.get("completion"), config)
    if isinstance(prompt, str) and isinstance(completion, str):
        question, answer = string(prompt, "column prompt"), string(completion, "column completion")
        return Conversation((Message("user", question), Message("assistant", answer)))
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        raise RowError("prompt and completion are not both strings or both lists of messages", "wrong shape")
    messages = read_messages([*prompt, *completion], config, "prompt and completion")
    context = tuple(replace(message, train=False) for message in messages[: len(prompt)])
    return Conversation((*context, *messages[len(prompt) :]))


def _from_json(value: Any, config: DatasetSection) -> Any:
    """A list of messages that was written as JSON text, as CSV has it; anything else as it is, and so JSON without a
    role, which may be what is asked or answered."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            return value
        roles = {config.role_key} if config.role_key else {"role", "from"}
        if any(isinstance(item, Mapping) and not roles.isdisjoint(item) for item in items):
            return items
    return value


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


def _adapt_text(row: Row, columns: tuple[str, ...], config: DatasetSection) -> Record:
    if columns == QUESTION_ANSWER:
        question, answer = (string(row.get(column), f"column {column}") for column in columns)
        return Conversation((Message("user", question), Message("assistant", answer)))
    text = string(row.get(columns[0]), f"column {columns[0]}")
    if not text.strip():
        raise RowError(f"column {columns[0]} is empty", "empty answer")
    return Text(text)


FORMATS: dict[str, Format] = {
    "sharegpt": Format(_conversation_column, _adapt_conversation),
    "alpaca": Format(_named_columns("instruction", "output"), _adapt_alpaca),
    "prompt_completion": Format(_named_columns("prompt", "completion"), _adapt_prompt_completion),
    "custom": Format(_text_columns, _adapt_text),
}
