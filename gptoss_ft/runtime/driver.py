"""The NVIDIA driver of this machine."""

import re
import subprocess
from pathlib import Path

# The CUDA 13.0 build of torch needs a driver of this branch or newer.
OLDEST_DRIVER = 580


def driver_version() -> str | None:
    """The version of the driver that a GPU is used through."""
    try:
        loaded = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        loaded = ""
    # nvidia-smi wakes every GPU first, which can take seconds.
    found = re.search(r"^NVRM version:.*?\s(\d+\.[\d.]+)\s", loaded)
    return found[1] if found else _answering_driver()


def _answering_driver() -> str | None:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None


def why_no_gpu() -> str:
    """Why CUDA shows no device, as far as the driver tells."""
    driver = _answering_driver()
    if driver is None:
        return "no NVIDIA driver answers here (nvidia-smi)"
    major = driver.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_DRIVER:
        return f"the driver is {driver}; {OLDEST_DRIVER} or newer is needed"
    return f"the driver {driver} answers, but CUDA shows no device"
