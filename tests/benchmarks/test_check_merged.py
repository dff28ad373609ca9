"""Units in the last place, as the check of merged weights counts them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "check_merged.py"


@pytest.fixture(scope="module")
def check_merged() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_merged", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [1.0, 1.9, -3.9, 2.0**-10, 0.0, 300.0])
def test_the_next_value_of_the_dtype_is_one_unit_away(
    value: float, dtype: torch.dtype, check_merged: ModuleType
) -> None:
    wanted = torch.tensor([value])
    exact = wanted.to(dtype)
    assert check_merged.report("x", exact, wanted)["most_ulp"] == 0
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    following = exact
    for steps in (1, 2):
        following = (following.view(bits) + 1).view(dtype)
        assert check_merged.report("x", following, wanted)["most_ulp"] == steps
