"""What a model said, read by openai-harmony from its own ids and those of another vocabulary, and without it."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import openai_harmony as oh
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft import runtime, tiny
from gptoss_ft.data.conversation import Message, ToolCall
from gptoss_ft.data.harmony_ranks import harmony_encoding
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError
from gptoss_ft.inference.answers import Answer, AnswerReader, Call, Stop, gather, row_of
from gptoss_ft.inference.harmony_stream import ControlTokenParser, HarmonyStream, OpenAIParser
from gptoss_ft.inference.prompts import answer_prefix, ask
from gptoss_ft.inference.screen import StreamedAnswer, answer_in_words
from gptoss_ft.inference.streams import Piece, PlainStream, Stream, TextDecoder
from gptoss_ft.reporting.console import make_console

TEXT = "Größe 한국어 🙂👩‍👩‍👧 e\u0301  x\n"
ANALYSIS = f"<|channel|>analysis<|message|>{TEXT}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hi 🙂<|return|>"
CALL = ' to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{"a": 1}<|call|>'
LATE_CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"a": 1}<|call|>'
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


@pytest.fixture(scope="module")
def real_tokenizer(real_tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(real_tokenizer_folder), None, None)


@pytest.fixture(scope="module")
def harmony(real_tokenizer_folder: Path) -> oh.HarmonyEncoding:
    return harmony_encoding(real_tokenizer_folder / "tokenizer.json")


@pytest.fixture(params=["own ids", "other ids", "control tokens"])
def spoken(request: pytest.FixtureRequest) -> tuple[PreTrainedTokenizerBase, Callable[[], Stream]]:
    """A tokenizer, and what makes a stream that reads its ids, in each of the three ways."""
    if request.param == "own ids":
        own, encoding = request.getfixturevalue("real_tokenizer"), request.getfixturevalue("harmony")
        return own, lambda: HarmonyStream(OpenAIParser(encoding), own)
    tokenizer = request.getfixturevalue("tiny_tokenizer")
    if request.param == "control tokens":
        return tokenizer, lambda: HarmonyStream(ControlTokenParser(tokenizer), tokenizer)
    encoding = request.getfixturevalue("harmony")
    return tokenizer, lambda: HarmonyStream(OpenAIParser(encoding, tokenizer), tokenizer)


Spoken = tuple[PreTrainedTokenizerBase, Callable[[], Stream]]


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def read(spoken: Spoken, ids: list[int], stop: Stop = "return") -> Answer:
    tokenizer, make = spoken
    stream = make()
    pieces = [piece for token in ids for piece in stream.put(token)] + stream.finish()
    return gather(pieces, tokenizer.decode(ids), 3, len(ids), stop)


def test_channels_and_calls_are_told_apart(spoken: Spoken) -> None:
    tokenizer, _ = spoken
    answer = read(spoken, ids_of(tokenizer, ANALYSIS + FINAL))
    assert (answer.analysis, answer.final, answer.calls, answer.unread) == (TEXT, "Hi 🙂", (), None)
    assert answer.as_message() == Message("assistant", "Hi 🙂", TEXT)
    for call in (CALL, LATE_CALL):
        answer = read(spoken, ids_of(tokenizer, ANALYSIS + PREAMBLE + call), "call")
        assert answer.calls == (Call("functions.weather", '{"a": 1}'),)
        assert (answer.analysis, answer.commentary, answer.final, answer.unread) == (TEXT, "I look.", None, None)
        assert answer.as_message() == Message("assistant", "I look.", TEXT, (ToolCall("weather", '{"a": 1}'),))


@pytest.mark.parametrize(
    ("recipient", "call"),
    [
        ("browser.search", '<|channel|>commentary to=browser.search code<|message|>{"query": "a"}<|call|>'),
        ("python", "<|channel|>analysis to=python code<|message|>print(1)<|call|>"),
        ("functions.python", " to=functions.python<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"),
    ],
)
def test_a_call_is_shown_by_its_recipient(spoken: Spoken, recipient: str, call: str) -> None:
    tokenizer, make = spoken
    shown, stream = io.StringIO(), make()
    screen = StreamedAnswer(make_console(shown), stream, ())
    for token in ids_of(tokenizer, ANALYSIS + call):
        screen.token(token)
    screen.finish()
    content = call.partition("<|message|>")[2].removesuffix("<|call|>")
    assert shown.getvalue().endswith(f"call {recipient}({content})\n")
    answer = read(spoken, ids_of(tokenizer, ANALYSIS + call), "call")
    assert answer.calls == (Call(recipient, content),)
    assert (answer.analysis, answer.calls[0].name) == (TEXT, recipient.removeprefix("functions."))
    assert f"call {recipient}({content})" in answer_in_words(answer).plain


def test_an_answer_that_is_cut_is_read_as_far_as_it_goes(spoken: Spoken) -> None:
    tokenizer, _ = spoken
    ids = ids_of(tokenizer, ANALYSIS + FINAL)
    answer = read(spoken, ids[:-2], "length")
    assert answer.analysis == TEXT
    assert answer.final is not None and answer.final.startswith("Hi")
    cut = read(spoken, ids_of(tokenizer, "<|channel|>ana"), "length")
    assert (cut.analysis, cut.unread) == (None, "<|channel|>ana")
    thought = read(spoken, ids_of(tokenizer, ANALYSIS), "length")
    assert (thought.analysis, thought.unread) == (TEXT, "<|start|>assistant")
    assert thought.as_message() == Message("assistant", "", TEXT)
    nothing = read(spoken, [], "length")
    assert (nothing.analysis, nothing.final, nothing.unread) == (None, None, None)


def test_what_is_not_in_the_format_is_shown_as_it_is(spoken: Spoken) -> None:
    tokenizer, _ = spoken
    answer = read(spoken, ids_of(tokenizer, "Just words 한국어<|return|>"))
    assert (answer.final, answer.unread) == (None, "Just words 한국어<|return|>")
    answer = read(spoken, ids_of(tokenizer, f"{ANALYSIS}<|channel|>final<|message|>a<|end|>junk<|start|>b"))
    assert (answer.analysis, answer.final, answer.unread) == (TEXT, "a", "junk<|start|>b")
    answer = read(spoken, ids_of(tokenizer, "<|channel|>final<|message|>a<|end|><|start|>user<|message|>c<|end|>"))
    assert (answer.final, answer.unread) == ("a", "c")


def test_no_piece_is_half_a_character(spoken: Spoken) -> None:
    tokenizer, make = spoken
    stream = make()
    pieces = [piece for token in ids_of(tokenizer, ANALYSIS + FINAL) for piece in stream.put(token)]
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert len([piece for piece in pieces if piece.kind == "analysis"]) > 5


def test_random_tokens_never_raise(spoken: Spoken) -> None:
    tokenizer, _ = spoken
    draw = random.Random(7)
    control = ids_of(tokenizer, "<|channel|><|start|><|message|><|end|><|constrain|><|call|>")
    begin = ids_of(tokenizer, "<|channel|>final<|message|>")
    for number in range(200):
        ids = begin * (number % 2)
        ids += [draw.choice([draw.randrange(len(tokenizer) + 60), draw.choice(control)]) for _ in range(30)]
        read(spoken, ids, "length")


def test_the_way_without_openai_harmony_reads_the_same(
    tiny_tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding
) -> None:
    path = tiny.materialize("tiny/multilingual-thinking", runtime.cache_folder())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    compared = 0
    for row in rows:
        said = row["messages"][-1]
        text = f"<|channel|>analysis<|message|>{said['thinking']}<|end|><|start|>assistant"
        ids = ids_of(tiny_tokenizer, f"{text}<|channel|>final<|message|>{said['content']}<|return|>")
        by_theirs = read(
            (tiny_tokenizer, lambda: HarmonyStream(OpenAIParser(harmony, tiny_tokenizer), tiny_tokenizer)), ids
        )
        by_ours = read((tiny_tokenizer, lambda: HarmonyStream(ControlTokenParser(tiny_tokenizer), tiny_tokenizer)), ids)
        assert by_theirs == by_ours
        assert (by_ours.analysis, by_ours.final) == (said["thinking"], said["content"])
        compared += 1
    assert compared == 144


def test_the_reader_takes_openai_harmony_where_it_can(
    real_tokenizer: PreTrainedTokenizerBase,
    tiny_tokenizer: PreTrainedTokenizerBase,
    harmony: oh.HarmonyEncoding,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for tokenizer in (real_tokenizer, tiny_tokenizer):
        reader = AnswerReader(tokenizer, is_harmony=True)
        assert reader.note is None
        ids = ids_of(tokenizer, ANALYSIS + FINAL)
        assert reader.read(ids, 5, "return") == gather(
            _pieces(reader.stream(), ids), ANALYSIS + FINAL, 5, len(ids), "return"
        )
    # The real tokenizer has left its ranks in the cache.
    monkeypatch.delenv("TIKTOKEN_ENCODINGS_BASE")
    assert AnswerReader(tiny_tokenizer, is_harmony=True).note is None
    monkeypatch.delenv("TIKTOKEN_ENCODINGS_BASE")
    monkeypatch.setenv("GPTOSS_FT_CACHE", str(tmp_path))
    reader = AnswerReader(tiny_tokenizer, is_harmony=True)
    assert reader.note is not None and "without it" in reader.note
    assert reader.read(ids_of(tiny_tokenizer, FINAL), 5, "return").final == "Hi 🙂"


def _pieces(stream: Stream, ids: list[int]) -> list[Piece]:
    return [*(piece for token in ids for piece in stream.put(token)), *stream.finish()]


def test_a_token_that_ends_any_text_is_no_word_of_the_answer(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    reader = AnswerReader(tiny_tokenizer, is_harmony=True)
    ids = ids_of(tiny_tokenizer, "<|channel|>final<|message|>Hi<|endoftext|>")
    answer = reader.read(ids, 5, "end")
    assert (answer.final, answer.new_tokens, answer.text[-13:]) == ("Hi", len(ids), "<|endoftext|>")


def test_another_models_answer_is_text(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_llama), None, None)
    ids = ids_of(tokenizer, f"{TEXT}<|im_end|>")
    answer = AnswerReader(tokenizer, is_harmony=False).read(ids, 5, "end")
    assert (answer.final, answer.analysis, answer.text) == (TEXT, None, f"{TEXT}<|im_end|>")
    stream = PlainStream(tokenizer)
    assert not any("\ufffd" in piece.text for token in ids for piece in stream.put(token))


def test_bytes_that_are_no_text_are_said_when_no_character_can_come_of_them(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    decoder = TextDecoder(tiny_tokenizer)
    broken = ids_of(tiny_tokenizer, "무")[0]
    assert "".join(map(decoder.put, [broken] * 3)) == ""
    assert decoder.put(ids_of(tiny_tokenizer, "a")[0]) == "\ufffd" * 3 + "a"
    assert decoder.put(broken) == ""
    assert decoder.finish() == "\ufffd"


def test_text_comes_whole_in_any_writing_system(real_tokenizer: PreTrainedTokenizerBase) -> None:
    draw = random.Random(3)
    for _ in range(100):
        text = "".join(
            chr(draw.choice([draw.randrange(32, 0x3000), draw.randrange(0x1F300, 0x1FAFF)])) for _ in range(40)
        )
        decoder, ids = TextDecoder(real_tokenizer), ids_of(real_tokenizer, text)
        parts = [*map(decoder.put, ids), decoder.finish()]
        assert "".join(parts) == text
        assert not any("\ufffd" in part for part in parts)


def test_half_a_character_at_the_end_is_unread(
    tiny_tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding
) -> None:
    ids = tiny_tokenizer.encode("<|channel|>final<|message|>a<|end|>", add_special_tokens=False)
    half = tiny_tokenizer.convert_tokens_to_ids("Ã")  # the byte C3, with which a character of two bytes begins
    stream = HarmonyStream(OpenAIParser(harmony, tiny_tokenizer), tiny_tokenizer)
    pieces = [piece for token in [*ids, half] for piece in stream.put(token)] + stream.finish()
    assert [(piece.kind, piece.text) for piece in pieces if piece.text][:1] == [("answer", "a")]
    assert {piece.kind for piece in pieces} <= {"answer", "unread"}


def test_a_row_of_output_keeps_what_was_asked() -> None:
    question = ask("Hi").at("low")
    answer = Answer("x", "think", "x", None, (Call("functions.f", "{}"),), None, 3, 4, "return")
    assert row_of(question, answer) == {
        "prompt": "Hi", "effort": "low", "analysis": "think", "answer": "x",
        "calls": [{"name": "f", "arguments": "{}"}], "tokens": 4, "stop": "return",
    }  # fmt: skip


def test_what_a_row_calls_by_the_answers_names_is_kept() -> None:
    given = {"prompt": "Hi", "id": 7, "answer": "old"}
    question = replace(ask("Hi"), given=given)
    assert answer_prefix([ask("Hi")]) == ""
    prefix = answer_prefix([ask("Hi"), question])
    row = row_of(question, Answer("x", None, "x", None, (), None, 3, 4, "return"), prefix)
    assert row == {
        "prompt": "Hi", "id": 7, "answer": "old", "generated_analysis": None, "generated_answer": "x",
        "generated_calls": [], "generated_tokens": 4, "generated_stop": "return",
    }  # fmt: skip
    with pytest.raises(DataError, match="has a key generated_analysis, which the output needs: the prompt has a"):
        answer_prefix([replace(ask("Hi"), given=row)])
