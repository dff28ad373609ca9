"""Which GPU a plan is for."""

import os
from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import ConfigError, MachineError
from gptoss_ft.planning.gpus import LEAST_MARGIN, GpuMemory, budget_gib, gpu_here, known_gpu, needed_gib, wanted_gpu


@pytest.mark.parametrize("text", ["16GiB", "16", "16 gb", " 16.0 GIB", "16g"])
def test_sizes(text: str) -> None:
    if text == "16":
        with pytest.raises(ConfigError, match="--gpu: read '16'; wanted a size such as 16GiB, or one of T4"):
            wanted_gpu(text)
    else:
        assert wanted_gpu(text) == GpuMemory("", 16.0)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("H100", 79.6), ("NVIDIA H200", 140.4), ("a10g", 22.5), ("NVIDIA A100-SXM4-80GB", 80.0), ("L4", 22.5),
        ("NVIDIA L40S", 45.0), ("Tesla T4", 15.0), ("NVIDIA GeForce RTX 4090", 24.0), ("rtx3090", None),
    ],
)  # fmt: skip
def test_names(name: str, gib: float | None) -> None:
    known = known_gpu(name)
    assert (known.total_gib if known else None) == gib


def test_a_size_in_a_name_counts_and_a_part_of_a_gpu_is_not_the_gpu() -> None:
    assert wanted_gpu("A100-40GB") == GpuMemory("A100-40GB", 40.0)
    assert known_gpu("NVIDIA H200 MIG 1g.18gb") is None
    assert not wanted_gpu("T4").bf16


@pytest.mark.parametrize("text", ["", "0GiB", "GTX 1080", "16TB", "-4GiB"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(ConfigError, match="--gpu"):
        wanted_gpu(text)


def test_the_gpu_that_the_driver_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 143771'\necho 'NVIDIA H200, 9.0, 143771'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_here() == GpuMemory("NVIDIA H200", 143771 / 1024, groups=True)
    # As training does, it looks at the first that is visible.
    program.write_text('#!/bin/sh\n[ "$1 $2" = "-i 1" ] && echo "Tesla T4, 7.5, 15360"\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu_here() == GpuMemory("Tesla T4", 15.0, bf16=False)
    # Also where the name says nothing.
    program.write_text('#!/bin/sh\necho "Tesla V100-SXM2-32GB, 7.0, 32768"\n')
    assert gpu_here() == GpuMemory("Tesla V100-SXM2-32GB", 32.0, bf16=False)
    program.write_text('#!/bin/sh\necho "NVIDIA RTX 6000 Ada Generation, 8.9, 49140"\n')
    assert gpu_here() == GpuMemory("NVIDIA RTX 6000 Ada Generation", 49140 / 1024)
    program.write_text("#!/bin/sh\necho 'NVIDIA GB10, 12.1, [N/A]'\n")
    with pytest.raises(MachineError, match="does not tell the memory of NVIDIA GB10"):
        gpu_here()
    program.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(ConfigError, match="no NVIDIA GPU answers here"):
        gpu_here()


def test_what_a_plan_may_use() -> None:
    job = JobConfig()
    assert budget_gib(job, GpuMemory("", 16)) == pytest.approx(15.5 * 0.90)
    limited = JobConfig.model_validate({"performance": {"memory_limit_gib": 15.0}})
    assert budget_gib(limited, GpuMemory("", 140)) == pytest.approx(15 * 0.90)
    assert budget_gib(limited, GpuMemory("", 12)) == pytest.approx(11.5 * 0.90)
    assert budget_gib(job, GpuMemory("", needed_gib(14.0)), LEAST_MARGIN) == pytest.approx(14.0)
