"""final_model: the adapter as any program of the field loads it, the tokenizer and the model's own chat template."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig, ModelSection, write_job_file
from gptoss_ft.errors import ExportError
from gptoss_ft.model.adapter_config import portable_config
from gptoss_ft.model.adapter_layout import to_portable
from gptoss_ft.model.repository import config_folder
from gptoss_ft.publishing.portable_check import CONFIG, WEIGHTS, check_portable
from gptoss_ft.reporting.files import follow_umask, write_json
from gptoss_ft.reporting.output_folder import FINAL_MODEL


def save_final_model(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig, folder: Path) -> Path:
    """Write `folder`/final_model. It has its name only once it is whole, and known to fit the stock model."""
    final, partial = folder / FINAL_MODEL, folder / f".{FINAL_MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_portable(model, job.model, partial)
    tokenizer.save_pretrained(str(partial))
    write_job_file(job, partial)
    follow_umask(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


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
