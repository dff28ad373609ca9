"""What a model says as it comes: tokens → pieces of messages, never half of a character."""

from dataclasses import dataclass
from typing import Literal, Protocol

from transformers import PreTrainedTokenizerBase

Kind = Literal["analysis", "commentary", "answer", "call", "unread"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a message; `opens` where it is the message's first. `recipient` is whom a call is for."""

    kind: Kind
    text: str
    opens: bool
    recipient: str = ""


class Stream(Protocol):
    """Reads one answer, a token at a time."""

    def put(self, token: int) -> list[Piece]:
        """What the token adds."""
        ...

    def finish(self) -> list[Piece]:
        """What was held back, once no token comes any more."""
        ...


class TextDecoder:
    """Token ids → text as they come, never half of a character, control tokens in words."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._before: list[int] = []
        self._held: list[int] = []
        self._shown = 0

    def put(self, token: int) -> str:
        self._held.append(token)
        text = self._text()
        # What decodes to replacement characters may be the beginning of a character.
        whole = text.rstrip("\ufffd")
        new = whole[self._shown :]
        self._shown = len(whole)
        if len(whole) == len(text):
            self._before, self._held, self._shown = self._held, [], 0
        return new

    def finish(self) -> str:
        new = self._text()[self._shown :]
        self._before, self._held, self._shown = self._held, [], 0
        return new

    def _text(self) -> str:
        # Decoded with what stands before: some decoders drop a space at the beginning.
        before = self._tokenizer.decode(self._before, skip_special_tokens=False)
        return str(self._tokenizer.decode([*self._before, *self._held], skip_special_tokens=False))[len(before) :]


class PlainStream:
    """An answer that is text alone, from a model that does not speak harmony; special tokens are left out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._decoder = TextDecoder(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._begun = False

    def put(self, token: int) -> list[Piece]:
        return [] if token in self._special else self._pieces(self._decoder.put(token))

    def finish(self) -> list[Piece]:
        return self._pieces(self._decoder.finish())

    def _pieces(self, text: str) -> list[Piece]:
        if not text:
            return []
        opens, self._begun = not self._begun, True
        return [Piece("answer", text, opens)]
