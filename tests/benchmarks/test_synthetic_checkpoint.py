"""The random checkpoint at tiny sizes, on the CPU: what is in its files, and that Unsloth's classes load all of it."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import bitsandbytes.functional as bnb_functional
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GptOssConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load_script(name):
    """Import a script by its path: `benchmarks` is no package, and this folder has the same name."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


synthetic_checkpoint = load_script("synthetic_checkpoint")
check_final_model = load_script("check_final_model")

SEED = 7
SHARD_BYTES = 100_000
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
ATTENTIONS = ("4bit", "16bit")

# Loads each folder given as Unsloth does, with its GPU classes patched into transformers, but without its loader,
# which needs a GPU. Prints a JSON list, one item a folder.
LOAD_WITH_UNSLOTH_CLASSES = """
import json, sys
from unsloth_zoo.temporary_patches.gpt_oss import patch_gpt_oss_bnb4bit
assert patch_gpt_oss_bnb4bit()
import bitsandbytes.functional as bnb_functional
import torch
from transformers import AutoConfig, AutoModelForCausalLM

def look(folder):
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model, info = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", output_loading_info=True)
    ids = torch.randint(2, 512, (4, 64), generator=torch.Generator().manual_seed(0))
    query = model.model.layers[1].self_attn.q_proj
    state = getattr(query.weight, "quant_state", None)
    weight = query.weight if state is None else bnb_functional.dequantize_4bit(query.weight, state)
    return {
        "expected": {name: [list(p.shape), str(p.dtype)] for name, p in expected.named_parameters()},
        "info": {key: sorted(map(str, value)) for key, value in info.items()},
        "classes": {name: type(m).__name__ for name, m in model.named_modules()},
        "query": weight.tolist(),
        "loss": model(input_ids=ids, labels=ids).loss.item(),
    }

print(json.dumps([look(folder) for folder in sys.argv[1:]]))
"""


