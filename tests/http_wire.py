"""Octets in, octets out: an HTTP connection without a socket, and handlers that tests can see through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from responder.clock import ManualClock
from responder.config import HTTPConfig
from responder.http.message import Request, Response
from responder.http.protocol import HTTPProtocol
from responder.http.state import ServerState

NOW = 1_795_000_000  # Thu, 18 Nov 2026 11:06:40 GMT
OCSP_REQUEST = "application/ocsp-request"


class FakeTransport(asyncio.Transport):
    """Keeps what is written; a client that reads only when told to, if ``reads`` is False."""

    def __init__(self, peer: str = "192.0.2.1", *, reads: bool = True) -> None:
        super().__init__({"peername": (peer, 40_000)})
        self.written = b""
        self.writes = 0
        self.unsent = 0
        self.reads = reads
        self.high_water = 0
        self.half_closed = self.closed = self.aborted = False
        self.reading = True
        self.protocol: HTTPProtocol | None = None

    def write(self, data: Any) -> None:
        assert not self.closed, "written after close"
        assert not self.half_closed, "written after write_eof"
        self.written += data
        self.writes += 1
        if not self.reads:
            self.unsent += len(data)
            if self.unsent > self.high_water and self.protocol:
                self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water = high or 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class EchoHandler:
    """Answers at once, with what was asked."""

    accepted_types = frozenset({OCSP_REQUEST.encode()})

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        self.requests.append(request)
        reply(Response(200, b"%b %b %b" % (request.method, request.target, request.body)))


class LaterHandler(EchoHandler):
    """Keeps every reply, for the test to give."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[Callable[[Response], None]] = []

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        self.requests.append(request)
        self.replies.append(reply)


class FixedHandler(EchoHandler):
    """Answers everything with one response."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        self.requests.append(request)
        reply(self.response)


class KeptSockets:
    """Sockets that nobody lends: they are given back at once."""

    def __init__(self) -> None:
        self.tick = 0
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    def run(self) -> None:
        raise AssertionError("nothing is lent")

    def lend(self, fd: int, owner: Any) -> None:
        raise OSError("not today")

    def __del__(self) -> None:
        for fd in self._pipe:
            os.close(fd)


class EmptyLane:
    """An express lane that leaves everything to the ordinary way."""

    def ready(self, is_post: bool, target: bytes, body: bytes) -> bytes | None:
        return None

    def read(self, data: bytes) -> None:
        return None

    def fetch(self, missing: Any, reply: Callable[[Response], None]) -> None:
        raise AssertionError("nothing was missing")

    def open_sockets(self) -> Any:
        return KeptSockets()

    def ready_count(self) -> int:
        return 0

    def take_messages(self) -> int:
        return 0


@dataclass
class Reply:
    """One response as a client reads it."""

    status: int
    fields: dict[str, str]
    body: bytes
    version: str = "HTTP/1.1"


def parse_replies(octets: bytes, methods: list[bytes] | None = None) -> list[Reply]:
    """Read a whole stream of responses strictly; ``methods`` tells which of them answer HEAD."""
    replies = []
    while octets:
        head, separator, octets = octets.partition(b"\r\n\r\n")
        assert separator, f"a response without its end: {head!r}"
        line, *lines = head.decode("ascii").split("\r\n")
        version, status, _phrase = line.split(" ", 2)
        fields: dict[str, str] = {}
        for text in lines:
            name, _, value = text.partition(": ")
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value
        method = methods[len(replies)] if methods and len(replies) < len(methods) else b"GET"
        length = 0
        if status not in ("100", "304") and method != b"HEAD":
            length = int(fields["content-length"])
        assert len(octets) >= length, "content cut short"
        replies.append(Reply(int(status), fields, octets[:length], version))
        octets = octets[length:]
    return replies


@dataclass
class Wire:
    """One connection to a server of its own."""

    handler: Any = field(default_factory=EchoHandler)
    limits: dict[str, Any] = field(default_factory=dict)
    reads: bool = True
    peer: str = "192.0.2.1"
    state: ServerState | None = None

    def __post_init__(self) -> None:
        self.clock = ManualClock(NOW)
        if self.state is None:
            self.state = ServerState(self.handler, HTTPConfig(**self.limits), self.clock)
        self.transport = FakeTransport(self.peer, reads=self.reads)
        self.protocol = HTTPProtocol(self.state)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    def send(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            if piece:
                self.protocol.data_received(piece)
        return self

    def wait(self, seconds: int) -> Wire:
        """Let time pass, tick by tick."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.state.tick()
        return self

    def lost(self) -> None:
        self.protocol.connection_lost(None)

    @property
    def out(self) -> bytes:
        return self.transport.written

    def replies(self) -> list[Reply]:
        methods = [request.method for request in self.handler.requests]
        return parse_replies(self.out, methods)

    @property
    def reply(self) -> Reply:
        """The only response."""
        (only,) = self.replies()
        return only

    @property
    def ended(self) -> bool:
        """True once the client has been told that nothing more will come."""
        return self.transport.closed or self.transport.half_closed


def get(target: bytes = b"/", *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join((b"%b %b %b" % (method, target, version), b"Host: ocsp.example.com", *fields, b"", b""))


def post(body: bytes, *fields: bytes, content_type: bytes = b"application/ocsp-request") -> bytes:
    return (
        get(b"/", b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), *fields, method=b"POST") + body
    )


def post_chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + body
