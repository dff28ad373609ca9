"""Which repository is loaded, and what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from unsloth.models.loader_utils import get_model_name
from unsloth.models.mapper import FLOAT_TO_INT_MAPPER, INT_TO_FLOAT_MAPPER

from gptoss_ft.config import ModelSection, TrainingSection
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.model import loading, repository
from gptoss_ft.runtime import Device

ON_CPU = {"load_in_4bit": False, "dtype": "float32", "max_seq_length": 64}


@pytest.mark.parametrize("in_4bit", [True, False])
def test_names_stand_for_the_repository_that_unsloth_would_load(in_4bit: bool) -> None:
    """Against Unsloth's own function, for every name that its tables hold."""
    names = [*FLOAT_TO_INT_MAPPER, *INT_TO_FLOAT_MAPPER, "openai/gpt-oss-20b", "unsloth/gpt-oss-20b", "someone/model"]
    different = {
        name: (ours, theirs)
        for name in names
        if (ours := repository.resolve(ModelSection(name=name, load_in_4bit=in_4bit)))
        != (theirs := get_model_name(name, load_in_4bit=in_4bit))
        and ours.lower() != theirs.lower()
    }
    assert len(names) > 300
    assert different == {}


def test_the_default_model_is_its_quantized_upload() -> None:
    assert repository.resolve(ModelSection()) == "unsloth/gpt-oss-20b-unsloth-bnb-4bit"
    assert repository.resolve(ModelSection(name="openai/gpt-oss-20b", load_in_4bit=False)) == "unsloth/gpt-oss-20b"


def test_a_revision_of_a_name_that_stands_for_another_repository_is_refused() -> None:
    with pytest.raises(SettingError, match="Unsloth loads unsloth/gpt-oss-20b-unsloth-bnb-4bit") as caught:
        repository.resolve(ModelSection(name="unsloth/gpt-oss-20b", revision="abc"))
    assert caught.value.key == "model.revision"
    exact = ModelSection(name="unsloth/gpt-oss-20b-unsloth-bnb-4bit", revision="abc")
    assert repository.resolve(exact) == exact.name


@pytest.fixture
def copied(tiny_gpt_oss: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt_oss, tmp_path / "model"))


def load(folder: Path, device: Device) -> object:
    return loading.load_base(ModelSection(name=str(folder), **ON_CPU), str(folder), device, TrainingSection())


def test_a_checkpoint_that_lacks_a_weight_is_refused(copied: Path, device: Device) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.router.weight"]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weights .* at random: model.layers.1.mlp.router.weight"):
        load(copied, device)


def test_a_checkpoint_with_a_weight_of_another_shape_is_refused(copied: Path, device: Device) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:8].clone()
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"model.norm.weight"):
        load(copied, device)


def test_a_damaged_weights_file_is_refused(copied: Path, device: Device) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match="holds a broken weights file"):
        load(copied, device)


@pytest.mark.parametrize("in_4bit", [True, False])
def test_mxfp4_stays_packed_only_where_4_bits_are_wanted(
    in_4bit: bool, tiny_gpt_oss: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsloth asks the variable as it loads (2026.10.9, unsloth_zoo/temporary_patches/mxfp4.py)."""
    from unsloth import FastLanguageModel
    from unsloth_zoo.temporary_patches.mxfp4 import keep_mxfp4_experts_packed

    said: list[str] = []

    def load_nothing(**options: object) -> tuple[None, None]:
        said.append(os.environ["UNSLOTH_MXFP4_KEEP_PACKED"])
        return None, None

    # A CPU cannot load 4 bits, and what is asked here is what it would be told.
    monkeypatch.setattr(loading, "refuse_impossible", lambda config, device: None)
    monkeypatch.setattr(FastLanguageModel, "from_pretrained", load_nothing)
    loading.load_base(ModelSection(load_in_4bit=in_4bit), str(tiny_gpt_oss), device, TrainingSection())
    assert said == ["1" if in_4bit else "0"]
    if not in_4bit:
        assert not keep_mxfp4_experts_packed()


def test_4bit_on_a_cpu_and_bf16_on_an_old_gpu_are_refused(tiny_gpt_oss: Path, device: Device) -> None:
    def refused(model: ModelSection, on: Device) -> str:
        with pytest.raises(SettingError) as caught:
            loading.load_base(model, str(tiny_gpt_oss), on, TrainingSection())
        return caught.value.key

    assert refused(ModelSection(load_in_4bit=True), device) == "model.load_in_4bit"
    turing = replace(device, kind="cuda", name="Tesla T4", bf16=False)
    assert refused(ModelSection(dtype="bfloat16"), turing) == "model.dtype"
