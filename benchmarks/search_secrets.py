"""Jobs with marked tokens in their environment, ended in every way; then every file and command line is searched.

    PYTHONPATH=. python benchmarks/search_secrets.py [--only NAME ...] [--image NAME] [--output FILE]

Each job runs in a folder of its own that holds its output, cache, home, temporary files and what it said. Meanwhile the
command lines of all processes are looked at. A token is looked for as it is, quoted as in an address, and in base64 at
each of its three alignments. With `--image` an image of that name is built by build.sh with the tokens in the builder's
environment, and its history, its configuration and every file of its layers are searched, too. Not searched is a
process's environment, where tokens live. Needs `unshare` for a small disk. On a CPU, offline.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from job_endings import ENDINGS, ROOT, Place
from marked_tokens import TOKENS, Search, Watch, search_image


@dataclass
class Ending:
    """How a job ended, what was searched after it, and where a token was found."""

    name: str
    exit_code: int
    expected: int
    files: int
    bytes: int
    command_lines: int
    found: list[str]

    @property
    def is_right(self) -> bool:
        return self.exit_code == self.expected and not self.found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENDINGS, default=list(ENDINGS), metavar="NAME")
    parser.add_argument("--image", help="the name of an image to build and search, too")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    chosen = parser.parse_args(arguments)
    print(f"{'ending':20}  code  {'files':>6}  {'MiB':>6}  command lines  tokens found in")
    endings = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.only:
            endings.append(run_and_search(name, Path(folder) / name))
            show(endings[-1])
    if chosen.image:
        endings.append(build_and_search(chosen.image))
        show(endings[-1])
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([asdict(ending) for ending in endings], indent=2) + "\n")
    right = sum(ending.is_right for ending in endings)
    print(f"{right} of {len(endings)} ended as they must; tokens found: {sum(len(ending.found) for ending in endings)}")
    return 0 if right == len(endings) else 1


def show(ending: Ending) -> None:
    code = (
        f"{ending.exit_code}" if ending.exit_code == ending.expected else f"{ending.exit_code}, not {ending.expected}"
    )
    found = ", ".join(ending.found) or "-"
    size = ending.bytes / 2**20
    print(f"{ending.name:20}  {code:>4}  {ending.files:6}  {size:6.1f}  {ending.command_lines:13}  {found}", flush=True)


def run_and_search(name: str, folder: Path) -> Ending:
    function, expected = ENDINGS[name]
    place = Place(folder)
    with Watch() as watch:
        code = function(place)
    search = Search()
    for path in folder.rglob("*"):
        # Also in a file's name.
        search.look_at(os.fsencode(path.relative_to(folder)), f"the name of {path.relative_to(folder)}")
        if path.is_file() and not path.is_symlink():
            search.look_into(path, str(path.relative_to(folder)))
    if code != expected:
        print(place.said.read_text(errors="replace")[-3000:])
    return Ending(name, code, expected, search.files, search.bytes, watch.seen, search.found + watch.found)


def build_and_search(image: str) -> Ending:
    with Watch() as watch:
        built = subprocess.run(["bash", str(ROOT / "build.sh")], env=os.environ | TOKENS | {"IMAGE": image})
        search = Search()
        if built.returncode == 0:
            search_image(image, search)
    return Ending("image", built.returncode, 0, search.files, search.bytes, watch.seen, search.found + watch.found)


if __name__ == "__main__":
    sys.exit(main())
