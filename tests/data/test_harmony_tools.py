"""Tool definitions against openai-harmony 0.0.8: random schemas on the real vocabulary, and texts that it printed."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import openai_harmony as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ft.data.conversation import Tool
from gptoss_ft.data.harmony_tools import CALLS_LINE, DEEPEST_NESTING, developer_text, tools_text

KEEP_ANALYSIS = oh.RenderConversationConfig(auto_drop_analysis=False)


@pytest.fixture(scope="module")
def harmony(real_tokenizer_folder: Path) -> oh.HarmonyEncoding:
    return oh.load_harmony_encoding(oh.HarmonyEncodingName.HARMONY_GPT_OSS)


def rendered(harmony: oh.HarmonyEncoding, *messages: oh.Message) -> str:
    return harmony.decode(harmony.render_conversation(oh.Conversation.from_messages(list(messages)), KEEP_ANALYSIS))


def developer_message(instructions: str | None, tools: list[Tool]) -> oh.Message:
    content = oh.DeveloperContent(instructions=instructions)
    if tools:
        content = content.with_function_tools(
            [oh.ToolDescription.new(tool.name, tool.description, tool.parameters) for tool in tools]
        )
    return oh.Message.from_role_and_content(oh.Role.DEVELOPER, content)


def expected(harmony: oh.HarmonyEncoding, instructions: str | None, tools: list[Tool]) -> str:
    text = rendered(harmony, developer_message(instructions, tools))
    return text.removeprefix("<|start|>developer<|message|>").removesuffix("<|end|>")


# Random schemas: keywords mostly with what belongs to them, at times with anything; few words, so that they meet.
WORDS = st.sampled_from(["", "a", "null", "two\nlines", "cr\r\nlf\r", 'q"uo\\te', "é漢😀\x00\x7f", "tail\n", "<|end|>"])
NAMES = st.sampled_from(["a", "b", "c-d", "e f", "é", "null", "n\nl"])
TYPES = st.sampled_from(["string", "number", "integer", "boolean", "array", "object", "null", "date", ""])
NUMBERS = st.one_of(
    st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False, width=64)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, TYPES, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=5,
)


def or_anything(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda roll: VALUES if roll == 0 else strategy)


def keywords(inner: st.SearchStrategy[Any], types: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, max_size=3)
    return st.fixed_dictionaries(
        {"type": or_anything(types)},
        optional={
            "description": or_anything(WORDS),
            "title": or_anything(WORDS),
            "examples": or_anything(st.lists(st.one_of(WORDS, VALUES), max_size=3)),
            "enum": or_anything(st.lists(st.one_of(WORDS, VALUES), max_size=3)),
            "default": VALUES,
            "nullable": or_anything(st.booleans()),
            "oneOf": or_anything(several),
            "anyOf": or_anything(several),
            "items": or_anything(inner),
            "properties": or_anything(st.dictionaries(NAMES, inner, max_size=4)),
            "required": or_anything(st.lists(st.one_of(NAMES, VALUES), max_size=3)),
            "$ref": or_anything(WORDS),
            "additionalProperties": or_anything(inner),
        },
    )


SCHEMAS = st.recursive(
    st.one_of(VALUES, st.fixed_dictionaries({"type": TYPES}, optional={"description": WORDS, "default": VALUES})),
    lambda inner: keywords(inner, st.one_of(TYPES, st.lists(st.one_of(TYPES, VALUES), max_size=3))),
    max_leaves=12,
)
PARAMETERS = st.one_of(
    st.none(),
    st.dictionaries(NAMES, SCHEMAS, max_size=4).map(lambda properties: {"type": "object", "properties": properties}),
    keywords(SCHEMAS, st.just("object")),
    keywords(SCHEMAS, TYPES),
)
TOOLS = st.lists(st.builds(Tool, name=st.one_of(NAMES, WORDS), description=WORDS, parameters=PARAMETERS), max_size=3)


def test_any_tools_are_written_as_openai_harmony_writes_them(harmony: oh.HarmonyEncoding) -> None:
    @given(instructions=st.one_of(st.none(), WORDS), tools=TOOLS)
    @settings(max_examples=300, deadline=None)
    def check(instructions: str | None, tools: list[Tool]) -> None:
        assert developer_text(instructions, tools) == expected(harmony, instructions, tools)

    check()


def test_any_number_is_read_and_written_as_openai_harmony_does(harmony: oh.HarmonyEncoding) -> None:
    # Numbers by the thousand, in one default each time: the rounding that differs from Python's is rare.
    digits = st.integers(-(10**40), 10**40)
    decimals = st.builds(lambda mantissa, power: mantissa / 10.0**power, st.integers(0, 10**17), st.integers(0, 200))
    large = st.lists(st.one_of(NUMBERS, digits, decimals), min_size=50, max_size=100)

    @given(numbers=large)
    @settings(max_examples=60, deadline=None)
    def check(numbers: list[float]) -> None:
        tools = [Tool("f", "", {"type": "object", "properties": {"a": {"default": numbers}}})]
        assert developer_text(None, tools) == expected(harmony, None, tools)

    check()


@pytest.mark.parametrize("tools", [[], [Tool("f", "", None)]])
def test_calls_line_stands_in_the_system_message_where_there_are_tools(
    harmony: oh.HarmonyEncoding, tools: list[Tool]
) -> None:
    system = oh.Message.from_role_and_content(oh.Role.SYSTEM, oh.SystemContent.new())
    alone = rendered(harmony, system).removesuffix("<|end|>")
    both = rendered(harmony, system, developer_message("Be brief.", tools))
    assert both.startswith(f"{alone}{CALLS_LINE if tools else ''}<|end|>")


REFUSED = {
    "not a number": {"default": float("nan")},
    "infinite": {"default": -float("inf")},
    "out of range": {"default": 10**309},
    "too many digits": {"default": 10**5000},
    "lone surrogate": {"default": "\ud800"},
    "lone surrogate in a key": {"\ude00\ud83d": 1},
    "a set": {"default": {1}},
    "bytes": {"default": b"1"},
    "a tuple as key": {(1, 2): 3},
}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize("parameters", REFUSED.values(), ids=REFUSED.keys())
def test_what_openai_harmony_refuses_is_refused(harmony: oh.HarmonyEncoding, parameters: dict[Any, Any]) -> None:
    tools = [Tool("f", "", parameters)]
    with pytest.raises((ValueError, TypeError)):
        expected(harmony, None, tools)
    with pytest.raises(ValueError, match="the tool 'f'"):
        developer_text(None, tools)


def test_nesting_ends_where_openai_harmonys_does(harmony: oh.HarmonyEncoding) -> None:
    deepest = [Tool("f", "", nested(DEEPEST_NESTING))]
    assert developer_text(None, deepest) == expected(harmony, None, deepest)
    with pytest.raises(ValueError, match="recursion limit"):
        expected(harmony, None, [Tool("f", "", nested(DEEPEST_NESTING + 1))])


# From here on without the vocabulary: texts that openai-harmony 0.0.8 printed.


OPENING = "# Tools\n\n## functions\n\nnamespace functions {\n\n"
CLOSING = "\n} // namespace functions"


def argument(schema: dict[str, Any]) -> str:
    """What is written between the brackets of a function that takes `schema`."""
    start, end = f"{OPENING}type f = (_: ", f") => any;\n{CLOSING}"
    text = tools_text([Tool("f", "", schema)])
    assert text.startswith(start) and text.endswith(end)
    return text.removeprefix(start).removesuffix(end)


def property_text(schema: Any) -> str:
    """What is written for an optional property `a`."""
    text = argument({"type": "object", "properties": {"a": schema}})
    assert text.startswith("{\n") and text.endswith("\n}")
    return text.removeprefix("{\n").removesuffix("\n}")


def test_calls_line() -> None:
    assert CALLS_LINE == "\nCalls to these tools must go to the commentary channel: 'functions'."


def test_parts_of_a_developer_message() -> None:
    tool = Tool("now", "The time.", None)
    tools = f"{OPENING}// The time.\ntype now = () => any;\n{CLOSING}"
    assert tools_text([tool]) == tools
    assert developer_text(None, [tool]) == tools
    assert developer_text("Be brief.", [tool]) == f"# Instructions\n\nBe brief.\n\n{tools}"
    assert developer_text("", [tool]) == f"# Instructions\n\n\n\n{tools}"
    assert developer_text("Be brief.\n", []) == "# Instructions\n\nBe brief.\n"
    assert developer_text(None, []) == ""


def test_a_whole_tool_beside_others() -> None:
    weather = {
        "type": "object",
        "description": "Where and how.",
        "properties": {
            "place": {"type": "string", "description": "City and country.", "title": "Place", "examples": ["Oslo", 3]},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "default": 1},
            "within": {"type": "object", "properties": {"km": {"type": "number"}}, "required": ["km"]},
        },
        "required": ["place"],
    }
    tools = [Tool("weather", "Weather.\n\nSlow.\r\n", weather), Tool("z", "", {}), Tool("a", "Any.", None)]
    assert tools_text(tools) == dedent("""\
        # Tools

        ## functions

        namespace functions {

        // Weather.
        //\x20
        // Slow.
        type weather = (_: // Where and how.
        {
        // Place
        //
        // City and country.
        // Examples:
        // - "Oslo"
        place: string,
        unit?: "celsius" | "fahrenheit", // default: celsius
        days?: number, // default: 1
        within?: {
            km: number,
            },
        }) => any;

        type z = (_: any) => any;

        // Any.
        type a = () => any;

        } // namespace functions""")


