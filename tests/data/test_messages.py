"""Lists of messages in the layouts that data sets have → messages; and for what is none, which message is wrong how."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Message, RowError, Tool, ToolCall
from gptoss_ft.data.messages import DEEPEST_NESTING, ROLES, read_messages, read_tools, string

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello")
WEATHER = {"function": {"name": "weather", "arguments": {"city": "Rome"}}, "id": "a", "type": "function"}
TIME = {"function": {"name": "time", "arguments": "{}"}, "id": "b", "type": "function"}
HALF = "a\ud800"
THINKING_KEYS = ["thinking", "reasoning_content", "reasoning"]


def read(*messages: Any, **settings: Any) -> tuple[Message, ...]:
    return read_messages(list(messages), DatasetSection(**settings), "messages")


def calling(*calls: Any, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **keys}


def refused(read_it: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read_it()
    return str(caught.value), caught.value.fault


def nested(levels: int) -> Any:
    """Objects and lists in turn, `levels` deep."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


# Layouts


def test_messages_of_role_and_content() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert read(system, USER, ANSWER) == (Message("system", "Be brief."), HI, HELLO)
    assert read() == ()


def test_conversations_of_from_and_value() -> None:
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert read(*turns) == (Message("system", ""), HI, HELLO)


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_every_role_has_its_names(name: str, role: str) -> None:
    content = '{"name": "f", "arguments": {}}' if name in ("function_call", "tool_call") else "x"
    (message,) = read({"role": name, "content": content})
    assert message.role == role


@pytest.mark.parametrize(("name", "role"), [("User", "user"), (" ASSISTANT\n", "assistant"), ("GPT ", "assistant")])
def test_a_role_is_read_without_regard_to_case_and_the_space_around_it(name: str, role: str) -> None:
    (message,) = read({"role": name, "content": "x"})
    assert message == Message(role, "x")
    assert read({"role": "Function_Call", "content": json.dumps(TIME)})[0].tool_calls == (ToolCall("time", "{}", "b"),)


def test_the_keys_have_the_names_that_the_config_gives() -> None:
    row = (
        {"who": "human", "says": "Hi", "role": 3, "content": 4},
        {"who": "bot", "says": "Hello", "thought": "Hm.", "thinking": 5},
    )
    assert read(*row, role_key="who", content_key="says", thinking_key="thought") == (
        HI,
        Message("assistant", "Hello", "Hm."),
    )
    # A named key is read alone.
    assert refused(lambda: read(USER, content_key="says")) == (
        "message 1: content is missing, wanted a string",
        "not text",
    )


def test_a_list_of_messages_may_be_json_text() -> None:
    config = DatasetSection()
    assert read_messages(json.dumps([USER, ANSWER]), config, "messages") == (HI, HELLO)
    assert refused(lambda: read_messages("Hi", config, "chat")) == (
        "chat is not JSON: Expecting value",
        "wrong shape",
    )
    assert refused(lambda: read_messages("[" * 100_000, config, "chat")) == (
        "chat is JSON nested too deep",
        "wrong shape",
    )


def test_content_in_parts_of_text() -> None:
    parts = [{"type": "text", "text": "H", "image": None}, {"type": "text", "text": "i"}]
    assert read({"role": "user", "content": parts}) == (HI,)


@pytest.mark.parametrize("key", THINKING_KEYS)
@pytest.mark.parametrize("empty", [None, ""])
def test_thinking_of_an_answer(key: str, empty: str | None) -> None:
    answer = {**ANSWER, **dict.fromkeys(THINKING_KEYS, empty), key: " A greeting.\n"}
    for keeps in ("drop", "keep"):
        messages = read({**USER, key: None}, answer, empty_thinking=keeps)
        assert messages == (HI, Message("assistant", "Hello", " A greeting.\n"))


