import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from script_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def start(machine: Machine) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`machine.start`, with an end of what it started."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(*arguments: str) -> subprocess.Popen[bytes]:
        started.append(machine.start(*arguments))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
