"""The base model: loaded through Unsloth, and refused when it is not all there.

Unsloth and transformers are imported inside functions: `runtime.import_unsloth` must have run before.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from transformers import modeling_utils

from gptoss_ft.config import ModelSection, TrainingSection
from gptoss_ft.data.tokenizer import parsed_once
from gptoss_ft.errors import DataError, MachineError, SettingError
from gptoss_ft.hub_client import fetch_snapshot
from gptoss_ft.hub_errors import explained
from gptoss_ft.model.repository import MODEL_FILES, require_safetensors
from gptoss_ft.runtime import Device, hold_mxfp4_packed, offload_exactly

Offload = bool | Literal["auto"]

TOO_SMALL = "Use model.load_in_4bit: true, or a GPU with more memory."


def fetch(config: ModelSection, repository: str, console: Console) -> None:
    """Download the model's files into the hub's cache where they are not there yet, with a progress bar. `DataError`
    where there, or in the folder `repository`, are no weights as safetensors."""
    if Path(repository).is_dir():
        require_safetensors(repository, [path.name for path in Path(repository).iterdir()])
        return
    console.print(f"  fetching {repository} (what the cache holds already is not downloaded again)")
    # The bar is for the person before the screen, who waits for 12 GB.
    with explained(repository, "model.name"), redirect_stderr(sys.__stderr__):
        folder = fetch_snapshot(repository, revision=config.revision, **MODEL_FILES)
    require_safetensors(repository, [path.name for path in folder.iterdir()])


def load_base(
    config: ModelSection,
    repository: str,
    device: Device,
    training: TrainingSection,
    offload_embedding: Offload = "auto",
) -> Any:
    """Load the base model through Unsloth. `MachineError` when it does not fit, `DataError` when a weight lacks.

    `offload_embedding`: the embedding's weights stay in the host's memory; "auto": as Unsloth sees fit.

    The type is Unsloth's patched `PreTrainedModel`, which has no stubs.
    """
    import torch
    from unsloth import FastLanguageModel

    refuse_impossible(config, device)
    hold_mxfp4_packed(config.load_in_4bit)
    if config.dtype == "float32":
        offload_exactly()
    # It reads the tokenizer, too.
    with explained(repository, "model.name"), parsed_once(), _load_reports() as reports:
        try:
            model, _ = FastLanguageModel.from_pretrained(
                model_name=repository,
                # The name is resolved above; left to itself Unsloth also asks its repository for newer names.
                use_exact_model_name=True,
                revision=config.revision,
                max_seq_length=config.max_seq_length,
                dtype=_dtype(config, device),
                load_in_4bit=config.load_in_4bit,
                load_in_16bit=not config.load_in_4bit,
                use_gradient_checkpointing=training.gradient_checkpointing,
                random_state=training.seed,
                offload_embedding=offload_embedding,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"{device.name} has too little memory for {repository}: {str(error).splitlines()[0]}",
                TOO_SMALL,
                key="model.name",
            ) from None
        except (NotImplementedError, ValueError) as error:
            if "dispatched on the CPU" in str(error):
                raise MachineError(
                    f"{device.name} has too little memory for {repository}", TOO_SMALL, "model.name"
                ) from None
            if isinstance(error, NotImplementedError):
                reason = " ".join(str(error).split())
                raise SettingError(f"Unsloth does not load this: {reason}", key="model.name") from None
            raise
        except RuntimeError:
            # transformers raises for a weight of another shape, with words that name neither it nor the file.
            _refuse_missing(repository, reports)
            raise
    _refuse_missing(repository, reports)
    return model


def refuse_impossible(config: ModelSection, device: Device) -> None:
    """Raise `SettingError` for a setting that no model can be loaded with on `device`."""
    if device.kind == "cpu" and config.load_in_4bit:
        raise SettingError(
            "4-bit weights need an NVIDIA GPU, and the job runs on the CPU",
            "Set model.load_in_4bit: false, or run on a GPU.",
            key="model.load_in_4bit",
        )
    if device.kind == "cuda" and config.dtype == "bfloat16" and not device.bf16:
        raise SettingError(
            f"{device.name} does not compute in bfloat16", "Set model.dtype: auto, or float16.", key="model.dtype"
        )


def _dtype(config: ModelSection, device: Device) -> Any:
    import torch

    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    return torch.bfloat16 if device.bf16 else torch.float16


@contextmanager
def _load_reports() -> Iterator[list[Any]]:
    """Collect what transformers would only print: the `LoadStateDictInfo` of every model loaded meanwhile.

    transformers 5.17.0 hands it to `log_state_dict_report`, and `output_loading_info` cannot be asked for through
    Unsloth. tests/model/test_loading.py fails when this no longer sees it.
    """
    reports: list[Any] = []
    original = modeling_utils.log_state_dict_report

    def record(*args: Any, **kwargs: Any) -> None:
        reports.append(kwargs["loading_info"])
        original(*args, **kwargs)

    modeling_utils.log_state_dict_report = record
    try:
        yield reports
    finally:
        modeling_utils.log_state_dict_report = original


def _refuse_missing(repository: str, reports: list[Any]) -> None:
    missing = sorted({name for report in reports for name in report.missing_and_mismatched()})
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"{repository} lacks {len(missing)} weights of the model, which would start at random: {shown}",
            "Download it again, or name a checkpoint that is whole and of this layout.",
            key="model.name",
        )
