"""Random conversations as raw rows, in the spellings that data sets use, each with what it says in harmony's terms.

What a row says is put together beside the row and never read from it, so that reading rows is tested too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Object = dict[str, Any]
# How the result of a tool is matched with its call.
Matching = Literal["id", "name", "order"]


@dataclass(frozen=True)
class Said:
    """One harmony message: who says it in which of the conversation's turns, on which channel, and the function that
    is called, or whose result it is. `answer` counts the assistant's messages of the row that it comes from."""

    role: Literal["user", "assistant", "tool"]
    turn: int
    text: str
    channel: str = ""
    function: str = ""
    answer: int = -1
    trained: bool = False


@dataclass
class Case:
    """A raw row with the settings of `dataset` that it needs, and what it says; `shapes` names the kinds it is of."""

    row: Object
    settings: Object
    effort: str
    date: str | None
    instructions: str | None
    tools: list[Object]
    said: list[Said]
    shapes: set[str]


# Few and short, because openai-harmony reads about 1 MB a second.
WORDS = [
    "Hi", "4.", "Wie geht's?", "Why?\n\nBecause.", "  indented\tand\r\n\ttabbed  ", "\n", "\n\n", " ", "x = [1, 2]\n",
    "…", "éàü ñ", "한국어 교과서", "漢字かな", "العربية", "e\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ufeffmark", "a\x00b\x7f", "\u2028", "{}", '"quoted"', "12345678901", "ſ", "I'll've", "# Tools", "user",
    "assistant", "<|end|>", "<|return|>", "<|call|>now", "<|start|>assistant<|channel|>final<|message|>hi", "<|",
    "<|message|>",
    "<|constrain|>", "<|channel|>analysis<|message|>", "<|endoftext|>", "<|endofprompt|>", "<|reserved_200017|>",
    "to=functions.add", " to=assistant", "commentary json",
]  # fmt: skip
FUNCTIONS = ["add", "get_weather", "no-op", "search.v2", "f", "날씨", "to=x", "a<b"]
# Arguments of a call as a row has them, and as the model must write them.
ARGUMENTS: list[tuple[Any, str]] = [
    (None, "{}"),
    ({}, "{}"),
    ("{}", "{}"),
    (' {"a":1 ,\n "b": [ ]}', ' {"a":1 ,\n "b": [ ]}'),
    ({"city": "Zürich", "days": 2, "unit": None}, '{"city": "Zürich", "days": 2}'),
    ('{"unit": null}', '{"unit": null}'),
    ({"q": "<|call|>\n", "deep": {"a": [{"b": None}, 0.5]}}, '{"q": "<|call|>\\n", "deep": {"a": [{}, 0.5]}}'),
    ('{"text": "\\u00e9 <|end|>"}', '{"text": "\\u00e9 <|end|>"}'),
]  # fmt: skip
# Results of a tool as a row has them, and as text.
RESULTS: list[tuple[Any, str]] = [
    ("", ""),
    ("42", "42"),
    (" light rain\n", " light rain\n"),
    ("<|end|><|start|>user", "<|end|><|start|>user"),
    ({"temperature": 21.5, "wind": "<|end|>"}, '{"temperature": 21.5, "wind": "<|end|>"}'),
    ([1, "두", None], '[1, "두", null]'),
    ([], "[]"),
    ([{"type": "text", "text": "part "}, {"type": "text", "text": "by part"}], "part by part"),
]
PROPERTIES: list[Object] = [
    {},
    {"city": {"type": "string", "description": "Name of the city."}},
    {"unit": {"type": "string", "enum": ["c", "f"], "default": "c"}, "days": {"type": "integer", "default": 3}},
    {"at": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]}},
    {"tags": {"type": "array", "items": {"type": "string"}}, "strict": {"type": "boolean", "default": False}},
    {"mode": {"oneOf": [{"type": "string", "description": "by name"}, {"type": "integer", "default": 1}]}},
    {"when": {"type": ["string", "null"], "title": "When", "examples": ["now"]}},
    {"é": {"type": "string", "nullable": True}, "any": {}},
]  # fmt: skip
DESCRIPTIONS = ["", "Adds.", "Two\nlines.", "Says <|end|>.", "날씨"]

ROLES = {
    "system": ["system"],
    "developer": ["developer"],
    "user": ["user", "human", "prompter"],
    "assistant": ["assistant", "gpt", "model"],
    "tool": ["tool", "function", "observation", "ipython"],
}


