"""The keys of `performance`."""

from typing import Literal

from pydantic import Field

from gptoss_ft.config.sections.section import Section


class PerformanceSection(Section):
    """How an optimizer step is computed; what it computes stays the same."""

    plan: Literal["auto", "off"] = Field(
        default="auto",
        description=(
            "auto fits micro-batches, recomputation and what is kept on the GPU to its memory; off computes as "
            "`training` says."
        ),
    )
    memory_limit_gib: float | None = Field(
        default=None,
        gt=0,
        description="Most GPU memory that a run may take, in GiB; null: all that the GPU has.",
    )
    fused_experts: bool = Field(
        default=True,
        description=(
            "Compute gpt-oss's 4-bit experts by this package's own kernels on an H100, H200 or B200; false, and any "
            "other GPU, leaves them to Unsloth."
        ),
    )
