"""Files over HTTP: ranges and preconditions, and sending them past the transport to quick, slow and vanishing clients."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from responder.http.file_sender import PIECE_BYTES
from responder.http.files import FileResponse, HeldFile, requested_part
from responder.http.message import Request, Response, http_date
from tests.components import need
from tests.http_room import Serving, ask, read_all, serving, until
from tests.http_wire import NOW, EchoHandler, EmptyLane, Reply, get, parse_replies

SIZE = 5_000_011  # more than a socket's buffers take at once here, and no multiple of anything
TYPE = b"application/pkix-crl"


class FileHandler(EchoHandler):
    """Answers ``/file`` with a file, and everything else as EchoHandler does."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.content = path.read_bytes()
        self.digest = hashlib.sha256(self.content).digest()
        self.held: HeldFile | None = None
        self.date_tells = True

    @property
    def etag(self) -> bytes:
        return b'"%s"' % self.digest.hex().encode()

    def response(self) -> FileResponse:
        if self.held is None:
            self.held = HeldFile(os.open(self.path, os.O_RDONLY), len(self.content))
        return FileResponse(self.held, TYPE, self.digest, NOW, NOW + 3_600, date_tells=self.date_tells)

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        if request.target == b"/file":
            reply(self.response())
        else:
            super().handle(request, reply)


@pytest.fixture
def handler(tmp_path: Path) -> FileHandler:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return FileHandler(path)


@pytest.fixture(params=[None, EmptyLane()], ids=["at-once", "in-turns"])
def server(request: pytest.FixtureRequest, handler: FileHandler) -> Iterator[Serving]:
    with serving(handler, lane=request.param, idle_timeout="60s") as running:
        yield running


def open_files(directory: Path) -> int:
    """Return how many descriptors of this process are files of a directory, removed ones too."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are enough
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(f"{directory}/")  # noqa: PTH115
    return found


def open_sockets() -> int:
    """Return how many sockets and epolls this process has."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "anon_inode:"))  # noqa: PTH115
    return found


def file_at(server: Serving, *fields: bytes, method: bytes = b"GET") -> Reply:
    """Ask for the file on a connection of its own."""
    with server.connect() as connection:
        connection.sendall(get(b"/file", b"Connection: close", *fields, method=method))
        (reply,) = parse_replies(read_all(connection), [method])
    return reply


# --- ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "part"),
    [
        (b"bytes=0-99", (0, 100)),
        (b"bytes=0-0", (0, 1)),
        (b"bytes=500-", (500, 1_000)),
        (b"bytes=999-5000", (999, 1_000)),
        (b"bytes=-1", (999, 1_000)),
        (b"bytes=-5000", (0, 1_000)),
        (b"BYTES= 1-2 ", (1, 3)),
        # Nothing of it is there:
        (b"bytes=1000-", (1_000, 1_000)),
        (b"bytes=2000-3000", (2_000, 2_000)),
        (b"bytes=-0", (1_000, 1_000)),
        # As if there were no Range at all:
        (b"bytes=2-1", None),
        (b"bytes=0-1,2-3", None),
        (b"bytes=0-1, 0-1, 0-1", None),
        (b"bytes=-", None),
        (b"bytes=", None),
        (b"bytes=a-b", None),
        (b"bytes=+1-2", None),
        (b"bytes=1-2-3", None),
        (b"bytes=" + b"9" * 5_000 + b"-", None),
        (b"octets=0-1", None),
        (b"", None),
    ],
)
@pytest.mark.clause("RFC 9110", "14.1.1", "MUST")
def test_ranges(field: bytes, part: tuple[int, int] | None) -> None:
    """DST-02: one range of octets is understood; an invalid one, several, and other units are ignored."""
    assert requested_part(field, 1_000) == part


@pytest.mark.clause("RFC 9110", "15.3.7", "MUST")
def test_part(server: Serving, handler: FileHandler) -> None:
    """DST-02: a range gets 206 with Content-Range, its own length, and what a 200 says besides."""
    whole = file_at(server)
    part = file_at(server, b"Range: bytes=4000000-4999999")
    assert (whole.status, whole.body == handler.content) == (200, True)
    assert (part.status, part.body == handler.content[4_000_000:5_000_000]) == (206, True)
    assert part.fields.pop("content-range") == f"bytes 4000000-4999999/{SIZE}"
    assert part.fields.pop("content-length") == "1000000"
    assert whole.fields.pop("content-length") == str(SIZE)
    dated = ("date", "cache-control")  # the second may have turned
    assert [(name, value) for name, value in part.fields.items() if name not in dated] == [
        (name, value) for name, value in whole.fields.items() if name not in dated
    ]
    assert whole.fields["accept-ranges"] == "bytes"
    assert whole.fields["content-type"] == TYPE.decode()
    assert whole.fields["etag"].encode() == handler.etag
    assert whole.fields["last-modified"].encode() == http_date(NOW)
    assert not {"content-encoding", "transfer-encoding", "vary"} & whole.fields.keys()


