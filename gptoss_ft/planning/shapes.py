"""A model's sizes from its config.json alone: how many parameters it has of each kind, and how they are held.

Nothing here imports torch or transformers. tests/planning/test_shapes.py compares the counts with real modules.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import DataError
from gptoss_ft.hub_errors import explained

Held = Literal["nf4", "mxfp4", "whole"]
Linear = tuple[int, int]  # in, out

# Of bitsandbytes' NF4 with double quantization: a byte of absmax to a block, four bytes to a block of those.
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
# Of MXFP4: a byte of scale to a block.
MXFP4_BLOCK = 32
# Bytes of a value in the formats of `model.dtype`; auto computes in 16 bits.
BYTES = {"float32": 4}
NORMS_OF_A_LAYER = {"gemma2": 4, "gemma3_text": 4}
NORMED_HEADS = ("qwen3", "gemma3_text")
TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text")
# Of which models samples can lie in one row without seeing each other (`model.attention.can_pack`, which needs torch).
PACKABLE = ("gpt_oss", "llama", "mistral", "qwen2", "qwen3")
LLAMA_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")


@dataclass(frozen=True)
class ModelShapes:
    """What config.json says of a decoder: widths in values, and what holds its weights in the job.

    `experts` is 0 for a dense model, whose `intermediate` is that of its one MLP. `experts_held` is what holds the
    MLP's weights; embedding, head, router, norms and biases are held whole. `whole_bytes` are those of a value that
    is not quantized, which is also that of the computation.
    """

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    experts_per_token: int
    vocabulary: int
    tie_word_embeddings: bool
    sliding_window: int | None
    layer_types: tuple[str, ...]
    biased: frozenset[str]
    attention_dropout: float
    attention_held: tuple[Held, ...]
    experts_held: tuple[Held, ...]
    whole_bytes: int

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @cached_property
    def attention_linears(self) -> dict[str, Linear]:
        """(in, out) of one layer's attention projections."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
        }

    @cached_property
    def mlp_linears(self) -> dict[str, Linear]:
        """(in, out) of the projections of one expert, or of a dense layer's MLP; gpt-oss fuses gate and up."""
        if self.is_moe:
            return {"gate_up_proj": (self.hidden, 2 * self.intermediate), "down_proj": (self.intermediate, self.hidden)}
        up = (self.hidden, self.intermediate)
        return {"gate_proj": up, "up_proj": up, "down_proj": (self.intermediate, self.hidden)}

    @property
    def mlps(self) -> int:
        """MLPs in a layer: its experts, or one."""
        return max(self.experts, 1)

    @property
    def attention_weights_of_a_layer(self) -> int:
        return _weights(self.attention_linears)

    @property
    def mlp_weights_of_a_layer(self) -> int:
        return self.mlps * _weights(self.mlp_linears)

    def parameters(self) -> dict[str, int]:
        """Parameters by kind, over all layers: embedding, attention (biases and sinks included), experts (or the dense
        MLP; biases included), router, norms and lm_head (0 where it is the embedding)."""
        is_moe, layers = self.is_moe, self.layers
        sinks = self.heads if self.kind == "gpt_oss" else 0
        normed_heads = 2 * self.head_dim if self.kind in NORMED_HEADS else 0
        return {
            "embedding": self.vocabulary * self.hidden,
            "attention": layers * (self.attention_weights_of_a_layer + self._biases(self.attention_linears) + sinks),
            "experts": layers * (self.mlp_weights_of_a_layer + self.mlps * self._biases(self.mlp_linears)),
            "router": layers * self.experts * (self.hidden + 1) if is_moe else 0,
            "norms": layers * (NORMS_OF_A_LAYER.get(self.kind, 2) * self.hidden + normed_heads) + self.hidden,
            "lm_head": 0 if self.tie_word_embeddings else self.vocabulary * self.hidden,
        }

    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with; the embedding is looked up."""
        mlp = max(self.experts_per_token, 1) * _weights(self.mlp_linears) + self.experts * self.hidden
        return self.layers * (self.attention_weights_of_a_layer + mlp) + self.vocabulary * self.hidden

    def weight_bytes(self) -> float:
        """Bytes of the base model's weights as the job holds them."""
        linears = sum(held_bytes(self.attention_weights_of_a_layer, held, self) for held in self.attention_held)
        linears += sum(held_bytes(self.mlp_weights_of_a_layer, held, self) for held in self.experts_held)
        in_linears = self.layers * (self.attention_weights_of_a_layer + self.mlp_weights_of_a_layer)
        return linears + (sum(self.parameters().values()) - in_linears) * self.whole_bytes

    def embedding_bytes(self) -> int:
        return self.vocabulary * self.hidden * self.whole_bytes

    def dequantized_layer_bytes(self) -> int:
        """Bytes of one layer's MLP weights dequantized for the computation; 0 where they are held whole."""
        return 0 if set(self.experts_held) == {"whole"} else self.mlp_weights_of_a_layer * self.whole_bytes

    def dequantized_at_once_bytes(self) -> int:
        """Of those, what is there at once: all experts of a layer, but of a dense MLP one projection."""
        if self.is_moe or not self.dequantized_layer_bytes():
            return self.dequantized_layer_bytes()
        return max(inputs * outputs for inputs, outputs in self.mlp_linears.values()) * self.whole_bytes

    def dequantized_by_fused_experts_bytes(self) -> int:
        """Of those, what is there at once where experts are computed by `model.fused_experts`: one projection's."""
        return self.experts * max(inputs * outputs for inputs, outputs in self.mlp_linears.values()) * self.whole_bytes

    def _biases(self, linears: Mapping[str, Linear]) -> int:
        return sum(out for name, (_, out) in linears.items() if name in self.biased)


