"""Sources that are read once while adapters are put on."""

import inspect
from pathlib import Path
from types import CodeType, FunctionType, MethodType

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from unsloth_zoo.peft_utils import requires_grad_for_gradient_checkpointing

from gptoss_ft.model.source_memory import sources_remembered


@pytest.fixture
def models(tiny_llama: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Two of the same, adapters on."""
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    first, second = (get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config) for _ in range(2))
    return first, second


@pytest.fixture
def read(models: object, monkeypatch: pytest.MonkeyPatch) -> list[CodeType]:
    """The code whose source is really read once the models are there."""
    seen: list[CodeType] = []
    original = inspect.getsource

    def getsource(function: FunctionType | MethodType) -> str:
        seen.append(function.__code__)
        return original(function)

    monkeypatch.setattr(inspect, "getsource", getsource)
    return seen


def hooks(model: torch.nn.Module) -> list[tuple[str, int, int]]:
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]


def test_unsloth_reads_the_same_source_many_times(models: list[torch.nn.Module], read: list[CodeType]) -> None:
    """When this fails, `sources_remembered` may go."""
    requires_grad_for_gradient_checkpointing(models[0])
    assert len(read) > 2 * len(set(read))


def test_remembered_it_reads_each_once_and_finds_the_same(models: list[torch.nn.Module], read: list[CodeType]) -> None:
    plain, remembered = models
    requires_grad_for_gradient_checkpointing(plain)
    every, reading = set(read), inspect.getsource
    read.clear()
    with sources_remembered():
        requires_grad_for_gradient_checkpointing(remembered)
    assert (len(read), set(read)) == (len(every), every)
    assert hooks(remembered) == hooks(plain)
    assert any(after for _, after, _ in hooks(plain))
    assert inspect.getsource is reading


def test_every_kind_of_thing_has_its_own_source() -> None:
    def here() -> int:
        return 1

    wanted = [here, Path.exists, Path().exists, Path, inspect, here]
    plain = [inspect.getsource(thing) for thing in wanted]  # type: ignore[arg-type]
    with sources_remembered():
        assert [inspect.getsource(thing) for thing in wanted] == plain  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            inspect.getsource(1)  # type: ignore[arg-type]
