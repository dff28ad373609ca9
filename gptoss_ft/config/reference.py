"""What is made from the schema: config.schema.json, docs/configuration.md and the default config.yaml.

`python -m gptoss_ft schema` writes the first two; tests hold all three equal to what is on disk.
"""

import json
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from gptoss_ft.config.keys import LISTED
from gptoss_ft.config.schema import SECTIONS, JobConfig
from gptoss_ft.config.words import in_words

LINE_WIDTH = 110


@cache
def _section(name: str) -> dict[str, Any]:
    """The JSON schema of one section, without pydantic's titles."""
    section = SECTIONS[name].model_json_schema()
    return {
        "description": section["description"],
        # A section whose keys are all commented out reads as null, and means its defaults.
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {key: _without_title(prop) for key, prop in section["properties"].items()},
    }


def _schema() -> dict[str, Any]:
    """The JSON schema of a job, each section written out where it stands."""
    sections = {name: _section(name) for name in SECTIONS}
    sections[LISTED] = _or_list(sections[LISTED])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gptoss_ft job",
        "description": JobConfig.__doc__,
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def _or_list(section: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a section, or of a list of such sections."""
    entries = {"type": "array", "minItems": 1, "items": section | {"type": "object"}}
    return {"description": section["description"], "anyOf": [section, entries]}


def _without_title(prop: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in prop.items() if key != "title"}


def value_schema(section: str, key: str) -> dict[str, Any]:
    """The JSON schema of one value: its type, range, default and description."""
    schema: dict[str, Any] = _section(section)["properties"][key]
    return schema


def json_schema() -> str:
    """The text of config.schema.json (draft 2020-12), by which editors check and complete config.yaml."""
    return json.dumps(_schema(), indent=2, ensure_ascii=False) + "\n"


def as_yaml(value: Any) -> str:
    """A default as config.yaml writes it: text without quotes where it stays text without them."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in ("null", "true", "false"):
        return value
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    return json.dumps(value)


_CONFIG_HEAD = (
    "The default job: gpt-oss-20b learns to reason in several languages. Change what you need, then run "
    "./train.sh. Every key stands here with its meaning and its default, and a key that is left out keeps "
    "that default. docs/configuration.md has the same as tables, and says how to change one key for one run."
)


def default_config() -> str:
    """The text of the default config.yaml: every key with its meaning and default above it."""
    lines = [
        "# yaml-language-server: $schema=config.schema.json",
        "",
        *_comment(_CONFIG_HEAD, ""),
    ]
    for section in SECTIONS:
        described = _section(section)
        lines += ["", "", *_comment(described["description"], ""), f"{section}:"]
        for index, (key, prop) in enumerate(described["properties"].items()):
            value = as_yaml(prop["default"])
            words = in_words(prop)
            takes = "" if prop.get("type") == "boolean" or "text" in words else f"{words}; "
            lines += [""] * (index > 0)
            lines += _comment(f"{prop['description'].removesuffix('.')} ({takes}default {value})", "  ")
            lines.append(f"  {key}: {value}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text,
        LINE_WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_on_hyphens=False,
        break_long_words=False,
    )


_PAGE_HEAD = """\
# Configuration

One YAML file describes one job. A key that is left out has its default; an unknown key is an error. This page
is generated from the schema by `python -m gptoss_ft schema`, and so is `config.schema.json`, by which editors
check and complete a file that starts with `# yaml-language-server: $schema=config.schema.json`.

## One key for one run

`--set KEY=VALUE` overrides the file, as often as it is given; the last one of a key counts. VALUE is YAML,
and an empty VALUE is null:

```
--set training.max_steps=2 --set 'lora.target_modules=[q_proj, v_proj]' --set hub.repo_id=
```

A run ends by steps or by epochs, so epochs in place of the file's steps take two:

```
--set training.num_train_epochs=1 --set training.max_steps=null
```

## Several data sets

`dataset` is a mapping, as in config.yaml, or a list of such mappings. Each entry has its own format, columns and
rules, and the defaults of the keys that it leaves out:

```
{entries}
```

- With weights, each entry gives its share of the training rows; here 3 of 4 come from the first. Either every
  entry to train on has a weight, or none has: then every row of each is used.
- `eval: true` uses an entry's rows for evaluation only, `eval_fraction` holds out a share of an entry's rows. At
  least one entry is to train on.
- `prepared` is for a single data set: it is refused in a list.

The keys of an entry are counted from 0, in errors (`config.yaml:6:13: dataset[1].format: …`) and in
`--set 'dataset[1].max_samples=100'`.

## Errors

The file and every `--set` are checked before anything else, in well under a second. All mistakes are shown at
once (of more than fifty the first), each with file, line and column, and the program ends with exit code 2:

```
{errors}
```

Values are YAML 1.2: `2e-4` is a number; `on`, `yes` and `2025-06-01` are text; only `true` and `false` are
truth values. Anchors, aliases and merge keys (`<<`) work; tags (`!!python/…`) are refused. No key holds an
access token: it is read from the environment, and what looks like one is shown as `***`.
"""
_TABLE_HEAD = "| key | takes | default | meaning |\n|---|---|---|---|\n"

EXAMPLE_ENTRIES = """\
dataset:
  - path: HuggingFaceH4/Multilingual-Thinking
    weight: 3
  - path: data/questions.jsonl
    weight: 1
    format: alpaca
    rename_columns: {question: instruction, answer: output}
  - path: data/held-out.jsonl
    eval: true
"""
EXAMPLE_MISTAKES = """\
model:
  max_seq_length: "2048"
lora:
  rank: 16
training:
  learning_rate: 2e4
  gradient_checkpointing: on
"""
EXAMPLE_ERRORS = """\
config.yaml:2:19: model.max_seq_length: read "2048"; wanted a whole number, 16 or more
config.yaml:4:3: lora.rank: unknown key; did you mean lora.r?
config.yaml:6:18: training.learning_rate: read 20000.0; wanted a number above 0, at most 1
config.yaml:7:27: training.gradient_checkpointing: read "on"; wanted true, false or unsloth; did you mean true?
"""


def configuration_page() -> str:
    """The text of docs/configuration.md: how to set a key, lists, how errors look, and a table of each section."""
    parts = [_PAGE_HEAD.format(entries=EXAMPLE_ENTRIES.rstrip(), errors=EXAMPLE_ERRORS.rstrip())]
    for section in SECTIONS:
        described = _section(section)
        parts.append(f"\n## {section}\n\n{described['description']}\n\n{_TABLE_HEAD}")
        for key, prop in described["properties"].items():
            cells = (f"`{key}`", in_words(prop), f"`{as_yaml(prop['default'])}`", prop["description"])
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def write_reference(folder: Path) -> list[Path]:
    """Write config.schema.json and docs/configuration.md below `folder`; returns the two paths."""
    texts = {
        folder / "config.schema.json": json_schema(),
        folder / "docs" / "configuration.md": configuration_page(),
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)
