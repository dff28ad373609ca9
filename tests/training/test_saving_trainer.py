"""What a checkpoint holds of adapters that Unsloth has stacked, as it does on a GPU, and of fused ones."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from unsloth_zoo.temporary_patches import moe_grouped_modulelist as stacking

from gptoss_ft.errors import OutputError
from gptoss_ft.training.checkpoints import ADAPTER
from gptoss_ft.training.saving_trainer import SavingTrainer

EXPERTS = 3


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_projs = nn.ModuleList(nn.Linear(4, 6) for _ in range(EXPERTS))
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(sum(each(x) for each in self.gate_up_projs))


def stacked_model(seed: int) -> Any:
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=r".*gate_up_projs\.\d+|head", init_lora_weights=False)
    model = get_peft_model(Experts(), config)
    projections = model.base_model.model.gate_up_projs
    name = stacking._stackable_lora(projections)
    assert name is not None
    stacking._stack_projs_lora(projections, name)
    assert any("weight_stack" in key for key, _ in model.named_parameters())
    return model


def saved(model: Any) -> dict[str, torch.Tensor]:
    trainer: Any = SimpleNamespace(model=model)
    return SavingTrainer._adapter(trainer)


def test_stacked_adapters_are_saved_as_peft_saves_them() -> None:
    model = stacked_model(0)
    wanted, found = get_peft_model_state_dict(model), saved(model)
    assert found.keys() == wanted.keys()
    assert sum("gate_up_projs" in key for key in found) == 2 * EXPERTS
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_what_is_saved_loads() -> None:
    model, other = stacked_model(0), stacked_model(1)
    kept = {key: value.detach().clone() for key, value in saved(model).items()}
    assert not set_peft_model_state_dict(other, kept).unexpected_keys
    assert all(torch.equal(value, kept[key]) for key, value in saved(other).items())


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Any) -> None:
    model = stacked_model(0)
    kept = {key: value.detach().clone() for key, value in saved(model).items()}
    kept.pop(next(iter(kept)))
    save_file(kept, tmp_path / ADAPTER)
    trainer: Any = SimpleNamespace(model=model)
    trainer._adapter = lambda: saved(model)
    trainer._refuse_other_state = lambda checkpoint: None
    with pytest.raises(OutputError, match="holds another adapter"):
        SavingTrainer._load_from_checkpoint(trainer, str(tmp_path))


def test_unsloths_mark_comes_with_the_order_of_columns() -> None:
    config = LoraConfig(target_parameters=["mlp.experts.down_proj"])
    config.auto_mapping = {"unsloth_fixed": True}
    trainer: Any = SimpleNamespace(model=SimpleNamespace(peft_config={"default": config}))
    written = SavingTrainer._adapter_config(trainer)
    assert written.auto_mapping == {"unsloth_fixed": True, "lora_B_layout": "rank_major"}
    assert config.auto_mapping == {"unsloth_fixed": True}


def test_a_float16_run_can_be_continued_without_a_scaler(tmp_path: Any) -> None:
    torch.save(torch.amp.GradScaler("cpu").state_dict(), tmp_path / "scaler.pt")
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(scaler=None))
    SavingTrainer._load_scaler(trainer, str(tmp_path))
