"""Evaluation with the attention of training.

In evaluation mode Unsloth's gpt-oss computes attention densely: a mask of length × length, and in every layer the
scores of all heads (unsloth_zoo 2026.10.9, temporary_patches/gpt_oss.py: flex attention where `self.training`, eager
attention elsewhere). At 8,192 tokens that takes several times the memory of a training step.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ZOO_MODULE = "unsloth_zoo.temporary_patches.gpt_oss"
# The zoo sets it where it has put flex attention into gpt-oss: on a GPU, unless that is switched off.
ZOO_FLAG = "_GPT_OSS_FLEX_SINK_ATTENTION_INSTALLED"
# The modules whose own `training` decides: which mask is made, which attention runs, and which kernels the experts use.
DECIDING = ("GptOssModel", "GptOssAttention", "GptOssExperts", "GptOssExpertsBnb4bit")
# Side of a block of flex attention's mask, to whose multiples training pads, too.
BLOCK = 128


@contextmanager
def training_attention(model: Any) -> Iterator[int]:
    """Put `model` in evaluation mode (no dropout, no gradient checkpointing), with gpt-oss's attention and experts
    computed as in training. Every module's mode is as it was afterwards.

    Yields what the length of the rows must be a multiple of. Flex attention sees no attention mask: rows must be padded
    on the right.
    """
    before = [(module, module.training) for module in model.modules()]
    flex = _flex_is_installed() and any(type(module).__name__ == DECIDING[0] for module, _ in before)
    try:
        model.eval()
        for module, _ in before:
            if flex and type(module).__name__ in DECIDING:
                module.training = True
        yield BLOCK if flex else 1
    finally:
        for module, training in before:
            module.training = training


def _flex_is_installed() -> bool:
    zoo = sys.modules.get(ZOO_MODULE)
    return zoo is not None and bool(getattr(zoo, ZOO_FLAG))
