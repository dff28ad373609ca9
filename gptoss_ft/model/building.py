"""The model that is trained: the base model with its adapters on."""

from typing import Any

from rich.console import Console

from gptoss_ft.config import JobConfig
from gptoss_ft.model.loading import Offload, fetch, load_base
from gptoss_ft.model.lora import attach, check_existing, load_existing
from gptoss_ft.model.nf4_experts import fuse_experts
from gptoss_ft.runtime import Device, no_garbage_collection


def build_model(
    job: JobConfig, repository: str, device: Device, console: Console, offload_embedding: Offload = "auto"
) -> Any:
    """Fetch and load `repository`, put adapters on it, and load `model.adapter` into them where one is named."""
    if job.model.adapter is not None:
        check_existing(job.model.adapter, job.lora)
    fetch(job.model, repository, console)
    with no_garbage_collection():
        base = load_base(job.model, repository, device, job.training, offload_embedding)
        model = attach(base, job.lora, device, job.training)
    if job.performance.fused_experts:
        fuse_experts(model)
    if job.model.adapter is not None:
        load_existing(model, job.model.adapter)
    return model
