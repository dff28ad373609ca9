"""build.sh: what it asks of docker, and how failures end."""

import shutil
import subprocess
from pathlib import Path

import pytest
from script_machine import PROJECT, Machine


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with one commit, in a folder with a space in its name."""
    folder = tmp_path / "my project"
    (folder / "gptoss_ft").mkdir(parents=True)
    for path in ("build.sh", "scripts/common.sh", "gptoss_ft/__init__.py", "Dockerfile"):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / path, folder / path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", folder, *command], check=True)
    return folder


def build_arguments(machine: Machine) -> dict[str, str]:
    words = machine.noted("build")
    pairs = (words[i + 1].partition("=") for i, word in enumerate(words) if word == "--build-arg")
    return {name: value for name, _, value in pairs}


def test_the_image_gets_its_name_commit_and_version(tmp_path: Path, checkout: Path) -> None:
    machine = Machine(tmp_path / "machine", checkout)
    answer = machine.run("build.sh")
    assert answer.returncode == 0, answer.stderr
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    assert build_arguments(machine)["COMMIT"] == commit
    assert build_arguments(machine)["VERSION"]
    assert machine.noted("build")[-1] == str(checkout)
    assert "built gptoss_ft:latest" in answer.stderr
    assert "sha256:feed, 6.5 GB" in answer.stderr
    assert answer.stderr.splitlines()[-1].endswith("next: bash train.sh")

    (checkout / "new.py").write_text("")
    machine.run("build.sh")
    assert build_arguments(machine)["COMMIT"] == f"{commit}-dirty"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    machine = Machine(tmp_path / "machine", checkout)
    assert machine.run("build.sh").returncode == 0
    assert build_arguments(machine)["COMMIT"] == ""


def test_name_base_and_further_arguments_come_from_the_environment(machine: Machine) -> None:
    answer = machine.run(
        "build.sh", IMAGE="mine:1", BASE_IMAGE="local/base:1", DOCKER_BUILD_ARGS="--no-cache --label 'a=b c'"
    )
    words = machine.noted("build")
    assert words[words.index("--tag") + 1] == "mine:1"
    assert build_arguments(machine)["BASE_IMAGE"] == "local/base:1"
    assert words[-4:-1] == ["--no-cache", "--label", "a=b c"]
    assert answer.stderr.splitlines()[-1].endswith("next: IMAGE=mine:1 bash train.sh")


@pytest.mark.parametrize(("docker", "ours"), [(1, 4), (125, 4), (127, 4), (130, 130)])
def test_a_failed_build_is_the_machines(machine: Machine, docker: int, ours: int) -> None:
    machine.answer("build.code", docker)
    assert machine.run("build.sh").returncode == ours


def test_no_docker_no_engine_and_wrong_use(machine: Machine) -> None:
    answer = machine.run("build.sh", "--no-cache")
    assert (answer.returncode, "DOCKER_BUILD_ARGS" in answer.stderr) == (2, True)
    machine.answer("engine", "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
    answer = machine.run("build.sh")
    assert (answer.returncode, "engine does not answer" in answer.stderr) == (4, True)
    (machine.path / "docker").unlink()
    answer = machine.run("build.sh")
    assert (answer.returncode, "docker is not on PATH" in answer.stderr) == (4, True)


def test_help_needs_nothing(machine: Machine) -> None:
    (machine.path / "docker").unlink()
    answer = machine.run("build.sh", "--help")
    assert answer.returncode == 0
    assert "BASE_IMAGE" in answer.stdout
