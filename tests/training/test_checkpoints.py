"""What a checkpoint of the tiny job holds, that every damage to one is seen, and what a full disk does."""

import errno
import json
import os
import random
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from gptoss_ft import finetuning, job
from gptoss_ft.config import load_job_config
from gptoss_ft.errors import ExitCode, MachineError, OutputError
from gptoss_ft.job import RunResult
from gptoss_ft.publishing.adapter import save_final_model
from gptoss_ft.reporting.checkpoint_folder import newest_whole, seal, what_is_wrong
from gptoss_ft.reporting.output_folder import Start
from gptoss_ft.training import checkpoints
from gptoss_ft.training.checkpoints import FIRST_SECONDS, CheckpointWriter, HostCopy, Snapshot
from gptoss_ft.training.random_state import random_state, restore_random_state

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 16}
lora: {dropout: 0.1, target_modules: [q_proj, v_proj], modules_to_save: [lm_head]}
training: {max_steps: 4, per_device_train_batch_size: 1, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 2, output_dir: run}
tracking: {report_to: none}
"""
FILES = {
    "adapter_config.json", "adapter_model.safetensors", "checkpoint.json", "optimizer.pt", "rng_state.pth",
    "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "trainer_state.json",
}  # fmt: skip


def train(*overrides: str, restart: bool = False) -> RunResult:
    return job.train(load_job_config(Path("job.yaml"), overrides), Start(restart))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A finished run's folder, and what PEFT's own `save_pretrained` writes after its last step."""
    place = tmp_path_factory.mktemp("finished")
    (place / "job.yaml").write_text(JOB)
    save = save_final_model

    def also_by_peft(model: PeftModel, *others: Any) -> Path:
        model.save_pretrained(str(place / "by_peft"))
        return save(model, *others)

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setattr(finetuning, "save_final_model", also_by_peft)
        train()
    yield place / "outputs" / "run", place / "by_peft"


def test_a_checkpoint_holds_what_peft_writes_and_no_pickle(finished: tuple[Path, Path]) -> None:
    run, by_peft = finished
    checkpoint = run / "checkpoint-4"
    assert {path.name for path in checkpoint.iterdir()} == FILES
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (checkpoint, by_peft))
    assert ours.keys() == theirs.keys()
    assert any("lm_head" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (checkpoint, by_peft)]
    assert configs[0] == configs[1]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert torch.load(checkpoint / name, weights_only=True)
    assert not list(run.rglob("training_args.bin"))


