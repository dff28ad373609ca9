"""The adapter as any program of the field loads it: written, and proven to fit the stock model."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from gptoss_ft.config import ModelSection
from gptoss_ft.errors import ExportError
from gptoss_ft.model.adapter_config import portable_config
from gptoss_ft.model.adapter_layout import to_portable
from gptoss_ft.model.portable_check import CONFIG, WEIGHTS, check_portable
from gptoss_ft.model.repository import config_folder
from gptoss_ft.reporting.files import write_json


def write_portable(model: Any, config: ModelSection, folder: Path) -> None:
    """Write the adapter on `model` into `folder`, as stock transformers and PEFT load it on the stock model and in the
    dtype that it was trained in. `ExportError`, and no file left, when it is not such an adapter."""
    from peft import get_peft_model_state_dict

    # Copies: weights that are tied share memory, which safetensors refuses.
    trained = {name: tensor.to("cpu", copy=True) for name, tensor in get_peft_model_state_dict(model).items()}
    weights = {name: tensor.contiguous() for name, tensor in to_portable(trained).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, portable_config(model, config))
    try:
        check_portable(folder, config_folder(config))
    except ExportError:
        for name in (WEIGHTS, CONFIG):
            (folder / name).unlink()
        raise