def test_of_several_keys_of_thinking_the_first_that_is_filled_is_read() -> None:
    answer = {**ANSWER, "reasoning": "Third.", "reasoning_content": "Second.", "thinking": "First."}
    assert read(answer)[0].thinking == "First."
    assert read({**answer, "thinking": ""})[0].thinking == "Second."
    # A named key is read alone.
    assert read({**answer, "thinking": ""}, thinking_key="thinking")[0].thinking is None


@pytest.mark.parametrize("empty", ["", " \n"])
def test_empty_thinking_is_dropped_or_kept(empty: str) -> None:
    row = {**USER, "thinking": empty}, {**ANSWER, "thinking": empty}, {**ANSWER, "thinking": None}
    assert read(*row) == (HI, HELLO, HELLO)
    assert read(*row, empty_thinking="keep") == (HI, Message("assistant", "Hello", empty), HELLO)


def test_an_answer_may_be_context_only() -> None:
    row = USER, {**ANSWER, "train": False}, {**USER, "train": False}, {**ANSWER, "train": True}
    assert [message.train for message in read(*row)] == [True, False, False, True]


def test_weight_0_or_1_says_whether_an_answer_is_trained() -> None:
    row = {**ANSWER, "weight": 0}, {**ANSWER, "weight": 1}, {**ANSWER, "weight": 0.0}, {**ANSWER, "weight": None}
    assert [message.train for message in read(*row)] == [False, True, False, True]
    # train says it first, and other weights and those of other roles say nothing.
    row = {**ANSWER, "weight": 0, "train": True}, {**ANSWER, "weight": 0.5}, {**USER, "weight": 0}
    assert [message.train for message in read(*row)] == [True, True, True]


# Tools


@pytest.mark.parametrize(
    "call",
    [
        WEATHER,
        {"id": "a", "name": "weather", "arguments": {"city": "Rome"}},
        {"id": "a", "name": "weather", "arguments": '{"city": "Rome"}', "function": None},
        {"id": "a", "function": {"name": "weather", "arguments": {"city": "Rome", "day": None}}},
    ],
)
def test_a_call_with_and_without_the_function_level(call: dict[str, Any]) -> None:
    expected = Message("assistant", tool_calls=(ToolCall("weather", '{"city": "Rome"}', "a"),))
    assert read(calling(call)) == (expected,)
    assert read(calling() | {"tool_calls": json.dumps([call])}) == (expected,)
    assert read({"role": "assistant", "function_call": call, "tool_calls": []}) == (expected,)
    assert read({"from": "function_call", "value": json.dumps(call)}) == (expected,)
    assert read({"from": "tool_call", "value": [call]}) == (expected,)


def test_a_message_may_make_several_calls_and_say_something() -> None:
    calls = (ToolCall("weather", '{"city": "Rome"}', "a"), ToolCall("time", "{}", "b"))
    assert read(calling(WEATHER, TIME, content="Both.", thinking="Hm.")) == (
        Message("assistant", "Both.", "Hm.", calls),
    )
    assert read({"from": "function_call", "value": json.dumps([WEATHER, TIME])}) == (
        Message("assistant", "", None, calls),
    )


def test_a_message_that_is_a_call_may_have_thinking_and_be_context_only() -> None:
    call = {"role": "function_call", "content": json.dumps(TIME), "thinking": "Hm.", "train": False}
    assert read(call) == (Message("assistant", "", "Hm.", (ToolCall("time", "{}", "b"),), train=False),)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (None, "{}"),
        ({}, "{}"),
        ({"a": None}, "{}"),
        ({"a": {"b": None, "c": [1, None, {"d": None}]}}, '{"a": {"c": [1, null, {}]}}'),
        ({"é": "한"}, '{"é": "한"}'),
        # What is JSON text already is what the model must write, to the letter.
        ('{"b":null,  "a":1.50}', '{"b":null,  "a":1.50}'),
    ],
)
def test_arguments_as_an_object_or_as_json_text(arguments: Any, text: str) -> None:
    (message,) = read(calling({"name": "f", "arguments": arguments}))
    assert message.tool_calls == (ToolCall("f", text),)