@pytest.mark.clause("RFC 9110", "15.5.17", "SHOULD")
def test_nothing_in_range(server: Serving) -> None:
    """416 tells the length that there is; the connection goes on."""
    with server.connect() as connection:
        (reply,) = parse_replies(ask(connection, get(b"/file", b"Range: bytes=%d-" % SIZE)))
        assert (reply.status, reply.fields["content-range"], reply.body) == (416, f"bytes */{SIZE}", b"")
        assert ask(connection).endswith(b"GET / ")


@pytest.mark.clause("RFC 9110", "14.2", "MUST")
def test_head_knows_no_range(server: Serving) -> None:
    """A Range in HEAD is ignored: the fields are the 200's, and there is no content."""
    reply = file_at(server, b"Range: bytes=0-9", method=b"HEAD")
    assert (reply.status, reply.fields["content-length"], reply.body) == (200, str(SIZE), b"")


def for_fields(handler: FileHandler, method: bytes = b"GET", **fields: bytes) -> Response:
    return handler.response().for_request(Request(method, b"/file", **fields), NOW + 10)


@pytest.mark.clause("RFC 9110", "13.1.5", "MUST")
def test_if_range(handler: FileHandler) -> None:
    """DST-02: a part only to who has the beginning of this very file, by a strong tag or a date that tells; else all of it."""
    part = {"range_field": b"bytes=10-"}
    for field, status in (
        (handler.etag, 206),
        (http_date(NOW), 206),
        (b"W/" + handler.etag, 200),
        (b'"another"', 200),
        (handler.etag + b", " + handler.etag, 200),
        (http_date(NOW - 1), 200),
        (http_date(NOW + 1), 200),
        (b"yesterday", 200),
        (b"", 200),
    ):
        assert for_fields(handler, if_range=field, **part).status == status, field
        assert for_fields(handler, if_range=field).status == 200, field
    assert for_fields(handler, range_field=b"bytes=%d-" % SIZE, if_range=b'"another"').status == 200, "not 416"
    handler.date_tells = False
    assert for_fields(handler, if_range=http_date(NOW), **part).status == 200
    assert for_fields(handler, if_range=handler.etag, **part).status == 206


@pytest.mark.clause("RFC 9110", "13.2.2", "MUST")
def test_preconditions_before_ranges(handler: FileHandler) -> None:
    """DST-02: 304 and 412 go before ranges; a date proves nothing where two files share it."""
    part, date = {"range_field": b"bytes=10-"}, http_date(NOW)
    assert for_fields(handler, if_none_match=handler.etag, **part).status == 304
    assert for_fields(handler, b"HEAD", if_none_match=b"W/" + handler.etag).status == 304
    assert for_fields(handler, if_none_match=b'"another"', if_modified_since=date, **part).status == 206
    assert for_fields(handler, if_modified_since=date, **part).status == 304
    assert for_fields(handler, if_modified_since=http_date(NOW - 1)).status == 200
    assert for_fields(handler, if_match=b'"another"', **part).status == 412
    assert for_fields(handler, if_unmodified_since=date, **part).status == 206
    assert for_fields(handler, if_unmodified_since=http_date(NOW - 1), **part).status == 412
    handler.date_tells = False
    assert for_fields(handler, if_modified_since=date).status == 200
    assert for_fields(handler, if_unmodified_since=date, **part).status == 412
    assert for_fields(handler, if_none_match=handler.etag, if_modified_since=date).status == 304


def test_curl_resumes(server: Serving, handler: FileHandler, tmp_path: Path) -> None:
    """`curl -r` gets a part, `curl -C -` the rest of what it has."""
    need("curl")
    begun = tmp_path / "begun"
    begun.write_bytes(handler.content[:1_234_567])
    curl = ["curl", "-sS", "--fail", "--max-time", "20", f"{server.url}/file"]
    subprocess.run([*curl, "-C", "-", "-o", begun], check=True)
    assert begun.read_bytes() == handler.content
    assert subprocess.run([*curl, "-r", "0-99"], check=True, stdout=subprocess.PIPE).stdout == handler.content[:100]


