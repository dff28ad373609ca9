"""Adapters are where the config asked for them, or the run does not start."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import LoraSection, ModelSection, TrainingSection
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.lora import adapter_facts, attach, check_existing
from gptoss_ft.runtime import Device

MODEL = ModelSection(load_in_4bit=False, dtype="float32", max_seq_length=64)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def adapted(folder: Path, device: Device, **lora: Any) -> Any:
    base = load_base(MODEL, str(folder), device, TrainingSection())
    return attach(base, LoraSection(**lora), device, TrainingSection())


def test_the_default_reaches_attention_and_experts(tiny_gpt_oss: Path, device: Device) -> None:
    facts = adapter_facts(adapted(tiny_gpt_oss, device))
    # Per layer, r 8: q (64+64), k and v (64+32), o (64+64), and for each of 4 experts gate_up (64+128), down (64+64).
    attention = 2 * 8 * (128 + 96 + 96 + 128)
    experts = 2 * 8 * 4 * (192 + 128)
    assert (facts.trainable, facts.expert) == (attention + experts, experts)


def test_attention_alone(tiny_gpt_oss: Path, device: Device) -> None:
    facts = adapter_facts(adapted(tiny_gpt_oss, device, target_modules=ATTENTION))
    assert (facts.trainable, facts.expert) == (2 * 8 * 448, 0)


def test_named_parameters_alone(tiny_gpt_oss: Path, device: Device) -> None:
    one = "layers.1.mlp.experts.down_proj"
    facts = adapter_facts(adapted(tiny_gpt_oss, device, target_modules=["q_proj"], target_parameters=[one]))
    assert facts.expert == 8 * 4 * 128


def test_a_target_that_the_model_lacks_is_refused(tiny_gpt_oss: Path, device: Device) -> None:
    with pytest.raises(SettingError, match=r"no adapter on c_attn: .* adapters are on q_proj") as caught:
        adapted(tiny_gpt_oss, device, target_modules=["q_proj", "c_attn"])
    assert caught.value.key == "lora.target_modules"


def test_targets_of_which_the_model_has_none_are_refused(tiny_gpt_oss: Path, device: Device) -> None:
    with pytest.raises(SettingError, match="the adapter is refused: Target modules"):
        adapted(tiny_gpt_oss, device, target_modules=["c_attn"])


def test_a_parameter_that_the_model_lacks_is_refused(tiny_gpt_oss: Path, device: Device) -> None:
    with pytest.raises(SettingError) as caught:
        adapted(tiny_gpt_oss, device, target_parameters=["mlp.experts.w2"])
    assert caught.value.key in ("lora.target_parameters", "lora.target_modules")


def test_dropout_on_fused_experts_is_refused(tiny_gpt_oss: Path, device: Device) -> None:
    with pytest.raises(SettingError, match=r"read 0\.1, but experts held as one parameter") as caught:
        adapted(tiny_gpt_oss, device, dropout=0.1)
    assert caught.value.key == "lora.dropout"


def test_modules_to_save_are_trained_whole(tiny_gpt_oss: Path, device: Device) -> None:
    facts = adapter_facts(adapted(tiny_gpt_oss, device, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert facts.trainable == 2 * 8 * 128 + 1088 * 64


def test_llama_projections(tiny_llama: Path, device: Device) -> None:
    model = adapted(tiny_llama, device)
    names = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad and "lora_A" in name}
    assert names == {*ATTENTION, "gate_proj", "up_proj", "down_proj"}
    assert adapter_facts(model).expert == 0


def test_a_module_to_save_that_the_model_lacks_is_refused(tiny_gpt_oss: Path, device: Device) -> None:
    with pytest.raises(SettingError, match="the model has no module nonsense to save") as caught:
        adapted(tiny_gpt_oss, device, modules_to_save=["nonsense"])
    assert caught.value.key == "lora.modules_to_save"


def test_a_parameter_of_a_layer_that_is_not_there_is_refused(tiny_gpt_oss: Path, device: Device) -> None:
    names = ["layers.1.mlp.experts.down_proj", "layers.9.mlp.experts.down_proj"]
    with pytest.raises(SettingError, match=r"no adapter on layers\.9.mlp.experts.down_proj"):
        adapted(tiny_gpt_oss, device, target_modules=["q_proj"], target_parameters=names)


EXISTING: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj"],
    "target_parameters": ["mlp.experts.down_proj"],
}
GROUPED = {"parameters": {"down_proj": {"lora_B_layout": "grouped_by_expert", "num_experts": 4}}}


def existing(folder: Path, **content: Any) -> str:
    (folder / "adapter_config.json").write_text(json.dumps({**EXISTING, **content}))
    (folder / "adapter_model.safetensors").touch()
    return str(folder)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"lora_B_layout": "rank_major"},
        {"lora_B_layout": "rank_major", "auto_mapping": {"unsloth_fixed": True}},
        {"target_parameters": None, "auto_mapping": {"unsloth_fixed": True}},
    ],
)
def test_an_adapter_of_the_same_scale_is_accepted(content: dict[str, Any], tmp_path: Path) -> None:
    check_existing(existing(tmp_path, **content), LoraSection())


@pytest.mark.parametrize(
    "content",
    [
        {"lora_B_layout": "grouped_by_expert"},
        {"auto_mapping": {"lora_B_layout": "grouped_by_expert"}},
        {"unsloth_fused_expert_lora": GROUPED},
        {"auto_mapping": {"unsloth_fixed": True}},
    ],
    ids=["says so", "says so in auto_mapping", "says so of one parameter", "from before Unsloth said"],
)
def test_experts_packed_as_an_older_unsloth_did_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    """Loaded as they are, columns of one expert would be another's."""
    with pytest.raises(DataError, match=r"packed as Unsloth packed them before its version 2026\.9\.6") as caught:
        check_existing(existing(tmp_path, **content), LoraSection())
    assert caught.value.key == "model.adapter"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [("r", 4, "lora.r"), ("alpha", 8, "lora.alpha"), ("use_rslora", True, "lora.use_rslora")],
)
def test_an_adapter_of_another_scale_is_refused(key: str, value: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"read {value}, but the adapter") as caught:
        check_existing(existing(tmp_path), LoraSection(**{key: value}))
    assert caught.value.key == found


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "target_modules": ["q_proj"]}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(DataError, match="is an adapter of kind IA3, not LORA"):
        check_existing(str(tmp_path), LoraSection())
