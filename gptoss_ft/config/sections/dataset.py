"""The keys of `dataset`, or of each of its entries."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import Names, NullableText, PositiveInt, PromptDate, Text


class DatasetSection(Section):
    """The conversations or texts to train on; a list of such mappings where there are several data sets."""

    path: Text = Field(
        default="HuggingFaceH4/Multilingual-Thinking",
        description="Data set: a hub id, a local .json, .jsonl, .csv or .parquet file, or a folder of them.",
    )
    name: NullableText = Field(
        default=None, description="Subset (configuration) of the data set; null takes its default."
    )
    revision: NullableText = Field(
        default=None,
        description="Commit, tag or branch of the data set on the hub; null takes the newest commit.",
    )
    format: Literal["sharegpt", "alpaca", "prompt_completion", "custom"] = Field(
        default="sharegpt",
        description=(
            "What a row holds: sharegpt a list of messages, alpaca instruction/input/output, prompt_completion a "
            "prompt and its completion, custom one finished text."
        ),
    )
    split: Text = Field(default="train", description="Split of the data set; a slice such as train[:10%] works too.")
    max_samples: PositiveInt | None = Field(
        default=None, description="Most rows to use, from the first on; null uses all."
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        description=(
            "In a list: this entry's share of the training rows, relative to the other entries' weights; null uses "
            "every row."
        ),
    )
    eval: bool = Field(default=False, description="In a list: use this entry's rows for evaluation only.")
    eval_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the rows held out for evaluation, chosen by training.seed.",
    )
    train_on: Literal["completions", "everything"] = Field(
        default="completions",
        description="Tokens whose loss counts: completions only what the assistant writes, or everything.",
    )
    reasoning_effort: Text = Field(
        default="medium",
        description=(
            "Reasoning effort stated in the system prompt: low, medium or high; or the name of a column that holds "
            "one of them for each row."
        ),
    )
    empty_thinking: Literal["drop", "keep"] = Field(
        default="drop",
        description=(
            "What an assistant message with an empty thinking means: drop that none was given, keep an empty analysis."
        ),
    )
    prompt_date: PromptDate = Field(
        default="2025-06-01",
        description="Date stated in the system prompt, always the same; null states none.",
    )
    on_invalid: Literal["error", "drop"] = Field(
        default="error",
        description=(
            "A row that cannot be trained on (wrong role order, empty answer, …): error stops with the first of them "
            "named, drop leaves it out and counts it."
        ),
    )
    max_invalid_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="With on_invalid: drop, the largest share of invalid rows; more stops the run.",
    )
    on_too_long: Literal["drop", "error", "truncate"] = Field(
        default="drop",
        description=(
            "A sample longer than model.max_seq_length: drop leaves it out and counts it, error stops, truncate cuts "
            "its end, and an answer that is cut is not trained."
        ),
    )
    messages_column: NullableText = Field(
        default=None,
        description="Column of the messages; null takes messages or else conversations, whichever is there.",
    )
    tools_column: Text = Field(default="tools", description="Column of tool definitions; it may be missing.")
    role_key: NullableText = Field(default=None, description="Key of a message's role; null: role or from.")
    content_key: NullableText = Field(default=None, description="Key of a message's content; null: content or value.")
    thinking_key: NullableText = Field(
        default=None, description="Key of a message's thinking; null: thinking or reasoning_content."
    )
    text_column: Text = Field(default="text", description="Column of the text, with format custom.")
    rename_columns: Names = Field(
        default={},
        description="Columns to rename before a row is read, as {old: new}; {question: instruction} for instance.",
    )
    prepared: NullableText = Field(
        default=None,
        description=(
            "Folder that `prepare` wrote; its samples are used as they are, in place of path and everything about it."
        ),
    )

    @field_validator("eval_fraction")
    @classmethod
    def _all_or_a_fraction(cls, eval_fraction: float, info: ValidationInfo) -> float:
        if info.data.get("eval") and eval_fraction > 0:
            raise ValueError("wanted 0, because eval: true already uses every row for evaluation")
        return eval_fraction