def held_bytes(values: int, held: Held, shapes: ModelShapes) -> float:
    """Bytes of so many weights of linear layers."""
    if held == "nf4":
        blocks = values / NF4_BLOCK
        return values / 2 + blocks + 4 * blocks / NF4_NESTED_BLOCK
    if held == "mxfp4":
        return values / 2 + values / MXFP4_BLOCK
    return values * shapes.whole_bytes


def _weights(linears: Mapping[str, Linear]) -> int:
    return sum(inputs * outputs for inputs, outputs in linears.values())


def read_shapes(job: JobConfig, repository: str) -> ModelShapes | None:
    """The shapes of the model in `repository` (folder or hub id); None for an architecture that is not known here.

    Of a hub repository one file is downloaded. `HubError` where the hub does not give it, `DataError` for one that is
    broken or lacks a size.
    """
    with explained(repository, "model.name"):
        path = _config_file(job, repository)
    try:
        return shapes_of(json.loads(path.read_text(encoding="utf-8")), job)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"{repository} has no config.json that can be read: {type(error).__name__}: {error}",
            "Download the model again, or name one that is whole.",
            key="model.name",
        ) from None


def _config_file(job: JobConfig, repository: str) -> Path:
    if Path(repository).is_dir():
        return Path(repository) / "config.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, "config.json", revision=job.model.revision))


def shapes_of(config: Mapping[str, Any], job: JobConfig) -> ModelShapes | None:
    """The shapes that a config.json gives; None for an architecture that is not known here."""
    kind = config.get("model_type", "")
    if kind not in (*LLAMA_TYPES, "gpt_oss"):
        return None
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    attention_held, experts_held = _held(config, job.model.load_in_4bit, layers)
    default_tie = kind in TIED_BY_DEFAULT
    return ModelShapes(
        kind=kind,
        layers=layers,
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        experts=config.get("num_local_experts", 0) if kind == "gpt_oss" else 0,
        experts_per_token=config.get("num_experts_per_tok", 0) if kind == "gpt_oss" else 0,
        vocabulary=config["vocab_size"],
        tie_word_embeddings=config.get("tie_word_embeddings", default_tie),
        sliding_window=config.get("sliding_window"),
        layer_types=tuple(config.get("layer_types") or ("full_attention",) * layers),
        biased=_biased(config, kind),
        attention_dropout=config.get("attention_dropout") or 0.0,
        attention_held=attention_held,
        experts_held=experts_held,
        whole_bytes=BYTES.get(job.model.dtype, 2),
    )


def _biased(config: Mapping[str, Any], kind: str) -> frozenset[str]:
    """Names of the projections that have a bias."""
    names: tuple[str, ...] = ()
    if config.get("attention_bias", kind == "gpt_oss") and kind != "qwen2":
        names += ("q_proj", "k_proj", "v_proj", "o_proj")
    if kind == "qwen2":
        names += ("q_proj", "k_proj", "v_proj")
    if kind == "gpt_oss":
        names += ("gate_up_proj", "down_proj")
    if config.get("mlp_bias"):
        names += ("gate_proj", "up_proj", "down_proj")
    return frozenset(names)


def _held(config: Mapping[str, Any], in_4bit: bool, layers: int) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
    """What holds the attention and the MLP of each layer, as Unsloth 2026.10.9 loads them."""
    quantization = config.get("quantization_config") or {}
    if quantization.get("quant_method") == "mxfp4":
        # `model.load_in_4bit` keeps experts packed (UNSLOTH_MXFP4_KEEP_PACKED); attention stays in 16 bits.
        return _everywhere("whole", layers), _everywhere("mxfp4" if in_4bit else "whole", layers)
    if not in_4bit and not quantization:
        return _everywhere("whole", layers), _everywhere("whole", layers)
    skipped = [entry.split(".") for entry in quantization.get("llm_int8_skip_modules") or ()]

    def held(layer: int, module: str) -> Held:
        path = ["model", "layers", str(layer), module]
        inside = any(path[at : at + len(part)] == part for part in skipped for at in range(len(path)))
        return "whole" if inside else "nf4"

    return (
        tuple(held(layer, "self_attn") for layer in range(layers)),
        tuple(held(layer, "mlp") for layer in range(layers)),
    )


def _everywhere(held: Held, layers: int) -> tuple[Held, ...]:
    return (held,) * layers
