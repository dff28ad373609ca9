"""Expected seconds of a micro-batch: one part for its passes over the layers, whatever it holds, one for its tokens."""

from gptoss_ft.planning.calibration import SPEED, SpeedCalibration
from gptoss_ft.planning.gpus import KNOWN, GpuSpeed
from gptoss_ft.planning.shapes import ModelShapes

# What calibration.py was measured on, and plans for a GPU without a known speed are weighed by.
H200 = KNOWN["H200"].speed
# A multiplication and an addition for each weight, forward and for the gradient of its input; base weights have no own.
FLOP_A_WEIGHT = 4


def micro_batch_seconds(
    shapes: ModelShapes,
    gpu: GpuSpeed,
    tokens: int,
    checkpointed_layers: int,
    keep_dequantized: bool,
    offload_embedding: bool,
    mean_length: float,
    fused: bool,
    calibration: SpeedCalibration = SPEED,
) -> float:
    """Seconds of a micro-batch's forward and backward pass with `tokens` tokens, in samples of `mean_length`; `fused`
    where experts are computed by `model.fused_experts`."""
    moe = calibration.fused_experts if fused else calibration.experts
    pace = moe if shapes.is_moe else calibration.dense
    passes = 2 * shapes.layers + checkpointed_layers
    # Dequantized weights are written and read again; what was kept is only read.
    written = checkpointed_layers + (shapes.layers if keep_dequantized else passes - checkpointed_layers)
    moved = 2 * written * shapes.dequantized_layer_bytes() / (gpu.bandwidth * 1e9)
    rate = pace.rate * gpu.tflops * 1e12
    recomputed = pace.recomputed * checkpointed_layers / shapes.layers
    flop = FLOP_A_WEIGHT * tokens * (shapes.active_parameters() + attention_products(shapes, mean_length))
    offload = calibration.offload_seconds if offload_embedding else 0
    return passes * pace.pass_seconds + moved + flop * (1 + recomputed) / rate + offload


def attention_products(shapes: ModelShapes, mean_length: float) -> float:
    """Multiplications of a token's attention with what it sees, over all layers: scores and values."""
    full, window = mean_length / 2, shapes.sliding_window or mean_length
    seen = sum(min(full, window) if kind == "sliding_attention" else full for kind in shapes.layer_types)
    return 2 * shapes.heads * shapes.head_dim * seen
