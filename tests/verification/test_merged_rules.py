"""What a merged model's folder must hold beside its weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gptoss_ft.verification.merged_rules import config_problems, loading_problems, surroundings_problems


@pytest.fixture
def folder(tiny_gpt_oss: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt_oss, tmp_path / "merged_model"))


def _loading_report(folder: Path) -> dict[str, Any]:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    report: dict[str, Any] = loaded[1]
    return report


def test_a_whole_model_has_no_problems(folder: Path) -> None:
    assert config_problems(folder) == []
    assert loading_problems(_loading_report(folder)) == []
    assert surroundings_problems(folder, wants_template=True) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "config.json still holds quantization_config"),
        ({"auto_map": {"AutoModelForCausalLM": "own.Model"}}, "config.json still holds auto_map"),
        ({"architectures": ["GptOssForCausalLM4bit"]}, "transformers knows no architecture GptOssForCausalLM4bit"),
        ({"architectures": None}, "transformers knows no architecture for a config that names none"),
    ],
)
def test_a_config_that_says_something_else(folder: Path, change: dict[str, Any], found: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert config_problems(folder) == [found]


def test_tensors_that_lack_or_that_nothing_asks_for(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.post_attention_layernorm.scale"] = weights.pop(
        "model.layers.1.post_attention_layernorm.weight"
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert loading_problems(_loading_report(folder)) == [
        "missing tensors: model.layers.1.post_attention_layernorm.weight",
        "unexpected tensors: model.layers.1.post_attention_layernorm.scale",
    ]


def test_a_lost_template_and_settings_that_generate_refuses(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.5}))
    problems = surroundings_problems(folder, wants_template=True)
    assert problems[0] == "the tokenizer has no chat template"
    assert problems[1].startswith("generation_config.json: ")
    assert surroundings_problems(folder, wants_template=False) == problems[1:]


def test_a_tokenizer_that_cannot_be_read(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert surroundings_problems(folder, wants_template=True)[0].startswith("the tokenizer cannot be read: ")
