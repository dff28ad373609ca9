"""A few of the writes at which a disk becomes full; all of them: benchmarks/full_disk.py."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))
filling_disk, full_disk = (importlib.import_module(name) for name in ("filling_disk", "full_disk"))


def test_a_run_meets_a_full_disk_and_goes_on(tmp_path: Path) -> None:
    command = [
        "unshare", "--user", "--map-root-user", "--mount",
        sys.executable, str(REPOSITORY / "benchmarks" / "full_disk.py"), "--file-system", "tmpfs", "--points", "2",
        "--seed", "1", "--left", "0", "--output", str(tmp_path / "results.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = process.communicate(timeout=280)[0].decode()
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["wrong"] for result in results] == [[], []]
    assert {result["exit_code"] for result in results} <= {0, 3, 4}


def test_each_write_is_met_the_first_and_the_last_time() -> None:
    moments = [filling_disk.Moment(what, time) for what, time in [("a", 1), ("b", 1), ("a", 2), ("a", 3)]]
    points = full_disk.plan(moments, ["blocks", "inodes"], [0, 512])
    assert [(point.moment.what, point.moment.time) for point in points[::3]] == [("a", 1), ("b", 1), ("a", 3)]
    assert [(point.lacking, point.left) for point in points[:3]] == [("blocks", 0), ("blocks", 512), ("inodes", 0)]


def test_writes_of_python_and_of_libraries_are_heard(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import pyarrow as pa
import torch
from safetensors.torch import save_file
from filling_disk import Watch

folder = Path(sys.argv[1])
(folder / "old").write_text("")
Watch(folder, lambda moment: print(moment.what, moment.time)).begin()
(folder / "new").mkdir()
(folder / "new" / f"file.{os.getpid()}").write_text("a")
(folder / "new" / f"file.{os.getpid()}").replace(folder / "new" / "file")
(folder / "old").open("a").close()
(folder / "old").read_text()
(folder.parent / "elsewhere").write_text("")
save_file({"a": torch.zeros(1)}, folder / "weights")
pa.OSFile(str(folder / "table"), "wb").close()
"""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "benchmarks")])
    (tmp_path / "disk").mkdir()
    heard = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "disk"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert heard.returncode == 0, heard.stderr
    assert heard.stdout.splitlines() == ["new 1", "new/file.N 1", "new/file 1", "old 1", "weights 1", "table 1"]
