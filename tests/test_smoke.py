"""The smoke job as a user starts it: a process of its own, from a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_smoke_job_learns_and_leaves_nothing_outside_its_folders(tmp_path: Path) -> None:
    home, started_from, temporary = (tmp_path / name for name in ("home", "started-from", "tmp"))
    for folder in (home, started_from, temporary):
        folder.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("UNSLOTH", "TORCH", "TRITON"))},
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "GPTOSS_FT_CACHE": str(tmp_path / "cache"),
        "GPTOSS_FT_OUTPUT_ROOT": str(tmp_path / "outputs"),
        "HF_HOME": str(tmp_path / "cache" / "huggingface"),
    }
    code_before = files_below(ROOT / "gptoss_ft")
    finished = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--config", str(ROOT / "configs" / "smoke.yaml")],
        cwd=started_from, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "==((====))==" not in finished.stdout
    assert "\x1b[" not in finished.stdout

    assert files_below(home) | files_below(started_from) | files_below(temporary) == set()
    assert files_below(ROOT / "gptoss_ft") == code_before
    records = [json.loads(line) for line in (tmp_path / "outputs/smoke/log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 200
    assert records[0]["loss"] - records[-1]["loss"] >= 0.8
