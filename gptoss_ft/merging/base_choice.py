"""Which weights an adapter is merged into: those that it was trained on, or the published ones that they come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import snapshot_download
from rich.console import Console

from gptoss_ft.config import ModelSection
from gptoss_ft.errors import SettingError
from gptoss_ft.merging.stock_model import read_config
from gptoss_ft.model.repository import MODEL_FILES, find_repository
from gptoss_ft.reporting.manifest import read_manifest
from gptoss_ft.runtime import Device

if TYPE_CHECKING:  # it takes seconds
    import torch

Base = Literal["trained", "original"]


@dataclass(frozen=True)
class BaseChoice:
    """The checkpoint in `folder`: `section` loads it as it is merged into. `quantized_as` is the dtype that the run
    computed in if it quantized this checkpoint while it loaded it, else None; `words` says what it is."""

    folder: Path
    section: ModelSection
    quantized_as: "torch.dtype | None"
    words: str


def compute_dtype(model: ModelSection, device: Device) -> "torch.dtype":
    """What a run with this section computes in on `device`."""
    import torch

    usual = torch.bfloat16 if device.bf16 else torch.float16
    return usual if model.dtype == "auto" else getattr(torch, model.dtype)


def choose_base(model: ModelSection, adapter: Path, base: Base, device: Device, console: Console) -> BaseChoice:
    """The weights for the adapter in `adapter`, trained with the section `model`; downloaded where they are not there.
    Raises `JobError`, also where the published weights of a quantized folder are not known."""
    if base == "original":
        return _original(model, console)
    trained = _manifest_of(adapter)
    repository = find_repository(model)
    section = model.model_copy(update={"adapter": None})
    commit = None
    if trained.get("repository") == repository:
        # What the name stands for may have changed since.
        commit = model.revision or trained.get("commit")
        if repository == model.name:  # a revision is of the repository that is named
            section = section.model_copy(update={"revision": commit})
    folder = _fetched(section.model_copy(update={"revision": commit or model.revision}), repository, console)
    stored = _quantization(folder)
    recorded = trained.get("repository", repository)
    replaced = f"in the place of {recorded}, " if recorded != repository else ""
    words = f"{repository}, {replaced}which it was trained on"
    if stored is not None:
        return BaseChoice(folder, section, None, f"{words}, dequantized from {stored}")
    # A checkpoint whose name says it is 16-bit is not quantized from the hub (Unsloth 2026.10.9, models/loader.py).
    wanted = model.load_in_4bit and (Path(repository).is_dir() or not repository.lower().endswith("-bf16"))
    if trained.get("in_4bit", wanted):
        words += ", quantized and dequantized as the run did"
        return BaseChoice(folder, section, compute_dtype(model, device), words)
    return BaseChoice(folder, section, None, words)


def _original(model: ModelSection, console: Console) -> BaseChoice:
    section = model.model_copy(update={"load_in_4bit": False, "revision": None, "adapter": None})
    repository = find_repository(section)
    if repository == model.name:
        section = section.model_copy(update={"revision": model.revision})
    folder = _fetched(section, repository, console)
    stored = _quantization(folder)
    if stored not in (None, "mxfp4"):
        raise SettingError(
            f"{repository} is quantized itself ({stored}), and of which published weights is not known",
            "Merge into the weights that were trained on: --base trained.",
            key="model.name",
        )
    packed = ", dequantized from mxfp4" if stored else ""
    return BaseChoice(folder, section, None, f"{repository}, as it was published{packed}")


def _quantization(folder: Path) -> str | None:
    """How config.json says that the weights are quantized, None for 16 or 32 bits."""
    quantization = read_config(folder).get("quantization_config")
    return str(quantization.get("quant_method")) if quantization else None


def _manifest_of(adapter: Path) -> dict[str, Any]:
    """What the run that the adapter lies in says of its model."""
    manifest = read_manifest(adapter.absolute().parent) or {}
    found: dict[str, Any] = manifest.get("model") or {}
    return found


def _fetched(section: ModelSection, repository: str, console: Console) -> Path:
    """The folder of `repository` at the section's revision."""
    from gptoss_ft.model.loading import fetch

    fetch(section, repository, console)
    if Path(repository).is_dir():
        return Path(repository)
    return Path(snapshot_download(repository, revision=section.revision, local_files_only=True, **MODEL_FILES))
