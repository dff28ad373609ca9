"""Where weights go, by what the machine and its container leave."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gptoss_ft.runtime import GIB, stock_environment
from gptoss_ft.verification import placement as placing
from gptoss_ft.verification.placement import available_memory, placement

V2 = ("memory.max", "memory.current", "memory.stat", "active_file {}\ninactive_file {}\nanon 7")
V1 = (
    "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
    "total_active_file {}\ntotal_inactive_file {}\ncache 7",
)  # fmt: skip


@pytest.mark.parametrize("names", [V2, V1])
@pytest.mark.parametrize(
    ("limit", "left"),
    [(str(8 * GIB), 4 * GIB), (str(100 * GIB), 64 * GIB), ("max", 64 * GIB), ("9223372036854771712", 64 * GIB)],
)
def test_a_containers_limit_counts_without_the_files_it_has_read(
    names: tuple[str, str, str, str], limit: str, left: int, tmp_path: Path
) -> None:
    """Of 6 GiB in use 2 are of files."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {64 * GIB // 1024} kB\n")
    assert available_memory(tmp_path) == 64 * GIB
    for name, content in zip(names, (limit, str(6 * GIB), names[3].format(GIB, GIB)), strict=False):
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert available_memory(tmp_path) == left


@pytest.mark.parametrize(
    ("size", "device", "wanted"),
    [
        (20, "cuda", {"device_map": {"": 0}}),
        (22, "cuda", {}),
        (22, "cpu", {}),
        (31, "cuda", {"device_map": "auto", "max_memory": {"cpu": 30 * GIB, 0: 21 * GIB}}),
        (31, "cpu", {"device_map": "auto", "max_memory": {"cpu": 30 * GIB}}),
    ],
)
def test_weights_go_to_the_gpu_else_to_memory_else_to_both_and_the_disk(
    size: int, device: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * GIB, 80 * GIB))
    monkeypatch.setattr(placing, "available_memory", lambda: 32 * GIB)
    offload = {"offload_folder": str(tmp_path)} if "max_memory" in wanted else {}
    assert placement(size * GIB, device, tmp_path) == wanted | offload


OFFLOADED = """
import sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
from pathlib import Path
from transformers import AutoModelForCausalLM
from gptoss_ft.verification import placement, probe

ids, eager = list(range(1, 40)), {"attn_implementation": "eager"}
wanted = probe._logits(AutoModelForCausalLM.from_pretrained(sys.argv[1], **eager), ids)
for room, places in ((0, {"disk"}), (350_000, {"cpu", "disk"})):
    placement.available_memory = lambda: room + placement.CPU_MARGIN
    options = placement.placement(10**9, "cpu", Path(sys.argv[2]) / str(room))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **eager, **options)
    assert set(model.hf_device_map.values()) == places, model.hf_device_map
    assert (probe._logits(model, ids) - wanted).abs().max() <= 1e-5
    assert probe._device_of(model) == "cpu"
"""


def test_a_model_on_the_disk_answers_as_in_memory(tiny_gpt_oss: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OFFLOADED, str(tiny_gpt_oss), str(tmp_path)]
    ended = subprocess.run(command, env=stock_environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
