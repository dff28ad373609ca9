"""What llama.cpp's converter and vLLM read, on the tiny models and what can be wrong with them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.publishing.loader_checks import check_loader
from gptoss_ft.publishing.loader_tables import Loader, expected_tensors
from gptoss_ft.reporting.console import make_console
from gptoss_ft.tiny.model import GPT_OSS_VOCABULARY

LOADERS: tuple[Loader, ...] = ("gguf", "vllm")


@pytest.fixture(params=["gpt-oss", "llama"])
def whole(request: pytest.FixtureRequest, tiny_gpt_oss: Path, tiny_llama: Path, tmp_path: Path) -> Path:
    source = tiny_gpt_oss if request.param == "gpt-oss" else tiny_llama
    return Path(shutil.copytree(source, tmp_path / "merged_model"))


@pytest.fixture
def gpt_oss(tiny_gpt_oss: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt_oss, tmp_path / "gpt_oss"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def problem(folder: Path, loader: Loader) -> str:
    with pytest.raises(ExportError) as raised:
        check_loader(folder, loader, make_console())
    return raised.value.message


@pytest.mark.parametrize("loader", LOADERS)
def test_a_whole_model_is_taken_and_each_look_is_shown(
    whole: Path, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = check_loader(whole, loader, make_console())
    names = ["config.json", "rope", "tensors", "dtype", "tokenizer", "chat template"]
    assert [look.what for look in looks if look.told] == names
    said = capsys.readouterr().out
    assert said.count("✓") == 6
    # The converter does not know a tiny vocabulary, and no check can promise that it would.
    assert said.count("?") == (1 if loader == "gguf" else 0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt-oss", {}),
        ("gpt-oss", {"num_local_experts": 3, "intermediate_size": 48, "head_dim": 8, "num_hidden_layers": 1}),
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "head_dim": None}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ],
)
def test_the_tensors_are_those_that_transformers_saves(
    name: str, changes: dict[str, Any], tiny_gpt_oss: Path, tiny_llama: Path
) -> None:
    folder = tiny_gpt_oss if name == "gpt-oss" else tiny_llama
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    if "num_hidden_layers" in changes:
        config["layer_types"] = config["layer_types"][:1]
    own = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    built = AutoConfig.for_model(config["model_type"], **own)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(built)
    saved = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for tied in model.all_tied_weights_keys:
        del saved[tied]
    assert expected_tensors(config["architectures"][0], config) == saved


@pytest.mark.parametrize("loader", LOADERS)
def test_a_leftover_quantization_config_is_found(whole: Path, loader: Loader) -> None:
    change_config(whole, quantization_config={"quant_method": "mxfp4"})
    assert "config.json: still holds quantization_config" in problem(whole, loader)


def test_a_config_that_the_loaders_code_contradicts_is_found(gpt_oss: Path) -> None:
    change_config(gpt_oss, rms_norm_eps=1e-6, swiglu_limit=6.0, layer_types=["full_attention", "sliding_attention"])
    said = problem(gpt_oss, "vllm")
    assert "rms_norm_eps is 1e-06, and the loader's code has 1e-05" in said
    assert "swiglu_limit is 6.0, and the loader's code has 7.0" in said
    assert "layer_types do not alternate" in said
    assert "rms_norm_eps" not in problem(gpt_oss, "gguf")


def test_keys_that_lack_are_named(gpt_oss: Path) -> None:
    change_config(gpt_oss, sliding_window=None, num_local_experts=None, rope_scaling=None)
    said = problem(gpt_oss, "vllm")
    assert "config.json: lacks num_local_experts; lacks sliding_window" in said
    assert "rope: lacks factor; lacks original_max_position_embeddings; lacks beta_fast; lacks beta_slow" in said


def test_transformers_5s_way_of_writing_rope_is_read(gpt_oss: Path) -> None:
    config = json.loads((gpt_oss / "config.json").read_text())
    rope = {**config.pop("rope_scaling"), "rope_theta": config.pop("rope_theta")}
    (gpt_oss / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    for loader in LOADERS:
        check_loader(gpt_oss, loader, make_console())


def test_experts_that_are_split_or_turned_are_found(gpt_oss: Path) -> None:
    def turn(weights: dict[str, torch.Tensor]) -> None:
        fused = weights.pop("model.layers.0.mlp.experts.down_proj")
        for number, expert in enumerate(fused):
            weights[f"model.layers.0.mlp.experts.down_projs.{number}.weight"] = expert.T.contiguous()
        name = "model.layers.1.mlp.experts.gate_up_proj"
        weights[name] = weights[name].transpose(1, 2).contiguous()

    change_weights(gpt_oss, turn)
    assert problem(gpt_oss, "vllm").partition("tensors: ")[2] == (
        "1 lacking, first model.layers.0.mlp.experts.down_proj; "
        "4 not looked for, first model.layers.0.mlp.experts.down_projs.0.weight; "
        "1 of another shape, first model.layers.1.mlp.experts.gate_up_proj"
    )


def test_a_packed_dtype_and_a_wrong_index_are_found(gpt_oss: Path) -> None:
    def pack(weights: dict[str, torch.Tensor]) -> None:
        name = "model.layers.0.mlp.experts.down_proj"
        weights[name] = weights[name].to(torch.uint8)

    change_weights(gpt_oss, pack)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (gpt_oss / "model.safetensors.index.json").write_text(json.dumps(index))
    said = problem(gpt_oss, "gguf")
    assert "model.safetensors.index.json names other tensors or files than there are" in said
    assert "dtype: U8 is not read" in said


def test_tokens_without_a_row_and_a_lost_template_are_found(whole: Path) -> None:
    (whole / "chat_template.jinja").unlink()
    change_config(whole, vocab_size=1000)
    said = problem(whole, "vllm")
    assert "has no row among the 1000 of vocab_size" in said
    assert "chat template: there is none" in said
    (whole / "tokenizer_config.json").unlink()
    assert "tokenizer: tokenizer_config.json missing" in problem(whole, "vllm")


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("model.safetensors", "tensors: model.safetensors cannot be read: "),
        ("model.safetensors.index.json", "tensors: model.safetensors.index.json cannot be read: "),
        ("tokenizer.json", "tokenizer: tokenizer.json cannot be read: "),
        ("tokenizer_config.json", "chat template: tokenizer_config.json cannot be read: "),
    ],
)
def test_a_file_that_was_cut_off_is_found(file: str, shown: str, gpt_oss: Path) -> None:
    path = gpt_oss / file
    if not path.exists():
        path.write_text(json.dumps({"weight_map": {}}))
    path.write_bytes(path.read_bytes()[:-7])
    assert shown in problem(gpt_oss, "gguf")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"architectures": 1}'])
def test_a_broken_config_is_no_models(content: str, gpt_oss: Path) -> None:
    (gpt_oss / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config.json is not a model's"):
        check_loader(gpt_oss, "vllm", make_console())


def test_what_this_check_does_not_know_is_said(whole: Path, tmp_path: Path) -> None:
    change_config(whole, architectures=["Qwen3ForCausalLM"])
    with pytest.raises(DataError, match=r"Qwen3ForCausalLM; this check knows GptOssForCausalLM and LlamaForCausalLM"):
        check_loader(whole, "vllm", make_console())
    with pytest.raises(DataError, match=r"holds no config.json"):
        check_loader(tmp_path, "gguf", make_console())


def test_llama_cpps_own_converter_takes_what_the_check_takes(
    gpt_oss: Path, real_tokenizer_folder: Path, tmp_path: Path
) -> None:
    """With gpt-oss's own vocabulary; the experts' gate, up and down projections arrive value by value."""
    llama_cpp = os.environ.get("GPTOSS_FT_LLAMA_CPP")
    if not llama_cpp:
        pytest.skip("GPTOSS_FT_LLAMA_CPP is not set")
    rows = 201_088

    def widen(weights: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], weights[name].new_zeros(rows - GPT_OSS_VOCABULARY, 64)])

    change_weights(gpt_oss, widen)
    change_config(gpt_oss, vocab_size=rows)
    for file in real_tokenizer_folder.iterdir():
        if "tokenizer" in file.name or file.suffix == ".jinja" or file.name == "special_tokens_map.json":
            shutil.copyfile(file, gpt_oss / file.name)
    looks = check_loader(gpt_oss, "gguf", make_console())
    assert all(look.told for look in looks)

    converted = tmp_path / "model.gguf"
    command = [sys.executable, f"{llama_cpp}/convert_hf_to_gguf.py", str(gpt_oss)]
    subprocess.run([*command, "--outfile", str(converted), "--outtype", "f32"], check=True, capture_output=True)
    sys.path.append(f"{llama_cpp}/gguf-py")
    try:
        from gguf import GGUFReader
    finally:
        sys.path.pop()
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in GGUFReader(str(converted)).tensors}
    weights = load_file(gpt_oss / "model.safetensors")
    fused = weights["model.layers.1.mlp.experts.gate_up_proj"].float().transpose(1, 2)
    assert torch.equal(found["blk.1.ffn_gate_exps.weight"], fused[:, ::2])
    assert torch.equal(found["blk.1.ffn_up_exps.weight"], fused[:, 1::2])
    down = weights["model.layers.1.mlp.experts.down_proj"].float().transpose(1, 2)
    assert torch.equal(found["blk.1.ffn_down_exps.weight"], down)
