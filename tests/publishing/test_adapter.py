"""final_model is what stock transformers and PEFT load, and computes what was trained."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from split_gpt_oss import TARGETS, split_adapter_model, split_model
from stock_logits import stock_logits

from gptoss_ft import finetuning, job
from gptoss_ft.config import JobConfig, LoraSection, ModelSection, TrainingSection, load_job_config
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import ExportError, SettingError
from gptoss_ft.model import portable as writing
from gptoss_ft.model.adapter_config import portable_config
from gptoss_ft.model.adapter_layout import to_layout_of, to_portable
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.lora import attach, load_existing
from gptoss_ft.model.portable import write_portable
from gptoss_ft.model.portable_check import check_portable, compare
from gptoss_ft.runtime import Device

TINY = ModelSection(name="tiny/gpt-oss", load_in_4bit=False, dtype="float32", max_seq_length=64)
LLAMA = ModelSection(name="tiny/llama", load_in_4bit=False, dtype="float32", max_seq_length=64)
IDS = torch.arange(1, 41).reshape(2, 20)
SMALL = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 8}
training: {max_steps: 2, per_device_train_batch_size: 4, gradient_accumulation_steps: 1, learning_rate: 5e-3,
           warmup_steps: 0, optim: adamw_torch_fused, save_steps: 2, output_dir: run}
tracking: {report_to: none}
"""


def logits_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(ids).logits
    return logits


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the small job with overrides; returns final_model."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    return lambda *overrides: job.train(load_job_config(Path("small.yaml"), overrides)).final_model


