"""The weights that were trained on, as a stock model that an adapter is verified on."""

from pathlib import Path

import pytest
import torch
from quantized_folders import split_4bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gptoss_ft.config import ModelSection
from gptoss_ft.errors import OutputError
from gptoss_ft.merging.base_choice import BaseChoice
from gptoss_ft.merging.trained_weights import stock_weights
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device


def test_a_16_bit_checkpoint_is_taken_as_it_lies(tiny_llama: Path, device: Device, tmp_path: Path) -> None:
    model = ModelSection(name="tiny/llama", load_in_4bit=False, device="cpu")
    chosen = BaseChoice(tiny_llama, model, None, "tiny/llama")
    with stock_weights(chosen, model, device, tmp_path / "base", None, make_console()) as base:
        assert base == tiny_llama
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [False, True])
def test_split_4_bit_weights_become_a_stock_model(
    kept: bool, tiny_gpt_oss: Path, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gpt-oss-bnb-4bit"
    values = split_4bit(tiny_gpt_oss, folder)
    model = ModelSection(name=str(folder), dtype="float32", device="cpu")
    chosen = BaseChoice(folder, model, None, f"{folder}, which it was trained on, dequantized from bitsandbytes")
    keep, temporary = tmp_path / "kept" if kept else None, tmp_path / ".adapter.base"
    with stock_weights(chosen, model, device, temporary, keep, make_console()) as base:
        stock = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        for name, tensor in stock.state_dict().items():
            assert torch.equal(tensor, values[name].float()), name
    assert "go to" in capsys.readouterr().out
    assert not temporary.exists()
    assert base.exists() == kept
    if kept:
        assert load_file(base / "model.safetensors").keys() == values.keys()


def test_a_base_that_was_kept_is_used_again_for_the_same_weights_alone(
    tiny_gpt_oss: Path, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, keep = tmp_path / "gpt-oss-bnb-4bit", tmp_path / "kept"
    split_4bit(tiny_gpt_oss, folder)
    model = ModelSection(name=str(folder), dtype="float32", device="cpu")
    chosen = BaseChoice(folder, model, None, "the weights")

    def use(section: ModelSection) -> int:
        with stock_weights(chosen, section, device, tmp_path / ".base", keep, make_console()) as base:
            return (base / "model.safetensors").stat().st_mtime_ns

    made = use(model)
    assert use(model) == made
    assert "are in" in capsys.readouterr().out
    with pytest.raises(OutputError, match="kept is there already, and was not made of") as raised:
        use(model.model_copy(update={"dtype": "bfloat16"}))
    assert raised.value.cure == "Remove it, or name another folder with --keep-base."
    # A folder of somebody's own.
    (keep / "made_of.json").unlink()
    with pytest.raises(OutputError, match="kept is there already"):
        use(model)
