"""The data half of a job: validate, preview and prepare, in this process and as programs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gptoss_ft import inspecting, job
from gptoss_ft.config import LoadedConfig, load_job_config
from gptoss_ft.errors import DataError, ExitCode, HubError, JobError, OutputError

PROJECT = Path(__file__).parents[1]
SMALL = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24, eval_fraction: 0.25}
training: {max_steps: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 1, output_dir: run}
tracking: {report_to: none}
"""

Load = Callable[..., LoadedConfig]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(SMALL)
    return lambda *overrides: load_job_config(Path("job.yaml"), overrides)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_prepare_writes_what_training_sees(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    inspecting.prepare_data(load(), Path("prepared"))
    assert sorted(path.name for path in Path("prepared").iterdir()) == [
        "eval.parquet", "summary.json", "train.parquet",
    ]  # fmt: skip
    train, held_out = rows_of(Path("prepared/train.parquet")), rows_of(Path("prepared/eval.parquet"))
    assert (len(train), len(held_out)) == (18, 6)
    assert list(train[0]) == ["input_ids", "labels", "source", "source_row", "sample_index"]
    assert sorted(row["source_row"] for row in train + held_out) == list(range(24))
    assert {row["sample_index"] for row in train + held_out} == {0}
    assert all(len(row["input_ids"]) == len(row["labels"]) for row in train + held_out)
    summary = json.loads(Path("prepared/summary.json").read_text())
    assert summary["train"]["samples"] == 18
    assert summary["train"]["tokens"] == sum(len(row["input_ids"]) for row in train)
    assert summary["train"]["trained_tokens"] == sum(label != -100 for row in train for label in row["labels"])
    said = capsys.readouterr().out
    assert "24 rows, of which 24 are kept" in said
    assert "dataset.prepared: prepared" in said


def test_training_on_prepared_data_is_the_same_run(load: Load) -> None:
    usual = job.train(load("training.output_dir=usual"))
    inspecting.prepare_data(load(), Path("prepared"))
    handed = job.train(load("training.output_dir=handed", "dataset.prepared=prepared"))
    assert handed.losses == usual.losses
    facts = [json.loads((run.folder / "manifest.json").read_text())["data"]["sha256"] for run in (usual, handed)]
    assert facts[0] == facts[1]


def test_prepare_never_writes_over_a_folder(load: Load) -> None:
    Path("prepared").mkdir()
    Path("prepared/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="prepared is there already"):
        inspecting.prepare_data(load(), Path("prepared"))
    assert Path("prepared/notes.txt").read_text() == "mine"


def test_prepare_leaves_nothing_after_an_error(load: Load, tmp_path: Path) -> None:
    Path("bad.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(DataError, match=r"row 0 \(bad.jsonl:1\): holds no message"):
        inspecting.prepare_data(load("dataset.path=bad.jsonl"), Path("prepared"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "job.yaml"]


def test_validate_says_what_holds(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    errors: list[JobError] = []
    assert inspecting.validate_job(load(), errors.append) == ExitCode.DONE
    assert errors == []
    said = capsys.readouterr().out
    for name in ("config", "model", "data", "disk", "hub"):
        assert f"✓ {name}" in said
    assert "24 rows (none left out), 18 samples to train on" in said
    assert "nothing is pushed" in said


def test_without_a_token_nothing_is_pushed(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspecting.validate_job(load("hub.push=true"), print) == ExitCode.DONE
    assert "nothing is pushed, because HF_TOKEN is not set" in capsys.readouterr().out


def test_validate_goes_on_after_a_mistake_and_ends_with_the_first_ones_code(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSH_TO_HUB", "true")
    Path("bad.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    errors: list[JobError] = []
    code = inspecting.validate_job(load("dataset.path=bad.jsonl", "hub.push=true"), errors.append)
    assert code == ExitCode.DATA
    assert [type(error) for error in errors] == [DataError, HubError]
    assert "ends with a user message" in errors[0].message
    assert errors[1].message == "there is no token to push with"


def run_program(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "train.py"), *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, **env},
    )  # fmt: skip


def code_of(code: str) -> int:
    """The exit code of a fresh process that runs these lines."""
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(PROJECT)}).returncode


def test_preview_as_a_program_shows_the_trained_stretches(load: Load) -> None:
    done = run_program("preview", "--config", "job.yaml", "--samples", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "⟦" in done.stdout and "⟧" in done.stdout
    page = run_program("preview", "--config", "job.yaml", "--html", "page.html")
    assert page.returncode == 0
    assert Path("page.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_commands_about_data_import_no_unsloth(load: Load) -> None:
    code = (
        "import sys; from pathlib import Path; from gptoss_ft import inspecting; "
        "from gptoss_ft.config import load_job_config; "
        "inspecting.validate_job(load_job_config(Path('job.yaml')), print); "
        "sys.exit('unsloth' in sys.modules or 'unsloth_zoo' in sys.modules)"
    )
    assert code_of(code) == 0


def test_validate_of_the_config_alone_imports_nothing_heavy(load: Load) -> None:
    code = (
        "import sys; sys.argv = ['train.py', 'validate', '--config', 'job.yaml', '--config-only']\n"
        "from gptoss_ft.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'pyarrow')))"
    )
    assert code_of(code) == 0
