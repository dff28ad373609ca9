"""Control tokens in text: the ones that a chat template writes are live, the ones typed in content are plain text.

A typed one is replaced by a private-use character before the template is rendered. Whatever in the rendering then reads
as a control token is the template's own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import RowError

_PRIVATE_USE = range(0xE000, 0xF900)


def strings(value: Any) -> Iterator[str]:
    """Every string in a value of JSON's types, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)


class StandIns:
    """Private-use characters, each in the place of one control token that the content holds."""

    def __init__(self, characters: Mapping[str, str] | None = None) -> None:
        """`characters`: control token → the character in its place."""
        self._characters = characters or {}
        self._tokens = {ord(character): token for token, character in self._characters.items()}
        self._pattern = _any_of(self._characters)

    def hide(self, value: Any) -> Any:
        """A value of JSON's types with the characters in the tokens' place."""
        if not self._characters:
            return value
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._characters[match.group()], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.hide(item) for item in value]
        return value

    def unescape(self, rendered: str) -> str:
        """A rendering in which JSON or Python has not escaped the characters."""
        for character in self._characters.values():
            rendered = rendered.replace(_escaped(character), character)
        return rendered

    def reveal(self, text: str) -> str:
        """`text` with the tokens back in their place."""
        return text.translate(self._tokens) if self._tokens else text


class ControlTokens:
    """The special tokens of a tokenizer, as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokens = [token for token in tokenizer.added_tokens_decoder.values() if token.special and str(token)]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of(str(token) for token in self._tokens)

    @cached_property
    def _pattern_with_space(self) -> re.Pattern[str]:
        """Each token with the white space that it swallows when it is tokenized."""
        patterns = [
            (r"\s*" if token.lstrip else "") + re.escape(str(token)) + (r"\s*" if token.rstrip else "")
            for token in sorted(self._tokens, key=lambda token: len(str(token)), reverse=True)
        ]
        return re.compile("|".join(patterns) or r"(?!)")

    @property
    def parting(self) -> str:
        """A control token that leaves the white space after it alone; empty where there is none."""
        return next((str(token) for token in self._tokens if not token.rstrip), "")

    def are_in(self, text: str) -> bool:
        return self._pattern.search(text) is not None

    def first(self, text: str) -> str | None:
        match = self._pattern.search(text)
        return match.group() if match else None

    def removed_from(self, text: str) -> str:
        return self._pattern.sub("", text)

    def spans(self, text: str, start: int, end: int) -> list[tuple[int, int, str]]:
        """(start, end, token) of each token between two positions, with the white space that it swallows."""
        matches = self._pattern_with_space.finditer(text, start, end)
        return [(match.start(), match.end(), match.group().strip()) for match in matches]

    def after_swallowed(self, text: str, start: int, position: int) -> int:
        """`position`, moved past the white space that a token before it (from `start` on) swallows."""
        if not any(token.rstrip for token in self._tokens):
            return position
        swallowed = (end for begin, end, _ in self.spans(text, start, len(text)) if begin < position < end)
        return next(swallowed, position)

    def stand_ins(self, texts: Iterable[str]) -> StandIns:
        """Characters for the control tokens that are typed in `texts`, none of which occurs there."""
        texts = list(texts)
        typed = dict.fromkeys(token for text in texts for token in self._pattern.findall(text))
        if not typed:
            return StandIns()
        taken = "\n".join(texts)
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken and _escaped(chr(code)) not in taken)
        characters = dict(zip(typed, free, strict=False))
        if len(characters) < len(typed):
            raise RowError("holds control tokens, and all private-use characters as well", "chat template")
        return StandIns(characters)

    def pieces(self, text: str, stand_ins: StandIns) -> list[tuple[str, bool]]:
        """`text` in pieces, each with the word on whether control tokens in it are live.

        What lies between two live tokens is tokenized as one piece, as plain text where a typed token is in it.
        """
        if stand_ins.reveal(text) == text:
            return [(text, True)] if text else []
        pieces: list[tuple[str, bool]] = []
        live_from = position = 0
        for start, end, _ in [*self.spans(text, 0, len(text)), (len(text), len(text), "")]:
            between = text[position:start]
            plain = stand_ins.reveal(between)
            if plain != between:
                pieces += [(text[live_from:position], True), (plain, False)]
                live_from = start
            position = end
        pieces.append((text[live_from:], True))
        return [piece for piece in pieces if piece[0]]


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    # Of two that begin alike the tokenizer takes the longer.
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"
