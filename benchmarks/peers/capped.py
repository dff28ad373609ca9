"""This project's command line, its process held to so many GiB of the GPU's memory.

python -m peers.capped GIB train --config FILE …
"""

from __future__ import annotations

import sys

from gptoss_ft.cli import main as command_line
from gptoss_ft.runtime import prepare_environment
from peers.measure import hold_to_cap


def main() -> None:
    cap_gib = float(sys.argv.pop(1))
    # CUDA starts here, and reads the allocator's settings.
    prepare_environment()
    hold_to_cap(cap_gib)
    command_line()


if __name__ == "__main__":
    main()
