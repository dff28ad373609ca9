"""Puts `fused_experts` in the place of Unsloth's grouped computation of 4-bit experts, on a GPU that has bfloat16.

Unsloth asks for its own by name at every call (unsloth_zoo 2026.10.9, temporary_patches/gpt_oss_grouped_qlora.py), so
that there it can be replaced; what this package's cannot compute, goes on to be computed by Unsloth's. Its kernel that
dequantizes a layer's experts and its stacks of their adapters are used as they are.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from gptoss_ft.model.fused_experts import FrozenExperts, Lora, fused_experts
from gptoss_ft.runtime import experts_are_held_dequantized, is_out_of_memory

GROUPED = "unsloth_zoo.temporary_patches.gpt_oss_grouped_qlora"
NEEDED = (
    "grouped_qlora_forward", "nf4_dequant_expert_stack", "compute_mode", "_tables", "_lora_stacks",
    "_bnb_fallback_stack",
)  # fmt: skip
BIASES = "_gptoss_ft_biases"
UNSLOTHS_OWN = "unsloths_own"


class _Unfit(Exception):
    """This call is for Unsloth's own."""


class Nf4Experts(FrozenExperts):
    """A layer's experts out of Unsloth's table of where their 4-bit weights lie."""

    def __init__(self, grouped: Any, module: Any) -> None:
        self._grouped = grouped
        self._projections = {"gate_up": module.gate_up_projs, "down": module.down_projs}
        self._tables = grouped._tables(module, torch.bfloat16)
        if self._tables is None or any(
            self._tables[name].get("dtype") != torch.bfloat16 for name in ("gate_up", "down")
        ):
            raise _Unfit
        self.gate_up_bias, self.down_bias = _biases(module)
        self.alpha, self.limit = module.alpha, module.limit
        self.keep = experts_are_held_dequantized()

    def gate_up(self) -> Tensor:
        return self._dequantized("gate_up")

    def down(self) -> Tensor:
        return self._dequantized("down")

    def _dequantized(self, name: str) -> Tensor:
        weights: Tensor | None = self._grouped.nf4_dequant_expert_stack(self._tables[name], torch.bfloat16)
        if weights is None:
            # Unsloth has switched its kernel off, which it does when that fails: bitsandbytes', as it does itself.
            weights = self._grouped._bnb_fallback_stack(self._projections[name], torch.bfloat16)
        return weights


def fuse_experts(model: Any, told: Callable[[Exception], None]) -> None:
    """From now on `model`'s 4-bit experts are computed by `fused_experts`. Nothing changes where there are none, or
    Unsloth has changed what this relies on. `told` is called once, where it fails and Unsloth's own goes on."""
    grouped: Any = sys.modules.get(GROUPED)
    known = grouped is not None and all(hasattr(grouped, name) for name in NEEDED)
    if known and any(map(is_split, model.modules())) and not are_fused():
        grouped.grouped_qlora_forward = _fused(grouped, grouped.grouped_qlora_forward, told)


def are_fused() -> bool:
    """Whether 4-bit experts are computed by `fused_experts`."""
    grouped: Any = sys.modules.get(GROUPED)
    return hasattr(getattr(grouped, "grouped_qlora_forward", None), UNSLOTHS_OWN)


def is_split(module: Any) -> bool:
    """Whether this is a layer's experts in Unsloth's layout for 4 bits, a linear layer for each."""
    return hasattr(module, "gate_up_projs") and hasattr(module, "down_projs")


def _fused(grouped: Any, original: Callable[..., Any], told: Callable[[Exception], None]) -> Any:
    def forward(
        experts: Any, hidden: Tensor, indices: Tensor, weights: Tensor, batch: int, *sizes: int, lora: Any = None
    ) -> Any:
        """Float32 [batch, length, H]; `weights` [T, experts] are 0 for those that were not chosen."""
        try:
            result = _layer(grouped, experts, hidden, indices, weights, lora)
        except _Unfit:
            return original(experts, hidden, indices, weights, batch, *sizes, lora=lora)
        except torch.utils.checkpoint._StopRecomputationError:
            # The end of a recomputation is no failure.
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Unsloth would take it for its own failure, and compute one expert after the other without a word.
            grouped.grouped_qlora_forward = original
            told(error)
            return original(experts, hidden, indices, weights, batch, *sizes, lora=lora)
        return result.view(batch, -1, result.shape[-1])

    # Unsloth compiles around its own.
    compiler: Any = torch.compiler
    opaque = compiler.disable(forward)
    setattr(opaque, UNSLOTHS_OWN, original)
    return opaque


def _layer(grouped: Any, experts: Any, hidden: Tensor, indices: Tensor, weights: Tensor, lora: Any) -> Tensor:
    if grouped.compute_mode(experts, hidden.dtype) != ("bf16", None):
        raise _Unfit
    lora = lora or {"gate_up": None, "down": None}
    return fused_experts(
        hidden.to(torch.bfloat16),
        weights.gather(1, indices),
        indices,
        Nf4Experts(grouped, experts),
        _adapter(grouped, experts.gate_up_projs, lora["gate_up"]),
        _adapter(grouped, experts.down_projs, lora["down"]),
    )


def _adapter(grouped: Any, projections: Any, lora: Any) -> Lora | None:
    if lora is None:
        return None
    name, scaling, *_ = lora
    stacks = grouped._lora_stacks(projections, name)
    if stacks is None:
        raise _Unfit
    a, b = stacks
    return Lora(a, b, scaling)


def _biases(module: Any) -> tuple[Tensor, Tensor]:
    """The frozen biases of all experts, [experts, 2I] and [experts, H], stacked once."""
    if BIASES not in module.__dict__:
        module.__dict__[BIASES] = tuple(
            torch.stack([getattr(each, "base_layer", each).bias.detach() for each in projections])
            for projections in (module.gate_up_projs, module.down_projs)
        )
    found: tuple[Tensor, Tensor] = module.__dict__[BIASES]
    return found
