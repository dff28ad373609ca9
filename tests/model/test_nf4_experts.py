"""The replacement of Unsloth's grouped experts, with weights in bfloat16 in the place of dequantized ones: which calls
it computes, and which it leaves.

Its numbers are asserted in test_fused_experts.py; on a GPU, benchmarks/experts_layer.py compares it with Unsloth's own.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from gptoss_ft.model import nf4_experts

EXPERTS, HIDDEN, INNER, TOKENS = 4, 32, 32, 24


class Layer(nn.Module):
    """What the replacement reads of Unsloth's module."""

    alpha, limit = 1.702, 7.0

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_projs = nn.ModuleList(nn.Linear(HIDDEN, 2 * INNER).bfloat16() for _ in range(EXPERTS))
        self.down_projs = nn.ModuleList(nn.Linear(INNER, HIDDEN).bfloat16() for _ in range(EXPERTS))


def adapters(layer: Layer, rank: int) -> dict[str, Any]:
    stacks = {
        layer.gate_up_projs: (torch.randn(EXPERTS, rank, HIDDEN), torch.randn(EXPERTS, 2 * INNER, rank)),
        layer.down_projs: (torch.randn(EXPERTS, rank, INNER), torch.randn(EXPERTS, HIDDEN, rank)),
    }
    layer.stacks = {projections: tuple(each * 0.1 for each in pair) for projections, pair in stacks.items()}
    return {"gate_up": ("default", 2.0, None), "down": ("default", 2.0, None)}


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Unsloth's module by the names that are used of it; the true one needs Triton and a GPU."""
    torch.manual_seed(0)
    module: Any = ModuleType(nf4_experts.GROUPED)
    module.grouped_qlora_forward = lambda *arguments, lora=None: "unsloth's"
    module.compute_mode = lambda experts, dtype: ("bf16", None) if dtype != torch.float16 else ("fp16", True)
    module._tables = lambda layer, dtype: {
        name: {"dtype": dtype, "weights": torch.stack([each.weight for each in projections])}
        for name, projections in (("gate_up", layer.gate_up_projs), ("down", layer.down_projs))
    }
    module.nf4_dequant_expert_stack = lambda table, dtype: table["weights"]
    module._bnb_fallback_stack = lambda projections, dtype: torch.stack([each.weight.to(dtype) for each in projections])
    module._lora_stacks = lambda projections, name: next(
        stacks for layer in module.layers for owner, stacks in layer.stacks.items() if owner is projections
    )
    monkeypatch.setitem(sys.modules, nf4_experts.GROUPED, module)
    return module


def unexpected(error: Exception) -> None:
    raise AssertionError("nothing is to be told") from error


def call(grouped: Any, layer: Layer, lora: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    grouped.layers = [layer]
    best = torch.topk(torch.randn(TOKENS, EXPERTS), 2)
    weights = torch.zeros(TOKENS, EXPERTS).scatter(1, best.indices, best.values.softmax(1))
    hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype)
    result = grouped.grouped_qlora_forward(layer, hidden, best.indices, weights, 2, TOKENS, EXPERTS, 2, lora=lora)
    return result, hidden, best.indices, weights


def by_hand(layer: Layer, lora: Any, hidden: Any, indices: Any, weights: Any) -> Any:
    out = torch.zeros(TOKENS, HIDDEN)
    for expert in range(EXPERTS):
        rows = torch.where(indices == expert)[0]
        states = hidden[rows].float()
        for projections in (layer.gate_up_projs, layer.down_projs):
            weight = projections[expert].weight.float()
            if lora:
                a, b = layer.stacks[projections]
                weight = weight + 2.0 * b[expert] @ a[expert]
            states = states @ weight.T + projections[expert].bias.float()
            if projections is layer.gate_up_projs:
                gate, up = states[:, ::2].clamp(max=7), states[:, 1::2].clamp(-7, 7)
                states = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        out[rows] += weights[rows, expert, None] * states
    return out


