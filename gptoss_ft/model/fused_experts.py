"""The experts of gpt-oss in training, for weights that are frozen and held in 4 bits: one autograd function.

It computes what transformers' GptOssExperts with PEFT's LoRA on both projections does. What the many small operations
of the general way write to memory and keep for the backward pass is most of a step's time and memory: here a layer
keeps its input and the experts' inner states before their activation, in 16 bits, and all that is done value by value
is four kernels (`expert_kernels`). Sums over a token's experts have a fixed order.

    rows: T tokens × k experts, sorted by expert          x[T, H] → rows [T·k, H]
    inner = rows · Wguᵀ + s · (rows · Aguᵀ) · Bguᵀ + bias   [T·k, 2I]: gate and up, interleaved
    hidden = gate · σ(α · gate) · (up + 1), both clamped  [T·k, I]
    out[t] = Σ weight · (hidden · Wdnᵀ + s · (hidden · Adnᵀ) · Bdnᵀ + bias)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptoss_ft.model import expert_values


@dataclass(frozen=True)
class Lora:
    """One projection's adapter: `a` [experts, r, in], `b` [experts, out, r], of any float type."""

    a: Tensor
    b: Tensor
    scaling: float


class FrozenExperts(ABC):
    """The base weights of a layer. `gate_up_bias` [experts, 2I] and `down_bias` [experts, H]."""

    gate_up_bias: Tensor
    down_bias: Tensor
    alpha: float
    limit: float
    keep: bool

    @abstractmethod
    def gate_up(self) -> Tensor:
        """[experts, 2I, H], made anew at each call, in the type that is computed in."""

    @abstractmethod
    def down(self) -> Tensor:
        """[experts, H, I], as `gate_up`."""


def fused_experts(
    x: Tensor, weights: Tensor, indices: Tensor, experts: FrozenExperts, gate_up: Lora | None, down: Lora | None
) -> Tensor:
    """The sum of each token's experts, float32 [T, H].

    x [T, H] in the type that is computed in; weights [T, k], the router's; indices [T, k], int64, the experts chosen.
    The backward pass has gradients for x, the weights and both adapters.
    """
    matrices = [matrix for lora in (gate_up, down) for matrix in ((lora.a, lora.b) if lora else (None, None))]
    scalings = tuple(lora.scaling if lora else 0.0 for lora in (gate_up, down))
    function: Any = _FusedExperts
    result: Tensor = function.apply(x, weights, indices, experts, scalings, *matrices)
    return result


