"""Loading the model's tokenizer."""

import copy
from pathlib import Path

from tokenizers import Tokenizer

from gptoss_ft import runtime, tiny
from gptoss_ft.data.tokenizer import load_tokenizer, parsed_once


def test_the_file_is_parsed_once_and_says_what_it_says() -> None:
    folder = tiny.materialize("tiny/gpt-oss", runtime.cache_folder())
    read = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    with parsed_once():
        assert copy.deepcopy(read) is read
    again = copy.deepcopy(read)
    assert again is not read
    assert again.to_str() == read.to_str()
    text = "Grüße 你好 \t<|end|>"
    loaded = load_tokenizer(str(folder), None, None)
    assert loaded(text, add_special_tokens=False)["input_ids"] == read.encode(text, add_special_tokens=False).ids


def test_two_tokenizers_of_one_folder_share_nothing() -> None:
    folder = tiny.materialize("tiny/gpt-oss", runtime.cache_folder())
    first, second = (load_tokenizer(str(folder), None, None) for _ in range(2))
    first.add_tokens(["<|mine|>"])
    assert len(first) == len(second) + 1
