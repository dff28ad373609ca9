"""The machine, and everything that must be set before Unsloth is imported.

This is the one package that reads or writes environment variables that change how a library behaves.

    GPTOSS_FT_OUTPUT_ROOT   folder that a relative `training.output_dir` lies in       (default: ./outputs)
    GPTOSS_FT_CACHE         folder of compile caches, prepared data, embedded default  (default: ~/.cache/gptoss_ft)
    GPTOSS_FT_COMMIT        commit of the code, set in the image                       (default: asked of git)
    GPTOSS_FT_IMAGE_ID      image that the container runs, set by train.sh             (default: none)
"""

from gptoss_ft.runtime.accounts import has_wandb_key, hub_user, user_name
from gptoss_ft.runtime.code_version import code_commit, image_id
from gptoss_ft.runtime.device import Device, find_device
from gptoss_ft.runtime.environment import fresh_environment, prepare_environment, stock_environment
from gptoss_ft.runtime.folders import cache_folder, free_gib, hub_cache, named_folder, output_root
from gptoss_ft.runtime.gpu_memory import (
    free_gpu_gib,
    is_out_of_memory,
    limit_gpu_memory,
    release_cached_memory,
    visible_gpu,
)
from gptoss_ft.runtime.library_settings import (
    direct_wandb,
    experts_are_held_dequantized,
    harmony_ranks,
    hold_experts_dequantized,
    hold_mxfp4_packed,
    offload_exactly,
    remember_changing_sizes,
    use_harmony_ranks,
)
from gptoss_ft.runtime.process import peak_resident_gib, process_seconds
from gptoss_ft.runtime.secrets import SHORTEST_SECRET, login_file, secrets_in_environment
from gptoss_ft.runtime.switches import evaluation_wanted, push_demanded, push_wanted
from gptoss_ft.runtime.units import GIB
from gptoss_ft.runtime.unsloth_import import import_unsloth, no_garbage_collection

__all__ = [
    "GIB",
    "SHORTEST_SECRET",
    "Device",
    "cache_folder",
    "code_commit",
    "direct_wandb",
    "evaluation_wanted",
    "experts_are_held_dequantized",
    "find_device",
    "free_gib",
    "free_gpu_gib",
    "fresh_environment",
    "harmony_ranks",
    "has_wandb_key",
    "hold_experts_dequantized",
    "hold_mxfp4_packed",
    "hub_cache",
    "hub_user",
    "image_id",
    "import_unsloth",
    "is_out_of_memory",
    "limit_gpu_memory",
    "login_file",
    "named_folder",
    "no_garbage_collection",
    "offload_exactly",
    "output_root",
    "peak_resident_gib",
    "prepare_environment",
    "process_seconds",
    "push_demanded",
    "push_wanted",
    "release_cached_memory",
    "remember_changing_sizes",
    "secrets_in_environment",
    "stock_environment",
    "use_harmony_ranks",
    "user_name",
    "visible_gpu",
]
