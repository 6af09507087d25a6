"""A server over real sockets, in a thread of the test's own process, and what its clients say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop

from responder.clock import SystemClock
from responder.config import HTTPConfig
from responder.http.server import HTTPServer, open_socket
from tests.http_wire import EchoHandler, get

DEADLINE_S = 20.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition until it holds."""
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


@dataclass
class Serving:
    """A server in a thread of its own."""

    address: tuple[Any, ...]
    server: HTTPServer
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        host = f"[{self.address[0]}]" if ":" in self.address[0] else self.address[0]
        return f"http://{host}:{self.address[1]}"

    def call(self, work: Callable[[], Any]) -> Any:
        """Have something done in the server's thread, and return what comes of it."""

        async def done() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(DEADLINE_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address[:2], DEADLINE_S)


@contextlib.contextmanager
def serving(handler: Any = None, host: str = "127.0.0.1", lane: Any = None, **limits: Any) -> Iterator[Serving]:
    started = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        listening = open_socket(host, 0)
        server = HTTPServer(handler or EchoHandler(), HTTPConfig(drain="1s", **limits), SystemClock(), lane)
        stop = asyncio.Event()
        await server.start([listening])
        loop = asyncio.get_running_loop()
        found.extend((Serving(listening.getsockname(), server, loop), loop, stop))
        started.set()
        await stop.wait()
        await server.drain()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(DEADLINE_S)
        yield found[0]
    finally:
        if found:
            found[1].call_soon_threadsafe(found[2].set)
        thread.join()


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    octets = b""
    with contextlib.suppress(ConnectionResetError):  # a linger that ran out, on a busy machine
        while piece := connection.recv(65_536):
            octets += piece
    return octets


def ask(connection: socket.socket, request: bytes = b"") -> bytes:
    """Send a request and read one whole response."""
    connection.sendall(request or get())
    octets = b""
    while b"\r\n\r\n" not in octets:
        piece = connection.recv(65_536)
        assert piece, "closed"
        octets += piece
    head, _, body = octets.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
