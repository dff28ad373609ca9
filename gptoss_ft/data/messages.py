"""A row's list of messages, as data sets write it, → `Message`s. `None` and a missing key mean the same everywhere.

Read are OpenAI's form (role, content, tool_calls, tool_call_id), ShareGPT's (from, value, with the roles human, gpt,
observation and function_call), and tool definitions as objects or as JSON text.
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import Fault, Message, Role, RowError, Tool, ToolCall

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    # ShareGPT's: the assistant's message is the call itself, as JSON text.
    "function_call": "assistant",
    "tool_call": "assistant",
}
_CALL_ROLES = ("function_call", "tool_call")

# Levels of arguments, results and schemas: less than Python's recursion and harmony's JSON reader (118) can take.
DEEPEST_NESTING = 100


def string(value: object, what: str) -> str:
    """`value` if it is text that can be tokenized; `RowError` otherwise."""
    if not isinstance(value, str):
        raise RowError(f"{what} is {'missing' if value is None else type(value).__name__}, wanted a string", "not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(f"{what}: character {error.start} is half of a surrogate pair", "invalid Unicode") from None
    return value


def read_messages(raw: object, config: DatasetSection, what: str) -> tuple[Message, ...]:
    """The messages of one list, named `what` in errors; messages count from 1."""
    if isinstance(raw, str):
        raw = _json(raw, what, "wrong shape")
    if not isinstance(raw, list | tuple):
        raise RowError(f"{what} is {_kind(raw)}, wanted a list of messages", "wrong shape")
    messages: list[Message] = []
    calls: tuple[ToolCall, ...] = ()
    waiting: list[ToolCall] = []
    answered: dict[int, int] = {}  # position of a result → that of its call among the last ones
    for number, item in enumerate(raw, start=1):
        message, id_ = _message(item, config, f"message {number}")
        if message.role != "tool":
            _put_in_order(messages, answered)
            calls, waiting, answered = message.tool_calls, list(message.tool_calls), {}
        elif waiting:  # whether a result is due here is judged with the order of roles
            call = _answered(message, id_, waiting, f"message {number}")
            waiting.remove(call)
            answered[len(messages)] = next(at for at, other in enumerate(calls) if other is call)
            message = replace(message, name=call.name)
        messages.append(message)
    _put_in_order(messages, answered)
    return tuple(messages)


def _put_in_order(messages: list[Message], answered: dict[int, int]) -> None:
    """Put the results of several calls of one function into the order of the calls: by its name, which is all that a
    model may be shown, one could not be told from the other."""
    for name in {messages[at].name for at in answered}:
        places = [at for at in answered if messages[at].name == name]
        results = [messages[at] for at in sorted(places, key=answered.__getitem__)]
        for at, result in zip(places, results, strict=True):
            messages[at] = result


def _message(raw: object, config: DatasetSection, what: str) -> tuple[Message, str | None]:
    """A message, and for a tool's the id of the call that it answers."""
    if not isinstance(raw, Mapping):
        raise RowError(f"{what} is {_kind(raw)}, wanted an object with role and content", "wrong shape")
    named = string(_value(raw, config.role_key, "role", "from"), f"{what}: role")
    role = ROLES.get(named.strip().lower())
    if role is None:
        raise RowError(f"{what}: unknown role {reprlib.repr(named)}; known are {', '.join(ROLES)}", "unknown role")
    content = _value(raw, config.content_key, "content", "value")
    if named.strip().lower() in _CALL_ROLES:
        calls, content = _calls(content, what), ""
        if not calls:
            raise RowError(f"{what} holds no tool call", "tool calls")
    else:
        calls = _calls(_filled(raw, "tool_calls", what), what) or _calls(_filled(raw, "function_call", what), what)
    thinking = _thinking(
        _value(raw, config.thinking_key, "thinking", "reasoning_content", "reasoning"), role, config, what
    )
    if role != "assistant" and (thinking is not None or calls):
        owned = "tool calls belong" if calls else "thinking belongs"
        raise RowError(f"{what}: {owned} to the assistant, not to {named}", "wrong shape")
    if content is None and calls:
        content = ""
    message = Message(
        role,
        _content(content, role, f"{what}: content"),
        thinking,
        calls,
        _optional_string(raw.get("name") or None, f"{what}: name") if role == "tool" else None,
        _train(raw, role, what),
    )
    return message, _optional_string(raw.get("tool_call_id") or None, f"{what}: tool_call_id")


