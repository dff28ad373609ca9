"""What Unsloth's import leaves: where libraries keep what they compile, what is rewritten, what is not imported."""

import json
import subprocess
import sys
from pathlib import Path

from gptoss_ft import runtime

# What the libraries themselves say after Unsloth's import, which takes one of the variables away.
SAID = """
import gc, json
from gptoss_ft import runtime
from gptoss_ft.runtime.compile_caches import compiled_for
runtime.prepare_environment()
device = runtime.find_device("cpu")
runtime.import_unsloth(device)
from torch._functorch import config
from torch._inductor.runtime.cache_dir_utils import cache_dir
from triton import knobs
from unsloth_zoo import compiler
print(json.dumps({
    "folder": str(runtime.cache_folder().absolute() / "compiled" / compiled_for(device.capability)),
    "caches": [cache_dir(), knobs.cache.dir, compiler.UNSLOTH_COMPILE_LOCATION],
    "kept": [knobs.autotuning.cache, config.enable_autograd_cache,
             config.autograd_cache_allow_custom_autograd_functions],
    "collects": gc.isenabled(), "frozen": gc.get_freeze_count(),
}))
"""


def test_what_libraries_compile_is_kept_and_what_was_imported_is_never_looked_through_for_garbage() -> None:
    """In a process of its own: training, in others' tests, unfreezes what was imported."""
    caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION")
    environment = {name: value for name, value in runtime.stock_environment().items() if name not in caches}
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
from gptoss_ft.runtime.unsloth_import import rewriting_only
runtime.prepare_environment()
runtime.import_unsloth(runtime.find_device("cpu"))
with rewriting_only("dpo_trainer"):
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


def test_wandb_is_not_imported_where_nobody_has_a_key() -> None:
    from accelerate.utils import is_wandb_available as accelerates
    from transformers.integrations import is_wandb_available as transformers_

    assert sys.modules["wandb"] is None
    assert not accelerates() and not transformers_()
