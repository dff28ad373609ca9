"""What libraries read at import, set before any of them is; the environment of child processes."""

import os
import platform
import sys
from pathlib import Path

from gptoss_ft.runtime.switches import check_switches


def prepare_environment() -> None:
    """Set what libraries read at import. Called once, before any of them is imported; idempotent. `SettingError` for a
    variable of ours that says neither yes nor no."""
    check_switches()
    fixed = {
        # Its statistics call asks 8.8.8.8 and then the hub for repositories that no config names.
        "UNSLOTH_DISABLE_STATISTICS": "1",
        # Batches are padded: what Unsloth would lay end to end for some models only changes how they are computed.
        "UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1",
        # It bundles what lies in the compile caches already: written twice, and unpacked again at every start.
        "UNSLOTH_MEGA_CACHE": "0",
        # Triton 3.6 keeps its kernels, but measures anew in every process which of them is the fastest.
        "TRITON_CACHE_AUTOTUNING": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0" if sys.stderr.isatty() else "1",
        "WANDB_SILENT": "true",
        # TensorFlow, if the machine has it, only slows the import of tensorboard's writer.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    os.environ.update(fixed)
    # Else torch 2.11 traces graphs with a custom backward pass anew at every start. The pass is in the cache's key.
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE_ALLOW_CUSTOM_AUTOGRAD", "1")
    # Its warnings are of every try to reach the hub, on the terminal; the last try ends in an error of ours.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # Threads that wait must not keep the cores: with another program beside it, spinning costs a CPU job fivefold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "microsoft" not in platform.release().lower():
        # As Unsloth sets it at import, which is too late once CUDA was asked for a device. Not to be had on WSL.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # A container user id without a passwd entry: torch.compile asks for the user's name.
    os.environ.setdefault("USER", f"uid{os.getuid()}")


def fresh_environment() -> dict[str, str]:
    """The environment of a child process that loads a model on its own: this package can be imported, and no variable
    of Unsloth's tells it of a model that was loaded here (UNSLOTH_MODEL_NAME did, unsloth_zoo#802)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNSLOTH_")}
    source = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
    return environment


def stock_environment() -> dict[str, str]:
    """As `fresh_environment`, for a child process that needs neither a GPU nor the network."""
    return {**fresh_environment(), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
