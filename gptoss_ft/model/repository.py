"""Which repository or folder the base model is really loaded from. Needs neither Unsloth nor a GPU."""

import ast
import json
import os
import re
import runpy
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

from gptoss_ft import tiny
from gptoss_ft.config import ModelSection
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.hub_client import patiently
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import cache_folder

# What the name of an upload that is quantized beforehand ends with.
QUANTIZED = "-bnb-4bit"
# Folders of a repository hold copies in other formats (gpt-oss: original/ and metal/, 27 GB).
MODEL_FILES: dict[str, Any] = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"],
    "ignore_patterns": ["*/*"],
}


def find_repository(config: ModelSection) -> str:
    """The hub id or folder that is really loaded for `model.name`, known to take samples of `max_seq_length`.

    Unsloth maps the names of published models to its own uploads of them: quantized beforehand for 4-bit, or
    without a gate for 16-bit. `SettingError` when a pinned revision would be one of the other repository.
    """
    repository = resolve(config)
    _check_length(config, repository)
    return repository


def resolve(config: ModelSection) -> str:
    """As `find_repository`, whatever its longest sample. Imports neither torch nor transformers."""
    if tiny.is_tiny(config.name):
        return str(tiny.materialize(config.name, cache_folder()))
    if config.name.startswith("~"):
        return os.path.expanduser(config.name)
    name, names = config.name.lower(), _unsloth_names()
    if config.load_in_4bit:
        # A name that says it is quantized is taken at its word.
        mapped = None if name.endswith(QUANTIZED) else names.in_4bit.get(name)
    else:
        mapped = names.in_16bit.get(name) or names.ungated.get(name)
    mapped = names.replaced.get((mapped or name).lower(), mapped)
    if mapped is None or mapped.lower() == name:
        return config.name
    if config.revision is not None:
        raise SettingError(
            f"revision {config.revision} is of {config.name}, but with load_in_4bit: "
            f"{str(config.load_in_4bit).lower()} Unsloth loads {mapped}",
            f"Set model.name: {mapped} and a revision of it, or leave model.revision null.",
            key="model.revision",
        )
    return str(mapped)


def config_folder(config: ModelSection) -> Path:
    """The folder that holds the config.json of the model that was loaded for `model.name`. Asks no network."""
    from huggingface_hub import snapshot_download

    repository = resolve(config)
    if Path(repository).is_dir():
        return Path(repository)
    return Path(
        snapshot_download(repository, revision=config.revision, local_files_only=True, allow_patterns=["config.json"])
    )


def stock_name(config: ModelSection) -> str:
    """What an adapter calls its base model: the repository of the 16-bit weights for the name of a quantized upload,
    where Unsloth's tables or the config.json of a quantized folder know it; else `model.name`."""
    name = _origin(Path(config.name).expanduser()) or config.name
    if not name.lower().endswith(QUANTIZED):
        return name
    names = _unsloth_names()
    return names.in_16bit.get(name.lower()) or names.ungated.get(name.lower()) or name


def _origin(folder: Path) -> str | None:
    """The hub id that a quantized folder's config.json says it was made from. One in 16 bits may have been trained."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "quantization_config" not in content:
        return None
    origin = content.get("_name_or_path")
    return origin if isinstance(origin, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", origin) else None


class UnslothNames(NamedTuple):
    """Unsloth's tables from lower-case names to names: uploads in 4 bits, in 16, without a gate, and corrections."""

    in_4bit: Mapping[str, str]
    in_16bit: Mapping[str, str]
    ungated: Mapping[str, str]
    replaced: Mapping[str, str]


@cache
def _unsloth_names() -> UnslothNames:
    """Unsloth's own tables, read from its files: importing it takes many seconds and changes transformers."""
    folder = Path(str(distribution("unsloth").locate_file("unsloth/models")))
    tables = runpy.run_path(str(folder / "mapper.py"))
    # loader_utils.py imports the rest of Unsloth: of it only this one literal is evaluated.
    module = ast.parse((folder / "loader_utils.py").read_text(encoding="utf-8"))
    literal = next(
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BAD_MAPPINGS"
    )
    replaced = eval(compile(ast.Expression(literal), "loader_utils.py", "eval"), {})
    return UnslothNames(
        tables["FLOAT_TO_INT_MAPPER"], tables["INT_TO_FLOAT_MAPPER"], tables["MAP_TO_UNSLOTH_16bit"], replaced
    )


def _check_length(config: ModelSection, repository: str) -> None:
    """The model's own limit stands in its config.json."""
    from transformers import AutoConfig

    with explained(repository, "model.name"):
        try:
            model_config = patiently(
                lambda: AutoConfig.from_pretrained(repository, revision=config.revision, trust_remote_code=False)
            )
        except unfit_for_transformers() as error:
            # A config.json of another kind of model, or of none.
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{repository} is not a model that transformers knows: {reason}", key="model.name"
            ) from None
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.max_seq_length > limit:
        raise SettingError(
            f"read {config.max_seq_length}, but {config.name} takes at most {limit} tokens",
            f"Set model.max_seq_length to {limit} or less.",
            key="model.max_seq_length",
        )


def require_safetensors(repository: str, names: Iterable[str]) -> None:
    """`DataError` unless one of the files `names` of a model is safetensors: a pickle can run code when it is read."""
    if not any(name.endswith(".safetensors") for name in names):
        raise DataError(
            f"{repository} has no weights as safetensors; pickles (pytorch_model.bin) can run code and are not read",
            "Name a repository with *.safetensors, or convert it where it may run: "
            "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…).",
            key="model.name",
        )


def unfit_for_transformers() -> tuple[type[Exception], ...]:
    """What transformers 5.17 raises for a config.json that makes no sense: what its checks say, and where it has none,
    whatever its computations meet. RuntimeError: nested too deep, and sizes that torch cannot count."""
    from huggingface_hub.errors import StrictDataclassError

    return (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, StrictDataclassError)


def bytes_to_fetch(config: ModelSection, repository: str) -> int:
    """Bytes of the model's files that are not in the hub's cache; 0 for a folder, and offline for a model that is
    there. `HubError` where the hub does not answer or refuses, `DataError` where it has no weights as safetensors."""
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.utils import filter_repo_objects

    if Path(repository).is_dir():
        return 0
    with explained(repository, "model.name"):
        if is_offline_mode():
            snapshot_download(repository, revision=config.revision, local_files_only=True)
            return 0
        info = patiently(lambda: HfApi().model_info(repository, revision=config.revision, files_metadata=True))
    require_safetensors(repository, [file.rfilename for file in info.siblings or []])
    files = filter_repo_objects(info.siblings or [], **MODEL_FILES, key=lambda file: file.rfilename)
    return sum(
        file.size or 0
        for file in files
        if not isinstance(try_to_load_from_cache(repository, file.rfilename, revision=info.sha), str)
    )
