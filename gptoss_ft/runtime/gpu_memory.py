"""Memory of the GPU: how much is free, how much may be taken, what is given back, and when it has run out."""

import gc
import os

from gptoss_ft.runtime.device import Device
from gptoss_ft.runtime.units import GIB

# cuBLAS and Triton allocate without torch's allocator, and have their own words.
OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed")


def visible_gpu() -> str | None:
    """The first GPU that CUDA would be shown, by its number or id; None where all are."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or None


def free_gpu_gib(device: Device) -> float:
    """Memory of the GPU that nobody holds, in GiB; all of the machine's on a CPU."""
    if device.kind == "cpu":
        return device.total_gib
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free / GIB


def limit_gpu_memory(device: Device, gib: float | None) -> None:
    """Have CUDA's allocator refuse to reserve more than `gib`; None: no limit but the GPU's."""
    if device.kind == "cuda" and gib is not None:
        import torch

        torch.cuda.set_per_process_memory_fraction(min(1.0, gib / device.total_gib))


def release_cached_memory(device: Device) -> None:
    """Give memory that CUDA's allocator holds but does not use back, so that it can be used in pieces of another
    size: saving makes thousands of small copies, which would add 0.3 GiB to the peak."""
    if device.kind == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the GPU's memory has run out. torch's own is a `RuntimeError`, too."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
