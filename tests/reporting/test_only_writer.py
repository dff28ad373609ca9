"""One writer to a folder: who it is, one that was killed, and one in another container."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptoss_ft.errors import OutputError
from gptoss_ft.reporting import only_writer as module
from gptoss_ft.reporting.only_writer import Writer, only_writer

# Holds the folder until its standard input ends.
HOLD = """
import sys
from pathlib import Path
from gptoss_ft.reporting.only_writer import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start a process that holds a folder, and wait until it does."""
    started = []

    def hold(folder: Path, *before: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*before, sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.communicate()


def refusal(folder: Path) -> str:
    with pytest.raises(OutputError) as raised, only_writer(folder):
        pass
    return raised.value.message


def test_a_writer_is_named_while_it_writes_and_forgotten_when_it_ends(tmp_path: Path, hold: Hold) -> None:
    process = hold(tmp_path / "run")
    told = json.loads((tmp_path / ".run.writer.json").read_text())
    assert (told["host"], told["process"]) == (socket.gethostname(), process.pid)
    assert refusal(tmp_path / "run") == (
        f"another process is writing to {tmp_path}/run: process {process.pid} on {socket.gethostname()}, which began "
        f"{told['since']}"
    )
    process.communicate()
    assert process.returncode == 0
    assert not (tmp_path / ".run.writer.json").exists()
    with only_writer(tmp_path / "run") as gone:
        assert gone is None


def test_one_that_was_killed_is_seen_and_is_not_in_the_way(tmp_path: Path, hold: Hold) -> None:
    process = hold(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with only_writer(tmp_path / "run") as gone:
        assert gone is not None and gone.process == process.pid
        mine = Writer(**json.loads((tmp_path / ".run.writer.json").read_text()))
        assert mine.process == os.getpid()
    with only_writer(tmp_path / "run") as gone:
        assert gone is None


@pytest.mark.parametrize("content", ["", "[]", '{"host": "h"}', '{"host": '])
def test_half_a_file_of_a_killed_one_is_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / ".run.writer.json").write_text(content)
    with only_writer(tmp_path / "run") as gone:
        assert gone is None


def test_it_is_the_same_folder_by_another_name(tmp_path: Path, hold: Hold) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "there").symlink_to("run")
    hold(tmp_path / "run")
    assert "is writing to" in refusal(tmp_path / "there")


def test_one_in_another_container_on_the_same_volume_is_seen(tmp_path: Path, hold: Hold) -> None:
    """As the kernel makes containers: own processes, own mounts, another host's name; the folder mounted elsewhere."""
    volume, mounted = tmp_path / "volume", tmp_path / "mounted"
    volume.mkdir()
    mounted.mkdir()
    contained = [
        "unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--uts", "sh", "-c",
        'hostname box && mount --bind "$0" "$1" && shift && exec "$@"', str(volume), str(mounted),
    ]  # fmt: skip
    process = hold(mounted / "run", *contained)
    told = json.loads((volume / ".run.writer.json").read_text())
    # The first process of its own world.
    assert (told["host"], told["process"]) == ("box", 1)
    assert refusal(volume / "run").endswith(f": process 1 on box, which began {told['since']}")
    # And the other way round: one inside finds one outside.
    (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGKILL)
    process.wait()
    with only_writer(volume / "run") as gone:
        assert gone == Writer(**told)
        inside = subprocess.run(
            [*contained, sys.executable, "-c", HOLD, str(mounted / "run")],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert inside.returncode == 1
        assert f"process {os.getpid()} on {socket.gethostname()}" in inside.stderr


def test_where_the_lock_is_there_but_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that was shared, and is read-only by now."""

    def refused(path: Path, content: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module, "write_json", refused)
    assert refusal(tmp_path / "run") == f"{tmp_path}/run cannot be written: Permission denied"
    # And the lock is free again.
    monkeypatch.undo()
    with only_writer(tmp_path / "run") as gone:
        assert gone is None
