"""The embedded default: tiny models and sample rows that need no network, under names that begin with `tiny/`.

`materialize("tiny/gpt-oss", cache)` makes a checkpoint folder that any program of the field can load, and
`materialize("tiny/multilingual-thinking", cache)` a JSON Lines file. The bytes are the same on every machine, and the
path ends with their hash, so that a changed recipe never meets an old file. Takes about 0.2 s; nothing heavy is
imported here.
"""

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from gptoss_ft.errors import ConfigError, MachineError, Problem

PREFIX = "tiny/"
MODELS = ("tiny/gpt-oss", "tiny/gpt-oss-24", "tiny/llama", "tiny/llama-3")
DATASETS = ("tiny/multilingual-thinking", "tiny/finetome", "tiny/text")


def is_tiny(name: str) -> bool:
    """Whether a model name or data path is reserved for the embedded default (known or not)."""
    return name.startswith(PREFIX)


def materialize(name: str, cache: Path) -> Path:
    """Make what `name` stands for under `cache`, unless it is there, and return its path.

    A model is a folder (config.json, model.safetensors, generation_config.json, tokenizer.json, tokenizer_config.json,
    special_tokens_map.json, chat_template.jinja), a data set a .jsonl file. Any number of processes may do this at
    once: each writes beside the final path and renames.

    Raises:
        ConfigError: no such name.
        MachineError: `cache` cannot be written.
    """
    if name in MODELS:
        files, suffix = _model_files(name), ""
    elif name in DATASETS:
        files, suffix = {"": _rows(name)}, ".jsonl"
    else:
        known = ", ".join((*MODELS, *DATASETS))
        raise ConfigError([Problem(name, "is not an embedded name")], f"The embedded names are {known}.")
    final = cache / PREFIX / f"{name.removeprefix(PREFIX)}-{_hash(files)}{suffix}"
    if not final.exists():
        try:
            _write(files, final)
        except OSError as error:
            raise MachineError(f"{name} cannot be written to {cache}: {error}", "Give another cache folder.") from error
    return final


def _model_files(name: str) -> dict[str, bytes]:
    from gptoss_ft.tiny import model, tokenizer

    if name == "tiny/gpt-oss":
        return {**model.gpt_oss_files(), **tokenizer.gpt_oss_files()}
    if name == "tiny/gpt-oss-24":
        return {**model.gpt_oss_files(model.REAL_LAYERS), **tokenizer.gpt_oss_files()}
    if name == "tiny/llama-3":
        return {**model.llama_files(tokenizer.LLAMA_3), **tokenizer.llama_3_files()}
    return {**model.llama_files(), **tokenizer.llama_files()}


def _rows(name: str) -> bytes:
    from gptoss_ft.tiny import rows

    return rows.as_jsonl(rows.DATASETS[name]())


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()[:12]


def _write(files: Mapping[str, bytes], final: Path) -> None:
    """Write beside `final`, then rename: a reader sees all of it or nothing."""
    beside = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in files.items():
            path = beside / name if name else beside
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        beside.rename(final)
    except OSError:
        # A folder cannot be renamed onto one that another process has just finished; that one holds the same bytes.
        if not final.exists():
            raise
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)
