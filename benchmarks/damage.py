"""A checkpoint of a killed run damaged in every file, and the run continued by the same command.

    PYTHONPATH=. python benchmarks/damage.py [--points N] [--seed 0] [--output FILE]

Each file of the newest checkpoint in turn is cut to half its length, emptied, has one bit flipped, is removed, or is a
folder (or `--points` of all these are drawn); at last a file of every checkpoint is cut. The damaged one must be named
and set aside, the one before it used, no traceback shown, and the end must be the same to the bit as that of a run that
was neither killed nor damaged. A tiny job, on a CPU.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_runs import POLL_SECONDS, differences, exit_code_of, import_everything, screen_of, start, write_job

EVERY = "every checkpoint"


@dataclass
class Damaged:
    """A file, what was done to it, how the run ended, the checkpoint that it went on from, and what is wrong there."""

    file: str
    damage: str
    exit_code: int
    went_on_from: str
    wrong: list[str]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="so many damages of all; by default each")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        results = list(damage_and_continue(Path(folder), chosen.points, chosen.seed))
    good = sum(not result.wrong for result in results)
    print(f"{good} of {len(results)} damaged checkpoints were not used, and their runs ended as one that had none")
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0 if good == len(results) else 1


def damage_and_continue(folder: Path, number: int | None, seed: int) -> Iterator[Damaged]:
    """Each damage to each file; a line for each."""
    reference, killed, damaged = folder / "reference", folder / "killed", folder / "damaged"
    for place in (reference, killed):
        place.mkdir()
        write_job(place, training={"max_steps": 8})
    if code := wait(start(reference)):
        raise RuntimeError(f"the run that was let alone ended with {code}:\n{screen_of(reference)}")
    kill_with_two_checkpoints(killed)
    newest, before, *_ = checkpoints(killed)
    files = sorted(path.name for path in newest.iterdir())
    cases = [(name, damage) for name in files for damage in DAMAGES]
    if number is not None:
        cases = random.Random(seed).sample(cases, number)
    cases.append((files[0], EVERY))
    print(f"{'file':30}  {'damage':16}  code  {'went on from':14}  as it must be")
    for name, damage in cases:
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(killed, damaged)
        places = checkpoints(damaged) if damage == EVERY else checkpoints(damaged)[:1]
        for checkpoint in places:
            DAMAGES["cut" if damage == EVERY else damage](checkpoint / name)
        result = Damaged(name, damage, wait(start(damaged)), "", [])
        expected = "the beginning" if damage == EVERY else before.name
        look_at(result, damaged, [place.name for place in places], expected)
        if not result.exit_code:
            result.wrong += differences(reference / "outputs" / "run", damaged / "outputs" / "run")
        said = "yes" if not result.wrong else f"NO: {'; '.join(result.wrong)}"
        print(f"{name:30}  {damage:16}  {result.exit_code:4}  {result.went_on_from:14}  {said}", flush=True)
        yield result


def look_at(result: Damaged, place: Path, damaged: list[str], expected: str) -> None:
    """What the run said of the checkpoints `damaged`, and that it went on from the one `expected`."""
    screen = " ".join(screen_of(place).split())
    from_one = screen.partition("goes on from ")[2].partition(" ")[0].strip(",.;:")
    result.went_on_from = from_one or "the beginning"
    if result.exit_code:
        result.wrong.append(f"exit code {result.exit_code}: {screen[-1000:]}")
    if "Traceback" in screen:
        result.wrong.append("a traceback")
    if result.went_on_from != expected:
        result.wrong.append(f"went on from {result.went_on_from}, not {expected}")
    for name in damaged:
        if f"set aside as {name}.damaged-1" not in screen:
            result.wrong.append(f"{name} is not said to be set aside")
        if not (place / "outputs" / "run" / f"{name}.damaged-1").is_dir():
            result.wrong.append(f"{name} is not set aside")


def checkpoints(place: Path) -> list[Path]:
    """The newest first."""
    from gptoss_ft.reporting.checkpoint_folder import checkpoints_in

    return checkpoints_in(place / "outputs" / "run")


def kill_with_two_checkpoints(place: Path) -> None:
    child = start(place)
    while len(checkpoints(place)) < 2:
        if (code := exit_code_of(child)) is not None:
            raise RuntimeError(f"the run ended with {code} before it was killed:\n{screen_of(place)}")
        time.sleep(POLL_SECONDS)
    os.kill(child, signal.SIGKILL)
    wait(child)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "emptied": empty,
    "one bit flipped": flip,
    "removed": Path.unlink,
    "a folder": make_folder,
}


if __name__ == "__main__":
    sys.exit(main())
