"""The plan of a run: for the GPU that is here, and the samples that are prepared."""

from dataclasses import dataclass

from gptoss_ft.config import JobConfig
from gptoss_ft.data.summary import Summary
from gptoss_ft.errors import SettingError
from gptoss_ft.model.attention import can_pack
from gptoss_ft.planning.choice import as_configured, effective_batch, make_plan
from gptoss_ft.planning.gpus import GpuMemory
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.planning.plan import Plan
from gptoss_ft.planning.shapes import read_shapes
from gptoss_ft.runtime import Device


@dataclass(frozen=True)
class RunPlan:
    plan: Plan
    lengths: Lengths
    gpu: GpuMemory


def plan_run(job: JobConfig, repository: str, summary: Summary, device: Device) -> RunPlan:
    """The plan for `device`; on a CPU, and for a model of an unknown kind, the step as `training` says. `SettingError`
    for `training.packing` where documents of one row would see each other."""
    lengths = Lengths.counted(summary.train.lengths, effective_batch(job))
    gpu = GpuMemory(device.name, device.total_gib)
    shapes = read_shapes(job, repository)
    packs = shapes is not None and can_pack(shapes.kind)
    if job.training.packing and not packs:
        raise SettingError(
            "samples cannot be packed: attention of this kind of model is not known to keep them apart",
            "Set training.packing: false.",
            key="training.packing",
        )
    if device.kind == "cpu":
        return RunPlan(as_configured(job, None, lengths, gpu, "a plan is for a GPU"), lengths, gpu)
    return RunPlan(make_plan(job, shapes, lengths, gpu, packs), lengths, gpu)
