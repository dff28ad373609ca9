"""What is in the image, and what is not."""

import json
import subprocess
from typing import Any

import pytest

pytestmark = pytest.mark.docker


def inspect(image: str) -> dict[str, Any]:
    answer = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(answer.stdout)[0]
    return facts


def in_image(image: str, *command: str) -> str:
    """With the image's own user, and without its entrypoint."""
    entry, *arguments = command
    return subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", entry, image, *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip


def test_it_says_what_it_is_and_runs_as_nobody_special(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "gptoss_ft"
    assert config["Labels"]["org.opencontainers.image.version"]
    assert f"GPTOSS_FT_COMMIT={config['Labels']['org.opencontainers.image.revision']}" in config["Env"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"] == {"Test": ["NONE"]}


def test_no_secret_of_the_builder_is_in_it(image: str) -> None:
    history = subprocess.run(["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True)
    assert "_hidden" not in history.stdout
    assert "_hidden" not in json.dumps(inspect(image))


def test_no_cache_of_pip_or_apt_is_left_in_a_layer(image: str) -> None:
    caches = "ls -A /var/lib/apt/lists; find / -xdev -name '*.whl' -not -path '/opt/wheels/*' -not -path '/usr/share/*'"
    assert in_image(image, "sh", "-c", f"{caches}; exit 0").split() == []


def test_the_code_is_roots_readable_by_all_and_writable_by_none_else(image: str) -> None:
    wrong = "find /opt/gptoss_ft ! -type l ( ! -user root -o -perm /022 -o ! -perm -044 )"
    assert in_image(image, *wrong.split()) == ""
    files = in_image(image, "find", "/opt/gptoss_ft", "-maxdepth", "1", "-printf", "%f\n").split()
    assert {"train.py", "config.yaml", "gptoss_ft", "configs", "requirements.txt"} <= set(files)
    assert not {".git", ".ci", "tests", "outputs", ".venv", "build.sh", "Dockerfile"} & set(files)


def test_what_triton_needs_to_compile_a_kernel_is_there(image: str) -> None:
    program = "#include <Python.h>\n#include <stdio.h>\n"
    script = (
        f"printf '{program}' >/tmp/x.c && gcc -c -I \"$(python -c {INCLUDE})\" /tmp/x.c -o /tmp/x.o && echo compiled"
    )
    assert in_image(image, "sh", "-c", script) == "compiled\n"


INCLUDE = "'import sysconfig; print(sysconfig.get_path(\"include\"))'"


def test_without_a_command_it_explains_itself_and_prints_no_banner(image: str) -> None:
    answer = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", image], capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert "CUDA" not in answer.stdout.split("\n", maxsplit=5)[:5]
    assert "train" in answer.stdout
