"""The cases of `expert_kernels_cases.py` by Triton's interpreter, in a process of its own; and the kernels compiled for
GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).with_name("expert_kernels_cases.py")
HOPPER, BLACKWELL = 90, 100
POINTERS = {"expert": "*i64", "place": "*i64", "indices": "*i64", "weight": "*fp32", "along": "*fp32", "total": "*fp32"}


def test_kernels_compute_what_pytorch_does() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GPTOSS_FT_TEST_DEVICE": "cpu"}
    # Tensors of gigabytes are for a GPU.
    options = ["-q", "-p", "no:cacheprovider", "-n", "0", "-k", "not beyond_31_bits"]
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "38 passed" in done.stdout


@pytest.mark.parametrize("capability", [HOPPER, BLACKWELL])
@pytest.mark.parametrize(
    ("name", "constants"),
    [("_activate", {}), ("_activate_backward", {}), ("_sum", {"choices": 4, "weighted": True})],
)
def test_kernels_compile_for_gpus_that_compute_groups(capability: int, name: str, constants: dict[str, Any]) -> None:
    """As PTX, of gpt-oss-20b's sizes: what is clamped keeps NaN, which the interpreter would not show, and memory is
    read in pieces of at least eight bytes."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gptoss_ft.model import expert_kernels

    kernel = getattr(expert_kernels, name)
    constants = {"columns": 2880, "adapted": True, "block": expert_kernels.BLOCK, **constants}
    pointers = [each for each in kernel.arg_names if each.endswith("_pointer")]
    signature = {each: POINTERS.get(each.removesuffix("_pointer"), "*bf16") for each in pointers}
    signature |= {each: "fp32" for each in kernel.arg_names if each in ("scaling", "alpha", "limit")}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(kernel.arg_names.index(each),): [["tt.divisibility", 16]] for each in pointers}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": expert_kernels.WARPS}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    assert "ld.global.v2.b32" in ptx or "ld.global.v4.b32" in ptx
    clamps = [line for line in ptx.splitlines() if "min" in line and ".f32" in line]
    assert all(".NaN" in line for line in clamps)
    assert bool(clamps) == (name != "_sum")
