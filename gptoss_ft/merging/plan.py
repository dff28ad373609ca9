"""Which tensor goes into which file of a merged model, and which of the files an interrupted merge has left whole."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gptoss_ft.merging.stock_model import Shape

# A layer of gpt-oss-20b is 1.7 GB in 16 bits. What is interrupted loses a shard at most.
SHARD_BYTES = 2 * 10**9
STATE = "merge_state.json"


@dataclass(frozen=True)
class Shard:
    """A file of the merged model: its name, and the names and shapes of its tensors; `bytes` of their data."""

    file: str
    shapes: dict[str, Shape]
    bytes: int


def plan_shards(shapes: Mapping[str, Shape], itemsize: int, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """All tensors, in the model's order and layer by layer: as many whole layers a file as fit into `shard_bytes`, and
    never less than one layer. One file has the name that a model in one file has."""
    groups: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        layer = re.match(r"(?:.+?\.)?layers\.\d+\.", name)
        groups.setdefault(layer.group() if layer else name, {})[name] = shape
    packed: list[dict[str, Shape]] = []
    for group in groups.values():
        if packed and _bytes({**packed[-1], **group}, itemsize) <= shard_bytes:
            packed[-1] |= group
        else:
            packed.append(dict(group))
    total = len(packed)
    names = [f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
    if total == 1:
        names = ["model.safetensors"]
    return [Shard(name, group, _bytes(group, itemsize)) for name, group in zip(names, packed, strict=True)]


def _bytes(shapes: Mapping[str, Shape], itemsize: int) -> int:
    size = 0
    for shape in shapes.values():
        count = 1
        for length in shape:
            count *= length
        size += count * itemsize
    return size


def fingerprint(adapter: Iterable[Path], base: Iterable[Path], options: Mapping[str, object]) -> str:
    """What is merged, as a hash: the adapter's files by their content, the base model's, which are large, by place,
    size and time of change; and the options."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode())
    for file in adapter:
        digest.update(f"\0{file.name}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    for file in base:
        status = file.resolve().stat()
        digest.update(f"\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def is_whole(path: Path, shard: Shard) -> bool:
    """Whether a file that is there holds the shard's tensors; safetensors refuses one that was cut off."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
    return found == shard.shapes
