"""Where the weights of a model that is verified go, and how much memory there is for them. Sizes in bytes."""

from pathlib import Path
from typing import Any

from gptoss_ft.runtime import GIB

# Beside the weights: activations, and the logits of a whole prompt.
GPU_MARGIN = 3 * GIB
CPU_MARGIN = 2 * GIB
# Limit, use and counts of a container's memory: control groups of version 2, and of version 1.
GROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)  # fmt: skip


def placement(size: int, device: str, offload: Path) -> dict[str, Any]:
    """Options of `from_pretrained` for `size` bytes of weights: to the GPU, else to memory, else as much as fits to
    either and the rest to the disk, into the folder `offload`."""
    import torch

    on_gpu = torch.cuda.mem_get_info()[0] - GPU_MARGIN if device == "cuda" else 0
    on_cpu = available_memory() - CPU_MARGIN
    if size < on_gpu:
        return {"device_map": {"": 0}}
    if size < on_cpu:
        return {}
    room: dict[int | str, int] = {"cpu": max(0, on_cpu)}
    if device == "cuda":
        room[0] = max(0, on_gpu)
    return {"device_map": "auto", "max_memory": room, "offload_folder": str(offload)}


def available_memory(root: Path = Path("/")) -> int:
    """What this process may still take: of the machine's memory, and of its container's. `root` is the file system that
    says so."""
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([machine, *_left_to_groups(root / "sys/fs/cgroup")])


def _left_to_groups(root: Path) -> list[int]:
    """One figure for each control group that is limited."""
    left = []
    for limit, used, counts, files in GROUPS:
        try:
            most, now = ((root / name).read_text(encoding="utf-8").strip() for name in (limit, used))
            stat = dict(line.split() for line in (root / counts).read_text(encoding="utf-8").splitlines())
        except OSError:
            continue
        if most != "max":
            # Files that were read or written count as used, and are given up for whoever asks.
            left.append(int(most) - int(now) + sum(int(stat[name]) for name in files))
    return left
