"""The tiny checkpoints have the architecture of the real models, tensor by tensor."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GptOssConfig

from gptoss_ft import tiny
from gptoss_ft.runtime import cache_folder
from gptoss_ft.tiny import model

Models: Any = AutoModelForCausalLM  # its annotations do not know output_loading_info

# What decides the names in openai/gpt-oss-20b's config.json.
REAL: dict[str, Any] = {
    "num_hidden_layers": 24,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
}
REAL_CONFIG_KEYS = {
    "architectures", "attention_bias", "attention_dropout", "eos_token_id", "experts_per_token", "head_dim",
    "hidden_act", "hidden_size", "initial_context_length", "initializer_range", "intermediate_size", "layer_types",
    "max_position_embeddings", "model_type", "num_attention_heads", "num_experts_per_tok", "num_hidden_layers",
    "num_key_value_heads", "num_local_experts", "output_router_logits", "pad_token_id", "rms_norm_eps",
    "rope_scaling", "rope_theta", "router_aux_loss_coef", "sliding_window", "swiglu_limit", "tie_word_embeddings",
    "use_cache", "vocab_size",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tiny_gpt_oss: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_gpt_oss / "model.safetensors")


@pytest.fixture(params=tiny.MODELS)
def folder(request: pytest.FixtureRequest) -> Path:
    return tiny.materialize(request.param, cache_folder())


@pytest.fixture
def tiny_24() -> Path:
    return tiny.materialize("tiny/gpt-oss-24", cache_folder())


def numberless(names: Any) -> set[str]:
    return {re.sub(r"layers\.\d+\.", "layers.N.", name) for name in names}


def test_the_tensors_are_those_of_the_real_gpt_oss(weights: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        real = Models.from_config(GptOssConfig(**REAL))
    assert numberless(weights) == numberless(real.state_dict())
    assert {name: tensor.dim() for name, tensor in weights.items()} == {
        name: tensor.dim() for name, tensor in real.state_dict().items() if name in weights
    }
    per_layer = Counter(found[0] for name in weights if (found := re.search(r"layers\.\d+\.", name)))
    assert per_layer == {"layers.0.": 17, "layers.1.": 17}


def test_with_24_layers_the_tensors_are_exactly_those_of_the_real_gpt_oss(tiny_24: Path) -> None:
    with torch.device("meta"):
        real = Models.from_config(GptOssConfig(**REAL))
    stored = load_file(tiny_24 / "model.safetensors")
    assert stored.keys() == real.state_dict().keys()
    assert AutoConfig.from_pretrained(tiny_24).layer_types == real.config.layer_types


def test_the_first_two_of_24_layers_are_those_of_two(weights: dict[str, torch.Tensor], tiny_24: Path) -> None:
    longer = load_file(tiny_24 / "model.safetensors")
    assert all(torch.equal(tensor, longer[name]) for name, tensor in weights.items())


def test_transformers_loads_every_tensor_and_misses_none(folder: Path) -> None:
    loaded, report = Models.from_pretrained(folder, output_loading_info=True)
    assert {kind: list(found) for kind, found in report.items()} == {
        "missing_keys": [],
        "unexpected_keys": [],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    assert loaded.dtype == torch.bfloat16
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in stored.items())


def test_the_first_loss_is_that_of_a_guess(folder: Path) -> None:
    """Log of the vocabulary, and a little more because the head is random: nothing is learnt, nothing is broken."""
    loaded = Models.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(512).reshape(4, 128)
    loss = loaded(input_ids=ids, labels=ids).loss.item()
    guess = torch.tensor(float(loaded.config.vocab_size)).log().item()
    assert guess < loss < guess + 1.5


def test_every_value_is_exact_in_every_float(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        assert tensor.dtype == torch.bfloat16, name
        assert torch.equal(tensor.float().half().float(), tensor.float()), name


def test_weights_are_spread_and_differ_between_tensors(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        half_range = model._half_range(name)
        if "norm" in name:
            assert (tensor == 1).all(), name
        else:
            assert tensor.float().abs().max() <= half_range, name
        if tensor.numel() >= 4096:
            assert abs(tensor.float().mean().item()) < 0.05 * half_range, name
            assert tensor.float().std().item() == pytest.approx(half_range / 3**0.5, rel=0.05), name
    first, second = (weights[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1))
    assert not torch.equal(first, second)


def test_the_config_has_the_keys_of_the_real_one(tiny_gpt_oss: Path) -> None:
    config = json.loads((tiny_gpt_oss / "config.json").read_text())
    assert config.keys() == REAL_CONFIG_KEYS | {"dtype"}
    read = AutoConfig.from_pretrained(tiny_gpt_oss)
    assert read.rope_parameters["rope_type"] == "yarn"
    assert read.rope_parameters["rope_theta"] == 150000
    assert read.layer_types == ["sliding_attention", "full_attention"]
    assert (read.router_aux_loss_coef, read.sliding_window) == (0.9, 32)


def test_the_vocabulary_covers_the_tokenizer(folder: Path) -> None:
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.vocab_size > len(tokenizer)
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_generation_stops_where_the_real_model_stops(tiny_gpt_oss: Path) -> None:
    tokenizer, generation = AutoTokenizer.from_pretrained(tiny_gpt_oss), GenerationConfig.from_pretrained(tiny_gpt_oss)
    assert tokenizer.convert_ids_to_tokens(generation.eos_token_id) == ["<|return|>", "<|endoftext|>", "<|call|>"]
    assert tokenizer.convert_ids_to_tokens(generation.bos_token_id) == "<|startoftext|>"
    assert tokenizer.convert_ids_to_tokens(generation.pad_token_id) == "<|endoftext|>"
