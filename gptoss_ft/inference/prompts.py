"""What a model is asked: a prompt, a file of messages or a batch of either, read, checked and rendered.

A messages file holds a JSON list of messages, or `{"messages": […], "tools": […]}`. A batch is JSON Lines: each line
`{"prompt": …}` or `{"messages": […]}`, with `tools` and a `reasoning_effort` where there are some, and any other keys,
which the output keeps. Messages are read as those of a data set are: with names, thinking, tool calls and tool results.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Conversation, Effort, Message, RowError, check_order, is_effort
from gptoss_ft.data.messages import read_messages, read_tools, string
from gptoss_ft.errors import DataError

_CURE = "Write {} as the help of generate says: python train.py generate --help"
# Mistakes of a batch that are told at once.
MOST_TOLD = 10
# What the output says of an answer, and what it is called where a question has such a key of its own.
OF_AN_ANSWER = ("effort", "analysis", "answer", "calls", "tokens", "stop", "commentary", "unread")
GENERATED = "generated_"


@dataclass(frozen=True)
class Question:
    """A conversation that waits for an answer. `given` is what it was read from: the keys that a batch's output
    keeps; `place` names it in errors."""

    conversation: Conversation
    given: Mapping[str, Any]
    place: str = "the prompt"

    def at(self, effort: Effort) -> "Question":
        """The same, asked at a reasoning effort of its own."""
        return replace(self, conversation=replace(self.conversation, effort=effort))


def ask(prompt: str, system: str | None = None) -> Question:
    """A question in words. Raises `DataError` where there is none, and for text that cannot be tokenized."""
    if not prompt.strip():
        raise DataError("the prompt is empty", "Give a question with --prompt or on the standard input, or --chat.")
    try:
        string(prompt, "the prompt")
        return Question(_led_by(system, Conversation((Message("user", prompt),))), {"prompt": prompt})
    except RowError as error:
        raise DataError(str(error)) from None


def read_messages_file(path: Path, system: str | None = None) -> Question:
    """The conversation of a JSON file. Raises `DataError`, which names the file and the line of a JSON mistake."""
    try:
        content = json.loads(_text_of(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON: {error.msg}", _CURE.format("the file")) from None
    except RecursionError:
        raise DataError(f"{path}: is JSON nested too deep", _CURE.format("the file")) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: is JSON that cannot be read: {error}", _CURE.format("the file")) from None
    given = content if isinstance(content, dict) else {"messages": content}
    return _read(given, system, f"{path}:1")


def read_batch(path: Path, system: str | None = None) -> list[Question]:
    """The questions of a JSON Lines file, empty lines left out. Raises `DataError` that names file and line of each
    mistake, of the first ten where there are more."""
    questions, mistakes = [], []
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if line.strip():
            try:
                questions.append(_read_line(line, system, f"{path}:{number}"))
            except DataError as error:
                mistakes.append(error.message)
    if mistakes:
        more = [f"and {len(mistakes) - MOST_TOLD:,} more"] if len(mistakes) > MOST_TOLD else []
        raise DataError("\n".join([*mistakes[:MOST_TOLD], *more]), _CURE.format("each line"))
    if not questions:
        raise DataError(f"{path} holds no prompt", _CURE.format("at least one line"))
    return questions


def _read_line(line: str, system: str | None, place: str) -> Question:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise DataError(f"{place}: is {type(given).__name__}, wanted an object")
    return _read(given, system, place)


def answer_prefix(questions: Sequence[Question]) -> str:
    """What stands before the names that the output gives an answer's parts: nothing, or `generated_` where a question
    has a key of such a name, which is kept. `DataError` where one has keys of both kinds."""
    taken = {key: question.place for question in questions for key in OF_AN_ANSWER if key in question.given}
    if not taken:
        return ""
    for question in questions:
        for key in OF_AN_ANSWER:
            if GENERATED + key in question.given:
                name, place = next(iter(taken.items()))
                raise DataError(
                    f"{question.place}: has a key {GENERATED}{key}, which the output needs: {place} has a key {name}",
                    "Rename one of them.",
                )
    return GENERATED


def check_asks(messages: Sequence[Message]) -> None:
    """Raise `RowError` unless the messages are a conversation in which the assistant is to speak next."""
    if not messages:
        raise RowError("holds no message", "wrong role order")
    if messages[-1].role == "assistant":
        found = "a tool call that has no result" if messages[-1].tool_calls else "the assistant's answer"
        raise RowError(f"ends with {found}: there is nothing to answer", "wrong role order")
    check_order((*messages, Message("assistant", "answer")))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}", "Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _read(given: dict[str, Any], system: str | None, place: str) -> Question:
    try:
        if ("prompt" in given) == ("messages" in given):
            raise RowError("wanted either prompt or messages", "wrong shape")
        if "prompt" in given:
            messages: tuple[Message, ...] = (Message("user", string(given["prompt"], "prompt")),)
        else:
            messages = read_messages(given["messages"], DatasetSection(), "messages")
        tools, effort = read_tools(given.get("tools"), "tools"), given.get("reasoning_effort")
        if effort is not None and not is_effort(effort):
            raise RowError(f"reasoning_effort is {effort!r}, wanted low, medium or high", "reasoning effort")
        conversation = _led_by(system, Conversation(messages, tools, effort=effort))
    except RowError as error:
        raise DataError(f"{place}: {error}", _CURE.format("it")) from None
    return Question(conversation, given, place)


def _led_by(system: str | None, conversation: Conversation) -> Conversation:
    """With the system message before it, unless the conversation has its own."""
    messages = conversation.messages
    if system is not None and not (messages and messages[0].role in ("system", "developer")):
        messages = (Message("system", string(system, "the system message")), *messages)
    check_asks(messages)
    return replace(conversation, messages=messages)
