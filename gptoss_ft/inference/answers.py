"""What a model has said: thinking, answer and tool calls apart.

Nothing that a model says is an error: what is not in its format is shown as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import Message, ToolCall
from gptoss_ft.data.harmony_check import encoding_of
from gptoss_ft.data.harmony_ranks import NotO200k, encoding_at_hand
from gptoss_ft.inference.harmony_stream import ControlTokenParser, HarmonyStream, OpenAIParser
from gptoss_ft.inference.prompts import Question
from gptoss_ft.inference.streams import Kind, Piece, PlainStream, Stream

Stop = Literal["return", "call", "end", "length", "interrupted"]


FUNCTIONS = "functions."


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the model made it. `recipient` is `functions.NAME`, or a built-in tool: `python`, `browser.search`."""

    recipient: str
    arguments: str

    @property
    def name(self) -> str:
        return self.recipient.removeprefix(FUNCTIONS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said: `text` with its control tokens; thinking, answer, preamble and calls apart, None or empty
    where there is none. `unread` is what is not in the model's format. `stop` says why it ended: a token (`return`,
    `call`, or another `end`), its `length`, or that it was `interrupted`."""

    text: str
    analysis: str | None
    final: str | None
    commentary: str | None
    calls: tuple[Call, ...]
    unread: str | None
    prompt_tokens: int
    new_tokens: int
    stop: Stop

    def as_message(self) -> Message:
        """The answer as the assistant's message of a conversation that goes on."""
        if self.calls:
            calls = tuple(ToolCall(call.name, call.arguments) for call in self.calls)
            return Message("assistant", self.commentary or "", self.analysis, calls)
        # What breaks off after the thinking is no answer.
        unread = self.unread if self.analysis is None else None
        return Message("assistant", self.final or self.commentary or unread or "", self.analysis)


class AnswerReader:
    """Reads the answers of one model. `note` says what a person should know of how it does; None: nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, is_harmony: bool) -> None:
        self._tokenizer = tokenizer
        self.note: str | None = None
        self.stream: Callable[[], Stream] = lambda: PlainStream(tokenizer)
        if is_harmony:
            self.stream = self._harmony_stream()

    def read(self, tokens: Sequence[int], prompt_tokens: int, stop: Stop) -> Answer:
        """The answer of which `tokens` are all, with the token that stopped it."""
        stream = self.stream()
        # A token that ends any text is none of a message's; <|return|> and <|call|> are.
        spoken = tokens[:-1] if stop == "end" else tokens
        pieces = [piece for token in spoken for piece in stream.put(token)] + stream.finish()
        text = str(self._tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=False))
        return gather(pieces, text, prompt_tokens, len(tokens), stop)

    def _harmony_stream(self) -> Callable[[], Stream]:
        tokenizer = self._tokenizer
        try:
            own = encoding_of(tokenizer)
        except NotO200k:
            pass
        else:
            return lambda: HarmonyStream(OpenAIParser(own), tokenizer)
        encoding = encoding_at_hand()
        if encoding is not None:
            return lambda: HarmonyStream(OpenAIParser(encoding, tokenizer), tokenizer)
        self.note = "openai-harmony's ranks are not at hand for this vocabulary: its control tokens are read without it"
        return lambda: HarmonyStream(ControlTokenParser(tokenizer), tokenizer)


def gather(pieces: Sequence[Piece], text: str, prompt_tokens: int, new_tokens: int, stop: Stop) -> Answer:
    """The answer that the pieces of a stream are; messages of the same kind are joined by an empty line."""
    messages: list[tuple[Kind, str, list[str]]] = []
    for piece in pieces:
        if piece.opens or not messages:
            messages.append((piece.kind, piece.recipient, []))
        messages[-1][2].append(piece.text)

    def said(kind: Kind) -> str | None:
        texts = ["".join(parts) for of_kind, _, parts in messages if of_kind == kind]
        return "\n\n".join(texts) if texts else None

    calls = tuple(Call(recipient, "".join(parts)) for kind, recipient, parts in messages if kind == "call")
    return Answer(
        text=text,
        analysis=said("analysis"),
        final=said("answer"),
        commentary=said("commentary"),
        calls=calls,
        unread=said("unread"),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        stop=stop,
    )


def row_of(question: Question, answer: Answer, prefix: str = "") -> dict[str, Any]:
    """A line of output: what was asked, the effort where one was named, and the answer, whose keys begin with
    `prefix`."""
    effort = question.conversation.effort
    said: dict[str, Any] = {} if effort is None else {"effort": effort}
    said |= {
        "analysis": answer.analysis,
        "answer": answer.final,
        "calls": [{"name": call.name, "arguments": call.arguments} for call in answer.calls],
        "tokens": answer.new_tokens,
        "stop": answer.stop,
    }
    if answer.commentary is not None:
        said["commentary"] = answer.commentary
    if answer.unread is not None:
        said["unread"] = answer.unread
    return {**question.given, **{f"{prefix}{key}": value for key, value in said.items()}}
