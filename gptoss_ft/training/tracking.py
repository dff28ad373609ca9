"""Where a run is followed: TensorBoard files in the output folder, and Weights & Biases with a key."""

from pathlib import PurePath

from gptoss_ft.config import JobConfig
from gptoss_ft.runtime import has_wandb_key, user_name


def trackers(job: JobConfig) -> list[str]:
    """The trackers that are on: wandb with WANDB_API_KEY, not without. An empty `report_to` stays empty."""
    wanted: list[str] = [name for name in job.tracking.report_to if name != "wandb"]
    if job.tracking.report_to and has_wandb_key():
        wanted.append("wandb")
    return wanted


def run_name(job: JobConfig) -> str:
    """`tracking.run_name`, else model, data set and user: `gpt-oss-20b-Multilingual-Thinking-ada`."""
    if job.tracking.run_name:
        return job.tracking.run_name
    return "-".join((PurePath(job.model.name).name, PurePath(job.dataset.path).stem, user_name()))
