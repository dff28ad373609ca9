"""Which plan a run has, by its device, its model and its job."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.data.summary import SplitSummary, Summary
from gptoss_ft.errors import SettingError
from gptoss_ft.planning import run_plan
from gptoss_ft.planning.run_plan import plan_run
from gptoss_ft.runtime import Device

H200 = Device(kind="cuda", name="NVIDIA H200", total_gib=139.8, bf16=True)


def summary(**lengths: int) -> Summary:
    counted = {int(length.removeprefix("of_")): count for length, count in lengths.items()}
    samples, tokens = sum(counted.values()), sum(length * count for length, count in counted.items())
    train = SplitSummary(samples=samples, rows=samples, tokens=tokens, trained_tokens=tokens, lengths=counted)
    return Summary(key="", tokenizer="", max_seq_length=256, train=train)


def job(folder: Path, **sections: Any) -> JobConfig:
    model = {"name": str(folder), "load_in_4bit": False, "max_seq_length": 256}
    return JobConfig.model_validate({"model": model, **sections})


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU to ask how much of it is free."""
    monkeypatch.setattr(run_plan, "free_gpu_gib", lambda device: 139.0 if device.kind == "cuda" else 16.0)


SOME = summary(of_40=30, of_100=20, of_200=4)


def test_on_a_gpu_samples_are_packed(tiny_gpt_oss: Path) -> None:
    planned = plan_run(job(tiny_gpt_oss), str(tiny_gpt_oss), SOME, H200)
    assert planned.plan.rows == "packed"
    assert planned.plan.fits
    # The whole step in one row: 4 of the longest samples are the most that it can hold.
    assert planned.plan.row_tokens >= 3 * 200
    assert planned.plan.checkpointed_layers == 0
    assert planned.gpu.total_gib == 139.5


def test_what_others_hold_is_not_counted_on(tiny_gpt_oss: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_plan, "free_gpu_gib", lambda device: 20.0)
    assert plan_run(job(tiny_gpt_oss), str(tiny_gpt_oss), SOME, H200).gpu.total_gib == 20.5


def test_without_bfloat16_the_plan_is_off(tiny_gpt_oss: Path) -> None:
    t4 = Device(kind="cuda", name="Tesla T4", total_gib=15.0, bf16=False)
    planned = plan_run(job(tiny_gpt_oss), str(tiny_gpt_oss), SOME, t4)
    assert planned.plan.rows == "as configured"
    assert "bfloat16" in planned.plan.reasons[0].why
    # Then Unsloth decides where the embedding is.
    assert planned.offload == "auto"


def test_on_a_cpu_the_step_is_as_configured(tiny_gpt_oss: Path, device: Device) -> None:
    planned = plan_run(job(tiny_gpt_oss), str(tiny_gpt_oss), SOME, device)
    assert planned.plan.rows == "as configured"
    assert [reason.why for reason in planned.plan.reasons] == ["a plan is for a GPU"]


def test_dropout_keeps_the_plan_off(tiny_llama: Path) -> None:
    planned = plan_run(job(tiny_llama, lora={"dropout": 0.1}), str(tiny_llama), SOME, H200)
    assert planned.plan.rows == "as configured"
    assert "lora.dropout" in planned.plan.reasons[0].why


def test_packing_is_refused_where_documents_would_see_each_other(tmp_path: Path) -> None:
    config = {"model_type": "gemma2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64, "vocab_size": 99}))
    with pytest.raises(SettingError, match="cannot be packed") as refused:
        plan_run(job(tmp_path, training={"packing": True}), str(tmp_path), SOME, H200)
    assert refused.value.key == "training.packing"
