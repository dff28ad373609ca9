"""Tokens that stand nowhere else, and where they are found: in bytes, files, layers of an image and command lines."""

import base64
import gzip
import io
import subprocess
import tarfile
import urllib.parse
from pathlib import Path
from threading import Event, Thread
from typing import IO

# Of the forms that services give out, and of none.
TOKENS = {
    "HF_TOKEN": "hf_" + "Marked1a" * 4 + "Zz",
    "HUGGING_FACE_HUB_TOKEN": "api_org_" + "Marked2b" * 4,
    "WANDB_API_KEY": "c0ffee12" * 5,
    "SERVICE_API_KEY": "-".join(["marked", "3c+of", "no", "known", "form"]),
}
_CHUNK = 1 << 24
_LOOK_SECONDS = 0.02
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def written_forms(token: str) -> set[bytes]:
    """What a token can look like: itself, quoted as in an address, and the base64 of it behind 0, 1 or 2 bytes."""
    forms = {token.encode(), urllib.parse.quote(token, safe="").encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + token.encode())
        # Without the characters that what stands before it and after it has a part in.
        inner = encoded[-(-before * 8 // 6) : (before + len(token)) * 8 // 6]
        forms |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


_FORMS = {form: name for name, token in TOKENS.items() for form in written_forms(token)}
_LONGEST = max(map(len, _FORMS))


class Search:
    """Looks for every form of every token; counts what it has looked into."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.found: list[str] = []

    def look_at(self, content: bytes, name: str) -> bool:
        """Whether `content`, called `name`, shows a token."""
        shown = sorted({token for form, token in _FORMS.items() if form in content})
        self.found += [f"{name}: {token}" for token in shown]
        return bool(shown)

    def look_into(self, path: Path, name: str) -> None:
        with path.open("rb") as stream:
            self.look_through(stream, name)

    def look_through(self, stream: IO[bytes], name: str) -> None:
        """A piece at a time; each begins with the end of the one before."""
        self.files += 1
        rest = b""
        while piece := stream.read(_CHUNK):
            self.bytes += len(piece)
            rest += piece
            if self.look_at(rest, name):
                return
            rest = rest[-_LONGEST:]


def search_image(image: str, search: Search) -> None:
    """The image's history and configuration, and every file of every layer."""
    for command in (["docker", "history", "--no-trunc", image], ["docker", "image", "inspect", image]):
        said = subprocess.run(command, capture_output=True, check=True).stdout
        search.look_at(said, " ".join(command))
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        _search_archive(process.stdout, search, image)
        # What the archive ends with, beyond its last member.
        while process.stdout.read(_CHUNK):
            pass
    if process.returncode:
        raise RuntimeError(f"docker save {image} ended with {process.returncode}")


def _search_archive(stream: IO[bytes], search: Search, name: str) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            search.look_at(member.name.encode(errors="surrogateescape"), f"the name of {member.name} in {name}")
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                # What it is made of, by tarfile's documentation; its type says less.
                assert isinstance(content, io.BufferedReader)
                _search_member(content, search, f"{name}/{member.name}")


def _search_member(content: io.BufferedReader, search: Search, name: str) -> None:
    """A layer's files; all else as it is."""
    if "/blobs/" in name and content.peek(len(_ZSTD)).startswith(_ZSTD):
        raise RuntimeError(f"{name} is compressed by zstd, which is not looked into")
    if "/blobs/" in name and content.peek(len(_GZIP)).startswith(_GZIP):
        content = io.BufferedReader(gzip.GzipFile(fileobj=content))
    # What a tar's first header says of itself. Docker before version 25 names a layer as the second.
    if ("/blobs/" in name or name.endswith("/layer.tar")) and content.peek(512)[257:262] == b"ustar":
        _search_archive(content, search, name)
    else:
        search.look_through(content, name)


class Watch:
    """Looks at every process's command line until it is left; `seen` are those of this program's jobs."""

    def __init__(self) -> None:
        self.seen = 0
        self.found: list[str] = []
        self._ended = Event()
        self._thread = Thread(target=self._look)

    def _look(self) -> None:
        search = Search()
        while not self._ended.wait(_LOOK_SECONDS):
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = entry.read_bytes()
                except OSError:
                    # It has ended.
                    continue
                self.seen += b"train.py" in line or b"build.sh" in line
                search.look_at(line, f"command line {line[:60]!r}")
        self.found = sorted(set(search.found))

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
