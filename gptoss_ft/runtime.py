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
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import unquote

from gptoss_ft.errors import MachineError, SettingError

GIB = 1024**3
# The CUDA 13.0 build of torch needs a driver of this branch or newer.
OLDEST_DRIVER = 580
OLDEST_CAPABILITY = (7, 5)
# The packages that write code, or are rewritten by it.
COMPILERS = ("torch", "triton", "unsloth", "unsloth_zoo", "transformers")

# What PUSH_TO_HUB and RUN_EVALUATION take.
SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

SECRET_NAME = re.compile("(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)$", re.IGNORECASE)
PROXY_NAME = re.compile("_PROXY$", re.IGNORECASE)
SHORTEST_SECRET = 8

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


def prepare_environment() -> None:
    """Set what libraries read at import. Called once, before any of them is imported; idempotent. `SettingError` for a
    variable of ours that says neither yes nor no: found out before the hours at whose end it is asked."""
    for variable in ("PUSH_TO_HUB", "RUN_EVALUATION"):
        _switch(variable)
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
    source = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
    return environment


def stock_environment() -> dict[str, str]:
    """As `fresh_environment`, for a child process that needs neither a GPU nor the network."""
    return {**fresh_environment(), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def find_device(wanted: Literal["cuda", "cpu", "auto"]) -> Device:
    """The device for `model.device`, and from here on the compile caches are those for it. A `MachineError` when a GPU
    is wanted and none can be used."""
    device = _find_device(wanted)
    _place_compile_caches(device)
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
        f"no NVIDIA GPU can be used: {_why_no_gpu()}",
        "Run on a machine with an NVIDIA GPU, or try the job that needs none: --config configs/smoke.yaml",
        key="model.device",
    )


def _place_compile_caches(device: Device) -> None:
    """Name the folders that compiled code is kept in, unless the environment does."""
    folder = cache_folder().absolute() / "compiled" / _compiled_for(device)
    caches = {
        # Left alone, the GPU code writes ./unsloth_compiled_cache at import (Unsloth 2026.10.9).
        "UNSLOTH_COMPILE_LOCATION": "unsloth",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
    }
    for variable, name in caches.items():
        os.environ.setdefault(variable, str(folder / name))


def _compiled_for(device: Device) -> str:
    """All that compiled code depends on, as a folder's name: another version or GPU never meets it."""
    versions = (f"{name}_{version(name)}" for name in COMPILERS)
    target = "cpu" if device.capability is None else f"sm_{device.capability.replace('.', '')}"
    return "-".join([*versions, str(sys.implementation.cache_tag), target])


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


def _why_no_gpu() -> str:
    driver = _answering_driver()
    if driver is None:
        return "no NVIDIA driver answers here (nvidia-smi)"
    major = driver.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_DRIVER:
        return f"the driver is {driver}; {OLDEST_DRIVER} or newer is needed"
    return f"the driver {driver} answers, but CUDA shows no device"


def import_unsloth(device: Device) -> ModuleType:
    """Import Unsloth, which must come before transformers, trl and peft; tell it of a CPU. After
    `prepare_environment` and `find_device`."""
    if device.kind == "cpu":
        # Also where a GPU is there but not wanted.
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
        # Unsloth compiles the attention masks, which on a CPU needs a C++ compiler and takes 15 s once a run.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    if not has_wandb_key():
        # Unsloth and trl import it if it can be found, for 0.7 s; without a key nothing uses it.
        sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # what makes an import fail, by its documentation
    inductor_cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    with no_garbage_collection(), _rewriting_only("sft_trainer"):
        unsloth = importlib.import_module("unsloth")
        # Loading and training ask for dozens of collections, each of which would walk a million objects (0.5 s).
        gc.freeze()
    # Its import takes the variable away (2026.10.9, unsloth_zoo/patching_utils.py), and /tmp is not kept.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = inductor_cache
    _keep_headers_out_of_tmp()
    return unsloth


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Make objects without looking for garbage among them: an import, or a model of thousands of modules, makes hardly
    any, and looking for it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _rewriting_only(trainer: str) -> Iterator[None]:
    """Have Unsloth's import rewrite that one of trl's trainers. It rewrites all 14, for reinforcement learning too, by
    reading and compiling their source at every start: 40 % of the import (2026.10.9)."""
    finder = _RewritesOnly(trainer)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _RewritesOnly(MetaPathFinder):
    """Finds Unsloth's module that rewrites trainers, and has it do so for `trainer` alone. Where a later Unsloth does
    it otherwise, all are rewritten."""

    def __init__(self, trainer: str) -> None:
        self._trainer = trainer

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "unsloth.models.rl" else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._execute, spec.loader.exec_module)  # type: ignore[method-assign]  # of this one loader
        return spec

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        if all(hasattr(module, name) for name in ("patch_trl_rl_trainers", "_patch_trl_rl_trainers")):
            module.patch_trl_rl_trainers = partial(module._patch_trl_rl_trainers, self._trainer)  # type: ignore[attr-defined]  # a module's globals


