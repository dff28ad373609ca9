"""Records → samples: input_ids, and labels that say exactly what the model must produce.

A label is the token that is wanted at its position, or `IGNORED`. It may differ from the input token: an answer
that is not the last one of its conversation is followed by <|end|> in the context, but must be learned with the
<|return|> that ends it when the model is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import Conversation, Message, Record, RowError

# What PyTorch's cross entropy leaves out.
IGNORED = -100

TrainOn = Literal["completions", "everything"]


@dataclass
class Sample:
    """One row for the trainer: `input_ids` and `labels`, both of the sample's length in tokens. `is_plain` marks
    text without any markup, which is trained whole."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    is_plain: bool = False

    def add(self, ids: Sequence[int], trained: bool) -> None:
        self.input_ids.extend(ids)
        self.labels.extend(ids if trained else [IGNORED] * len(ids))

    def add_terminator(self, token: int, label: int, trained: bool) -> None:
        self.input_ids.append(token)
        self.labels.append(label if trained else IGNORED)

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class Renderer(Protocol):
    """Turns a record into the samples that train every answer of it once; raises `RowError`."""

    def render(self, record: Record) -> list[Sample]: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages that become one sample, and the positions of the answers among them that it trains."""

    messages: tuple[Message, ...]
    trained: frozenset[int]


def split_by_answer(conversation: Conversation) -> list[Piece]:
    """The pieces of a conversation, every answer trained in exactly one of them.

    With thinking, one piece for each answer: its context is what the model sees when it is used, in which the
    thinking of earlier answers is gone. Without, the whole conversation at once.
    """
    messages = conversation.messages
    answers = [position for position, message in enumerate(messages) if message.role == "assistant"]
    if not conversation.has_thinking:
        return [Piece(messages, frozenset(answers))]
    without_thinking = tuple(replace(message, thinking=None) for message in messages)
    return [Piece((*without_thinking[:end], messages[end]), frozenset([end])) for end in answers]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, live: bool) -> list[int]:
    """Token ids of `text`, nothing added. `live`: control tokens in it are meant; otherwise they stay plain text."""
    try:
        encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=not live, return_attention_mask=False)
    except TypeError:
        # tokenizers refuses a str that holds half of a surrogate pair.
        raise RowError("holds a character that is not valid Unicode") from None
    return list(encoded["input_ids"])
