"""The container's entry: `python train.py --config FILE [--set KEY=VALUE …]` trains; other commands by name."""

import sys

# The folder that a job is started from stays as it was.
sys.dont_write_bytecode = True

from gptoss_ft.cli import program  # noqa: E402  # after the line above, or our own bytecode would be written

if __name__ == "__main__":
    program()
