"""What llama.cpp's converter and vLLM read of a model's folder, written down by hand from their sources.

llama.cpp: conversion/{base,gpt_oss,llama}.py and src/models/openai-moe.cpp as in llama-cpp-python 0.3.36 (gguf 0.19.0).
vLLM: vllm/model_executor/models/gpt_oss.py at a6b6cfaa, and what #45818 (2026-06) changed in it; llama.py of the same.
"""

from collections.abc import Mapping
from typing import Any, Literal

Loader = Literal["gguf", "vllm"]
Dimensions = Mapping[str, int]
Shapes = dict[str, tuple[int, ...]]

# Keys of config.json that a loader reads; those of rope lie in rope_parameters (transformers 5) or in rope_scaling.
COMMON = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "vocab_size",
)  # fmt: skip
KEYS: dict[str, dict[Loader, tuple[str, ...]]] = {
    "GptOssForCausalLM": {
        "gguf": (*COMMON, "head_dim", "num_local_experts", "num_experts_per_tok", "sliding_window"),
        "vllm": (*COMMON, "head_dim", "num_local_experts", "num_experts_per_tok", "sliding_window", "layer_types"),
    },
    "LlamaForCausalLM": {"gguf": COMMON, "vllm": (*COMMON, "hidden_act")},
}
ROPE_KEYS: dict[str, dict[Loader, tuple[str, ...]]] = {
    "GptOssForCausalLM": {
        "gguf": ("rope_theta", "rope_type", "factor", "original_max_position_embeddings"),
        "vllm": ("rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    },
    "LlamaForCausalLM": {"gguf": ("rope_theta",), "vllm": ("rope_theta",)},
}
# Numbers that the loader's own code holds, whatever config.json says.
FIXED: dict[str, dict[Loader, dict[str, Any]]] = {
    "GptOssForCausalLM": {
        "gguf": {"swiglu_limit": 7.0, "tie_word_embeddings": False},
        "vllm": {"swiglu_limit": 7.0, "rms_norm_eps": 1e-5, "attention_bias": True},
    },
    "LlamaForCausalLM": {"gguf": {}, "vllm": {"hidden_act": "silu"}},
}
FLOATS = ("BF16", "F16", "F32")


def expected_tensors(architecture: str, config: Mapping[str, Any]) -> Shapes:
    """The tensors that both loaders look for, with their shapes, for an architecture of `KEYS` and its config."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    sizes = {
        "hidden": hidden,
        "queries": heads * (config.get("head_dim") or hidden // heads),
        "keys": config["num_key_value_heads"] * (config.get("head_dim") or hidden // heads),
        "inner": config["intermediate_size"],
        "heads": heads,
        "experts": config.get("num_local_experts", 0),
    }
    of_layer = _gpt_oss_layer(sizes) if architecture == "GptOssForCausalLM" else _llama_layer(sizes, config)
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    return shapes


def _attention(sizes: Dimensions, bias: bool) -> Shapes:
    hidden, queries, keys = sizes["hidden"], sizes["queries"], sizes["keys"]
    weights: Shapes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    shapes: Shapes = {f"self_attn.{name}_proj.weight": shape for name, shape in weights.items()}
    if bias:
        shapes |= {f"self_attn.{name}_proj.bias": shape[:1] for name, shape in weights.items()}
    return shapes | {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}


def _gpt_oss_layer(sizes: Dimensions) -> Shapes:
    """Both take the experts as transformers holds them, fused and [experts, in, out], with gate and up interleaved."""
    experts, hidden, inner = sizes["experts"], sizes["hidden"], sizes["inner"]
    return _attention(sizes, bias=True) | {
        "self_attn.sinks": (sizes["heads"],),
        "mlp.router.weight": (experts, hidden),
        "mlp.router.bias": (experts,),
        "mlp.experts.gate_up_proj": (experts, hidden, 2 * inner),
        "mlp.experts.gate_up_proj_bias": (experts, 2 * inner),
        "mlp.experts.down_proj": (experts, inner, hidden),
        "mlp.experts.down_proj_bias": (experts, hidden),
    }


def _llama_layer(sizes: Dimensions, config: Mapping[str, Any]) -> Shapes:
    hidden, inner = sizes["hidden"], sizes["inner"]
    weights: Shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    shapes = _attention(sizes, bias=config.get("attention_bias", False))
    shapes |= {f"mlp.{name}_proj.weight": shape for name, shape in weights.items()}
    if config.get("mlp_bias", False):
        shapes |= {f"mlp.{name}_proj.bias": shape[:1] for name, shape in weights.items()}
    return shapes
