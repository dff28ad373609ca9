"""train.sh --local and test.sh: which Python is taken, and when .venv is made, kept and made again.

Real virtual environments, but of an empty lock: making one takes seconds and no network.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from script_machine import PROJECT, Machine

EMPTY_LOCK = "# nothing\n"
# Prints what the job sees; `fail` is a job that ends with 3.
TRAIN = """
import json, os, sys
names = ("GPTOSS_FT_CACHE", "GPTOSS_FT_OUTPUT_ROOT", "PYTHONDONTWRITEBYTECODE")
print(json.dumps([sys.argv[1:], os.getcwd(), [os.environ[name] for name in names]]))
sys.exit(3 if "fail" in sys.argv else 0)
"""
# A Python whose `-m venv` makes a .venv that "works"; what happened to it is counted in $FAKE/made.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
    *version_info*) echo 3.12 ;;
    *ensurepip*) exit 0 ;;
    "-m venv --clear "*)
        echo made >>"$FAKE/made"
        rm -rf "$4"; mkdir -p "$4/bin"
        cp "$0" "$4/bin/python" ;;
    "-m pip install "*)
        echo "${@: -1}" >>"$FAKE/installed"
        if [[ -f $FAKE/pip.slow ]]; then sleep 1; fi
        if [[ -f $FAKE/pip.kill ]]; then kill -KILL $PPID; fi
        if [[ -f $FAKE/pip.code ]]; then exit "$(cat "$FAKE/pip.code")"; fi ;;
    "-m pytest"*) printf '%s\\n' "$PWD" "$@" >"$FAKE/pytest" ;;
    *train.py*) printf '%s\\n' "$@" >"$FAKE/train" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With a project of its own (its folder's name has a space) and a fast, false python3.12."""
    project = tmp_path / "my project"
    (project / "scripts").mkdir(parents=True)
    for script in ("train.sh", "test.sh", "scripts/common.sh"):
        shutil.copy(PROJECT / script, project / script)
    (project / "requirements.txt").write_text(EMPTY_LOCK)
    (project / "requirements-dev.txt").write_text("# dev\n")
    (project / "train.py").write_text(TRAIN)
    machine = Machine(tmp_path / "machine", project)
    machine.program("python3.12", FAKE_PYTHON)
    machine.link("cp")
    return machine


def test_the_environment_is_made_once(machine: Machine) -> None:
    for _ in range(2):
        assert machine.run("train.sh", "--local").returncode == 0
    assert machine.noted("made") == ["made"]
    assert machine.noted("installed") == [str(machine.project / "requirements.txt")]
    assert machine.noted("train") == [
        str(machine.project / "train.py"), "--config", str(machine.project / "config.yaml")
    ]  # fmt: skip


def test_a_new_lock_makes_it_again(machine: Machine) -> None:
    machine.run("train.sh", "--local")
    (machine.project / "requirements.txt").write_text(EMPTY_LOCK + "# changed\n")
    machine.run("train.sh", "--local")
    assert len(machine.noted("made")) == 2


@pytest.mark.parametrize("ending", ["pip.code", "pip.kill"])
def test_a_set_up_that_was_cut_off_is_not_taken_as_done(machine: Machine, ending: str) -> None:
    machine.answer(ending, 1)
    answer = machine.run("train.sh", "--local")
    assert answer.returncode == (4 if ending == "pip.code" else -9)
    (machine.fake / ending).unlink()
    assert machine.run("train.sh", "--local").returncode == 0
    assert len(machine.noted("made")) == 2


def test_two_at_once_make_one(machine: Machine, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    machine.answer("pip.slow")
    processes = [start("train.sh", "--local") for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert machine.noted("made") == ["made"]


def test_an_environment_whose_python_is_gone_is_made_again(machine: Machine) -> None:
    machine.run("train.sh", "--local")
    (machine.project / ".venv/bin/python").unlink()
    assert machine.run("train.sh", "--local").returncode == 0
    assert len(machine.noted("made")) == 2


def test_the_tests_add_their_tools_once(machine: Machine) -> None:
    machine.run("train.sh", "--local")
    for _ in range(2):
        machine.run("test.sh", "tests/x y.py", "-k", "a or b")
    locks = [Path(lock).name for lock in machine.noted("installed")]
    assert locks == ["requirements.txt", "requirements-dev.txt"]
    assert machine.noted("pytest") == [str(machine.project), "-m", "pytest", "tests/x y.py", "-k", "a or b"]


def test_a_new_lock_also_renews_the_tools_of_the_tests(machine: Machine) -> None:
    machine.run("test.sh")
    (machine.project / "requirements.txt").write_text("# changed\n")
    machine.run("test.sh")
    assert len(machine.noted("installed")) == 4


def test_a_python_that_only_pretends_is_passed_over(machine: Machine) -> None:
    """As a pyenv shim of a version that is installed but not chosen."""
    machine.program("python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    machine.program("python3", FAKE_PYTHON)
    answer = machine.run("train.sh", "--local")
    assert answer.returncode == 0
    assert "python3:" in answer.stderr


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        (None, "neither Python 3.12 nor 3.11 was found on PATH"),
        (FAKE_PYTHON.replace("3.12", "3.13"), "neither Python 3.12 nor 3.11 was found on PATH"),
        (FAKE_PYTHON.replace("exit 0", "exit 1"), "sudo apt install python3.12-venv"),
    ],
)
def test_without_a_fit_python_it_says_what_to_install(machine: Machine, python: str | None, sentence: str) -> None:
    (machine.path / "python3.12").unlink()
    if python is not None:
        machine.program("python3", python)
    answer = machine.run("train.sh", "--local")
    assert answer.returncode == 4
    assert sentence in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_another_kind_of_machine_is_refused(machine: Machine) -> None:
    (machine.path / "uname").unlink()
    machine.program("uname", "#!/bin/sh\necho Linux aarch64\n")
    answer = machine.run("train.sh", "--local")
    assert answer.returncode == 4
    assert "this is Linux aarch64" in answer.stderr


def test_with_a_real_python_the_job_runs_in_the_callers_folder(machine: Machine) -> None:
    (machine.path / "python3.12").unlink()
    (machine.path / "python3.11").symlink_to(Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name)
    (machine.here / "config.yaml").write_text("")
    answer = machine.run("train.sh", "fail", "--local")
    assert answer.returncode == 3, answer.stderr
    answer = machine.run("train.sh", "--local", "--set", "a=b", OUTPUT_ROOT="/x/y")
    assert answer.returncode == 0, answer.stderr
    expected = [["--set", "a=b", "--config", "config.yaml"], str(machine.here)]
    cache = str(machine.home / ".cache/gptoss_ft")
    assert answer.stdout.splitlines()[-1] == json.dumps([*expected, [cache, "/x/y", "1"]])