@pytest.fixture(scope="module", params=ATTENTIONS)
def attention(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Both checkpoints, by how the attention weights are stored."""
    root = tmp_path_factory.mktemp("checkpoints")
    for attention in ATTENTIONS:
        (root / attention).mkdir()
        config = synthetic_checkpoint.checkpoint_config(2, attention, **TINY)
        synthetic_checkpoint.write_checkpoint(root / attention, config, SEED, "cpu", SHARD_BYTES)
    return {attention: root / attention for attention in ATTENTIONS}


@pytest.fixture(scope="module")
def stored(folders, attention):
    """All tensors of one checkpoint, read through its index."""
    folder = folders[attention]
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {file: load_file(folder / file) for file in set(weight_map.values())}
    return {name: shards[file][name] for name, file in weight_map.items()}


@pytest.fixture(scope="module")
def drawn():
    """The values before quantization, by name; how attention is stored does not change them."""
    config = GptOssConfig.from_dict(synthetic_checkpoint.checkpoint_config(2, "4bit", **TINY))
    return {parameter.name: values for parameter, values in synthetic_checkpoint.draw(config, SEED, "cpu")}


@pytest.fixture(scope="module")
def loaded(folders, tmp_path_factory):
    """What LOAD_WITH_UNSLOTH_CLASSES says of both folders. A process of its own: it patches transformers."""
    environment = {
        **os.environ,
        "UNSLOTH_ALLOW_CPU": "1",  # its GPU classes on a machine without a GPU
        "UNSLOTH_IS_PRESENT": "1",  # unsloth_zoo alone, without importing unsloth
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_DISABLE": "1",
        "UNSLOTH_COMPILE_LOCATION": str(tmp_path_factory.mktemp("unsloth_compiled_cache")),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-c", LOAD_WITH_UNSLOTH_CLASSES, *(str(folders[a]) for a in ATTENTIONS)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip(ATTENTIONS, json.loads(result.stdout.splitlines()[-1]), strict=True))


def is_nf4(name, attention):
    linear = ".experts." in name or (".self_attn." in name and attention == "4bit")
    return linear and name.endswith("_proj.weight" if ".self_attn." in name else ".weight")


def test_full_size_is_gpt_oss_20b():
    config = GptOssConfig.from_dict(synthetic_checkpoint.checkpoint_config(24, "4bit"))
    parameters = list(synthetic_checkpoint.parameters(config))
    # 20,914,757,184 is what Hugging Face counts for openai/gpt-oss-20b.
    assert sum(math.prod(parameter.shape) for parameter in parameters) == 20_914_757_184
    assert config.layer_types == ["sliding_attention", "full_attention"] * 12
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.rope_parameters["rope_theta"] == 150000
    shapes = {parameter.name: parameter.shape for parameter in parameters}
    assert shapes["model.layers.23.mlp.experts.gate_up_projs.31.weight"] == (5760, 2880)
    assert shapes["model.layers.23.mlp.experts.down_projs.31.weight"] == (2880, 2880)


def test_config_of_the_folder_is_read_back(folders, attention):
    config = AutoConfig.from_pretrained(folders[attention])
    assert {key: getattr(config, key) for key in TINY} == TINY
    assert config.dtype == torch.bfloat16
    quantization = config.quantization_config
    assert quantization["bnb_4bit_quant_type"] == "nf4"
    assert quantization["bnb_4bit_use_double_quant"] is True
    assert ("model.layers.*.self_attn" in quantization["llm_int8_skip_modules"]) == (attention == "16bit")


def test_unquantized_tensors_are_stored_bit_for_bit(stored, drawn, attention):
    names = [name for name in drawn if not is_nf4(name, attention)]
    assert "model.layers.0.mlp.router.linear.weight" in names
    for name in names:
        assert stored[name].dtype == torch.bfloat16
        assert torch.equal(stored[name], drawn[name]), name


def test_nf4_tensors_hold_the_drawn_weights(stored, drawn, attention):
    quantized = [name for name in drawn if is_nf4(name, attention)]
    assert len(quantized) == 2 * (2 * 4 + (4 if attention == "4bit" else 0))
    for name in quantized:
        parts = {key: value for key, value in stored.items() if key.startswith(f"{name}.")}
        assert stored[name].dtype == torch.uint8
        assert stored[name].shape == (drawn[name].numel() // 2, 1)
        state = bnb_functional.QuantState.from_dict(parts, device=torch.device("cpu"))
        assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
        assert (state.dtype, state.shape) == (torch.bfloat16, drawn[name].shape)
        error = (bnb_functional.dequantize_4bit(stored[name], state) - drawn[name]).float()
        # Half of NF4's widest step, 0.304 from -1 to -0.696, and the 8-bit error of the block maximum.
        block_max = drawn[name].float().view(-1, 64).abs().amax(dim=1, keepdim=True)
        assert (error.view(-1, 64).abs() <= 0.17 * block_max).all(), name
        # Normally distributed values in blocks of 64 come back with a relative error of about 9 %.
        assert error.std() / drawn[name].float().std() == pytest.approx(0.093, abs=0.02), name


def test_no_other_tensors_are_stored(stored, drawn, attention):
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
    of_nf4 = {f"{name}.{part}" for name in drawn if is_nf4(name, attention) for part in parts}
    assert set(stored) == set(drawn) | of_nf4


def test_shards_match_the_index(folders, attention):
    folder = folders[attention]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    assert len(files) >= 2
    tensors = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    assert set(tensors) == set(index["weight_map"])
    assert sum(tensor.nbytes for tensor in tensors.values()) == index["metadata"]["total_size"]
    for file in files:
        assert sum(tensors[name].nbytes for name, f in index["weight_map"].items() if f == file) <= SHARD_BYTES
        assert (folder / file).stat().st_mode & 0o444 == 0o444


def test_unsloth_classes_want_exactly_these_parameters(loaded, drawn, attention):
    expected = {name: (tuple(shape), dtype) for name, (shape, dtype) in loaded[attention]["expected"].items()}
    assert expected == {name: (tuple(values.shape), "torch.bfloat16") for name, values in drawn.items()}


def test_unsloth_classes_load_every_tensor(loaded, attention):
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    assert loaded[attention]["info"] == {kind: [] for kind in kinds}
    classes = loaded[attention]["classes"]
    assert classes["model.layers.0.mlp.experts.gate_up_projs.3"] == "Linear4bit"
    assert classes["model.layers.0.mlp.router.linear"] == "_RouterLinearParams"
    assert classes["lm_head"] == "Linear"
    for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
        want = "Linear4bit" if attention == "4bit" else "Linear"
        assert classes[f"model.layers.1.self_attn.{projection}"] == want


def test_loaded_attention_weight_is_the_drawn_one(loaded, drawn, attention):
    query = torch.tensor(loaded[attention]["query"])
    want = drawn["model.layers.1.self_attn.q_proj.weight"].float()
    if attention == "16bit":
        assert torch.equal(query, want)
    else:
        assert (query - want).std() / want.std() == pytest.approx(0.093, abs=0.02)


def test_loss_before_training_is_that_of_guessing(loaded, attention):
    # The variance of the logits, 1/4, adds half of itself to ln(vocabulary).
    assert loaded[attention]["loss"] == pytest.approx(math.log(512) + 1 / 8, abs=0.1)


def test_same_seed_same_values():
    config = GptOssConfig.from_dict(synthetic_checkpoint.checkpoint_config(1, "4bit", **TINY))
    first, again, other = (
        [values for _, values in synthetic_checkpoint.draw(config, seed, "cpu")] for seed in (1, 1, 2)
    )
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_arguments_that_are_refused(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text("{}")
    full = tmp_path / "full"
    full.mkdir()
    (full / "model.safetensors").touch()
    good = ["--output", str(tmp_path / "new"), "--tokenizer", str(tmp_path)]
    assert synthetic_checkpoint.parse_arguments(good).layers == 24
    for arguments, message in [
        (["--output", str(full), "--tokenizer", str(tmp_path)], "want a new or empty folder"),
        (["--output", str(tmp_path / "new"), "--tokenizer", str(full)], "no tokenizer.json there"),
        ([*good, "--layers", "0"], "want 1 or more"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            synthetic_checkpoint.parse_arguments(arguments)
        assert message in capsys.readouterr().err


def test_tokenizer_files_are_copied(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        (source / name).write_text(name)
    synthetic_checkpoint.copy_tokenizer(source, target)
    assert sorted(path.name for path in target.iterdir()) == ["chat_template.jinja", "tokenizer.json"]


def adapter(attention_b, expert_b):
    return {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 4),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.full((4, 2), attention_b),
        "base_model.model.model.layers.0.mlp.experts.down_projs.0.lora_B.weight": torch.full((4, 2), expert_b),
    }


def test_check_counts_trained_matrices():
    assert check_final_model.nonzero_lora_b(adapter(0.5, 0.5)) == (2, 2)
    assert check_final_model.nonzero_lora_b(adapter(0.5, 0.0)) == (1, 2)


@pytest.mark.parametrize("broken", [adapter(0.0, 0.5), adapter(math.nan, 0.5), adapter(0.5, math.inf), {}])
def test_check_refuses_an_untrained_or_broken_adapter(broken):
    with pytest.raises(ValueError, match=f"{0 if not broken else 2} LoRA B matrices"):
        check_final_model.nonzero_lora_b(broken)


def test_check_finds_tensors_that_were_not_loaded():
    saved = {"m.q_proj.lora_A.weight": torch.ones(2), "m.q_proj.lora_B.weight": torch.full((2,), 0.1)}
    loaded = {
        "m.q_proj.lora_A.weight": torch.ones(2),
        "m.q_proj.lora_B.weight": torch.full((2,), 0.1).bfloat16(),
    }
    assert check_final_model.unequal_tensors(saved, loaded) == []
    loaded["m.q_proj.lora_B.weight"] = torch.zeros(2)
    assert check_final_model.unequal_tensors(saved, loaded) == ["m.q_proj.lora_B.weight"]
    assert check_final_model.unequal_tensors(saved, {}) == list(saved)
