"""Whether llama.cpp's converter or vLLM would take a merged model's folder: what they read of it, looked at one by one.

Neither is run. A folder that they refuse is the most frequent complaint about merged models, and vLLM does not even
refuse one that lacks a tensor: it skips names that it does not know and leaves the rest as it was made.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors import SafetensorError, safe_open

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.publishing.loader_tables import FIXED, FLOATS, KEYS, ROPE_KEYS, Loader, expected_tensors
from gptoss_ft.reporting.console import show_failed, show_passed

NAMES: dict[Loader, str] = {"gguf": "llama.cpp's converter", "vllm": "vLLM"}


@dataclass(frozen=True)
class Look:
    """One thing that a loader reads: what was found, or what is wrong with it. `told` is False where this check cannot
    tell what the loader will make of it."""

    what: str
    found: str
    problem: str = ""
    told: bool = True


def check_loader(folder: Path, loader: Loader, console: Console) -> list[Look]:
    """Look at everything that `loader` reads of the model in `folder`, show each, and return what was looked at.

    Raises `ExportError` where it would refuse the model or read another than it is, `DataError` for a folder that holds
    no model of an architecture that is known here.
    """
    config, architecture = _read_config(folder)
    looks = [
        _look_at_config(config, architecture, loader),
        _look_at_rope(config, architecture, loader),
        *_look_at_tensors(folder, config, architecture),
        *_look_at_tokenizer(folder, config, loader),
    ]
    console.print(f"[bold cyan]what {NAMES[loader]} reads[/] of {folder}")
    for look in looks:
        _show(console, look)
    refused = [f"{look.what}: {look.problem}" for look in looks if look.problem]
    if refused:
        raise ExportError(
            f"{NAMES[loader]} would not take {folder} for what it is: {'; '.join(refused)}",
            "Merge the adapter again with `merge`, and check what that wrote.",
        )
    console.print(f"[bold green]done[/]: {command_for(folder, loader, config)}")
    return looks


def command_for(folder: Path, loader: Loader, config: Mapping[str, Any]) -> str:
    """The command that has the loader read `folder`."""
    if loader == "gguf":
        return f"python convert_hf_to_gguf.py {folder} --outfile {folder.name}.gguf --outtype bf16"
    dtype = config.get("dtype") or config.get("torch_dtype") or "auto"
    return f"vllm serve {folder} --dtype {dtype}"


def _show(console: Console, look: Look) -> None:
    if look.problem:
        show_failed(console, f"{look.what}: {look.problem}")
    elif look.told:
        show_passed(console, look.what, look.found)
    else:
        console.print(f"[yellow]?[/] {look.what}  {look.found}", markup=True)


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no config.json", "Name the folder of a merged model with --model.")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        architecture = next(iter(config.get("architectures") or []), None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a model's: {error}", "Merge the adapter again with `merge`.") from None
    if not isinstance(architecture, str) or architecture not in KEYS:
        raise DataError(
            f"{path} names the architecture {architecture}; this check knows {' and '.join(KEYS)}",
            "Try the loader itself.",
        )
    return config, architecture


def _look_at_config(config: dict[str, Any], architecture: str, loader: Loader) -> Look:
    problems = [f"lacks {key}" for key in KEYS[architecture][loader] if config.get(key) is None]
    # With it, either takes 16-bit weights for packed ones.
    problems += [f"still holds {key}" for key in ("quantization_config", "auto_map") if key in config]
    for key, value in FIXED[architecture][loader].items():
        if config.get(key, value) != value:
            problems.append(f"{key} is {config[key]}, and the loader's code has {value}")
    layers = config.get("layer_types")
    # Both give every second layer the sliding window, from the first on.
    if layers is not None and architecture == "GptOssForCausalLM":
        layers = layers if isinstance(layers, list) else []
        own = [("sliding_attention", "full_attention")[at % 2] for at in range(len(layers))]
        if layers != own or len(layers) != config.get("num_hidden_layers"):
            problems.append("layer_types do not alternate from sliding_attention on, layer by layer")
    return Look("config.json", f"{architecture}, {config.get('num_hidden_layers')} layers", "; ".join(problems))


def _look_at_rope(config: dict[str, Any], architecture: str, loader: Loader) -> Look:
    given = config.get("rope_parameters") or config.get("rope_scaling")
    rope = dict(given) if isinstance(given, dict) else {}
    rope.setdefault("rope_theta", config.get("rope_theta"))
    problems = [f"lacks {key}" for key in ROPE_KEYS[architecture][loader] if rope.get(key) is None]
    kind = rope.get("rope_type", "default")
    if architecture == "GptOssForCausalLM" and kind != "yarn":
        problems.append(f"rope_type is {kind}; only yarn is read")
    return Look("rope", f"{kind}, theta {rope['rope_theta']}", "; ".join(problems))


def _look_at_tensors(folder: Path, config: dict[str, Any], architecture: str) -> list[Look]:
    found: dict[str, tuple[int, ...]] = {}
    places: dict[str, str] = {}
    types: set[str] = set()
    broken = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            for name, shape, dtype in _tensors_of(file):
                found[name], places[name] = shape, file.name
                types.add(dtype)
        except (OSError, SafetensorError) as error:
            broken.append(_unreadable(file, error))
    if broken:
        return [Look("tensors", "", "; ".join(broken))]
    try:
        wanted = expected_tensors(architecture, config)
    except KeyError as error:
        return [Look("tensors", "", f"config.json lacks {error.args[0]}, which their shapes come from")]
    except (TypeError, ArithmeticError) as error:
        return [Look("tensors", "", f"config.json has sizes that no shapes come from: {error}")]
    problems = _differences(found, wanted) + _index_problems(folder / "model.safetensors.index.json", places)
    strange = sorted(types - set(FLOATS))
    return [
        Look("tensors", f"{len(found)}, each by the name and shape that is looked for", "; ".join(problems)),
        Look("dtype", ", ".join(sorted(types)), f"{', '.join(strange)} is not read" if strange else ""),
    ]


def _tensors_of(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of each."""
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - no mapping
            part = tensors.get_slice(name)
            yield name, tuple(part.get_shape()), part.get_dtype()


