"""What cannot be derived from a model's shapes: one table of coefficients, each with the measurement it comes from.

`python benchmarks/memory_model.py` prints the estimates that they make beside benchmarks/measured_peaks.json, where a
new measurement is added; tests/planning/test_memory.py holds them to it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryCalibration:
    """`saved` and `at_work` multiply the bytes of a token's values in one layer (`memory.layer_bytes`), `fused_at_work`
    what is counted of experts that are computed by `model.fused_experts`.

    All figures are of gpt-oss-20b's shape on one H200, Unsloth 2026.10.9, torch 2.11.
    """

    # Reserved before training, less weights and adapter: 12.16 − 11.66 − 0.34 (4-bit attention), 13.02 − 12.54 − 0.34.
    libraries_gib: float = 0.15
    # Kept of a layer that is not recomputed: 61.0 → 108.0 GiB from 8 to 16 samples of 1,024 tokens.
    saved: float = 1.40
    # A layer while it is recomputed and differentiated, what is kept of it included: 16.7 → 21.4 GiB from 4 to 16
    # samples of 1,024, and 17.9 at 1 × 8,192.
    at_work: float = 2.45
    # As it is read in model/fused_experts.py; not measured yet.
    fused_at_work: float = 1.0
    # Bytes of a logit in Unsloth's fused cross entropy: 40.1 − 39.3 GiB at 2 × 500 tokens of a model in 16 bits.
    logit_bytes: float = 4.0
    # Held by CUDA's allocator in holes, of activations and logits: 14.50 GiB of tensors in 14.61, 15.38 in 15.68.
    holes: float = 0.04
    # And holes of all kinds of sizes, at 1 × 1,024: 15.68 and 15.7 GiB, 14.76 and 15.65 with many lengths.
    holes_gib: float = 0.14


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
