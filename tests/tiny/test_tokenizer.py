"""The tiny tokenizer is built like the real one, keeps any text, and renders harmony."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from gptoss_ft import tiny
from gptoss_ft.runtime import cache_folder
from gptoss_ft.tiny import rows, tokenizer

HARMONY_IDS = {
    "<|startoftext|>": 1000,
    "<|endoftext|>": 1001,
    "<|return|>": 1004,
    "<|constrain|>": 1005,
    "<|channel|>": 1007,
    "<|start|>": 1008,
    "<|end|>": 1009,
    "<|message|>": 1010,
    "<|call|>": 1014,
    "<|endofprompt|>": 1020,
}
TRAINED = {name: tokenizer._train(name) for name in (tokenizer.HARMONY, tokenizer.CHATML)}


@pytest.fixture(scope="module")
def harmony(tiny_gpt_oss: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt_oss)


@pytest.fixture(scope="module")
def chatml(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


def test_special_tokens_follow_the_ordinary_ones_in_the_real_order(harmony: Any) -> None:
    assert {name: harmony.convert_tokens_to_ids(name) for name in HARMONY_IDS} == HARMONY_IDS
    assert len(harmony) == 1021
    assert harmony.all_special_ids == [1000, 1004, 1001]
    assert (harmony.bos_token, harmony.eos_token, harmony.pad_token) == (
        "<|startoftext|>",
        "<|return|>",
        "<|endoftext|>",
    )
    # The real ids are these plus one constant, so a table of the real ones can be checked against the tiny ones.
    for real in (200000, 200001, 200004, *range(200009, 200012), *range(200013, 200018)):
        assert harmony.convert_tokens_to_ids(f"<|reserved_{real}|>") == real - 199998 + 1000


def test_the_structure_is_that_of_the_real_tokenizer(tiny_gpt_oss: Path, real_tokenizer_folder: Path) -> None:
    ours, real = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (tiny_gpt_oss, real_tokenizer_folder)
    )
    for section in (ours, real):
        for varying in ("vocab", "merges"):
            del section["model"][varying]
        for token in section["added_tokens"]:
            del token["id"]
    assert ours == real
    assert (tiny_gpt_oss / "chat_template.jinja").read_bytes() == (
        real_tokenizer_folder / "chat_template.jinja"
    ).read_bytes()


def test_llama_speaks_chatml(chatml: Any) -> None:
    assert (len(chatml), chatml.bos_token, chatml.eos_token_id, chatml.pad_token_id) == (1003, None, 1002, 1000)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hé"}]
    assert chatml.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHé<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_official_template_renders_thinking(harmony: Any) -> None:
    (row, *_) = rows.multilingual_thinking()
    messages = [{key: value for key, value in message.items() if value} for message in row["messages"]]
    ids = harmony.apply_chat_template(messages, return_dict=False)
    rendered = harmony.decode(ids)
    assert rendered.startswith("<|start|>system<|message|>You are ChatGPT")
    assert rendered.endswith(
        "<|start|>user<|message|>What is 2 plus 3?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>"
        "The user wants the sum of 2 and 3. Adding them gives 5, so I will answer 5.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>2 plus 3 is 5.<|return|>"
    )
    assert ids[-1] == HARMONY_IDS["<|return|>"]


def test_every_sample_is_short(harmony: Any) -> None:
    for row in rows.multilingual_thinking():
        messages = [{key: value for key, value in message.items() if value} for message in row["messages"]]
        assert len(harmony.apply_chat_template(messages, return_dict=False)) < 200
    for row in rows.finetome():
        roles = {"system": "system", "human": "user", "gpt": "assistant"}
        messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        assert len(harmony.apply_chat_template(messages, return_dict=False)) < 256
    for row in rows.text():
        assert len(harmony(row["text"]).input_ids) < 100


@pytest.mark.parametrize("trained", TRAINED.values(), ids=["harmony", "chatml"])
@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_survives(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text, add_special_tokens=False).ids
    assert trained.decode(ids, skip_special_tokens=False) == text


def test_text_of_the_files_survives_transformers_too(harmony: Any) -> None:
    for text in ("", " ", "\n\n  x\r\n", "don't I'LL", "a .  b", "물 빵 🙂\u200d\x00\ufffd", "<|start|>x<|end|>"):
        assert harmony.decode(harmony(text).input_ids) == text


def test_the_tiny_llama_3_renders_with_its_own_control_tokens() -> None:
    llama_3 = AutoTokenizer.from_pretrained(tiny.materialize("tiny/llama-3", cache_folder()))
    messages = [{"role": "user", "content": "¿Cuánto es 2 más 3?"}]
    options = {"add_generation_prompt": True, "return_dict": False, "date_string": "26 Jul 2024"}
    ids = llama_3.apply_chat_template(messages, **options)
    tokens = llama_3.convert_ids_to_tokens(ids)
    assert tokens[:2] == ["<|begin_of_text|>", "<|start_header_id|>"]
    assert tokens.count("<|eot_id|>") == 2  # of the system and the user's turn
    assert tokens.count("<|end_header_id|>") == 3
    assert (llama_3.eos_token, llama_3.pad_token) == ("<|eot_id|>", "<|finetune_right_pad_id|>")
