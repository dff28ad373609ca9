"""State that was loaded goes where the optimizer would have made it. On a GPU: benchmarks/paged_resume.py."""

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from gptoss_ft.training.paged_optimizer import page_again

# What bitsandbytes pages has 100,000 elements or more.
WIDTH = 320


def stepped(optimizer: Any, model: nn.Module, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        model(torch.randn(4, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def going_on(kind: type[Any]) -> tuple[Any, Any]:
    """An optimizer after two steps, and one that has loaded its state."""
    model = nn.Linear(WIDTH, WIDTH)
    optimizer, other = kind(model.parameters(), lr=1e-3), kind(model.parameters(), lr=1e-3)
    stepped(optimizer, model, 2)
    other.load_state_dict(optimizer.state_dict())
    return optimizer, other


class PagedAdamW(bnb.optim.PagedAdamW):  # type: ignore[misc]  # a base class without types
    """Marks the buffers that bitsandbytes pages on a GPU: on a CPU there is no managed memory."""

    def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        buffer = torch.zeros_like(p, dtype=dtype)
        if p.numel() >= 1e5:
            buffer.is_paged = True  # type: ignore[attr-defined]  # as bitsandbytes marks them
        return buffer

    def prefetch_state(self, p: torch.Tensor) -> None:
        pass


def test_loaded_state_is_paged_where_the_optimizer_would_page_it() -> None:
    optimizer, other = going_on(PagedAdamW)
    page_again(other)
    weight, bias = other.state.values()
    assert all(weight[name].is_paged and not hasattr(bias[name], "is_paged") for name in ("state1", "state2"))
    for kept, found in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(kept[name], found[name]) for name in ("state1", "state2"))
        assert any(kept["state1"].flatten())
        assert kept["step"] == found["step"] == 2


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("kind", [bnb.optim.AdamW, bnb.optim.PagedAdamW, torch.optim.AdamW])
def test_other_state_stays_as_it_was_loaded(kind: type[Any]) -> None:
    _, other = going_on(kind)
    before = [dict(state) for state in other.state.values()]
    page_again(other)
    after = list(other.state.values())
    assert all(one[name] is state[name] for one, state in zip(before, after, strict=True) for name in one)
