"""A server on this machine in place of the hub: it keeps what it is asked, and does wrong what a test says."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


@dataclass
class Fault:
    """What is done, `times` times, in place of answering `method` on a path that `pattern` finds: a status, or what the
    server of that kind calls by a name. With a status goes the `body`."""

    method: str
    pattern: str
    answer: int | str
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass
class Request:
    """`begin` is the byte from which on a file was asked for; None: the whole."""

    method: str
    path: str
    token: str | None
    body: bytes
    begin: int | None


@dataclass
class LocalHub:
    address: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def asked(self, method: str, pattern: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and re.search(pattern, request.path)]

    def take(self, request: Request) -> Fault | None:
        """Keep the request, and use up the fault that is to answer it."""
        self.requests.append(request)
        for fault in self.faults:
            if fault.method == request.method and re.search(fault.pattern, request.path):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None


class HubHandler(BaseHTTPRequestHandler):
    hub: Any
    protocol_version = "HTTP/1.1"

    def received(self) -> Request:
        given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return Request(
            self.command,
            self.path.partition("?")[0],
            (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None,
            self._body(),
            int(given[1]) if given else None,
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, body: bytes, headers: dict[str, str], of_it: int | None = None) -> None:
        """Answer; with the first `of_it` bytes of the body alone, whose length is told nevertheless."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:of_it])
            self.wfile.flush()

    def reset(self) -> None:
        # Closing with nothing to wait for sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(hub: LocalHub, kind: type[HubHandler]) -> Iterator[None]:
    """Answer requests as `kind` does, with `hub` as its state, at `hub.address`."""
    handler = type("Handler", (kind,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        hub.address = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        http.shutdown()
        thread.join()
