"""Paged optimizers go on from a checkpoint: their state is in paged memory again, and steps are equal to the bit.

    python benchmarks/paged_resume.py

On a GPU: a layer is trained for six steps, once in one go and once with its state written after three as a checkpoint
does, and read into a new optimizer. Prints one line an optimizer, with the GPU's own memory that loading took before
and after it was paged again.
"""

import copy
import io
from typing import Any

import torch
from bitsandbytes.optim.adamw import PagedAdamW8bit, PagedAdamW32bit
from torch import nn

from gptoss_ft.training.checkpoints import HostCopy
from gptoss_ft.training.paged_optimizer import PAGED, page_again

STEPS = 6
WIDTH = 4096
OPTIMIZERS = (PagedAdamW8bit, PagedAdamW32bit)


def made() -> nn.Module:
    """A large weight, whose state is paged, and a bias, whose state is not."""
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WIDTH, device="cuda")


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        model(torch.randn(16, WIDTH, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(HostCopy().of(state), file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def paged_in(optimizer: Any) -> int:
    """How many tensors of the optimizer's state are in paged memory."""
    states = optimizer.state.values()
    return sum(getattr(state[name], "is_paged", False) for state in states for name in PAGED)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value.cpu(), other[key].cpu()) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def check(kind: type[Any]) -> None:
    whole = made()
    uninterrupted = kind(whole.parameters(), lr=1e-3)
    train(whole, uninterrupted, range(STEPS // 2))
    state, weights = through_a_file(uninterrupted.state_dict()), copy.deepcopy(whole.state_dict())
    assert paged_in(uninterrupted) == len(PAGED), "bitsandbytes pages the large weight's state"
    train(whole, uninterrupted, range(STEPS // 2, STEPS))

    model = made()
    model.load_state_dict(weights)
    optimizer = kind(model.parameters(), lr=1e-3)
    before = torch.cuda.memory_allocated()
    optimizer.load_state_dict(state)
    assert paged_in(optimizer) == 0, "bitsandbytes pages what it loads: page_again is no longer needed"
    loaded = torch.cuda.memory_allocated() - before
    page_again(optimizer)
    paged = torch.cuda.memory_allocated() - before
    assert paged_in(optimizer) == len(PAGED)
    train(model, optimizer, range(STEPS // 2, STEPS))

    assert paged_in(optimizer) == len(PAGED)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    pairs = zip(uninterrupted.state.values(), optimizer.state.values(), strict=True)
    assert all(same(one, other) for one, other in pairs)
    print(f"{kind.__name__}: equal; state on the GPU {loaded / 2**20:.1f} MiB loaded, {paged / 2**20:.1f} MiB paged")


if __name__ == "__main__":
    for each in OPTIMIZERS:
        check(each)
