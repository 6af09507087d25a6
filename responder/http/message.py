"""What an HTTP exchange is made of: Request, Response, and the Handler that turns the one into the other.

Knows no sockets, no parsing and no OCSP. The protocol makes Requests and writes Responses; handlers do the reverse.
RFC 9110 §6 (messages), §6.6.1 (Date), §15 (status codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import gmtime
from typing import Any, Protocol

# Status lines are made once: they are the same for every response.
STATUS_LINES: dict[int, bytes] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}
_NO_CONTENT_LENGTH = frozenset({204, 304})

_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def http_date(seconds: int) -> bytes:
    """Format POSIX seconds as an IMF-fixdate, such as ``Sun, 06 Nov 1994 08:49:37 GMT``.

    RFC 9110 §5.6.7: English names whatever the locale, and GMT, never UTC.
    """
    t = gmtime(seconds)
    return b"%s, %02d %s %04d %02d:%02d:%02d GMT" % (
        _DAYS[t.tm_wday],
        t.tm_mday,
        _MONTHS[t.tm_mon - 1],
        t.tm_year,
        t.tm_hour,
        t.tm_min,
        t.tm_sec,
    )


class _DateLine:
    """The Date field's line, made anew once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def __call__(self, second: int) -> bytes:
        if second != self._second:
            self._line = b"Date: " + http_date(second) + b"\r\n"
            self._second = second
        return self._line


