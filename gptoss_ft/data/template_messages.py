"""Conversations as chat templates read them, and what a template has left out of its rendering."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from gptoss_ft.data.control_tokens import ControlTokens, StandIns, strings
from gptoss_ft.data.conversation import Effort, Message, RowError, Tool, ToolCall

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class TemplateInput:
    """What a chat template is given, in the form of transformers' `apply_chat_template`; `tools` is None without any.

    Control tokens typed anywhere in it are hidden behind `stand_ins`.
    """

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    effort: Effort
    stand_ins: StandIns


def template_input(
    messages: Sequence[Message], tools: Sequence[Tool], effort: Effort, control: ControlTokens
) -> TemplateInput:
    """Raises `RowError` for a tool call whose arguments are no JSON object."""
    written = [_as_template_message(message) for message in messages]
    _give_ids(written)
    definitions = [_as_template_tool(tool) for tool in tools]
    stand_ins = control.stand_ins(_typed_strings(written, definitions))
    for message in written:
        for key in message.keys() - {"role", "tool_calls"}:
            message[key] = stand_ins.hide(message[key])
        for call in message.get("tool_calls", ()):
            call |= {"id": stand_ins.hide(call["id"]), "function": _hidden(call["function"], stand_ins)}
    for definition in definitions:
        definition["function"] = _hidden(definition["function"], stand_ins)
    return TemplateInput(written, definitions or None, effort, stand_ins)


def _hidden(function: dict[str, Any], stand_ins: StandIns) -> dict[str, Any]:
    return {key: stand_ins.hide(value) for key, value in function.items()}


def _typed_strings(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield from strings(message)
    yield from strings(tools)


def _as_template_message(message: Message) -> dict[str, Any]:
    # There is no developer role outside harmony; a template that knows neither raises.
    role = "system" if message.role == "developer" else message.role
    # Beside tool calls the content is empty, not None: templates ask what is in it, and GLM's writes "None".
    written: dict[str, Any] = {"role": role, "content": message.content}
    if message.thinking is not None:
        # Templates differ in the name; the one that they do not know is ignored.
        written |= {"thinking": message.thinking, "reasoning_content": message.thinking}
    if message.tool_calls:
        # Templates ask whether the key is there.
        written["tool_calls"] = [_as_template_call(call) for call in message.tool_calls]
    if message.role == "tool":
        written["name"] = message.name or ""
    return written


def _as_template_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _arguments(call)}}


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RowError(f"the arguments of a call of {call.name} are not a JSON object", "tool calls")
    return arguments


def _as_template_tool(tool: Tool) -> dict[str, Any]:
    parameters = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _give_ids(messages: list[dict[str, Any]]) -> None:
    """Every call its id, and every result the id of the call that it answers.

    A call without one gets nine letters and digits, which Mistral's templates insist on.
    """
    number = count(1)
    calls: list[dict[str, Any]] = []
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"] or f"call{next(number):05d}"
        if "tool_calls" in message:
            calls = list(message["tool_calls"])
        elif message["role"] == "tool":
            answered = next((call for call in calls if call["function"]["name"] == message["name"]), None)
            if answered is not None:
                calls.remove(answered)
                message["tool_call_id"] = answered["id"]


def left_out(given: TemplateInput, trained: Collection[int], rendered: str) -> str | None:
    """What of the input is not in the rendering, in words for an error; None where all of it is.

    The thinking of messages that are not `trained` may be gone, as it is when the model is used.
    """

    def is_written(value: Any) -> bool:
        return _is_written(value, rendered, given.stand_ins)

    for position, message in enumerate(given.messages):
        is_trained = position in trained
        if is_trained and not is_written(message.get("thinking", "")):
            return "thinking"
        if not all(map(is_written, _parts_of_content(message, is_trained, rendered))):
            kinds = {"tool": "a tool result", "assistant": "text of the assistant"}
            return kinds.get(message["role"], f"a {message['role']} message")
        for call in message.get("tool_calls", ()):
            if not is_written([call["function"]["name"], call["function"]["arguments"]]):
                return "a tool call"
    for tool in given.tools or ():
        function = tool["function"]
        properties = function["parameters"].get("properties")
        names = list(properties) if isinstance(properties, Mapping) else []
        if not is_written([function["name"], function["description"], names]):
            return "a tool definition"
    return None


def _parts_of_content(message: dict[str, Any], is_trained: bool, rendered: str) -> list[str]:
    """What of a message's content must be in the rendering, each part on its own."""
    content: str = message["content"]
    if message["role"] != "assistant" or "</think>" not in content or content.strip() in rendered:
        return [content]
    # Templates that know thinking inside the content take it apart (Qwen 3's).
    thinking, _, answer = content.rpartition("</think>")
    return [*thinking.replace("</think>", "<think>").split("<think>"), answer] if is_trained else [answer]


def _is_written(value: Any, rendered: str, stand_ins: StandIns) -> bool:
    """Whether every string, number and key of the value is in the rendering, as it is or as JSON writes it."""
    if isinstance(value, Mapping):
        return _is_written([*value.keys(), *value.values()], rendered, stand_ins)
    if isinstance(value, list):
        return all(_is_written(item, rendered, stand_ins) for item in value)
    if not isinstance(value, str):
        return json.dumps(value) in rendered or str(value) in rendered
    stripped = value.strip()
    return stripped in rendered or any(
        stand_ins.unescape(json.dumps(text, ensure_ascii=escapes)[1:-1]) in rendered
        for text in (stripped, value)
        for escapes in (False, True)
    )


def probe_of(given: TemplateInput) -> TemplateInput:
    """An input of the same shape, in which every text is a word of its own: none is found in another by chance."""
    words = (f"probe{number}word" for number in count())
    messages = [_probe_message(message, words) for message in given.messages]
    tools: list[dict[str, Any]] | None = None
    if given.tools:
        description = {"type": "string", "description": next(words)}
        parameters = {"type": "object", "properties": {next(words): description}, "required": []}
        tools = [_as_template_tool(Tool(next(words), next(words), parameters))]
    return replace(given, messages=messages, tools=tools, stand_ins=StandIns())


def _probe_message(message: dict[str, Any], words: Iterator[str]) -> dict[str, Any]:
    probe = dict(message)
    if message["content"].strip():
        probe["content"] = next(words)
    if message.get("thinking", "").strip():
        probe["thinking"] = probe["reasoning_content"] = next(words)
    if "tool_calls" in message:
        probe["tool_calls"] = [
            {**call, "function": {"name": next(words), "arguments": {next(words): next(words)}}}
            for call in message["tool_calls"]
        ]
    return probe


def shape_of(given: TemplateInput) -> tuple[object, ...]:
    """What decides, apart from the words, which parts of an input a template writes."""
    messages = tuple(
        (
            message["role"],
            bool(message["content"].strip()),
            bool(message.get("thinking", "").strip()) if "thinking" in message else None,
            len(message.get("tool_calls", ())),
        )
        for message in given.messages
    )
    return (messages, given.tools is not None)
