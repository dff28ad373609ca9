"""The tokenizer's chat template: what is given to it, and what its Jinja text raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as Date
from functools import cached_property
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.control_tokens import ControlTokens
from gptoss_ft.data.conversation import Effort, Message, RowError, Tool
from gptoss_ft.data.template_messages import TemplateInput, template_input
from gptoss_ft.errors import DataError

THINK = "<think>"
_QUESTION = (Message("user", "question"),)
_ANSWERED = (*_QUESTION, Message("assistant", "answer"))


@dataclass
class JinjaTemplate:
    """Renders with the tokenizer's own chat template. `date` is a literal, so that tokens do not change with the day;
    a template that asks for one where it is None is a `DataError`."""

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    effort: Effort
    date: str | None

    def input_of(self, messages: Sequence[Message], tools: Sequence[Tool], effort: Effort | None) -> TemplateInput:
        """The template's input; `effort` overrules the job's."""
        return template_input(messages, tools, effort or self.effort, self.control)

    def render(self, given: TemplateInput, until: int | None = None, prompt: bool = False, thinks: bool = False) -> str:
        """The text of the messages before `until`, with the generation prompt after them where `prompt` says so.

        `thinks`: the answers hold thinking, or may. Raises `RowError` for what the template refuses.
        """
        arguments = self._arguments(given.effort)
        if not thinks and self.opens_thinking:
            arguments["enable_thinking"] = False
        return self._render(given, until, prompt, arguments)

    @cached_property
    def question(self) -> str:
        """The rendering of a question."""
        return self.render(self.input_of(_QUESTION, (), None), thinks=True)

    @cached_property
    def prompt(self) -> str:
        """The rendering of the same question with the generation prompt."""
        return self.render(self.input_of(_QUESTION, (), None), prompt=True, thinks=True)

    @cached_property
    def end_of_turn(self) -> str | None:
        """The first control token after an answer; None where the template writes none."""
        try:
            whole = self.render(self.input_of(_ANSWERED, (), None))
        except RowError:
            return None
        return self.control.first(whole.rpartition("answer")[2])

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the generation prompt opens the thinking (Qwen 3.6's): an answer without any is then asked for with
        `enable_thinking` false."""
        try:
            return self.prompt.rstrip().endswith(THINK)
        except RowError:
            return False

    def _render(self, given: TemplateInput, until: int | None, prompt: bool, arguments: dict[str, Any]) -> str:
        if self.tokenizer.chat_template is None:
            raise DataError(
                f"{self.tokenizer.name_or_path} has no chat template, which conversations need",
                "Name one in model.chat_template, or use dataset.format: custom with text.",
                key="model.chat_template",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                given.messages[:until], given.tools, tokenize=False, add_generation_prompt=prompt, **arguments
            )
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}", key="model.chat_template"
            ) from None
        except (
            jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
        ) as error:  # fmt: skip
            # What Python raises while it computes a template's expressions comes through Jinja as it is.
            raise RowError(f"the model's chat template refuses it: {error}", "chat template") from None
        return given.stand_ins.unescape(str(text))

    def _arguments(self, effort: Effort) -> dict[str, Any]:
        # Llama's templates write today's date, under one of these names: a literal keeps the tokens the same.
        # A template without reasoning effort ignores it.
        arguments: dict[str, Any] = {"reasoning_effort": effort}
        if self.date is None:
            return arguments | {"strftime_now": _refuse_today}
        day = Date.fromisoformat(self.date)
        return arguments | {"date_string": day.strftime("%d %b %Y"), "strftime_now": day.strftime}


def _refuse_today(_: str) -> str:
    raise DataError(
        "the model's chat template states a date, and dataset.prompt_date names none",
        "Set it to a literal date, so that the tokens do not change with the day.",
        key="dataset.prompt_date",
    )