date_line = _DateLine()


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Spell fields as lines of a head; raises ValueError for a line break in one."""
    lines = b""
    for name, value in fields:
        if b"\r" in value or b"\n" in value or b"\r" in name or b"\n" in name:
            raise ValueError(f"line break in field {name!r}: {value!r}")
        lines += name + b": " + value + b"\r\n"
    return lines


class Request:
    """One whole request, framed and checked; its parts are the client's bytes.

    ``target`` is in origin-form (RFC 9112 §3.2.1), otherwise as received: nothing is decoded or normalised, since a
    ``//`` in it may be base64. ``body`` is without any transfer coding. ``content_type`` is None where the client sent
    none; its media type has been checked against the handler's. Conditional fields and Range are the fields' raw values.
    ``peer`` is the client's address, without the port.
    """

    __slots__ = (
        "body",
        "content_type",
        "if_match",
        "if_modified_since",
        "if_none_match",
        "if_range",
        "if_unmodified_since",
        "method",
        "peer",
        "range",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        body: bytes = b"",
        content_type: bytes | None = None,
        if_none_match: bytes | None = None,
        if_modified_since: bytes | None = None,
        if_match: bytes | None = None,
        if_unmodified_since: bytes | None = None,
        range_field: bytes | None = None,
        if_range: bytes | None = None,
        peer: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.body = body
        self.content_type = content_type
        self.if_none_match = if_none_match
        self.if_modified_since = if_modified_since
        self.if_match = if_match
        self.if_unmodified_since = if_unmodified_since
        self.range = range_field
        self.if_range = if_range
        self.peer = peer


class Response:
    """A response that renders itself for a given second; may be sent any number of times, to anybody.

    The Connection field belongs to the connection and is added by the protocol. Content-Length is always exact;
    there is never a content or transfer coding (HTR-07: HTTP/1.0 clients).
    """

    __slots__ = ("_lines", "_second", "_wire", "body", "status")

    def __init__(self, status: int, body: bytes = b"", fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """``fields`` without Date, Content-Length and Connection; raises ValueError for a line break in one."""
        self._fill(status, body, field_lines(fields))

    @classmethod
    def of_lines(cls, status: int, body: bytes, lines: bytes) -> Response:
        """Make a response whose fields are spelled already, by ``field_lines``."""
        made = cls.__new__(cls)
        made._fill(status, body, lines)
        return made

    def _fill(self, status: int, body: bytes, lines: bytes) -> None:
        self.status = status
        self.body = body
        if status not in _NO_CONTENT_LENGTH:
            # RFC 9110 §8.6: no Content-Length in a 204; in a 304 it is optional.
            lines += b"Content-Length: %d\r\n" % len(body)
        self._lines = lines
        self._second = -1
        self._wire = b""

    def head(self, second: int) -> bytes:
        """Return status line and fields as of a POSIX second, without the empty line that ends them."""
        return STATUS_LINES[self.status] + date_line(second) + self._lines

    def wire(self, second: int) -> bytes:
        """Return the whole message for a persistent HTTP/1.1 connection; kept for the rest of the second."""
        if second != self._second:
            self._wire = self.head(second) + b"\r\n" + self.body
            self._second = second
        return self._wire

    def for_request(self, request: Request, second: int) -> Response:
        """Return what to send to this very request: itself, unless a precondition asks for something else."""
        return self


class PreparedResponse(Response):
    """A 200 whose message was put together elsewhere, for one persistent HTTP/1.1 connection without preconditions."""

    __slots__ = ()

    def __init__(self, wire: bytes) -> None:
        self.status = 200
        self._wire = wire

    @property
    def message(self) -> bytes:
        """The whole message."""
        return self._wire

    @property
    def body(self) -> bytes:  # type: ignore[override]  # seldom asked for: the message is whole
        """The content."""
        return self._wire[self._wire.index(b"\r\n\r\n") + 4 :]

    def head(self, second: int) -> bytes:
        """Return the head that was made; ``second`` has passed since at most while earlier answers went out."""
        return self._wire[: self._wire.index(b"\r\n\r\n") + 2]

    def wire(self, second: int) -> bytes:
        """Return the message that was made."""
        return self._wire


def non_authoritative_response(body: bytes, content_type: bytes, status: int = 200) -> Response:
    """Build a response that nobody may keep, such as an OCSP error.

    RFC 9919 §7.2: non-authoritative responses SHOULD forbid caching, so that ``unauthorized`` ends the moment the
    certificate is registered.
    """
    return Response(status, body, ((b"Content-Type", content_type), (b"Cache-Control", b"no-store")))


def http_error(status: int, fields: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """Build an error of HTTP itself: no content, not to be kept."""
    return Response(status, b"", ((b"Cache-Control", b"no-store"), *fields))


class Handler(Protocol):
    """Who answers requests. One for a process; called from the event loop's thread only.

    ``accepted_types`` are the media types, in lower case, that a POST may carry; another one is refused (415) before
    its body is read. A POST without Content-Type is let through.
    """

    accepted_types: frozenset[bytes]

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        """Answer one whole request: call ``reply`` once, now or later, from the same thread.

        Called at once, the bytes are written before the read that brought the request returns. Called later, earlier
        answers of the connection still go first. Called after the connection has gone, it does nothing. The handler
        bounds how long it takes; past the idle timeout the connection is cut. An exception raised here becomes 500.
        """
        ...


class ExpressSockets(Protocol):
    """Reads and answers plain requests on sockets lent to it; fastpath.express_sockets tells the rules."""

    tick: int

    def fileno(self) -> int:
        """Return the descriptor that is readable while any lent socket is; then ``run`` is to be called."""
        ...

    def run(self) -> None:
        """Read each lent socket that is readable, and answer or give it back."""
        ...

    def lend(self, fd: int, owner: Any) -> None:
        """Take over a socket whose transport has stopped reading and has nothing unsent."""
        ...

    def take_back(self, fd: int, owner: Any) -> None:
        """Let go of an owner's socket; nothing where it is not lent."""
        ...

    def activity(self, fd: int, owner: Any) -> tuple[int, int]:
        """Return how many requests were answered since it was lent, and the tick of the last request or answer."""
        ...

    def answered(self, fd: int, owner: Any) -> None:
        """Say that the answer that was missing has been sent."""
        ...

    def send(self, fd: int, octets: bytes) -> bytes:
        """Send at once; returns what could not be sent."""
        ...


class Express(Protocol):
    """The short way to answers that are ready: whole messages, made without a Request.

    What it gives is what the Handler's answer would have been, octet for octet, on a persistent HTTP/1.1 connection
    without preconditions. None: not mine, nothing happened; the ordinary way decides. ``read`` itself is None where the
    configuration turns it off. One event loop's thread only.
    """

    ready: Callable[[bool, bytes, bytes], bytes | None]
    """The message for a GET (False, target, b"") or POST (True, target, body) that was framed already."""

    read: Callable[[bytes], Any] | None
    """The messages for a whole read from a connection that was between requests, in a tuple of one where it ends with
    them. What is neither, nor None, stands for one whole request, which is a POST or not (``is_post``) and ends its
    connection or not (``closes``), to be given to ``fetch``."""

    def open_sockets(self) -> ExpressSockets:
        """Make what reads from sockets lent to it, and answers as ``read`` does, or leaves it to their owners."""
        ...

    def fetch(self, missing: Any, reply: Callable[[Response], None]) -> None:
        """Answer a request that ``read`` could not; as ``Handler.handle``."""
        ...

    def ready_count(self) -> int:
        """Return how many messages ``ready`` and ``read`` ever made."""
        ...

    def take_messages(self) -> int:
        """Return how many messages ``ready`` and ``read`` made since it was last called."""
        ...
