"""`expert_values` for a GPU, in Triton: each is read once and written once, whole rows at a time.

Tensors are contiguous. Gate and up lie interleaved: a block of both is read as it lies and split in registers. Numbers
of rows are no constants, so that one compilation serves all; offsets are 64-bit, as 131,072 tokens have more than 2³¹
inner states.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512
WARPS = 4
# Clamping would make a number of what is none, and nobody would see it.
NAN = tl.constexpr(tl.PropagateNan.ALL)


def activate(
    inner: Tensor, added: Tensor | None, scaling: float, bias: Tensor, expert: Tensor, alpha: float, limit: float
) -> Tensor:
    rows, columns = inner.shape[0], inner.shape[1] // 2
    hidden = inner.new_empty(rows, columns)
    with torch.cuda.device_of(inner):
        _activate[(rows, triton.cdiv(columns, BLOCK))](
            inner, inner if added is None else added, bias, expert, hidden, scaling, alpha, limit,
            columns=columns, adapted=added is not None, block=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return hidden


def activate_backward(
    inner: Tensor, grad: Tensor, added: Tensor | None, scaling: float, weight: Tensor, alpha: float, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = grad.shape
    grad_inner, hidden = torch.empty_like(inner), torch.empty_like(grad)
    along = torch.empty(rows, dtype=torch.float32, device=grad.device)
    with torch.cuda.device_of(inner):
        _activate_backward[(rows,)](
            inner, grad, grad if added is None else added, weight, grad_inner, hidden, along, scaling, alpha, limit,
            columns=columns, adapted=added is not None, block=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return grad_inner, hidden, along


def combine(
    out: Tensor, added: Tensor | None, scaling: float, bias: Tensor, indices: Tensor, place: Tensor, weights: Tensor
) -> Tensor:
    total = torch.empty(len(place), out.shape[1], dtype=torch.float32, device=out.device)
    _sum_of_rows(total, out, added, scaling, place, bias, indices, weights, weighted=True)
    return total


def collect(rows: Tensor, added: Tensor | None, scaling: float, place: Tensor) -> Tensor:
    total = rows.new_empty(len(place), rows.shape[1])
    _sum_of_rows(total, rows, added, scaling, place, rows, place, rows, weighted=False)
    return total


def _sum_of_rows(
    total: Tensor, rows: Tensor, added: Tensor | None, scaling: float, place: Tensor, *weighting: Tensor, weighted: bool
) -> None:
    tokens, columns = total.shape
    with torch.cuda.device_of(rows):
        _sum[(tokens, triton.cdiv(columns, BLOCK))](
            total, rows, rows if added is None else added, place, *weighting, scaling,
            columns=columns, choices=place.shape[1], adapted=added is not None, weighted=weighted, block=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip


@triton.jit
def _activate(
    inner_pointer, added_pointer, bias_pointer, expert_pointer, hidden_pointer, scaling, alpha, limit,
    columns: tl.constexpr, adapted: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.load(expert_pointer + row)
    both = tl.program_id(1) * 2 * block + tl.arange(0, 2 * block)
    inside = both < 2 * columns
    place = inner_pointer + row * 2 * columns + both
    whole = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    whole += tl.load(bias_pointer + expert * 2 * columns + both, mask=inside, other=0.0).to(tl.float32)
    if adapted:
        added = tl.load(added_pointer + row * 2 * columns + both, mask=inside, other=0.0)
        whole += scaling * added.to(tl.float32)
    kept = whole.to(inner_pointer.dtype.element_ty)
    tl.store(place, kept, mask=inside)
    gate, up = tl.split(tl.reshape(kept.to(tl.float32), (block, 2)))
    gate = tl.minimum(gate, limit, NAN)
    up = tl.minimum(tl.maximum(up, -limit, NAN), limit, NAN)
    hidden = gate * tl.sigmoid(alpha * gate) * (up + 1)
    column = tl.program_id(1) * block + tl.arange(0, block)
    tl.store(hidden_pointer + row * columns + column, hidden.to(hidden_pointer.dtype.element_ty), mask=column < columns)


@triton.jit
def _activate_backward(
    inner_pointer, grad_pointer, added_pointer, weight_pointer, grad_inner_pointer, hidden_pointer, along_pointer,
    scaling, alpha, limit, columns: tl.constexpr, adapted: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weight_pointer + row)
    along = tl.zeros((block,), dtype=tl.float32)
    for start in range(0, columns, block):
        both = 2 * start + tl.arange(0, 2 * block)
        column = start + tl.arange(0, block)
        inner = tl.load(inner_pointer + row * 2 * columns + both, mask=both < 2 * columns, other=0.0).to(tl.float32)
        whole = tl.load(grad_pointer + row * columns + column, mask=column < columns, other=0.0).to(tl.float32)
        if adapted:
            added = tl.load(added_pointer + row * columns + column, mask=column < columns, other=0.0)
            whole += scaling * added.to(tl.float32)
        raw_gate, raw_up = tl.split(tl.reshape(inner, (block, 2)))
        gate = tl.minimum(raw_gate, limit, NAN)
        up = tl.minimum(tl.maximum(raw_up, -limit, NAN), limit, NAN)
        share = tl.sigmoid(alpha * gate)
        swish = gate * share
        hidden = (swish * (up + 1)).to(hidden_pointer.dtype.element_ty)
        tl.store(hidden_pointer + row * columns + column, hidden, mask=column < columns)
        along += whole * hidden.to(tl.float32)
        whole *= weight
        of_gate = tl.where(raw_gate <= limit, whole * (up + 1) * (share + alpha * swish * (1 - share)), 0.0)
        of_up = tl.where((raw_up >= -limit) & (raw_up <= limit), whole * swish, 0.0)
        grad_inner = tl.reshape(tl.join(of_gate, of_up), (2 * block,))
        tl.store(
            grad_inner_pointer + row * 2 * columns + both,
            grad_inner.to(grad_inner_pointer.dtype.element_ty),
            mask=both < 2 * columns,
        )
    tl.store(along_pointer + row, tl.sum(along, axis=0))


@triton.jit
def _sum(
    total_pointer, rows_pointer, added_pointer, place_pointer, bias_pointer, indices_pointer, weights_pointer, scaling,
    columns: tl.constexpr, choices: tl.constexpr, adapted: tl.constexpr, weighted: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    total = tl.zeros((block,), dtype=tl.float32)
    for choice in tl.static_range(choices):
        row = tl.load(place_pointer + token * choices + choice)
        value = tl.load(rows_pointer + row * columns + column, mask=inside, other=0.0).to(tl.float32)
        if adapted:
            value += scaling * tl.load(added_pointer + row * columns + column, mask=inside, other=0.0).to(tl.float32)
        if weighted:
            expert = tl.load(indices_pointer + token * choices + choice)
            value += tl.load(bias_pointer + expert * columns + column, mask=inside, other=0.0).to(tl.float32)
            value *= tl.load(weights_pointer + token * choices + choice).to(tl.float32)
        total += value
    tl.store(total_pointer + token * columns + column, total.to(total_pointer.dtype.element_ty), mask=inside)
