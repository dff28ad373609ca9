"""Records → drafts → samples: input_ids, and labels that say exactly what the model must produce.

A renderer lays a record out as drafts: tokens that it knows and text that is still to be tokenized, each with the word
on whether it is trained. `assemble` tokenizes the text of many drafts at once, which is where the time goes, and makes
the samples.

A label is the token that is wanted at its position, or `IGNORED`. It may differ from the input token: an answer
that is not the last one of its conversation is followed by <|end|> in the context, but must be learned with the
<|return|> that ends it when the model is used.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptoss_ft.data import o200k
from gptoss_ft.data.conversation import Conversation, Message, Record, RowError

if TYPE_CHECKING:  # Unsloth must come before transformers
    import tiktoken
    from transformers import PreTrainedTokenizerBase

# What PyTorch's cross entropy leaves out.
IGNORED = -100

CHARACTERS_FOR_FASTER = 5_000_000

TrainOn = Literal["completions", "everything"]
# What a trained token belongs to.
CHANNELS = ("analysis", "commentary", "final", "answer", "text", "prompt")
Ids = NDArray[np.int32]


class Part(NamedTuple):
    """A stretch of a sample.

    `tokens` are ids, or text that is still to be tokenized; `live` says whether control tokens in that text are meant.
    `channel` is what the stretch is trained as (`analysis`, `commentary`, `final`, `answer`, `text`, `prompt`), empty
    where it is not. `label` is the label of a single token where it differs from the token, and `ends` marks the end
    of an answer.
    """

    tokens: Ids | str
    channel: str = ""
    live: bool = False
    label: int | None = None
    ends: bool = False


@dataclass(slots=True)
class Draft:
    """A sample that is laid out and not yet tokenized.

    `whole` is what the parts together must tokenize to, where that is not so by construction. `is_plain` marks text
    without any markup, which is trained whole.
    """

    parts: list[Part] = field(default_factory=list)
    whole: list[Part] | None = None
    is_plain: bool = False


class Renderer(Protocol):
    """Lays a record out as the drafts that train every answer of it once; raises `RowError`."""

    def draft(self, record: Record) -> list[Draft]: ...


@dataclass(slots=True)
class Sample:
    """One row for the trainer: `input_ids` and `labels`, int32 of the sample's length. `spans` are the trained
    stretches [start, end) in tokens with their channel, `answers` those of whole answers."""

    input_ids: Ids
    labels: Ids
    spans: list[tuple[int, int, str]]
    answers: list[tuple[int, int]]
    is_plain: bool = False

    @property
    def channels(self) -> Counter[str]:
        """Trained tokens by channel."""
        counts: Counter[str] = Counter()
        for start, end, channel in self.spans:
            counts[channel] += end - start
        return counts

    @property
    def trained_tokens(self) -> int:
        return sum(end - start for start, end, _ in self.spans)

    def truncated(self, length: int) -> tuple["Sample", int]:
        """The first `length` tokens, and how many answers lost their end: nobody can learn from a stump how an
        answer goes on, or that it ends, so such an answer is not trained at all."""
        cut = [start for start, end in self.answers if end > length]
        length_trained = min([length, *cut])
        labels = self.labels[:length].copy()
        labels[length_trained:] = IGNORED
        spans = [
            (start, min(end, length_trained), channel) for start, end, channel in self.spans if start < length_trained
        ]
        whole = [answer for answer in self.answers if answer[1] <= length]
        return Sample(self.input_ids[:length], labels, spans, whole, self.is_plain), len(cut)


class Encoder:
    """Text → token ids, many texts at a time; nothing is added to them. Threads may share it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._lock = Lock()
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._characters = 0
        self._faster: tiktoken.Encoding | None = None

    def encode(self, text: str, live: bool = False) -> Ids:
        return self.encode_all([text], live)[text]

    def encode_all(self, texts: Iterable[str], live: bool) -> dict[str, Ids]:
        """The ids of each different text. `live`: control tokens in it are meant; otherwise they stay plain text."""
        different = list(dict.fromkeys(texts))
        with self._lock:
            found: dict[str, Ids] = {}
            if not live and self._wants_faster(sum(map(len, different))) and self._faster is not None:
                short = [text for text in different if o200k.can_encode(text)]
                found = dict(zip(short, o200k.encode_all(self._faster, short), strict=True))
                different = [text for text in different if text not in found]
            self._tokenizer.encode_special_tokens = not live
            encodings = self._tokenizer.encode_batch_fast(different, add_special_tokens=False) if different else []
        return found | {
            text: np.array(encoding.ids, np.int32) for text, encoding in zip(different, encodings, strict=True)
        }

    def _wants_faster(self, characters: int) -> bool:
        """Whether so much is tokenized that a faster way, if this vocabulary has one, is worth a second's beginning."""
        before, self._characters = self._characters, self._characters + characters
        if before < CHARACTERS_FOR_FASTER <= self._characters:
            self._faster = o200k.o200k_encoding(self._tokenizer)
        return self._characters >= CHARACTERS_FOR_FASTER


