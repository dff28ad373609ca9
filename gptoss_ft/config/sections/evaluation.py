"""The keys of `evaluation`."""

from typing import Literal

from pydantic import Field

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import NullableText, PositiveInt, Text


class EvaluationSection(Section):
    """What is asked of the model before and after training; RUN_EVALUATION=false skips all evaluation at the end."""

    prompts: list[Text] = Field(
        default=[],
        description="Questions that the model answers before and after training; the answers are kept.",
    )
    reasoning_efforts: list[Literal["low", "medium", "high"]] = Field(
        default=["medium"],
        min_length=1,
        description="Reasoning efforts at which each question is asked.",
    )
    system: NullableText = Field(
        default=None, description="System (developer) message before each question; null gives none."
    )
    max_new_tokens: PositiveInt = Field(default=256, description="Longest answer, in tokens.")
    temperature: float = Field(
        default=0.0, ge=0, le=10, description="Randomness of the answers; 0 takes the likeliest token each time."
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="With a temperature: choose among the likeliest tokens of this total share.",
    )
