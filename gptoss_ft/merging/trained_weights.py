"""The very weights that a job trained on, as a stock 16-bit model in a folder."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gptoss_ft.config import ModelSection
from gptoss_ft.errors import OutputError
from gptoss_ft.merging.base_choice import BaseChoice, compute_dtype
from gptoss_ft.merging.plan import fingerprint
from gptoss_ft.merging.stock_model import read_config
from gptoss_ft.reporting.files import write_json
from gptoss_ft.reporting.merge_report import merging
from gptoss_ft.runtime import Device, release_cached_memory

# In a folder that is kept: the fingerprint of what its weights were made of.
MADE_OF = "made_of.json"


@contextmanager
def stock_weights(
    chosen: BaseChoice, model: ModelSection, device: Device, temporary: Path, keep: Path | None, console: Console
) -> Iterator[Path]:
    """The folder of a stock model with the weights of `chosen`, in the dtype that a run with `model` computes in.

    A 16-bit checkpoint is it as it lies. One that is held in 4 bits, or packed, is dequantized into `keep`, where that
    was not done before, or below `temporary`, which is removed afterwards. Raises `JobError`, also where there is too
    little space for it, or something else in `keep`.
    """
    if chosen.quantized_as is None and "quantization_config" not in read_config(chosen.folder):
        yield chosen.folder
        return
    shutil.rmtree(temporary, ignore_errors=True)
    made = keep or temporary / "base"
    mark = _mark(chosen, model, device)
    try:
        if keep is not None and _holds(keep, mark):
            console.print(f"  the weights of {chosen.words}, are in {keep} already")
        else:
            _dequantize(chosen, model, device, made, "--keep-base" if keep else "--output", mark, console)
        yield made
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mark(chosen: BaseChoice, model: ModelSection, device: Device) -> str:
    options = {
        "dtype": str(compute_dtype(model, device)),
        "quantized_as": str(chosen.quantized_as),
        "device": device.kind,
    }
    files = [chosen.folder / "config.json", *sorted(chosen.folder.glob("*.safetensors"))]
    return fingerprint([], files, options)


def _holds(keep: Path, mark: str) -> bool:
    """Whether `keep` holds what is to be made; False where it is empty or not there, `OutputError` for other things."""
    if not keep.exists() or (keep.is_dir() and not any(keep.iterdir())):
        return False
    try:
        same = json.loads((keep / MADE_OF).read_text(encoding="utf-8"))["fingerprint"] == mark
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if not same:
        raise OutputError(
            f"{keep} is there already, and was not made of the weights that this adapter was trained on",
            "Remove it, or name another folder with --keep-base.",
        )
    return True


def _dequantize(
    chosen: BaseChoice, model: ModelSection, device: Device, made: Path, option: str, mark: str, console: Console
) -> None:
    import torch

    from gptoss_ft.merging.merge import merge

    console.print(f"  the weights of {chosen.words}, go to {made} as a stock model")
    with merging(console) as progress:
        merge(
            None,
            chosen.folder,
            made,
            dtype=compute_dtype(model, device),
            device=torch.device(device.kind),
            quantized_as=chosen.quantized_as,
            progress=progress,
            finish=lambda folder: write_json(folder / MADE_OF, {"fingerprint": mark}),
            option=option,
        )
    # The processes that compare the models need it.
    release_cached_memory(device)
