"""The job that tests of the command line run, and how a run ended."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptoss_ft.errors import ExitCode

ROOT = Path(__file__).parents[2]
JOB = """\
model:
  name: tiny/llama
  max_seq_length: 256
  load_in_4bit: false
  dtype: float32
  device: cpu
lora:
  target_modules: [q_proj, v_proj]
dataset:
  path: rows.jsonl
training:
  max_steps: 1
  optim: adamw_torch
  gradient_checkpointing: false
  output_dir: run
tracking:
  report_to: none
"""
ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
GOOD_LINE = json.dumps(ROW).encode() + b"\n"
OFFLINE = "is not in the local cache and the hub cannot be reached"
OFFLINE_CURE = (
    "Check the network and HF_HUB_OFFLINE, or download it once with a network. "
    "The job configs/smoke.yaml runs without a network."
)


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended."""

    code: int
    stdout: str
    stderr: str

    def check(self, code: ExitCode, *lines: str) -> None:
        """The code, and on stderr the error and its cure, line by line."""
        assert (self.code, self.stderr.splitlines()) == (code, list(lines))

    def begins(self, code: ExitCode, line: str) -> None:
        """The code, and the error, whose cure stands below it."""
        assert (self.code, self.stderr.splitlines()[0]) == (code, line)


Run = Callable[..., Ended]
