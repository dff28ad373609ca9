"""What experts compute value by value, between their matrix products, as PyTorch has it: the definition of
`expert_kernels`, whose functions these are one by one, and what a CPU computes."""

import torch
from torch import Tensor


def activate(
    inner: Tensor, added: Tensor | None, scaling: float, bias: Tensor, expert: Tensor, alpha: float, limit: float
) -> Tensor:
    """Adds the adapter's part and the bias to the inner states, in place, and returns the hidden states [rows, I].

    inner, added [rows, 2I]: gate and up interleaved; bias [experts, 2I]; expert [rows], each row's.
    """
    whole = inner.float() + bias[expert].float()
    if added is not None:
        whole = whole + scaling * added.float()
    inner.copy_(whole)
    gate, up, _, _ = _gate_up(inner, limit)
    return (gate * torch.sigmoid(alpha * gate) * (up + 1)).to(inner.dtype)


def activate_backward(
    inner: Tensor, grad: Tensor, added: Tensor | None, scaling: float, weight: Tensor, alpha: float, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of the unweighted hidden states (`grad` and the adapter's part of it, [rows, I]): that of
    `inner`, weighted, [rows, 2I]; the hidden states; and their product with it summed over each row, float32.

    weight [rows], float32: what the router gave the row.
    """
    whole = grad.float()
    if added is not None:
        whole = whole + scaling * added.float()
    gate, up, gate_inside, up_inside = _gate_up(inner, limit)
    share = torch.sigmoid(alpha * gate)
    swish = gate * share
    hidden = (swish * (up + 1)).to(inner.dtype)
    along = (whole * hidden.float()).sum(1)
    whole = whole * weight[:, None]
    of_gate = torch.where(gate_inside, whole * (up + 1) * (share + alpha * swish * (1 - share)), 0.0)
    of_up = torch.where(up_inside, whole * swish, 0.0)
    return torch.stack((of_gate, of_up), dim=2).flatten(1).to(inner.dtype), hidden, along


def combine(
    out: Tensor, added: Tensor | None, scaling: float, bias: Tensor, indices: Tensor, place: Tensor, weights: Tensor
) -> Tensor:
    """The weighted sum of each token's rows with their experts' bias, float32 [T, H].

    out, added [rows, H]; bias [experts, H]; place [T, k], where the token's rows are; indices, weights [T, k].
    """
    total = torch.zeros(len(place), out.shape[1], dtype=torch.float32, device=out.device)
    for choice in range(place.shape[1]):
        row = place[:, choice]
        value = out[row].float() + bias[indices[:, choice]].float()
        if added is not None:
            value = value + scaling * added[row].float()
        total = total + weights[:, choice, None].float() * value
    return total


def collect(rows: Tensor, added: Tensor | None, scaling: float, place: Tensor) -> Tensor:
    """The sum of each token's rows and their adapter's part, [T, H], added up in float32, in the type of `rows`."""
    total = torch.zeros(len(place), rows.shape[1], dtype=torch.float32, device=rows.device)
    for choice in range(place.shape[1]):
        total = total + rows[place[:, choice]].float()
        if added is not None:
            total = total + scaling * added[place[:, choice]].float()
    return total.to(rows.dtype)


def _gate_up(inner: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both clamped, in float32, and where the clamp lets a gradient through."""
    gate, up = inner[:, ::2].float(), inner[:, 1::2].float()
    return gate.clamp(max=limit), up.clamp(-limit, limit), gate <= limit, (up >= -limit) & (up <= limit)
