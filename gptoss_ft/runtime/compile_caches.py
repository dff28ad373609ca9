"""Where compiled code is kept: a folder for each set of versions and kind of GPU."""

import os
import sys
from importlib.metadata import version

from gptoss_ft.runtime.folders import cache_folder

# The packages that write code, or are rewritten by it.
COMPILERS = ("torch", "triton", "unsloth", "unsloth_zoo", "transformers")


def place_compile_caches(capability: str | None) -> None:
    """Name the folders that code compiled for a GPU of this compute capability (`9.0`; None: for a CPU) is kept in,
    unless the environment does."""
    folder = cache_folder().absolute() / "compiled" / compiled_for(capability)
    caches = {
        # Left alone, the GPU code writes ./unsloth_compiled_cache at import (Unsloth 2026.10.9).
        "UNSLOTH_COMPILE_LOCATION": "unsloth",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
    }
    for variable, name in caches.items():
        os.environ.setdefault(variable, str(folder / name))


def compiled_for(capability: str | None) -> str:
    """All that compiled code depends on, as a folder's name: another version or GPU never meets it."""
    versions = (f"{name}_{version(name)}" for name in COMPILERS)
    target = "cpu" if capability is None else f"sm_{capability.replace('.', '')}"
    return "-".join([*versions, str(sys.implementation.cache_tag), target])
