"""Which GPU a plan is for: the one that is here, as the driver tells it without CUDA, or one that is named."""

import re
import subprocess
from dataclasses import dataclass

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import ConfigError, MachineError, Problem
from gptoss_ft.runtime import visible_gpu

# Of a GPU's memory, for CUDA's own context.
CONTEXT_GIB = 0.5
# Of what is left or of `performance.memory_limit_gib`, for an allocator that need not give memory back in mid-step.
MARGIN = 0.10
# For what would not fit at all with that: an estimate may be 5 % too low.
LEAST_MARGIN = 0.05


@dataclass(frozen=True)
class GpuMemory:
    """A GPU by its name ("" where only the size is known), its memory in GiB, whether it computes in bfloat16, and
    whether it multiplies the rows of many experts by their matrices at once (`computes_groups`)."""

    name: str
    total_gib: float
    bf16: bool = True
    groups: bool = False


@dataclass(frozen=True)
class GpuSpeed:
    """Peak rate of dense bf16 products (float16 on a T4) in TFLOP/s, and memory bandwidth in GB/s, from the maker's
    data sheets."""

    tflops: float
    bandwidth: float


@dataclass(frozen=True)
class KnownGpu:
    """`total_gib` is what the driver gives of the nominal size."""

    total_gib: float
    speed: GpuSpeed
    capability: str


# By what the driver's name holds; the first that fits counts. A100 and others of two sizes: the larger.
KNOWN = {
    "T4": KnownGpu(15.0, GpuSpeed(65, 320), "7.5"),
    "L40S": KnownGpu(45.0, GpuSpeed(362, 864), "8.9"),
    "L4": KnownGpu(22.5, GpuSpeed(121, 300), "8.9"),
    "A100": KnownGpu(80.0, GpuSpeed(312, 2039), "8.0"),
    "A10": KnownGpu(22.5, GpuSpeed(125, 600), "8.6"),
    "3090": KnownGpu(24.0, GpuSpeed(71, 936), "8.6"),
    "4090": KnownGpu(24.0, GpuSpeed(165, 1008), "8.9"),
    "H100": KnownGpu(79.6, GpuSpeed(989, 3350), "9.0"),
    "H200": KnownGpu(140.4, GpuSpeed(989, 4800), "9.0"),
    "B200": KnownGpu(179.1, GpuSpeed(2250, 8000), "10.0"),
}


def computes_bf16(capability: str) -> bool:
    """Of a compute capability (`8.9`)."""
    return int(capability.partition(".")[0]) >= 8


def computes_groups(capability: str | None) -> bool:
    """Whether torch 2.11 multiplies grouped rows in one kernel: elsewhere its `_grouped_mm` is a loop over the groups,
    which Unsloth's own kernels are likely to outrun. None: a CPU."""
    return capability is not None and capability.partition(".")[0] in ("9", "10")


def known_gpu(name: str) -> KnownGpu | None:
    """The known GPU whose name stands in `name` as a word (an A10G is an A10); None where there is none, and for a part
    of one (MIG)."""
    if "MIG" in name.upper():
        return None
    return next((gpu for key, gpu in KNOWN.items() if re.search(rf"(?<![A-Z0-9]){key}(?![0-9S])", name.upper())), None)


def wanted_gpu(text: str) -> GpuMemory:
    """The GPU that `--gpu` names: a size (`16GiB`, `24 GB`) or a name (`H100`). `ConfigError` for anything else."""
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*G(?:i?B)?\s*", text, re.IGNORECASE)
    if size is not None and float(size[1]) > 0:
        return GpuMemory("", float(size[1]))
    gpu = known_gpu(text)
    if gpu is None:
        known = ", ".join(KNOWN)
        raise ConfigError([Problem("--gpu", f"read {text!r}; wanted a size such as 16GiB, or one of {known}")])
    # An A100 of the smaller size says so: A100-40GB.
    stated = re.search(r"(\d+)\s*GB", text, re.IGNORECASE)
    return _gpu(text, float(stated[1]) if stated else gpu.total_gib, gpu.capability)


def gpu_here() -> GpuMemory:
    """This machine's first visible GPU, from nvidia-smi. `ConfigError` where none answers: the command line can name
    one."""
    first = visible_gpu()
    try:
        answer = subprocess.run(
            ["nvidia-smi", *(["-i", first] if first else []),
             "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        raise _no_gpu() from None
    told = re.fullmatch(r"(.*?),\s*(\d+\.\d+),\s*(\d+)\s*", line := answer.stdout.split("\n")[0])
    if told is None:
        # Where the GPU shares the machine's memory: "[N/A]".
        name = line.partition(",")[0] or "a GPU"
        raise MachineError(f"nvidia-smi does not tell the memory of {name}", "Name it: --gpu 24GiB.")
    return _gpu(told[1], int(told[3]) / 1024, told[2])


def _gpu(name: str, total_gib: float, capability: str) -> GpuMemory:
    return GpuMemory(name.strip(), total_gib, computes_bf16(capability), computes_groups(capability))


def _no_gpu() -> ConfigError:
    problem = Problem("plan", "no NVIDIA GPU answers here (nvidia-smi), and none is named")
    return ConfigError([problem], "Say which one the plan is for: --gpu 16GiB, or --gpu H100.")


def budget_gib(job: JobConfig, device: GpuMemory, margin: float = MARGIN) -> float:
    """What the estimate of a plan may be: less than the GPU has, and than `performance.memory_limit_gib`."""
    limit = job.performance.memory_limit_gib
    most = device.total_gib - CONTEXT_GIB
    return (most if limit is None else min(most, limit)) * (1 - margin)


def limit_for(peak_gib: float) -> float:
    """The `performance.memory_limit_gib` under which a plan with this peak fits."""
    return peak_gib / (1 - LEAST_MARGIN)


def needed_gib(peak_gib: float) -> float:
    """The memory of the smallest GPU on which a plan with this peak fits."""
    return limit_for(peak_gib) + CONTEXT_GIB
