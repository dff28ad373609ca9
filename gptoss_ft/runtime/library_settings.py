"""What libraries are told once the job is known, most of it by variables that they ask for as they go."""

import hashlib
import os
from pathlib import Path
from typing import Any


def hold_mxfp4_packed(packed: bool) -> None:
    """Say whether Unsloth's next load keeps experts that are stored as MXFP4 in those 4 bits, or holds them in 16."""
    os.environ["UNSLOTH_MXFP4_KEEP_PACKED"] = "1" if packed else "0"


def offload_exactly() -> None:
    """Have Unsloth offload what recomputed layers start from in float32, where it would round it to bfloat16. It asks
    when checkpointing is set up."""
    os.environ["UNSLOTH_OFFLOAD_FP32"] = "exact"


def hold_experts_dequantized(held: bool) -> None:
    """Say whether Unsloth keeps the 4-bit experts that a forward pass has dequantized for the backward pass, or makes
    them anew. It asks at every layer."""
    if held:
        os.environ["UNSLOTH_MOE_RECOMPUTE"] = "0"
    else:
        # Unset, it decides by itself: in a layer that is recomputed they are kept until its backward pass.
        os.environ.pop("UNSLOTH_MOE_RECOMPUTE", None)


def experts_are_held_dequantized() -> bool:
    return os.environ.get("UNSLOTH_MOE_RECOMPUTE") == "0"


def remember_changing_sizes(model: str) -> None:
    """Have torch keep, beside the code that it compiles, which sizes changed from one call to the next: rows have many
    lengths, and a later run of this model compiles for all of them at its first step, or finds that code in the cache.
    Before anything is compiled: torch reads it once.

    Of each model by itself: what is always the same within one, as its hidden size, is compiled as a constant. Where
    the environment names a job (TORCH_COMPILE_JOB_ID), that stays.
    """
    import torch.compiler

    settings: Any = torch.compiler.config
    if settings.job_id is None:
        settings.job_id = f"gptoss_ft-{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def direct_wandb(folder: Path, project: str) -> None:
    """Keep Weights & Biases' files in the output folder, and name its project."""
    os.environ["WANDB_DIR"] = str(folder)
    os.environ.setdefault("WANDB_PROJECT", project)


def harmony_ranks() -> Path | None:
    """The folder that openai-harmony is told to load its ranks from."""
    folder = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
    return Path(folder) if folder else None


def use_harmony_ranks(folder: Path) -> None:
    """Have openai-harmony load its ranks from `folder` (o200k_base.tiktoken), not from the network."""
    # Also where the variable is set: openai-harmony 0.0.8 accepts one hash, so another folder holds the same bytes or
    # ends in its error, for it looks nowhere else. It asks for the variable at each load, not at import.
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(folder.absolute())
