"""job.yaml reads back as the job that it was written from."""

from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig, find_job_file, load_job_config, write_job_file

JOBS = (
    {},
    {"training": {"num_train_epochs": 2.0}, "dataset": {"prompt_date": None, "rename_columns": {"a": "yes"}}},
    {"dataset": [{"path": "on", "weight": 0.5}, {"path": "1.0", "weight": 1.0, "split": "train[:10%]"}]},
    {"hub": {"tags": ["한국어", "null"], "repo_id": "a/b"}, "evaluation": {"prompts": ["1, 1, 2: what's next?"]}},
)


@pytest.mark.parametrize("content", JOBS)
def test_a_job_reads_back(content: dict[str, object], tmp_path: Path) -> None:
    job = JobConfig.model_validate(content)
    write_job_file(job, tmp_path)
    assert load_job_config(tmp_path / "job.yaml").job == job


def test_it_is_found_beside_or_above(tmp_path: Path) -> None:
    inside = tmp_path / "run" / "checkpoint-2"
    inside.mkdir(parents=True)
    assert find_job_file(inside) is None
    write_job_file(JobConfig(), inside.parent)
    assert find_job_file(inside) == inside.parent / "job.yaml"
    write_job_file(JobConfig(), inside)
    assert find_job_file(inside) == inside / "job.yaml"
