"""What the job runs on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptoss_ft.errors import MachineError
from gptoss_ft.runtime.compile_caches import place_compile_caches
from gptoss_ft.runtime.driver import driver_version, why_no_gpu
from gptoss_ft.runtime.units import GIB

OLDEST_CAPABILITY = (7, 5)

DeviceKind = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Device:
    """What the job runs on. Sizes in GiB; `bf16` says whether the hardware computes in bfloat16."""

    kind: DeviceKind
    name: str
    total_gib: float
    bf16: bool
    driver: str | None = None
    capability: str | None = None


def find_device(wanted: Literal["cuda", "cpu", "auto"]) -> Device:
    """The device for `model.device`, and from here on the compile caches are those for it. A `MachineError` when a GPU
    is wanted and none can be used."""
    device = _find_device(wanted)
    place_compile_caches(device.capability)
    return device


def _find_device(wanted: Literal["cuda", "cpu", "auto"]) -> Device:
    if wanted == "cpu":
        # A driver that shows no device makes Unsloth raise unless the GPUs are masked.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return _cpu()
    import torch

    if torch.cuda.is_available():
        return _gpu()
    if wanted == "auto":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return _cpu()
    raise MachineError(
        f"no NVIDIA GPU can be used: {why_no_gpu()}",
        "Run on a machine with an NVIDIA GPU, or try the job that needs none: --config configs/smoke.yaml",
        key="model.device",
    )


def _gpu() -> Device:
    import torch

    properties = torch.cuda.get_device_properties(0)
    if (properties.major, properties.minor) < OLDEST_CAPABILITY:
        raise MachineError(
            f"{properties.name} has compute capability {properties.major}.{properties.minor}; the CUDA 13.0 build of "
            f"torch needs {'.'.join(map(str, OLDEST_CAPABILITY))} or newer",
            "Use a GPU of the Turing generation or newer.",
            key="model.device",
        )
    return Device(
        kind="cuda",
        name=properties.name,
        total_gib=properties.total_memory / GIB,
        bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        driver=driver_version(),
        capability=f"{properties.major}.{properties.minor}",
    )


def _cpu() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Device(kind="cpu", name=_cpu_name(), total_gib=memory, bf16=True)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
