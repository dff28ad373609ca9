"""A small machine for the shell scripts: a PATH with nothing on it but the tools they may use, and stand-ins
for docker and nvidia-smi that do as a test says and note what they were asked."""

import shutil
import subprocess
import time
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TOOLS = (
    *("awk", "bash", "cat", "chmod", "dirname", "env", "flock", "getent", "git", "head", "id", "mkdir", "mktemp"),
    *("mv", "printf", "readlink", "realpath", "rm", "sed", "setsid", "sh", "sha256sum", "sleep", "tail"),
    *("timeout", "touch", "uname", "xargs"),
)

# Its answers are files in $FAKE: a number in NAME.code is an exit code. `run` writes its arguments one a line.
FAKE_DOCKER = r"""#!/bin/bash
code() { if [[ -f $FAKE/$1.code ]]; then cat "$FAKE/$1.code"; else echo 0; fi; }
case "$1 ${2:-}" in
    version*) if [[ -f $FAKE/engine ]]; then cat "$FAKE/engine" >&2; exit 1; fi; echo 28.5.2 ;;
    info*) cat "$FAKE/info" ;;
    "image inspect")
        [[ $(code image) == 0 ]] || exit 1
        case $* in *Size*) echo "sha256:feed 6500000000" ;; *) echo sha256:feed ;; esac ;;
    build*) printf '%s\n' "$@" >"$FAKE/build"; exit "$(code build)" ;;
    kill*) [[ -f $FAKE/started ]] || exit 1; echo "$3" >>"$FAKE/signals"; touch "$FAKE/stop" ;;
    run*)
        if [[ $* == *" setting "* ]]; then
            printf '%s\n' "$@" >"$FAKE/setting"
            cat "$FAKE/grace"
            exit "$(code grace)"
        fi
        printf '%s\n' "$@" >"$FAKE/run"
        cat >"$FAKE/stdin"
        while [[ $# -gt 0 ]]; do
            if [[ $1 == --cidfile ]]; then echo c0ffee >"$2"; fi
            shift
        done
        trap 'echo direct >>"$FAKE/signals"' TERM INT HUP USR1
        if [[ -f $FAKE/wait ]]; then
            sleep 0.3 # the container is being made: signals find nobody
            touch "$FAKE/started"
            for ((i = 0; i < 100; i++)); do [[ ! -f $FAKE/stop ]] || break; sleep 0.1; done
            sleep 0.3 # the job saves its state
        fi
        exit "$(code run)" ;;
esac
"""


class Machine:
    """Where a script runs: `path` is its whole PATH, `fake` holds the stand-ins' answers and notes."""

    def __init__(self, folder: Path, project: Path = PROJECT) -> None:
        self.project = project
        self.path, self.fake = folder / "bin", folder / "fake"
        self.home, self.here = folder / "home", folder / "my job, 1"
        for made in (self.path, self.fake, self.home, self.here):
            made.mkdir(parents=True)
        for tool in TOOLS:
            self.link(tool)
        self.program("docker", FAKE_DOCKER)
        self.program("nvidia-smi", "#!/bin/sh\necho 580.65.06\n")
        self.answer("info", '{"Runtimes":{"nvidia":{},"runc":{}}}')
        self.answer("grace", "30.0\n")

    def link(self, tool: str) -> None:
        found = shutil.which(tool)
        assert found, f"the tests of the scripts need {tool}"
        (self.path / tool).symlink_to(found)

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def answer(self, name: str, text: str | int = "") -> None:
        (self.fake / name).write_text(str(text))

    def noted(self, name: str) -> list[str]:
        note = self.fake / name
        return note.read_text().splitlines() if note.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": str(self.path), "HOME": str(self.home), "FAKE": str(self.fake), **more}

    def command(self, script: str, *arguments: str) -> list[str]:
        return [str(self.path / "bash"), str(self.project / script), *arguments]

    def run(self, script: str, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments), cwd=self.here, env=self.environment(**env),
            input=stdin, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """In a process group of its own, with its output thrown away."""
        return subprocess.Popen(
            self.command(script, *arguments), cwd=self.here, env=self.environment(**env), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while not (self.fake / name).exists():
            assert time.monotonic() < deadline, f"{name} did not appear"
            time.sleep(0.02)
