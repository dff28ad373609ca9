"""Each exit code is listed where users and developers look, and is what a command ends with."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from gptoss_ft import cli, errors, job
from gptoss_ft.errors import ExitCode, JobError
from gptoss_ft.runtime import fresh_environment

ROOT = Path(__file__).parents[1]
JOB = """\
model: {name: ./model, max_seq_length: 64, load_in_4bit: false, dtype: float32, device: cpu}
lora: {r: 4, target_modules: [q_proj, v_proj]}
dataset: {path: rows.jsonl}
training: {max_steps: 1, optim: adamw_torch, gradient_checkpointing: false, output_dir: run}
performance: {plan: off}
tracking: {report_to: none}
"""
ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

Command = Callable[[pytest.MonkeyPatch], list[str]]


def listed(page: str) -> dict[int, str]:
    """The codes of the table below `## Exit codes`, with what the page says of each."""
    section = (ROOT / page).read_text(encoding="utf-8").partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    return {int(code): words for code, words in re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE)}


def test_both_pages_list_the_enumeration() -> None:
    codes = {code.value for code in ExitCode}
    assert set(listed("README.md")) == codes
    named = listed("docs/architecture.md")
    assert {code: re.findall(r"`ExitCode\.(\w+)`", words) for code, words in named.items()} == {
        code.value: [code.name] for code in ExitCode
    }


def kinds(kind: type[JobError] = JobError) -> list[type[JobError]]:
    return [found for direct in kind.__subclasses__() for found in (direct, *kinds(direct))]


def test_each_kind_of_error_has_a_code_and_stands_on_the_page() -> None:
    named = listed("docs/architecture.md")
    for kind in kinds():
        assert isinstance(kind.exit_code, ExitCode), kind
        if kind.__module__ == errors.__name__:
            assert f"`{kind.__name__}`" in named[kind.exit_code], kind


@pytest.fixture(autouse=True)
def _job_in_an_empty_folder(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB, encoding="utf-8")
    Path("rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    shutil.copytree(tiny_llama, "model")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def good(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["validate", "--config-only", "--config", "job.yaml"]


def defect(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def fail(*_: object) -> None:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(job, "train", fail)
    return ["train", "--config", "job.yaml"]


def unknown_key(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["validate", "--config", "job.yaml", "--set", "lora.rank=3"]


def no_data(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Path("rows.jsonl").unlink()
    return ["train", "--config", "job.yaml"]


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return ["train", "--config", "job.yaml", "--set", "model.device=cuda"]


def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["train", "--config", "job.yaml", "--set", "dataset.path=owner/name"]


def unfit_for_the_loader(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Path("model/tokenizer.json").unlink()
    return ["export", "--check", "gguf", "--config", "job.yaml", "--model", "./model"]


def not_finite(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    weights = load_file("model/model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    return ["train", "--config", "job.yaml"]


def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(job, "train", lambda *_: signal.raise_signal(signal.SIGTERM))
    return ["train", "--config", "job.yaml"]


COMMANDS: dict[ExitCode, Command] = {
    ExitCode.DONE: good,
    ExitCode.DEFECT: defect,
    ExitCode.CONFIG: unknown_key,
    ExitCode.DATA: no_data,
    ExitCode.MACHINE: no_gpu,
    ExitCode.HUB: no_hub,
    ExitCode.EXPORT: unfit_for_the_loader,
    ExitCode.NOT_FINITE: not_finite,
    ExitCode.INTERRUPTED: interrupted,
}


@pytest.mark.parametrize("code", list(ExitCode))
def test_a_command_ends_with_each(
    code: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *COMMANDS[code](monkeypatch)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert ("Traceback" in capsys.readouterr().err) == (code == ExitCode.DEFECT)


# Python's end takes a while: a second signal that comes in then.
AT_THE_END = """
import atexit, os, signal
from gptoss_ft.cli import program
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
    atexit.register(os.kill, os.getpid(), number)
program()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["validate", "--config", "nowhere.yaml"], 2)])
def test_a_signal_while_python_ends_changes_no_exit_code(arguments: list[str], code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AT_THE_END, *arguments],
        env=fresh_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
