"""Rows of every format → records; a row or a data set that does not fit its format says what is wrong with it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import FORMATS, Format, Row, open_adapter
from gptoss_ft.data.conversation import (
    Conversation,
    Effort,
    Message,
    Record,
    RowError,
    Text,
    Tool,
    ToolCall,
    check_order,
)
from gptoss_ft.data.sources import open_source
from gptoss_ft.errors import DataError, ExitCode, SettingError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello")
QUESTION_AND_ANSWER = Conversation((HI, HELLO))


def adapted(row: Row, **settings: Any) -> Record:
    return open_adapter(DatasetSection(**settings), list(row)).adapt(row)


def refused(row: Row, **settings: Any) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        adapted(row, **settings)
    return str(caught.value), caught.value.fault


def test_the_registered_formats_are_those_of_the_schema() -> None:
    assert set(FORMATS) == set(get_args(DatasetSection.model_fields["format"].annotation))


# Conversations


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_column_of_messages(column: str) -> None:
    assert adapted({"id": 1, column: [USER, ANSWER]}) == QUESTION_AND_ANSWER


def test_messages_come_before_conversations_and_a_named_column_before_both() -> None:
    row = {"conversations": [USER, {**ANSWER, "content": "c"}], "messages": [USER, {**ANSWER, "content": "m"}]}
    row["chat"] = [USER, {**ANSWER, "content": "own"}]
    assert adapted(row) == Conversation((HI, Message("assistant", "m")))
    assert adapted(row, messages_column="chat") == Conversation((HI, Message("assistant", "own")))


def test_the_settings_reach_the_messages() -> None:
    row = {"chat": [{"who": "human", "text": "Hi", "why": None}, {"who": "gpt", "text": "Hello", "why": ""}]}
    keys = {"role_key": "who", "content_key": "text", "thinking_key": "why", "empty_thinking": "keep"}
    assert adapted(row, messages_column="chat", **keys) == Conversation((HI, Message("assistant", "Hello", "")))


def test_a_row_without_the_column() -> None:
    adapter = open_adapter(DatasetSection(), ["messages"])
    for row in ({}, {"messages": None}, {"conversations": [USER, ANSWER]}):
        with pytest.raises(RowError, match=r"^messages is missing, wanted a list of messages$"):
            adapter.adapt(row)


@pytest.mark.parametrize(
    ("messages", "message", "fault"),
    [
        ([], "holds no message", "wrong role order"),
        ([USER], "ends with a user message: there is no answer to learn", "wrong role order"),
        ([USER, ANSWER, ANSWER], "message 3 is the assistant's where the user's is due", "wrong role order"),
        ([USER, {**ANSWER, "content": " "}], "message 2: the assistant's answer is empty", "empty answer"),
        (
            [USER, {"role": "tool", "content": "7"}, ANSWER],
            "message 2 is the tool's where the assistant's is due: no tool call waits for a result",
            "tool calls",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f"}]}, ANSWER],
            "message 3 is the assistant's where the tool's is due: a tool call has no result",
            "tool calls",
        ),
    ],
)
def test_the_order_of_messages_is_checked(messages: list[Any], message: str, fault: str) -> None:
    assert refused({"messages": messages}) == (message, fault)


TOOL = {"type": "function", "function": {"name": "f", "description": "Does.", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
WITH_TOOLS = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "1"},
    ANSWER,
]
TOOLS_READ = (Tool("f", "Does.", {"type": "object"}),)
MESSAGES_READ = (
    HI, Message("assistant", tool_calls=(ToolCall("f", '{"a": 1}', "1"),)), Message("tool", "2", name="f"), HELLO,
)  # fmt: skip


def test_tools_stand_in_a_column_of_their_own() -> None:
    assert adapted({"messages": WITH_TOOLS, "tools": [TOOL]}) == Conversation(MESSAGES_READ, TOOLS_READ)
    row = {"messages": WITH_TOOLS, "functions": json.dumps([TOOL["function"]]), "tools": 3}
    assert adapted(row, tools_column="functions") == Conversation(MESSAGES_READ, TOOLS_READ)
    assert adapted({"messages": WITH_TOOLS, "tools": None}) == Conversation(MESSAGES_READ)
    assert refused({"messages": WITH_TOOLS, "functions": 3}, tools_column="functions") == (
        "functions is int, wanted a list of tool definitions",
        "tool calls",
    )


def test_a_column_system_leads_the_messages() -> None:
    brief = Message("system", "Be brief.")
    assert adapted({"messages": [USER, ANSWER], "system": "Be brief."}) == Conversation((brief, HI, HELLO))
    row = {"instruction": "Hi", "output": "Hello", "system": "Be brief."}
    assert adapted(row, format="alpaca") == Conversation((brief, HI, HELLO))
    row = {"prompt": [USER], "completion": [ANSWER], "system": "Be brief."}
    assert adapted(row, format="prompt_completion") == Conversation((brief, replace(HI, train=False), HELLO))
    for nothing in (None, "", " \n", 3):
        assert adapted({"messages": [USER, ANSWER], "system": nothing}) == QUESTION_AND_ANSWER
    assert adapted({"text": "A text.", "system": "Be brief."}, format="custom") == Text("A text.")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_column_system_and_a_system_message_are_one_too_many(role: str) -> None:
    own = {"role": role, "content": "Be long."}
    row = {"messages": [own, USER, ANSWER], "system": "Be brief."}
    assert refused(row) == ("has a system message, and a column system as well", "wrong role order")
    assert adapted({**row, "system": ""}) == Conversation((Message(role, "Be long."), HI, HELLO))
    assert refused({"messages": [USER, ANSWER], "system": "\ud800"}) == (
        "column system: character 0 is half of a surrogate pair",
        "invalid Unicode",
    )


def test_a_conversation_of_several_turns_with_a_developer_message() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "Hello", "train": False},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello", "thinking": "Again."},
    ]
    record = adapted({"conversations": turns, "tools": json.dumps([TOOL])})
    assert record == Conversation(
        (
            Message("system", "Be brief."),
            HI,
            Message("assistant", tool_calls=(ToolCall("f", '{"a": 1}'),)),
            Message("tool", "2", name="f"),
            Message("assistant", "Hello", train=False),
            HI,
            Message("assistant", "Hello", "Again."),
        ),
        TOOLS_READ,
    )


def test_the_nones_with_which_arrow_fills_change_nothing() -> None:
    other_call = {"id": None, "function": {"name": "g", "arguments": {"b": {"c": 1}}}}
    rows: list[dict[str, Any]] = [
        {"messages": [USER, ANSWER]},
        {
            "messages": [{**USER, "name": "x"}, {**ANSWER, "thinking": "Hm.", "train": False}],
            "tools": [TOOL["function"]],
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}, other_call]},
                {"role": "tool", "content": "1", "name": "g"},
                {"role": "tool", "content": "2"},
                {"role": "assistant", "content": "Hello", "reasoning_content": "So."},
            ],
            "tools": [{"name": "g", "parameters": {"type": "object", "properties": {"b": {"type": "string"}}}}],
        },
    ]
    filled = pa.concat_tables([pa.Table.from_pylist([row]) for row in rows], promote_options="permissive").to_pylist()
    assert filled != rows
    assert filled[2]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    assert [adapted(row) for row in filled] == [adapted(row) for row in rows]


# Questions and answers


def test_alpaca() -> None:
    row = {"instruction": "Add.", "output": "Hello"}
    for nothing in (None, "", " \n"):
        record = adapted({**row, "input": nothing}, format="alpaca")
        assert record == Conversation((Message("user", "Add."), HELLO))
    assert adapted(row, format="alpaca") == Conversation((Message("user", "Add."), HELLO))
    assert adapted({**row, "input": "1\n2"}, format="alpaca") == Conversation((Message("user", "Add.\n\n1\n2"), HELLO))
    assert adapted({**row, "instruction": "", "input": "Hi"}, format="alpaca") == QUESTION_AND_ANSWER
    for nothing in (None, [], ""):
        assert (
            adapted({"instruction": "Hi", "output": "Hello", "history": nothing}, format="alpaca")
            == QUESTION_AND_ANSWER
        )


@pytest.mark.parametrize(
    ("change", "message", "fault"),
    [
        ({"instruction": None}, "column instruction is missing, wanted a string", "not text"),
        ({"input": 0}, "column input is int, wanted a string", "not text"),
        ({"input": []}, "column input is list, wanted a string", "not text"),
        ({"input": "\udfff"}, "column input: character 0 is half of a surrogate pair", "invalid Unicode"),
        ({"instruction": "", "input": " \n"}, "columns instruction and input are empty", "wrong shape"),
        (
            {"history": [["Hi", "Hello"]]},
            "has a history, which format alpaca does not read; a list of messages can hold it",
            "wrong shape",
        ),
        ({"output": {}}, "column output is dict, wanted a string", "not text"),
        ({"output": ""}, "message 2: the assistant's answer is empty", "empty answer"),
    ],
)
def test_what_is_no_alpaca(change: dict[str, Any], message: str, fault: str) -> None:
    row = {"instruction": "Add.", "input": "1", "output": "2", **change}
    assert refused(row, format="alpaca") == (message, fault)


def test_prompt_and_completion_as_strings() -> None:
    assert adapted({"prompt": "Hi", "completion": "Hello"}, format="prompt_completion") == QUESTION_AND_ANSWER


def test_of_prompt_and_completion_as_messages_only_the_completion_is_trained() -> None:
    prompt, completion = [USER, ANSWER, USER], [ANSWER, USER, {**ANSWER, "train": False}]
    record = adapted({"prompt": prompt, "completion": completion}, format="prompt_completion")
    assert isinstance(record, Conversation)
    assert [message.role for message in record.messages] == ["user", "assistant"] * 3
    assert [message.train for message in record.messages if message.role == "assistant"] == [False, True, False]


def test_prompt_and_completion_as_the_json_text_of_lists() -> None:
    prompt, completion = [USER, ANSWER, USER], [ANSWER]
    as_lists = adapted({"prompt": prompt, "completion": completion}, format="prompt_completion")
    row = {"prompt": f" {json.dumps(prompt)}", "completion": json.dumps(completion)}
    assert adapted(row, format="prompt_completion") == as_lists
    row = {
        "prompt": json.dumps([{"who": "user", "content": "Hi"}]),
        "completion": '[{"who": "bot", "content": "Hello"}]',
    }
    assert adapted(row, format="prompt_completion", role_key="who") == Conversation((replace(HI, train=False), HELLO))


@pytest.mark.parametrize("text", ['[{"name": "f", "price": 3}]', "[{", "[{}]", "[1]", "[{" * 100_000])
def test_json_that_is_no_list_of_messages_is_what_is_asked_or_answered(text: str) -> None:
    answer = adapted({"prompt": "Hi", "completion": text}, format="prompt_completion")
    assert answer == Conversation((HI, Message("assistant", text)))
    both = adapted({"prompt": text, "completion": text}, format="prompt_completion")
    assert both == Conversation((Message("user", text), Message("assistant", text)))


def test_a_call_in_the_prompt_may_be_answered_in_the_completion() -> None:
    row = {"prompt": WITH_TOOLS[:2], "completion": WITH_TOOLS[2:], "tools": [TOOL]}
    record = adapted(row, format="prompt_completion")
    assert isinstance(record, Conversation)
    assert record.tools == TOOLS_READ
    assert [message.name for message in record.messages] == [None, None, "f", None]
    assert [message.train for message in record.messages if message.role == "assistant"] == [False, True]


BOTH = "prompt and completion are not both strings or both lists of messages"


@pytest.mark.parametrize(
    ("prompt", "completion", "message", "fault"),
    [
        ("Hi", [ANSWER], BOTH, "wrong shape"),
        ([USER], "Hello", BOTH, "wrong shape"),
        ("Hi", None, BOTH, "wrong shape"),
        (1, 2, BOTH, "wrong shape"),
        ("Hi", "", "message 2: the assistant's answer is empty", "empty answer"),
        ("Hi", "\ud800", "column completion: character 0 is half of a surrogate pair", "invalid Unicode"),
        ([USER], [], "ends with a user message: there is no answer to learn", "wrong role order"),
        ([USER], [{"role": "assistant"}], "message 2: content is missing, wanted a string", "not text"),
        (
            [],
            [ANSWER],
            "message 1 is the assistant's where the system or developer or user's is due",
            "wrong role order",
        ),
    ],
)
def test_what_is_no_prompt_and_completion(prompt: Any, completion: Any, message: str, fault: str) -> None:
    assert refused({"prompt": prompt, "completion": completion}, format="prompt_completion") == (message, fault)


def test_columns_0_and_1_are_a_question_and_its_answer() -> None:
    expected = Conversation((Message("user", "질문"), Message("assistant", "답")))
    assert adapted({"0": "질문", "1": "답"}, format="custom") == expected
    assert adapted({"1": "답", "0": "질문"}, format="custom") == expected
    assert refused({"0": "질문", "1": None}, format="custom") == ("column 1 is missing, wanted a string", "not text")
    assert refused({"0": "질문", "1": ""}, format="custom") == (
        "message 2: the assistant's answer is empty",
        "empty answer",
    )


# Text


def test_text() -> None:
    assert adapted({"text": " a text\n", "id": 3}, format="custom") == Text(" a text\n")
    assert adapted({"text": "a", "body": "b"}, format="custom", text_column="body") == Text("b")


@pytest.mark.parametrize(
    ("value", "message", "fault"),
    [
        (None, "column text is missing, wanted a string", "not text"),
        (7, "column text is int, wanted a string", "not text"),
        ("", "column text is empty", "empty answer"),
        (" \n\t", "column text is empty", "empty answer"),
        ("ab\udc00", "column text: character 2 is half of a surrogate pair", "invalid Unicode"),
    ],
)
def test_what_is_no_text(value: object, message: str, fault: str) -> None:
    assert refused({"text": value}, format="custom") == (message, fault)


# Columns

NO_MESSAGES = "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are."
NO_TEXT = "Name the column of text in dataset.text_column, or set dataset.format: sharegpt for conversations."
MISSING = [
    ({}, "text, id", "no column messages or conversations", NO_MESSAGES, "dataset.format"),
    ({"messages_column": "chat"}, "messages", "no column chat", NO_MESSAGES, "dataset.messages_column"),
    ({"format": "custom"}, "messages, id", "no column text", NO_TEXT, "dataset.text_column"),
    ({"format": "custom", "text_column": "body"}, "0, 1", "no column body", NO_TEXT, "dataset.text_column"),
    ({"format": "custom"}, "0, 1, 2", "no column text", NO_TEXT, "dataset.text_column"),
    (
        {"format": "alpaca"},
        "question, output",
        "no column instruction, which format alpaca reads",
        "Name them in dataset.rename_columns, as {question: instruction}, or set dataset.format.",
        "dataset.format",
    ),
    (
        {"format": "prompt_completion"},
        "text",
        "no column prompt or completion, which format prompt_completion reads",
        "Name them in dataset.rename_columns, as {question: prompt}, or set dataset.format.",
        "dataset.format",
    ),
]


@pytest.mark.parametrize(("settings", "columns", "message", "cure", "key"), MISSING)
def test_a_missing_column_is_told_with_those_there_are(
    settings: dict[str, Any], columns: str, message: str, cure: str, key: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_adapter(DatasetSection(**settings), columns.split(", "))
    error = caught.value
    assert (error.message, error.cure, error.key) == (f"{message}; there are: {columns}", cure, key)
    assert error.exit_code == ExitCode.DATA


def test_a_renamed_column_is_the_one_that_the_format_reads(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Hi", "answer": "Hello"}\n', encoding="utf-8")
    names = {"question": "instruction", "answer": "output"}
    config = DatasetSection(path=str(path), format="alpaca", rename_columns=names)
    source = open_source(config)
    adapter = open_adapter(config, source.columns)
    (row,) = source.rows()
    assert not isinstance(row.content, RowError)
    assert adapter.adapt(row.content) == QUESTION_AND_ANSWER


# Reasoning effort


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_an_effort_for_all_rows_or_for_each(level: Effort) -> None:
    row = {"messages": [USER, ANSWER], "how_hard": level}
    assert adapted(row, reasoning_effort=level) == QUESTION_AND_ANSWER
    assert adapted(row, reasoning_effort="how_hard") == Conversation((HI, HELLO), effort=level)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "missing"),
        ("Low", "'Low'"),
        (["low"], "['low']"),
        (1, "1"),
        ("x" * 1000, "'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_a_row_whose_effort_is_no_level(value: object, found: str) -> None:
    row = {"messages": [USER, ANSWER], "how_hard": value}
    assert refused(row, reasoning_effort="how_hard") == (
        f"column how_hard is {found}, wanted low, medium or high",
        "reasoning effort",
    )


def test_an_effort_that_is_neither_a_level_nor_a_column() -> None:
    with pytest.raises(SettingError) as caught:
        open_adapter(DatasetSection(reasoning_effort="lo"), ["messages", "id"])
    error = caught.value
    assert error.message == "lo is no level of reasoning effort, and no column either; there are: messages, id"
    assert error.cure == "Set low, medium or high, or the name of a column that holds one of them in each row."
    assert (error.key, error.exit_code) == ("dataset.reasoning_effort", ExitCode.CONFIG)


# New formats


def test_a_new_format_takes_ten_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def columns(config: DatasetSection, there: Sequence[str]) -> tuple[str, ...]:
        if "dialogue" not in there:
            raise DataError(f"no column dialogue; there are: {', '.join(there)}", key="dataset.format")
        return ("dialogue",)

    def adapt(row: Row, columns: tuple[str, ...], config: DatasetSection) -> Record:
        question, answer = row[columns[0]].split("|")
        return Conversation((Message("user", question), Message("assistant", answer)))

    monkeypatch.setitem(FORMATS, "dialogue", Format(columns, adapt))
    config = DatasetSection.model_construct(format="dialogue")

    row = {"dialogue": "Hi|Hello", "tools": [TOOL]}
    assert open_adapter(config, list(row)).adapt(row) == Conversation((HI, HELLO), TOOLS_READ)
    with pytest.raises(RowError, match=r"^message 2: the assistant's answer is empty$"):
        open_adapter(config, list(row)).adapt({"dialogue": "Hi|"})
    with pytest.raises(DataError, match=r"^no column dialogue; there are: text$"):
        open_adapter(config, ["text"])


# Published schemas


@pytest.mark.parametrize(
    ("name", "settings", "thinks"),
    [
        ("finetome", {}, False),
        ("multilingual_thinking", {}, True),
        ("korean_textbooks_01", {"format": "custom"}, False),
        ("korean_textbooks_text", {"format": "custom"}, None),
    ],
)
def test_rows_of_published_data_sets(
    samples_folder: Path, name: str, settings: dict[str, Any], thinks: bool | None
) -> None:
    config = DatasetSection(path=str(samples_folder / f"{name}.jsonl"), **settings)
    source = open_source(config)
    adapter = open_adapter(config, source.columns)
    records = [adapter.adapt(row.content) for row in source.rows() if not isinstance(row.content, RowError)]
    assert len(records) == len(list(source.rows())) > 0
    for record in records:
        assert thinks == (record.has_thinking if isinstance(record, Conversation) else None)


# Anything

COLUMNS = [
    "messages", "tools", "effort", "system", "instruction", "input", "output", "history", "prompt", "completion",
    "text", "0", "1",
]  # fmt: skip
KEYS = st.sampled_from(["role", "content", "from", "value", "thinking", "tool_calls", "name", "arguments", "train"])
TEXTS = st.sampled_from(
    ["user", "assistant", "tool", "function_call", "Hi", "", " ", "low", "\ud800", "[]", '{"name": "f"}']
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
MESSAGES = st.lists(st.one_of(st.sampled_from([USER, ANSWER, *WITH_TOOLS]), VALUES), max_size=4)
MOSTLY_GOOD = st.one_of(st.just(WITH_TOOLS), st.just([USER, ANSWER]), MESSAGES, VALUES)
EFFORTS = st.one_of(st.just("low"), VALUES)
ROWS = st.one_of(
    st.dictionaries(st.sampled_from(COLUMNS), st.one_of(VALUES, MESSAGES, TEXTS)),
    st.fixed_dictionaries({"messages": MOSTLY_GOOD, "effort": EFFORTS}, optional={"tools": VALUES}),
    st.fixed_dictionaries({"prompt": MESSAGES, "completion": MESSAGES}),
)
ADAPTERS = [
    open_adapter(DatasetSection(), ["messages"]),
    open_adapter(DatasetSection(reasoning_effort="effort", empty_thinking="keep"), ["messages", "effort"]),
    open_adapter(DatasetSection(format="alpaca"), ["instruction", "output"]),
    open_adapter(DatasetSection(format="prompt_completion"), ["prompt", "completion"]),
    open_adapter(DatasetSection(format="custom"), ["text"]),
    open_adapter(DatasetSection(format="custom"), ["0", "1"]),
]


@settings(max_examples=800, deadline=None)
@given(row=ROWS)
def test_any_row_is_a_record_or_a_mistake(row: dict[str, Any]) -> None:
    for adapter in ADAPTERS:
        try:
            record = adapter.adapt(row)
        except RowError as error:
            assert str(error) and len(str(error)) < 400
            continue
        if isinstance(record, Conversation):
            check_order(record.messages)
        else:
            assert record.text.encode().strip()
