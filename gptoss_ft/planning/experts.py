"""Whether a job's 4-bit experts are computed by `model.fused_experts`, as far as its settings decide it."""

from gptoss_ft.config import JobConfig

# torch._grouped_mm wants rows of 16 bytes, and those of an adapter's inner states have r values of two bytes.
RANKS = 8


def can_fuse(job: JobConfig) -> bool:
    """In bfloat16 alone, and with ranks of multiples of `RANKS`."""
    in_bf16 = job.model.dtype in ("auto", "bfloat16")
    return job.performance.fused_experts and in_bf16 and job.lora.r % RANKS == 0
