"""Tools in a developer message, as openai-harmony 0.0.8 writes them: one function type each, TypeScript-like.

A JSON Schema keyword that openai-harmony does not read (`anyOf`, `$ref`, `additionalProperties`, …) leaves no trace,
and a type that it cannot tell is `any`; a keyword of the wrong type is as good as missing.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from gptoss_ft.data.conversation import Tool

# Where a developer message holds function tools, the system message ends in this line.
CALLS_LINE = "\nCalls to these tools must go to the commentary channel: 'functions'."

# serde_json reads 127 levels, and 9 of them lie around a tool's parameters.
DEEPEST_NESTING = 118


def developer_text(instructions: str | None, tools: Sequence[Tool]) -> str:
    """The whole text of a developer message; a part that is None or empty of tools is left out.

    Raises `ValueError` for a tool that cannot be written.
    """
    parts = []
    if instructions is not None:
        parts.append(f"# Instructions\n\n{instructions}")
    if tools:
        parts.append(tools_text(tools))
    return "\n\n".join(parts)


def tools_text(tools: Sequence[Tool]) -> str:
    """The `# Tools` part of a developer message, for one tool or more, in their order.

    Raises `ValueError` for a tool that openai-harmony refuses: its parameters are not JSON, hold a number beyond
    64-bit floats, or are nested deeper than `DEEPEST_NESTING`; or its text holds a lone surrogate.
    """
    functions = (_function(tool) for tool in tools)
    return "\n".join(("# Tools\n", "## functions\n", "namespace functions {\n", *functions, "} // namespace functions"))


def _function(tool: Tool) -> str:
    tool = _as_read(tool)
    comments = "".join(f"// {line}\n" for line in _lines(tool.description))
    argument = "" if tool.parameters is None else f"_: {_type(tool.parameters, '')}"
    return f"{comments}type {tool.name} = ({argument}) => any;\n"


def _lines(text: str) -> list[str]:
    """Lines as Rust counts them: ended by \\n or \\r\\n alone."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _type(schema: Mapping[str, Any], indent: str) -> str:
    variants = schema.get("oneOf")
    if isinstance(variants, list):
        return _union(variants, indent)
    match schema.get("type"):
        case "object":
            return _object(schema, indent)
        case "array":
            return f"{_type(_schema(schema['items']), indent)}[]" if "items" in schema else "Array<any>"
        case "string":
            return " | ".join(f'"{value}"' for value in _texts(schema, "enum")) or "string"
        case "number" | "integer":
            return "number"
        case "boolean":
            return "boolean"
        case list():
            names = _texts(schema, "type") or ["any"]
            return " | ".join("number" if name == "integer" else name for name in names)
        case _:
            return "any"


def _nullable_type(schema: Mapping[str, Any], indent: str) -> str:
    written = _type(schema, indent)
    # The word counts wherever it stands, be it in the comment of an inner property.
    return f"{written} | null" if schema.get("nullable") is True and "null" not in written else written


def _union(variants: list[Any], indent: str) -> str:
    written = []
    for variant in map(_schema, variants):
        comments = _comments(variant, "description")
        if "default" in variant:
            # Unlike a property's, the default of an enum is JSON here.
            comments.append(f"default: {_json(variant['default'])}" if _is_enum(variant) else _default(variant))
        written.append(f"\n{indent} | {_nullable_type(variant, indent + '   ')}{_trailing(comments)}")
    return "".join(written)


def _object(schema: Mapping[str, Any], indent: str) -> str:
    required = set(_texts(schema, "required"))
    lines = [f"{indent}// {comment}" for comment in _comments(schema, "description")]
    lines.append("{")
    for name, value in _schema(schema.get("properties")).items():
        property_lines = _property(name if name in required else f"{name}?", _schema(value), indent)
        lines += [f"{indent}{line}" for line in property_lines]
    return "\n".join([*lines, f"{indent}}}"])


def _property(key: str, schema: Mapping[str, Any], indent: str) -> list[str]:
    """The property's lines, without the indentation of the object; the inner lines of a type have all of theirs."""
    lines = []
    for title in _comments(schema, "title"):
        lines += [f"// {title}", "//"]
    if "oneOf" not in schema:
        lines += [f"// {comment}" for comment in _comments(schema, "description")]
    if isinstance(schema.get("examples"), list) and schema["examples"]:
        lines += ["// Examples:", *(f'// - "{example}"' for example in _texts(schema, "examples"))]
    variants = schema.get("oneOf")
    if isinstance(variants, list):
        return lines + _union_property(key, schema, list(map(_schema, variants)), indent)
    default = f" // {_default(schema)}" if "default" in schema and "oneOf" not in schema else ""
    return [*lines, f"{key}: {_nullable_type(schema, indent + '    ')},{default}"]


