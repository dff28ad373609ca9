"""Room for checkpoints, found out before the model is loaded."""

from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import MachineError
from gptoss_ft.planning import disk
from gptoss_ft.planning.disk import refuse_too_little_disk


def job_of(**training: Any) -> JobConfig:
    return JobConfig.model_validate(
        {
            "model": {"name": "tiny/gpt-oss", "load_in_4bit": False, "device": "cpu"},
            "training": {"max_steps": 100, "save_steps": 10, "optim": "adamw_torch", **training},
        }
    )


@pytest.mark.parametrize(
    ("training", "checkpoints"),
    [
        ({"save_total_limit": None}, 10),
        ({"save_total_limit": 1}, 3),
        ({"save_total_limit": 4}, 5),
        ({"max_steps": 5}, 1),
        ({"max_steps": None, "num_train_epochs": 2, "save_total_limit": None}, 2),
    ],
)
def test_what_is_needed_is_said(
    training: dict[str, Any], checkpoints: int, tiny_gpt_oss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, rows = job_of(**training), 32
    # 27,648 trained values: of a float32 adapter and two float32 moments little comes on top of the tokenizer's room.
    needed = (checkpoints + 1) * disk.BESIDE_GIB
    monkeypatch.setattr(disk, "free_gib", lambda folder: needed - 0.001)
    with pytest.raises(MachineError, match=f"has 0.* GiB free; checkpoints .{checkpoints} x 0.03 GiB. and final_model"):
        refuse_too_little_disk(job, str(tiny_gpt_oss), rows, tmp_path)
    monkeypatch.setattr(disk, "free_gib", lambda folder: needed + 0.01)
    refuse_too_little_disk(job, str(tiny_gpt_oss), rows, tmp_path)


def test_checkpoints_that_are_there_need_no_room_again(
    tiny_gpt_oss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "checkpoint-10"
    there.mkdir()
    with (there / "optimizer.pt").open("wb") as stream:
        stream.truncate(1 << 30)
    monkeypatch.setattr(disk, "free_gib", lambda folder: 0.0)
    refuse_too_little_disk(job_of(), str(tiny_gpt_oss), 32, tmp_path)
