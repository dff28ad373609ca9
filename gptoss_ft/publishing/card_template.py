"""The card's text from a Jinja template: ours of a language, or a user's own."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any

from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    meta,
    nodes,
)
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
    name, folders = _place_of(hub)
    with _told(name, folders):
        text = _environment(folders).get_template(name).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def check_names(hub: HubSection, known: Collection[str]) -> None:
    """Raise `SettingError`, with its line, for a name that a template of the user's is not given, also where it stands
    in a branch that no rendering has come to; and for a block that would replace none of what it extends."""
    name, folders = _place_of(hub)
    environment, set_there = _environment(folders), set(known)
    with _told(name, folders):
        sources = dict(_sources(environment, name))
        for source in sources.values():
            set_there |= set(_set_names(source))
        for file, source in sources.items():
            unknown = meta.find_undeclared_variables(source) - set_there
            for place in source.find_all(nodes.Name):
                if place.name in unknown and place.ctx == "load":
                    raise _wrong(f"{file}, line {place.lineno}", f"{place.name!r} is undefined")
            _refuse_lost_blocks(environment, source, file)


def _refuse_lost_blocks(environment: Environment, source: nodes.Template, file: str) -> None:
    """Raise `SettingError` for a block outside of others that no template which `source` extends has: it would be
    shown nowhere."""
    extended = source.find(nodes.Extends)
    if extended is None or not isinstance(extended.template, nodes.Const):
        return
    parents = [parent for _, parent in _sources(environment, str(extended.template.value))]
    theirs = {block.name for parent in parents for block in parent.find_all(nodes.Block)}
    for block in source.body:
        if isinstance(block, nodes.Block) and block.name not in theirs:
            near = get_close_matches(block.name, theirs, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(theirs))}"
            name = extended.template.value
            raise _wrong(f"{file}, line {block.lineno}", f"{name} has no block {block.name} to replace; {hint}")


def _sources(environment: Environment, name: str) -> Iterator[tuple[str, nodes.Template]]:
    """A template and those that it extends, includes or imports by name, by their files."""
    assert environment.loader is not None
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        try:
            text, file, _ = environment.loader.get_source(environment, name)
        except TemplateNotFound:
            # An include may do without it; where it may not, rendering tells.
            continue
        source = environment.parse(text, name, file)
        yield file or name, source
        waiting += {found for found in meta.find_referenced_templates(source) if found is not None} - seen


def _set_names(source: nodes.Template) -> Iterator[str]:
    """What a template sets, defines or imports: its blocks know these, which Jinja's own search does not see."""
    for assigned in source.find_all((nodes.Assign, nodes.AssignBlock)):
        yield from (name.name for name in assigned.find_all(nodes.Name) if name.ctx == "store")
    yield from (macro.name for macro in source.find_all(nodes.Macro))
    yield from (imported.target for imported in source.find_all(nodes.Import))
    for imported in source.find_all(nodes.FromImport):
        yield from (name if isinstance(name, str) else name[1] for name in imported.names)


def _place_of(hub: HubSection) -> tuple[str, list[str]]:
    """A template's name, and the folders that it and those that it names are looked for in."""
    name, folders = f"card.{hub.card_language}.md.jinja", [str(OWN)]
    if hub.card_template is not None:
        path = Path(hub.card_template).expanduser()
        name, folders = path.name, [str(path.parent), str(OWN)]
        if not path.is_file():
            raise SettingError(f"there is no template {path}", "Name a Jinja file, or leave it null.", KEY)
    return name, folders


def _environment(folders: list[str]) -> Environment:
    # A template is given values alone: the sandbox keeps it from Python, StrictUndefined from a misspelt name.
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "fenced": fenced, "cell": _cell}
    return environment


@contextmanager
def _told(name: str, folders: list[str]) -> Iterator[None]:
    """Turn what a template raises into a `SettingError` with its place."""
    try:
        yield
    except TemplateSyntaxError as error:
        raise _wrong(f"{error.filename or error.name}, line {error.lineno}", error.message or "") from None
    except TemplateNotFound as error:
        raise _wrong(name, f"there is no template {error.name}") from None
    except UnicodeDecodeError:
        raise _wrong(name, "it is not UTF-8 text") from None
    except (TemplateError, *RAISED) as error:
        raise _wrong(_place(error.__traceback__, folders) or name, str(error)) from None


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