@pytest.mark.parametrize("nothing", [None, [], "", {}, {"name": None, "arguments": None}])
def test_no_calls_are_written_in_many_ways(nothing: Any) -> None:
    for key in ("tool_calls", "function_call"):
        assert read(USER | {key: nothing}, ANSWER | {key: nothing}) == (HI, HELLO)


def names_of_results(calls: list[Any], *results: dict[str, Any]) -> list[str | None]:
    messages = read(USER, calling(*calls), *({"role": "tool", "content": "1", **result} for result in results))
    return [message.name for message in messages[2:]]


def test_results_are_matched_by_id_by_name_or_in_order() -> None:
    calls = [WEATHER, TIME]
    assert names_of_results(calls, {"tool_call_id": "b"}, {"tool_call_id": "a"}) == ["time", "weather"]
    assert names_of_results(calls, {"name": "time"}, {"name": "weather"}) == ["time", "weather"]
    assert names_of_results(calls, {}, {}) == ["weather", "time"]
    assert names_of_results(calls, {"name": "time"}, {}) == ["time", "weather"]
    assert names_of_results(calls, {"tool_call_id": "b", "name": "time"}, {"name": None}) == ["time", "weather"]


def test_a_result_with_an_id_may_answer_a_call_without_one() -> None:
    bare = {"name": "time", "arguments": {}}
    assert names_of_results([WEATHER, bare], {"tool_call_id": "z"}, {"tool_call_id": "a"}) == ["time", "weather"]
    assert names_of_results([bare, bare], {"tool_call_id": "1"}, {"tool_call_id": "2"}) == ["time", "time"]


def test_an_empty_id_or_name_of_a_result_is_a_missing_one() -> None:
    assert names_of_results([WEATHER, TIME], {"tool_call_id": ""}, {"name": ""}) == ["weather", "time"]
    assert names_of_results(
        [WEATHER, TIME], {"tool_call_id": "b", "name": ""}, {"tool_call_id": "", "name": "weather"}
    ) == [
        "time",
        "weather",
    ]


def results_in_order(calls: list[Any], *ids: str) -> list[str]:
    """The contents of the results of `calls`, each of which is its id in the row."""
    row = (USER, calling(*calls), *({"role": "tool", "content": id_, "tool_call_id": id_} for id_ in ids), ANSWER)
    return [message.content for message in read(*row) if message.role == "tool"]


def test_results_of_several_calls_of_one_function_come_in_the_order_of_the_calls() -> None:
    first, second, third = ({**TIME, "id": id_} for id_ in "123")
    assert results_in_order([first, second, third], "3", "1", "2") == ["1", "2", "3"]
    assert results_in_order([first, second], "1", "2") == ["1", "2"]
    # A name tells the others: they stay where they are.
    assert results_in_order([first, WEATHER, second], "2", "a", "1") == ["1", "a", "2"]
    assert results_in_order([WEATHER, TIME], "b", "a") == ["b", "a"]
    # Without an id they are in the order of the calls already.
    assert [message.content for message in read(calling(first, second), RESULT, {**RESULT, "content": "2"})[1:]] == [
        "1",
        "2",
    ]


def test_results_are_put_in_order_among_those_of_one_message() -> None:
    calls = [{**TIME, "id": id_} for id_ in "12"]
    results = [{"role": "tool", "content": id_, "tool_call_id": id_} for id_ in "21"]
    messages = read(USER, calling(*calls), *results, calling(*calls), *results)
    assert [message.content for message in messages] == ["Hi", "", "1", "2", "", "1", "2"]


def test_results_belong_to_the_message_before_them() -> None:
    row = USER, calling(WEATHER), {"role": "tool", "content": "1"}, calling(TIME), {"from": "observation", "value": "2"}
    assert [message.name for message in read(*row)] == [None, None, "weather", None, "time"]
    # A result that nobody waits for keeps its name: check_order refuses it.
    assert read(USER, ANSWER, {"role": "tool", "content": "1", "name": "x"})[-1] == Message("tool", "1", name="x")
    assert names_of_results([TIME], {}, {"tool_call_id": "b"}) == ["time", None]