@pytest.mark.parametrize(
    ("description", "comments"),
    [("", ""), ("\n", "// \n"), ("a\r\nb\n", "// a\n// b\n"), ("a\rb\u2028c\r", "// a\rb\u2028c\r\n")],
)
def test_lines_of_a_tools_description(description: str, comments: str) -> None:
    assert tools_text([Tool("f", description, None)]) == f"{OPENING}{comments}type f = () => any;\n{CLOSING}"


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({}, "any"),
        ({"type": "string"}, "string"),
        ({"type": "number"}, "number"),
        ({"type": "integer"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "null"}, "any"),
        ({"type": "date"}, "any"),
        ({"type": 3}, "any"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": ["integer", 3, "object", "date"]}, "number | object | date"),
        ({"type": [""]}, ""),
        ({"type": []}, "any"),
        ({"type": [3]}, "any"),
        ({"type": "object"}, "{\n}"),
        ({"type": "object", "properties": {}}, "{\n}"),
        ({"type": "object", "properties": [1], "required": "a"}, "{\n}"),
        ({"type": "array"}, "Array<any>"),
        ({"type": "array", "items": None}, "any[]"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, "number[][]"),
        ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, '"a" | "b"[]'),
        ({"type": "string", "enum": ["a", 1, None, 'q"\n']}, '"a" | "q"\n"'),
        ({"type": "string", "enum": [1, 2]}, "string"),
        ({"type": "string", "enum": []}, "string"),
        ({"type": "string", "enum": "a"}, "string"),
        ({"type": "integer", "enum": [1, 2]}, "number"),
        ({"enum": ["a", "b"]}, "any"),
        ({"anyOf": [{"type": "string"}]}, "any"),
        ({"$ref": "#/$defs/a", "additionalProperties": {"type": "string"}}, "any"),
        ({"oneOf": "a", "type": "string"}, "string"),
        ({"oneOf": []}, ""),
        ({"oneOf": [{"type": "string"}, True], "type": "string"}, "\n | string\n | any"),
        ({"description": 3, "type": "object"}, "{\n}"),
        ({"description": "", "type": "object"}, "// \n{\n}"),
        ({"nullable": True, "type": "string"}, "string"),
    ],
)
def test_types(schema: dict[str, Any], written: str) -> None:
    assert argument(schema) == written


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        (True, "a?: any,"),
        (None, "a?: any,"),
        ([{"type": "string"}], "a?: any,"),
        ({"nullable": True, "type": "string"}, "a?: string | null,"),
        ({"nullable": 1, "type": "string"}, "a?: string,"),
        ({"nullable": True, "type": ["string", "null"]}, "a?: string | null,"),
        ({"nullable": True, "type": "string", "enum": ["nullable"]}, 'a?: "nullable",'),
        ({"description": "one\ntwo"}, "// one\ntwo\na?: any,"),
        ({"description": ["one"], "title": 3, "examples": "x"}, "a?: any,"),
        ({"title": "T", "description": "D"}, "// T\n//\n// D\na?: any,"),
        ({"examples": []}, "a?: any,"),
        ({"examples": [3]}, "// Examples:\na?: any,"),
        ({"examples": ['q"', None, "é"]}, '// Examples:\n// - "q""\n// - "é"\na?: any,'),
        ({"type": "object", "description": "D"}, "// D\na?:     // D\n{\n    },"),
        ({"oneOf": None, "description": "D", "default": 1}, "a?: any,"),
    ],
)
def test_properties(schema: object, written: str) -> None:
    assert property_text(schema) == written


