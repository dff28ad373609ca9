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
    # `model.fused_experts` at 16,384 tokens: 20.86, 34.49, 63.02 GiB with 2, 9, 24 layers that are not recomputed, and
    # 24.33 at 32,768 with none. Of the MLP it keeps gate and up alone, two fifths of the values.
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
class SpeedCalibration:
    """Seconds, on one H200; a GPU is scaled by its bf16 rate and memory bandwidth. Good for about 15 %.

    Fitted to a micro-batch of 1, 4, 16 × 1,024 tokens recomputed in 0.306, 0.480, 1.704 s, of 8 and 16 × 1,024 without
    recomputation in 0.645 and 1.199 s, and of 4 × 1,024 with experts kept dequantized in 0.357 s.
    """

    # The host's share of one layer in one pass (forward, recomputation, backward), whatever the row holds.
    moe_layer_pass_seconds: float = 0.0022
    # An assumption, not measured: a dense layer starts about a fifth of the kernels.
    dense_layer_pass_seconds: float = 0.0004
    # Share of the GPU's peak bf16 rate (989 TFLOP/s) that matrix products reach.
    moe_rate: float = 0.24
    # An assumption: what LoRA on dense models usually reaches.
    dense_rate: float = 0.40
    # A recomputed layer's forward pass again, of its forward and backward pass together.
    recomputed_share: float = 0.33
    # An assumption: looking embeddings up on the host, for each micro-batch.
    offload_seconds: float = 0.01


MEMORY = MemoryCalibration()
SPEED = SpeedCalibration()
