"""Split and portable experts hold the same numbers, and PEFT reads the portable ones as they were trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gptoss_ft.errors import DataError
from gptoss_ft.model.adapter_layout import fused_parameter, to_layout_of, to_portable, without_counterpart
from gptoss_ft.runtime import stock_environment

Weights = dict[str, torch.Tensor]
LAYER = "base_model.model.model.layers"
# In and out of the two projections; all different, so that no axis can be taken for another.
SIZES = {"gate_up": (3, 10), "down": (5, 7)}


def split_adapter(layers: dict[int, tuple[str, ...]], experts: int, rank: int, sizes: object = SIZES) -> Weights:
    """A random split adapter: the projections that have one, by layer; and dense weights beside them."""
    generator = torch.Generator().manual_seed(17 * experts + rank)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {
        f"{LAYER}.0.self_attn.q_proj.lora_A.weight": random(rank, 3),
        "base_model.model.lm_head.weight": random(4),
    }
    for layer, projections in layers.items():
        for projection in projections:
            inputs, outputs = sizes[projection]  # type: ignore[index]  # a mapping
            for expert in range(experts):
                module = f"{LAYER}.{layer}.mlp.experts.{projection}_projs.{expert}"
                weights[f"{module}.lora_A.weight"] = random(rank, inputs)
                weights[f"{module}.lora_B.weight"] = random(outputs, rank)
    return weights


def assert_same(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


projections = st.sampled_from([("gate_up", "down"), ("gate_up",), ("down",)])
layers = st.dictionaries(st.integers(0, 23), projections, min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(layers, st.integers(1, 32), st.integers(1, 8))
def test_either_way_and_back_is_the_same_adapter_bit_for_bit(
    layers: dict[int, tuple[str, ...]], experts: int, rank: int
) -> None:
    split = split_adapter(layers, experts, rank)
    portable = to_portable(split)
    assert not any("_projs." in name for name in portable)
    assert_same(to_portable(portable), portable)
    assert_same(to_layout_of(portable, split), split)
    assert_same(to_layout_of(split, split), split)
    assert_same(to_layout_of(split, portable), portable)
    assert_same(to_layout_of(portable, portable), portable)
    assert sum(tensor.numel() for tensor in portable.values()) == sum(tensor.numel() for tensor in split.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    split = {name: tensor.to(dtype) for name, tensor in split_adapter({1: ("gate_up", "down")}, 4, 2).items()}
    assert {tensor.dtype for tensor in to_portable(split).values()} == {dtype}
    assert_same(to_layout_of(to_portable(split), split), split)


def test_the_packing_is_what_the_docstring_says() -> None:
    experts, rank = 4, 3
    split = split_adapter({2: ("gate_up", "down")}, experts, rank)
    portable = to_portable(split)
    module = f"{LAYER}.2.mlp.experts"
    for packed, part in ((f"{module}.base_layer", "gate_up_projs"), (module, "down_projs")):
        for e in range(experts):
            for j in range(rank):
                row = portable[f"{packed}.lora_A.weight"][e * rank + j]
                column = portable[f"{packed}.lora_B.weight"][:, j * experts + e]
                assert torch.equal(row, split[f"{module}.{part}.{e}.lora_A.weight"][j])
                assert torch.equal(column, split[f"{module}.{part}.{e}.lora_B.weight"][:, j])


STOCK = """
import json, sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

base, folder = sys.argv[1:]
found = {}
for name, (modules, parameters) in json.load(open(f"{folder}/cases.json")).items():
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), dtype=torch.float32)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=modules, target_parameters=parameters, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    own = get_peft_model_state_dict(model)
    found[name] = {key: list(tensor.shape) for key, tensor in own.items()}
    set_peft_model_state_dict(model, load_file(f"{folder}/{name}.safetensors"))
    deltas = {
        f"{key}.{module.parameter_name}": module.get_delta_weight("default").detach().contiguous()
        for key, module in model.named_modules() if hasattr(module, "parameter_name")
    }
    save_file(deltas, f"{folder}/{name}-deltas.safetensors")
