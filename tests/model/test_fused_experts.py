"""The fused experts against transformers' own, whose weights have the adapters folded in by autograd."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from gptoss_ft.model.fused_experts import FrozenExperts, Lora, fused_experts

EXPERTS, HIDDEN, INNER, RANK, CHOSEN, TOKENS = 6, 32, 48, 8, 3, 50


class Whole(FrozenExperts):
    """Weights in float32, as they are in transformers: [experts, in, out]."""

    keep = False
    alpha, limit = 1.702, 7.0

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self.gate_up_bias, self.down_bias = stock.gate_up_proj_bias.detach(), stock.down_proj_bias.detach()

    def gate_up(self) -> Tensor:
        return self._stock.gate_up_proj.detach().transpose(1, 2).contiguous()

    def down(self) -> Tensor:
        return self._stock.down_proj.detach().transpose(1, 2).contiguous()


@pytest.fixture
def stock() -> Any:
    torch.manual_seed(0)
    config = GptOssConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN
    )
    config._experts_implementation = "eager"
    experts = GptOssExperts(config)
    with torch.no_grad():
        for parameter in experts.parameters():
            # Wide enough that some gates and ups are clamped.
            parameter.normal_(std=0.8)
    return experts


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator)
    # The last expert gets no token.
    scores = torch.randn(TOKENS, EXPERTS - 1, generator=generator)
    best = torch.topk(scores, CHOSEN, dim=1)
    return x, best.values.softmax(1), best.indices


def adapters(scaling: float) -> tuple[Lora, Lora]:
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * 0.3).requires_grad_()

    gate_up = Lora(drawn(EXPERTS, RANK, HIDDEN), drawn(EXPERTS, 2 * INNER, RANK), scaling)
    return gate_up, Lora(drawn(EXPERTS, RANK, INNER), drawn(EXPERTS, HIDDEN, RANK), scaling)


def by_transformers(stock: Any, x: Tensor, weights: Tensor, indices: Tensor, loras: Any) -> Tensor:
    """W + s·B·A in place of each weight; PEFT's rule for a parameter of [experts, in, out]."""
    folded = {
        name: getattr(stock, name).detach() + lora.scaling * (lora.b @ lora.a).transpose(1, 2)
        for name, lora in zip(("gate_up_proj", "down_proj"), loras, strict=True)
        if lora is not None
    }
    result: Tensor = torch.func.functional_call(stock, folded, (x, indices, weights))
    return result.view(TOKENS, HIDDEN)


def gradients_of(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return list(torch.autograd.grad((output * towards).sum(), leaves))


def off_by(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("adapted", ["both", "gate_up", "down", "none"])
@pytest.mark.parametrize("keep", [True, False])
def test_output_and_gradients_are_those_of_transformers(stock: Any, adapted: str, keep: bool) -> None:
    x, weights, indices = inputs()
    x.requires_grad_()
    weights.requires_grad_()
    gate_up, down = adapters(scaling=2.0)
    loras = (gate_up if adapted in ("both", "gate_up") else None, down if adapted in ("both", "down") else None)
    leaves = [x, weights, *(matrix for lora in loras if lora for matrix in (lora.a, lora.b))]
    experts = Whole(stock)
    experts.keep = keep

    wanted = by_transformers(stock, x, weights, indices, loras)
    found = fused_experts(x, weights, indices, experts, *loras)
    assert off_by(found, wanted) < 1e-5
    ours, theirs = gradients_of(found, leaves), gradients_of(wanted, leaves)
    for one, other in zip(ours, theirs, strict=True):
        assert off_by(one, other) < 1e-5


def test_an_expert_without_tokens_has_a_gradient_of_zero(stock: Any) -> None:
    x, weights, indices = inputs()
    gate_up, down = adapters(scaling=1.0)
    output = fused_experts(x, weights, indices, Whole(stock), gate_up, down)
    for gradient in gradients_of(output, [gate_up.a, gate_up.b, down.a, down.b]):
        assert not gradient[EXPERTS - 1].any()
        assert gradient[0].any()


def test_clamped_values_were_tried(stock: Any) -> None:
    """Without them the gradients above would not see a wrong clamp."""
    x, _, indices = inputs()
    inner = x @ stock.gate_up_proj[int(indices[0, 0])].detach()
    assert (inner[:, ::2] > 7).any()
    assert (inner[:, 1::2].abs() > 7).any()
