"""What torch remembers of sizes that change, in processes of their own, by what it compiles."""

import subprocess
import sys
from pathlib import Path

from gptoss_ft.runtime import fresh_environment

PROGRAM = """
import sys
import torch
from torch._dynamo.utils import counters
from gptoss_ft.runtime import remember_changing_sizes

remember_changing_sizes(sys.argv[1])
weight = torch.ones(8)

@torch.compile(backend="eager")
def row(x):
    return (x * weight).sum()

for length in sys.argv[2:]:
    row(torch.ones(int(length), 8))
print(counters["stats"]["unique_graphs"])
"""


def compiled(cache: Path, model: str, *lengths: int) -> int:
    """How many times a process compiles for rows of these lengths."""
    # Without a GPU Unsloth, which tests import, switches compilation off.
    environment = {**fresh_environment(), "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHDYNAMO_DISABLE": "0"}
    command = [sys.executable, "-c", PROGRAM, model, *map(str, lengths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return int(done.stdout)


def test_lengths_that_changed_once_are_compiled_for_at_once(tmp_path: Path) -> None:
    # For the first length, and for all that come.
    assert compiled(tmp_path, "a model", 5, 7, 9) == 2
    assert compiled(tmp_path, "a model", 11, 13, 15) == 1
    # Another model's sizes are its own.
    assert compiled(tmp_path, "another", 11, 13) == 2
