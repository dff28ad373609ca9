"""Derive merged weights of a gpt-oss a second time, expert by expert, and compare them with a merged folder.

    python benchmarks/check_merged.py --base FOLDER --adapter RUN/final_model --merged RUN/merged_model --layers 0 3

`--base` is a folder in the layout of `unsloth/gpt-oss-20b-unsloth-bnb-4bit`. A merged weight must be
base + scaling · B · A, rounded once to the merged folder's dtype: the report counts the values that differ from that,
and by how many units in the last place. Uses none of the package's code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb_functional
import torch
from safetensors import safe_open


class Tensors:
    """Tensors of all safetensors files of a folder, by name, read when asked for."""

    def __init__(self, folder: Path, device: str, stack: ExitStack) -> None:
        self._of: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            opened = stack.enter_context(safe_open(path, framework="pt", device=device))
            self._of |= dict.fromkeys(opened.keys(), opened)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._of[name].get_tensor(name)
        return tensor

    def weight(self, name: str) -> torch.Tensor:
        """A linear weight [out, in], float32, from 4 bits or 16."""
        state = f"{name}.quant_state.bitsandbytes__nf4"
        if state not in self:
            return self[name].float()
        parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
        packed = self[name]
        quantization = bnb_functional.QuantState.from_dict(
            {f"{part}": self[f"{name}.{part}"] for part in parts}, device=packed.device
        )
        return bnb_functional.dequantize_4bit(packed, quantization).float()


def expert_pairs(adapter: Tensors, layer: int, experts: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A [experts, r, in] and B [experts, out, r] of a layer's two expert projections, from PEFT's packing."""
    prefix = f"base_model.model.model.layers.{layer}.mlp.experts"
    found = {}
    for wrapper in (prefix, f"{prefix}.base_layer"):
        if f"{wrapper}.lora_A.weight" not in adapter:
            continue
        a, b = adapter[f"{wrapper}.lora_A.weight"].float(), adapter[f"{wrapper}.lora_B.weight"].float()
        rank = a.shape[0] // experts
        # gate and up together have twice the outputs of down, whose input is as wide as the model.
        name = "gate_up_proj" if b.shape[0] == 2 * a.shape[1] else "down_proj"
        found[name] = (
            torch.stack([a[e * rank : (e + 1) * rank] for e in range(experts)]),
            torch.stack([b[:, e::experts] for e in range(experts)]),
        )
    return found


def compared(base: Tensors, adapter: Tensors, merged: Tensors, layer: int, scaling: float) -> Iterator[dict[str, Any]]:
    """One report for each adapted weight of a layer."""
    attention = f"model.layers.{layer}.self_attn"
    for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = f"{attention}.{projection}"
        if f"base_model.model.{name}.lora_A.weight" in adapter:
            a, b = (adapter[f"base_model.model.{name}.lora_{letter}.weight"].float() for letter in "AB")
            wanted = base.weight(f"{name}.weight") + scaling * (b @ a)
            yield report(f"{name}.weight", merged[f"{name}.weight"], wanted)
    mlp = f"model.layers.{layer}.mlp.experts"
    experts = merged[f"{mlp}.down_proj"].shape[0]
    for projection, (a, b) in expert_pairs(adapter, layer, experts).items():
        held = merged[f"{mlp}.{projection}"]
        for expert in range(experts):
            wanted = base.weight(f"{mlp}.{projection}s.{expert}.weight") + scaling * (b[expert] @ a[expert])
            yield report(f"{mlp}.{projection}[{expert}]", held[expert], wanted.T)


def report(name: str, held: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    """How far `held` is from `wanted` (float32) rounded once to the dtype of `held`."""
    rounded = wanted.to(held.dtype)
    limits = torch.finfo(held.dtype)
    # |x| is 2 to the exponent times a mantissa from 1/2 to 1, so its binade begins at half that power.
    exponents = torch.frexp(rounded.float().abs().clamp(min=limits.tiny)).exponent
    spacing = torch.ldexp(torch.full_like(exponents, limits.eps, dtype=torch.float64), exponents - 1)
    apart = (held.double() - rounded.double()).abs() / spacing
    change = float((wanted - held.float()).abs().max())
    return {
        "name": name,
        "values": held.numel(),
        "different": int((held != rounded).sum()),
        "most_ulp": float(apart.max()),
        "largest_error": change,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("base", "adapter", "merged"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    config = json.loads((options.adapter / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    # A float32 product on tensor cores would round to ten bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    with ExitStack() as stack:
        base, adapter, merged = (
            Tensors(folder, options.device, stack) for folder in (options.base, options.adapter, options.merged)
        )
        reports = [one for layer in options.layers for one in compared(base, adapter, merged, layer, scaling)]
    for one in reports[:6]:
        print(json.dumps(one))
    total = {
        "weights": len(reports),
        "of_experts": sum("experts" in one["name"] for one in reports),
        "values": sum(one["values"] for one in reports),
        "different": sum(one["different"] for one in reports),
        "most_ulp": max(one["most_ulp"] for one in reports),
    }
    print(json.dumps(total))
    # One unit in the last place: the order of a float32 sum can turn a tie.
    if total["most_ulp"] > 1.01:
        raise SystemExit("check_merged: the merged weights are not base + scaling · B · A")


if __name__ == "__main__":
    main()
