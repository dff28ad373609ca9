"""The tiny job goes on from a checkpoint that was named, and with settings that were allowed to change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft import job
from gptoss_ft.config import load_job_config
from gptoss_ft.errors import OutputError
from gptoss_ft.job import RunResult
from gptoss_ft.reporting import same_job
from gptoss_ft.reporting.output_folder import Start

JOB = """
model: {name: tiny/llama, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: rows.jsonl}
lora: {r: 4, target_modules: [q_proj, v_proj]}
training: {max_steps: 4, per_device_train_batch_size: 1, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 2, output_dir: run}
tracking: {report_to: none}
"""
RUN = Path("outputs/run")
Run = Callable[..., RunResult]


def write_rows(number: int) -> None:
    rows = (
        {"messages": [{"role": "user", "content": f"{n} + 1"}, {"role": "assistant", "content": str(n + 1)}]}
        for n in range(number)
    )
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(start: Start, *overrides: str) -> RunResult:
    return job.train(load_job_config(Path("job.yaml"), overrides), start)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of four steps and a checkpoint after each second."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        Path("job.yaml").write_text(JOB)
        write_rows(16)
        train(Start())
    return place


@pytest.fixture(autouse=True)
def _own_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def records(folder: Path = RUN) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def manifest(folder: Path = RUN) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def adapter(folder: Path = RUN) -> bytes:
    return (folder / "final_model" / "adapter_model.safetensors").read_bytes()


def test_from_a_checkpoint_to_the_same_end(capsys: pytest.CaptureFixture[str]) -> None:
    losses, weights, began = [record["loss"] for record in records()], adapter(), manifest()["started"]
    Path("outputs/.run.writer.json").write_text(json.dumps({"host": "box", "process": 7, "since": "then"}))
    train(Start(checkpoint="checkpoint-2"))
    assert [record["loss"] for record in records()] == losses
    assert adapter() == weights == adapter(RUN / "set-aside-1")
    assert (RUN / "set-aside-1/checkpoint-4").is_dir()
    now = manifest()
    (continued,) = now["continued"]
    assert (now["status"], now["started"]) == ("finished", began)
    assert (continued["from"], continued["set_aside"]) == ("checkpoint-2", "set-aside-1")
    assert manifest(RUN / "set-aside-1")["status"] == "finished"
    said = " ".join(capsys.readouterr().out.split())
    assert "earlier run process 7 on box, which began then, is gone without an end; its state is used" in said
    assert "goes on from outputs/run/checkpoint-2" in said
    assert "set aside outputs/run/set-aside-1" in said


def test_an_allowed_learning_rate_is_what_the_rest_is_trained_with() -> None:
    changed = ("training.learning_rate=1e-3", "training.weight_decay=0.5")
    with pytest.raises(OutputError, match=r"learning_rate: 0.005 → 0.001\n  training.weight_decay: 0.01 → 0.5"):
        train(Start(checkpoint="checkpoint-2"), *changed)
    before = {record["step"]: record["learning_rate"] for record in records()}
    assert (RUN / "final_model").is_dir()
    train(Start(checkpoint="checkpoint-2", allowed=("training.learning_rate", "training.weight_decay")), *changed)
    after = {record["step"]: record["learning_rate"] for record in records()}
    # Of the four, the first is that of the warm-up: 0.
    assert {step: after[step] / before[step] for step in (2, 3, 4)} == pytest.approx({2: 1, 3: 0.2, 4: 0.2})
    assert [change["key"] for change in manifest()["continued"][0]["changed"]] == [
        "training.learning_rate",
        "training.weight_decay",
    ]
    assert adapter() != adapter(RUN / "set-aside-1")


def test_a_finished_run_can_be_made_longer() -> None:
    allowed = ("training.max_steps",)
    train(Start(checkpoint="checkpoint-4", allowed=allowed), "training.max_steps=6", "training.save_steps=1")
    assert [record["step"] for record in records()] == [1, 2, 3, 4, 5, 6]
    names = {path.name for path in RUN.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}" for step in (2, 4, 5, 6)}
    assert {path.name for path in (RUN / "set-aside-1").iterdir()} >= {"final_model", "memory_report.json", "log.jsonl"}


def test_other_rows_are_refused_before_anything_has_moved() -> None:
    before = sorted(map(str, RUN.rglob("*")))
    write_rows(15)
    with pytest.raises(OutputError, match=r"data: 16 rows, 16 samples, sha256 \w+ → 15 rows, 15 samples"):
        train(Start(checkpoint="checkpoint-2"))
    assert sorted(map(str, RUN.rglob("*"))) == before
    train(Start(checkpoint="checkpoint-2", allowed=("data",)))
    assert manifest()["data"]["rows"] == 15


def test_an_adapter_of_another_shape_is_not_taken_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(checkpoint="checkpoint-2", allowed=("lora.r",))
    with pytest.raises(OutputError, match=r"lora.r: 4 → 2$"):
        train(start, "lora.r=2")
    monkeypatch.setattr(same_job, "UNFIT_KEYS", frozenset())
    with pytest.raises(OutputError, match="checkpoint-2 holds another adapter than the one that is trained"):
        train(start, "lora.r=2")


def test_another_run_goes_on_from_a_checkpoint_of_this_one() -> None:
    weights = adapter()
    with pytest.raises(OutputError, match=r"^outputs/run holds a job that began .*\n  training.seed: 3407 → 1$"):
        train(Start(checkpoint="outputs/run/checkpoint-2"), "training.output_dir=second", "training.seed=1")
    train(Start(checkpoint="outputs/run/checkpoint-2"), "training.output_dir=second")
    second = Path("outputs/second")
    assert adapter(second) == weights
    assert records(second)[:2] == records()[:2]
    assert {path.name for path in second.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert (RUN / "checkpoint-4").is_dir() and not list(RUN.glob("set-aside-*"))
