"""Adapters are where the config asked for them, or the run does not start."""

from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import LoraSection, ModelSection, TrainingSection
from gptoss_ft.errors import SettingError
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.lora import adapter_facts, attach
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
