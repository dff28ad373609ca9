"""Who runs train.sh in the tests: a user that is not root, in a folder of its own."""

import os
import subprocess
from pathlib import Path

PROBE = Path(__file__).with_name("probe.py")
# A user that has no entry in the image or on the host.
STRANGER = 23456


class Caller:
    """Runs train.sh in `here`, a folder of its own with a space and a comma in its name, never as root."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder, self.image = folder, image
        self.here = folder / "my job, 1"
        self.outputs = folder / "all outputs"
        self.uid = os.getuid() or STRANGER
        self.gid = os.getgid() or STRANGER

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST") if name in os.environ}
        own = {"HOME": str(self.folder), "IMAGE": self.image, "GPUS": "none", "OUTPUT_ROOT": str(self.outputs)}
        return kept | own | more

    def command(self, *arguments: str, umask: str = "022") -> list[str]:
        shell = ["bash", "-c", f'umask {umask} && exec bash "$0" "$@"', str(self.folder / "train.sh"), *arguments]
        if os.getuid() != 0:
            return shell
        # The group of the engine's socket is what makes a caller one who may use Docker.
        group = socket_group()
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", f"--groups={group}", "--", *shell]

    def run(self, *arguments: str, umask: str = "022", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, umask=umask), cwd=self.here, env=self.environment(**env),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=self.here, env=self.environment(**env), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def with_probe(self) -> str:
        """For DOCKER_RUN_ARGS: the probe in the place of train.py."""
        return f"-v '{self.folder / PROBE.name}:/opt/gptoss_ft/train.py:ro'"


def socket_group() -> int:
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    return os.stat(socket).st_gid if os.path.exists(socket) else os.getgid()
