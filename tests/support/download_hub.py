"""A hub on this machine to download from, which misbehaves as a test asks.

It speaks what huggingface_hub 1.33 and datasets 4.8 ask to fetch a model or a data set: the repository's facts, its
tree, and its files with their hashes, whole or from a place on.
"""

import hashlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Literal

COMMIT = "c" * 40
# What stands in place of an answer: a status; a reset or an end in mid-file; other bytes of the same length, none as
# it was, or with other digits alone.
Answer = int | Literal["reset", "short", "flip", "swap"]


@dataclass
class Fault:
    """`times` times, `method` on a path that `pattern` finds is answered in another way."""

    method: str
    pattern: str
    answer: Answer
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    begin: int | None
    token: str | None


@dataclass
class DownloadHub:
    """`files` by repository (`owner/name`, `datasets/owner/name`) and path."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def begins(self, name: str) -> list[int | None]:
        """Where each GET of the file `name` asked to begin; None: the whole."""
        return [asked.begin for asked in self.requests if asked.method == "GET" and asked.path.endswith(f"/{name}")]


@contextmanager
def download_hub() -> Iterator[DownloadHub]:
    hub = DownloadHub()

    class Handler(_Handler):
        state = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        hub.address = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        http.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: DownloadHub
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(given[1]) if given else None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self.state.lock:
            self.state.requests.append(Request(self.command, path, begin, token))
            fault = self._fault(path)
        if fault is not None and isinstance(fault.answer, int):
            self._send(fault.answer, b"{}", fault.headers)
            return
        for repository, files in self.state.files.items():
            kind, name = ("datasets", repository[9:]) if repository.startswith("datasets/") else ("models", repository)
            if path.startswith(f"/api/{kind}/{name}"):
                self._send(200, json.dumps(_facts(name, path, files, body)).encode(), {})
                return
            if file := re.fullmatch(f"/{repository}/resolve/[^/]+/(.+)", path):
                self._file(files.get(file[1]), begin, fault.answer if fault is not None else None)
                return
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = _handle

    def _fault(self, path: str) -> Fault | None:
        fault = next((f for f in self.state.faults if f.method == self.command and re.search(f.pattern, path)), None)
        if fault is not None:
            fault.times -= 1
            if not fault.times:
                self.state.faults.remove(fault)
        return fault

    def _file(self, content: bytes | None, begin: int | None, fault: Answer | None) -> None:
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_git_hash(content)}"', "Accept-Ranges": "bytes"}
        if _is_large(content):
            sha = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
        part = content[begin or 0 :]
        if begin is not None:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if fault == "flip":
            part = bytes(byte ^ 1 for byte in part)
        if fault == "swap":
            part = part.translate(bytes.maketrans(b"0123456789", b"1032547698"))
        self._send(206 if begin is not None else 200, part, headers, fault if fault in ("reset", "short") else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Answer | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if fault == "reset":
            # What was sent must have been read: a reset takes away what waits to be.
            while struct.unpack("i", _ioctl_unsent(self.connection))[0]:
                pass
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


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
