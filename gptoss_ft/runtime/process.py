"""This process in figures."""

import os
import resource
import time
from pathlib import Path


def process_seconds() -> float:
    """How long ago this process began."""
    # Behind the name, which may hold blanks and brackets, the 20th field: ticks from the machine's start.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_resident_gib() -> float:
    """Peak resident memory of this process, in GiB (`ru_maxrss` is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