@pytest.mark.parametrize("adapted", [True, False])
def test_it_computes_what_the_modules_say(grouped: Any, adapted: bool) -> None:
    layer = Layer()
    nf4_experts.fuse_experts(layer, unexpected)
    assert nf4_experts.are_fused()
    lora = adapters(layer, 8) if adapted else None
    result, *inputs = call(grouped, layer, lora)
    assert result.shape == (2, TOKENS // 2, HIDDEN)
    wanted = by_hand(layer, lora, *inputs)
    # bfloat16 weights and states.
    assert float((result.view(TOKENS, HIDDEN) - wanted).norm() / wanted.norm()) < 0.01


def test_what_it_cannot_compute_is_unsloths(grouped: Any) -> None:
    layer = Layer()
    nf4_experts.fuse_experts(layer, unexpected)
    assert call(grouped, layer, adapters(layer, 8), torch.float16)[0] == "unsloth's"
    layer.stacks = dict.fromkeys(layer.stacks)
    assert call(grouped, layer, {"gate_up": ("default", 2.0, None), "down": None})[0] == "unsloth's"
    assert nf4_experts.are_fused()


def test_a_failure_is_told_once_and_unsloths_goes_on(grouped: Any) -> None:
    layer, told = Layer(), []
    nf4_experts.fuse_experts(layer, told.append)
    grouped.nf4_dequant_expert_stack = lambda table, dtype: 1 / 0
    assert [call(grouped, layer, None)[0] for _ in range(2)] == ["unsloth's"] * 2
    assert [str(error) for error in told] == ["division by zero"]
    assert not nf4_experts.are_fused()


@pytest.mark.parametrize(
    "passed_on",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        torch.utils.checkpoint._StopRecomputationError("no more"),
    ],
)
def test_memory_that_runs_out_is_no_failure(grouped: Any, passed_on: Exception) -> None:
    layer = Layer()
    nf4_experts.fuse_experts(layer, unexpected)

    def runs_out(table: Any, dtype: Any) -> Any:
        raise passed_on

    grouped.nf4_dequant_expert_stack = runs_out
    with pytest.raises(type(passed_on)):
        call(grouped, layer, None)
    assert nf4_experts.are_fused()


def test_where_unsloths_kernel_is_switched_off_bitsandbytes_dequantizes(grouped: Any) -> None:
    layer = Layer()
    nf4_experts.fuse_experts(layer, unexpected)
    lora = adapters(layer, 8)
    result, *inputs = call(grouped, layer, lora)
    grouped.nf4_dequant_expert_stack = lambda table, dtype: None
    result, *inputs = call(grouped, layer, lora)
    wanted = by_hand(layer, lora, *inputs)
    assert float((result.view(TOKENS, HIDDEN) - wanted).norm() / wanted.norm()) < 0.01


def test_it_is_replaced_once(grouped: Any) -> None:
    layer = Layer()
    nf4_experts.fuse_experts(layer, unexpected)
    once = grouped.grouped_qlora_forward
    nf4_experts.fuse_experts(layer, unexpected)
    assert grouped.grouped_qlora_forward is once


def test_nothing_is_replaced_without_such_experts_or_where_unsloth_has_changed(grouped: Any) -> None:
    nf4_experts.fuse_experts(nn.Linear(2, 2), unexpected)
    assert not nf4_experts.are_fused()
    del grouped._lora_stacks
    nf4_experts.fuse_experts(Layer(), unexpected)
    assert not nf4_experts.are_fused()


def test_unsloth_has_what_it_relies_on() -> None:
    """Read in its source, since importing it needs Triton: fails when a name goes away."""
    spec = importlib.util.find_spec(nf4_experts.GROUPED)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for name in nf4_experts.NEEDED:
        assert f"def {name}(" in source or f" {name}," in source
    assert all(key in source for key in ('state["gate_up"]', 'state["down"]', '"dtype" not in tb'))