def _value(raw: Mapping[str, Any], key: str | None, *usual: str) -> Any:
    """What `key` holds, or where it is None the first of the usual keys that holds something, and be it nothing but
    an empty string."""
    keys = usual if key is None else (key,)
    held = [raw[name] for name in keys if raw.get(name) is not None]
    return next((value for value in held if value != ""), held[0] if held else None)


def _filled(raw: Mapping[str, Any], key: str, what: str) -> Any:
    """What `key` holds; None where that says nothing."""
    value = _without_none(raw.get(key), f"{what}: {key}")
    return None if value in ("", [], {}) else value


def _content(value: object, role: Role, what: str) -> str:
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        return "".join(string(part["text"], what) for part in value)
    if role == "tool" and isinstance(value, Mapping | list):
        # Only for its depth: what holds None in a result is what the tool has said.
        _without_none(value, what)
        return _as_json(value, what)
    return string(value, what)


def _is_text_part(part: object) -> bool:
    """Whether it is OpenAI's `{"type": "text", "text": …}`."""
    return isinstance(part, Mapping) and part.get("type") == "text" and part.get("text") is not None


def _thinking(value: object, role: Role, config: DatasetSection, what: str) -> str | None:
    if value is None:
        return None
    thinking = string(value, f"{what}: thinking")
    is_meant = role == "assistant" and config.empty_thinking == "keep"
    return thinking if thinking.strip() or is_meant else None


def _train(raw: Mapping[str, Any], role: Role, what: str) -> bool:
    """`train`, or `weight` as OpenAI's fine-tuning has it, 0 or 1."""
    value = raw.get("train")
    weight = raw.get("weight")
    if value is None and weight in (0, 1) and role == "assistant":
        value = bool(weight)
    if value is None:
        return True
    if not isinstance(value, bool):
        raise RowError(f"{what}: train is {_kind(value)}, wanted true or false", "wrong shape")
    if value and role != "assistant":
        raise RowError(f"{what}: train is true, but only the assistant's messages are trained", "wrong shape")
    return value


def _optional_string(value: object, what: str) -> str | None:
    return None if value is None else string(value, what)


def _answered(message: Message, id_: str | None, waiting: list[ToolCall], what: str) -> ToolCall:
    """The call that a tool's message answers: by its id, by its name, or the first one that waits."""
    fitting = waiting
    if id_ is not None:
        # A call without an id may be the one that is meant.
        fitting = [call for call in waiting if call.id == id_] or [call for call in waiting if call.id is None]
        if not fitting:
            raise RowError(f"{what}: no open tool call has the id {reprlib.repr(id_)}", "tool calls")
    for call in fitting:
        if message.name in (None, call.name):
            return call
    names = ", ".join(dict.fromkeys(call.name for call in fitting))
    raise RowError(f"{what} is a result of {reprlib.repr(message.name)}, where one of {names} is due", "tool calls")


def _calls(raw: object, what: str) -> tuple[ToolCall, ...]:
    """`[{"id": …, "function": {"name": …, "arguments": …}}]`, without the function level, or a single one of them."""
    if isinstance(raw, str):
        raw = _json(raw, f"{what}: its tool call", "tool calls")
    if raw is None:
        return ()
    items = [raw] if isinstance(raw, Mapping) else raw
    if not isinstance(items, list | tuple):
        raise RowError(f"{what}: tool_calls is {_kind(raw)}, wanted a list", "tool calls")
    return tuple(_call(item, f"{what}: tool call {number}") for number, item in enumerate(items, start=1))


