"""The `plan` command, as a program: what it prints, its exit code, and that it imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_known_lengths import JOB, ROW
from test_shapes import GPT_OSS

from gptoss_ft.errors import ExitCode

PROJECT = Path(__file__).parents[2]
CONFIG = {
    **GPT_OSS,
    "quantization_config": {
        "quant_method": "bitsandbytes", "llm_int8_skip_modules": ["router", "embed_tokens", "lm_head"],
    },
}  # fmt: skip
HEAVY = ("torch", "transformers", "unsloth", "datasets", "peft", "trl", "tokenizers", "pyarrow", "pandas")
REMEMBERING = """\
import sys
from pathlib import Path
from gptoss_ft.config import load_job_config
from gptoss_ft.data.summary import SplitSummary, Summary
from gptoss_ft.planning.known_lengths import remember
train = SplitSummary(lengths={600: 150, 1024: 50})
remember(load_job_config(Path("job.yaml"), []).job, Summary(key="", tokenizer="", max_seq_length=1024, train=train))
"""
WITH_IMPORTS_SHOWN = """\
import sys
from gptoss_ft.cli import main
try:
    main()
finally:
    print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(CONFIG))
    Path("rows.jsonl").write_text(ROW % "Hello")
    Path("job.yaml").write_text("model: {name: ./model}\ndataset: {path: rows.jsonl}\n")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python(WITH_IMPORTS_SHOWN.format(heavy=HEAVY), "plan", "--config", "job.yaml", *arguments)


def test_a_plan_from_what_is_known_needs_no_heavy_import() -> None:
    assert python(REMEMBERING).returncode == 0
    found = plan("--gpu", "H200")
    assert (found.returncode, found.stderr) == (ExitCode.DONE, "[]\n")
    said = [line.strip() for line in found.stdout.splitlines()]
    assert "parameters      20,914,757,184" in said
    assert "weights         experts in 4 bits (NF4), attention in 4 bits (NF4)" in said
    assert "trainable       92,454,912" in said
    assert "samples         200, of 706 tokens on average and 1,024 at most" in said
    assert any(line.startswith("base weights              11.66   █") for line in said)
    assert any(line.startswith("samples end to end in rows of at most ") for line in said)
    assert any(line.startswith("about ") and line.endswith(" for the job") for line in said)


def test_a_gpu_that_is_too_small_ends_with_what_would_do() -> None:
    python(REMEMBERING)
    found = plan("--gpu", "12GiB", "--set", "training.optim=adamw_torch")
    assert found.returncode == ExitCode.MACHINE
    end = found.stdout.splitlines()[-2:]
    assert end == ["does not fit; each of these alone would do:", "  a GPU of 16 GiB"]


def test_without_a_gpu_one_is_to_be_named() -> None:
    found = python("from gptoss_ft.cli import main; main()", "plan", "--config", "job.yaml")
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    assert found.returncode == ExitCode.CONFIG
    assert found.stderr == (
        "error: plan: no NVIDIA GPU answers here (nvidia-smi), and none is named\n"
        "Say which one the plan is for: --gpu 16GiB, or --gpu H100.\n"
    )


def test_an_architecture_that_is_not_known_is_said_to_be_none() -> None:
    python(REMEMBERING)
    Path("model/config.json").write_text('{"model_type": "mamba"}')
    found = plan("--gpu", "24GiB")
    assert found.returncode == ExitCode.DONE
    assert found.stdout.splitlines()[-1] == (
        "  computed as `training` says  the model's architecture is not known here"
    )


def test_a_tiny_job_from_its_rows() -> None:
    Path("job.yaml").write_text(JOB)
    first, again = plan("--gpu", "8GiB"), plan("--gpu", "8GiB")
    assert (first.returncode, again.returncode) == (0, 0)
    assert first.stdout.startswith("preparing the data, whose lengths are not known yet\n")
    assert "prepared now" in first.stdout and "prepared before" in again.stdout
    # The embedded model is made of its tokenizer, too.
    assert again.stderr == "['tokenizers']\n"
