"""Unsloth's import, without what it does that no run here needs."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from gptoss_ft.runtime.accounts import has_wandb_key
from gptoss_ft.runtime.device import Device


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
    with no_garbage_collection(), rewriting_only("sft_trainer"):
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
def rewriting_only(trainer: str) -> Iterator[None]:
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


def _keep_headers_out_of_tmp() -> None:
    """Inductor puts precompiled C++ headers into /tmp whatever its cache folder is (torch 2.11.0, codecache.py)."""
    from torch._inductor import config

    config.cpp_cache_precompile_headers = False
