"""Expected peak of the GPU's memory, by part, from shapes, job and plan.

The peak is the most that CUDA's allocator reserves; CUDA's own context is not in it. What stays through the step is
added up, and of what comes and goes the largest counts: the loss's logits, or the layer that is differentiated.
"""

import math
from dataclasses import dataclass, fields

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.adapter_size import trained_values
from gptoss_ft.planning.calibration import MEMORY, MemoryCalibration
from gptoss_ft.planning.experts import can_fuse
from gptoss_ft.planning.shapes import ModelShapes
from gptoss_ft.runtime import GIB

# Bytes of optimizer state for a trained value; 8-bit ones hold two bytes and float32 absmax for blocks of 256. Paged
# ones lie in memory that CUDA moves to the host, which its allocator does not count.
OPTIMIZER_BYTES = {
    "adamw_8bit": 2 + 2 * 4 / 256,
    "paged_adamw_8bit": 0,
    "paged_adamw_32bit": 0,
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adafactor": 0.6,
    "sgd": 0,
}
WITHOUT_PAGES = {"paged_adamw_8bit": "adamw_8bit", "paged_adamw_32bit": "adamw_torch"}
# Unsloth's fused cross entropy takes a row whole where that is at most 4 GiB, at 16 bytes a logit, and else in a
# multiple of four chunks (unsloth_zoo 2026.10.9, fused_losses/cross_entropy_loss.py); they are smaller where little
# memory is free.
CHUNK_BYTES_A_LOGIT = 16
CHUNK_GIB = 4.0


@dataclass(frozen=True)
class MemoryEstimate:
    """GiB by part. `logits` and `layer_at_work` with `dequantized_experts` of one layer are never there at once: only
    the larger side is counted, and the other is 0."""

    base_weights: float
    libraries: float
    adapter: float
    optimizer: float
    activations: float
    dequantized_experts: float
    layer_at_work: float
    logits: float
    allocator: float

    @property
    def peak_gib(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Name of each part → GiB."""
        return {part.name.replace("_", " "): getattr(self, part.name) for part in fields(self)}


def attention_values(shapes: ModelShapes) -> int:
    """Values that one token makes in one layer, each counted once: norms and residuals, attention."""
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    return 6 * shapes.hidden + 3 * queries + 2 * keys


def mlp_values(shapes: ModelShapes) -> int:
    """The same of the MLP, or of the experts that a token goes through."""
    return max(shapes.experts_per_token, 1) * (2 * shapes.hidden + 3 * shapes.intermediate)


def fuses_experts(shapes: ModelShapes, job: JobConfig) -> bool:
    """Whether experts are computed by `model.fused_experts`, on a GPU that computes groups."""
    return shapes.is_moe and set(shapes.experts_held) == {"nf4"} and can_fuse(job)


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer: for each token `saved` where it is not recomputed, and what is `at_work` beside that while it
    is differentiated; and of its experts' weights that are `dequantized` at once."""

    saved: float
    at_work: float
    dequantized: int


def layer_bytes(shapes: ModelShapes, job: JobConfig, calibration: MemoryCalibration) -> LayerBytes:
    if fuses_experts(shapes, job):
        share, dequantized = calibration.fused_experts, shapes.dequantized_by_fused_experts_bytes()
    else:
        share = calibration.experts if shapes.is_moe else calibration.dense
        dequantized = shapes.dequantized_at_once_bytes()
    attention, mlp = attention_values(shapes) * shapes.whole_bytes, mlp_values(shapes) * shapes.whole_bytes
    saved = share.attention * attention + share.mlp * mlp
    return LayerBytes(saved, share.at_work * (attention + mlp), dequantized)


def estimate(
    shapes: ModelShapes,
    job: JobConfig,
    tokens_in_row: int,
    checkpointed_layers: int,
    keep_dequantized: bool,
    offload_embedding: bool,
    calibration: MemoryCalibration = MEMORY,
) -> MemoryEstimate:
    """Memory at the peak of an optimizer step whose longest micro-batch holds `tokens_in_row` tokens, with
    `checkpointed_layers` of the layers recomputed."""
    values = trained_values(job.lora, shapes)
    weights = shapes.weight_bytes() - (shapes.embedding_bytes() if offload_embedding else 0)
    whole_layers = shapes.layers - checkpointed_layers

    layer = layer_bytes(shapes, job, calibration)
    # Experts return float32 in training, and with it goes what the layers add up.
    hidden_bytes = shapes.hidden * (4 if shapes.is_moe else shapes.whole_bytes)
    # "unsloth" keeps what a recomputed layer starts from in the host's memory.
    on_gpu = 0 if job.training.gradient_checkpointing == "unsloth" else checkpointed_layers
    activations = tokens_in_row * (whole_layers * layer.saved + on_gpu * hidden_bytes)
    kept = whole_layers * shapes.dequantized_at_once_bytes() if keep_dequantized else 0

    # The first layers are recomputed, so none of the others' values is left when the backward pass comes to them.
    at_work = tokens_in_row * (layer.at_work + (0 if whole_layers else layer.saved))
    experts_at_work = 0 if keep_dequantized and not checkpointed_layers else layer.dequantized
    logits = _chunk(tokens_in_row, shapes.vocabulary) * shapes.vocabulary * calibration.logit_bytes
    if "lm_head" in (job.lora.modules_to_save or ()):
        # Its gradient is made beside the chunks of logits, and that of a chunk once more.
        logits += 2 * shapes.embedding_bytes()
    if logits > at_work + experts_at_work:
        at_work = experts_at_work = 0
    else:
        logits = 0
    # Dequantized experts are few large blocks, all of one size.
    moving = (activations + at_work + logits) / GIB
    return MemoryEstimate(
        base_weights=weights / GIB,
        libraries=calibration.libraries_gib,
        adapter=values * 8 / GIB,
        optimizer=optimizer_bytes(job, shapes) / GIB,
        activations=activations / GIB,
        dequantized_experts=(kept + experts_at_work) / GIB,
        layer_at_work=at_work / GIB,
        logits=logits / GIB,
        allocator=calibration.holes_gib + calibration.holes * moving,
    )


def _chunk(tokens: int, vocabulary: int) -> int:
    """The most tokens whose logits are there at once, in rows of at most so many."""
    return min(tokens, math.floor(CHUNK_GIB * GIB / (CHUNK_BYTES_A_LOGIT * vocabulary)))


def optimizer_bytes(job: JobConfig, shapes: ModelShapes, on_disk: bool = False) -> float:
    """Bytes of the optimizer's state on the GPU, or of all of it, as a checkpoint holds it."""
    optimizer: str = job.training.optim
    if on_disk:
        optimizer = WITHOUT_PAGES.get(optimizer, optimizer)
    # transformers and Unsloth have 8-bit optimizers keep an embedding's state in 32 bits.
    has_embedding = optimizer == "adamw_8bit" and "embed_tokens" in (job.lora.modules_to_save or ())
    in_32_bits = shapes.vocabulary * shapes.hidden if has_embedding else 0
    in_its_own = trained_values(job.lora, shapes) - in_32_bits
    return in_its_own * OPTIMIZER_BYTES[optimizer] + in_32_bits * OPTIMIZER_BYTES["adamw_torch"]
