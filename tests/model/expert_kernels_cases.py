"""The Triton kernels against their definition in PyTorch. Run by `test_expert_kernels.py`, as Triton must be told
before it is imported that it is to interpret; on a GPU, where they are compiled, by

    GPTOSS_FT_TEST_DEVICE=cuda python -m pytest tests/model/expert_kernels_cases.py
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from gptoss_ft.model import expert_kernels, expert_values

DEVICE = os.environ.get("GPTOSS_FT_TEST_DEVICE", "cpu")
EXPERTS, TOKENS, CHOICES = 5, 12, 3
ROWS = TOKENS * CHOICES
ALPHA, LIMIT, SCALING = 1.702, 7.0, 2.0


def drawn(*shape: int, dtype: torch.dtype, seed: int, wide: float = 1.0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * wide
    return values.to(DEVICE, dtype)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Within what 16 bits round to; the interpreter cuts their last bit off where a GPU rounds."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    off = (found.double() - wanted.double()).norm() / wanted.double().norm()
    assert off < (1e-6 if dtype == torch.float32 else 2**-7)


# One block and a part of one; a block exactly; several.
@pytest.fixture(params=[48, 512, 1072])
def columns(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("adapted", [True, False])
def test_activation(columns: int, dtype: torch.dtype, adapted: bool) -> None:
    inner = drawn(ROWS, 2 * columns, dtype=dtype, seed=1, wide=5.0)
    added = drawn(ROWS, 2 * columns, dtype=dtype, seed=2) if adapted else None
    bias = drawn(EXPERTS, 2 * columns, dtype=dtype, seed=3)
    expert = torch.arange(ROWS, device=DEVICE) % EXPERTS
    changed = inner.clone()
    wanted = expert_values.activate(inner, added, SCALING, bias, expert, ALPHA, LIMIT)
    found = expert_kernels.activate(changed, added, SCALING, bias, expert, ALPHA, LIMIT)
    close(found, wanted, dtype)
    close(changed, inner, dtype)
    assert (inner[:, ::2] > LIMIT).any() and (inner[:, 1::2].abs() > LIMIT).any()


@pytest.mark.parametrize("adapted", [True, False])
def test_gradient_of_the_activation(columns: int, dtype: torch.dtype, adapted: bool) -> None:
    inner = drawn(ROWS, 2 * columns, dtype=dtype, seed=1, wide=5.0)
    grad = drawn(ROWS, columns, dtype=dtype, seed=2)
    added = drawn(ROWS, columns, dtype=dtype, seed=3) if adapted else None
    weight = drawn(ROWS, dtype=torch.float32, seed=4)
    wanted = expert_values.activate_backward(inner, grad, added, SCALING, weight, ALPHA, LIMIT)
    found = expert_kernels.activate_backward(inner, grad, added, SCALING, weight, ALPHA, LIMIT)
    for one, other in zip(found, wanted, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("adapted", [True, False])
def test_sums_over_a_token_s_experts(columns: int, dtype: torch.dtype, adapted: bool) -> None:
    rows = drawn(ROWS, columns, dtype=dtype, seed=1)
    added = drawn(ROWS, columns, dtype=dtype, seed=2) if adapted else None
    bias = drawn(EXPERTS, columns, dtype=dtype, seed=3)
    indices = drawn(TOKENS, EXPERTS, dtype=torch.float32, seed=4).topk(CHOICES).indices
    place = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5)).view(TOKENS, CHOICES).to(DEVICE)
    weights = drawn(TOKENS, CHOICES, dtype=dtype, seed=6)
    combined = [
        each.combine(rows, added, SCALING, bias, indices, place, weights) for each in (expert_kernels, expert_values)
    ]
    close(*combined, dtype)
    collected = [each.collect(rows, added, SCALING, place) for each in (expert_kernels, expert_values)]
    close(*collected, dtype)


@pytest.mark.parametrize("place", [0, 1], ids=["gate", "up"])
def test_what_is_no_number_stays_none(place: int) -> None:
    """Else a loss that is not finite would not be found out. Triton's interpreter keeps it in any case."""
    inner = drawn(ROWS, 96, dtype=torch.bfloat16, seed=1)
    inner[3, 10 + place] = float("nan")
    bias = torch.zeros(EXPERTS, 96, dtype=torch.bfloat16, device=DEVICE)
    expert = torch.zeros(ROWS, dtype=torch.int64, device=DEVICE)
    hidden = expert_kernels.activate(inner, None, SCALING, bias, expert, ALPHA, LIMIT)
    assert hidden[3, 5].isnan() and hidden.isnan().sum() == 1
    weight = torch.ones(ROWS, device=DEVICE)
    _, again, along = expert_kernels.activate_backward(inner, hidden, None, SCALING, weight, ALPHA, LIMIT)
    assert again[3, 5].isnan() and along[3].isnan() and along.isnan().sum() == 1


def test_activation_beyond_31_bits() -> None:
    """Rows past 2³¹ values are where they are asked for: on a GPU with 24 GiB, as their tensors have 4."""
    inner, last = last_of(2**31 // 5760 + 100, 5760)
    rows = len(inner)
    bias = drawn(EXPERTS, 5760, dtype=torch.bfloat16, seed=3)
    expert = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    hidden = expert_kernels.activate(inner, None, SCALING, bias, expert, ALPHA, LIMIT)
    close(hidden[-1:], expert_values.activate(last, None, SCALING, bias, expert[:1], ALPHA, LIMIT), inner.dtype)
    close(inner[-1:], last, inner.dtype)


def test_gradient_beyond_31_bits() -> None:
    inner, last = last_of(2**31 // 5760 + 100, 5760)
    grad, last_grad = last_of(len(inner), 2880)
    weight = torch.ones(len(inner), device=DEVICE)
    found = expert_kernels.activate_backward(inner, grad, None, SCALING, weight, ALPHA, LIMIT)
    wanted = expert_values.activate_backward(last, last_grad, None, SCALING, weight[:1], ALPHA, LIMIT)
    for one, other in zip(found, wanted, strict=True):
        close(one[-1:], other, inner.dtype)


def test_sums_beyond_31_bits() -> None:
    rows, last = last_of(2**31 // 2880 + 100, 2880)
    place = torch.full((1, 1), len(rows) - 1, device=DEVICE)
    close(expert_kernels.collect(rows, None, SCALING, place), last, rows.dtype)


def last_of(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """So many rows of zeros but for the last, and that one by itself."""
    whole = torch.zeros(rows, columns, device=DEVICE, dtype=torch.bfloat16)
    whole[-1] = drawn(columns, dtype=torch.bfloat16, seed=columns)
    return whole, whole[-1:].clone()
