"""Checkpoints small enough for a test: a gpt-oss and a llama of two layers, and a gpt-oss of 24.

Tensor names, shapes and order of axes are those of transformers 5.17 (`GptOssForCausalLM`, `LlamaForCausalLM`); the
gpt-oss config has the keys of openai/gpt-oss-20b's config.json, without its quantization. A weight is a function of
its tensor's name: SHAKE-256 of the name gives one signed byte for each element, times a power of two. So no random
generator of a library is asked (torch's differ between CPUs), tensors do not depend on one another, and every value
is exact in bfloat16, float16 and float32, which lets tests ask for equality after a conversion.
"""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize

from gptoss_ft.tiny.tokenizer import CHATML, HARMONY, MAX_LENGTH, SpecialTokens

HIDDEN = 64
INTERMEDIATE = 64
LAYERS = 2
# As many as gpt-oss-20b has, for configs that name layers.
REAL_LAYERS = 24
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 16
EXPERTS = 4
EXPERTS_PER_TOKEN = 2
# Above the tokenizer's length, as in the real model (201,088 rows for 200,019 tokens).
GPT_OSS_VOCABULARY = 1088
LLAMA_VOCABULARY = 1024

Shapes = dict[str, tuple[int, ...]]


def gpt_oss_files(layers: int = LAYERS) -> dict[str, bytes]:
    """The model files of tiny/gpt-oss, or of one with so many layers."""
    generation = {
        "bos_token_id": HARMONY.id_of("<|startoftext|>"),
        "do_sample": True,
        "eos_token_id": [HARMONY.id_of(name) for name in ("<|return|>", "<|endoftext|>", "<|call|>")],
        "pad_token_id": HARMONY.id_of("<|endoftext|>"),
    }
    return _files(gpt_oss_config(layers), generation, gpt_oss_shapes(layers))


def llama_files(special: SpecialTokens = CHATML) -> dict[str, bytes]:
    """The model files of tiny/llama, or of one with other special tokens."""
    generation = {
        "do_sample": True,
        "eos_token_id": special.id_of(special.eos),
        "pad_token_id": special.id_of(special.pad),
    }
    return _files(llama_config(special), generation, llama_shapes())


def gpt_oss_config(layers: int = LAYERS) -> dict[str, Any]:
    """Sliding and full layers in turn; a window and an original context shorter than the rows, so that both matter."""
    original_context = 128
    yarn_factor = 32
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": HARMONY.id_of(HARMONY.eos),
        "experts_per_token": EXPERTS_PER_TOKEN,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initial_context_length": original_context,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)],
        "max_position_embeddings": original_context * yarn_factor,
        "model_type": "gpt_oss",
        "num_attention_heads": HEADS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "num_local_experts": EXPERTS,
        "output_router_logits": False,
        "pad_token_id": HARMONY.id_of(HARMONY.pad),
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": float(yarn_factor),
            "original_max_position_embeddings": original_context,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 32,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": GPT_OSS_VOCABULARY,
    }


def gpt_oss_shapes(layers: int = LAYERS) -> Shapes:
    """Every tensor of the checkpoint: 17 a layer, and 3 around them."""
    shapes = _shell(GPT_OSS_VOCABULARY, layers)
    for layer in range(layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        for projection, (rows, columns) in _attention().items():
            shapes[f"{attention}.{projection}.weight"] = (rows, columns)
            shapes[f"{attention}.{projection}.bias"] = (rows,)
        shapes |= {
            f"{attention}.sinks": (HEADS,),
            f"{mlp}.router.weight": (EXPERTS, HIDDEN),
            f"{mlp}.router.bias": (EXPERTS,),
            f"{mlp}.experts.gate_up_proj": (EXPERTS, HIDDEN, 2 * INTERMEDIATE),
            f"{mlp}.experts.gate_up_proj_bias": (EXPERTS, 2 * INTERMEDIATE),
            f"{mlp}.experts.down_proj": (EXPERTS, INTERMEDIATE, HIDDEN),
            f"{mlp}.experts.down_proj_bias": (EXPERTS, HIDDEN),
        }
    return shapes


def llama_config(special: SpecialTokens = CHATML) -> dict[str, Any]:
    """A dense model of the same width, for the paths that are not gpt-oss's."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": special.id_of(special.eos),
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * INTERMEDIATE,
        "max_position_embeddings": MAX_LENGTH,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": special.id_of(special.pad),
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": LLAMA_VOCABULARY,
    }


def llama_shapes() -> Shapes:
    """Every tensor of the checkpoint: 9 a layer, and 3 around them."""
    shapes = _shell(LLAMA_VOCABULARY, LAYERS)
    for layer in range(LAYERS):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        shapes |= {f"{attention}.{projection}.weight": shape for projection, shape in _attention().items()}
        shapes |= {
            f"{mlp}.gate_proj.weight": (2 * INTERMEDIATE, HIDDEN),
            f"{mlp}.up_proj.weight": (2 * INTERMEDIATE, HIDDEN),
            f"{mlp}.down_proj.weight": (HIDDEN, 2 * INTERMEDIATE),
        }
    return shapes


def _shell(vocabulary: int, layers: int) -> Shapes:
    shapes: Shapes = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(layers):
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"model.layers.{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
    return shapes


def _attention() -> Shapes:
    """Weight shapes [out, in] of the attention projections."""
    return {
        "q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "o_proj": (HIDDEN, HEADS * HEAD_DIM),
    }


def _files(config: dict[str, Any], generation: dict[str, Any], shapes: Shapes) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(config, indent=2).encode(),
        "generation_config.json": json.dumps(generation, indent=2).encode(),
        "model.safetensors": _safetensors({name: _weight(name, shape) for name, shape in shapes.items()}),
    }


def _safetensors(weights: dict[str, NDArray[np.uint16]]) -> bytes:
    # numpy has no bfloat16, so safetensors.numpy cannot write one; the layer below takes the bits where they lie.
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in weights.items()
    }
    # transformers refuses a file that does not say which framework wrote it.
    return bytes(serialize(specs, {"format": "pt"}))


def _weight(name: str, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """A tensor as bfloat16 bits: ones for a norm, else uniform in [-half_range, half_range)."""
    if "norm" in name:
        values = np.ones(shape, dtype=np.float32)
    else:
        stream = hashlib.shake_256(name.encode()).digest(int(np.prod(shape)))
        steps = np.frombuffer(stream, dtype=np.int8).reshape(shape)
        values = steps.astype(np.float32) * np.float32(_half_range(name) / 128)
    # A bfloat16 is the upper half of a float32, and the lower half of these is zero. Always little-endian in the file.
    return (values.view(np.uint32) >> 16).astype("<u2")


def _half_range(name: str) -> float:
    """Half the width of a tensor's distribution, a power of two.

    Embeddings stand well above what two layers add, and the head is wide enough that turning the last hidden state
    (RMS 1, 64 values) towards a token's row can make that token certain: what an adapter alone can learn depends on
    that, because embeddings and head stay frozen.
    """
    if name == "model.embed_tokens.weight":
        return 1.0
    if name.endswith(("bias", "sinks")):
        return 0.0625
    return 0.25
