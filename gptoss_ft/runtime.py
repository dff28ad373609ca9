"""The machine, and everything that must be set before Unsloth is imported.

This is the one module that reads or writes environment variables that change how a library behaves.

    GPTOSS_FT_OUTPUT_ROOT   folder that a relative `training.output_dir` lies in       (default: ./outputs)
    GPTOSS_FT_CACHE         folder of compile caches, prepared data, embedded default  (default: ~/.cache/gptoss_ft)
    GPTOSS_FT_COMMIT        commit of the code, set in the image                       (default: asked of git)
    GPTOSS_FT_IMAGE_ID      image that the container runs, set by train.sh             (default: none)
"""

import gc
import importlib
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from gptoss_ft.errors import MachineError

GIB = 1024**3
# The CUDA 13.0 build of torch needs a driver of this branch or newer.
OLDEST_DRIVER = 580
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


def output_root() -> Path:
    return Path(os.environ.get("GPTOSS_FT_OUTPUT_ROOT") or "outputs")


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


def prepare_environment() -> None:
    """Set what libraries read at import. Called once, before any of them is imported; idempotent."""
    cache = cache_folder().absolute()
    compile_caches = {
        # Left alone, the GPU code writes ./unsloth_compiled_cache at import (Unsloth 2026.10.9).
        "UNSLOTH_COMPILE_LOCATION": "unsloth_compiled",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "UNSLOTH_MEGA_CACHE_DIR": "unsloth_mega",
        "TRITON_CACHE_DIR": "triton",
    }
    for variable, folder in compile_caches.items():
        os.environ.setdefault(variable, str(cache / folder))
    fixed = {
        # Its statistics call asks 8.8.8.8 and then the hub for repositories that no config names.
        "UNSLOTH_DISABLE_STATISTICS": "1",
        # Batches are padded: what Unsloth would lay end to end for some models only changes how they are computed.
        "UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0" if sys.stderr.isatty() else "1",
        "WANDB_SILENT": "true",
        # TensorFlow, if the machine has it, only slows the import of tensorboard's writer.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    os.environ.update(fixed)
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
    source = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
    return environment


def stock_environment() -> dict[str, str]:
    """As `fresh_environment`, for a child process that needs neither a GPU nor the network."""
    return {**fresh_environment(), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def find_device(wanted: Literal["cuda", "cpu", "auto"]) -> Device:
    """The device for `model.device`; a `MachineError` when a GPU is wanted and none can be used."""
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
        f"no NVIDIA GPU can be used: {_why_no_gpu()}",
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
        driver=_driver_version(),
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


def _driver_version() -> str | None:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None


def _why_no_gpu() -> str:
    driver = _driver_version()
    if driver is None:
        return "no NVIDIA driver answers here (nvidia-smi)"
    major = driver.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_DRIVER:
        return f"the driver is {driver}; {OLDEST_DRIVER} or newer is needed"
    return f"the driver {driver} answers, but CUDA shows no device"


def import_unsloth(device: Device) -> ModuleType:
    """Import Unsloth, which must come before transformers, trl and peft; tell it of a CPU. After
    `prepare_environment`."""
    if device.kind == "cpu":
        # Also where a GPU is there but not wanted.
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
        # Unsloth compiles the attention masks, which on a CPU needs a C++ compiler and takes 15 s once a run.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    inductor_cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    unsloth = importlib.import_module("unsloth")
    # Its import takes the variable away (2026.10.9, unsloth_zoo/patching_utils.py), and /tmp is not kept.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = inductor_cache
    _keep_headers_out_of_tmp()
    return unsloth


def hold_mxfp4_packed(packed: bool) -> None:
    """Say whether Unsloth's next load keeps experts that are stored as MXFP4 in those 4 bits, or holds them in 16."""
    os.environ["UNSLOTH_MXFP4_KEEP_PACKED"] = "1" if packed else "0"


def _keep_headers_out_of_tmp() -> None:
    """Inductor puts precompiled C++ headers into /tmp whatever its cache folder is (torch 2.11.0, codecache.py)."""
    from torch._inductor import config

    config.cpp_cache_precompile_headers = False


def release_cached_memory(device: Device) -> None:
    """Give memory that CUDA's allocator holds but does not use back, so that it can be used in pieces of another
    size: saving makes thousands of small copies, which would add 0.3 GiB to the peak."""
    if device.kind == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def peak_resident_gib() -> float:
    """Peak resident memory of this process, in GiB (`ru_maxrss` is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def code_commit() -> str | None:
    """Commit of this code: baked into the image, else what git says of the source folder."""
    baked = os.environ.get("GPTOSS_FT_COMMIT")
    if baked:
        return baked
    source = Path(__file__).parent
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


def user_name() -> str:
    """Name for runs: the hub's user if one is given, else the system's."""
    return os.environ.get("HF_USER") or os.environ.get("USER") or f"uid{os.getuid()}"


def has_wandb_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY"))


def hub_user() -> str | None:
    return os.environ.get("HF_USER") or None


def push_wanted(configured: bool) -> bool:
    """`hub.push`, unless PUSH_TO_HUB says otherwise."""
    return push_demanded() if os.environ.get("PUSH_TO_HUB") else configured


def push_demanded() -> bool:
    """Whether PUSH_TO_HUB says yes."""
    return os.environ.get("PUSH_TO_HUB", "").lower() not in ("", "false", "0", "no", "off")


def evaluation_wanted() -> bool:
    """Whether a run evaluates and asks its prompts at its end: unless RUN_EVALUATION says no."""
    return os.environ.get("RUN_EVALUATION", "").lower() not in ("false", "0", "no", "off")


def direct_wandb(folder: Path, project: str) -> None:
    """Keep Weights & Biases' files in the output folder, and name its project."""
    os.environ["WANDB_DIR"] = str(folder)
    os.environ.setdefault("WANDB_PROJECT", project)


def harmony_ranks() -> Path | None:
    """The folder that openai-harmony is told to load its ranks from."""
    folder = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
    return Path(folder) if folder else None


def use_harmony_ranks(folder: Path) -> None:
    """Have openai-harmony load its ranks from `folder` (o200k_base.tiktoken), not from the network."""
    # Also where the variable is set: openai-harmony 0.0.8 accepts one hash, so another folder holds the same bytes or
    # ends in its error, for it looks nowhere else. It asks for the variable at each load, not at import.
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(folder.absolute())
