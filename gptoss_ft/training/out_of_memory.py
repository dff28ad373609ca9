"""What libraries remember of a GPU's memory that ran out, and is true no more."""

import sys
from typing import Any

LOSS_MODULE = "unsloth_zoo.fused_losses.cross_entropy_loss"


def forget_what_ran_out() -> None:
    """Have Unsloth's loss look anew at what is free, and compile again. Memory that runs out in its first chunk it
    takes for a compiler that fails, and its logits then take four times as much for the rest of the process
    (unsloth_zoo 2026.10.9)."""
    loss: Any = sys.modules.get(LOSS_MODULE)
    if getattr(loss, "_FUSED_CE_COMPILE_SUPPORTED", None) is False and loss._FUSED_CE_COMPILE_DISABLED is False:
        loss._FUSED_CE_COMPILE_SUPPORTED = None
    if hasattr(loss, "_get_chunk_multiplier"):
        loss._get_chunk_multiplier.cache_clear()