def _call(raw: object, what: str) -> ToolCall:
    function = _function(raw, what, "arguments")
    arguments = function.get("arguments")
    values = {} if arguments is None else arguments
    if isinstance(arguments, str):
        values = _json(arguments, f"{what}: arguments", "tool calls")
    if not isinstance(values, Mapping):
        raise RowError(f"{what}: arguments is {_kind(values)}, wanted an object or its JSON text", "tool calls")
    # Of JSON text the text itself is what the model must write; it is read to see that it can be.
    written = _as_json(_without_none(values, f"{what}: arguments"), f"{what}: arguments")
    text = string(arguments, f"{what}: arguments") if isinstance(arguments, str) else written
    id_ = raw.get("id") if isinstance(raw, Mapping) else None
    return ToolCall(_function_name(function, what), text, _optional_string(id_, f"{what}: id"))


def _function(raw: object, what: str, beside: str) -> Mapping[str, Any]:
    """What `function` holds, or where there is no such level the object itself."""
    found = raw
    if isinstance(raw, Mapping) and raw.get("function") is not None:
        found, what = raw["function"], f"{what}: function"
    if not isinstance(found, Mapping):
        raise RowError(f"{what} is {_kind(found)}, wanted an object with name and {beside}", "tool calls")
    return found


def read_tools(raw: object, what: str) -> tuple[Tool, ...]:
    """Tool definitions in OpenAI's form, with or without the function level, or the JSON text of their list."""
    if isinstance(raw, str):
        raw = _json(raw, what, "tool calls") if raw.strip() else None
    if raw is None:
        return ()
    if not isinstance(raw, list | tuple):
        raise RowError(f"{what} is {_kind(raw)}, wanted a list of tool definitions", "tool calls")
    return tuple(_tool(item, f"{what}: tool {number}") for number, item in enumerate(raw, start=1))


def _tool(raw: object, what: str) -> Tool:
    if isinstance(raw, str):
        raw = _json(raw, what, "tool calls")
    function = _function(raw, what, "parameters")
    parameters = function.get("parameters")
    if isinstance(parameters, str):
        parameters = _json(parameters, f"{what}: parameters", "tool calls")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RowError(f"{what}: parameters is {_kind(parameters)}, wanted a JSON Schema object", "tool calls")
    parameters = _without_none(parameters, f"{what}: parameters")
    _as_json(parameters, f"{what}: parameters")
    description = _optional_string(function.get("description"), f"{what}: description") or ""
    return Tool(_function_name(function, what), description, parameters)


def _function_name(function: Mapping[str, Any], what: str) -> str:
    name = string(function.get("name"), f"{what}: name")
    if not name or any(character.isspace() for character in name):
        raise RowError(f"{what}: name is {reprlib.repr(name)}, wanted one word", "tool calls")
    return name


def _without_none(value: Any, what: str, level: int = 1) -> Any:
    """`value` without the keys that hold None: Arrow gives every object of a column the keys of all of them.

    Raises `RowError` where it is nested too deep.
    """
    if not isinstance(value, Mapping | list | tuple):
        return value
    if level > DEEPEST_NESTING:
        raise RowError(f"{what} is nested deeper than {DEEPEST_NESTING} levels", "tool calls")
    if isinstance(value, Mapping):
        return {key: _without_none(item, what, level + 1) for key, item in value.items() if item is not None}
    return [_without_none(item, what, level + 1) for item in value]


def _json(text: str, what: str, fault: Fault) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise RowError(f"{what} is JSON nested too deep", fault) from None
    except ValueError as error:
        raise RowError(f"{what} is not JSON: {str(error).partition(':')[0]}", fault) from None


def _as_json(value: object, what: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        # Infinity and NaN; what only Parquet holds: bytes, dates.
        raise RowError(f"{what} holds a value that JSON cannot write", "tool calls") from None
    return string(text, what)


def _kind(value: object) -> str:
    return "missing" if value is None else type(value).__name__