def test_a_result_may_be_any_json() -> None:
    contents = [{"a": [1, None]}, ["é"], [], "", [{"type": "text", "text": "x"}]]
    texts = ['{"a": [1, null]}', '["é"]', "[]", "", "x"]
    assert [read({"role": "tool", "content": content})[0].content for content in contents] == texts


RESULT = {"role": "tool", "content": "1"}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"name": "f", "description": "Does.", "parameters": PARAMETERS}


@pytest.mark.parametrize(
    "definitions",
    [
        [{"type": "function", "function": FUNCTION}],
        [FUNCTION],
        (FUNCTION,),
        [json.dumps(FUNCTION)],
        json.dumps([FUNCTION]),
        [{"function": {**FUNCTION, "parameters": json.dumps(PARAMETERS)}, "name": None}],
        [
            {
                **FUNCTION,
                "parameters": {"type": "object", "properties": {"a": {"type": "string", "enum": None}, "b": None}},
            }
        ],
    ],
)
def test_tool_definitions(definitions: Any) -> None:
    assert read_tools(definitions, "tools") == (Tool("f", "Does.", PARAMETERS),)


def test_a_tool_that_takes_nothing_or_is_not_described() -> None:
    assert read_tools([{"name": "f"}], "tools") == (Tool("f", ""),)
    assert read_tools([{"name": "f", "description": None, "parameters": None}], "tools") == (Tool("f", ""),)
    assert read_tools([{"name": "f", "parameters": {}}], "tools") == (Tool("f", "", {}),)


@pytest.mark.parametrize("nothing", [None, "", " ", [], "[]", "null"])
def test_no_tools(nothing: Any) -> None:
    assert read_tools(nothing, "tools") == ()


# Mistakes

