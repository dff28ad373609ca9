"""What comes from elsewhere may not bring code: configs that name it, pickles, templates that reach for Python."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import LoraSection, ModelSection, TrainingSection
from gptoss_ft.data.control_tokens import ControlTokens
from gptoss_ft.data.conversation import Message, RowError
from gptoss_ft.data.jinja_template import JinjaTemplate
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.lora import check_existing, load_existing
from gptoss_ft.model.repository import find_repository
from gptoss_ft.runtime import Device

CODE = """
open({mark!r}, "w").close()
from transformers import LlamaConfig as OurConfig, LlamaForCausalLM as OurModel, PreTrainedTokenizerFast as OurTokenizer
"""


class Touches:
    """Unpickled, it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once code of the model's has run."""
    return tmp_path / "ran"


@pytest.fixture
def with_code(tmp_path: Path, tiny_llama: Path, mark: Path) -> Path:
    """A model whose config and tokenizer name Python files beside them."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "ours.py").write_text(CODE.format(mark=str(mark)))
    add(folder / "config.json", auto_map={"AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurModel"})
    add(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "ours.OurTokenizer"]})
    return folder


def add(file: Path, **content: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | content))


def model(folder: Path) -> ModelSection:
    return ModelSection(name=str(folder), load_in_4bit=False, max_seq_length=64, dtype="float32", device="cpu")


def test_the_code_of_a_model_that_is_known_is_not_run(with_code: Path, mark: Path, device: Device) -> None:
    assert find_repository(model(with_code)) == str(with_code)
    assert type(load_tokenizer(str(with_code), None, None)).__module__.startswith("transformers.")
    loaded = load_base(model(with_code), str(with_code), device, TrainingSection(gradient_checkpointing=False))
    assert "ours" not in type(loaded).__module__
    assert not mark.exists()


def test_a_model_that_needs_its_own_code_is_refused(with_code: Path, mark: Path) -> None:
    add(with_code / "config.json", model_type="ours")
    with pytest.raises(DataError) as caught:
        find_repository(model(with_code))
    assert caught.value.message.startswith(f"{with_code} is not a model that transformers knows: ")
    assert not mark.exists()


def test_a_pickled_adapter_is_refused(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32}))
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Touches(mark)))
    for use in (lambda: check_existing(str(tmp_path), LoraSection()), lambda: load_existing(None, str(tmp_path))):
        with pytest.raises(DataError) as caught:
            use()
        assert "has no adapter_model.safetensors, and a pickle (adapter_model.bin) is not read" in caught.value.message
    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_a_chat_template_reaches_nothing_of_python(tiny_llama: Path, tmp_path: Path, template: str) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(template)
    tokenizer = load_tokenizer(str(tiny_llama), None, str(file))
    rendered = JinjaTemplate(tokenizer, ControlTokens(tokenizer), "medium", None)
    with pytest.raises(RowError, match="the model's chat template refuses it"):
        rendered.render(rendered.input_of([Message("user", "x")], (), None))
