"""job.yaml: the resolved job, written beside what it made, so that a model can be used without looking for its config.

It is a config like any other: `--config outputs/NAME/job.yaml` runs the job again.
"""

from pathlib import Path

from ruamel.yaml import YAML

from gptoss_ft.config.schema import JobConfig

JOB_FILE = "job.yaml"


def write_job_file(job: JobConfig, folder: Path) -> None:
    """Write `folder`/job.yaml with every key of the job."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None, read as a bool
    with (folder / JOB_FILE).open("w", encoding="utf-8") as stream:
        yaml.dump(job.model_dump(mode="json"), stream)


def find_job_file(folder: Path) -> Path | None:
    """The job.yaml in `folder` or, for a checkpoint, in the folder that it lies in; None where there is none."""
    return next((path for path in (folder / JOB_FILE, folder.parent / JOB_FILE) if path.is_file()), None)