REFUSED: list[tuple[list[Any], str, str]] = [
    ([USER, "Hello"], "message 2 is str, wanted an object with role and content", "wrong shape"),
    ([USER, None], "message 2 is missing, wanted an object with role and content", "wrong shape"),
    ([{"content": "Hi"}], "message 1: role is missing, wanted a string", "not text"),
    ([{"role": ["user"], "content": "Hi"}], "message 1: role is list, wanted a string", "not text"),
    (
        [{"role": "Users", "content": "Hi"}],
        f"message 1: unknown role 'Users'; known are {', '.join(ROLES)}",
        "unknown role",
    ),
    (
        [{"role": "x" * 1000, "content": "Hi"}],
        f"message 1: unknown role 'xxxxxxxxxxxx...xxxxxxxxxxxxx'; known are {', '.join(ROLES)}",
        "unknown role",
    ),
    ([{"role": HALF, "content": "Hi"}], "message 1: role: character 1 is half of a surrogate pair", "invalid Unicode"),
    ([USER, {"role": "assistant"}], "message 2: content is missing, wanted a string", "not text"),
    ([{"from": "human", "value": 7}], "message 1: content is int, wanted a string", "not text"),
    ([{**USER, "content": [{"type": "text"}]}], "message 1: content is list, wanted a string", "not text"),
    ([{**USER, "content": [{"type": "text", "text": 1}]}], "message 1: content is int, wanted a string", "not text"),
    ([{**USER, "content": []}], "message 1: content is list, wanted a string", "not text"),
    ([{**USER, "content": HALF}], "message 1: content: character 1 is half of a surrogate pair", "invalid Unicode"),
    (
        [{"role": "tool", "content": {"a": [HALF]}}],
        "message 1: content: character 9 is half of a surrogate pair",
        "invalid Unicode",
    ),
    (
        [{"role": "tool", "content": {"a": b"x"}}],
        "message 1: content holds a value that JSON cannot write",
        "tool calls",
    ),
    ([{**USER, "thinking": "Hm"}], "message 1: thinking belongs to the assistant, not to user", "wrong shape"),
    ([{**RESULT, "tool_calls": [TIME]}], "message 1: tool calls belong to the assistant, not to tool", "wrong shape"),
    ([{**ANSWER, "thinking": 3}], "message 1: thinking is int, wanted a string", "not text"),
    ([{**ANSWER, "thinking": HALF}], "message 1: thinking: character 1 is half of a surrogate pair", "invalid Unicode"),
    ([{**ANSWER, "train": 1}], "message 1: train is int, wanted true or false", "wrong shape"),
    (
        [{**USER, "train": True}],
        "message 1: train is true, but only the assistant's messages are trained",
        "wrong shape",
    ),
    ([{**RESULT, "name": 1}], "message 1: name is int, wanted a string", "not text"),
    ([{**RESULT, "tool_call_id": 1}], "message 1: tool_call_id is int, wanted a string", "not text"),
    ([USER, {"from": "function_call", "value": None}], "message 2 holds no tool call", "tool calls"),
    ([USER, {"from": "function_call", "value": "[]"}], "message 2 holds no tool call", "tool calls"),
    (
        [{"from": "function_call", "value": "f()"}],
        "message 1: its tool call is not JSON: Expecting value",
        "tool calls",
    ),
    ([{"from": "function_call", "value": 0}], "message 1: tool_calls is int, wanted a list", "tool calls"),
    ([calling() | {"tool_calls": False}], "message 1: tool_calls is bool, wanted a list", "tool calls"),
    (
        [calling(TIME, None)],
        "message 1: tool call 2 is missing, wanted an object with name and arguments",
        "tool calls",
    ),
    (
        [calling({"type": "function", "function": "f"})],
        "message 1: tool call 1: function is str, wanted an object with name and arguments",
        "tool calls",
    ),
    ([calling({"arguments": {}})], "message 1: tool call 1: name is missing, wanted a string", "not text"),
    ([calling({"name": ""})], "message 1: tool call 1: name is '', wanted one word", "tool calls"),
    ([calling({"name": "a b"})], "message 1: tool call 1: name is 'a b', wanted one word", "tool calls"),
    ([calling({"name": "f", "id": 7})], "message 1: tool call 1: id is int, wanted a string", "not text"),
    (
        [calling({"name": "f", "arguments": "a=1"})],
        "message 1: tool call 1: arguments is not JSON: Expecting value",
        "tool calls",
    ),
    (
        [calling({"name": "f", "arguments": "[1]"})],
        "message 1: tool call 1: arguments is list, wanted an object or its JSON text",
        "tool calls",
    ),
    (
        [calling({"name": "f", "arguments": 1})],
        "message 1: tool call 1: arguments is int, wanted an object or its JSON text",
        "tool calls",
    ),
    (
        [calling({"name": "f", "arguments": '{"a": NaN}'})],
        "message 1: tool call 1: arguments holds a value that JSON cannot write",
        "tool calls",
    ),
    (
        [calling({"name": "f", "arguments": {"a": HALF}})],
        "message 1: tool call 1: arguments: character 8 is half of a surrogate pair",
        "invalid Unicode",
    ),
    (
        [calling({"name": "f", "arguments": '{"a": "\\ud800"}'})],
        "message 1: tool call 1: arguments: character 7 is half of a surrogate pair",
        "invalid Unicode",
    ),
    ([calling(TIME), {**RESULT, "tool_call_id": "z"}], "message 2: no open tool call has the id 'z'", "tool calls"),
    (
        [calling(TIME, TIME | {"id": "c"}), {**RESULT, "tool_call_id": "b"}, {**RESULT, "tool_call_id": "b"}],
        "message 3: no open tool call has the id 'b'",
        "tool calls",
    ),
    (
        [calling(WEATHER, TIME), {**RESULT, "name": "x"}],
        "message 2 is a result of 'x', where one of weather, time is due",
        "tool calls",
    ),
    (
        [calling(WEATHER, TIME), {**RESULT, "tool_call_id": "a", "name": "time"}],
        "message 2 is a result of 'time', where one of weather is due",
        "tool calls",
    ),
]


