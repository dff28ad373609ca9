"""A run's folder is not moved away under the commands that work in it."""

import errno
import fcntl
from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.in_use import in_use, not_in_use
from gptoss_ft.reporting.only_writer import only_writer
from gptoss_ft.reporting.output_folder import Start, claimed_folder
from gptoss_ft.subject import Subject, find_subject

JOB = JobConfig.model_validate({"training": {"output_dir": "run"}})


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/run/final_model")
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    Path("outputs/run/manifest.json").write_text('{"status": "finished"}')
    write_job_file(JOB, folder.parent)
    return find_subject("outputs/run/final_model", None, [])


def test_restart_waits_for_the_commands_in_the_folder(subject: Subject) -> None:
    # As many as like.
    with subject.in_use():
        with subject.in_use():
            pass
        with (
            pytest.raises(OutputError, match="another command is using outputs/run") as raised,
            claimed_folder(JOB, Start(restart=True)),
        ):
            pass
        assert raised.value.key == "training.output_dir"
        assert Path("outputs/run/final_model").is_dir()
    with claimed_folder(JOB, Start(restart=True)) as output:
        assert output.resume_from is None
    assert Path("outputs/run.old-1/final_model").is_dir()


def test_it_is_the_same_folder_by_whatever_path(subject: Subject, tmp_path: Path) -> None:
    Path("there").symlink_to("outputs/run")
    moved = pytest.raises(OutputError, match="or what is in it, is being moved aside by train --restart or --from")
    with not_in_use(tmp_path / "there"), moved, subject.in_use():
        pass


def test_where_nothing_can_be_written_nothing_is_in_the_way() -> None:
    with in_use(Path("/proc/self")):
        pass


def test_where_no_file_can_be_locked_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for locked in (in_use, not_in_use):
        with pytest.raises(OutputError) as raised, locked(tmp_path / "run"):
            pass
        assert raised.value.message == f"{tmp_path} lets no file be locked: No locks available"


def test_a_place_where_no_file_can_be_made_is_not_said_to_be_anothers() -> None:
    refused = pytest.raises(OutputError, match="/proc/merged cannot be written: Permission denied")
    with refused, only_writer(Path("/proc/merged")):
        pass
