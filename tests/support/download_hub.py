"""A hub on this machine to download from, which misbehaves as a test asks.

It speaks what huggingface_hub 1.33 and datasets 4.8 ask to fetch a model or a data set: the repository's facts, its
tree, and its files with their hashes, whole or from a place on.
"""

import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from local_hub import HubHandler, LocalHub, serving

COMMIT = "c" * 40


@dataclass
class DownloadHub(LocalHub):
    """`files` by repository (`owner/name`, `datasets/owner/name`) and path. With `etag` it is a mirror: that gives each
    content's ETag, or none.

    A fault's answer is a status; `reset` or `short`: an end in mid-file; `flip` or `swap`: other bytes of the same
    length, none as it was, or with other digits alone.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    etag: Callable[[bytes], str | None] | None = None

    def begins(self, name: str) -> list[int | None]:
        """Where each GET of the file `name` asked to begin; None: the whole."""
        return [asked.begin for asked in self.asked("GET", f"/{re.escape(name)}$")]


@contextmanager
def download_hub() -> Iterator[DownloadHub]:
    hub = DownloadHub()
    with serving(hub, _Handler):
        yield hub


class _Handler(HubHandler):
    hub: DownloadHub

    def _handle(self) -> None:
        request = self.received()
        path = request.path
        with self.hub.lock:
            fault = self.hub.take(request)
        if fault is not None and isinstance(fault.answer, int):
            self.send(fault.answer, fault.body, fault.headers)
            return
        for repository, files in self.hub.files.items():
            kind, name = ("datasets", repository[9:]) if repository.startswith("datasets/") else ("models", repository)
            if path.startswith(f"/api/{kind}/{name}"):
                self.send(200, json.dumps(_facts(name, path, files, request.body)).encode(), {})
                return
            if file := re.fullmatch(f"/{repository}/resolve/[^/]+/(.+)", path):
                self._file(files.get(file[1]), request.begin, fault.answer if fault is not None else None)
                return
        self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = _handle

    def _file(self, content: bytes | None, begin: int | None, fault: int | str | None) -> None:
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", **self._etags(content)}
        part = content[begin or 0 :]
        if begin is not None:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if fault == "flip":
            part = bytes(byte ^ 1 for byte in part)
        if fault == "swap":
            part = part.translate(bytes.maketrans(b"0123456789", b"1032547698"))
        ends = fault in ("reset", "short")
        self.send(206 if begin is not None else 200, part, headers, len(part) // 2 if ends else None)
        if ends:
            self._end(fault == "reset")

    def _etags(self, content: bytes) -> dict[str, str]:
        if self.hub.etag is not None:
            given = self.hub.etag(content)
            return {} if given is None else {"ETag": f'"{given}"'}
        etags = {"ETag": f'"{_git_hash(content)}"'}
        if _is_large(content):
            sha = hashlib.sha256(content).hexdigest()
            etags |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        return etags

    def _end(self, by_reset: bool) -> None:
        self.close_connection = True
        if by_reset:
            # What was sent must have been read: a reset takes away what waits to be.
            while struct.unpack("i", _ioctl_unsent(self.connection))[0]:
                pass
            self.reset()


def _ioctl_unsent(connection: socket.socket) -> bytes:
    import fcntl
    import termios

    return fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0")


def _facts(name: str, path: str, files: dict[str, bytes], body: bytes) -> Any:
    entries = [
        {
            "type": "file", "path": file, "rfilename": file, "size": len(content), "oid": _git_hash(content),
            **({"lfs": {"oid": hashlib.sha256(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content), "pointerSize": 134}} if _is_large(content) else {}),
        }
        for file, content in files.items()
    ]  # fmt: skip
    if "/tree/" in path:
        return entries
    if "/paths-info/" in path:
        wanted = re.findall(r'"([^"]+)"', body.decode()) or re.findall(r"paths=([^&]+)", body.decode())
        return [entry for entry in entries if entry["path"] in wanted]
    return {"id": name, "sha": COMMIT, "private": False, "gated": False, "siblings": entries, "tags": []}


def _is_large(content: bytes) -> bool:
    return len(content) >= 2**16


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
