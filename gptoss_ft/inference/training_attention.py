"""Evaluation with the attention of training.

In evaluation mode Unsloth's gpt-oss computes attention densely: a mask of length × length, and in every layer the
scores of all heads (unsloth_zoo 2026.10.9, temporary_patches/gpt_oss.py: flex attention where `self.training`, eager
attention elsewhere). At 8,192 tokens that takes several times the memory of a training step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gptoss_ft.model.attention import BLOCK, flex_is_installed

# The modules whose own `training` decides: which mask is made, which attention runs, and which kernels the experts use.
DECIDING = ("GptOssModel", "GptOssAttention", "GptOssExperts", "GptOssExpertsBnb4bit")


@contextmanager
def training_attention(model: Any) -> Iterator[int]:
    """Put `model` in evaluation mode (no dropout, no gradient checkpointing), with gpt-oss's attention and experts
    computed as in training. Every module's mode is as it was afterwards.

    Yields what the length of the rows must be a multiple of. Flex attention sees no attention mask: rows must be padded
    on the right.
    """
    before = [(module, module.training) for module in model.modules()]
    flex = flex_is_installed() and any(type(module).__name__ == DECIDING[0] for module, _ in before)
    try:
        model.eval()
        for module, _ in before:
            if flex and type(module).__name__ in DECIDING:
                module.training = True
        yield BLOCK if flex else 1
    finally:
        for module, training in before:
            module.training = training
