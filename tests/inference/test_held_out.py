"""Rows are only called held out where the model's own training held them out."""

from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.errors import SettingError
from gptoss_ft.inference.evaluate_command import evaluate
from gptoss_ft.inference.held_out import leaking_keys, on_trained_rows, without_held_out
from gptoss_ft.subject import find_subject

ROWS: dict[str, Any] = {"path": "data/rows.jsonl", "eval_fraction": 0.2}
OTHER: dict[str, Any] = {"path": "data/other.jsonl", "eval": True}


def made(dataset: Any, seed: int = 1, length: int = 1024) -> JobConfig:
    return JobConfig.model_validate(
        {"dataset": dataset, "training": {"seed": seed}, "model": {"max_seq_length": length}}
    )


@pytest.mark.parametrize(
    ("used", "keys"),
    [
        (made(ROWS), []),
        (made({**ROWS, "max_invalid_fraction": 0.1}), []),
        # The data has moved.
        (made({**ROWS, "path": "/elsewhere/rows.jsonl"}), []),
        (made(ROWS, seed=2), ["training.seed"]),
        (made({**ROWS, "eval_fraction": 0.3}), ["dataset.eval_fraction"]),
        (made({**ROWS, "max_samples": 5, "split": "test+train"}), ["dataset.split", "dataset.max_samples"]),
        (made(ROWS, length=64), ["model.max_seq_length"]),
        # Nothing is held out, which is another error.
        (made({"path": "data/rows.jsonl"}), []),
        # All rows of the training, as if nobody had seen them.
        (
            made([OTHER | {"path": "data/rows.jsonl"}, {"path": "data/new.jsonl"}]),
            ["dataset[0].eval", "dataset[0].eval_fraction"],
        ),
        (made([{"path": "data/new.jsonl"}, OTHER | {"path": "rows.jsonl"}]), ["dataset[1].path"]),
        # Rows that no training has seen.
        (made([{"path": "data/rows.jsonl"}, OTHER]), []),
        (made([{"path": "data/rows.jsonl"}, OTHER | {"path": "data/rows.jsonl", "split": "test"}]), []),
        (made({"path": "data/other.jsonl", "eval_fraction": 0.2}, seed=2), []),
        (made({"prepared": "somewhere"}), ["dataset.prepared"]),
    ],
)
def test_what_can_be_held_out_although_it_was_trained_on(used: JobConfig, keys: list[str]) -> None:
    assert leaking_keys(made(ROWS), used) == keys


@pytest.mark.parametrize(
    ("trained", "evaluated", "leaks"),
    [
        ("train[:90%]", "train[90%:]", False),
        ("train[:90%]", "train[89%:]", True),
        ("train[10:20]", "train[20:]", False),
        ("train[10:20]", "train[5%:]", True),
        ("train[:-10]", "train[-10:]", True),
        ("train", "train[5:6]", True),
        ("a[:5]+b", "c+a[5:]", False),
        ("a[:5]+b", "b[7:]+a[5:]", True),
    ],
)
def test_slices_of_a_split_that_do_not_meet_share_no_row(trained: str, evaluated: str, leaks: bool) -> None:
    own = made({"path": "ann/rows", "split": trained})
    used = made([{"path": "ann/new"}, {"path": "ann/rows", "split": evaluated, "eval": True}])
    assert bool(leaking_keys(own, used)) == leaks


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs/run"
    (folder / "final_model").mkdir(parents=True)
    (folder / "final_model/adapter_config.json").write_text("{}")
    write_job_file(made(ROWS), folder)
    return folder


def test_the_command_refuses_before_anything_is_loaded(run: Path) -> None:
    subject = find_subject(str(run / "final_model"), None, ["training.seed=2", "dataset.eval_fraction=0.5"])
    with pytest.raises(SettingError, match=r"other settings of dataset.eval_fraction, training.seed: what") as raised:
        evaluate(subject, "eval", None, None)
    assert raised.value.key == "dataset.eval_fraction"
    assert "eval: true" in raised.value.cure


def test_training_rows_are_those_of_the_models_own_job(run: Path) -> None:
    Path("other.yaml").write_text("{dataset: {path: /moved/rows.jsonl, max_samples: 3}, training: {seed: 2}}")
    job = on_trained_rows(find_subject(str(run / "final_model"), Path("other.yaml"), [])).job
    assert (job.datasets[0].path, job.datasets[0].max_samples, job.training.seed) == ("/moved/rows.jsonl", None, 1)
    assert job.datasets[0].eval_fraction == 0.2
    # What --set names was meant.
    asked = find_subject(str(run / "final_model"), Path("other.yaml"), ["dataset.max_samples=2"])
    assert on_trained_rows(asked).job.datasets[0].max_samples == 2


def test_a_trained_model_is_not_told_to_hold_rows_out_now(run: Path) -> None:
    assert "train again with it" in without_held_out(find_subject(str(run / "final_model"), None, []))
    assert without_held_out(find_subject("base", None, [])).startswith("Set dataset.eval_fraction, or")
