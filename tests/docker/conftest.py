"""The real image, built once a session by build.sh, and a caller that runs it through train.sh.

BASE_IMAGE is honoured, as by build.sh. With GPTOSS_FT_TEST_IMAGE an image that is there already is tested.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_caller import PROBE, Caller

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    given = os.environ.get("GPTOSS_FT_TEST_IMAGE")
    if given:
        yield given
        return
    name = f"gptoss_ft/pytest:{os.getpid()}"
    environment = os.environ | {"IMAGE": name, "HF_TOKEN": "hf_hidden", "WANDB_API_KEY": "w_hidden"}
    subprocess.run(["bash", PROJECT / "build.sh"], env=environment, check=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, capture_output=True)


@pytest.fixture
def caller(image: str) -> Iterator[Caller]:
    # Not tmp_path, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="gptoss_ft docker "))
    folder.chmod(0o755)
    caller = Caller(folder, image)
    caller.here.mkdir()
    for script in ("train.sh", "scripts/common.sh"):
        (folder / script).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / script, folder / script)
    shutil.copy(PROBE, folder)
    shutil.copytree(PROJECT / "configs", caller.here / "configs")
    (caller.here / "config.yaml").write_text("default: 1\n")
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, caller.uid, caller.gid)
    yield caller
    shutil.rmtree(folder)