def test_every_damage_to_every_file_is_seen(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = finished
    damages: dict[str, Callable[[bytes], bytes | None]] = {
        "truncated": lambda content: content[: len(content) // 2],
        "emptied": lambda content: b"",
        "flipped": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        "removed": lambda content: None,
    }
    for name in sorted(FILES):
        for damage in damages.values():
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(run, tmp_path / "run")
            file = tmp_path / "run" / "checkpoint-4" / name
            damaged = damage(file.read_bytes())
            file.unlink() if damaged is None else file.write_bytes(damaged)
            found, seen = newest_whole(tmp_path / "run")
            assert found == tmp_path / "run" / "checkpoint-2"
            assert name in seen[0].wrong or name == "checkpoint.json"


def unfinished(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run below `folder`, as it was before its end."""
    monkeypatch.chdir(folder)
    Path("job.yaml").write_text(JOB)
    copied = folder / "outputs" / "run"
    shutil.copytree(run, copied)
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return copied


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    copied = unfinished(run, tmp_path, monkeypatch)
    (copied / ".checkpoint-6.partial").mkdir()
    with (copied / "checkpoint-4" / "optimizer.pt").open("r+b") as stream:
        stream.truncate(1000)
    result = train()
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-4: optimizer.pt has 1,000 bytes of" in said
    assert "set aside as checkpoint-4.damaged-1" in said
    assert "goes on from checkpoint-2" in said
    assert sorted(path.name for path in copied.glob("*checkpoint-*")) == [
        "checkpoint-2", "checkpoint-4", "checkpoint-4.damaged-1",
    ]  # fmt: skip
    for place in ("final_model", "checkpoint-4"):
        ours = (copied / place / "adapter_model.safetensors").read_bytes()
        assert ours == (run / place / "adapter_model.safetensors").read_bytes()
    assert result.losses == [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    write, begin = checkpoints._write_files, CheckpointWriter.write

    def fill_up(snapshot: Snapshot, partial: Path) -> None:
        if snapshot.step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(snapshot, partial)

    def write_at_once(writer: CheckpointWriter, snapshot: Snapshot) -> None:
        begin(writer, snapshot)
        writer.finish()

    with (
        monkeypatch.context() as patched,
        pytest.raises(MachineError, match="checkpoint-4 could not be written: No sp"),
    ):
        patched.setattr(checkpoints, "_write_files", fill_up)
        patched.setattr(CheckpointWriter, "write", write_at_once)
        train("training.max_steps=8", "training.logging_steps=1")
    run = Path("outputs/run")
    assert newest_whole(run) == (run / "checkpoint-2", [])
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert len(train("training.max_steps=8", "training.logging_steps=1").losses) == 8


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda state: state.pop("stateful_callbacks"), "its trainer_state.json lacks StepReporter.last_tokens"),
        (lambda state: state["stateful_callbacks"].pop("_RunTotals"), "its trainer_state.json lacks _RunTotals."),
        (
            lambda state: state["stateful_callbacks"]["StepReporter"]["attributes"].pop("seconds"),
            "its trainer_state.json lacks StepReporter.seconds",
        ),
        (lambda state: state.update(of_another=1), "its trainer_state.json has of_another"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_another_version_wrote_is_refused(
    finished: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], object],
    wrong: str,
) -> None:
    run = unfinished(finished[0], tmp_path, monkeypatch)
    shutil.rmtree(run / "checkpoint-4")
    place = run / "checkpoint-2" / "trainer_state.json"
    state = json.loads(place.read_text())
    change(state)
    place.write_text(json.dumps(state))
    seal(place.parent, 2)
    with pytest.raises(
        OutputError, match=re.escape(f"checkpoint-2 was written by another version: {wrong}")
    ) as refused:
        train()
    assert "--restart" in refused.value.cure
    assert what_is_wrong(place.parent) is None


def test_what_was_copied_does_not_change_with_training() -> None:
    weight = torch.arange(6.0).reshape(2, 3).T
    state = {"state": {0: {"exp_avg": weight, "step": 3}}, "groups": [(weight, "x")]}
    copied = HostCopy().of(state)
    weight.zero_()
    wanted = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(copied["state"][0]["exp_avg"], wanted)
    assert torch.equal(copied["groups"][0][0], wanted)
    assert copied["state"][0]["exp_avg"].is_contiguous()
    assert copied["state"][0]["step"] == 3


def drawn_from_all() -> list[float]:
    return [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]


def test_random_states_go_through_a_file(tmp_path: Path) -> None:
    np.random.seed(3)  # the generator that libraries draw from
    # The second of a pair of normal numbers is kept.
    np.random.standard_normal()
    torch.save(random_state(), tmp_path / "state")
    drawn = drawn_from_all()
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert drawn_from_all() == drawn


class Texts(SimpleNamespace):
    """What a tokenizer and a PEFT config are to a checkpoint."""

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / f"{self.name}.json").write_text("{}")


def snapshot(step: int, values: int = 1000) -> Snapshot:
    weights = {"weight": torch.full((values,), float(step))}
    state = {"optimizer.pt": {"exp_avg": torch.zeros(values)}}
    texts = {"trainer_state.json": "{}"}
    return Snapshot(step, weights, Texts(name="adapter_config"), state, texts, Texts(name="tokenizer"), None)


def test_a_full_disk_is_told_and_earlier_checkpoints_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)], capture_output=True)
    if done.returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        writer = CheckpointWriter(mounted, None)
        with pytest.raises(MachineError, match=r"has 0.00 GiB free; checkpoint-1 needs 0.06"):
            writer.write(snapshot(1))
        # As where another program takes the space meanwhile, at each of the writes.
        monkeypatch.setattr(checkpoints, "BESIDE_BYTES", -(1 << 40))
        writer.write(snapshot(1))
        writer.wait()
        for megabytes in (3.9, 3.2, 2.5, 1.8, 0.9):
            filler = mounted / "filler"
            filler.write_bytes(bytes(int((3.9 - megabytes) * (1 << 20))))
            writer.write(snapshot(2, 600_000))
            with pytest.raises(MachineError, match=r"checkpoint-2 could not be written: .*[Nn]o space left|failed"):
                writer.wait()
            assert newest_whole(mounted) == (mounted / "checkpoint-1", [])
            assert sorted(path.name for path in mounted.iterdir()) == ["checkpoint-1", "filler"]
            filler.unlink()
        writer.write(snapshot(2))
        writer.wait()
        assert newest_whole(mounted)[0] == mounted / "checkpoint-2"
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_file_that_may_not_grow_is_a_machine_error(tmp_path: Path) -> None:
    """Without root: what a quota does to a write."""
    writer = CheckpointWriter(tmp_path, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        writer.write(snapshot(2, 600_000))
        with pytest.raises(MachineError, match="checkpoint-2 could not be written") as caught:
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == ExitCode.MACHINE
    assert os.listdir(tmp_path) == []


def test_a_defect_of_ours_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, None)
    broken = snapshot(2)
    broken.texts["trainer_state.json"] = None  # type: ignore[assignment]  # that is the defect
    writer.write(broken)
    with pytest.raises(TypeError):
        writer.wait()
    writer.wait()


def test_oldest_checkpoints_make_room_after_the_new_one_is_whole(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 2)
    for step in (2, 4, 6):
        writer.write(snapshot(step))
        writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    assert what_is_wrong(tmp_path / "checkpoint-4") is None


def test_the_first_write_is_expected_to_take_as_long_as_a_slow_disk_needs(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, None)
    writer.expect(4_000_000_000)
    assert writer.expected_seconds == 40.0
    writer.expect(1_000_000)
    assert writer.expected_seconds == FIRST_SECONDS
