"""A real HTTP server of files in memory, as a CA's web server is: validators, redirects, and every misbehaviour on demand.

``WebFolder`` counts what it was asked and what it said. Fixture: web_folder.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

# What a path does instead of giving a file: writes its own bytes.
Behaviour = Callable[[BaseHTTPRequestHandler], None]


class WebFolder:
    """One server; ``files`` by path, and ``said`` counts (path, status)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}  # more of them, by path
        self.behaviours: dict[str, Behaviour] = {}
        self.said: Counter[tuple[str, int]] = Counter()
        self.asked: list[dict[str, str]] = []
        folder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                folder.asked.append({name.lower(): value for name, value in self.headers.items()})
                behaviour = folder.behaviours.get(self.path)
                if behaviour is not None:
                    self.close_connection = True
                    behaviour(self)
                else:
                    folder._give(self)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's own, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _give(self, handler: BaseHTTPRequestHandler) -> None:
        body = self.files.get(handler.path)
        tag = None if body is None else f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if body is None:
            status, body = 404, b"no such file"
        elif handler.headers.get("If-None-Match") == tag:
            status, body = 304, b""
        else:
            status = 200
        self.said[handler.path, status] += 1
        handler.send_response(status)
        if tag is not None:
            handler.send_header("ETag", tag)
        for name, value in self.headers.get(handler.path, {}).items():
            handler.send_header(name, value)
        if status != 304:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a header of one octet a tenth of a second, for ever."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        pass


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Send a body without a length and without an end."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            handler.wfile.write(b"\0" * 65_536)
    except OSError:
        pass


def answering(raw: bytes) -> Behaviour:
    """Return a behaviour that sends these bytes and closes, and says so."""
    raw = raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(raw)

    return answer


@pytest.fixture
def web_folder() -> Iterator[WebFolder]:
    """Return a fresh server; it ends with the test."""
    folder = WebFolder()
    yield folder
    folder.close()
