"""The model that is trained: the base model with its adapters on."""

from functools import partial
from typing import Any

from rich.console import Console

from gptoss_ft.config import JobConfig
from gptoss_ft.model.loading import Offload, fetch, load_base
from gptoss_ft.model.lora import attach, check_existing, load_existing
from gptoss_ft.model.nf4_experts import fuse_experts
from gptoss_ft.planning.experts import can_fuse
from gptoss_ft.planning.gpus import computes_groups
from gptoss_ft.reporting import narration
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
    if can_fuse(job) and computes_groups(device.capability):
        fuse_experts(model, partial(narration.show_unfused, console))
    if job.model.adapter is not None:
        load_existing(model, job.model.adapter)
    return model
