"""Where results, caches and downloads lie, and the room there."""

import os
import shutil
from pathlib import Path

from gptoss_ft.runtime.units import GIB


def output_root() -> Path:
    return Path(os.environ.get("GPTOSS_FT_OUTPUT_ROOT") or "outputs")


def named_folder(name: str) -> Path:
    """The folder that a command line names. outputs/NAME is that of the output root, wherever it lies: a container has
    it elsewhere than the model card says."""
    folder = Path(name).expanduser()
    if folder.parts[:1] == ("outputs",):
        in_root = output_root().joinpath(*folder.parts[1:])
        folder = in_root if in_root.exists() else folder
    return folder


def cache_folder() -> Path:
    configured = os.environ.get("GPTOSS_FT_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "gptoss_ft"


def hub_cache() -> Path:
    """Where the hub's client keeps what it downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def free_gib(folder: Path) -> float:
    """Free space where `folder` is, or would be made, in GiB."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free / GIB
