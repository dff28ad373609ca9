"""What the contenders of the speed benchmark share: the rows, and the watch over our own log."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
rows, contenders, measure, speed, longest = (
    importlib.import_module(name)
    for name in ("peers.rows", "peers.contenders", "peers.measure", "training_speed", "longest")
)


def test_lengths_are_log_normal_and_a_tenth_is_cut() -> None:
    lengths = rows.draw_lengths("lognormal", 20_000, 1024, seed=1)
    assert np.median(lengths) == pytest.approx(600, rel=0.02)
    assert (lengths == 1024).mean() == pytest.approx(0.1, abs=0.01)
    assert lengths.max() == 1024 and lengths.min() >= 8
    assert np.std(np.log(lengths[lengths < 600])) > 0.2
    # The same shape at another length, and the same draw from the same seed.
    assert np.median(rows.draw_lengths("lognormal", 20_000, 4096, seed=1)) == pytest.approx(2400, rel=0.02)
    assert np.array_equal(lengths, rows.draw_lengths("lognormal", 20_000, 1024, seed=1))
    assert set(rows.draw_lengths("full", 5, 77, seed=0).tolist()) == {77}


def test_rows_hold_every_id_but_the_padding(tmp_path: Path) -> None:
    drawn = rows.draw_rows(np.array([500, 300, 200]), vocabulary=16, padding_id=3, seed=0)
    assert set(drawn.ids.tolist()) == set(range(16)) - {3}
    assert [len(row) for row in drawn.each()] == [500, 300, 200]
    drawn.save(tmp_path / "rows.npz")
    again = rows.Rows.load(tmp_path / "rows.npz")
    assert np.array_equal(again.ids, drawn.ids) and np.array_equal(again.lengths, drawn.lengths)
    assert rows.Rows(drawn.ids, np.array([100, 200, 300, 400])).tokens_of_steps(2) == [300, 700]
    dataset = drawn.dataset()
    assert dataset[1]["input_ids"] == dataset[1]["labels"] == drawn.ids[500:800].tolist()


def test_a_trainer_that_shuffles_takes_the_rows_in_their_order() -> None:
    drawn = rows.draw_rows(np.arange(8, 28), vocabulary=100, padding_id=0, seed=0)
    laid = rows.shuffled_back(drawn, seed=3407)
    sampler = RandomSampler(laid, generator=torch.Generator().manual_seed(3407))
    assert [len(laid[index]) for index in sampler] == list(range(8, 28))


def record(step: int, tokens: int, seconds: float) -> str:
    return json.dumps({"step": step, "tokens": tokens, "seconds": seconds, "loss": 2.0, "gib": 10.0 + step}) + "\n"


def test_our_log_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    watch = contenders.LogWatch(log, steps=2)
    assert not watch.is_complete() and watch.first_step_at == 0.0
    log.write_text(record(1, 100, 1.5) + record(2, 250, 2.25)[:-5])
    assert not watch.is_complete() and watch.first_step_at > 0
    log.write_text(record(1, 100, 1.5) + record(2, 250, 2.25))
    assert watch.is_complete()
    steps = watch.steps([100, 150])
    assert (steps.seconds, steps.tokens, steps.peak_reserved_gib) == ([1.5, 0.75], [100, 150], 12.0)
    with pytest.raises(contenders.ContenderError, match="other samples in a step"):
        watch.steps([150, 100])


def test_a_summary_counts_the_steps_after_the_warm_up() -> None:
    steps = measure.Steps([9.0, 1.0, 2.0, 4.0], [100, 100, 400, 400], [1.0] * 4, 12.345, 0.0)
    result = speed.summarize("ours", steps, 31.25, warm_up=1)
    assert (result.tokens_per_second, result.step_seconds) == (100.0, 2.0)
    assert (result.peak_reserved_gib, result.first_step_seconds) == (12.35, 31.2)


def test_of_our_console_the_choices_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "ours.log"
    log.write_text(
        "config\nlooking for the device, the data\nplan\n  rows  384\n\n  step  loss  learning rate\n"
        "  1/2  7.5  0.00e+00\n  a step did not fit\n  2/2  7.4  4.00e-05\nsaving\n"
    )
    speed.show_choices(log)
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["  | plan", "  |   rows  384", "  |   step  loss  learning rate", "  |   a step did not fit"]


def test_a_cap_is_of_one_contender_or_of_all() -> None:
    given = ["--model", "m", "--json", "j", "--contenders", "ours,ours@15.0,trl-2@40,trl-4-whole", "--cap", "80"]
    arguments = speed.parse_arguments(given)
    tasks = [speed.task_of(contender, arguments, Path("f")) for contender in arguments.contenders]
    assert [task.cap_gib for task in tasks] == [80, 15, 40, 80]
    assert [task.micro_batch for task in tasks] == [1, 1, 2, 4]
    assert [task.recompute for task in tasks] == [True, True, True, False]
    assert list(map(str, arguments.contenders)) == ["ours", "ours@15", "trl-2@40", "trl-4-whole"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "ours@much"], "invalid contenders value"),
        (["--contenders", "ours,theirs"], "theirs: want ours, notebook, padded, trl-N or trl-N-whole"),
        (["--contenders", "trl-16"], "--effective-batch 4 is no multiple of it"),
        (["--warm-up", "25"], "want fewer than --steps 25"),
        (["--experts", "cookbook"], "ours wants --model-16bit"),
    ],
)
def test_arguments_that_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        speed.parse_arguments(["--model", "m", "--json", "j", *arguments])
    assert message in capsys.readouterr().err


def test_targets_of_the_same_experts_by_both_names() -> None:
    task = measure.Task("m", "r", 4, 1, 128, "cookbook", "cuda", None)
    setting = contenders.Setting(Path("f"), Path("c"), Path("p"), (), 1.0)
    assert len(task.fused_targets()) == 6 and task.fused_targets()[0] == "7.mlp.experts.gate_up_proj"
    job = contenders.job_of(task, 10, setting)
    assert job["lora"]["target_parameters"] == task.fused_targets()
    assert job["model"]["load_in_4bit"] is False
    every = contenders.job_of(measure.Task("m", "r", 4, 1, 128, "all", "cuda", None), 10, setting)
    assert every["lora"]["target_modules"][-3:] == ["gate_proj", "up_proj", "down_proj"]
    assert every["model"]["load_in_4bit"] is True and "target_parameters" not in every["lora"]


@pytest.mark.parametrize("limit", [0, 1, 5, 7, 8, 31, 32, 33, 63, 64])
@pytest.mark.parametrize("start", [1, 8, 64, 500])
def test_the_search_finds_the_longest_length(limit: int, start: int) -> None:
    asked: list[int] = []

    def trains(length: int) -> bool:
        asked.append(length)
        return length <= limit * 1024

    found = longest.search(trains, start * 1024, 1024, 64 * 1024, lambda: True)
    assert found == (limit * 1024, True)
    assert len(asked) == len(set(asked)) <= 2 * math.log2(64) + 2
    assert max(asked) <= 64 * 1024


def test_the_search_ends_with_its_time() -> None:
    left = iter([True, True, False])
    assert longest.search(lambda length: True, 8192, 1024, 131072, lambda: next(left)) == (16384, False)