class _FusedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        indices: Tensor,
        experts: FrozenExperts,
        scalings: tuple[float, float],
        *matrices: Tensor | None,
    ) -> Tensor:
        a_in, b_in, a_out, b_out = (None if matrix is None else matrix.to(x.dtype) for matrix in matrices)
        indices = indices.contiguous()
        chosen = indices.flatten()
        order = chosen.argsort(stable=True)
        expert = chosen[order]
        # Where each expert's rows end, without waiting for the GPU to count them.
        ends = torch.searchsorted(
            expert, torch.arange(len(experts.down_bias), device=x.device), right=True, out_int32=True
        )
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=x.device)
        place = place.view_as(indices)

        rows = x[order // indices.shape[1]]
        made = experts.gate_up()
        inner = _grouped(rows, made.transpose(1, 2), ends)
        # What is not kept is gone before the other projection's are made.
        w_in = made if experts.keep else None
        del made
        low_in = added = None
        if a_in is not None and b_in is not None:
            low_in = _grouped(rows, a_in.transpose(1, 2), ends)
            added = _grouped(low_in, b_in.transpose(1, 2), ends)
        del rows
        values = _value_by_value(x)
        hidden = values.activate(inner, added, scalings[0], experts.gate_up_bias, expert, experts.alpha, experts.limit)
        del added
        w_out = experts.down()
        out = _grouped(hidden, w_out.transpose(1, 2), ends)
        low_out = added = None
        if a_out is not None and b_out is not None:
            low_out = _grouped(hidden, a_out.transpose(1, 2), ends)
            added = _grouped(low_out, b_out.transpose(1, 2), ends)
        result: Tensor = values.combine(out, added, scalings[1], experts.down_bias, indices, place, weights)

        ctx.save_for_backward(x, weights, indices, order, place, ends, inner, low_in, low_out, *matrices)
        ctx.experts, ctx.scalings = experts, scalings
        ctx.kept = None if w_in is None else (w_in, w_out)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, indices, order, place, ends, inner, low_in, low_out, *matrices = ctx.saved_tensors
        a_in, b_in, a_out, b_out = (None if matrix is None else matrix.to(x.dtype) for matrix in matrices)
        experts, (s_in, s_out) = ctx.experts, ctx.scalings
        token = order // indices.shape[1]
        grad = grads[0]
        weight = weights.flatten()[order].float()
        without_rows = ends.diff(prepend=ends.new_zeros(1)) == 0

        # Of the unweighted output: with it and the hidden states, the router's gradient needs no output.
        grad_out = grad.to(x.dtype)[token]
        grad_hidden = _grouped(grad_out, ctx.kept[1] if ctx.kept else experts.down(), ends)
        low_grad_out = added = None
        if a_out is not None and b_out is not None:
            low_grad_out = _grouped(grad_out, b_out, ends)
            added = _grouped(low_grad_out, a_out, ends)
        values = _value_by_value(x)
        grad_inner, hidden, along = values.activate_backward(
            inner, grad_hidden, added, s_out, weight, experts.alpha, experts.limit
        )
        with torch.autocast(grad.device.type, enabled=False):
            along_bias = (grad.float() @ experts.down_bias.float().t()).gather(1, indices)
        grad_weights = (along[place] + along_bias).to(weights.dtype)
        del grad_hidden, added
        grad_a_out = grad_b_out = None
        if low_grad_out is not None:
            scaled = (weight * s_out)[:, None]
            grad_a_out = _grouped_over_rows((low_grad_out * scaled).to(x.dtype).t(), hidden, ends, without_rows)
            grad_b_out = _grouped_over_rows(grad_out.t(), (low_out * scaled).to(x.dtype), ends, without_rows)
        del grad_out, hidden

        grad_rows = _grouped(grad_inner, ctx.kept[0] if ctx.kept else experts.gate_up(), ends)
        grad_a_in = grad_b_in = added = None
        if a_in is not None and b_in is not None:
            low_grad_in = _grouped(grad_inner, b_in, ends)
            added = _grouped(low_grad_in, a_in, ends)
            grad_a_in = _grouped_over_rows((low_grad_in * s_in).t(), x[token], ends, without_rows)
            grad_b_in = _grouped_over_rows(grad_inner.t(), low_in * s_in, ends, without_rows)
        del grad_inner
        grad_x = values.collect(grad_rows, added, s_in, place)
        of_matrices = (
            None if one is None else one.to(matrix.dtype)
            for one, matrix in zip((grad_a_in, grad_b_in, grad_a_out, grad_b_out), matrices, strict=True)
        )
        return grad_x, grad_weights, None, None, None, *of_matrices


def _grouped(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Each expert's rows [n, in] times its matrix [in, out]."""
    product: Tensor = torch._grouped_mm(rows, matrices, offs=ends)
    return product


def _grouped_over_rows(of_rows: Tensor, others: Tensor, ends: Tensor, without_rows: Tensor) -> Tensor:
    """[experts, a, b]: the product of [a, rows] and [rows, b] over the rows of each expert, of which some have none."""
    product = _grouped(of_rows, others, ends)
    # For those some GPUs leave what was in memory (Blackwell, pytorch/pytorch#172439).
    return product.masked_fill_(without_rows[:, None, None], 0)


def _value_by_value(x: Tensor) -> Any:
    """`expert_values`, or on a GPU the same in Triton."""
    if x.is_cuda:
        from gptoss_ft.model import expert_kernels

        return expert_kernels
    return expert_values
