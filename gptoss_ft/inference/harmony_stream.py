"""Harmony as it comes, read by openai-harmony's own parser; what is not in the format is handed on as it is.

Ids of another vocabulary than its own are given to it as its own: control tokens by name, and the text between them
encoded anew. Where its ranks are not at hand, the control tokens are read here.
"""

import re
from typing import Protocol

import openai_harmony as oh
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.harmony_rendering import CONTROL_TOKENS
from gptoss_ft.inference.streams import Kind, Piece, TextDecoder


class Unreadable(ValueError):
    """Tokens that are not in harmony's format."""


class Parser(Protocol):
    """Reads the tokens of one answer; raises `Unreadable`."""

    @property
    def in_header(self) -> bool:
        """Whether a message has begun and its content has not."""
        ...

    def feed(self, token: int) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


class HarmonyStream:
    """One answer; what its parser cannot read, and all that follows it, is `unread`."""

    def __init__(self, parser: Parser, tokenizer: PreTrainedTokenizerBase) -> None:
        self._parser = parser
        self._raw = TextDecoder(tokenizer)
        self._header: list[int] = []
        self._is_broken = False

    def put(self, token: int) -> list[Piece]:
        if self._is_broken:
            return self._unread(self._raw.put(token))
        self._header.append(token)
        try:
            pieces = self._parser.feed(token)
        except Unreadable:
            return self._break()
        if not self._parser.in_header:
            self._header.clear()
        return pieces

    def finish(self) -> list[Piece]:
        if self._is_broken:
            return self._unread(self._raw.finish())
        if self._parser.in_header:
            return [*self._break(), *self._unread(self._raw.finish())] if self._header else []
        try:
            return self._parser.finish()
        except Unreadable:
            return self._break()

    def _break(self) -> list[Piece]:
        self._is_broken = True
        text = "".join(map(self._raw.put, self._header))
        return [Piece("unread", text, opens=True)]

    def _unread(self, text: str) -> list[Piece]:
        return [Piece("unread", text, opens=False)] if text else []


