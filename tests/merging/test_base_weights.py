"""Every layout of a checkpoint, read under stock names, against stock libraries or the values that were stored."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quantized_folders import mxfp4, split_4bit
from safetensors.torch import load_file, save_file

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.merging.base_weights import BaseWeights, Place, stock_place
from gptoss_ft.merging.stock_model import stock_model
from gptoss_ft.runtime import stock_environment

CPU = torch.device("cpu")


def read_all(folder: Path, quantized_as: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    stock = stock_model(folder)
    weights = BaseWeights(folder, stock, CPU, quantized_as)
    return {name: weights.read(name) for name in stock.shapes}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


def test_split_names_stand_for_stock_ones() -> None:
    layer = "model.layers.7.mlp"
    assert stock_place(f"{layer}.experts.gate_up_projs.31.weight") == Place(f"{layer}.experts.gate_up_proj", 31)
    assert stock_place(f"{layer}.experts.down_projs.0.bias") == Place(f"{layer}.experts.down_proj_bias", 0)
    assert stock_place(f"{layer}.router.linear.weight") == Place(f"{layer}.router.weight")
    assert stock_place(f"{layer}.experts.down_proj_bias") == Place(f"{layer}.experts.down_proj_bias")


@pytest.mark.parametrize("folder", ["tiny_gpt_oss", "tiny_llama"])
def test_a_16_bit_checkpoint_is_read_as_it_is(folder: str, request: pytest.FixtureRequest) -> None:
    source: Path = request.getfixturevalue(folder)
    assert_equal(read_all(source), load_file(source / "model.safetensors"))


def test_unsloths_split_4_bit_layout_is_dequantized_and_stacked(tiny_gpt_oss: Path, tmp_path: Path) -> None:
    wanted = split_4bit(tiny_gpt_oss, tmp_path / "split")
    found = read_all(tmp_path / "split")
    assert_equal(found, wanted)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    original = load_file(tiny_gpt_oss / "model.safetensors")[name]
    assert found[name].shape == original.shape
    assert 0.05 < (found[name] - original).float().std() / original.float().std() < 0.15


def test_the_synthetic_checkpoint_of_the_benchmarks_is_read_whole(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks/synthetic_checkpoint.py"
    spec = importlib.util.spec_from_file_location("synthetic_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    script = sys.modules["synthetic_checkpoint"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    small = {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 512, "pad_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    config = script.checkpoint_config(2, "4bit", **small)
    script.write_checkpoint(tmp_path, config, 7, "cpu", 100_000)
    drawn = {
        parameter.name: values for parameter, values in script.draw(script.GptOssConfig.from_dict(config), 7, "cpu")
    }
    found = read_all(tmp_path)
    for expert in range(4):
        want = drawn[f"model.layers.1.mlp.experts.down_projs.{expert}.weight"].T.float()
        error = found["model.layers.1.mlp.experts.down_proj"][expert].float() - want
        assert error.std() / want.std() == pytest.approx(0.093, abs=0.02)
    assert torch.equal(found["model.layers.0.mlp.router.weight"], drawn["model.layers.0.mlp.router.linear.weight"])


STOCK_MXFP4 = """
import sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], quantization_config=Mxfp4Config(dequantize=True), dtype="bfloat16"
)
save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, sys.argv[2])
"""


def test_mxfp4_is_dequantized_as_transformers_does(tiny_gpt_oss: Path, tmp_path: Path) -> None:
    mxfp4(tiny_gpt_oss, tmp_path / "packed")
    assert_equal(read_all(tmp_path / "packed"), _from_child(STOCK_MXFP4, tmp_path / "packed", tmp_path))


STOCK_NF4 = """
import sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
quantization = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
)
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu"
)
values = {}
for name, weight in model.named_parameters():
    state = getattr(weight, "quant_state", None)
    values[name] = weight.data if state is None else dequantize_4bit(weight.data, state)
save_file(values, sys.argv[2])
"""


def test_what_was_quantized_while_it_was_loaded_is_so_again(tiny_llama: Path, tmp_path: Path) -> None:
    found = read_all(tiny_llama, torch.bfloat16)
    assert_equal(found, _from_child(STOCK_NF4, tiny_llama, tmp_path))
    original = load_file(tiny_llama / "model.safetensors")
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, original[name])}
    assert changed == {name for name in original if name.endswith("_proj.weight")}


def test_experts_that_were_quantized_while_they_were_loaded_are_refused(tiny_gpt_oss: Path) -> None:
    with pytest.raises(ExportError, match="16-bit experts that were quantized when the run loaded them") as caught:
        read_all(tiny_gpt_oss, torch.bfloat16)
    assert "--base original" in caught.value.cure


def _from_child(code: str, folder: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "stock.safetensors")],
        env=stock_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return load_file(tmp_path / "stock.safetensors")


@pytest.fixture
def broken(tiny_llama: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_llama, folder)
    return folder


def test_a_tensor_that_lacks_or_is_left_over_is_named(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks model.norm.weight of LlamaForCausalLM"):
        read_all(broken)
    save_file(weights | {"model.norm.weight": norm, "model.norm.scale": norm + 1}, broken / "model.safetensors")
    with pytest.raises(DataError, match=r"holds model.norm.scale, which LlamaForCausalLM has no place for"):
        read_all(broken)
    save_file(weights | {"model.norm.weight": norm[:8].clone()}, broken / "model.safetensors")
    with pytest.raises(DataError, match=r"model.norm.weight is \[8\], and the model of its config.json has \[64\]"):
        read_all(broken)
    save_file(weights | {"model.norm.weight": norm.to(torch.float8_e4m3fn)}, broken / "model.safetensors")
    with pytest.raises(DataError, match=r"model.norm.weight is torch.float8_e4m3fn, of a quantization"):
        read_all(broken)


def test_a_folder_that_is_no_checkpoint_is_refused(broken: Path) -> None:
    (broken / "model.safetensors").write_bytes(b"half of a file")
    with pytest.raises(DataError, match="holds no safetensors that can be read"):
        read_all(broken)
    (broken / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(DataError, match="not one that transformers builds a model of"):
        read_all(broken)
    (broken / "config.json").unlink()
    with pytest.raises(DataError, match=r"has no config.json that can be read"):
        read_all(broken)