def test_a_trained_adapter_computes_the_same_in_stock_peft(
    run: Callable[..., Path], tiny_gpt_oss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {}
    save = finetuning.save_final_model

    def look_and_save(model: Any, *others: Any) -> Path:
        trained["logits"] = logits_of(model)
        return save(model, *others)

    monkeypatch.setattr(finetuning, "save_final_model", look_and_save)
    final = run()
    [alone] = stock_logits(tiny_gpt_oss, [final], IDS, tmp_path)
    assert (alone - trained["logits"]).abs().max() <= 1e-4
    assert (alone - logits_of(split_model(tiny_gpt_oss))).abs().max() > 0.1
    # Of what PEFT and Unsloth wrote, the tensors are the same.
    theirs = load_file(final.parent / "checkpoint-2" / "adapter_model.safetensors")
    ours = load_file(final / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_a_split_adapter_computes_the_same_on_the_stock_model(tiny_gpt_oss: Path, tmp_path: Path) -> None:
    """What a 4-bit run on a GPU has in memory, in Unsloth's own classes, against stock fused experts."""
    model = split_adapter_model(tiny_gpt_oss)
    assert any("gate_up_projs.3.lora_B" in name for name in get_peft_model_state_dict(model))
    write_portable(model, TINY, tmp_path)
    [alone] = stock_logits(tiny_gpt_oss, [tmp_path], IDS, tmp_path)
    assert (alone - logits_of(model)).abs().max() <= 1e-4
    with model.disable_adapter():
        assert (alone - logits_of(model)).abs().max() > 1
    # And back again, into another model of split experts.
    other = split_adapter_model(tiny_gpt_oss)
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    load_existing(other, str(tmp_path))
    assert torch.equal(logits_of(other), logits_of(model))


def test_training_goes_on_from_a_split_adapter(run: Callable[..., Path], tmp_path: Path) -> None:
    """A folder as Unsloth writes it after a 4-bit run on a GPU, for a model with fused experts."""
    first = run()
    portable = load_file(first / "adapter_model.safetensors")
    names = [
        f"base_model.model.model.layers.{layer}.mlp.experts.{projection}_projs.{expert}.{matrix}.weight"
        for layer in range(2) for projection in ("gate_up", "down") for expert in range(4)
        for matrix in ("lora_A", "lora_B")
    ]  # fmt: skip
    dense = [name for name in portable if ".experts." not in name]
    split = tmp_path / "split"
    split.mkdir()
    save_file(to_layout_of(portable, [*names, *dense]), split / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((first / "adapter_config.json").read_text())
    config |= {"target_modules": TARGETS, "target_parameters": None, "lora_dropout": 0.05}
    (split / "adapter_config.json").write_text(json.dumps(config))
    assert not any(".experts.lora" in name for name in load_file(split / "adapter_model.safetensors"))

    # At a rate of zero the adapter stays as it was loaded.
    second = run(f"model.adapter={split}", "training.learning_rate=1e-30", "training.output_dir=second")
    found = load_file(second / "adapter_model.safetensors")
    assert found.keys() == portable.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in portable.items())


def adapted(config: ModelSection, folder: Path, device: Device, **lora: Any) -> Any:
    return attach(
        load_base(config, str(folder), device, TrainingSection()), LoraSection(**lora), device, TrainingSection()
    )


def test_the_config_says_what_peft_needs_and_nothing_else(tiny_gpt_oss: Path, device: Device) -> None:
    assert portable_config(adapted(TINY, tiny_gpt_oss, device), TINY) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny/gpt-oss",
        "revision": None,
        "inference_mode": True,
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def test_a_split_models_config_is_that_of_the_fused_one(tiny_gpt_oss: Path) -> None:
    config = portable_config(split_adapter_model(tiny_gpt_oss, lora_dropout=0.1), TINY)
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert config["target_parameters"] == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert config["lora_dropout"] == 0.0


def test_where_only_some_layers_are_trained_names_are_whole(tiny_gpt_oss: Path, device: Device) -> None:
    down = "model.layers.1.mlp.experts.down_proj"
    fused = adapted(
        TINY, tiny_gpt_oss, device, target_modules=["q_proj"], target_parameters=["1.mlp.experts.down_proj"]
    )
    split = split_adapter_model(tiny_gpt_oss, r".*\.(?:q_proj|1\.mlp\.experts\.down_projs\.\d+)")
    for model in (fused, split):
        config = portable_config(model, TINY)
        assert (config["target_modules"], config["target_parameters"]) == (["q_proj"], [down])
    one = portable_config(split_adapter_model(tiny_gpt_oss, r".*\.0\.self_attn\.v_proj"), TINY)
    assert one["target_modules"] == ["model.layers.0.self_attn.v_proj"]
    assert one["target_parameters"] is None


KINDS: dict[str, dict[str, Any]] = {
    "one layer": {"target_parameters": ["1.mlp.experts.down_proj"], "target_modules": ["q_proj"]},
    "uneven": {"target_parameters": ["0.mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
    "whole modules": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"], "dropout": 0.2},
    "own biases": {"bias": "lora_only"},
    "all biases and router": {"bias": "all", "target_modules": ["q_proj"], "modules_to_save": ["router"]},
}


def test_every_kind_of_adapter_is_whole(
    tiny_gpt_oss: Path, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    # The comparison without its process, which takes seconds; stock PEFT comes at the end.
    found: list[dict[str, list[str]]] = []
    monkeypatch.setattr(writing, "check_portable", lambda *folders: found.append(compare(*folders)))
    trained, without = [], []
    for name, lora in KINDS.items():
        model = adapted(TINY, tiny_gpt_oss, device, **lora)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        (tmp_path / name).mkdir()
        write_portable(model, TINY, tmp_path / name)
        trained.append(logits_of(model))
        with model.disable_adapter():
            without.append(logits_of(model))
    assert found == [{"missing": [], "unexpected": [], "of another shape": []}] * len(KINDS)
    alone = stock_logits(tiny_gpt_oss, [tmp_path / name for name in KINDS], IDS, tmp_path)
    differences = {name: (a - b).abs().max() for name, a, b in zip(KINDS, alone, trained, strict=True)}
    assert {name: value for name, value in differences.items() if value > 1e-4} == {}
    assert all((a - b).abs().max() > 0.05 for a, b in zip(alone, without, strict=True))


def test_llama(tiny_llama: Path, device: Device, tmp_path: Path) -> None:
    model = adapted(LLAMA, tiny_llama, device, dropout=0.1)
    write_portable(model, LLAMA, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    modules = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["target_modules"], config["target_parameters"], config["lora_dropout"]) == (modules, None, 0.1)
    assert config["base_model_name_or_path"] == "tiny/llama"


@pytest.fixture(scope="module")
def portable(tiny_gpt_oss: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    write_portable(split_adapter_model(tiny_gpt_oss), TINY, folder)
    return folder


def changed(portable: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    weights = load_file(portable / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((portable / "adapter_config.json").read_bytes())
    return folder


EXPERTS = "base_model.model.model.layers.1.mlp.experts"


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (lambda weights: weights.pop(f"{EXPERTS}.lora_B.weight"), "missing", f"{EXPERTS}.lora_B.weight"),
        (lambda weights: weights.update(extra=torch.ones(1)), "unexpected", "extra"),
        (
            lambda weights: weights.update({f"{EXPERTS}.lora_A.weight": torch.ones(3, 3)}),
            "of another shape",
            f"{EXPERTS}.lora_A.weight",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_file_that_is_not_the_adapters_is_found(
    change: Callable[[dict[str, torch.Tensor]], None],
    kind: str,
    name: str,
    portable: Path,
    tiny_gpt_oss: Path,
    tmp_path: Path,
) -> None:
    differences = compare(changed(portable, tmp_path, change), tiny_gpt_oss)
    assert {kind: names for kind, names in differences.items() if names} == {kind: [name]}


def test_the_config_of_a_quantized_upload_does(portable: Path, tiny_gpt_oss: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_gpt_oss / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert not any(compare(portable, tmp_path).values())


def test_what_peft_refuses_is_an_export_error_with_its_words(
    portable: Path, tiny_gpt_oss: Path, tmp_path: Path
) -> None:
    folder = changed(portable, tmp_path, lambda weights: None)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.1}))
    with pytest.raises(ExportError, match="does not work with lora_dropout != 0"):
        check_portable(folder, tiny_gpt_oss)


def test_nothing_that_looks_finished_is_left(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writing, "to_portable", lambda weights: dict(list(to_portable(weights).items())[1:]))
    with pytest.raises(ExportError, match=r"not one for the stock model: missing \S+q_proj.lora_A.weight and 0 more"):
        run()
    left = {path.name for path in Path("outputs/run").rglob("*") if "checkpoint-" not in str(path)}
    assert "final_model" not in left
    assert not {"adapter_model.safetensors", "adapter_config.json"} & left


def test_what_a_stock_adapter_cannot_hold_is_refused_before_training(tiny_gpt_oss: Path, device: Device) -> None:
    """On split experts PEFT would train biases, which fused ones cannot have."""
    with pytest.raises(SettingError, match=r"experts\.\S+\.bias would be trained") as caught:
        attach(split_model(tiny_gpt_oss), LoraSection(bias="all", target_modules=["q_proj"]), device, TrainingSection())
    assert caught.value.key == "lora.bias"


def test_final_model_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, tiny_llama: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    lora = LoraSection(r=2, target_modules=["q_proj"])
    model = attach(load_base(LLAMA, str(tiny_llama), device, TrainingSection()), lora, device, TrainingSection())
    final = finetuning.save_final_model(
        model, load_tokenizer(str(tiny_llama), None, None), JobConfig(model=LLAMA), tmp_path
    )
    partial = tmp_path / ".final_model.partial"
    assert {str(partial / file.name) for file in final.iterdir()} <= set(flushed)
    assert flushed[-2:] == [str(partial), str(tmp_path)]