def assemble(drafts: Sequence[Draft], encoder: Encoder) -> list[Sample | RowError]:
    """Tokenize the text of all drafts together and make a sample of each, or say what is wrong with it."""
    texts: dict[bool, list[str]] = {False: [], True: []}
    for draft in drafts:
        for part in (*draft.parts, *(draft.whole or ())):
            if isinstance(part.tokens, str):
                texts[part.live].append(part.tokens)
    ids = {live: encoder.encode_all(texts[live], live) for live in texts}
    return [_assemble_one(draft, ids) for draft in drafts]


def _assemble_one(draft: Draft, ids: dict[bool, dict[str, Ids]]) -> Sample | RowError:
    def tokens_of(part: Part) -> Ids:
        return ids[part.live][part.tokens] if isinstance(part.tokens, str) else part.tokens

    stretches = [tokens_of(part) for part in draft.parts]
    input_ids = np.concatenate(stretches)
    if draft.whole is not None:
        whole = np.concatenate([tokens_of(part) for part in draft.whole])
        if not np.array_equal(input_ids, whole):
            return RowError("tokenizes differently as prompt and answer than as a whole", "chat template")
    labels = np.full(len(input_ids), IGNORED, np.int32)
    spans: list[tuple[int, int, str]] = []
    answers: list[tuple[int, int]] = []
    position, start = 0, None
    for part, stretch in zip(draft.parts, stretches, strict=True):
        end = position + len(stretch)
        if part.channel:
            labels[position:end] = stretch if part.label is None else part.label
            spans.append((position, end, part.channel))
            if start is None and part.channel != "prompt":
                start = position
        if part.ends and start is not None:
            answers.append((start, end))
            start = None
        position = end
    return Sample(input_ids, labels, spans, answers, draft.is_plain)


def ids_of(draft: Draft, encoder: Encoder) -> Ids:
    """The draft's tokens alone, int32; raises `RowError` where they differ from those of the whole."""
    sample = assemble([draft], encoder)[0]
    if isinstance(sample, RowError):
        raise sample
    return sample.input_ids


@dataclass(frozen=True, slots=True)
class Piece:
    """Messages that become one sample, and the positions of the assistant's messages among them that it trains."""

    messages: tuple[Message, ...]
    trained: frozenset[int]


_BEGINS_MARKED_UP = re.compile(r"\s*(<\|\w+\|>|<(?:bos|s|start_of_turn)>|\[INST\])")


def refuse_foreign_markup(text: str, known: Collection[str]) -> None:
    """Raise `RowError` for text that begins with another model's markup: taken for plain text, all of it would be
    trained, the questions too. `known` are the model's own control tokens."""
    begins = _BEGINS_MARKED_UP.match(text)
    if begins is not None and begins.group(1) not in known:
        raise RowError(
            f"begins with {begins.group(1)}, which is no control token of this model: it is another model's markup",
            "chat template",
        )


def split_by_answer(conversation: Conversation) -> list[Piece]:
    """The pieces of a conversation, every answer trained in exactly one of them.

    With thinking, one piece for each answer: its context is what the model sees when it is used, in which the
    thinking of earlier answers is gone. The thinking between a question and its answer, before and after tool calls,
    stays. Without thinking, the whole conversation at once.
    """
    messages = conversation.messages
    trained = [at for at, message in enumerate(messages) if message.role == "assistant" and message.train]
    if not conversation.has_thinking:
        return [Piece(messages, frozenset(trained))] if trained else []
    without_thinking = tuple(replace(message, thinking=None) for message in messages)
    questions = [at for at, message in enumerate(messages) if message.role == "user"]
    pieces = []
    for question, end in zip(questions, [*questions[1:], len(messages)], strict=True):
        of_turn = frozenset(at for at in trained if question < at < end)
        if of_turn:
            pieces.append(Piece((*without_thinking[:question], *messages[question:end]), of_turn))
    return pieces


def as_shown(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages as a model sees them that is to answer now: thinking before the last question is gone, as in the
    pieces of `split_by_answer`, and that between it and now, around tool calls, stays."""
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    return tuple(replace(message, thinking=None) if at < last else message for at, message in enumerate(messages))
