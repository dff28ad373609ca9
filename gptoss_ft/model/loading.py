"""The base model: which repository is really loaded, and refusal when it is not all there.

Unsloth and transformers are imported inside functions: `runtime.import_unsloth` must have run before.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from rich.console import Console
from transformers import AutoConfig, modeling_utils

from gptoss_ft import tiny
from gptoss_ft.config import ModelSection, TrainingSection
from gptoss_ft.errors import DataError, MachineError, SettingError
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import Device, cache_folder

TOO_SMALL = "Use model.load_in_4bit: true, or a GPU with more memory."


def find_repository(config: ModelSection) -> str:
    """The hub id or folder that is really loaded for `model.name`, known to take samples of `max_seq_length`.

    Unsloth maps the names of published models to its own uploads of them: quantized beforehand for 4-bit, or
    without a gate for 16-bit. `SettingError` when a pinned revision would be one of the other repository.
    """
    repository = _resolve(config)
    _check_length(config, repository)
    return repository


def _resolve(config: ModelSection) -> str:
    from unsloth.models.loader_utils import BAD_MAPPINGS
    from unsloth.models.mapper import FLOAT_TO_INT_MAPPER, INT_TO_FLOAT_MAPPER, MAP_TO_UNSLOTH_16bit

    if tiny.is_tiny(config.name):
        return str(tiny.materialize(config.name, cache_folder()))
    if config.name.startswith("~"):
        return os.path.expanduser(config.name)
    name = config.name.lower()
    if config.load_in_4bit:
        # A name that says it is quantized is taken at its word.
        mapped = None if name.endswith("-bnb-4bit") else FLOAT_TO_INT_MAPPER.get(name)
    else:
        mapped = INT_TO_FLOAT_MAPPER.get(name) or MAP_TO_UNSLOTH_16bit.get(name)
    mapped = BAD_MAPPINGS.get((mapped or name).lower(), mapped)
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


def _check_length(config: ModelSection, repository: str) -> None:
    """The model's own limit stands in its config.json."""
    with explained(repository, "model.name"):
        try:
            model_config = AutoConfig.from_pretrained(repository, revision=config.revision, trust_remote_code=False)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
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


def fetch(config: ModelSection, repository: str, console: Console) -> None:
    """Download the model's files into the hub's cache where they are not there yet, with a progress bar."""
    if Path(repository).is_dir():
        return
    console.print(f"  fetching {repository} (what the cache holds already is not downloaded again)")
    # The bar is for the person before the screen, who waits for 12 GB.
    with explained(repository, "model.name"), redirect_stderr(sys.__stderr__):
        # Folders of a repository hold copies in other formats (gpt-oss: original/ and metal/, 27 GB).
        snapshot_download(
            repository,
            revision=config.revision,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"],
            ignore_patterns=["*/*"],
        )


def load_base(config: ModelSection, repository: str, device: Device, training: TrainingSection) -> Any:
    """Load the base model through Unsloth. `MachineError` when it does not fit, `DataError` when a weight lacks.

    The type is Unsloth's patched `PreTrainedModel`, which has no stubs.
    """
    import torch
    from unsloth import FastLanguageModel

    _refuse_impossible(config, device)
    with explained(repository, "model.name"), _load_reports() as reports:
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


def _refuse_impossible(config: ModelSection, device: Device) -> None:
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
