"""The data prepared by a process of its own, while this one imports Unsloth.

Both need the interpreter for nearly all of their time, so threads would only take turns. What the other process
prepares lies in the cache afterwards, where `prepare` finds it.

    python -m gptoss_ft.data.ahead      the other process: a job as JSON on stdin, its progress as JSON lines on stdout
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gptoss_ft import errors
from gptoss_ft.config import JobConfig
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.summary import Progress
from gptoss_ft.reporting.console import TOLD, show_told
from gptoss_ft.runtime import fresh_environment, prepare_environment

# With fewer, the two processes would take cores from each other: an import keeps one busy, rendering all.
CORES_FOR_TWO = 4

KINDS: dict[str, type[errors.JobError]] = {
    kind.__name__: kind
    for kind in (errors.SettingError, errors.DataError, errors.OutputError, errors.MachineError, errors.HubError)
}


_log = logging.getLogger(__name__)


class DataAhead:
    """The other process, or none."""

    def __init__(self, process: "subprocess.Popen[str] | None") -> None:
        self._process = process

    def wait(self, progress: Progress) -> None:
        """Wait until the data is in the cache, and tell `progress` of it. Raises the `JobError` that the other process
        came upon; where it ended in another way nothing is in the cache, and `prepare` meets what it met."""
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                # The last words of a process that was ended, or a library's.
                return
            if "notice" in said:
                _log.warning("%s", said["notice"], extra=TOLD)
                continue
            if "kind" in said:
                raise KINDS[said["kind"]](said["message"], said["cure"], said["key"])
            progress(said["rows"], said["samples"])


@contextmanager
def data_ahead(job: JobConfig) -> Iterator[DataAhead]:
    """Begin to prepare the job's data; the process ends with this context.

    Does nothing where there is nothing to prepare or to do meanwhile, or too few cores for both.
    """
    prepared = job.datasets[0].prepared is not None
    if prepared or "unsloth" in sys.modules or len(os.sched_getaffinity(0)) < CORES_FOR_TWO:
        yield DataAhead(None)
        return
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=fresh_environment(),
        # What a terminal sends to its group is this process's to heed.
        process_group=0,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write(job.model_dump_json())
            process.stdin.close()
            yield DataAhead(process)
        finally:
            process.kill()


def _main() -> None:
    prepare_environment()
    job = JobConfig.model_validate_json(sys.stdin.read())
    out, sys.stdout = sys.stdout, sys.stderr

    def say(**words: object) -> None:
        print(json.dumps(words), file=out, flush=True)

    show_told(lambda notice: say(notice=notice))
    try:
        from gptoss_ft.data.prepare import prepare
        from gptoss_ft.data.tokenizer import load_job_tokenizer
        from gptoss_ft.model.repository import find_repository

        # In the order of `finetune`, so that the first mistake is the same one.
        find_repository(job.model)
        tokenizer = load_job_tokenizer(job.model)
        prepare(job, open_entries(job), tokenizer, lambda rows, samples: say(rows=rows, samples=samples))
    except errors.JobError as error:
        if type(error).__name__ in KINDS:
            say(kind=type(error).__name__, message=error.message, cure=error.cure, key=error.key)


if __name__ == "__main__":
    _main()
