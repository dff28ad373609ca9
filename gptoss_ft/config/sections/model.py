"""The keys of `model`."""

from typing import Literal

from pydantic import Field

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import NullableText, Text


class ModelSection(Section):
    """The base model, and how it is loaded."""

    name: Text = Field(default="unsloth/gpt-oss-20b", description="Base model: a hub id or a local folder.")
    revision: NullableText = Field(
        default=None,
        description="Commit, tag or branch of the base model on the hub; null takes the newest commit.",
    )
    max_seq_length: int = Field(default=1024, ge=16, description="Longest sample, in tokens.")
    load_in_4bit: bool = Field(
        default=True,
        description="Hold the base model's weights in 4 bits (QLoRA); false holds them in 16 bits.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Number format of the computation; auto takes bfloat16 where the device has it.",
    )
    chat_template: NullableText = Field(
        default=None,
        description="Path of a Jinja chat template, or a built-in one such as llama-3.1; null keeps the model's own.",
    )
    adapter: NullableText = Field(
        default=None,
        description="Existing LoRA adapter to go on training: a folder or a hub id; null starts a new one.",
    )
    device: Literal["cuda", "cpu", "auto"] = Field(
        default="cuda", description="Where to train; auto takes the GPU where there is one."
    )
