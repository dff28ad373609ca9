"""Rows of published layouts → records; a row that is none of them says what is wrong with which message."""

from typing import Any, get_args

import pytest

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import FORMATS, Format, Row, check_columns
from gptoss_ft.data.conversation import Conversation, Message, Record, RowError, Text
from gptoss_ft.errors import DataError, ExitCode

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def adapted(row: Row, **settings: Any) -> Record:
    config = DatasetSection(**settings)
    format_ = FORMATS[config.format]
    return format_.adapt(row, format_.columns(config, tuple(row)))


def conversation(*messages: Any) -> Record:
    return adapted({"messages": list(messages)})


def refusal(*messages: Any) -> str:
    with pytest.raises(RowError) as caught:
        conversation(*messages)
    return str(caught.value)


def test_the_registered_formats_are_those_of_the_schema() -> None:
    assert set(FORMATS) == set(get_args(DatasetSection.model_fields["format"].annotation))


def test_messages_of_role_and_content() -> None:
    assert conversation({"role": "system", "content": "Be brief."}, USER, ANSWER) == Conversation(
        (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"))
    )


def test_conversations_of_from_and_value() -> None:
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert adapted({"conversations": turns, "source": "x"}) == Conversation(
        (Message("system", ""), Message("user", "Hi"), Message("assistant", "Hello"))
    )


def test_every_role_has_its_names() -> None:
    gpt = {"role": "gpt", "content": "Hello"}
    assert conversation({"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, gpt) == (
        Conversation((Message("system", "S"), Message("user", "Q"), Message("assistant", "Hello")))
    )
    assert conversation({"role": "developer", "content": "D"}, {"role": "human", "content": "Q"}, ANSWER) == (
        Conversation((Message("developer", "D"), Message("user", "Q"), Message("assistant", "Hello")))
    )


def test_messages_come_before_conversations_and_a_named_column_before_both() -> None:
    row = {"conversations": [USER, {**ANSWER, "content": "c"}], "messages": [USER, {**ANSWER, "content": "m"}]}
    row["chat"] = [USER, {**ANSWER, "content": "own"}]
    assert adapted(row) == Conversation((Message("user", "Hi"), Message("assistant", "m")))
    assert adapted(row, messages_column="chat") == Conversation((Message("user", "Hi"), Message("assistant", "own")))


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_thinking_is_written_as_none_or_empty(nothing: str | None) -> None:
    record = conversation({**USER, "thinking": nothing}, {**ANSWER, "thinking": nothing})
    assert record == Conversation((Message("user", "Hi"), Message("assistant", "Hello", None)))
    assert isinstance(record, Conversation)
    assert not record.has_thinking


def test_thinking_of_an_answer_is_kept() -> None:
    record = conversation({**USER, "thinking": None}, {**ANSWER, "thinking": "A greeting."})
    assert record == Conversation((Message("user", "Hi"), Message("assistant", "Hello", "A greeting.")))
    assert isinstance(record, Conversation)
    assert record.has_thinking


REFUSED = [
    ([{**USER, "thinking": "Hm"}, ANSWER], "message 1: thinking belongs to the assistant, not to user"),
    ([USER, {**ANSWER, "thinking": 3}], "message 2: thinking is int, wanted a string"),
    ([], "holds no user message"),
    ([{"role": "system", "content": "S"}], "holds no user message"),
    ([USER], "ends with a user message: there is no answer to learn"),
    ([USER, ANSWER, USER], "ends with a user message: there is no answer to learn"),
    ([ANSWER, USER], "message 1 is the assistant's where the user's is due"),
    ([USER, USER, ANSWER], "message 2 is the user's where the assistant's is due"),
    ([USER, ANSWER, ANSWER], "message 3 is the assistant's where the user's is due"),
    (
        [{"role": "system", "content": "S"}, {"role": "system", "content": "S"}, USER, ANSWER],
        "message 2 is the system's where the user's is due",
    ),
    (
        [USER, {"role": "system", "content": "S"}, ANSWER],
        "message 2 is the system's where the assistant's is due",
    ),
    (
        [{"role": "system", "content": "S"}, USER, {**ANSWER, "content": ""}],
        "message 3: the assistant's answer is empty",
    ),
    ([USER, {"role": "assistant"}], "message 2: content is missing, wanted a string"),
    ([USER, {**ANSWER, "content": [{"type": "text"}]}], "message 2: content is list, wanted a string"),
    ([{"from": "human", "value": 7}], "message 1: value is int, wanted a string"),
    ([{"content": "Hi"}], "message 1: role is missing, wanted a string"),
    ([{"role": ["user"], "content": "Hi"}], "message 1: role is list, wanted a string"),
    (
        [USER, {"role": "tool", "content": "7"}],
        "message 2: unknown role 'tool'; known are system, developer, user, human, assistant, gpt",
    ),
    ([USER, "Hello"], "message 2 is str, wanted an object with role and content"),
]


@pytest.mark.parametrize(("messages", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_no_conversation(messages: list[Any], message: str) -> None:
    assert refusal(*messages) == message


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), ("Hi", "str"), ({"role": "user"}, "dict"), (1, "int")])
def test_a_column_that_holds_no_list(value: object, kind: str) -> None:
    with pytest.raises(RowError, match=f"^messages is {kind}, wanted a list of messages$"):
        adapted({"messages": value})


def test_text() -> None:
    assert adapted({"text": " a text\n", "id": 3}, format="custom") == Text(" a text\n")
    assert adapted({"text": "a", "body": "b"}, format="custom", text_column="body") == Text("b")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "column text is missing, wanted a string"),
        (7, "column text is int, wanted a string"),
        ("", "column text is empty"),
        (" \n\t", "column text is empty"),
    ],
)
def test_what_is_no_text(value: object, message: str) -> None:
    with pytest.raises(RowError, match=f"^{message}$"):
        adapted({"text": value}, format="custom")