# --- connections --------------------------------------------------------------------------------------------------


def test_pipelined(server: Serving, handler: FileHandler) -> None:
    """Answers stay in the order of the requests, whatever kind they are of."""
    names = [b"/1", b"/file", b"/2", b"/3", b"/file", b"/file", b"/4"]
    requests = [get(name) for name in names[:-1]] + [get(names[-1], b"Connection: close")]
    with server.connect() as connection:
        connection.sendall(b"".join(requests))
        replies = parse_replies(read_all(connection))
    expected = [handler.content if name == b"/file" else b"GET %b " % name for name in names]
    assert [reply.body == body for reply, body in zip(replies, expected, strict=True)] == [True] * len(names)


def test_behind_unsent_answers(server: Serving, handler: FileHandler) -> None:
    """A file waits until the answers before it have left the transport; a client that reads late gets all in order."""
    long = b"/" + b"x" * 11_000

    def narrow() -> None:
        (connection,) = server.server.state.connections
        fd = connection._transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)

    def unsent() -> int:
        (connection,) = server.server.state.connections
        return connection._transport.get_write_buffer_size()

    def is_waiting() -> bool:
        return any(one._file_head is not None and one._sending is None for one in server.server.state.connections)

    with slow_client(server, b"/first") as connection:
        until(lambda: bool(handler.requests), "the first is answered")
        server.call(narrow)
        while not server.call(unsent):
            count = len(handler.requests)
            connection.sendall(get(long))
            until(lambda count=count: len(handler.requests) > count, "one more is answered")
        connection.sendall(get(b"/file"))
        until(is_waiting, "the file waits")
        connection.sendall(get(b"/last", b"Connection: close"))
        _, *replies = parse_replies(read_all(connection))
    *before, file, last = replies
    assert before
    assert all(reply.body == b"GET %b " % long for reply in before)
    assert file.body == handler.content
    assert last.body == b"GET /last "


def test_http_1_0(server: Serving, handler: FileHandler) -> None:
    """HTTP/1.0: closed after the file, or kept alive where that is asked for."""
    with server.connect() as connection:
        connection.sendall(get(b"/file", b"Connection: keep-alive", version=b"HTTP/1.0"))
        connection.sendall(get(b"/file", version=b"HTTP/1.0"))
        first, second = parse_replies(read_all(connection))
    assert (first.fields["connection"], first.body == handler.content) == ("keep-alive", True)
    assert (second.fields["connection"], second.body == handler.content) == ("close", True)


def test_half_closed(server: Serving, handler: FileHandler) -> None:
    """A client that has shut its side down gets the file all the same, and then the end."""
    with server.connect() as connection:
        connection.sendall(get(b"/file"))
        connection.shutdown(socket.SHUT_WR)
        (reply,) = parse_replies(read_all(connection))
    assert reply.body == handler.content


def test_refusal_behind_a_file(server: Serving, handler: FileHandler) -> None:
    """What cannot be read is refused after the file that was asked for before it."""
    with server.connect() as connection:
        connection.sendall(get(b"/file") + b"nonsense\r\n\r\n")
        first, second = parse_replies(read_all(connection))
    assert (first.body == handler.content, second.status) == (True, 400)


def test_file_cut_short(server: Serving, handler: FileHandler) -> None:
    """A file that has become shorter ends the connection: the client sees that its content is not whole."""
    handler.response()
    os.truncate(handler.path, 1_000_000)
    with server.connect() as connection:
        connection.sendall(get(b"/file"))
        _, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert len(body) < SIZE


@pytest.mark.clause("BR", "4.9.7", "MUST")
def test_replaced_meanwhile(server: Serving, handler: FileHandler) -> None:
    """DST-05: a file that is replaced while it is sent is sent to its end; it is let go of then."""
    with server.connect() as slow:
        slow.sendall(get(b"/file", b"Connection: close"))
        until(lambda: handler.held is not None, "the download has begun")
        old = handler.content
        handler.path.unlink()
        handler.path.write_bytes(b"new" * 100)
        fresh = FileHandler(handler.path)
        handler.content, handler.digest, handler.held = fresh.content, fresh.digest, None
        assert file_at(server).body == b"new" * 100
        (reply,) = parse_replies(read_all(slow))
        assert reply.body == old
    handler.held = None
    until(lambda: open_files(handler.path.parent) == 0, "both files are closed")


