"""What an adapter calls its base model: the stock repository, whatever upload of it was loaded."""

import json
from pathlib import Path

import pytest

from gptoss_ft.config import ModelSection
from gptoss_ft.model.repository import config_folder, stock_name


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("unsloth/gpt-oss-20b", "unsloth/gpt-oss-20b"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("unsloth/gpt-oss-20b-unsloth-bnb-4bit", "unsloth/gpt-oss-20b"),
        ("unsloth/Llama-3.2-3B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-3B-Instruct"),
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "unsloth/Llama-3.2-3B-Instruct"),
        ("meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.2-3B-Instruct"),
        ("someone/unknown-bnb-4bit", "someone/unknown-bnb-4bit"),
        ("tiny/gpt-oss", "tiny/gpt-oss"),
        ("~/models/mine", "~/models/mine"),
    ],
)
def test_the_stock_name(name: str, stock: str) -> None:
    assert stock_name(ModelSection(name=name)) == stock


QUANTIZED = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize(
    ("content", "stock"),
    [
        ({"quantization_config": QUANTIZED, "_name_or_path": "unsloth/gpt-oss-20b"}, "unsloth/gpt-oss-20b"),
        (
            {"quantization_config": QUANTIZED, "_name_or_path": "unsloth/gpt-oss-20b-unsloth-bnb-4bit"},
            "unsloth/gpt-oss-20b",
        ),
        ({"quantization_config": QUANTIZED, "_name_or_path": "/home/ann/base"}, None),
        ({"quantization_config": QUANTIZED}, None),
        # It may have been trained since it had that name.
        ({"_name_or_path": "unsloth/gpt-oss-20b"}, None),
    ],
)
def test_a_folder_is_called_what_its_config_says_it_was_quantized_from(
    content: dict[str, object], stock: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert stock_name(ModelSection(name=str(tmp_path))) == (stock or str(tmp_path))


def test_the_config_of_what_was_loaded(tiny_gpt_oss: Path, tmp_path: Path) -> None:
    assert config_folder(ModelSection(name="tiny/gpt-oss")) == tiny_gpt_oss
    assert config_folder(ModelSection(name=str(tmp_path))) == tmp_path