def test_columns_0_and_1_are_a_question_and_its_answer() -> None:
    expected = Conversation((Message("user", "질문"), Message("assistant", "답")))
    assert adapted({"0": "질문", "1": "답"}, format="custom") == expected
    assert adapted({"1": "답", "0": "질문"}, format="custom") == expected
    with pytest.raises(RowError, match=r"^column 1 is missing, wanted a string$"):
        adapted({"0": "질문", "1": None}, format="custom")
    with pytest.raises(RowError, match=r"^message 2: the assistant's answer is empty$"):
        adapted({"0": "질문", "1": ""}, format="custom")


MISSING = [
    (
        {},
        ["text", "id"],
        "no column messages or conversations; there are: text, id",
        "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are.",
        "dataset.format",
    ),
    (
        {"messages_column": "chat"},
        ["messages"],
        "no column chat; there are: messages",
        "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are.",
        "dataset.messages_column",
    ),
    (
        {"format": "custom"},
        ["messages", "id"],
        "no column text; there are: messages, id",
        "Name the column of text in dataset.text_column, or set dataset.format: sharegpt for conversations.",
        "dataset.text_column",
    ),
    (
        {"format": "custom", "text_column": "body"},
        ["0", "1"],
        "no column body; there are: 0, 1",
        "Name the column of text in dataset.text_column, or set dataset.format: sharegpt for conversations.",
        "dataset.text_column",
    ),
]


@pytest.mark.parametrize(("settings", "columns", "message", "cure", "key"), MISSING)
def test_a_missing_column_is_told_with_those_there_are(
    settings: dict[str, Any], columns: list[str], message: str, cure: str, key: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_columns(DatasetSection(**settings), columns)
    error = caught.value
    assert (error.message, error.cure, error.key, error.exit_code) == (message, cure, key, ExitCode.DATA)


def test_a_new_format_takes_ten_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def instruction_columns(config: DatasetSection, columns: Any) -> tuple[str, ...]:
        if not {"instruction", "output"} <= set(columns):
            raise DataError(f"no columns instruction and output; there are: {', '.join(columns)}", key="dataset.format")
        return ("instruction", "output")

    def adapt_instruction(row: Row, columns: tuple[str, ...]) -> Record:
        return Conversation((Message("user", row["instruction"]), Message("assistant", row["output"])))

    monkeypatch.setitem(FORMATS, "alpaca", Format(instruction_columns, adapt_instruction))
    config = DatasetSection().model_copy(update={"format": "alpaca"})

    check_columns(config, ["instruction", "output", "input"])
    with pytest.raises(DataError, match=r"^no columns instruction and output; there are: text$"):
        check_columns(config, ["text"])
    row = {"instruction": "Add 1 and 2.", "output": "3"}
    format_ = FORMATS[config.format]
    assert format_.adapt(row, format_.columns(config, tuple(row))) == Conversation(
        (Message("user", "Add 1 and 2."), Message("assistant", "3"))
    )


def test_tool_calls_are_not_lost_silently() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    row = {"messages": [{"role": "user", "content": "Hi"}, call]}
    with pytest.raises(RowError, match="message 2: tool calls are not rendered yet"):
        FORMATS["sharegpt"].adapt(row, ("messages",))


def test_reasoning_content_is_thinking() -> None:
    answer = {"role": "assistant", "content": "4.", "reasoning_content": "Easy.", "tool_calls": None}
    record = FORMATS["sharegpt"].adapt({"messages": [{"role": "user", "content": "2 + 2?"}, answer]}, ("messages",))
    assert record == Conversation((Message("user", "2 + 2?"), Message("assistant", "4.", "Easy.")))
