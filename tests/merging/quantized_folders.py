"""The tiny models in the layouts that published checkpoints have, each with the 16-bit values that it stands for."""

import json
import shutil
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def nf4(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """A weight [out, in] as bitsandbytes stores it, and dequantized."""
    packed, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True)
    parts = {f"{name}.{key}": part.clone() for key, part in state.as_dict(packed=True).items()}
    return {name: packed, **parts}, dequantize_4bit(packed, state)


def split_4bit(source: Path, folder: Path) -> Tensors:
    """Write the gpt-oss in `source` as Unsloth publishes it in 4 bits; return its stock tensors, dequantized."""
    stored: Tensors = {}
    values = load_file(source / "model.safetensors")
    for name, tensor in list(values.items()):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts = []
            for number, expert in enumerate(tensor):
                parts, dequantized = nf4(f"{name}s.{number}.weight", expert.T)
                stored |= parts
                experts.append(dequantized.T)
            values[name] = torch.stack(experts)
        elif name.endswith(("gate_up_proj_bias", "down_proj_bias")):
            module = name.removesuffix("_bias")
            stored |= {f"{module}s.{number}.bias": bias.clone() for number, bias in enumerate(tensor)}
        elif ".router." in name:
            stored[name.replace(".router.", ".router.linear.")] = tensor
        elif name.endswith("proj.weight"):
            parts, values[name] = nf4(name, tensor)
            stored |= parts
        else:
            stored[name] = tensor
    _write(source, folder, stored, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    return values


def mxfp4(source: Path, folder: Path) -> None:
    """Write the gpt-oss in `source` with experts of random MXFP4 blocks [experts, out, in / 32, 16]."""
    stored = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name in [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = stored.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 124, shape, generator=generator, dtype=torch.uint8)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    _write(source, folder, stored, {"quant_method": "mxfp4", "modules_to_not_convert": kept})


def _write(source: Path, folder: Path, stored: Tensors, quantization: dict[str, object]) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    # Two files, as published models have more than one.
    names = sorted(stored)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in halves.items():
        save_file({name: stored[name].contiguous() for name in some}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, some in halves.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