def hold_mxfp4_packed(packed: bool) -> None:
    """Say whether Unsloth's next load keeps experts that are stored as MXFP4 in those 4 bits, or holds them in 16."""
    os.environ["UNSLOTH_MXFP4_KEEP_PACKED"] = "1" if packed else "0"


def hold_experts_dequantized(held: bool) -> None:
    """Say whether Unsloth keeps the 4-bit experts that a forward pass has dequantized for the backward pass, or makes
    them anew. It asks at every layer."""
    if held:
        os.environ["UNSLOTH_MOE_RECOMPUTE"] = "0"
    else:
        # Unset, it decides by itself: in a layer that is recomputed they are kept until its backward pass.
        os.environ.pop("UNSLOTH_MOE_RECOMPUTE", None)


def experts_are_held_dequantized() -> bool:
    return os.environ.get("UNSLOTH_MOE_RECOMPUTE") == "0"


def _keep_headers_out_of_tmp() -> None:
    """Inductor puts precompiled C++ headers into /tmp whatever its cache folder is (torch 2.11.0, codecache.py)."""
    from torch._inductor import config

    config.cpp_cache_precompile_headers = False


def visible_gpu() -> str | None:
    """The first GPU that CUDA would be shown, by its number or id; None where all are."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or None


def free_gpu_gib(device: Device) -> float:
    """Memory of the GPU that nobody holds, in GiB; all of the machine's on a CPU."""
    if device.kind == "cpu":
        return device.total_gib
    import torch

    free, _ = torch.cuda.mem_get_info()
    return free / GIB


def limit_gpu_memory(device: Device, gib: float | None) -> None:
    """Have CUDA's allocator refuse to reserve more than `gib`; None: no limit but the GPU's."""
    if device.kind == "cuda" and gib is not None:
        import torch

        torch.cuda.set_per_process_memory_fraction(min(1.0, gib / device.total_gib))


def release_cached_memory(device: Device) -> None:
    """Give memory that CUDA's allocator holds but does not use back, so that it can be used in pieces of another
    size: saving makes thousands of small copies, which would add 0.3 GiB to the peak."""
    if device.kind == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def process_seconds() -> float:
    """How long ago this process began."""
    # Behind the name, which may hold blanks and brackets, the 20th field: ticks from the machine's start.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


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


def secrets_in_environment() -> frozenset[str]:
    """The values of variables named like one that holds a secret: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, WANDB_API_KEY, …;
    and of proxies, whose address needs no scheme, `user:password` and the password."""
    given = [value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)]
    logins = [login for name, value in os.environ.items() if PROXY_NAME.search(name) if (login := _login_in(value))]
    for login in logins:
        password = login.partition(":")[2]
        given += [password, unquote(password)]
    # A shorter one is none, and would be found in words.
    return frozenset([*(value for value in given if len(value) >= SHORTEST_SECRET), *logins])


def _login_in(address: str) -> str:
    """`user:password` of an address; empty where it has none."""
    login = address.strip().rpartition("://")[2].rpartition("@")[0]
    return login if login.partition(":")[2] else ""


def login_file() -> Path:
    """The file of logins by host, of which W&B keeps one and the network's libraries read others."""
    # Path.expanduser has an error for a user without a home.
    return Path(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc"))


def hub_user() -> str | None:
    return os.environ.get("HF_USER") or None


def push_wanted(configured: bool) -> bool:
    """`hub.push`, unless PUSH_TO_HUB says otherwise."""
    switch = _switch("PUSH_TO_HUB")
    return configured if switch is None else switch


def push_demanded() -> bool:
    """Whether PUSH_TO_HUB says yes."""
    return _switch("PUSH_TO_HUB") is True


def evaluation_wanted() -> bool:
    """Whether a run evaluates and asks its prompts at its end: unless RUN_EVALUATION says no."""
    return _switch("RUN_EVALUATION") is not False


def _switch(variable: str) -> bool | None:
    """Yes or no, as a variable says; None where it is not set. `SettingError` for another word."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    if value.lower() not in SWITCHES:
        words = ", ".join(SWITCHES)
        raise SettingError(
            f"{variable}={value}: wanted yes or no, as one of {words}", f"Set {variable} anew, or unset it."
        )
    return SWITCHES[value.lower()]


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
