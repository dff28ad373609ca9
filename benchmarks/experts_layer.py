"""One layer of gpt-oss's 4-bit experts with their adapters, forward and backward: Unsloth's computation and ours.

    python benchmarks/experts_layer.py --model CHECKPOINT [--tokens 2048 16384] [--kernels 16]

CHECKPOINT: a 4-bit gpt-oss, such as `synthetic_checkpoint.py --layers 4` makes; its first layer is used. On a GPU.
Prints one JSON line for each number of tokens and way: median milliseconds of forward and backward, and the peak that
they added in GiB; and how far output and gradients of each are from float32, ‖found − wanted‖ / ‖wanted‖. With
--kernels also the kernels that took the longest, in milliseconds of one forward and backward pass.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, cast

from gptoss_ft.config import LoraSection, ModelSection, TrainingSection
from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment

ROUNDS = 10
WAYS = ("unsloth", "ours")


def measured(layer: Any, call: Any) -> tuple[float, float]:
    """Median milliseconds, and the GiB that were allocated beside what was there before."""
    import torch

    times, cuda = [], cast(Any, torch.cuda)
    for turn in range(ROUNDS + 3):
        if turn == 3:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:]), (torch.cuda.max_memory_allocated() - before) / 2**30


def longest_kernels(call: Any, number: int) -> None:
    """Print a line for each of the `number` kernels that `call` spends most time in: milliseconds, runs, name."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(ROUNDS):
            call()
        torch.cuda.synchronize()
    kernels = sorted(found.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    for kernel in kernels[:number]:
        spent = kernel.self_device_time_total / 1000 / ROUNDS
        print(f"  {spent:8.3f} ms {kernel.count / ROUNDS:6.1f} × {kernel.key[:110]}", flush=True)


def gradients(layer: Any, x: Any, towards: Any, indices: Any, weights: Any) -> dict[str, Any]:
    """Of one forward and backward pass: the output and every gradient, by name, float32."""
    x, weights = x.detach().clone().requires_grad_(), weights.detach().clone().requires_grad_()
    output = layer(x[None], indices, weights)[0]
    layer.zero_grad(set_to_none=True)
    (output.float() * towards).sum().backward()
    found = {"output": output.detach(), "x": x.grad, "router": weights.grad}
    found |= {name: own.grad for name, own in layer.named_parameters() if own.grad is not None}
    return {name: own.float().clone() for name, own in found.items()}


def reference(layer: Any, x: Any, towards: Any, indices: Any, weights: Any) -> dict[str, Any]:
    """The same in float32: transformers' experts on the dequantized weights, adapters folded in by autograd."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    x, weights = x.detach().float().requires_grad_(), weights.detach().float().requires_grad_()
    output = torch.zeros_like(x)
    stacks: dict[str, Any] = {}
    for name, own in layer.named_parameters():
        if own.requires_grad:
            stacks[name] = own.detach().float().requires_grad_()
    which = {
        (kind, letter): next(value for name, value in stacks.items() if kind in name and f"lora_{letter}" in name)
        for kind in ("gate_up", "down") for letter in "AB"
    }  # fmt: skip
    projections = {"gate_up": layer.gate_up_projs, "down": layer.down_projs}

    def weight(kind: str, expert: int) -> tuple[Any, Any]:
        wrapped = projections[kind][expert]
        base = wrapped.base_layer
        whole = dequantize_4bit(base.weight.data, base.weight.quant_state).float()
        a, b = which[kind, "A"][expert], which[kind, "B"][expert]
        return whole + wrapped.scaling["default"] * (b @ a), base.bias.float()

    for expert in range(len(layer.down_projs)):
        rows, _ = torch.where(indices == expert)
        if not len(rows):
            continue
        w, bias = weight("gate_up", expert)
        inner = x[rows] @ w.T + bias
        gate, up = inner[:, ::2].clamp(max=layer.limit), inner[:, 1::2].clamp(-layer.limit, layer.limit)
        w, bias = weight("down", expert)
        out = (gate * torch.sigmoid(layer.alpha * gate) * (up + 1)) @ w.T + bias
        output = output.index_add(0, rows, out * weights[rows, expert, None])
    (output * towards).sum().backward()
    found = {"output": output.detach(), "x": x.grad, "router": weights.grad}
    return {**found, **{name: own.grad for name, own in stacks.items()}}


def compare(model: Any, tokens: int, kernels: int) -> None:
    import torch

    from gptoss_ft.model import nf4_experts

    layer = next(filter(nf4_experts.is_split, model.modules())).train()
    torch.manual_seed(0)
    x = torch.randn(tokens, layer.hidden_size, device="cuda", dtype=torch.bfloat16)
    towards = torch.randn(tokens, layer.hidden_size, device="cuda")
    chances = torch.randn(tokens, layer.num_experts, device="cuda")
    # An expert that no token goes to, as there is one at times.
    chances[:, 0] = float("-inf")
    best = torch.topk(chances, 4)
    weights = torch.zeros(tokens, layer.num_experts, device="cuda").scatter(1, best.indices, best.values.softmax(1))
    weights = weights.to(torch.bfloat16)
    small = min(tokens, 512)
    few = (x[:small], towards[:small], best.indices[:small], weights[:small])
    wanted = reference(layer, *few)
    for way in WAYS:
        if way == "ours":
            nf4_experts.fuse_experts(model, print)
            assert nf4_experts.are_fused()
        found = gradients(layer, *few)
        off = {}
        for name in wanted:
            short = name.replace("base_model.", "").split(".0.")[0] + (
                "." + name.split("lora_")[1][0] if "lora_" in name else ""
            )
            norm = wanted[name].norm()
            picked = found[name] * (wanted[name] != 0) if name == "router" else found[name]
            off[short] = round(float((picked - wanted[name]).norm() / norm), 5)
        trained = x.detach().clone().requires_grad_()

        def forward(trained: Any = trained) -> Any:
            return layer(trained[None], best.indices, weights)

        def both(forward: Any = forward) -> None:
            (forward().float()[0] * towards).sum().backward()

        milliseconds, gib = measured(layer, both)
        with torch.no_grad():
            forward_only, _ = measured(layer, forward)
        held = torch.cuda.memory_allocated()
        output = forward()
        kept = (torch.cuda.memory_allocated() - held) / 2**20 / tokens * 1024
        del output
        print(json.dumps({
            "tokens": tokens, "way": way, "forward_ms": round(forward_only, 3), "both_ms": round(milliseconds, 3),
            "peak_gib": round(gib, 3), "kept_kib_a_token": round(kept, 1), "off": off,
        }), flush=True)  # fmt: skip
        if kernels:
            longest_kernels(both, kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 16384])
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="also print the N that took the longest")
    arguments = parser.parse_args()
    prepare_environment()
    device = find_device("cuda")
    import_unsloth(device)
    import torch

    from gptoss_ft.model import nf4_experts
    from gptoss_ft.model.loading import load_base
    from gptoss_ft.model.lora import attach

    config = ModelSection(name=str(arguments.model))
    model = attach(load_base(config, config.name, device, TrainingSection()), LoraSection(), device, TrainingSection())
    torch.manual_seed(1)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if own.requires_grad and "lora_B" in name:
                own.normal_(std=0.02)
    grouped = __import__("sys").modules[nf4_experts.GROUPED]
    original = grouped.grouped_qlora_forward
    for tokens in arguments.tokens:
        grouped.grouped_qlora_forward = original
        compare(model, tokens, arguments.kernels)


if __name__ == "__main__":
    main()
