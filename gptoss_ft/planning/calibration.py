"""What cannot be derived from a model's shapes: one table of coefficients, each with the measurement it comes from.

`python benchmarks/memory_model.py` prints the estimates that they make beside benchmarks/measured_peaks.json, where a
new measurement is added; tests/planning/test_memory.py holds them to it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Activations:
    """Of the bytes of one token's values in one layer (`memory.layer_bytes`): the shares of `attention` and `mlp` that
    are kept where the layer is not recomputed, and what comes to that of both while it is differentiated."""

    attention: float
    mlp: float
    at_work: float


@dataclass(frozen=True)
class MemoryCalibration:
    """All figures are of one H200, Unsloth 2026.10.9, torch 2.11; of gpt-oss-20b's shape, or the one that is named."""

    # Reserved before training, less weights and adapter: 12.16 − 11.66 − 0.34 (4-bit attention), 13.02 − 12.54 − 0.34.
    libraries_gib: float = 0.15
    # Unsloth's experts: 61.0 → 108.0 GiB from 8 to 16 samples of 1,024 tokens without recomputation; with it 16.7 →
    # 21.4 from 4 to 16 samples, and 17.9 at 1 × 8,192.
    experts: Activations = Activations(attention=1.40, mlp=1.40, at_work=1.05)
    # `model.fused_experts` at 16,384 tokens: 20.86, 34.49, 63.02 GiB with 2, 9, 24 layers that are not recomputed, of
    # the MLP it keeps gate and up alone, two fifths of the values. At work: 112.43 → 110.81 GiB at 32,768 tokens when
    # its values became kernels in Triton, 3.70 → 3.00 for one layer's experts at 16,384.
    fused_experts: Activations = Activations(attention=1.24, mlp=0.40, at_work=1.00)
    # Llama-3.2-3B's shape: 12.19 → 41.75 GiB from 4,096 to 18,432 tokens, 5.40 there with all layers recomputed.
    dense: Activations = Activations(attention=0.65, mlp=0.65, at_work=0.65)
    # Bytes of a logit in Unsloth's fused cross entropy: 40.1 − 39.3 GiB at 2 × 500 tokens of a model in 16 bits.
    logit_bytes: float = 4.0
    # Held by CUDA's allocator in holes, of activations and logits: 14.50 GiB of tensors in 14.61, 15.38 in 15.68.
    holes: float = 0.04
    # And holes of all kinds of sizes, most of them with short rows: 14.80 GiB at 1,024 and 15.10 at 512 tokens.
    holes_gib: float = 0.30


@dataclass(frozen=True)
class Pace:
    """How fast layers of a kind are: the seconds of one layer in one pass (forward, recomputation, backward) that pass
    whatever the row holds, most of them the host's; the share of the GPU's peak bf16 rate that matrix products reach;
    and what recomputing a layer comes to, as a share of its forward and backward pass together."""

    pass_seconds: float
    rate: float
    recomputed: float


@dataclass(frozen=True)
class SpeedCalibration:
    """On one H200 (989 TFLOP/s); a GPU is scaled by its bf16 rate and memory bandwidth. Good for about 15 % on one
    host; what a pass takes differs by up to two between hosts."""

    # Unsloth's experts: 1, 4, 16 × 1,024 tokens recomputed in 0.306, 0.480, 1.704 s, 8 and 16 × 1,024 without
    # recomputation in 0.645 and 1.199 s, and 4 × 1,024 with experts kept dequantized in 0.357 s.
    experts: Pace = Pace(pass_seconds=0.0022, rate=0.24, recomputed=0.33)
    # `model.fused_experts`, on another host: 32 × 1,024 tokens in 1.547 s; of samples of 630 on average 19,900 in
    # 1.054 s with experts kept and in 1.474 s with 23 layers recomputed, 2,650 in 0.342 s with experts kept, 2,341 in
    # 0.582 s with 23 layers recomputed and the embedding in the host's memory.
    fused_experts: Pace = Pace(pass_seconds=0.0045, rate=0.36, recomputed=0.46)
    # An assumption, not measured: a dense layer starts about a fifth of the kernels, and LoRA usually reaches this.
    dense: Pace = Pace(pass_seconds=0.0004, rate=0.40, recomputed=0.33)
    # An assumption: looking embeddings up on the host, for each micro-batch.
    offload_seconds: float = 0.01


MEMORY = MemoryCalibration()
SPEED = SpeedCalibration()