print(json.dumps(found))
"""
TINY_SIZES = {"gate_up": (64, 128), "down": (64, 64)}
CASES: dict[str, tuple[list[str], dict[int, tuple[str, ...]]]] = {
    "both": (["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], {0: ("gate_up", "down"), 1: ("gate_up", "down")}),
    "gate_up": (["mlp.experts.gate_up_proj"], {0: ("gate_up",), 1: ("gate_up",)}),
    "one": (["1.mlp.experts.down_proj"], {1: ("down",)}),
    "uneven": (["0.mlp.experts.gate_up_proj", "mlp.experts.down_proj"], {0: ("gate_up", "down"), 1: ("down",)}),
}


def test_stock_peft_has_these_names_and_shapes_and_applies_what_each_expert_was_trained_to(
    tiny_gpt_oss: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    splits = {name: split_adapter(layers, 4, 3, TINY_SIZES) for name, (_, layers) in CASES.items()}
    for name, split in splits.items():
        experts = {key: tensor for key, tensor in split.items() if ".experts." in key}
        save_file(to_portable(experts), tmp_path / f"{name}.safetensors")
    cases = {name: ([], parameters) for name, (parameters, _) in CASES.items()}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    child = subprocess.run(
        [sys.executable, "-c", STOCK, str(tiny_gpt_oss), str(tmp_path)],
        env=stock_environment(), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    expected = json.loads(child.stdout.splitlines()[-1])
    for name, split in splits.items():
        ours = load_file(tmp_path / f"{name}.safetensors")
        assert {key: list(tensor.shape) for key, tensor in ours.items()} == expected[name]
        deltas = load_file(tmp_path / f"{name}-deltas.safetensors")
        for layer, projections in CASES[name][1].items():
            for projection in projections:
                [delta] = [
                    tensor for key, tensor in deltas.items()
                    if f"layers.{layer}." in key and key.endswith(f"{projection}_proj")
                ]  # fmt: skip
                assert delta.shape == (4, *TINY_SIZES[projection])
                for expert in range(4):
                    module = f"{LAYER}.{layer}.mlp.experts.{projection}_projs.{expert}"
                    a, b = (split[f"{module}.{matrix}.weight"] for matrix in ("lora_A", "lora_B"))
                    torch.testing.assert_close(delta[expert], 2 * (b @ a).T, rtol=1e-5, atol=1e-5)


def test_an_adapter_on_some_experts_of_a_layer_is_refused() -> None:
    split = split_adapter({3: ("down",)}, 4, 2)
    part = {name: tensor for name, tensor in split.items() if "down_projs.1." not in name}
    with pytest.raises(DataError, match=r"on some of the experts of \S+layers.3.mlp.experts only, 3 of at least 4"):
        to_portable(part)


def test_what_the_model_has_no_counterpart_for_is_left_to_be_seen() -> None:
    both, down = split_adapter({0: ("gate_up", "down")}, 4, 2), split_adapter({0: ("down",)}, 4, 2)
    assert to_layout_of(to_portable(both), down).keys() != down.keys()
    assert to_layout_of(to_portable(down), both).keys() != both.keys()
    # 4 experts of rank 2 are 8 rows, which 3 experts cannot share.
    three = split_adapter({0: ("down",)}, 3, 2)
    assert to_layout_of(to_portable(down), three).keys() == to_portable(down).keys()


def test_a_trained_router_has_the_stock_models_name() -> None:
    split = {
        f"{LAYER}.0.mlp.router.linear.weight": torch.ones(4, 3),
        f"{LAYER}.0.mlp.router.linear.bias": torch.ones(4),
    }
    portable = to_portable(split)
    assert set(portable) == {f"{LAYER}.0.mlp.router.weight", f"{LAYER}.0.mlp.router.bias"}
    assert_same(to_layout_of(portable, split), split)


def test_split_modules_and_what_cannot_be_carried_over() -> None:
    assert fused_parameter("model.layers.3.mlp.experts.gate_up_projs.5") == "model.layers.3.mlp.experts.gate_up_proj"
    assert fused_parameter("model.layers.3.mlp.experts.down_projs.31") == "model.layers.3.mlp.experts.down_proj"
    assert fused_parameter("model.layers.3.mlp.down_proj") is None
    expert = "base_model.model.model.layers.0.mlp.experts.down_projs.1"
    names = [
        f"{expert}.lora_A.default.weight",
        f"{expert}.lora_B.default.weight",
        f"{expert}.lora_magnitude_vector.default.weight",
        f"{expert}.base_layer.bias",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
    ]
    assert without_counterpart(names) == names[2:4]
