"""Rendering with the tokenizer's own chat template, for models that do not speak harmony."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.control_tokens import ControlTokens, StandIns
from gptoss_ft.data.conversation import Conversation, Effort, Message, Record, RowError, Text
from gptoss_ft.data.jinja_template import THINK, JinjaTemplate
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
from gptoss_ft.data.stretch_ids import adds_text, ids_of_stretches
from gptoss_ft.data.template_messages import TemplateInput, left_out, probe_of, shape_of
from gptoss_ft.errors import DataError


class _BeginningDiffers(RowError):
    def __init__(self) -> None:
        super().__init__(
            "the model's chat template renders the conversation's beginning differently without its end",
            "chat template",
        )


class _Stretch(NamedTuple):
    """Characters [start, end) of a rendering: an answer, or what lies before, between or after the answers."""

    start: int
    end: int
    is_answer: bool


@dataclass
class TemplateRenderer:
    """Renders a conversation with the chat template and trains what follows each generation prompt.

    The prompt of every answer is checked to be the beginning of the whole, so that what is trained is what the
    model must say after what it will be shown. Where a template renders an answer differently once another follows it
    (Qwen 3's does), each one is a sample of its own. A row of which the template leaves something out is a `RowError`.

    `date` is a literal for templates that state one; `effort` is for those that state one, unless a conversation has
    its own.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    effort: Effort
    date: str | None
    train_on: TrainOn
    _left_out: dict[tuple[object, ...], str | None] = field(default_factory=dict, init=False)

    def draft(self, record: Record) -> list[Draft]:
        if isinstance(record, Text):
            return [self._draft_text(record.text)]
        return [draft for piece in split_by_answer(record) for draft in self._draft_piece(piece, record)]

    def prompt(self, conversation: Conversation) -> Ids:
        """What the model is shown to answer a conversation that ends with the user or a tool: int32 ids through the
        generation prompt, which leaves it to the model whether it thinks. Raises `RowError`."""
        messages = as_shown(conversation.messages)
        given = self._template.input_of(messages, conversation.tools, conversation.effort)
        whole = self._template.render(given, prompt=True, thinks=True)
        missing = left_out(given, (), whole)
        if missing is not None:
            raise RowError(f"has {missing}, which the model's chat template leaves out", "chat template")
        draft_of = self._draft_of_ids if self._adds_space else self._draft_of_text
        return ids_of(draft_of(whole, [_Stretch(0, len(whole), False)], given.stand_ins), self.encoder)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token that ends an answer; None where the template writes none."""
        token = self._template.end_of_turn
        return None if token is None else int(self.encoder.encode(token, live=True)[0])

    def _draft_piece(self, piece: Piece, conversation: Conversation) -> list[Draft]:
        try:
            return [self._draft_answers(piece.messages, piece.trained, conversation)]
        except _BeginningDiffers:
            if piece.trained == {len(piece.messages) - 1}:
                raise
        return [
            self._draft_answers(piece.messages[: at + 1], frozenset([at]), conversation) for at in sorted(piece.trained)
        ]

    def _draft_answers(
        self, messages: tuple[Message, ...], trained: frozenset[int], conversation: Conversation
    ) -> Draft:
        given = self._template.input_of(messages, conversation.tools, conversation.effort)
        thinks = any(messages[at].thinking or "</think>" in messages[at].content for at in trained)
        whole = self._template.render(given, thinks=thinks)
        stretches = self._stretches(given, whole, trained, thinks)
        missing = left_out(given, trained, whole) or self._left_out_of_shape(given, trained, thinks)
        if missing is not None:
            raise RowError(f"has {missing}, which the model's chat template leaves out", "chat template")
        if self._adds_space:
            return self._draft_of_ids(whole, stretches, given.stand_ins)
        return self._draft_of_text(whole, stretches, given.stand_ins)

    def _left_out_of_shape(self, given: TemplateInput, trained: Collection[int], thinks: bool) -> str | None:
        """What the template leaves out of any conversation of this shape, be it so short as to be found by chance."""
        shape = (*shape_of(given), tuple(sorted(trained)), thinks)
        if shape not in self._left_out:
            probe = probe_of(given)
            try:
                self._left_out[shape] = left_out(probe, trained, self._template.render(probe, thinks=thinks))
            except RowError:
                # The template has taken the row itself; what it dislikes about the probe says nothing.
                self._left_out[shape] = None
        return self._left_out[shape]

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self.tokenizer)

    @cached_property
    def _template(self) -> JinjaTemplate:
        return JinjaTemplate(self.tokenizer, self._control, self.effort, self.date)

    @cached_property
    def _adds_space(self) -> bool:
        return adds_text(self.tokenizer)

    @property
    def _context(self) -> str:
        return "prompt" if self.train_on == "everything" else ""

    # Where the answers stand in the rendering.

    def _stretches(self, given: TemplateInput, whole: str, trained: Collection[int], thinks: bool) -> list[_Stretch]:
        stretches: list[_Stretch] = []
        position = 0
        for at in sorted(trained):
            prompt = self._template.render(given, at, prompt=True, thinks=thinks)
            is_last = at + 1 == len(given.messages)
            ended = whole if is_last else self._template.render(given, at + 1, thinks=thinks)
            start = self._control.after_swallowed(whole, position, len(prompt))
            end = self._end_of_answer(whole, ended, start)
            if not whole.startswith(prompt) or not position <= start < end:
                raise _BeginningDiffers
            stretches += [_Stretch(position, start, False), _Stretch(start, end, True)]
            position = end
        return [*stretches, _Stretch(position, len(whole), False)]

    def _end_of_answer(self, whole: str, ended: str, start: int) -> int:
        """Where an answer that begins at `start` ends; `ended` is the rendering of the conversation through it.

        What templates write after the end-of-turn token (ChatML's newline) is not the model's to say.
        """
        end = len(ended)
        if not whole.startswith(ended):
            # Phi 3's template ends the conversation, not every turn, in the end-of-text token.
            shared = self._control.spans(ended, start, _shared_length(whole, ended))
            end = shared[-1][1] if shared else 0
            if self._control.removed_from(ended[end:]).strip():
                raise _BeginningDiffers
        tokens = self._control.spans(whole, start, end)
        ends = [span for span in tokens if span[2] == self._template.end_of_turn] or tokens
        return ends[-1][1] if ends else end

    # Parts.

    def _draft_of_text(self, whole: str, stretches: list[_Stretch], stand_ins: StandIns) -> Draft:
        draft = Draft(whole=[Part(text, live=live) for text, live in self._control.pieces(whole, stand_ins)])
        for start, end, is_answer in stretches:
            channel = "answer" if is_answer else self._context
            draft.parts += [
                Part(text, channel, live) for text, live in self._control.pieces(whole[start:end], stand_ins)
            ]
            if is_answer:
                draft.parts[-1] = draft.parts[-1]._replace(ends=True)
        return draft

    def _draft_of_ids(self, whole: str, stretches: list[_Stretch], stand_ins: StandIns) -> Draft:
        ends = [stretch.end for stretch in stretches]
        ids = ids_of_stretches(whole, ends, self._control, stand_ins, self.encoder)
        parts = [
            Part(part, "answer", ends=True) if stretch.is_answer else Part(part, self._context)
            for stretch, part in zip(stretches, ids, strict=True)
        ]
        pieces = self._control.pieces(whole, stand_ins)
        # Plain text on its own is not tokenized as within the whole.
        is_live = all(live for _, live in pieces)
        return Draft(parts, whole=[Part(whole, live=True)] if is_live else None)

    # Text.

    def _draft_text(self, text: str) -> Draft:
        """Text without control tokens is trained whole, between one beginning-of-text token, if the tokenizer has it,
        and one end-of-text token; it may bring them along. Other text is taken for the template's own markup."""
        plain = text.removeprefix(self.tokenizer.bos_token or "").removesuffix(self.tokenizer.eos_token or "")
        if not self._control.are_in(plain):
            refuse_foreign_markup(plain, ())
            bos, eos = self.tokenizer.bos_token_id, self._end_of_text
            beginning = [] if bos is None else [Part(np.array([bos], np.int32))]
            end = Part(np.array([eos], np.int32), "text")
            return Draft([*beginning, Part(plain, "text", live=True), end], is_plain=True)
        ids = self.encoder.encode(text, live=True)
        if self.train_on == "everything":
            return Draft([Part(ids, "prompt")])
        parts = self._spoken_parts(ids)
        opening = self.tokenizer.backend_tokenizer.decode(self._markers[0].tolist(), skip_special_tokens=False).rstrip()
        # One at the end of the text opens nothing.
        if sum(part.channel == "answer" for part in parts) < text.rstrip().removesuffix(opening).count(opening):
            raise RowError(
                "an answer begins with white space that tokenizes as one with what opens it", "chat template"
            )
        return Draft(parts)

    @property
    def _end_of_text(self) -> int:
        token = self.tokenizer.eos_token_id
        if token is None:
            raise DataError(f"{self.tokenizer.name_or_path} has no end-of-text token", key="model.name")
        return int(token)

    def _spoken_parts(self, ids: Ids) -> list[Part]:
        """Text that carries the template's markup, split into the answers, each from a generation prompt through the
        end of its turn, and what lies around them."""
        opening, terminator = self._markers
        starts = np.flatnonzero(ids == opening[0]) + len(opening)
        ends = np.flatnonzero(ids == terminator) + 1
        parts: list[Part] = []
        position = 0
        for start in starts:
            if start - len(opening) < position or not np.array_equal(ids[start - len(opening) : start], opening):
                continue
            after = ends[ends > start]
            end = int(after[0]) if after.size else len(ids)
            parts += [Part(ids[position:start]), Part(ids[start:end], "answer", ends=True)]
            position = end
        return [part for part in [*parts, Part(ids[position:])] if len(part.tokens)]

    @cached_property
    def _markers(self) -> tuple[Ids, int]:
        """Tokens that open an answer, and the token that ends one, as the template writes them."""
        asked, prompt = (
            self.encoder.encode(text, live=True) for text in (self._template.question, self._template.prompt)
        )
        shared = min(len(asked), len(prompt))
        differing = np.flatnonzero(asked[:shared] != prompt[:shared])
        opening = prompt[int(differing[0]) if differing.size else shared :]
        # An answer in text brings its thinking along, or has none.
        thinking = np.flatnonzero(opening == self.encoder.encode(THINK, live=True)[0])
        opening = opening[: int(thinking[0])] if self._template.opens_thinking and thinking.size else opening
        if not opening.size or self._template.end_of_turn is None:
            lacking = "generation prompt" if not opening.size else "control token after an answer"
            raise DataError(
                f"the chat template has no {lacking}, so that answers in text cannot be told from questions",
                "Set dataset.train_on: everything, or name another template in model.chat_template.",
                key="dataset.train_on",
            )
        return opening, int(self.encoder.encode(self._template.end_of_turn, live=True)[0])


def _shared_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    differing = (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differing, min(len(one), len(other)))
