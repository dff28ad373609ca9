"""Which message and which channel each token of a sample belongs to, read from the tokens alone.

So it can be told of samples that were prepared elsewhere, and a loss can be told by channel. Only live control tokens
count: one that is typed in content is ordinary tokens, and says nothing.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.harmony_rendering import is_harmony
from gptoss_ft.data.rendering import CHANNELS, IGNORED, Encoder, Ids

# In place of a turn's number or a channel's where there is none.
NONE = -1


class Turn(NamedTuple):
    """Tokens [start, end) of one message: its role (for a tool's result the tool's name) and, where the role is the
    assistant, its channel."""

    start: int
    end: int
    role: str
    channel: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample of n tokens. `turn_of`, int32 [n]: the index in `turns` of each token's message, -1 outside of all.
    `channel_of`, int8 [n]: the index in `CHANNELS` of the channel that each token is learned as, or would be, -1 where
    no channel is."""

    turns: tuple[Turn, ...]
    turn_of: Ids
    channel_of: NDArray[np.int8]

    def trained(self, labels: Ids) -> Counter[str]:
        """Trained tokens by channel; `labels` are the sample's own, int32 [n]."""
        found = np.bincount(self.channel_of[labels != IGNORED], minlength=len(CHANNELS))
        return +Counter(dict(zip(CHANNELS, found.tolist(), strict=True)))


class ChannelReader:
    """Reads samples that were rendered for `tokenizer`.

    In harmony's format a message goes from <|start|> through <|end|>, <|return|> or <|call|>. `<|start|>assistant`
    counts to the message before it where the model says it itself, and is the prompt's elsewhere. What is trained
    outside of the assistant's messages is `prompt`.

    Without messages in that format every trained stretch is a turn of channel `answer`; of channel `text` where there
    is no control token but at the ends and nothing but a beginning-of-text token is left untrained. With
    `dataset.train_on: everything` that is the whole sample, because the tokens do not tell its prompts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = np.array([id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special], int)
        self._is_harmony = is_harmony(tokenizer)
        self._words: dict[bytes, str] = {}
        if self._is_harmony:
            vocabulary = tokenizer.get_vocab()
            self._start, self._channel, self._message, self._end = (
                vocabulary[f"<|{name}|>"] for name in ("start", "channel", "message", "end")
            )
            self._ends = [self._end, vocabulary["<|return|>"], vocabulary["<|call|>"]]
            self._opening = np.array([self._start, *Encoder(tokenizer).encode("assistant")], np.int32)

    def read(self, input_ids: Ids, labels: Ids) -> Reading:
        """Read one sample; both are int32 [n]."""
        if self._is_harmony and (input_ids == self._start).any():
            return self._read_messages(input_ids, labels)
        return self._read_stretches(input_ids, labels)

    def _read_messages(self, ids: Ids, labels: Ids) -> Reading:
        turns = self._turns(ids)
        turn_of, channel_of = _nothing(len(ids))
        for number, turn in enumerate(turns):
            turn_of[turn.start : turn.end] = number
            if turn.channel:
                channel_of[turn.start + len(self._opening) : turn.end] = CHANNELS.index(turn.channel)
        for before, turn in pairwise(turns):
            if turn.channel and turn.start == before.end and self._goes_on(ids, before):
                channel_of[turn.start : turn.start + len(self._opening)] = CHANNELS.index(before.channel)
        channel_of[(labels != IGNORED) & (channel_of == NONE)] = CHANNELS.index("prompt")
        return Reading(turns, turn_of, channel_of)

    def _turns(self, ids: Ids) -> tuple[Turn, ...]:
        starts = np.flatnonzero(ids == self._start)
        ends = np.flatnonzero(np.isin(ids, self._ends)) + 1
        turns: list[Turn] = []
        position = 0
        while (later := int(np.searchsorted(starts, position))) < len(starts):
            start = int(starts[later])
            after = int(np.searchsorted(ends, start, side="right"))
            # The last message may have lost its end.
            position = int(ends[after]) if after < len(ends) else len(ids)
            turns.append(self._turn(ids, start, position))
        return tuple(turns)

    def _turn(self, ids: Ids, start: int, end: int) -> Turn:
        header = ids[start:end]
        content = np.flatnonzero(header == self._message)
        header = header[: int(content[0])] if content.size else header
        if not np.array_equal(ids[start : start + len(self._opening)], self._opening):
            return Turn(start, end, self._words_after(header, 0).partition(" to=")[0].strip(), "")
        named = np.flatnonzero(header == self._channel)
        channel = self._words_after(header, int(named[0])).split(" ")[0] if named.size else ""
        return Turn(start, end, "assistant", channel if channel in ("analysis", "commentary", "final") else "answer")

    def _words_after(self, header: Ids, at: int) -> str:
        """The text between the control token at `at` and the next one."""
        words = header[at + 1 :]
        control = np.flatnonzero(np.isin(words, self._special))
        words = words[: int(control[0])] if control.size else words
        key = words.tobytes()
        if key not in self._words:
            self._words[key] = str(self._tokenizer.backend_tokenizer.decode(words.tolist()))
        return self._words[key]

    def _goes_on(self, ids: Ids, turn: Turn) -> bool:
        """Whether the model itself begins the message after this one."""
        return turn.channel in ("analysis", "commentary") and int(ids[turn.end - 1]) == self._end

    def _read_stretches(self, ids: Ids, labels: Ids) -> Reading:
        trained = labels != IGNORED
        role, channel = ("", "text") if self._is_plain(ids, trained) else ("assistant", "answer")
        turn_of, channel_of = _nothing(len(ids))
        channel_of[trained] = CHANNELS.index(channel)
        edges = np.flatnonzero(np.diff(trained, prepend=False, append=False))
        turns = tuple(Turn(start, end, role, channel) for start, end in edges.reshape(-1, 2).tolist())
        for number, turn in enumerate(turns):
            turn_of[turn.start : turn.end] = number
        return Reading(turns, turn_of, channel_of)

    def _is_plain(self, ids: Ids, trained: NDArray[np.bool_]) -> bool:
        """Whether a sample is text without markup, which is trained whole."""
        bos = self._tokenizer.bos_token_id
        first = int(ids.size > 0 and bos is not None and ids[0] == bos)
        has_markup = bool(np.isin(ids[first:-1], self._special).any())
        return bool(trained[first:].all()) and (self._is_harmony or not has_markup)


def _nothing(length: int) -> tuple[Ids, NDArray[np.int8]]:
    return np.full(length, NONE, np.int32), np.full(length, NONE, np.int8)
