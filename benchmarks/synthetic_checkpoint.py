"""Write a gpt-oss-20b with random weights in the pre-quantized 4-bit layout that Unsloth trains from.

    python benchmarks/synthetic_checkpoint.py --output /dev/shm/gpt-oss-20b --tokenizer TOKENIZER_FOLDER

The folder has the tensor names, shapes, dtypes and quantization of `unsloth/gpt-oss-20b-unsloth-bnb-4bit`,
so that speed and memory measured on it carry over to the real model, with no download. It generates noise.

Layout (unsloth_zoo 2026.10.9, temporary_patches/gpt_oss.py, GptOssExpertsBnb4bit and GptOssTopKRouter): each
expert is two linear layers of its own, `mlp.experts.gate_up_projs.N` and `mlp.experts.down_projs.N`, and the
router is `mlp.router.linear`. A name that differs is no error at load time: the weight is initialized at
random and training goes on, which is why the test compares the names with those classes.

Weights: a linear weight is drawn with standard deviation 1/sqrt(inputs) (0.0186 at width 2880), so that a
normalized input of any width gives outputs of about unit variance. `o_proj` and `down_proj` are divided by
sqrt(2 * layers), as in GPT-2, and embeddings have standard deviation 0.5, so that the residual stream still
carries the token at the last layer and stays far from overflow. `lm_head` is halved: logits then have
variance 1/4 and the loss of the untrained model is ln(vocabulary) + 1/8 = 12.34, which LoRA can lower.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bitsandbytes.functional as bnb_functional
import torch
from safetensors.torch import save_file
from transformers import GptOssConfig
from transformers.quantizers.quantizers_utils import should_convert_module

Attention = Literal["4bit", "16bit"]

# config.json and generation_config.json of openai/gpt-oss-20b. Left out: the number of layers and their
# types, an argument here, and quantization_config, MXFP4 there. Added: dtype, that of unquantized tensors.
GPT_OSS_20B: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "dtype": "bfloat16",
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    # Without a version, transformers 5.17 takes a local tokenizer for Mistral's and warns of a wrong regex.
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}
GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
    "transformers_version": "4.55.0.dev0",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

NF4_BLOCK_SIZE = 64
SHARD_BYTES = 2 * 10**9  # several shards are written at once while the next layers are drawn
WRITERS = 4
EMBEDDING_STD = 0.5
BIAS_STD = 0.02  # not zero, so that a bias that fails to load changes the outputs
LM_HEAD_SCALE = 0.5


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model before quantization. `linear`: it is the weight of a `torch.nn.Linear`."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0
    linear: bool = False


@dataclass(frozen=True)
class Written:
    """What `write_checkpoint` wrote: sizes in bytes of tensor data."""

    bytes: int
    tensors: int
    shards: int


def checkpoint_config(layers: int, attention: Attention, **overrides: Any) -> dict[str, Any]:
    """Return config.json of the checkpoint; `overrides` replace values of the architecture (tests use them).

    `llm_int8_skip_modules` follows transformers 5.17 (quantizers_utils.should_convert_module): an entry names
    a module when it matches the start of its full name, as a regular expression, or equals its end. A plain
    "self_attn" does neither for `model.layers.0.self_attn.q_proj`, so attention needs the expression.
    """
    skip_modules = ["router", "embed_tokens", "lm_head"]
    if attention == "16bit":
        skip_modules.append("model.layers.*.self_attn")
    return {
        **GPT_OSS_20B,
        "num_hidden_layers": layers,
        "layer_types": [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)],
        "quantization_config": {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": skip_modules,
            "llm_int8_threshold": 6.0,
        },
        **overrides,
    }


def parameters(config: GptOssConfig) -> Iterator[Parameter]:
    """Yield every parameter of the model, shapes as in `torch.nn.Linear`: (outputs, inputs)."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    yield Parameter("model.embed_tokens.weight", (vocabulary, hidden), EMBEDDING_STD)
    for layer in range(config.num_hidden_layers):
        yield from _layer_parameters(config, f"model.layers.{layer}")
    yield Parameter("model.norm.weight", (hidden,), std=0.0, mean=1.0)
    yield Parameter("lm_head.weight", (vocabulary, hidden), LM_HEAD_SCALE / math.sqrt(hidden), linear=True)


def _layer_parameters(config: GptOssConfig, layer: str) -> Iterator[Parameter]:
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    residual_scale = 1 / math.sqrt(2 * config.num_hidden_layers)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield Parameter(f"{layer}.{norm}.weight", (hidden,), std=0.0, mean=1.0)
    yield Parameter(f"{layer}.self_attn.sinks", (config.num_attention_heads,), config.initializer_range)
    yield from _linear(f"{layer}.self_attn.q_proj", queries, hidden)
    yield from _linear(f"{layer}.self_attn.k_proj", keys, hidden)
    yield from _linear(f"{layer}.self_attn.v_proj", keys, hidden)
    yield from _linear(f"{layer}.self_attn.o_proj", hidden, queries, residual_scale)
    # Not a torch.nn.Linear in Unsloth's class, so that bitsandbytes leaves it in 16 bit.
    yield Parameter(f"{layer}.mlp.router.linear.weight", (experts, hidden), 1 / math.sqrt(hidden))
    yield Parameter(f"{layer}.mlp.router.linear.bias", (experts,), BIAS_STD)
    for expert in range(experts):
        yield from _linear(f"{layer}.mlp.experts.gate_up_projs.{expert}", 2 * inner, hidden)
        yield from _linear(f"{layer}.mlp.experts.down_projs.{expert}", hidden, inner, residual_scale)


