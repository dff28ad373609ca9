"""What a row of any format becomes before it is rendered: a conversation, or a text; and what is wrong with a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]

# Kinds of mistake, under which rows are counted.
Fault = Literal[
    "not readable", "wrong shape", "not text", "invalid Unicode", "unknown role", "wrong role order", "empty answer",
    "tool calls", "reasoning effort", "chat template",
]  # fmt: skip


class RowError(ValueError):
    """A row that cannot be trained on. The message says why, in words for the data set's owner; `fault` is its kind."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema of its arguments; None: it takes none."""

    name: str
    description: str
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant makes; `arguments` is the JSON text of an object, as the model must write it."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    `thinking` is what the assistant thought before `content`; None where there is none, empty where an empty one is
    meant. `name` is the function whose result a tool's message holds. `train` is False for an answer that is context
    only.
    """

    role: Role
    content: str = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    train: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the order that `check_order` asks for, the tools that the developer gives the model, and the
    conversation's own reasoning effort (None: the job's)."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    effort: Effort | None = None

    @property
    def has_thinking(self) -> bool:
        return any(message.thinking is not None for message in self.messages)


@dataclass(frozen=True, slots=True)
class Text:
    """A string as the data set gives it: plain text, or text that already carries the model's own markup."""

    text: str


Record = Conversation | Text


def is_effort(value: object) -> TypeGuard[Effort]:
    return value in ("low", "medium", "high")


# The roles that may follow each role, once every tool call has its result; None is the conversation's beginning.
_FOLLOWERS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "tool": ("assistant",),
}


def check_order(messages: tuple[Message, ...]) -> None:
    """Raise `RowError` unless the messages are a conversation that ends in an answer.

    At most one leading system or developer message, then user and assistant in turn. An assistant's message with tool
    calls is followed by a result of each of them and by the assistant again, or ends the conversation.
    """
    before: Role | None = None
    open_calls = 0
    for number, message in enumerate(messages, start=1):
        due = ("tool",) if open_calls else _FOLLOWERS[before]
        if message.role not in due:
            found = f"message {number} is the {message.role}'s where the {' or '.join(due)}'s is due"
            if open_calls:
                raise RowError(f"{found}: a tool call has no result", "tool calls")
            if message.role == "tool":
                raise RowError(f"{found}: no tool call waits for a result", "tool calls")
            raise RowError(found, "wrong role order")
        if message.role == "tool":
            open_calls -= 1
        elif message.role == "assistant":
            open_calls = len(message.tool_calls)
            if not message.tool_calls and not message.content.strip():
                raise RowError(f"message {number}: the assistant's answer is empty", "empty answer")
        before = message.role
    if before is None:
        raise RowError("holds no message", "wrong role order")
    if before != "assistant":
        raise RowError(f"ends with a {before} message: there is no answer to learn", "wrong role order")