# --- clients that are slow, or go ------------------------------------------------------------------------------------


def slow_client(server: Serving, target: bytes = b"/file") -> socket.socket:
    """Ask for something, and read nothing yet; the kernel keeps little for such a client."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    connection.settimeout(20)
    connection.connect(server.address[:2])
    connection.sendall(get(target))
    return connection


def pass_time(server: Serving, ticks: int) -> None:
    """Let ticks pass in the server; what is due acts."""

    def tick() -> None:
        for _ in range(ticks):
            server.server.state.tick()
            server.server.state.wheel.expire()

    server.call(tick)


def is_sending(server: Serving) -> int:
    return sum(connection._sending is not None for connection in server.server.state.connections)


def test_idler_is_cut(server: Serving) -> None:
    """SEC-05: a client that takes nothing for idle_timeout is cut off; one that goes on slowly is not, however long."""
    with slow_client(server) as idler, slow_client(server) as slow:
        until(lambda: is_sending(server) == 2, "both downloads have begun")
        until(lambda: len(server.server.state.files._blocked) == 2, "both are full")
        left = SIZE
        for _ in range(3):
            pass_time(server, 30)
            left -= len(slow.recv(100_000, socket.MSG_WAITALL))
            pass_time(server, 32)
        assert is_sending(server) == 1
        assert server.server.state.timeouts["write"] <= 1  # published at a tick
        until(lambda: len(server.server.state.connections) == 1, "the idler is gone")
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(idler)) < SIZE
        slow.sendall(get(b"/end", b"Connection: close"))
        assert read_all(slow).endswith(b"GET /end ")


def test_leaves_nothing_behind(server: Serving, handler: FileHandler) -> None:
    """Clients that go in the middle leave no descriptor, no deadline, and nothing in the sender."""
    file_at(server)
    before = open_sockets()
    for at in range(20):
        with slow_client(server) as client:
            until(lambda: is_sending(server) == 1, "the download has begun")
            if at % 2:  # a reset, not a FIN
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        until(lambda: not server.server.state.connections, "the connection is gone")
    until(lambda: open_sockets() <= before, "no more sockets than before")
    assert open_files(handler.path.parent) == 1
    handler.held = None
    assert open_files(handler.path.parent) == 0
    assert not server.server.state.files._blocked
    assert file_at(server).status == 200


def test_many_at_once(server: Serving, handler: FileHandler) -> None:
    """Fifty slow clients hold one descriptor of the file among them, and others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(slow_client(server)) for _ in range(50)]
        until(lambda: is_sending(server) == 50, "all downloads have begun")
        assert open_files(handler.path.parent) == 1
        with server.connect() as other:
            assert ask(other).endswith(b"GET / ")
        assert all(client.recv(1) == b"H" for client in clients)


def test_is_sent_in_pieces(handler: FileHandler) -> None:
    """No client holds the loop for longer than a piece takes: a second one's answer goes out in between."""
    order: list[Any] = []
    sizes: list[int] = []
    real = os.sendfile

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        order.append(out)
        sizes.append(count)
        return real(out, file, offset, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sendfile", sendfile)
        with serving(handler) as server, server.connect() as first, server.connect() as second:
            for client in (first, second):
                client.sendall(get(b"/file", b"Connection: close"))
            assert [len(read_all(client)) > SIZE for client in (first, second)] == [True, True]
    assert max(sizes) <= PIECE_BYTES
    assert len(sizes) >= 2 * SIZE // PIECE_BYTES


def test_drain(handler: FileHandler) -> None:
    """A stopping worker lets a download go on for http.drain, which then says close, and cuts what is slower."""
    with contextlib.ExitStack() as stack:
        with serving(handler) as server:
            slow = stack.enter_context(slow_client(server))
            quick = stack.enter_context(server.connect())
            until(lambda: is_sending(server) == 1, "the download has begun")
            server.call(server.server.state.drain)
            quick.sendall(get(b"/file"))
            (reply,) = parse_replies(read_all(quick))
            assert (reply.fields["connection"], reply.body == handler.content) == ("close", True)
        assert not server.server.state.connections
        assert len(read_all(slow)) < SIZE
