"""Where each tensor of an adapter's file goes in the stock model: every one to one place, and none left over.

Read are the portable layout and Unsloth's split one (`model.adapter_layout`).
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.merging.base_weights import Place, some, stock_place
from gptoss_ft.merging.stock_model import Shape, StockModel

T = TypeVar("T")
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
WHOLE_ADAPTER = "Copy or download the adapter again, or name another with --model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?")


class Settings(NamedTuple):
    """Rank, and the factor of B A."""

    r: int
    scaling: float


@dataclass(frozen=True)
class LowRank:
    """Names in the adapter's file: of A [r, in] and B [out, r], and with DoRA of a magnitude [out]. `packed`: of all
    experts of a fused parameter, A [experts · r, in] and B [out, r · experts]; `embedding`: A [r, rows] and
    B [width, r] of an embedding [rows, width]."""

    a: str
    b: str
    magnitude: str | None = None
    packed: bool = False
    embedding: bool = False


@dataclass
class Change:
    """What happens to one stock tensor, by expert; None stands for the whole tensor. `replaced` has names in the
    adapter's file."""

    replaced: dict[int | None, str] = field(default_factory=dict)
    low_rank: dict[int | None, LowRank] = field(default_factory=dict)


def read_settings(folder: Path) -> Settings:
    """From adapter_config.json. `DataError` where it cannot be read, `ExportError` for an adapter whose sum is formed
    in a way that is not computed here."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        r, alpha = int(config["r"]), float(config["lora_alpha"])
        if r < 1:
            raise ValueError(f"its rank r is {r}")
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{folder / CONFIG} is not one of a LoRA adapter: {reason}", WHOLE_ADAPTER) from None
    other = [key for key in ("rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication") if config.get(key)]
    # Unsloth's word for its own packing of fused experts (unsloth#6930); its default is PEFT's.
    if config.get("lora_B_layout", "rank_major") != "rank_major":
        other.append(f"lora_B_layout {config['lora_B_layout']}")
    if config.get("peft_type") != "LORA" or other:
        what = ", ".join(other) or f"peft_type {config.get('peft_type')}"
        raise ExportError(f"{folder} is an adapter of a kind that is not merged here: {what}", "Merge it with PEFT.")
    return Settings(r, alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r)


def place_tensors(shapes: Mapping[str, Shape], stock: StockModel, r: int) -> dict[str, Change]:
    """What the tensors of an adapter's file (name → shape) change, by stock tensor. `ExportError` for any that has no
    place in the model, or one that another tensor has already."""
    changes: dict[str, Change] = defaultdict(Change)
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    left = []
    for name in shapes:
        if match := _PART.fullmatch(name):
            modules[match["module"]][match["part"]] = name
        else:
            place = _place_of_whole(name, shapes, stock)
            if place is None or not _claim(changes[place.name].replaced, place.expert, name):
                left.append(name)
    for module, parts in modules.items():
        found = _low_rank(module, parts, shapes, stock, r)
        if found is None or not _claim(changes[found[0].name].low_rank, found[0].expert, found[1]):
            left += parts.values()
    if left:
        raise ExportError(
            f"the adapter holds {some(left)}, which {stock.architecture} has no place for",
            "Merge it into the model that it was trained on: model.name in its job.yaml.",
        )
    return dict(changes)


def _claim(places: dict[int | None, T], expert: int | None, value: T) -> bool:
    """Whether the place was free: the whole tensor, or one expert of it, but not both. It is taken then."""
    free = None not in places and (expert not in places if expert is not None else not places)
    if free:
        places[expert] = value
    return free


def _place_of_whole(name: str, shapes: Mapping[str, Shape], stock: StockModel) -> Place | None:
    """Where a module saved whole or a bias goes."""
    place = stock_place(_unwrapped(name))
    return place if _shape_at(place, stock) == shapes[name] else None


def _low_rank(
    module: str, parts: Mapping[str, str], shapes: Mapping[str, Shape], stock: StockModel, r: int
) -> tuple[Place, LowRank] | None:
    """Where the matrices of one adapted module go, by their names and shapes."""
    embedding = "lora_embedding_A" in parts
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    magnitude = None if embedding else parts.get("lora_magnitude_vector")
    if parts.keys() != {first, second} | ({"lora_magnitude_vector"} if magnitude else set()):
        return None
    a, b = parts[first], parts[second]
    place = stock_place(f"{_unwrapped(module)}.weight")
    if place.name in stock.shapes:
        transposed = embedding or place.name in stock.transposed
        outputs, inputs = _outputs_and_inputs(_shape_at(place, stock), transposed)
        fits = shapes[a] == (r, inputs) and shapes[b] == (outputs, r) and len(_shape_at(place, stock)) == 2
        return (place, LowRank(a, b, magnitude, embedding=embedding)) if fits else None
    # A fused parameter's wrapper has the module's name; no two parameters of one have matrices of the same shapes.
    for name in stock.experts_of(_unwrapped(module)):
        experts, *shape = stock.shapes[name]
        outputs, inputs = _outputs_and_inputs(tuple(shape), name in stock.transposed)
        if shapes[a] == (experts * r, inputs) and shapes[b] == (outputs, r * experts) and magnitude is None:
            return Place(name), LowRank(a, b, packed=True)
    return None


def _shape_at(place: Place, stock: StockModel) -> Shape:
    """() where the model has no such tensor."""
    shape = stock.shapes.get(place.name, ())
    return shape if place.expert is None else shape[1:]


def _outputs_and_inputs(shape: Shape, transposed: bool) -> tuple[int, int]:
    outputs, inputs = reversed(shape) if transposed else shape
    return outputs, inputs


def _unwrapped(name: str) -> str:
    """A name in the base model: without PEFT's prefix and its wrappers."""
    return ".".join(part for part in name.removeprefix(PREFIX).split(".") if part != "base_layer")
