"""Whose accounts a run uses."""

import os


def user_name() -> str:
    """Name for runs: the hub's user if one is given, else the system's."""
    return os.environ.get("HF_USER") or os.environ.get("USER") or f"uid{os.getuid()}"


def hub_user() -> str | None:
    return os.environ.get("HF_USER") or None


def has_wandb_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY"))
