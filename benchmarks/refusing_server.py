"""A server on this machine that refuses what it is asked, in the words of the hub."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@contextmanager
def refusing_server(status: int, words: str, granted: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Its address. Paths of `granted` are answered by what it says, as JSON; all others with `status` and `words`, in
    the header that the hub's client shows."""
    answers = granted or {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            body = json.dumps(answers.get(path, {})).encode()
            self.send_response(200 if path in answers else status)
            if path not in answers:
                self.send_header("X-Error-Message", words)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
