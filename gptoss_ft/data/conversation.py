"""What a row of any format becomes before it is rendered: a conversation, or a text."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "developer", "user", "assistant"]


class RowError(ValueError):
    """A row that cannot be trained on; the message says why, in words for the data set's owner."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `thinking` is what the assistant thought before `content`; None where there is none."""

    role: Role
    content: str
    thinking: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order: at most one leading system or developer message, then user and assistant in turn,
    the assistant last."""

    messages: tuple[Message, ...]

    @property
    def has_thinking(self) -> bool:
        return any(message.thinking is not None for message in self.messages)


@dataclass(frozen=True, slots=True)
class Text:
    """A string as the data set gives it: plain text, or text that already carries the model's own markup."""

    text: str


Record = Conversation | Text


def check_order(messages: tuple[Message, ...]) -> None:
    """Raise `RowError` unless the messages are a conversation that ends in an answer."""
    turns = messages
    if turns and turns[0].role in ("system", "developer"):
        turns = turns[1:]
    if not turns:
        raise RowError("holds no user message")
    for position, message in enumerate(turns):
        wanted = "user" if position % 2 == 0 else "assistant"
        if message.role != wanted:
            number = position + len(messages) - len(turns) + 1
            raise RowError(f"message {number} is the {message.role}'s where the {wanted}'s is due")
        if message.role == "assistant" and not message.content:
            raise RowError(f"message {position + len(messages) - len(turns) + 1}: the assistant's answer is empty")
    if turns[-1].role != "assistant":
        raise RowError("ends with a user message: there is no answer to learn")