@pytest.mark.parametrize(("messages", "message", "fault"), REFUSED, ids=lambda case: str(case)[:40])
def test_what_is_no_message(messages: list[Any], message: str, fault: str) -> None:
    assert refused(lambda: read(*messages)) == (message, fault)


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "missing"), ({"role": "user"}, "dict"), (1, "int"), (b"[]", "bytes"), ('"Hi"', "str")]
)
def test_what_is_no_list_of_messages(value: object, kind: str) -> None:
    found = refused(lambda: read_messages(value, DatasetSection(), "chat"))
    assert found == (f"chat is {kind}, wanted a list of messages", "wrong shape")


REFUSED_TOOLS: list[tuple[Any, str, str]] = [
    (7, "tools is int, wanted a list of tool definitions", "tool calls"),
    ({"name": "f"}, "tools is dict, wanted a list of tool definitions", "tool calls"),
    ("f", "tools is not JSON: Expecting value", "tool calls"),
    ('"f"', "tools is str, wanted a list of tool definitions", "tool calls"),
    ([FUNCTION, None], "tools: tool 2 is missing, wanted an object with name and parameters", "tool calls"),
    (["7"], "tools: tool 1 is int, wanted an object with name and parameters", "tool calls"),
    ([{"function": "f"}], "tools: tool 1: function is str, wanted an object with name and parameters", "tool calls"),
    ([{"type": "code_interpreter"}], "tools: tool 1: name is missing, wanted a string", "not text"),
    ([{"name": "a\u00a0b"}], "tools: tool 1: name is 'a\\xa0b', wanted one word", "tool calls"),
    ([{"name": "f", "description": ["x"]}], "tools: tool 1: description is list, wanted a string", "not text"),
    (
        [{"name": "f", "parameters": "{"}],
        "tools: tool 1: parameters is not JSON: Expecting property name enclosed in double quotes",
        "tool calls",
    ),
    ([{"name": "f", "parameters": []}], "tools: tool 1: parameters is list, wanted a JSON Schema object", "tool calls"),
    (
        [{"name": "f", "parameters": {"default": float("nan")}}],
        "tools: tool 1: parameters holds a value that JSON cannot write",
        "tool calls",
    ),
    (
        [{"name": "f", "parameters": {"title": HALF}}],
        "tools: tool 1: parameters: character 12 is half of a surrogate pair",
        "invalid Unicode",
    ),
]


@pytest.mark.parametrize(("raw", "message", "fault"), REFUSED_TOOLS, ids=lambda case: str(case)[:40])
def test_what_is_no_tool(raw: Any, message: str, fault: str) -> None:
    assert refused(lambda: read_tools(raw, "tools")) == (message, fault)


def test_nesting_has_an_end() -> None:
    deep, too_deep = {"a": nested(DEEPEST_NESTING - 4)}, {"a": nested(DEEPEST_NESTING)}
    assert read_tools([{"name": "f", "parameters": deep}], "tools")[0].parameters == deep
    assert read(calling({"name": "f", "arguments": deep}))[0].tool_calls[0].arguments == json.dumps(deep)
    limit = f"is nested deeper than {DEEPEST_NESTING} levels"
    assert refused(lambda: read_tools([{"name": "f", "parameters": too_deep}], "tools")) == (
        f"tools: tool 1: parameters {limit}",
        "tool calls",
    )
    assert refused(lambda: read(calling({"name": "f", "arguments": json.dumps(too_deep)}))) == (
        f"message 1: tool call 1: arguments {limit}",
        "tool calls",
    )
    assert refused(lambda: read(calling({"name": "f", "arguments": too_deep}))) == (
        f"message 1: tool_calls {limit}",
        "tool calls",
    )


