"""The built-in templates against TRL's files, and what is refused."""

import copy
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.chat_templates import BUILT_IN, chat_template_text, check_control_tokens
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError, SettingError


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_template_is_there(name: str) -> None:
    file = Path(str(distribution("trl").locate_file(f"trl/chat_templates/{BUILT_IN[name]}.jinja")))
    text = chat_template_text(name)
    assert text == file.read_text(encoding="utf-8")
    assert "add_generation_prompt" in text


def test_a_built_in_name_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama-3.1").write_text("mine", encoding="utf-8")
    assert "<|start_header_id|>" in chat_template_text("llama-3.1")
    assert chat_template_text("./llama-3.1") == "mine"


def test_a_files_text_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }} ü", encoding="utf-8")
    assert chat_template_text(str(file)) == "{{ messages[0].content }} ü"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("llama3.1", "Did you mean llama-3.1? "),
        ("Qwen-3", "Did you mean qwen-3? "),
        ("mine/of/long/ago.jinja", ""),
    ],
)
def test_an_unknown_template_names_the_built_in_ones(name: str, suggestion: str) -> None:
    with pytest.raises(DataError) as caught:
        chat_template_text(name)
    assert caught.value.message == (
        f"the chat template {name} cannot be read: there is no such file, and it is not a built-in one"
    )
    assert caught.value.cure == f"{suggestion}Name a Jinja template file, or one of {', '.join(BUILT_IN)}."
    assert caught.value.key == "model.chat_template"


def test_a_folder_and_a_file_that_is_no_text_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "bytes"):
        with pytest.raises(DataError, match="cannot be read: ") as caught:
            chat_template_text(str(path))
        assert caught.value.key == "model.chat_template"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("llama-3.1", "<|start_header_id|>, <|end_header_id|>, <|eot_id|>"),
        ("gemma-3", "<start_of_turn>, <end_of_turn>"),
        ("gemma-4", "<|turn>, <turn|>"),
        ("phi-3", "<|user|>, <|end|>, <|assistant|>"),
        ("gpt-oss", "<|start|>, <|message|>, <|end|>, <|channel|>, <|return|>"),
    ],
)
def test_a_template_of_another_family_is_refused(tiny_llama: Path, name: str, missing: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_tokenizer(str(tiny_llama), None, name)
    assert caught.value.message == (
        f"the chat template {name} writes {missing}, which the tokenizer of {tiny_llama} does not have as tokens"
    )
    assert caught.value.key == "model.chat_template"


def test_a_template_is_refused_for_a_single_token(tokenizer: PreTrainedTokenizerBase) -> None:
    llama = copy.deepcopy(tokenizer)
    llama.chat_template = chat_template_text("llama-3")
    llama.add_tokens([AddedToken("<|start_header_id|>", special=True), AddedToken("<|end_header_id|>", special=True)])
    with pytest.raises(SettingError, match=r"writes <\|eot_id\|>, which .* does not have as a token$"):
        check_control_tokens(llama, "llama-3")
    llama.add_tokens([AddedToken("<|eot_id|>", special=True)])
    check_control_tokens(llama, "llama-3")


@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3", "qwen-3-instruct", "qwen-3.6"])
def test_a_template_of_the_models_own_family_is_taken(tiny_llama: Path, name: str) -> None:
    assert load_tokenizer(str(tiny_llama), None, name).chat_template == chat_template_text(name)


def test_the_gpt_oss_template_fits_its_tokenizer(tiny_gpt_oss: Path) -> None:
    assert load_tokenizer(str(tiny_gpt_oss), None, "gpt-oss").chat_template == chat_template_text("gpt-oss")


def test_a_files_control_tokens_are_its_authors_business(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(chat_template_text("llama-3"), encoding="utf-8")
    assert load_tokenizer(str(tiny_llama), None, str(file)).chat_template == chat_template_text("llama-3")
