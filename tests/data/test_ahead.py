"""The process that prepares the data while Unsloth is imported."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.data import ahead
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.reporting.console import make_console

MODEL = {"name": "tiny/gpt-oss", "max_seq_length": 256, "load_in_4bit": False, "device": "cpu"}
ROWS = {"path": "tiny/multilingual-thinking", "max_samples": 20}


@pytest.fixture
def _worth_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with cores for two, a cache without the data, and Unsloth still to be imported."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path))
    monkeypatch.delitem(sys.modules, "unsloth")


def job(**changes: dict[str, object]) -> JobConfig:
    return JobConfig.model_validate({"model": MODEL, "dataset": ROWS, **changes})


@pytest.mark.usefixtures("_worth_it")
def test_what_it_prepared_is_what_this_process_would_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = job()
    with ahead.data_ahead(wanted) as other:
        assert other._process is not None
        # Else a terminal's ctrl-C would reach it, too.
        assert os.getpgid(other._process.pid) == other._process.pid
        other.wait(lambda rows, samples: None)
    assert len(list((tmp_path / "prepared").glob("*/train.arrow"))) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").glob("*/*")}
    tokenizer = load_job_tokenizer(wanted.model)
    theirs = prepare(wanted, open_entries(wanted), tokenizer)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").glob("*/*")} == before

    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "own"))
    ours = prepare(wanted, open_entries(wanted), tokenizer)
    assert theirs.summary == ours.summary
    assert theirs.summary.train.samples == 20
    assert theirs.train.equals(ours.train)


@pytest.mark.usefixtures("_worth_it")
def test_it_tells_of_its_progress(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello %d"}]}\n'
    (tmp_path / "rows.jsonl").write_text("".join(row % number for number in range(600)))
    told: list[tuple[int, int]] = []
    with ahead.data_ahead(job(dataset={"path": str(tmp_path / "rows.jsonl")})) as other:
        other.wait(lambda rows, samples: told.append((rows, samples)))
    assert told == [(256, 256), (512, 512)]


@pytest.mark.usefixtures("_worth_it")
@pytest.mark.parametrize(
    ("changes", "kind", "message", "key"),
    [
        ({"model": {**MODEL, "max_seq_length": 16}}, DataError, "no sample is left to train on", "dataset.path"),
        ({"model": {**MODEL, "max_seq_length": 9000}}, SettingError, "takes at most 4096", "model.max_seq_length"),
    ],
)
def test_its_mistake_is_raised_here(
    changes: dict[str, dict[str, object]], kind: type[Exception], message: str, key: str
) -> None:
    with (
        ahead.data_ahead(job(**changes)) as other,
        pytest.raises(kind, match=message) as raised,
    ):
        other.wait(lambda rows, samples: None)
    assert raised.value.key == key  # type: ignore[attr-defined]  # both kinds are JobErrors
    assert raised.value.cure  # type: ignore[attr-defined]


def test_what_it_waits_for_is_told_here(capsys: pytest.CaptureFixture[str]) -> None:
    make_console()
    with subprocess.Popen(["echo", '{"notice": "the hub is busy"}'], stdout=subprocess.PIPE, text=True) as process:
        ahead.DataAhead(process).wait(lambda rows, samples: None)
    assert capsys.readouterr().out == "the hub is busy\n"


@pytest.mark.usefixtures("_worth_it")
def test_it_ends_with_the_run() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ahead.data_ahead(job()) as other:
        process = other._process
        raise KeyboardInterrupt
    assert process is not None
    assert process.returncode == -9
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("_worth_it")
@pytest.mark.parametrize("why_not", ["imported already", "two cores", "prepared already"])
def test_there_is_none_where_it_would_not_help(why_not: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = job()
    if why_not == "imported already":
        monkeypatch.setitem(sys.modules, "unsloth", pytest)
    elif why_not == "two cores":
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    else:
        wanted = job(dataset={"prepared": "somewhere"})
    with ahead.data_ahead(wanted) as other:
        assert other._process is None
        other.wait(lambda rows, samples: None)
