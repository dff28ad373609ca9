"""Real processes of the tiny job, in a second each: forks of one process that has imported everything.

PYTHONPATH=PROJECT:PROJECT/benchmarks python forked_jobs.py     requests as JSON lines on stdin, answers on stdout
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]


class Job:
    """The command `train` on a folder's job.yaml, as a process that can be sent signals."""

    def __init__(self, jobs: "ForkedJobs", folder: Path, code: str) -> None:
        self.folder, self._jobs = folder, jobs
        self.pid = int(jobs.ask(folder=str(folder), code=code))

    @property
    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "outputs" / "run" / "log.jsonl"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until `happened`, which is looked at all the time; not when the job ends before."""
        while not happened():
            assert Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z", self.screen
            time.sleep(0.001)

    def exit_code(self) -> int:
        return int(self._jobs.ask(wait=self.pid))

    @property
    def screen(self) -> str:
        """What it said, without breaks of lines."""
        return " ".join((self.folder / "screen").read_text().split())


class ForkedJobs:
    def __init__(self) -> None:
        path = os.pathsep.join(map(str, (PROJECT, PROJECT / "benchmarks")))
        self._process = subprocess.Popen(
            [sys.executable, __file__], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def start(self, folder: Path, code: str = "") -> Job:
        """`code` is run in the process before all else."""
        return Job(self, folder, code)

    def ask(self, **request: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._process.stdout.readline()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    from tiny_runs import import_everything, start

    answers, sys.stdout = sys.stdout, sys.stderr
    import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = start(Path(request["folder"]), before=lambda code=request["code"]: exec(code, {}))
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    _serve()
