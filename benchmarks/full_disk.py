"""A disk that becomes full at each of the writes that a run makes, and what is left; a tiny job, on a CPU.

    PYTHONPATH=. python benchmarks/full_disk.py [--file-system ext4|tmpfs] [--small both outputs cache]
        [--lacking blocks inodes] [--left 0 16384 1048576] [--only REGEX] [--points N] [--seed 0] [--output FILE]

Output folder and cache (`both`), or one of them, lie on a small file system: ext4 in a loop-mounted file, which needs
root, or a tmpfs, for which `unshare --user --map-root-user --mount` is enough. A run with room says which files it
opens for writing and which folders it makes, in their order. Then for each of them, or for `--points` that are drawn,
the disk fills up in the moment before: but for `--left` bytes, or so that no file can be made any more (`inodes`).

What must hold: the exit code is 3 or 4, or 0 where the run could do without; one error that names a place on that disk
and no traceback; every checkpoint whole, and none lost. With room made, the same command ends the job, and adapter,
optimizer state and losses are the same to the bit as those of the run that had room.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from filling_disk import Disk, Lacking, Moment, Watch, small_disk
from tiny_runs import differences, has_finished, import_everything, screen_of, start, write_job

Small = Literal["both", "outputs", "cache"]
# Data or output, and the machine.
EXIT_CODES = (3, 4)
MIB = 1 << 20


@dataclass
class Failure:
    """One run: what was full when, how the run ended, and what of that should not be so."""

    small: str
    lacking: str
    left: int
    before: str
    exit_code: int = 0
    error: str = ""
    checkpoints: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file-system", choices=("ext4", "tmpfs"), default="ext4")
    parser.add_argument("--small", choices=("both", "outputs", "cache"), nargs="+", default=["both"])
    parser.add_argument("--lacking", choices=("blocks", "inodes"), nargs="+", default=["blocks", "inodes"])
    parser.add_argument(
        "--left", type=int, nargs="+", default=[0, 16 << 10, MIB], help="bytes, where blocks are lacking"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="writes in whose path this is found")
    parser.add_argument("--points", type=int, help="so many of all of them; by default all")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    import_everything()
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk", chosen.file_system) as disk:
        results = []
        for small in chosen.small:
            runs = Runs(Path(name) / small, disk, small)
            planned = plan(runs.reference(), chosen.lacking, chosen.left)
            planned = [point for point in planned if re.search(chosen.only, point.moment.what)]
            if chosen.points is not None:
                drawn = random.Random(chosen.seed).sample(range(len(planned)), min(chosen.points, len(planned)))
                planned = [planned[index] for index in sorted(drawn)]
            results += list(runs.all_of(planned))
    good = sum(not result.wrong for result in results)
    failed = {(result.lacking, result.before) for result in results if result.exit_code}
    print(f"{good} of {len(results)} runs as they must be; {len(failed)} different writes failed")
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0 if good == len(results) else 1


@dataclass(frozen=True)
class Point:
    """The disk becomes full before `moment`: files (`inodes`) or blocks are lacking, of these all but `left` bytes."""

    moment: Moment
    lacking: Lacking
    left: int


def plan(moments: list[Moment], lacking: list[Lacking], left: list[int]) -> list[Point]:
    """Every way of filling the disk, at the first and the last time that each file is written."""
    last = {moment.what: moment for moment in moments}
    wanted = [moment for moment in moments if moment.time == 1 or moment == last[moment.what]]
    ways: list[tuple[Lacking, int]] = [("blocks", each) for each in left] if "blocks" in lacking else []
    ways += [("inodes", 0)] if "inodes" in lacking else []
    return [Point(moment, *way) for moment in wanted for way in ways]


class Runs:
    """Runs in `folder`, of whose files those that are `small` lie on `disk`."""

    def __init__(self, folder: Path, disk: Disk, small: Small) -> None:
        self._folder, self._disk, self._small = folder, disk, small
        self._noted, self._reference = folder / "noted", folder / "reference"
        on_disk = {name: small in ("both", name) for name in ("outputs", "cache")}
        self._places = {name: (disk.folder if there else folder) / name for name, there in on_disk.items()}
        self._run = self._places["outputs"] / "run"
        folder.mkdir()
        write_job(
            folder,
            dataset={"eval_fraction": 0.25},
            training={"max_steps": 6},
            evaluation={"prompts": ["Hello"], "max_new_tokens": 2, "reasoning_efforts": ["low"]},
        )

    def reference(self) -> list[Moment]:
        """Run with room enough, keep what it left, and say when it wrote what."""
        self._clear()
        if code := self._wait(lambda moment: moment):
            raise RuntimeError(f"the run with room ended with {code}:\n{screen_of(self._folder)}")
        shutil.copytree(self._run, self._reference)
        return [Moment(**json.loads(line)) for line in self._noted.read_text().splitlines()]

    def all_of(self, points: list[Point]) -> Iterator[Failure]:
        print(f"full when this is written{'':34}  lacking    left  code  whole checkpoints  as it must be, error")
        for point in points:
            result = self._one(point)
            before = f"{result.before[-56:]:56}"
            whole = ", ".join(name.removeprefix("checkpoint-") for name in result.checkpoints) or "-"
            said = f"NO: {'; '.join(result.wrong).splitlines()[0]}" if result.wrong else f"yes {result.error[:100]}"
            print(f"{before}  {point.lacking:7}  {point.left:7}  {result.exit_code:4}  {whole:>17}  {said}", flush=True)
            yield result

    def _one(self, point: Point) -> Failure:
        from gptoss_ft.reporting.checkpoint_folder import checkpoints_in, what_is_wrong

        self._clear()

        def fill(moment: Moment) -> list[str] | None:
            if moment != point.moment:
                return None
            there = [path.name for path in checkpoints_in(self._run)]
            self._disk.fill(point.lacking, point.left)
            return there

        what, time = point.moment.what, point.moment.time
        before = what if time == 1 else f"{what} ({time})"
        result = Failure(self._small, point.lacking, point.left, before, exit_code=self._wait(fill))
        result.error, result.wrong = self._told(result.exit_code)
        noted = self._noted.read_text()
        if not noted:
            result.wrong.append("it was not written this time")
        there = json.loads(noted or "[]")
        result.checkpoints = [path.name for path in checkpoints_in(self._run)]
        result.wrong += [f"{name} is lost" for name in there[:1] if name not in result.checkpoints]
        damage = {name: what_is_wrong(self._run / name) for name in result.checkpoints}
        result.wrong += [f"{name}: {wrong}" for name, wrong in damage.items() if wrong]
        self._disk.make_room()
        result.wrong += self._continued(result.exit_code)
        return result

    def _told(self, code: int) -> tuple[str, list[str]]:
        """The error on the screen, and what is wrong with it."""
        screen = screen_of(self._folder)
        errors = [line.removeprefix("error: ") for line in screen.splitlines() if line.startswith("error: ")]
        wrong = []
        if "Traceback" in screen:
            wrong.append(f"a traceback: {screen.strip().splitlines()[-1]}")
        if code not in (0, *EXIT_CODES):
            wrong.append(f"exit code {code}")
        if code and len(errors) != 1:
            wrong.append(f"{len(errors)} errors")
        elif code and str(self._disk.folder) not in errors[0]:
            wrong.append(f"no place in: {errors[0]}")
        return (errors or [""])[0].replace(f"{self._disk.folder}/", ""), wrong

    def _continued(self, code: int) -> list[str]:
        """How the end of the job differs from that of the run with room."""
        if code and (code := self._wait(lambda moment: None)):
            return [f"continued, it ended with {code}: {screen_of(self._folder)[-1000:]}"]
        if not has_finished(self._run):
            return ["it has not finished"]
        files, wanted = (
            {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
            for run in (self._run, self._reference)
        )
        wrong = [f"left over: {name}" for name in sorted(files - wanted)]
        wrong += [f"missing: {name}" for name in sorted(wanted - files)]
        return wrong + differences(self._reference, self._run)

    def _wait(self, reached: Callable[[Moment], object]) -> int:
        """The job in a fork, where what `reached` returns is noted unless it is None; its exit code."""
        noted = os.open(self._noted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def note(moment: Moment) -> None:
            if (fact := reached(moment)) is not None:
                os.write(noted, json.dumps(fact, default=asdict).encode() + b"\n")

        variables = {
            "GPTOSS_FT_OUTPUT_ROOT": str(self._places["outputs"]),
            "GPTOSS_FT_CACHE": str(self._places["cache"]),
        }
        child = start(self._folder, variables, Watch(self._disk.folder, note).begin)
        os.close(noted)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _clear(self) -> None:
        self._disk.clear()
        for place in self._places.values():
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
