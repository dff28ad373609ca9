"""The plan of a run: for the GPU that is here, and the samples that are prepared."""

from dataclasses import dataclass
from typing import Literal

from gptoss_ft.config import JobConfig
from gptoss_ft.data.summary import Summary
from gptoss_ft.errors import SettingError
from gptoss_ft.planning.choice import as_configured, effective_batch, make_plan
from gptoss_ft.planning.gpus import CONTEXT_GIB, GpuMemory, computes_groups
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.planning.plan import Plan
from gptoss_ft.planning.shapes import PACKABLE, ModelShapes, read_shapes
from gptoss_ft.runtime import Device, free_gpu_gib


@dataclass(frozen=True)
class RunPlan:
    plan: Plan
    lengths: Lengths
    gpu: GpuMemory

    @property
    def offload(self) -> bool | Literal["auto"]:
        """Whether the embedding stays in the host's memory; without a plan, where it must, or as Unsloth sees fit."""
        return self.plan.offload_embedding or ("auto" if self.plan.rows == "as configured" else False)


def plan_run(job: JobConfig, repository: str, summary: Summary, device: Device) -> RunPlan:
    """The plan for `device`; on a CPU, and for a model of an unknown kind, the step as `training` says. `SettingError`
    for `training.packing` where documents of one row would see each other."""
    lengths = Lengths.counted(summary.train.lengths, effective_batch(job))
    # What another process holds is not to be had.
    usable = min(device.total_gib, free_gpu_gib(device) + CONTEXT_GIB)
    gpu = GpuMemory(device.name, usable, device.bf16, computes_groups(device.capability))
    shapes = read_shapes(job, repository)
    packs = refuse_unless_packed(job, shapes)
    if device.kind == "cpu":
        return RunPlan(as_configured(job, None, lengths, gpu, "a plan is for a GPU"), lengths, gpu)
    return RunPlan(make_plan(job, shapes, lengths, gpu, packs), lengths, gpu)


def refuse_unless_packed(job: JobConfig, shapes: ModelShapes | None) -> bool:
    """Whether samples can lie in one row without seeing each other. `SettingError` where they cannot, and must."""
    packs = shapes is not None and shapes.kind in PACKABLE
    if job.training.packing and not packs:
        raise cannot_pack()
    return packs


def cannot_pack() -> SettingError:
    return SettingError(
        "samples cannot be packed: attention of this kind of model is not known to keep them apart",
        "Set training.packing: false.",
        key="training.packing",
    )
