"""Rendering in OpenAI's harmony format, for gpt-oss and whatever else holds its control tokens."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import Conversation, Effort, Message, Record, RowError, Text, ToolCall
from gptoss_ft.data.harmony_tools import CALLS_LINE, developer_text
from gptoss_ft.data.rendering import (
    Draft,
    Encoder,
    Ids,
    Part,
    Piece,
    TrainOn,
    as_shown,
    ids_of,
    refuse_foreign_markup,
    split_by_answer,
)

CONTROL_TOKENS = (
    "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>",
)  # fmt: skip


def is_harmony(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model speaks OpenAI's harmony format: its tokenizer holds the format's control tokens."""
    vocabulary = tokenizer.get_vocab()
    return all(token in vocabulary for token in CONTROL_TOKENS)


@dataclass
class HarmonyRenderer:
    """Renders as openai-harmony does, with the model's own tokenizer (any vocabulary with the control tokens).

    The words of the system message are the format's own (openai-harmony 0.0.8). `date` is a literal for its date
    line, so that tokens do not change with the day; None leaves the line out, as openai-harmony does.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    effort: Effort
    date: str | None
    train_on: TrainOn
    _headers: dict[tuple[str, ...], Ids] = field(default_factory=dict, init=False)

    def draft(self, record: Record) -> list[Draft]:
        if isinstance(record, Text):
            return [self._draft_text(record.text)]
        return [self._draft_piece(piece, record) for piece in split_by_answer(record)]

    def prompt(self, conversation: Conversation) -> Ids:
        """What the model is shown to answer a conversation that ends with the user or a tool: int32 ids through
        `<|start|>assistant`. Raises `RowError`."""
        draft = self._draft_piece(Piece(as_shown(conversation.messages), frozenset()), conversation)
        draft.parts.append(Part(self._header("<|start|>", "assistant")))
        return ids_of(draft, self.encoder)

    def _draft_piece(self, piece: Piece, conversation: Conversation) -> Draft:
        parts: list[Part] = []
        context = "prompt" if self.train_on == "everything" else ""
        effort = conversation.effort or self.effort
        self._add_message(parts, "system", self._system_text(effort, bool(conversation.tools)), context)
        messages = piece.messages
        leads = messages[0].role in ("system", "developer")
        if leads or conversation.tools:
            try:
                text = developer_text(messages[0].content if leads else None, conversation.tools)
            except ValueError as error:
                raise RowError(str(error), "tool calls") from None
            self._add_message(parts, "developer", text, context)
        for position, message in enumerate(messages):
            if message.role == "user":
                self._add_message(parts, "user", message.content, context)
            elif message.role == "tool":
                parts += [
                    Part(self._header("<|start|>"), context),
                    Part(f"functions.{message.name}", context),
                    Part(self._header(" to=assistant", "<|channel|>", "commentary", "<|message|>"), context),
                    Part(message.content, context),
                    Part(self._header("<|end|>"), context),
                ]
            elif message.role == "assistant":
                self._refuse_inline_thinking(message, position)
                is_last, trained = position == len(messages) - 1, position in piece.trained
                self._add_answer(parts, message, is_last, trained, context)
        return Draft(parts)

    def _refuse_inline_thinking(self, message: Message, position: int) -> None:
        """`<think>…</think>` is other models' markup, and would be learned as the answer's words."""
        if message.content.lstrip().startswith("<think>") and "</think>" in message.content:
            raise RowError(
                f"message {position + 1}: thinking stands in the content, in <think>…</think>; "
                "give it under the key thinking",
                "wrong shape",
            )

    def _add_message(self, parts: list[Part], role: str, text: str, channel: str) -> None:
        parts += [
            Part(self._header("<|start|>", role, "<|message|>"), channel),
            Part(text, channel),
            Part(self._header("<|end|>"), channel),
        ]

    def _add_answer(self, parts: list[Part], message: Message, is_last: bool, trained: bool, context: str) -> None:
        # <|start|>assistant is given by the generation prompt; after a message of its own the model says it itself.
        parts.append(Part(self._header("<|start|>", "assistant"), context))
        if message.thinking is not None:
            self._add_spoken(parts, "analysis", message.thinking, trained)
        if not message.tool_calls:
            channel = "final" if trained else ""
            parts += [
                Part(self._header("<|channel|>", "final", "<|message|>"), channel),
                Part(message.content, channel),
                Part(self._header("<|return|>" if is_last else "<|end|>"), channel, label=self._return, ends=True),
            ]
            return
        if message.content:
            self._add_spoken(parts, "commentary", message.content, trained)
        for number, call in enumerate(message.tool_calls):
            if number:
                # Generation stops at <|call|>: what opens the next message is not the model's.
                parts.append(Part(self._header("<|start|>", "assistant"), context))
            self._add_call(parts, call, "commentary" if trained else "")

    def _add_spoken(self, parts: list[Part], channel: str, text: str, trained: bool) -> None:
        """A message that another of the same answer follows, with the header's beginning of that one."""
        label = channel if trained else ""
        parts += [
            Part(self._header("<|channel|>", channel, "<|message|>"), label),
            Part(text, label),
            Part(self._header("<|end|>", "<|start|>", "assistant"), label),
        ]

    def _add_call(self, parts: list[Part], call: ToolCall, channel: str) -> None:
        # A header is read back as text, in which these two cannot be told from the control tokens.
        if "<|channel|>" in call.name or "<|constrain|>" in call.name:
            raise RowError(f"a call of {call.name!r} cannot be told from the header around it", "tool calls")
        parts += [
            Part(f" to=functions.{call.name}", channel),
            Part(self._header("<|channel|>", "commentary", " ", "<|constrain|>", "json", "<|message|>"), channel),
            Part(call.arguments, channel),
            Part(self._header("<|call|>"), channel, ends=True),
        ]

    def _draft_text(self, text: str) -> Draft:
        if not ("<|start|>" in text and "<|message|>" in text):
            # The end of the text may be written already; other control tokens in it are words.
            refuse_foreign_markup(text, self._control_ids)
            plain = text.removesuffix("<|endoftext|>")
            return Draft([Part(plain, "text"), Part(self._header("<|endoftext|>"), "text")], is_plain=True)
        parts = self._spoken_parts(self.encoder.encode(text, live=True))
        if self.train_on == "everything":
            parts = [part._replace(channel=part.channel or "prompt") for part in parts]
        return Draft(parts)

    def _spoken_parts(self, ids: Ids) -> list[Part]:
        """Text in the model's own markup, split into what is the assistant's and what is not.

        What follows <|start|>assistant is the model's, and so is that opening itself where a message stands before it
        that did not end the answer. A final message is learned with the <|return|> that ends it.
        """
        before, *messages = np.split(ids, np.flatnonzero(ids == self._control_ids["<|start|>"]))
        parts, goes_on = [Part(before)], False
        for message in messages:
            of_message, goes_on = self._spoken_message(message, goes_on)
            parts += of_message
        parts = [part for part in parts if len(part.tokens)]
        spoken = [at for at, part in enumerate(parts) if part.channel]
        if spoken:
            # What was to follow thinking or a preamble may be missing.
            parts[spoken[-1]] = parts[spoken[-1]]._replace(ends=True)
        return parts

    def _spoken_message(self, message: Ids, goes_on: bool) -> tuple[list[Part], bool]:
        """The parts of one message, given whether the model says its opening; and whether it says the next one's."""
        opening = self._header("<|start|>", "assistant")
        if not np.array_equal(message[: len(opening)], opening):
            return [Part(message)], False
        start = 0 if goes_on else len(opening)
        ends = np.flatnonzero(np.isin(message, self._header("<|end|>", "<|return|>", "<|call|>"))).tolist()
        # Without a token that ends it, the text stops in the middle of the message.
        end, after = (ends[0], ends[0] + 1) if ends else (len(message), len(message))
        channel = self._channel_of(message[:end])
        by_end = bool(ends) and int(message[end]) == self._control_ids["<|end|>"]
        goes_on = by_end and channel in ("analysis", "commentary")
        label = self._return if by_end and channel == "final" else None
        parts = [
            Part(message[:start]),
            # Without its end an answer is one that ends here, as far as a truncation is concerned.
            Part(message[start:end], channel, ends=not ends),
            Part(message[end:after], channel, label=label, ends=bool(ends) and not goes_on),
            Part(message[after:]),
        ]
        return parts, goes_on and after == len(message)

    def _channel_of(self, message: Ids) -> str:
        """The channel that a message's header names; `answer` where it names none that the format knows."""
        for name in ("analysis", "commentary", "final"):
            header = self._header("<|channel|>", name)
            if any(
                np.array_equal(message[at : at + len(header)], header) for at in np.flatnonzero(message == header[0])
            ):
                return name
        return "answer"

    def _system_text(self, effort: Effort, has_tools: bool) -> str:
        lines = ["You are ChatGPT, a large language model trained by OpenAI.", "Knowledge cutoff: 2024-06"]
        if self.date is not None:
            lines.append(f"Current date: {self.date}")
        lines += ["", f"Reasoning: {effort}", ""]
        lines.append("# Valid channels: analysis, commentary, final. Channel must be included for every message.")
        return "\n".join(lines) + (CALLS_LINE if has_tools else "")

    @cached_property
    def _control_ids(self) -> dict[str, int]:
        # get_vocab() builds a dict of all 200,019 tokens: once, not for each token.
        vocabulary = self.tokenizer.get_vocab()
        return {name: vocabulary[name] for name in CONTROL_TOKENS}

    @property
    def _return(self) -> int:
        return self._control_ids["<|return|>"]

    def _header(self, *names: str) -> Ids:
        """Ids of control tokens and of the words between them; each word is tokenized on its own."""
        if names not in self._headers:
            ids = [
                [self._control_ids[name]] if name in self._control_ids else self.encoder.encode(name) for name in names
            ]
            self._headers[names] = np.concatenate(ids).astype(np.int32)
        return self._headers[names]
