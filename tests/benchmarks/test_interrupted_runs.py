"""What is seen of a run, and how it is interrupted and continued."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
runs = importlib.import_module("interrupted_runs")
COUNTS = {"preparation": 3, "step": 10, "save": 8, "end": 2}


def test_what_appears_is_counted_by_phase(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    (cache / "before").mkdir(parents=True)
    events = runs.Events(run, cache)
    events.look()
    assert events.counts == {"preparation": 0, "step": 0, "save": 0, "end": 0}
    (cache / "prepared").mkdir()
    run.mkdir()
    (run / "job.yaml").write_text("")
    events.look()
    assert events.counts == {"preparation": 2, "step": 0, "save": 0, "end": 0}
    (run / "log.jsonl").write_text("a line\n")
    (run / ".checkpoint-2.partial").mkdir()
    (run / ".checkpoint-2.partial" / "optimizer.pt").write_text("half")
    events.look()
    assert events.counts == {"preparation": 2, "step": 1, "save": 2, "end": 0}
    (run / "final_model").mkdir()
    (run / "memory.json").write_text("{}")
    events.look()
    events.look()
    assert events.counts == {"preparation": 2, "step": 1, "save": 2, "end": 2}


def test_a_job_is_interrupted_and_then_ends(tmp_path: Path) -> None:
    output = tmp_path / "outputs" / "run"
    output.mkdir(parents=True)
    moments = []

    def run(moment: tuple[str, int] | None) -> int:
        moments.append(moment)
        if moment is None:
            (output / "manifest.json").write_text(json.dumps({"status": "finished"}))
        return 0 if moment is None else 75

    result = runs.interrupt_and_continue(run, tmp_path, COUNTS, 0, (75,))
    assert moments[-1] is None
    assert len(moments) > 1
    assert all(1 <= moment[1] <= COUNTS[moment[0]] for moment in moments[:-1])
    assert result.interruptions == [f"{phase} {number}" for phase, number in moments[:-1]]
    assert (result.exit_codes, result.different) == ([75] * (len(moments) - 1) + [0], [])


@pytest.mark.parametrize(("expected", "wrong"), [((75,), 0), ((-9,), 1)])
def test_another_exit_code_is_told(expected: tuple[int, ...], wrong: int, tmp_path: Path) -> None:
    output = tmp_path / "outputs" / "run"
    output.mkdir(parents=True)
    (tmp_path / "screen").write_text("its last words")

    def run(moment: tuple[str, int] | None) -> int:
        (output / "manifest.json").write_text(json.dumps({"status": "finished"}))
        return 75 if moment else 0

    result = runs.interrupt_and_continue(run, tmp_path, COUNTS, 0, expected)
    assert result.exit_codes == [75]
    assert [different.partition(":")[2] for different in result.different] == [" its last words"] * wrong


def test_runs_that_were_not_interrupted_do_not_count() -> None:
    told = [(runs.Continued(seed, ["step 1"] * (seed % 2)), {}) for seed in range(20)]
    assert [result.seed for result, _ in runs.enough(iter(told), 2)] == [0, 1, 2, 3]
    assert len(list(runs.enough(iter(told[::2]), 2))) == 6
