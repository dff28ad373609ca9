"""Which code runs: its commit, and the image that holds it."""

import os
import subprocess
from pathlib import Path


def code_commit() -> str | None:
    """Commit of this code: baked into the image, else what git says of the source folder."""
    baked = os.environ.get("GPTOSS_FT_COMMIT")
    if baked:
        return baked
    source = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(source), "status", "--porcelain"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def image_id() -> str | None:
    return os.environ.get("GPTOSS_FT_IMAGE_ID") or None