@pytest.mark.parametrize("levels", [500, 950, 3000, 20_000])
def test_values_nested_deeper_than_python_recurses(levels: int) -> None:
    deep = nested(levels)
    for wrong in (
        lambda: read({"role": "user", "content": deep}),
        lambda: read({"role": "tool", "content": deep}),
        lambda: read({"role": deep, "content": "Hi"}),
        lambda: read(calling(deep)),
        lambda: read(calling({"name": "f", "arguments": {"a": deep}})),
        lambda: read_tools(deep, "tools"),
        lambda: read_tools([{"name": "f", "parameters": {"a": deep}}], "tools"),
    ):
        with pytest.raises(RowError):
            wrong()


def test_text_is_what_utf8_can_write() -> None:
    for text in ("", "a\0", "é한😀", "\ufffe\ue000"):
        assert string(text, "x") is text
    assert refused(lambda: string("é\udc80", "column x")) == (
        "column x: character 1 is half of a surrogate pair",
        "invalid Unicode",
    )


# Anything

KEYS = st.sampled_from(
    [
        "role", "content", "from", "value", "thinking", "reasoning_content", "tool_calls", "function_call", "function",
        "name", "arguments", "parameters", "description", "id", "tool_call_id", "train", "type", "text", "properties",
    ]
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from([*ROLES, "text", "f", "{}", "[]", "null", '{"name": "f"}', "", HALF, '"\\ud800"', "1" * 4500]),
    st.text(max_size=3),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
CALLS = st.fixed_dictionaries({"name": st.one_of(st.just("f"), VALUES)}, optional={"arguments": VALUES, "id": VALUES})
MESSAGES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"role": st.sampled_from(list(ROLES)), "content": st.one_of(TEXTS, VALUES, CALLS)},
        optional={
            "tool_calls": st.one_of(st.lists(CALLS, max_size=2), VALUES),
            "function_call": VALUES,
            "tool_call_id": VALUES,
            "name": VALUES,
            "thinking": VALUES,
            "train": VALUES,
            "weight": VALUES,
        },
    ),
)


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.encode() or True)


@settings(max_examples=700, deadline=None)
@given(raw=st.one_of(VALUES, st.lists(MESSAGES, max_size=4)), keeps=st.booleans())
@example(raw=[calling(TIME), {"role": "tool", "content": None}], keeps=True)
def test_any_value_is_messages_or_a_mistake(raw: Any, keeps: bool) -> None:
    try:
        messages = read_messages(raw, DatasetSection(empty_thinking="keep" if keeps else "drop"), "messages")
    except RowError as error:
        assert error.fault in ("wrong shape", "not text", "invalid Unicode", "unknown role", "tool calls")
        assert str(error).startswith("message")
        assert len(str(error)) < 400
        return
    for message in messages:
        assert is_text(message.content)
        assert message.thinking is None or (message.role == "assistant" and is_text(message.thinking))
        assert message.name is None or (message.role == "tool" and is_text(message.name))
        for call in message.tool_calls:
            assert is_text(call.name)
            assert isinstance(json.loads(call.arguments), dict)


@settings(max_examples=500, deadline=None)
@given(raw=st.one_of(VALUES, st.lists(st.one_of(VALUES, CALLS), max_size=3)), as_text=st.booleans())
def test_any_value_is_tools_or_a_mistake(raw: Any, as_text: bool) -> None:
    try:
        tools = read_tools(json.dumps(raw) if as_text else raw, "tools")
    except RowError as error:
        assert error.fault in ("not text", "invalid Unicode", "tool calls")
        assert str(error).startswith("tools")
        return
    for tool in tools:
        assert is_text(tool.name) and is_text(tool.description)
        assert tool.parameters is None or is_text(json.dumps(tool.parameters, ensure_ascii=False, allow_nan=False))
