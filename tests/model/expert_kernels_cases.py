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


def test_offsets_beyond_31_bits() -> None:
    """Rows past 2³¹ values are where they are asked for: on a GPU with 24 GiB, as such tensors are large."""
    if DEVICE == "cpu":
        pytest.skip("tensors of 4 GiB")
    columns, rows = 2880, 2**31 // 5760 + 100
    inner = torch.zeros(rows, 2 * columns, device=DEVICE, dtype=torch.bfloat16)
    inner[-1] = drawn(2 * columns, dtype=torch.bfloat16, seed=1)
    last = inner[-1:].clone()
    bias = drawn(EXPERTS, 2 * columns, dtype=torch.bfloat16, seed=3)
    expert = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    hidden = expert_kernels.activate(inner, None, SCALING, bias, expert, ALPHA, LIMIT)
    close(hidden[-1:], expert_values.activate(last, None, SCALING, bias, expert[:1], ALPHA, LIMIT), inner.dtype)
    close(inner[-1:], last, inner.dtype)
