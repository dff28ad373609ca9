"""The two layouts of a LoRA adapter on experts, and the exact way from one to the other. Needs no model.

Split, where every expert is two linear layers of its own, as in Unsloth's 4-bit gpt-oss (`E` experts, rank `r`):

    …mlp.experts.gate_up_projs.3.lora_A.weight   [r, in]
    …mlp.experts.gate_up_projs.3.lora_B.weight   [out, r]

Portable, where the experts of a layer are one parameter [E, in, out], as in stock transformers. PEFT's ParamWrapper
(0.17 to 0.21.2, `get_delta_weight`) reads rows of A expert by expert, but columns of B rank by rank:

    …mlp.experts.lora_A.weight   [E * r, in], row e * r + j
    …mlp.experts.lora_B.weight   [out, r * E], column j * E + e

PEFT wraps a module once for each of its parameters, in the order in which the module has them: with both adapted,
gate_up_proj is the inner wrapper, `…mlp.experts.base_layer.lora_A.weight`, and down_proj the outer one; one alone has
no inner wrapper. Names are those that PEFT saves, `base_model.model.…`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from gptoss_ft.errors import DataError

Weights = Mapping[str, torch.Tensor]

_SPLIT_MODULE = re.compile(r"(?P<experts>(?:.+\.)?experts)\.(?P<projection>gate_up|down)_projs\.(?P<number>\d+)")
_SPLIT_MATRIX = re.compile(rf"{_SPLIT_MODULE.pattern}\.(?P<matrix>lora_[AB])\.weight")
# Unsloth's router keeps its weight one level deeper than the stock one.
_SPLIT_ROUTER = re.compile(r"(.+\.mlp\.router)\.linear\.(weight|bias)")


class _Stack(NamedTuple):
    """Where a matrix of all experts of a layer belongs: `experts` the module's name, `projection` gate_up or down."""

    experts: str
    projection: str
    matrix: str


def fused_parameter(module: str) -> str | None:
    """The stock parameter that the split module `…mlp.experts.gate_up_projs.3` is a part of; None for any other."""
    match = _SPLIT_MODULE.fullmatch(module)
    return f"{match['experts']}.{match['projection']}_proj" if match else None


def without_counterpart(names: Iterable[str]) -> list[str]:
    """Those of a split model's trainable parameters that an adapter on fused experts cannot hold: PEFT's wrapper of a
    parameter has neither a magnitude (DoRA) nor a bias."""
    return [
        name for name in names
        if (match := _SPLIT_MODULE.match(name)) and not name[match.end() :].startswith((".lora_A.", ".lora_B."))
    ]  # fmt: skip


def to_portable(weights: Weights) -> dict[str, torch.Tensor]:
    """The same adapter with the experts of each layer packed as PEFT packs them, bit for bit; what is not split stays.

    `DataError` when some experts of a layer have no adapter: the packing has no place for less than all.
    """
    portable: dict[str, torch.Tensor] = {}
    stacks: dict[_Stack, dict[int, torch.Tensor]] = {}
    for name, tensor in weights.items():
        if match := _SPLIT_MATRIX.fullmatch(name):
            stack = _Stack(match["experts"], match["projection"], match["matrix"])
            stacks.setdefault(stack, {})[int(match["number"])] = tensor
        else:
            portable[_stock_name(name)] = tensor
    projections = {(stack.experts, stack.projection) for stack in stacks}
    for stack, of_expert in stacks.items():
        if sorted(of_expert) != list(range(len(of_expert))):
            raise DataError(
                f"the adapter is on some of the experts of {stack.experts} only, {len(of_expert)} of at least "
                f"{max(of_expert) + 1}",
                "Train all experts of a layer, or none.",
                key="lora.target_modules",
            )
        matrices = [of_expert[number] for number in range(len(of_expert))]
        name = _wrapped(
            stack, both=(stack.experts, "gate_up") in projections and (stack.experts, "down") in projections
        )
        portable[name] = _packed(stack.matrix, matrices)
    return portable


def to_layout_of(weights: Weights, own: Iterable[str]) -> dict[str, torch.Tensor]:
    """The same adapter, of either layout, in the layout of a model whose own adapter has the names `own`, bit for bit.

    What the model has no counterpart for keeps its portable name: comparing names and shapes shows it.
    """
    own = list(own)
    laid_out = {_stock_name(name): name for name in own}
    result = {laid_out.get(name, name): tensor for name, tensor in to_portable(weights).items()}
    experts_of: dict[_Stack, int] = {}
    for name in own:
        if match := _SPLIT_MATRIX.fullmatch(name):
            stack = _Stack(match["experts"], match["projection"], match["matrix"])
            experts_of[stack] = max(experts_of.get(stack, 0), int(match["number"]) + 1)
    projections = {(stack.experts, stack.projection) for stack in experts_of}
    for stack, experts in experts_of.items():
        both = (stack.experts, "gate_up") in projections and (stack.experts, "down") in projections
        packed = result.get(_wrapped(stack, both))
        if packed is None or packed.shape[_packed_axis(stack.matrix)] % experts:
            continue
        del result[_wrapped(stack, both)]
        for number, matrix in enumerate(_unpacked(stack.matrix, packed, experts)):
            result[f"{stack.experts}.{stack.projection}_projs.{number}.{stack.matrix}.weight"] = matrix
    return result


def _stock_name(name: str) -> str:
    match = _SPLIT_ROUTER.fullmatch(name)
    return f"{match[1]}.{match[2]}" if match else name


def _wrapped(stack: _Stack, both: bool) -> str:
    inner = ".base_layer" if both and stack.projection == "gate_up" else ""
    return f"{stack.experts}{inner}.{stack.matrix}.weight"


def _packed_axis(matrix: str) -> int:
    """The axis of a packed matrix that runs over experts and ranks."""
    return 0 if matrix == "lora_A" else 1


def _packed(matrix: str, matrices: list[torch.Tensor]) -> torch.Tensor:
    """A: [r, in] of each expert → [E * r, in]; B: [out, r] of each → [out, r * E]."""
    if matrix == "lora_A":
        return torch.cat(matrices)
    return torch.stack(matrices, dim=-1).flatten(1)


def _unpacked(matrix: str, packed: torch.Tensor, experts: int) -> list[torch.Tensor]:
    """The inverse of `_packed`: the matrices of each expert, contiguous."""
    if matrix == "lora_A":
        return list(packed.chunk(experts))
    return [of_expert.contiguous() for of_expert in packed.reshape(len(packed), -1, experts).unbind(-1)]
