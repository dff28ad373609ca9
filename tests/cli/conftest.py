"""What a user's mistake looks like: the exit code of its kind, one message with its place, and no traceback.

Most tests run `main` in this process, where an exception that is not a user's would end the test; a few start train.py.
"""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import GOOD_LINE, JOB, Ended, Run

from gptoss_ft import cli


@pytest.fixture(autouse=True)
def _job_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB, encoding="utf-8")
    Path("rows.jsonl").write_bytes(GOOD_LINE)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `main` here, with job.yaml unless the arguments begin with another word."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def train(run: Run) -> Run:
    """Train job.yaml, with `KEY=VALUE` for keys that are to be otherwise."""

    def train(*overrides: str) -> Ended:
        return run("--config", "job.yaml", *(word for override in overrides for word in ("--set", override)))

    return train


@pytest.fixture
def model(tiny_llama: Path) -> Callable[..., str]:
    """Make a copy of the tiny llama in ./model, without some files or with others; gives the override that names it."""

    def model(**files: bytes | None) -> str:
        shutil.copytree(tiny_llama, "model")
        for name, content in files.items():
            path = Path("model", name.replace("__", "."))
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        return "model.name=./model"

    return model
