"""Compiled code is kept by what it depends on."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gptoss_ft.runtime import compile_caches

HOPPER = "9.0"
ADA = "8.9"
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION")


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in CACHES:
        # Twice, so that it is as it was again afterwards also where the code under test sets it.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("_unset")
def test_compiled_code_is_kept_by_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path))
    compile_caches.place_compile_caches(HOPPER)
    folders = {Path(os.environ[variable]) for variable in CACHES}
    assert {folder.name for folder in folders} == {"inductor", "triton", "unsloth"}
    (key,) = {folder.parent.name for folder in folders}
    assert {folder.parents[1] for folder in folders} == {tmp_path / "compiled"}
    python = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    packages = ("torch", "triton", "unsloth", "unsloth_zoo", "transformers")
    assert key == "-".join([*(f"{name}_{version(name)}" for name in packages), python, "sm_90"])


@pytest.mark.parametrize("changed", ["torch", "triton", "unsloth", "unsloth_zoo", "transformers", "GPU"])
def test_another_version_or_gpu_has_another_folder(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compile_caches.compiled_for(HOPPER)
    if changed == "GPU":
        after = compile_caches.compiled_for(ADA)
    else:
        monkeypatch.setattr(compile_caches, "version", lambda name: "99" if name == changed else version(name))
        after = compile_caches.compiled_for(HOPPER)
    assert after != before


@pytest.mark.usefixtures("_unset")
def test_a_folder_that_the_environment_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    compile_caches.place_compile_caches(HOPPER)
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