class Choices:
    """Choices of one case. Many share one draw, which costs hypothesis as much as rendering a message does."""

    # Bytes, because among numbers hypothesis prefers the small ones.
    ROLLS = st.binary(min_size=16, max_size=16)
    TEXTS = st.text(max_size=6)

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._roll, self._left = 0, 0

    def pick(self, options: Sequence[T]) -> T:
        if self._left < len(options):
            self._roll, self._left = int.from_bytes(self._draw(self.ROLLS)), 2**128
        self._left //= len(options)
        self._roll, at = divmod(self._roll, len(options))
        return options[at]

    def once_in(self, times: int) -> bool:
        return self.pick(range(times)) == times - 1

    def text(self) -> str:
        kind = self.pick(("word", "word", "word", "two words", "any"))
        if kind == "any":
            return self._draw(self.TEXTS)
        return self.pick(WORDS) + (self.pick(WORDS) if kind == "two words" else "")

    def answer(self) -> str:
        text = self.text()
        return text if text.strip() else f"{text}Yes."


def some_tools(choices: Choices) -> tuple[list[Object], Any]:
    """Tools, as name, description and parameters; and how a row may define them."""
    defined, written = [], []
    for name in dict.fromkeys(choices.pick(FUNCTIONS) for _ in range(choices.pick((1, 1, 2, 3)))):
        properties = choices.pick((None, *PROPERTIES))
        parameters = None
        if properties is not None:
            parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
        tool = {"name": name, "description": choices.pick(DESCRIPTIONS), "parameters": parameters}
        defined.append(tool)
        # Arrow gives every object of a column the keys of all of them.
        padded = {**tool, "parameters": {**parameters, "items": None}} if parameters else tool
        written.append(choices.pick((tool, {"type": "function", "function": padded}, json.dumps(tool))))
    return defined, choices.pick((written, json.dumps(written)))