def _union_property(key: str, schema: Mapping[str, Any], variants: list[Mapping[str, Any]], indent: str) -> list[str]:
    described = _comments(schema, "description")
    # A description that the first variant repeats is written nowhere.
    above = [] if variants and described == _comments(variants[0], "description") else described
    lines = [f"// {comment}" for comment in above]
    if "default" in schema:
        lines.append(f"// {_default(schema)}")
    lines.append(f"{key}:")
    for position, variant in enumerate(variants):
        comments = [] if position == 0 and above else _comments(variant, "description")
        if comments == described:
            comments = []
        if "default" in variant:
            comments.append(_default(variant))
        lines.append(f" | {_nullable_type(variant, indent + '   ')}{_trailing(comments)}")
    return [*lines, ","]


def _comments(schema: Mapping[str, Any], keyword: str) -> list[str]:
    """The keyword's text as the only entry; nothing where it is not a text."""
    value = schema.get(keyword)
    return [value] if isinstance(value, str) else []


def _trailing(comments: list[str]) -> str:
    return f" // {' '.join(comments)}" if comments else ""


def _default(schema: Mapping[str, Any]) -> str:
    value = schema["default"]
    if not isinstance(value, str):
        return f"default: {_json(value)}"
    return f"default: {value}" if _is_enum(schema) else f'default: "{value}"'


def _is_enum(schema: Mapping[str, Any]) -> bool:
    return isinstance(schema.get("enum"), list) and bool(schema["enum"])


def _schema(value: object) -> Mapping[str, Any]:
    """A schema that is no object (`true`, for one) says as much as an empty one."""
    return value if isinstance(value, dict) else {}


def _texts(schema: Mapping[str, Any], keyword: str) -> list[str]:
    """The texts in the keyword's list; the rest of it is left out."""
    values = schema.get(keyword)
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _json(value: object) -> str:
    """JSON as serde_json writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, float):
        return _float_text(value)
    return json.dumps(value, ensure_ascii=False)


def _float_text(value: float) -> str:
    """Python's shortest digits in Rust's layout: an exponent has no plus and no leading zero, and begins at 1e-6."""
    mantissa, _, exponent = repr(value).partition("e")
    if exponent == "-05":
        sign = "-" if value < 0 else ""
        return f"{sign}0.0000{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _as_read(tool: Tool) -> Tool:
    """The tool as openai-harmony's JSON reader has it: it decides what a key, a text and a number are."""
    parameters = None if tool.parameters is None else dict(tool.parameters)
    try:
        text = json.dumps([tool.name, tool.description, parameters], ensure_ascii=False)
        # Two surrogates that make a pair become their character; a lone one fails.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        name, description, parameters = json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=_not_finite
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"the tool {tool.name!r} holds a lone surrogate, which is not Unicode") from error
    except RecursionError as error:
        raise ValueError(_too_deep(tool)) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"the parameters of the tool {tool.name!r} are not JSON: {error}") from error
    if _nesting(parameters) > DEEPEST_NESTING:
        raise ValueError(_too_deep(tool))
    return Tool(name, description, parameters)


def _too_deep(tool: Tool) -> str:
    return f"the parameters of the tool {tool.name!r} are nested deeper than {DEEPEST_NESTING} levels"


def _nesting(value: object) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = list(chain.from_iterable(item.values() if isinstance(item, dict) else item for item in level))
    return depth


def _integer(literal: str) -> int | float:
    value = int(literal)
    return value if -(2**63) <= value < 2**64 else _float(literal)


def _float(literal: str) -> float:
    """A number as serde_json 1.0.140 reads it: 64 bits of digits, then scaled by a power of ten.

    Both steps round, so that the last digit may differ from the literal's: 7.038531e-26 is 7.038530999999999e-26.
    """
    mantissa, _, exponent_text = literal.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    kept = 20 if int(digits[:20] or "0") < 2**64 else 19
    exponent = int(exponent_text or "0") - len(fraction) + len(digits[kept:])
    value = float(int(digits[:kept] or "0"))
    if exponent < -308:
        value, exponent = value / 1e308, exponent + 308
    power = float(f"1e{abs(exponent)}")
    value = value * power if exponent >= 0 else value / power
    if value == float("inf"):
        return _not_finite(literal)
    return -value if literal.startswith("-") else value


def _not_finite(literal: str) -> float:
    raise ValueError(f"{literal[:40]} is not a finite 64-bit number")
