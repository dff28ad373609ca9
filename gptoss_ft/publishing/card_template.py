"""The card's text from a Jinja template: ours of a language, or a user's own."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gptoss_ft.config import HubSection
from gptoss_ft.errors import SettingError

OWN = Path(__file__).parent
KEY = "hub.card_template"
# What Python raises while it computes a template's expressions comes through Jinja as it is.
RAISED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def render_text(hub: HubSection, values: Mapping[str, Any]) -> str:
    """The card's text in `hub.card_language`, or by `hub.card_template`, which may extend ours and replace its blocks.
    `SettingError` names the line of a template that cannot be read or rendered."""
    name, folders = f"card.{hub.card_language}.md.jinja", [str(OWN)]
    if hub.card_template is not None:
        path = Path(hub.card_template).expanduser()
        name, folders = path.name, [str(path.parent), str(OWN)]
        if not path.is_file():
            raise SettingError(f"there is no template {path}", "Name a Jinja file, or leave it null.", KEY)
    # A template is given values alone: the sandbox keeps it from Python, StrictUndefined from a misspelt name.
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "fenced": fenced, "cell": _cell}
    try:
        text = environment.get_template(name).render(values)
    except TemplateSyntaxError as error:
        raise _wrong(f"{error.filename or error.name}, line {error.lineno}", error.message or "") from None
    except TemplateNotFound as error:
        raise _wrong(name, f"there is no template {error.name}") from None
    except UnicodeDecodeError:
        raise _wrong(name, "it is not UTF-8 text") from None
    except (TemplateError, *RAISED) as error:
        raise _wrong(_place(error.__traceback__, folders) or name, str(error)) from None
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _wrong(place: str, what: str) -> SettingError:
    return SettingError(f"{place}: {what}", "docs/after_training.md lists what a template is given.", KEY)


def _place(traceback: TracebackType | None, folders: list[str]) -> str | None:
    """Where in a template an error came from: Jinja gives its frames the template's file and line."""
    place = None
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if str(file.parent) in folders and file.suffix != ".py":
            place = f"{file}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _number(value: float, digits: int = 0) -> str:
    """`12,345.7`"""
    return f"{value:,.{digits}f}"


def _cell(text: object) -> str:
    """Text for a cell of a table, or within a line."""
    return " ".join(str(text).split()).replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """A code block that no text can end."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip(chr(10))}\n{ticks}"