def _index_problems(index: Path, places: Mapping[str, str]) -> list[str]:
    if not index.is_file():
        return []
    try:
        same = json.loads(index.read_text(encoding="utf-8"))["weight_map"] == places
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        return [_unreadable(index, error)]
    return [] if same else [f"{index.name} names other tensors or files than there are"]


def _unreadable(file: Path, error: Exception) -> str:
    return f"{file.name} cannot be read: {' '.join(str(error).split())}"


def _differences(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> list[str]:
    of_other_shape = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems = []
    for words, names in (
        ("lacking", wanted.keys() - found.keys()),
        ("not looked for", found.keys() - wanted.keys()),
        ("of another shape", of_other_shape),
    ):
        if names:
            problems.append(f"{len(names)} {words}, first {min(names)}")
    return problems


def _look_at_tokenizer(folder: Path, config: dict[str, Any], loader: Loader) -> list[Look]:
    from tokenizers import Tokenizer

    from gptoss_ft.data.o200k import o200k_encoding

    missing = [name for name in ("tokenizer.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        return [Look("tokenizer", "", f"{' and '.join(missing)} missing")]
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        return [Look("tokenizer", "", _unreadable(file, error))]
    last, rows = max(tokenizer.get_vocab().values(), default=0), config.get("vocab_size", 0)
    if not isinstance(rows, int):
        return [Look("tokenizer", "", f"vocab_size is {rows}, wanted a number")]
    beyond = f"token {last} has no row among the {rows} of vocab_size" if last >= rows else ""
    looks = [Look("tokenizer", f"{tokenizer.get_vocab_size():,} tokens in {rows:,} rows", beyond)]
    looks.append(_look_at_template(folder))
    if loader == "gguf":
        known = o200k_encoding(tokenizer) is not None
        words = (
            "gpt-oss's own, which the converter knows"
            if known
            else "cannot be told from here: the converter takes those that it knows by a hash of its own"
        )
        looks.append(Look("pre-tokenizer", words, told=known))
    return looks


def _look_at_template(folder: Path) -> Look:
    file = folder / "tokenizer_config.json"
    try:
        inside = "chat_template" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        return Look("chat template", "", _unreadable(file, error))
    there = inside or (folder / "chat_template.jinja").is_file()
    return Look("chat template", "there", "" if there else "there is none")
