"""The order of roles, held against a regular expression over every short sequence; and how a mistake is told."""

import re
from itertools import product

import pytest

from gptoss_ft.data.conversation import Conversation, Message, RowError, ToolCall, check_order, is_effort

CALL = ToolCall("f", "{}")
LETTERS = {
    "S": Message("system", "Be brief."),
    "D": Message("developer", ""),
    "U": Message("user", ""),
    "A": Message("assistant", "Yes."),
    "C": Message("assistant", tool_calls=(CALL,)),
    "B": Message("assistant", "Both.", tool_calls=(CALL, CALL)),
    "T": Message("tool", "", name="f"),
}
TURN = "U(CT|BTT)*"
VALID = re.compile(f"[SD]?({TURN}A)*{TURN}[ACB]")


def messages_of(letters: str) -> tuple[Message, ...]:
    return tuple(LETTERS[letter] for letter in letters)


def is_accepted(letters: str) -> bool:
    try:
        check_order(messages_of(letters))
    except RowError:
        return False
    return True


def refusal(messages: str | tuple[Message, ...]) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        check_order(messages_of(messages) if isinstance(messages, str) else messages)
    return str(caught.value), caught.value.fault


@pytest.mark.parametrize("length", range(7))
def test_every_sequence_of_roles_is_judged_as_the_grammar_says(length: int) -> None:
    for letters in map("".join, product(LETTERS, repeat=length)):
        assert is_accepted(letters) == bool(VALID.fullmatch(letters)), letters


@pytest.mark.parametrize("letters", ["SUBTTCTAUAUCTA", "DUCTCTCTC", "UAUBTTBTTA", "U" + "BTT" * 50 + "A"])
def test_long_conversations(letters: str) -> None:
    check_order(messages_of(letters))
    assert not is_accepted(letters[:-2] + letters[-1])


REFUSED = {
    "": "holds no message",
    "S": "ends with a system message: there is no answer to learn",
    "UAU": "ends with a user message: there is no answer to learn",
    "UCT": "ends with a tool message: there is no answer to learn",
    "UBT": "ends with a tool message: there is no answer to learn",
    "A": "message 1 is the assistant's where the system or developer or user's is due",
    "SA": "message 2 is the assistant's where the user's is due",
    "SDUA": "message 2 is the developer's where the user's is due",
    "USA": "message 2 is the system's where the assistant's is due",
    "UAD": "message 3 is the developer's where the user's is due",
    "UUA": "message 2 is the user's where the assistant's is due",
    "UAA": "message 3 is the assistant's where the user's is due",
    "UCTU": "message 4 is the user's where the assistant's is due",
}


@pytest.mark.parametrize(("letters", "message"), REFUSED.items())
def test_a_wrong_order_is_told_with_the_number_of_the_message(letters: str, message: str) -> None:
    assert refusal(letters) == (message, "wrong role order")


NO_RESULT, NO_CALL = "a tool call has no result", "no tool call waits for a result"
UNANSWERED = {
    "UCA": f"message 3 is the assistant's where the tool's is due: {NO_RESULT}",
    "UCUA": f"message 3 is the user's where the tool's is due: {NO_RESULT}",
    "UBTA": f"message 4 is the assistant's where the tool's is due: {NO_RESULT}",
    "UTA": f"message 2 is the tool's where the assistant's is due: {NO_CALL}",
    "UAT": f"message 3 is the tool's where the user's is due: {NO_CALL}",
    "UCTTA": f"message 4 is the tool's where the assistant's is due: {NO_CALL}",
}


@pytest.mark.parametrize(("letters", "message"), UNANSWERED.items())
def test_calls_and_results_come_in_equal_number(letters: str, message: str) -> None:
    assert refusal(letters) == (message, "tool calls")


@pytest.mark.parametrize("content", ["", " \n\t", "\u3000"])
def test_an_answer_without_words(content: str) -> None:
    empty = Message("assistant", content, thinking="Hm.")
    found = ("message 2: the assistant's answer is empty", "empty answer")
    assert refusal((LETTERS["U"], empty)) == found
    assert refusal((LETTERS["U"], empty, LETTERS["U"], LETTERS["A"])) == found
    check_order((LETTERS["U"], Message("assistant", content, tool_calls=(CALL,))))


def test_the_thinking_of_any_message_counts_be_it_empty() -> None:
    assert not Conversation(messages_of("UA")).has_thinking
    assert Conversation((LETTERS["U"], Message("assistant", "Yes.", thinking=""))).has_thinking


def test_levels_of_effort() -> None:
    values: tuple[object, ...] = ("low", "medium", "high", "none", "Low", "", None, 1, ["low"], {})
    assert [value for value in values if is_effort(value)] == ["low", "medium", "high"]
