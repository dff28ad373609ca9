"""How a conversation is divided into samples, how parts become tokens and labels, and what a cut leaves of a sample.

The vocabulary has a token for each letter and two control tokens.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gptoss_ft.data.conversation import Conversation, Message, RowError, ToolCall
from gptoss_ft.data.rendering import (
    IGNORED,
    Draft,
    Encoder,
    Part,
    Piece,
    Sample,
    assemble,
    refuse_foreign_markup,
    split_by_answer,
)  # fmt: skip

START, END = 256, 257
NOT = IGNORED


def make_encoder() -> Encoder:
    letters = {letter: position for position, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


ENCODER = make_encoder()


def ids(text: str) -> list[int]:
    return ENCODER.encode(text).tolist()


def made(*parts: Part, whole: list[Part] | None = None) -> Sample:
    (sample,) = assemble([Draft(list(parts), whole)], ENCODER)
    assert isinstance(sample, Sample)
    assert sample.input_ids.dtype == sample.labels.dtype == np.int32
    return sample


# split_by_answer

SYSTEM = Message("system", "Be brief.")
ONE, TWO, THREE = (Message("user", text) for text in ("1?", "2?", "3?"))
BARE = Message("assistant", "A.")
THOUGHT = Message("assistant", "B.", thinking="b")
CALL = Message("assistant", tool_calls=(ToolCall("f", "{}"),), thinking="c")
RESULT = Message("tool", "r", name="f")


def untrained(message: Message) -> Message:
    return replace(message, train=False)


def unthought(message: Message) -> Message:
    return replace(message, thinking=None)


@pytest.mark.parametrize(
    ("messages", "pieces"),
    [
        pytest.param((ONE, BARE, TWO, BARE), [((ONE, BARE, TWO, BARE), {1, 3})], id="no thinking"),
        pytest.param(
            (SYSTEM, ONE, untrained(BARE), TWO, BARE),
            [((SYSTEM, ONE, untrained(BARE), TWO, BARE), {4})],
            id="one trained",
        ),
        pytest.param((ONE, untrained(BARE)), [], id="none trained"),
        pytest.param((ONE, untrained(THOUGHT)), [], id="none trained, with thinking"),
        pytest.param(
            (SYSTEM, ONE, THOUGHT, TWO, BARE, THREE, THOUGHT),
            [
                ((SYSTEM, ONE, THOUGHT), {2}),
                ((SYSTEM, ONE, unthought(THOUGHT), TWO, BARE), {4}),
                ((SYSTEM, ONE, unthought(THOUGHT), TWO, BARE, THREE, THOUGHT), {6}),
            ],
            id="one for each turn",
        ),
        pytest.param(
            (ONE, CALL, RESULT, CALL, RESULT, THOUGHT, TWO, CALL),
            [
                ((ONE, CALL, RESULT, CALL, RESULT, THOUGHT), {1, 3, 5}),
                ((ONE, unthought(CALL), RESULT, unthought(CALL), RESULT, unthought(THOUGHT), TWO, CALL), {7}),
            ],
            id="calls belong to their turn",
        ),
        pytest.param(
            (ONE, untrained(THOUGHT), TWO, untrained(CALL), RESULT, BARE),
            [((ONE, untrained(unthought(THOUGHT)), TWO, untrained(CALL), RESULT, BARE), {5})],
            id="a turn with nothing to train is context",
        ),
    ],
)
def test_a_conversation_is_divided_by_answers(
    messages: tuple[Message, ...], pieces: list[tuple[tuple[Message, ...], set[int]]]
) -> None:
    wanted = [Piece(piece, frozenset(trained)) for piece, trained in pieces]
    assert split_by_answer(Conversation(messages)) == wanted


# assemble


def test_parts_become_tokens_and_labels_with_spans_and_answers() -> None:
    sample = made(
        Part(np.array([START], np.int32)),
        Part("ab"),
        Part("cd", "analysis"),
        Part("e", "final"),
        Part(np.array([END], np.int32), "final", label=START, ends=True),
        Part("f"),
        Part("g", "commentary", ends=True),
    )
    a, b, c, d, e, f, g = ids("abcdefg")
    assert sample.input_ids.tolist() == [START, a, b, c, d, e, END, f, g]
    assert sample.labels.tolist() == [NOT, NOT, NOT, c, d, e, START, NOT, g]
    assert sample.spans == [(3, 5, "analysis"), (5, 6, "final"), (6, 7, "final"), (8, 9, "commentary")]
    assert sample.answers == [(3, 7), (8, 9)]
    assert sample.channels == {"analysis": 2, "final": 2, "commentary": 1}
    assert sample.trained_tokens == 5


def test_control_tokens_are_live_only_where_they_are_meant() -> None:
    assert made(Part("<s>"), Part("<s>", live=True)).input_ids.tolist() == [*ids("<s>"), START]
    assert len(ids("<s>")) == 3


def test_a_prompt_that_is_trained_is_no_part_of_the_answer() -> None:
    assert made(Part("ab", "prompt"), Part("c", "final", ends=True)).answers == [(2, 3)]


def test_an_answer_without_an_end_is_trained_and_is_no_whole_answer() -> None:
    sample = made(Part("ab"), Part("cd", "final"))
    assert sample.trained_tokens == 2
    assert sample.answers == []


def test_parts_that_are_not_the_whole_are_an_error_beside_samples_that_are() -> None:
    same, other = (Draft([Part("a"), Part("b", "answer")], whole=[Part(text)]) for text in ("ab", "ac"))
    first, second, third = assemble([same, other, same], ENCODER)
    assert isinstance(first, Sample)
    assert isinstance(third, Sample)
    assert first.input_ids.tolist() == third.input_ids.tolist() == ids("ab")
    assert isinstance(second, RowError)
    assert second.fault == "chat template"


def test_no_drafts_are_no_samples() -> None:
    assert assemble([], ENCODER) == []


STRETCHES = st.lists(
    st.builds(
        Part,
        st.text("ab<s>é", max_size=5),
        st.sampled_from(["", "", "prompt", "analysis", "final"]),
        st.booleans(),
        st.none(),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(drafts=st.lists(STRETCHES.map(Draft), max_size=4))
def test_drafts_together_give_what_each_gives_alone(drafts: list[Draft]) -> None:
    for sample, draft in zip(assemble(drafts, ENCODER), drafts, strict=True):
        assert isinstance(sample, Sample)
        tokens = [(token, part.channel) for part in draft.parts for token in encoded(part)]
        assert sample.input_ids.tolist() == [token for token, _ in tokens]
        assert sample.labels.tolist() == [token if channel else NOT for token, channel in tokens]
        assert sample.trained_tokens == sum(bool(channel) for _, channel in tokens)


def encoded(part: Part) -> list[int]:
    assert isinstance(part.tokens, str)
    return ENCODER.encode(part.tokens, part.live).tolist()


# truncated

TURNS = (
    Part("abc"),
    Part("de", "analysis"),
    Part("fg", "final", ends=True),
    Part("hi"),
    Part("jk", "final", ends=True),
)


@pytest.mark.parametrize(
    ("length", "trained", "answers", "cut"),
    [
        pytest.param(11, "defgjk", [(3, 7), (9, 11)], 0, id="nothing cut"),
        pytest.param(20, "defgjk", [(3, 7), (9, 11)], 0, id="longer than the sample"),
        pytest.param(10, "defg", [(3, 7)], 1, id="the last token"),
        pytest.param(9, "defg", [(3, 7)], 1, id="the last answer"),
        pytest.param(7, "defg", [(3, 7)], 1, id="the last turn"),
        pytest.param(6, "", [], 2, id="the first answer's end"),
        pytest.param(5, "", [], 2, id="all but the thinking"),
        pytest.param(2, "", [], 2, id="nothing but the prompt"),
    ],
)
def test_an_answer_that_lost_its_end_is_not_trained(
    length: int, trained: str, answers: list[tuple[int, int]], cut: int
) -> None:
    sample, lost = made(*TURNS).truncated(length)
    assert sample.input_ids.tolist() == ids("abcdefghijk")[:length]
    labels = [ids(letter)[0] if letter in trained else NOT for letter in "abcdefghijk"]
    assert sample.labels.tolist() == labels[:length]
    assert (sample.answers, lost) == (answers, cut)
    assert sample.trained_tokens == sum(sample.channels.values()) == len(trained)


def test_a_cut_leaves_the_sample_that_was_cut_as_it_is() -> None:
    sample = made(*TURNS)
    before = sample.labels.tolist()
    sample.truncated(5)
    assert sample.labels.tolist() == before
    assert sample.answers == [(3, 7), (9, 11)]


def test_a_prompt_that_is_trained_stays_trained_before_an_answer_that_is_cut() -> None:
    sample, lost = made(Part("ab", "prompt"), Part("cd", "final", ends=True)).truncated(3)
    assert sample.labels.tolist() == [*ids("ab"), NOT]
    assert lost == 1


@given(parts=STRETCHES, length=st.integers(1, 45))
def test_a_cut_trains_whole_answers_as_before_and_nothing_of_others(parts: list[Part], length: int) -> None:
    whole = made(*parts)
    sample, lost = whole.truncated(length)
    trained = sample.labels != IGNORED
    assert sample.input_ids.tolist() == whole.input_ids[:length].tolist()
    assert sample.labels[trained].tolist() == whole.labels[:length][trained].tolist()
    assert sample.trained_tokens == int(trained.sum())
    assert lost == len(whole.answers) - len(sample.answers)
    assert sample.answers == [(start, end) for start, end in whole.answers if end <= length]
    for start, end in whole.answers:
        if end > length:
            assert not trained[start:].any()


@pytest.mark.parametrize("text", ["<|im_start|>user\nHi", "  <s>[INST] Hi", "[INST] Hi [/INST]", "<start_of_turn>user"])
def test_another_models_markup_is_no_plain_text(text: str) -> None:
    with pytest.raises(RowError, match="another model's markup"):
        refuse_foreign_markup(text, {"<|start|>"})


@pytest.mark.parametrize("text", ["<|start|>user", "The token <|im_start|> opens a turn.", "<p>Hi</p>", "", "<|"])
def test_plain_text_may_name_another_models_tokens(text: str) -> None:
    refuse_foreign_markup(text, {"<|start|>"})
