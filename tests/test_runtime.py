"""What is set before libraries are imported, and where compiled code is kept."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from gptoss_ft import runtime
from gptoss_ft.runtime import Device

HOPPER = Device("cuda", "NVIDIA H200", 139.8, bf16=True, driver="580.82.07", capability="9.0")
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION")
PROC_OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs-builder@U22)  Wed Aug 27\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
PROC_CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30 03:14:59 UTC 2025\n"


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in CACHES:
        # Twice, so that it is as it was again afterwards also where the code under test sets it.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("_unset")
def test_compiled_code_is_kept_by_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path))
    runtime._place_compile_caches(HOPPER)
    folders = {Path(os.environ[variable]) for variable in CACHES}
    assert {folder.name for folder in folders} == {"inductor", "triton", "unsloth"}
    (key,) = {folder.parent.name for folder in folders}
    assert {folder.parents[1] for folder in folders} == {tmp_path / "compiled"}
    python = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    packages = ("torch", "triton", "unsloth", "unsloth_zoo", "transformers")
    assert key == "-".join([*(f"{name}_{version(name)}" for name in packages), python, "sm_90"])


@pytest.mark.parametrize("changed", ["torch", "triton", "unsloth", "unsloth_zoo", "transformers", "GPU"])
def test_another_version_or_gpu_has_another_folder(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = runtime._compiled_for(HOPPER)
    if changed == "GPU":
        after = runtime._compiled_for(Device("cuda", "NVIDIA L4", 22.0, bf16=True, capability="8.9"))
    else:
        monkeypatch.setattr(runtime, "version", lambda name: "99" if name == changed else version(name))
        after = runtime._compiled_for(HOPPER)
    assert after != before


@pytest.mark.usefixtures("_unset")
def test_a_folder_that_the_environment_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    runtime._place_compile_caches(HOPPER)
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"


# What the libraries themselves say after Unsloth's import, which takes one of the variables away.
SAID = """
import gc, json
from gptoss_ft import runtime
runtime.prepare_environment()
device = runtime.find_device("cpu")
runtime.import_unsloth(device)
from torch._functorch import config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from triton import knobs
from unsloth_zoo import compiler
print(json.dumps({
    "folder": str(runtime.cache_folder().absolute() / "compiled" / runtime._compiled_for(device)),
    "caches": [cache_dir(), knobs.cache.dir, compiler.UNSLOTH_COMPILE_LOCATION],
    "kept": [knobs.autotuning.cache, config.enable_autograd_cache,
             config.autograd_cache_allow_custom_autograd_functions],
    "collects": gc.isenabled(), "frozen": gc.get_freeze_count(),
}))
"""


def test_what_libraries_compile_is_kept_and_what_was_imported_is_never_looked_through_for_garbage() -> None:
    """In a process of its own: training, in others' tests, unfreezes what was imported."""
    environment = {name: value for name, value in runtime.stock_environment().items() if name not in CACHES}
    ended = subprocess.run([sys.executable, "-c", SAID], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["caches"] == [f"{said['folder']}/{name}" for name in ("inductor", "triton", "unsloth")]
    assert said["kept"] == [True, True, True]
    assert said["collects"]
    assert said["frozen"] > 100_000


# On a GPU Unsloth's import imports this module of its own, and calls the function.
REWRITTEN = """
from gptoss_ft import runtime
runtime.prepare_environment()
runtime.import_unsloth(runtime.find_device("cpu"))
with runtime._rewriting_only("dpo_trainer"):
    import unsloth.models.rl
unsloth.models.rl.patch_trl_rl_trainers()
import trl
print(trl.DPOTrainer.__name__, trl.KTOTrainer.__name__, trl.RewardTrainer.__name__)
"""


def test_of_trls_trainers_one_alone_is_rewritten(tmp_path: Path) -> None:
    environment = runtime.stock_environment() | {"UNSLOTH_COMPILE_LOCATION": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", REWRITTEN], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "UnslothDPOTrainer KTOTrainer RewardTrainer"


def test_unsloth_bundles_nothing_beside() -> None:
    from unsloth_zoo.compile_cache import megacache_is_enabled

    assert not megacache_is_enabled()


@pytest.mark.parametrize(("text", "driver"), [(PROC_OPEN, "580.82.07"), (PROC_CLOSED, "570.133.20")])
def test_the_driver_is_what_the_kernel_has_loaded(text: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert runtime._driver_version() == driver


@pytest.mark.parametrize(
    ("arguments", "code", "heavy"),
    [
        (["--help"], 0, []),
        (["train", "--help"], 0, []),
        (["schema"], 0, []),
        (["validate", "--config-only", "--config", "job.yaml"], 0, []),
        (["validate", "--config-only", "--config", "nope.yaml"], 2, []),
        # The data's first rows are checked before it asks for a GPU; torch says that there is none.
        (["train", "--config", "job.yaml", "--set", "model.device=cuda"], 4, ["numpy", "pyarrow", "torch"]),
    ],
)
def test_a_command_imports_what_it_needs(arguments: list[str], code: int, heavy: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: {name: tiny/gpt-oss}\ndataset: {path: tiny/multilingual-thinking}\n")
    (tmp_path / "docs").mkdir()
    script = (
        "import sys\n"
        "from gptoss_ft.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    wanted = ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'unsloth', 'peft', 'trl',\n"
        "              'huggingface_hub', 'httpx', 'jinja2', 'tokenizers', 'pandas')\n"
        "    print([name for name in wanted if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=runtime.stock_environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    imported = set(eval(ended.stderr.splitlines()[-1]))
    if heavy:
        assert imported >= set(heavy)
        assert not imported & {"transformers", "datasets", "unsloth", "peft", "trl", "pandas"}
    else:
        assert imported == set()


def test_wandb_is_not_imported_where_nobody_has_a_key() -> None:
    from accelerate.utils import is_wandb_available as accelerates
    from transformers.integrations import is_wandb_available as transformers_

    assert sys.modules["wandb"] is None
    assert not accelerates() and not transformers_()


def test_a_process_knows_how_long_it_has_been_running() -> None:
    code = "from gptoss_ft.runtime import process_seconds; print(process_seconds())"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # The kernel counts in hundredths of a second.
    assert 0 < float(said) < time.monotonic() - began + 0.02
