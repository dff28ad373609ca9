"""tiktoken in the place of tokenizers: only for gpt-oss's own tokenizer, and with the same tokens."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken import Encoding
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from gptoss_ft.data import o200k, rendering
from gptoss_ft.data.o200k import LONGEST_TEXT, SEPARATOR, can_encode, encode_all, o200k_encoding
from gptoss_ft.data.rendering import Encoder

PIECES = st.sampled_from(
    ["the ", "Straße", " 한국어", "\n\n", "  ", "\t", "1234567", "<|end|>", "<|start|>assistant", "'s", "don't",
     "👩‍👩‍👧", "naïve", "\u200b", "\u0301", "\r\n", "x" * 40, "...", " }", "\ufeff", "\x00", "\uffff", "|", "ſ", "İ"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=20))).map("".join)


@pytest.fixture(scope="module")
def published(real_tokenizer_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(real_tokenizer_folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def encoding(published: Tokenizer) -> Encoding:
    """Found once: it takes a hash of the whole vocabulary."""
    found = o200k_encoding(published)
    assert found is not None
    return found


def test_the_published_tokenizer_has_the_faster_way(published: Tokenizer) -> None:
    assert o200k_encoding(published) is o200k_encoding(published) is not None


def test_no_other_tokenizer_has_it(tiny_gpt_oss: Path, tiny_llama: Path) -> None:
    for folder in (tiny_gpt_oss, tiny_llama):
        assert o200k_encoding(Tokenizer.from_file(str(folder / "tokenizer.json"))) is None


def test_a_changed_copy_does_not_have_it(published: Tokenizer) -> None:
    more = Tokenizer.from_str(published.to_str())
    more.add_tokens([AddedToken("gptoss", special=False)])
    assert o200k_encoding(more) is None
    other_rule = json.loads(published.to_str())
    other_rule["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    assert o200k_encoding(Tokenizer.from_str(json.dumps(other_rule))) is None


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=6))
@example(texts=["", "", "a"])
@example(texts=["x\uffff|", "hello world", "\ufffe", "|\uffff"])
@example(texts=["\n" * 20_000 + "a", " " * LONGEST_TEXT, "a" * LONGEST_TEXT])
def test_the_tokens_are_the_same(published: Tokenizer, encoding: Encoding, texts: list[str]) -> None:
    texts = [text for text in texts if can_encode(text)]
    theirs = [encoded.ids for encoded in published.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in encode_all(encoding, texts)] == theirs


def test_text_that_is_left_to_tokenizers() -> None:
    assert can_encode("a" * LONGEST_TEXT)
    assert not can_encode("a" * (LONGEST_TEXT + 1))
    assert not can_encode(f"a{SEPARATOR}b")


def test_an_encoder_turns_to_it_once_there_is_much_to_do(published: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=published))
    monkeypatch.setattr(rendering, "CHARACTERS_FOR_FASTER", 100)
    calls: list[list[str]] = []
    original = o200k.encode_all
    monkeypatch.setattr(o200k, "encode_all", lambda encoding, texts: calls.append(texts) or original(encoding, texts))
    few = encoder.encode_all(["Hello <|end|>"], live=False)
    assert calls == []
    texts = ["Hello <|end|>", "word " * 30, f"a{SEPARATOR}b", " " * (LONGEST_TEXT + 1)]
    many = encoder.encode_all(texts, live=False)
    assert calls == [texts[:2]]
    assert {text: many[text].tolist() for text in texts} == {
        text: published.encode(text, add_special_tokens=False).ids for text in texts
    }
    assert many[texts[0]].tolist() == few[texts[0]].tolist()
    live = encoder.encode_all(["<|end|>"], live=True)
    assert live["<|end|>"].tolist() == [200007]
    assert len(calls) == 1
