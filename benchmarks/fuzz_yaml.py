"""Coverage-guided fuzzing of the YAML reader, by atheris (libFuzzer).

    python3.11 -m venv fuzz && fuzz/bin/pip install atheris==3.0.0 ruamel.yaml==0.19.1 pydantic typer rich
    fuzz/bin/python benchmarks/fuzz_yaml.py CORPUS -runs=200000 -max_len=1024 -timeout=5 -seed=1

CORPUS is a folder, which need not be empty: what reaches new code is kept there, and config.yaml and the recipes are
put there first. Each input is read as a config file is, as far as the tree of values. Reading must end with a tree or
with faults, each with a place inside the text; an exception, or more than -timeout seconds, ends the run with the input
that did it. atheris has wheels for Python 3.11 to 3.13 and is no part of the project's environment. libFuzzer prints
the executions, the branches and the executions a second.
"""

import re
import sys
from hashlib import sha256
from pathlib import Path

import atheris
import broken_configs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
with atheris.instrument_imports(include=["ruamel.yaml", "gptoss_ft.config"]):
    from gptoss_ft.config.yaml_text import Mark
    from gptoss_ft.config.yaml_tree import read_tree

LONGEST = 1_024  # characters of what changes begin with: short inputs are read by the thousand a second
BREAKS = re.compile(r"\r\n|\r|\n")


def read(data: bytes) -> None:
    """Raises AssertionError where a place is not in the text, and whatever the reader lets through."""
    text = data.decode("utf-8-sig", "replace")
    root, faults = read_tree(text, lambda mark: f"{mark.line}:{mark.column}")
    marks = [fault.mark for fault in faults]
    if root is not None:
        root.plain()
        marks.append(root.mark)
    lines = BREAKS.split(text)
    for mark in marks:
        assert _is_inside(mark, lines), (mark, text[:200])


def _is_inside(mark: Mark, lines: list[str]) -> bool:
    return 1 <= mark.line <= len(lines) and 1 <= mark.column <= len(lines[mark.line - 1]) + 1


def write_corpus(folder: Path) -> None:
    """The texts that changes begin with, named by what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [str(value) for value in broken_configs.VALUES if isinstance(value, broken_configs.Raw)]
    texts = [*broken_configs.bases(), broken_configs.LAUGHS, *(f"a: {piece}\n" for piece in pieces)]
    for text in (text[:LONGEST] for text in texts):
        data = text.encode()
        (folder / sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if len(arguments) != 1:
        sys.exit(__doc__)
    write_corpus(Path(arguments[0]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