@pytest.mark.parametrize(
    ("default", "written"),
    [
        ("a", '"a"'),
        ('q"\n', '"q"\n"'),
        (None, "null"),
        (True, "true"),
        (-3, "-3"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "1.8446744073709552e19"),
        (-(2**63), "-9223372036854775808"),
        (-(2**63) - 1, "-9.223372036854776e18"),
        (10**20, "1e20"),
        # What is read of a long number: its first 19 or 20 digits, as many as 64 bits hold.
        (756554378974918949372157, "7.56554378974919e23"),
        (117907650302305930930141, "1.1790765030230593e23"),
        (125917292763214442639023, "1.2591729276321443e23"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (1e-5, "0.00001"),
        (-1.5e-5, "-0.000015"),
        (1e-6, "1e-6"),
        (5e-324, "5e-324"),
        (7.038531e-26, "7.038530999999999e-26"),
        ([], "[]"),
        ({}, "{}"),
        (['q"\n\x7f\x01é', {"b": None, "a": [1e20, False]}], '["q\\"\\n\x7f\\u0001é",{"b":null,"a":[1e20,false]}]'),
        ({1: "a", "1": "b", None: 0}, '{"1":"b","null":0}'),
        ("\ud83d\ude00", '"😀"'),
    ],
)
def test_defaults(default: object, written: str) -> None:
    assert property_text({"default": default}) == f"a?: any, // default: {written}"


def test_default_of_an_enum_is_bare() -> None:
    assert property_text({"default": "x", "enum": [1]}) == "a?: any, // default: x"
    assert property_text({"default": "x", "enum": []}) == 'a?: any, // default: "x"'
    assert property_text({"default": ["x"], "enum": ["x"]}) == 'a?: any, // default: ["x"]'


def test_order_names_and_required_properties() -> None:
    schema = {
        "type": "object",
        "properties": {"z": {}, "a-b c": {}, "é": {}, "1": {}},
        "required": ["1", 3, "a-b c", "missing"],
    }
    assert argument(schema) == "{\nz?: any,\na-b c: any,\né?: any,\n1: any,\n}"


def test_variants_of_a_property() -> None:
    variants = [
        {"type": "string", "description": "First.", "default": "s"},
        {"type": "integer", "description": "Second.", "nullable": True, "default": 2},
        {"type": "string", "enum": ["x"], "default": "x"},
        {"type": "object", "description": "Above.", "properties": {"b": {}}},
    ]
    schema = {"title": "T", "description": "Above.", "default": "d", "oneOf": variants}
    assert property_text(schema) == dedent("""\
        // T
        //
        // Above.
        // default: "d"
        a?:
         | string // default: "s"
         | number | null // Second. default: 2
         | "x" // default: x
         |    // Above.
        {
           b?: any,
           }
        ,""")


def test_description_that_the_first_variant_repeats_is_left_out() -> None:
    variants = [{"type": "string", "description": "Same."}, {"type": "number", "description": "Other."}]
    assert property_text({"description": "Same.", "oneOf": variants}) == "a?:\n | string\n | number // Other.\n,"
    assert property_text({"oneOf": variants}) == "a?:\n | string // Same.\n | number // Other.\n,"
    assert property_text({"description": "Same.", "oneOf": []}) == "// Same.\na?:\n,"


def test_variants_within_a_type() -> None:
    variants = [
        {"type": "string", "enum": ["x"], "default": 'x"', "description": "D."},
        {"type": "string", "default": 'y"', "nullable": True},
        {"type": "object", "properties": {"b": {}}, "default": 1.0},
    ]
    assert argument({"oneOf": variants}) == (
        '\n | "x" // D. default: "x\\""\n | string | null // default: "y""\n | {\n   b?: any,\n   } // default: 1.0'
    )
    inner = {"type": "array", "items": {"oneOf": variants[:2]}}
    assert property_text(inner) == ('a?: \n     | "x" // D. default: "x\\""\n     | string | null // default: "y""[],')


def test_the_deepest_nesting_is_written() -> None:
    assert argument(nested(DEEPEST_NESTING)) == "any" + "[]" * (DEEPEST_NESTING - 1)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (Tool("f", "", {"default": float("nan")}), "'f' are not JSON: NaN is not a finite 64-bit number"),
        (Tool("f", "", {"default": -(10**309)}), "'f' are not JSON: -10+ is not a finite 64-bit number"),
        (Tool("f", "", {"default": {1}}), "'f' are not JSON: Object of type set is not JSON serializable"),
        (Tool("f", "", {"default": "\ud800"}), "'f' holds a lone surrogate"),
        (Tool("f", "\ude00", None), "'f' holds a lone surrogate"),
        (Tool("f", "", nested(DEEPEST_NESTING + 1)), "'f' are nested deeper than 118 levels"),
        (Tool("f", "", nested(100_000)), "'f' are nested deeper than 118 levels"),
    ],
    ids=["nan", "range", "set", "surrogate", "description", "nesting", "recursion"],
)
def test_a_tool_that_cannot_be_written(tool: Tool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tools_text([tool])