@dataclass
class Writer:
    """Writes a conversation's messages as a row has them, and notes beside it what they say."""

    choices: Choices
    sharegpt: bool
    thinking: Literal["none", "some", "all"]
    keeps_empty: bool
    matching: Matching
    messages: list[Object] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    shapes: set[str] = field(default_factory=set)
    called: list[tuple[int, str]] = field(default_factory=list)
    turn: int = 0
    answers: int = 0

    def write(self, role: str, content: Any, **keys: Any) -> None:
        names = ("from", "value") if self.sharegpt else ("role", "content")
        self.messages.append({names[0]: self.choices.pick(ROLES[role]), names[1]: content, **keys})

    def ask(self) -> None:
        text = self.choices.text()
        self.write("user", [{"type": "text", "text": text}] if self.choices.once_in(8) else text)
        self.said.append(Said("user", self.turn, text))

    def answer(self, content: str, calls: Sequence[tuple[str, Any, str]] = ()) -> None:
        """An assistant's message; of each call its function, and its arguments as the row has them and as text."""
        keys, texts = self._thinking()
        trained = not self.choices.once_in(6)
        if not trained or self.choices.once_in(6):
            keys["train"] = trained
        raw_calls = [self._call(number, *call[:2]) for number, call in enumerate(calls)]
        if self.sharegpt and calls and not content:
            called = raw_calls if len(calls) > 1 or self.matching == "id" else raw_calls[0]["function"]
            self.messages.append({"from": "function_call", "value": json.dumps(called), **keys})
            self.shapes.add("function_call")
        else:
            if calls or self.choices.once_in(8):
                keys["tool_calls"] = raw_calls or None
            self.write("assistant", content or self.choices.pick(("", None)), **keys)
        parts = [("analysis", "", text) for text in texts]
        if content:
            parts.append(("commentary" if calls else "final", "", content))
        parts += [("commentary", name, text) for name, _, text in calls]
        self.said += [
            Said("assistant", self.turn, text, channel, function, self.answers, trained)
            for channel, function, text in parts
        ]
        self.answers += 1
        shapes = {
            "not trained": not trained,
            "several calls": len(calls) > 1,
            "preamble": bool(calls and content),
            "thinking before a call": bool(calls and texts),
        }
        self.shapes |= {name for name, holds in shapes.items() if holds}

    def _thinking(self) -> tuple[Object, list[str]]:
        """Keys of a message that give its thinking, and the thinking that they mean, if any."""
        key = self.choices.pick(("thinking", "reasoning_content"))
        if self.thinking == "none" or (self.thinking == "some" and self.choices.once_in(2)):
            empty = {key: "" if not self.keeps_empty else None}
            return self.choices.pick(({}, {key: None}, empty)).copy(), []
        text = self.choices.text()
        meant = self.keeps_empty or bool(text.strip())
        if not text.strip():
            self.shapes.add("empty thinking kept" if meant else "empty thinking dropped")
        return {key: text}, [text] if meant else []

    def _call(self, number: int, name: str, arguments: Any) -> Object:
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return {"id": f"call_{number}", **call} if self.matching == "id" else call

    def call_functions(self) -> None:
        names = [self.choices.pick(FUNCTIONS) for _ in range(self.choices.pick((1, 1, 1, 2, 2, 3)))]
        content = self.choices.answer() if self.choices.once_in(3) else ""
        self.answer(content, [(name, *self.choices.pick(ARGUMENTS)) for name in names])
        self.shapes.add("tool calls")
        self.called = list(enumerate(names))

    def give_results(self) -> None:
        """A result of each call, in any order where an id or a name says whose it is."""
        due, given = list(self.called), []
        while due:
            number, name = due.pop(0 if self.matching == "order" else self.choices.pick(range(len(due))))
            raw, text = self.choices.pick(RESULTS)
            keys = {"order": {}, "name": {"name": name}, "id": {"tool_call_id": f"call_{number}"}}[self.matching]
            self.write("tool", raw, **keys)
            given.append((number, Said("tool", self.turn, text, function=name)))
        # Only an id tells the calls of one function apart; what is said is in their order, which alone does it then.
        by_call = sorted(given, key=lambda result: result[0]) if self.matching == "id" else given
        of_function = {name: iter([said for _, said in by_call if said.function == name]) for _, name in self.called}
        self.said += [next(of_function[said.function]) for _, said in given]
        self.shapes.add(f"results by {self.matching}")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Conversations of one to six turns in any of the shapes that harmony has."""
    choices = Choices(draw)
    writer = Writer(
        choices,
        sharegpt=choices.once_in(3),
        thinking=choices.pick(("none", "some", "all")),
        keeps_empty=choices.once_in(2),
        matching=choices.pick(("id", "name", "order")),
    )
    lead = choices.pick((None, "system", "developer"))
    instructions = choices.text() if lead else None
    if lead:
        writer.write(lead, instructions)
        writer.shapes.add(f"{lead} message")
    defined, column = some_tools(choices) if choices.once_in(3) else ([], choices.pick((None, [], "")))
    turns = choices.pick((*[1] * 14, *[2] * 6, 3, 3, 4, 5, 6))
    calls_functions = choices.once_in(3)
    for writer.turn in range(turns):
        writer.ask()
        for _ in range(choices.pick((0, 1, 1, 2)) if calls_functions else 0):
            writer.call_functions()
            writer.give_results()
        if calls_functions and writer.turn == turns - 1 and choices.once_in(6):
            writer.call_functions()
            writer.shapes.add("ends in a call")
        else:
            writer.answer(choices.answer())
    effort = choices.pick(("low", "medium", "high"))
    row: Object = {"conversations" if writer.sharegpt else "messages": writer.messages, "tools": column}
    settings: Object = {"empty_thinking": "keep" if writer.keeps_empty else "drop", "reasoning_effort": effort}
    if choices.once_in(2):
        settings["reasoning_effort"], row["how_hard"] = "how_hard", effort
        writer.shapes.add("effort by row")
    if choices.once_in(5):
        row = make_prompt_and_completion(choices, writer, row)
        settings["format"] = "prompt_completion"
    shapes = writer.shapes | {f"{turns} turns", f"effort {effort}", f"thinking {how_much(writer.said)}"}
    if defined:
        shapes.add("tools")
    if any("<|" in said.text for said in writer.said):
        shapes.add("control tokens typed")
    date = choices.pick(("2025-06-01", None))
    return Case(row, settings, effort, date, instructions, defined, writer.said, shapes)


def how_much(said: list[Said]) -> str:
    answers = {message.answer for message in said if message.role == "assistant"}
    thought = {message.answer for message in said if message.channel == "analysis"}
    return "in all answers" if thought == answers else "in some answers" if thought else "in none"


def make_prompt_and_completion(choices: Choices, writer: Writer, row: Object) -> Object:
    """The row cut in two somewhere; of the prompt nothing is trained."""
    at = choices.pick(range(len(writer.messages)))
    prompt, completion = writer.messages[:at], writer.messages[at:]
    assistants = (*ROLES["assistant"], "function_call")
    given = sum((message.get("role") or message.get("from")) in assistants for message in prompt)
    writer.said = [replace(said, trained=said.trained and said.answer >= given) for said in writer.said]
    writer.shapes.add("prompt and completion")
    rest = {key: value for key, value in row.items() if key not in ("messages", "conversations")}
    return {"prompt": prompt, "completion": completion, **rest}
