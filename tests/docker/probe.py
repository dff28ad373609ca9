"""Stands in for train.py in the container: tells what the job would see, writes a file, or waits for a signal."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def can_write(folder: str) -> bool:
    try:
        (Path(folder) / "probe").write_text("")
    except OSError:
        return False
    (Path(folder) / "probe").unlink()
    return True


def status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def tell() -> None:
    folders = ("/", "/opt/gptoss_ft", "/opt/venv", "/job", "/tmp", "/cache", "/outputs")
    facts = {
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),
        "user": [os.getuid(), os.getgid()],
        "writable": [folder for folder in folders if can_write(folder)],
        "capabilities": int(status("CapEff"), 16),
        "no_new_privileges": status("NoNewPrivs"),
        "home": str(Path.home()),
        "shared_memory_gib": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize / 1024**3,
        "environment": {name: value for name, value in os.environ.items() if not name.endswith(("TOKEN", "KEY"))},
        "token": "HF_TOKEN" in os.environ,
    }
    if "--config" in sys.argv:
        facts["config"] = Path(sys.argv[sys.argv.index("--config") + 1]).read_text()
    Path("/outputs/new").mkdir(exist_ok=True)
    Path("/outputs/new/file").write_text("")
    print(json.dumps(facts))


def wait() -> None:
    received: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: received.append(signal.Signals(number).name))
    print("ready", flush=True)
    deadline = time.monotonic() + 60
    while not received and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    print("received", *received, flush=True)
    sys.exit(75)


wait() if "wait" in sys.argv else tell()
