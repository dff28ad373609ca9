"""Rendering with the tokenizer's own chat template, for models that do not speak harmony."""

from dataclasses import dataclass
from datetime import date as Date
from functools import cached_property
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import Message, Record, RowError, Text
from gptoss_ft.data.rendering import IGNORED, Piece, Sample, TrainOn, encode, split_by_answer
from gptoss_ft.errors import DataError


@dataclass
class TemplateRenderer:
    """Renders a conversation with the chat template and labels what follows each generation prompt.

    The prompt of every answer is checked to be the beginning of the whole, so that what is trained is what the
    model must say after what it will be shown.
    """

    tokenizer: PreTrainedTokenizerBase
    date: str | None
    train_on: TrainOn
    effort: str = "medium"

    def render(self, record: Record) -> list[Sample]:
        if isinstance(record, Text):
            return [self._render_text(record.text)]
        return [self._render_piece(piece) for piece in split_by_answer(record)]

    def _render_piece(self, piece: Piece) -> Sample:
        messages = piece.messages
        whole = self._template(messages, prompt=False)
        sample = Sample(whole, list(whole) if self.train_on == "everything" else [IGNORED] * len(whole))
        for position in piece.trained:
            start = len(self._prefix(messages[:position], whole, prompt=True))
            end = len(self._prefix(messages[: position + 1], whole, prompt=False))
            end = self._after_end_of_turn(whole, start, end)
            sample.labels[start:end] = whole[start:end]
        return sample

    def _prefix(self, messages: tuple[Message, ...], whole: list[int], prompt: bool) -> list[int]:
        ids = self._template(messages, prompt)
        if whole[: len(ids)] != ids:
            raise RowError("the model's chat template renders the conversation's beginning differently without its end")
        return ids

    def _after_end_of_turn(self, ids: list[int], start: int, end: int) -> int:
        """What templates write after the end-of-turn token (ChatML's newline) is not the model's to say."""
        control = self._control_ids
        last = next((at for at in range(end - 1, start - 1, -1) if ids[at] in control), end - 1)
        return last + 1

    @cached_property
    def _control_ids(self) -> set[int]:
        return {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}

    def _template(self, messages: tuple[Message, ...], prompt: bool) -> list[int]:
        if self.tokenizer.chat_template is None:
            raise DataError(
                f"{self.tokenizer.name_or_path} has no chat template, which conversations need",
                "Name one in model.chat_template, or use dataset.format: custom with text.",
                key="model.chat_template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [_as_template_message(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                **self._template_arguments,
            )
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}", key="model.chat_template"
            ) from None
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # What Python raises while it computes a template's expressions comes through Jinja as it is.
            raise RowError(f"the model's chat template refuses it: {error}") from None
        # Templates may strip it (Qwen 3's does).
        if any(message.thinking is not None and message.thinking.strip() not in str(text) for message in messages):
            raise RowError("has thinking, which the model's chat template leaves out")
        return encode(self.tokenizer, str(text), live=True)

    @cached_property
    def _template_arguments(self) -> dict[str, Any]:
        # Llama's templates write today's date, under one of these names: a literal keeps the tokens the same.
        # A template without reasoning effort ignores it.
        arguments: dict[str, Any] = {"reasoning_effort": self.effort}
        if self.date is None:
            return arguments | {"strftime_now": _refuse_today}
        day = Date.fromisoformat(self.date)
        return arguments | {"date_string": day.strftime("%d %b %Y"), "strftime_now": day.strftime}

    def _render_text(self, text: str) -> Sample:
        ids = encode(self.tokenizer, text, live=True)
        if not any(token in self._control_ids for token in ids):
            sample = Sample(is_plain=True)
            bos = self.tokenizer.bos_token_id
            sample.add([bos] if bos is not None else [], False)
            sample.add([*ids, self._end_of_text], True)
            return sample
        if self.train_on == "everything":
            return Sample(ids, list(ids))
        return Sample(ids, self._assistant_labels(ids))

    @property
    def _end_of_text(self) -> int:
        token = self.tokenizer.eos_token_id
        if token is None:
            raise DataError(f"{self.tokenizer.name_or_path} has no end-of-text token", key="model.name")
        return int(token)

    def _assistant_labels(self, ids: list[int]) -> list[int]:
        """Labels of text that carries the template's markup: from each generation prompt to the end of its turn."""
        opening, terminator = self._generation_markers
        labels = [IGNORED] * len(ids)
        for position in range(len(ids) - len(opening) + 1):
            if ids[position : position + len(opening)] == opening:
                start = position + len(opening)
                end = next((at for at in range(start, len(ids)) if ids[at] == terminator), len(ids) - 1)
                labels[start : end + 1] = ids[start : end + 1]
        return labels

    @cached_property
    def _generation_markers(self) -> tuple[list[int], int]:
        """Tokens that open an answer, and the token that ends one, as the template writes them."""
        question = (Message("user", "question"),)
        answered = (*question, Message("assistant", "answer"))
        asked, prompt = self._template(question, prompt=False), self._template(question, prompt=True)
        whole = self._template(answered, prompt=False)
        end = self._after_end_of_turn(whole, len(prompt), len(whole))
        opening = prompt[len(asked) :]
        if not opening:
            raise DataError(
                "the chat template has no generation prompt, so that answers in text cannot be told from questions",
                "Set dataset.train_on: everything, or name another template in model.chat_template.",
                key="dataset.train_on",
            )
        return opening, whole[end - 1]


def _refuse_today(_: str) -> str:
    raise DataError(
        "the model's chat template states a date, and dataset.prompt_date names none",
        "Set it to a literal date, so that the tokens do not change with the day.",
        key="dataset.prompt_date",
    )


def _as_template_message(message: Message) -> dict[str, str]:
    # There is no developer role outside harmony; a template that knows neither raises.
    role = "system" if message.role == "developer" else message.role
    rendered = {"role": role, "content": message.content}
    if message.thinking is not None:
        # Templates differ in the name; the one that they do not know is ignored.
        rendered |= {"thinking": message.thinking, "reasoning_content": message.thinking}
    return rendered
