"""A whole model in 16 or 32 bits with an adapter folded in, written shard by shard and without Unsloth.

What is being written lies in a hidden folder beside the output and goes on after its last whole shard when the same
merge is asked for again. The output has its name only once all of it is there and `finish` has passed it.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptoss_ft.errors import ExportError, MachineError, OutputError
from gptoss_ft.merging.adapter_places import CONFIG
from gptoss_ft.merging.base_weights import INDEX, BaseWeights
from gptoss_ft.merging.deltas import WEIGHTS, Deltas
from gptoss_ft.merging.files import write_model_files
from gptoss_ft.merging.plan import STATE, Shard, fingerprint, is_whole, plan_shards
from gptoss_ft.merging.stock_model import Shape, StockModel, stock_model
from gptoss_ft.reporting.files import follow_umask, write_json
from gptoss_ft.reporting.only_writer import chosen_by, only_writer
from gptoss_ft.runtime import GIB, free_gib, peak_resident_gib

# Told after each shard, of shards and of bytes: how many are there, and how many in all.
Progress = Callable[[int, int, int, int], None]


@dataclass(frozen=True)
class MergeResult:
    """What was written: `files` of weights, their `bytes`, of which `shards_kept` files were there from a merge that
    was interrupted; the seconds that writing took, and the peak resident memory of this process so far in GiB."""

    folder: Path
    files: int
    bytes: int
    shards_kept: int
    seconds: float
    peak_resident_gib: float


def merge(
    adapter: Path | None,
    base: Path,
    output: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantized_as: torch.dtype | None = None,
    progress: Progress,
    finish: Callable[[Path], None] | None = None,
    overwrite: bool = False,
    option: str = "--output",
) -> MergeResult:
    """Write the model of the checkpoint folder `base` to `output`, in `dtype`, with the adapter in `adapter` folded in;
    without one its weights alone, dequantized.

    `quantized_as` is the compute dtype of a run that quantized a 16-bit base to 4 bits while it loaded it. `device`
    does the sums; at most one shard is in memory. `finish` is called with the whole folder before it gets its name;
    when it raises `ExportError`, nothing is kept. `option` is what chose `output`. Raises `JobError`; what that or an
    interruption leaves is gone on from.
    """
    started = time.monotonic()
    with only_writer(output, chosen_by(option)):
        refuse_existing(output, [base, *([adapter] if adapter else [])], overwrite)
        stock = stock_model(base)
        weights = BaseWeights(base, stock, device, quantized_as)
        deltas = Deltas(adapter, stock, device) if adapter else None
        untied = deltas is not None and not deltas.changed.isdisjoint({*stock.tied, *stock.tied.values()})
        shards = plan_shards(_shapes_to_write(stock, untied), dtype.itemsize)
        options = {"dtype": str(dtype), "quantized_as": str(quantized_as)}
        adapter_files = [adapter / CONFIG, adapter / WEIGHTS] if adapter else []
        mark = fingerprint(adapter_files, [base / "config.json", *weights.files], options)
        partial = _partial_folder(output, mark)
        missing = [shard for shard in shards if not is_whole(partial / shard.file, shard)]
        _refuse_full_disk(output, missing, option)
        write_shards(partial, shards, missing, weights, deltas, dtype, progress)
        write_model_files(partial, base, adapter, stock.architecture, dtype, untied)
        seconds = time.monotonic() - started
        _finish(partial, finish)
        _give_name(partial, output)
    size = sum(shard.bytes for shard in shards)
    return MergeResult(output, len(shards), size, len(shards) - len(missing), seconds, peak_resident_gib())


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    missing: Sequence[Shard],
    weights: BaseWeights,
    deltas: Deltas | None,
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    """Write the `missing` ones of `shards`, each under its name only once it is whole, and the index of all."""
    from safetensors.torch import save_file

    there = len(shards) - len(missing)
    size = sum(shard.bytes for shard in shards)
    written = size - sum(shard.bytes for shard in missing)
    progress(there, len(shards), written, size)
    for shard in missing:
        tensors = {name: _tensor(name, weights, deltas, dtype) for name in shard.shapes}
        beside = folder / f".{shard.file}"
        # transformers refuses a file that does not say which framework wrote it.
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.rename(folder / shard.file)
        weights.release()
        there, written = there + 1, written + shard.bytes
        progress(there, len(shards), written, size)
    if len(shards) > 1:
        weight_map = {name: shard.file for shard in shards for name in shard.shapes}
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _tensor(name: str, weights: BaseWeights, deltas: Deltas | None, dtype: torch.dtype) -> torch.Tensor:
    weight = weights.read(name)
    merged = (weight.to(dtype) if deltas is None else deltas.apply(name, weight, dtype)).contiguous()
    # Of the three dtypes only this one cannot hold what the others do.
    if dtype == torch.float16 and not torch.isfinite(merged).all():
        raise ExportError(f"{name} has values that float16 does not hold", "Choose --dtype bfloat16 or float32.")
    return merged


def _shapes_to_write(stock: StockModel, untied: bool) -> dict[str, Shape]:
    return {name: shape for name, shape in stock.shapes.items() if untied or name not in stock.tied}


def refuse_existing(output: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Raise `OutputError` where `output` is there and may not be replaced: it is not to be, it holds something else, or
    it is one of the folders that are read."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{output} is there already", "Pass --overwrite to replace it, or choose another --output.")
    is_model = (output / "config.json").is_file() and any(output.glob("*.safetensors"))
    if not is_model or output.resolve() in [source.resolve() for source in sources]:
        raise OutputError(f"{output} is not a merged model, and is left as it is", "Choose another --output.")


def _partial_folder(output: Path, mark: str) -> Path:
    """The hidden folder to write to: that of an interrupted merge of the same things, else an empty one."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        same = json.loads((partial / STATE).read_text(encoding="utf-8"))["fingerprint"] == mark
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_json(partial / STATE, {"fingerprint": mark})
    return partial


def _refuse_full_disk(output: Path, missing: Sequence[Shard], option: str) -> None:
    needed, free = sum(shard.bytes for shard in missing) / GIB, free_gib(output)
    if needed > free:
        raise MachineError(
            f"the merged model needs {needed:.1f} GiB more, and {free:.1f} GiB are free for {output}",
            f"Make space, or choose another place with {option}.",
        )


def _finish(partial: Path, finish: Callable[[Path], None] | None) -> None:
    follow_umask(partial)
    if finish is None:
        return
    try:
        finish(partial)
    except ExportError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _give_name(partial: Path, output: Path) -> None:
    aside = output.with_name(f".{output.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if output.exists():
        output.rename(aside)
    partial.rename(output)
    (output / STATE).unlink()
    shutil.rmtree(aside, ignore_errors=True)
