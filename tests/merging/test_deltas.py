"""Adapters in Unsloth's split layout, against PEFT's merge of Unsloth's own split modules; and what has no place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from split_gpt_oss import split_adapter_model

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.merging.base_weights import BaseWeights, stock_place
from gptoss_ft.merging.deltas import Deltas
from gptoss_ft.merging.stock_model import StockModel, stock_model
from gptoss_ft.model.adapter_layout import to_portable

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stock(tiny_gpt_oss: Path) -> StockModel:
    return stock_model(tiny_gpt_oss)


def merged(adapter: Path, base: Path, stock: StockModel) -> dict[str, torch.Tensor]:
    weights, deltas = BaseWeights(base, stock, CPU), Deltas(adapter, stock, CPU)
    return {name: deltas.apply(name, weights.read(name), torch.float32) for name in stock.shapes}


def save(model: PeftModel, folder: Path) -> Path:
    # PEFT asks the hub for the model's vocabulary.
    model.peft_config["default"].base_model_name_or_path = None
    model.save_pretrained(str(folder))
    return folder


def stacked(split: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A split model's tensors under stock names."""
    whole: dict[str, Any] = {}
    for name, tensor in split.items():
        place = stock_place(name)
        if place.expert is None:
            whole[place.name] = tensor
        else:
            whole.setdefault(place.name, {})[place.expert] = tensor.T if tensor.ndim == 2 else tensor
    return {
        name: torch.stack([found[number] for number in sorted(found)]) if isinstance(found, dict) else found
        for name, found in whole.items()
    }


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "bias": "all"}, {"use_dora": True}])
def test_split_experts_are_merged_as_peft_merges_each(
    options: dict[str, Any], stock: StockModel, tiny_gpt_oss: Path, tmp_path: Path
) -> None:
    model = split_adapter_model(tiny_gpt_oss, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (name.endswith("bias") or "magnitude" in name):
                parameter.mul_(1.5)
    found = merged(save(model, tmp_path / "adapter"), tiny_gpt_oss, stock)
    wanted = stacked(model.merge_and_unload().state_dict())
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name] - tensor).abs().max() <= 1e-6, name


def test_some_experts_alone_are_changed(stock: StockModel, tiny_gpt_oss: Path, tmp_path: Path) -> None:
    model = split_adapter_model(tiny_gpt_oss, targets=r".*\.1\..*down_projs\.2")
    found = merged(save(model, tmp_path / "adapter"), tiny_gpt_oss, stock)
    base = load_file(tiny_gpt_oss / "model.safetensors")
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, base[name].float())}
    assert changed == {"model.layers.1.mlp.experts.down_proj"}
    (name,) = changed
    assert [not torch.equal(found[name][number], base[name][number].float()) for number in range(4)] == [
        False, False, True, False,
    ]  # fmt: skip


def test_both_layouts_of_an_adapter_give_the_same_bits(stock: StockModel, tiny_gpt_oss: Path, tmp_path: Path) -> None:
    adapter = save(split_adapter_model(tiny_gpt_oss), tmp_path / "adapter")
    split = merged(adapter, tiny_gpt_oss, stock)
    save_file(to_portable(load_file(adapter / "adapter_model.safetensors")), adapter / "adapter_model.safetensors")
    portable = merged(adapter, tiny_gpt_oss, stock)
    assert [name for name, tensor in split.items() if not torch.equal(tensor, portable[name])] == []


@pytest.fixture
def adapter(tiny_gpt_oss: Path, tmp_path: Path) -> Path:
    return save(split_adapter_model(tiny_gpt_oss), tmp_path / "adapter")


Q = "base_model.model.model.layers.0.self_attn.q_proj"
DOWN = "base_model.model.model.layers.0.mlp.experts"


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({f"{Q}.lora_C.weight": (4,)}, f"{Q}.lora_C.weight"),
        ({f"{Q}.lora_B.bias": (64,)}, f"{Q}.lora_B.bias"),
        ({f"{Q}.lora_A.weight": (4, 32)}, f"{Q}.lora_A.weight, {Q}.lora_B.weight"),
        ({f"{Q}.lora_embedding_A": (4, 64)}, f"{Q}.lora_A.weight, .*"),
        ({"base_model.model.model.layers.9.norm.weight": (64,)}, "base_model.model.model.layers.9.norm.weight"),
        ({"base_model.model.lm_head.weight": (1088, 32)}, "base_model.model.lm_head.weight"),
        # All experts at once, and each by itself.
        (
            {f"{DOWN}.lora_A.weight": (16, 64), f"{DOWN}.lora_B.weight": (64, 16)},
            f"{DOWN}.down_projs.0.lora_A.weight, .*|{DOWN}.lora_A.weight, {DOWN}.lora_B.weight",
        ),
    ],
)
def test_a_tensor_without_a_place_is_named(
    extra: dict[str, tuple[int, ...]], named: str, adapter: Path, stock: StockModel
) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file) | {name: torch.ones(shape) for name, shape in extra.items()}, file)
    with pytest.raises(
        ExportError, match=rf"the adapter holds ({named})( and \d+ more)?, which GptOssForCausalLM has no"
    ):
        Deltas(adapter, stock, CPU)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("rank_pattern", {"q_proj": 8}, "rank_pattern"),
        ("lora_B_layout", "grouped_by_expert", "lora_B_layout grouped_by_expert"),
        ("peft_type", "IA3", "peft_type IA3"),
    ],
)
def test_another_kind_of_adapter_is_refused(
    key: str, value: object, shown: str, adapter: Path, stock: StockModel
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ExportError, match=f"of a kind that is not merged here: {shown}"):
        Deltas(adapter, stock, CPU)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("file", "damage", "shown"),
    [
        ("adapter_config.json", cut, "adapter_config.json is not one of a LoRA adapter: JSONDecodeError"),
        ("adapter_config.json", lambda file: file.write_text("{}"), "is not one of a LoRA adapter: KeyError: 'r'"),
        ("adapter_model.safetensors", cut, "adapter_model.safetensors cannot be read: "),
        ("adapter_model.safetensors", Path.unlink, "adapter_model.safetensors cannot be read: No such file"),
        (
            "adapter_model.safetensors",
            lambda file: file.rename(file.with_suffix(".bin")),
            "holds its weights as adapter_model.bin",
        ),
    ],
)
def test_a_broken_adapter_is_told_from_a_defect(
    file: str, damage: Callable[[Path], object], shown: str, adapter: Path, stock: StockModel
) -> None:
    damage(adapter / file)
    with pytest.raises(DataError, match=shown) as raised:
        Deltas(adapter, stock, CPU)
    assert raised.value.cure
