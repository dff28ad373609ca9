"""Wrong configs through the command line: each is a job, or errors with their places. The full count is run by
benchmarks/fuzz_configs.py."""

import importlib
import sys
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
broken_configs, fuzz_configs = (importlib.import_module(name) for name in ("broken_configs", "fuzz_configs"))


def test_hundreds_of_wrong_configs_are_jobs_or_named_mistakes(tmp_path: Path) -> None:
    judged = fuzz_configs.fuzz(500, 6, tmp_path, tmp_path / "findings")
    assert [result.outcome for result in judged if result.is_finding] == []
    outcomes = [result.outcome for result in judged]
    assert len(outcomes) == 500
    assert outcomes.count("accepted") >= 10
    assert outcomes.count("refused") >= 400


def test_every_base_is_a_job(tmp_path: Path) -> None:
    for text in broken_configs.bases():
        (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
        assert fuzz_configs.judge(tmp_path / "job.yaml").outcome == "accepted"


def test_the_same_seed_breaks_a_config_in_the_same_way() -> None:
    base = broken_configs.bases()[0]
    assert broken_configs.broken(base, Random(5)) == broken_configs.broken(base, Random(5))
    assert broken_configs.broken(base, Random(5)) != broken_configs.broken(base, Random(6))


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["error: job.yaml:1:3: lora: x"], ""),
        (["error: job.yaml:2:1: x", "job.yaml:1:1 (default): a: y", "--set a: z"], ""),
        (["error: job.yaml (default): x"], ""),
        (["job.yaml:1:1: x"], "no error shown"),
        (["error: job.yaml:3:1: x"], "a place that the file does not have"),
        (["error: job.yaml:1:5: x"], "a place that the file does not have"),
        (["error: job.yaml: x"], "an error without its place"),
        (["error: job.yaml:1:1: x", "Traceback"], "an error without its place"),
        (["error: job.yaml:1:1: x"] * 1 + ["job.yaml:1:1: x"] * 50, "more text than anyone reads"),
    ],
)
def test_what_counts_as_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], fault: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("abc\n", encoding="utf-8")
    assert fuzz_configs.fault(lines, Path("job.yaml")) == fault
