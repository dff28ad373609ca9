"""Where a run is followed: TensorBoard files in the output folder, and Weights & Biases with a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import HubError
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
    return "-".join((PurePath(job.model.name).name, PurePath(job.datasets[0].path).stem, user_name()))


@contextmanager
def refused_by_tracker() -> Iterator[None]:
    """Turn what Weights & Biases raises (a wrong key, no network) into a `HubError`."""
    try:
        yield
    except Exception as error:
        # By the module's name: wandb is imported only where it is used.
        if not type(error).__module__.startswith("wandb"):
            raise
        raise HubError(
            f"Weights & Biases refuses the run: {' '.join(str(error).split())}",
            "Check WANDB_API_KEY and the network, set WANDB_MODE=offline, or unset WANDB_API_KEY.",
            "tracking.report_to",
        ) from None
