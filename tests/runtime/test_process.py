"""What a process says of itself."""

import subprocess
import sys
import time


def test_a_process_knows_how_long_it_has_been_running() -> None:
    code = "from gptoss_ft.runtime import process_seconds; print(process_seconds())"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # The kernel counts in hundredths of a second.
    assert 0 < float(said) < time.monotonic() - began + 0.02