def _linear(module: str, outputs: int, inputs: int, scale: float = 1.0) -> Iterator[Parameter]:
    yield Parameter(f"{module}.weight", (outputs, inputs), scale / math.sqrt(inputs), linear=True)
    yield Parameter(f"{module}.bias", (outputs,), BIAS_STD)


def draw(config: GptOssConfig, seed: int, device: str | torch.device) -> Iterator[tuple[Parameter, torch.Tensor]]:
    """Yield each parameter with its bfloat16 values: the same ones for the same seed and kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in parameters(config):
        values = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        yield parameter, values.normal_(parameter.mean, parameter.std, generator=generator)


def stored_tensors(parameter: Parameter, values: torch.Tensor, skip_modules: list[str]) -> dict[str, torch.Tensor]:
    """Return the CPU tensors that hold one parameter in the checkpoint.

    A linear weight that `skip_modules` does not name becomes NF4 with double quantization, in the six tensors
    of bitsandbytes' `Linear4bit` state dict: `weight` (uint8, two values a byte, shape (elements / 2, 1)) and
    the parts of its `QuantState` under `weight.`. Anything else is stored as it is.
    """
    if not (parameter.linear and should_convert_module(parameter.name.removesuffix(".weight"), skip_modules)):
        return {parameter.name: values.to("cpu", copy=True)}
    packed, state = bnb_functional.quantize_4bit(
        values,
        blocksize=NF4_BLOCK_SIZE,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.uint8,
    )
    parts = {f"{parameter.name}.{key}": part for key, part in state.as_dict(packed=True).items()}
    # Copied even from the CPU: bitsandbytes shares one quantization map, safetensors refuses shared memory.
    return {name: part.to("cpu", copy=True) for name, part in ({parameter.name: packed} | parts).items()}


class ShardWriter:
    """Collects tensors and writes them in the background as safetensors files of about `shard_bytes` each."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self._bytes = 0
        self._pool = ThreadPoolExecutor(WRITERS)
        self._jobs: list[Future[None]] = []

    def add(self, tensors: dict[str, torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._pending_bytes + size > self._shard_bytes:
            self._flush()
        self._pending |= tensors
        self._pending_bytes += size

    def close(self) -> Written:
        """Wait for the writes, give the shards their final names and write the index."""
        self._flush()
        self._pool.shutdown(wait=True)
        for job in self._jobs:
            job.result()
        total = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards, start=1):
            final = f"model-{number:05}-of-{total:05}.safetensors"
            path = self._unfinished(number).rename(self._folder / final)
            path.chmod(0o644)  # safetensors writes 0600, which a training container's user could not read
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self._bytes}, "weight_map": weight_map}
        write_json(self._folder / "model.safetensors.index.json", index)
        return Written(bytes=self._bytes, tensors=len(weight_map), shards=total)

    def _flush(self) -> None:
        tensors, self._pending = self._pending, {}
        self._bytes += self._pending_bytes
        self._pending_bytes = 0
        self._shards.append(list(tensors))
        path = self._unfinished(len(self._shards))
        # transformers refuses a safetensors file whose metadata does not say which framework wrote it.
        self._jobs.append(self._pool.submit(save_file, tensors, path, {"format": "pt"}))

    def _unfinished(self, number: int) -> Path:
        """The number of shards, a part of their names, is known only at the end."""
        return self._folder / f"unfinished-{number:05}.safetensors"


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    seed: int = 0,
    device: str | torch.device = "cuda",
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write config.json, generation_config.json and the sharded weights into the empty `folder`."""
    model_config = GptOssConfig.from_dict(config)
    skip_modules: list[str] = config["quantization_config"]["llm_int8_skip_modules"]
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    writer = ShardWriter(folder, shard_bytes)
    for parameter, values in draw(model_config, seed, device):
        writer.add(stored_tensors(parameter, values, skip_modules))
    return writer.close()


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files; a tokenizer without a chat template file is allowed."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write: new or empty")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with gpt-oss's tokenizer.json")
    parser.add_argument("--layers", type=int, default=24, help="gpt-oss-20b has 24")
    parser.add_argument("--attention", choices=["4bit", "16bit"], default="4bit", help="attention weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="draws and quantizes")
    options = parser.parse_args(arguments)
    if options.layers < 1:
        parser.error(f"--layers {options.layers}: want 1 or more")
    if not (options.tokenizer / "tokenizer.json").is_file():
        parser.error(f"--tokenizer {options.tokenizer}: no tokenizer.json there")
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        # A file left from an earlier checkpoint can win over the new ones at load time.
        parser.error(f"--output {options.output}: want a new or empty folder")
    return options


def main() -> None:
    options = parse_arguments()
    started = time.perf_counter()
    config = checkpoint_config(options.layers, options.attention)
    options.output.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(options.tokenizer, options.output)
    written = write_checkpoint(options.output, config, options.seed, options.device)
    report = {
        "output": str(options.output),
        "layers": options.layers,
        "attention": options.attention,
        "seed": options.seed,
        "gib": round(written.bytes / 2**30, 2),
        "tensors": written.tensors,
        "shards": written.shards,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
