"""Samples as passages of text, each piece with what is learned from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.channels import NONE, ChannelReader, Reading
from gptoss_ft.data.rendering import CHANNELS, IGNORED, Ids
from gptoss_ft.data.summary import Summary
from gptoss_ft.reporting.console import visible

# Longer stretches of one message are shortened in their middle to this many tokens.
LONGEST_CONTEXT = 160
LONGEST_TRAINED = 2000

# What a decoder writes for bytes that are not a whole character.
_REPLACEMENT = "\ufffd"


class Piece(NamedTuple):
    """What shows as one: a token, the tokens that make a character together, or a gap (without ids).

    `learned` is the text of the label where it differs from the token.
    """

    text: str
    ids: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    channel: str = ""
    is_control: bool = False
    learned: str = ""

    @property
    def is_trained(self) -> bool:
        return any(label != IGNORED for label in self.labels)

    @property
    def facts(self) -> str:
        """The token as numbers: ids, labels, channel."""
        ids, labels = (" ".join(map(str, numbers)) for numbers in (self.ids, self.labels))
        return (
            f"id {ids}; label {labels}; {self.channel}" if self.is_trained else f"id {ids}; label {labels}, not trained"
        )


@dataclass(frozen=True)
class Passage:
    """One message, or what lies between two."""

    heading: str
    pieces: list[Piece]


@dataclass(frozen=True)
class ShownSample:
    """A sample as it is shown."""

    heading: str
    passages: list[Passage]


@dataclass(frozen=True)
class SampleReader:
    """Makes passages of samples."""

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def _channels(self) -> ChannelReader:
        return ChannelReader(self.tokenizer)

    @cached_property
    def _control(self) -> dict[int, str]:
        return {id_: str(token) for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    def samples(self, table: pa.Table, summary: Summary, number: int) -> list[ShownSample]:
        """The first `number` samples of a table of prepared data."""
        shown = []
        for at, row in enumerate(table.slice(0, number).to_pylist()):
            ids, labels = (np.array(row[name], np.int32) for name in ("input_ids", "labels"))
            trained = int((labels != IGNORED).sum())
            which = f", its sample {row['sample_index']}" if row["sample_index"] else ""
            heading = (
                f"sample {at}: row {row['source_row']}{which} of {summary.sources[row['source']].description}, "
                f"{trained:,} of {len(ids):,} tokens trained"
            )
            shown.append(ShownSample(heading, self._passages(ids, labels)))
        return shown

    def _passages(self, ids: Ids, labels: Ids) -> list[Passage]:
        reading = self._channels.read(ids, labels)
        return [self._passage(ids, labels, reading, start, end) for start, end in _stretches(reading.turn_of)]

    def _passage(self, ids: Ids, labels: Ids, reading: Reading, start: int, end: int) -> Passage:
        pieces: list[Piece] = []
        for from_, to in _stretches(labels[start:end] != IGNORED):
            pieces += self._shortened(ids, labels, reading, start + from_, start + to)
        trained = int((labels[start:end] != IGNORED).sum())
        words = [f"{trained:,} of {end - start:,} tokens trained"]
        words += [f"{token} in it is typed text" for token in self._typed(pieces)]
        title = _title(reading, int(reading.turn_of[start]))
        return Passage(f"{visible(title)} ({'; '.join(words)})", pieces)

    def _typed(self, pieces: Sequence[Piece]) -> list[str]:
        """Control tokens whose name stands in the text of ordinary ones."""
        text = "".join("\0" if piece.is_control else piece.text for piece in pieces)
        return [token for token in self._control.values() if token in text]

    def _shortened(self, ids: Ids, labels: Ids, reading: Reading, start: int, end: int) -> list[Piece]:
        """The pieces of a stretch that is trained, or not, as a whole; without its middle where it is long."""
        longest = LONGEST_CONTEXT if labels[start] == IGNORED else LONGEST_TRAINED
        if end - start <= longest:
            return list(self._pieces(ids, labels, reading, start, end))
        head = list(self._pieces(ids, labels, reading, start, start + longest // 2))
        tail = list(self._pieces(ids, labels, reading, end - longest // 2, end))
        # A character that the cut goes through belongs to what is left out.
        if head[-1].text.endswith(_REPLACEMENT):
            head.pop()
        if tail[0].text.startswith(_REPLACEMENT):
            tail.pop(0)
        missing = end - start - sum(len(piece.ids) for piece in head + tail)
        return [*head, Piece(f" … {missing:,} tokens … "), *tail]

    def _pieces(self, ids: Ids, labels: Ids, reading: Reading, start: int, end: int) -> Iterator[Piece]:
        before: list[int] = []
        joined: list[int] = []
        for at in range(start, end):
            id_ = int(ids[at])
            joined.append(id_)
            text = self._control.get(id_) if len(joined) == 1 else None
            is_control = text is not None
            if text is None:
                text = self._text_after(before, joined)
                ends_here = at + 1 == end or int(ids[at + 1]) in self._control
                if text.endswith(_REPLACEMENT) and not ends_here:
                    continue
            own = slice(at + 1 - len(joined), at + 1)
            yield Piece(
                visible(text),
                tuple(joined),
                tuple(labels[own].tolist()),
                "" if reading.channel_of[at] == NONE else CHANNELS[reading.channel_of[at]],
                is_control,
                self._learned(ids[own], labels[own]),
            )
            before, joined = ([] if text.endswith(_REPLACEMENT) else joined), []

    def _text_after(self, before: list[int], ids: list[int]) -> str:
        """The text that `ids` add to that of `before`: some decoders drop a space at the beginning."""
        decode = self.tokenizer.backend_tokenizer.decode
        beginning = decode(before, skip_special_tokens=False)
        return str(decode([*before, *ids], skip_special_tokens=False)[len(beginning) :])

    def _learned(self, ids: Ids, labels: Ids) -> str:
        if labels[0] == IGNORED or np.array_equal(ids, labels):
            return ""
        return visible(self.tokenizer.backend_tokenizer.decode(labels.tolist(), skip_special_tokens=False))


def _stretches(values: NDArray[np.generic]) -> Iterator[tuple[int, int]]:
    """[start, end) of each run of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return ((start, end) for start, end in pairwise(edges) if end > start)


def _title(reading: Reading, number: int) -> str:
    if number == NONE:
        return "context"
    turn = reading.turns[number]
    return " · ".join(filter(None, (turn.role, turn.channel, f"turn {number + 1}")))
