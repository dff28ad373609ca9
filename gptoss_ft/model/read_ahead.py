"""The weights, read from the disk while Unsloth is imported, so that loading them finds them in memory."""

import threading
from collections.abc import Sequence
from pathlib import Path

from gptoss_ft.config import ModelSection
from gptoss_ft.errors import JobError
from gptoss_ft.model.repository import config_folder

PIECE = 16 * 1024**2


def read_weights_ahead(config: ModelSection) -> None:
    """Begin to read the model's weights into the system's page cache, in a thread that nobody waits for.

    Does nothing where they are not on this machine yet, or would take more than half of its available memory.
    """
    files = _weights(config)
    if files and 2 * sum(files.values()) < _available_bytes():
        threading.Thread(target=_read, args=(list(files),), name="read ahead", daemon=True).start()


def _weights(config: ModelSection) -> dict[Path, int]:
    """The files and their sizes in bytes."""
    try:
        return {path: path.stat().st_size for path in sorted(config_folder(config).glob("*.safetensors"))}
    except (JobError, OSError, ValueError):
        # What is wrong with the model's name, or with its files, is told when they are looked for.
        return {}


def _available_bytes() -> int:
    """Memory that can be had without swapping, the page cache's share included; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return int(kib) * 1024


def _read(files: Sequence[Path]) -> None:
    # By reading: POSIX_FADV_WILLNEED reads no more than the disk's read-ahead size at once, 128 KiB on most.
    piece = bytearray(PIECE)
    for path in files:
        try:
            with path.open("rb", buffering=0) as stream:
                while stream.readinto(piece):
                    pass
        except OSError:
            return
