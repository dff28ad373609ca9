"""The `plan` command: what a run of this config would do with a GPU's memory, without weights, GPU and Unsloth."""

from gptoss_ft.config import LoadedConfig
from gptoss_ft.model.repository import resolve
from gptoss_ft.planning.choice import make_plan
from gptoss_ft.planning.gpus import gpu_here, wanted_gpu
from gptoss_ft.planning.known_lengths import known_lengths
from gptoss_ft.planning.run_plan import refuse_unless_packed
from gptoss_ft.planning.shapes import read_shapes
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.plan_report import show_memory, show_plan, show_subject
from gptoss_ft.runtime import prepare_environment


def plan_job(loaded: LoadedConfig, gpu: str | None) -> bool:
    """Print the plan for `gpu` (a size or a name), or for the GPU of this machine; False where the job does not fit.
    Raises `JobError`."""
    job, console = loaded.job, make_console()
    prepare_environment()
    device = gpu_here() if gpu is None else wanted_gpu(gpu)
    repository = resolve(job.model)
    shapes = read_shapes(job, repository)
    known = known_lengths(job, console)
    packs = refuse_unless_packed(job, shapes)
    plan = make_plan(job, shapes, known.lengths, device, packs)
    show_subject(console, job, repository, shapes, known)
    show_memory(console, plan, device)
    show_plan(console, plan, known.lengths)
    return plan.fits
