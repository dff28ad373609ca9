"""The keys of `lora`."""

from typing import Literal

from pydantic import Field

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import PositiveInt, Text


class LoraSection(Section):
    """The LoRA adapter: the weights that are trained."""

    r: PositiveInt = Field(default=8, description="Rank of the adapter's matrices; a higher rank trains more weights.")
    alpha: PositiveInt = Field(
        default=16,
        description="Scale: the adapter's output is multiplied by alpha / r, with use_rslora by alpha / √r.",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped at random in training."
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none", description="Which bias vectors are trained as well."
    )
    target_modules: list[Text] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Names of the linear layers that get an adapter.",
    )
    target_parameters: list[Text] | None = Field(
        default=None,
        description="Fused parameters (experts) that get an adapter; null: chosen from target_modules.",
    )
    use_rslora: bool = Field(
        default=False, description="Rank-stabilised LoRA: scale by alpha / √r in place of alpha / r."
    )
    use_dora: bool = Field(
        default=False, description="DoRA: train magnitude and direction of each weight apart; slower."
    )
    modules_to_save: list[Text] | None = Field(
        default=None,
        description="Names of layers trained whole and saved with the adapter; null trains none.",
    )