class OpenAIParser:
    """openai-harmony's `StreamableParser`. `tokenizer` is that of the tokens where they are not the encoding's own."""

    def __init__(self, encoding: oh.HarmonyEncoding, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._encoding = encoding
        self._parser = oh.StreamableParser(encoding, oh.Role.ASSISTANT)
        # Asking for it costs as much as all tokens so far do, and only special tokens change it.
        self._state = self._parser.state
        self._said = ""
        self._message: tuple[Kind, str] | None = None
        self._decoder = None if tokenizer is None else TextDecoder(tokenizer)
        self._control = {} if tokenizer is None else _control_ids(tokenizer)

    @property
    def in_header(self) -> bool:
        return bool(self._state == oh.StreamState.HEADER)

    def feed(self, token: int) -> list[Piece]:
        return self._process(self._translated(token))

    def finish(self) -> list[Piece]:
        pieces = self._process(self._encoded(self._decoder.finish() if self._decoder else ""))
        try:
            self._parser.process_eos()
        except oh.HarmonyError as error:
            raise Unreadable(str(error)) from None
        return pieces + self._closed()

    def _translated(self, token: int) -> list[int]:
        if self._decoder is None:
            return [token]
        if token not in self._control:
            return self._encoded(self._decoder.put(token))
        held = self._encoded(self._decoder.finish())
        return [*held, *self._encoding.encode(self._control[token], allowed_special="all")]

    def _encoded(self, text: str) -> list[int]:
        return list(self._encoding.encode(text, disallowed_special=())) if text else []

    def _process(self, tokens: list[int]) -> list[Piece]:
        pieces: list[Piece] = []
        for token in tokens:
            try:
                self._parser.process(token)
            except oh.HarmonyError as error:
                raise Unreadable(str(error)) from None
            if self._encoding.is_special_token(token):
                self._state = self._parser.state
            if self._state != oh.StreamState.CONTENT:
                pieces += self._closed()
                continue
            if self._message is None:
                self._message = self._kind()
                pieces.append(Piece(*self._of_message("", opens=True)))
            delta = self._parser.last_content_delta
            if delta:
                self._said += delta
                pieces.append(Piece(*self._of_message(delta)))
        return pieces

    def _closed(self) -> list[Piece]:
        """What the message that has ended holds beyond its pieces: bytes that never became a character."""
        if self._message is None:
            return []
        whole = "".join(content.text for content in self._parser.messages[-1].content)
        rest = whole[len(self._said) :]
        pieces = [Piece(*self._of_message(rest))] if rest else []
        self._message, self._said = None, ""
        return pieces

    def _kind(self) -> tuple[Kind, str]:
        parser = self._parser
        if parser.current_role != oh.Role.ASSISTANT:
            return "unread", ""
        return kind_of(parser.current_channel, parser.current_recipient)

    def _of_message(self, text: str, opens: bool = False) -> tuple[Kind, str, bool, str]:
        assert self._message is not None
        kind, recipient = self._message
        return kind, text, opens, recipient


class ControlTokenParser:
    """The same by the control tokens alone, for a vocabulary that openai-harmony's ranks are not at hand for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._control = _control_ids(tokenizer)
        self._header: list[int] | None = []
        self._message: tuple[Kind, str] | None = None
        self._decoder = TextDecoder(tokenizer)

    @property
    def in_header(self) -> bool:
        return self._header is not None

    def feed(self, token: int) -> list[Piece]:
        name = self._control.get(token)
        if self._header is not None:
            return self._feed_header(token, name, self._header)
        if self._message is not None:
            return self._feed_content(token, name, self._message)
        if name != "<|start|>":
            raise Unreadable("a message does not begin with <|start|>")
        self._header = []
        return []

    def finish(self) -> list[Piece]:
        return [] if self._message is None else self._text(self._decoder.finish(), self._message)

    def _feed_header(self, token: int, name: str | None, header: list[int]) -> list[Piece]:
        if name not in (None, "<|message|>", "<|channel|>", "<|constrain|>"):
            raise Unreadable(f"{name} in a header")
        if name != "<|message|>":
            header.append(token)
            return []
        words = str(self._tokenizer.backend_tokenizer.decode(header, skip_special_tokens=False))
        self._header, self._message = None, _kind_of_header(words)
        kind, recipient = self._message
        return [Piece(kind, "", True, recipient)]

    def _feed_content(self, token: int, name: str | None, message: tuple[Kind, str]) -> list[Piece]:
        if name not in ("<|end|>", "<|return|>", "<|call|>"):
            return self._text(self._decoder.put(token), message)
        self._message = None
        return self._text(self._decoder.finish(), message)

    def _text(self, text: str, message: tuple[Kind, str]) -> list[Piece]:
        return [Piece(message[0], text, False, message[1])] if text else []


def kind_of(channel: str | None, recipient: str | None) -> tuple[Kind, str]:
    """The kind of a harmony message, and the recipient of a call: `functions.NAME`, or a built-in tool."""
    if recipient is not None and recipient != "all":
        return "call", recipient
    if channel == "analysis":
        return "analysis", ""
    return ("commentary" if channel == "commentary" else "answer"), ""


def _kind_of_header(words: str) -> tuple[Kind, str]:
    """What `assistant to=functions.f<|channel|>commentary <|constrain|>json` says; the recipient may come later too."""
    # The prompt has said the first message's role.
    role = re.match(r"\w*", words)
    if role and role.group() not in ("", "assistant"):
        return "unread", ""
    channel = re.search(r"<\|channel\|>(\w+)", words)
    recipient = re.search(r"(?:^|\s)to=(\S+?)(?=<\||\s|$)", words)
    return kind_of(channel and channel.group(1), recipient and recipient.group(1))


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    vocabulary = tokenizer.get_vocab()
    return {vocabulary[name]: name for name in CONTROL_TOKENS}
