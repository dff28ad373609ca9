"""The very weights that a job trained on, as a stock 16-bit model in a folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gptoss_ft.config import ModelSection
from gptoss_ft.merging.base_choice import BaseChoice, compute_dtype
from gptoss_ft.merging.stock_model import read_config
from gptoss_ft.reporting.merge_report import merging
from gptoss_ft.runtime import Device, release_cached_memory


@contextmanager
def stock_weights(
    chosen: BaseChoice, model: ModelSection, device: Device, temporary: Path, keep: Path | None, console: Console
) -> Iterator[Path]:
    """The folder of a stock model with the weights of `chosen`, in the dtype that a run with `model` computes in.

    A 16-bit checkpoint is it as it lies. One that is held in 4 bits, or packed, is dequantized into `keep`, or below
    `temporary`, which is removed afterwards. Raises `JobError`, also where there is too little space for it.
    """
    if chosen.quantized_as is None and "quantization_config" not in read_config(chosen.folder):
        yield chosen.folder
        return
    shutil.rmtree(temporary, ignore_errors=True)
    made = keep or temporary / "base"
    try:
        _dequantize(chosen, model, device, made, console)
        yield made
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _dequantize(chosen: BaseChoice, model: ModelSection, device: Device, made: Path, console: Console) -> None:
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
        )
    # The processes that compare the models need it.
    release_cached_memory(device)
