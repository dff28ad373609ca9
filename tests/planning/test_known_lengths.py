"""Lengths that are remembered, prepared or assumed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_ft import inspecting
from gptoss_ft.config import JobConfig, load_job_config
from gptoss_ft.planning.choice import effective_batch
from gptoss_ft.planning.known_lengths import known_lengths
from gptoss_ft.reporting.console import make_console

ROW = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "%s"}]}\n'
JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: rows.jsonl}
training: {per_device_train_batch_size: 2, gradient_accumulation_steps: 3}
"""

Load = Callable[..., JobConfig]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path / "cache"))
    Path("job.yaml").write_text(JOB)
    Path("rows.jsonl").write_text(ROW % "Hello" + ROW % "Good day to you")
    return lambda *overrides: load_job_config(Path("job.yaml"), overrides).job


def test_prepared_once_and_then_remembered(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    job = load()
    first = known_lengths(job, make_console())
    assert first.source == "prepared now"
    assert "preparing the data" in capsys.readouterr().out
    again = known_lengths(job, make_console())
    assert (again.source, capsys.readouterr().out) == ("prepared before", "")
    assert again.lengths.values.tolist() == first.lengths.values.tolist()
    assert len(again.lengths.values) == 2
    assert again.lengths.effective_batch == effective_batch(job) == 6


def test_other_rows_or_settings_are_not_what_was_prepared(load: Load) -> None:
    known_lengths(load(), make_console())
    assert known_lengths(load("model.max_seq_length=255"), make_console()).source == "prepared now"
    # What does not decide the samples does not matter.
    assert known_lengths(load("training.learning_rate=1e-5"), make_console()).source == "prepared before"
    Path("rows.jsonl").write_text(ROW % "Hello")
    changed = known_lengths(load(), make_console())
    assert (changed.source, len(changed.lengths.values)) == ("prepared now", 1)


def test_a_damaged_memory_is_none(load: Load) -> None:
    known_lengths(load(), make_console())
    [file] = Path(os.environ["GPTOSS_FT_CACHE"], "lengths").iterdir()
    for content in ("{", "[]", "{}", '{"a": 1}'):
        file.write_text(content)
        assert known_lengths(load(), make_console()).source == "prepared now"


def test_data_that_was_handed_over_tells_its_lengths(load: Load) -> None:
    loaded = load_job_config(Path("job.yaml"), [])
    inspecting.prepare_data(loaded, Path("ready"))
    handed_over = known_lengths(load("dataset.prepared=ready"), make_console())
    rendered = known_lengths(load(), make_console())
    assert handed_over.source == "prepared before"
    assert handed_over.lengths.values.tolist() == rendered.lengths.values.tolist()


def test_without_data_every_sample_is_as_long_as_it_may_be(load: Load) -> None:
    known = known_lengths(load("dataset.path=absent.jsonl"), make_console())
    assert known.source.startswith("assumed to be model.max_seq_length, 256: no such file or folder: absent.jsonl")
    assert (known.lengths.assumed, known.lengths.values.tolist()) == (True, [256] * 6)
