"""The HTTP server over real sockets: many connections, slow ones, limits of the machine, signals, curl."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from responder.config import HTTPConfig
from responder.http.caching import CachedResponse
from responder.http.message import Response, http_date
from responder.http.server import open_socket, raise_file_limit
from tests import http_room
from tests.components import need
from tests.http_room import DEADLINE_S, Serving, ask, read_all, until
from tests.http_wire import NOW, EmptyLane, FixedHandler, Wire, get, parse_replies, post

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, params=[None, EmptyLane()], ids=["at-once", "in-turns"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test twice: with a lane in front, what it leaves waits for the end of the loop's turn."""
    monkeypatch.setattr(sys.modules[__name__], "LANE", request.param)


LANE: Any = None


def serving(handler: Any = None, host: str = "127.0.0.1", **limits: Any) -> contextlib.AbstractContextManager[Serving]:
    """Serve with the lane that the test is run with."""
    return http_room.serving(handler, host, LANE, **limits)


# --- sockets ------------------------------------------------------------------------------------------------------


def test_two_workers_share_a_port_and_families_are_apart() -> None:
    """SO_REUSEPORT for the workers; [::] does not take the IPv4 address with it."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(open_socket("127.0.0.1", 0))
        port = first.getsockname()[1]
        stack.enter_context(open_socket("127.0.0.1", port))
        stack.enter_context(open_socket("localhost", 0))
        both = stack.enter_context(open_socket("::", port))
        assert both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_an_address_that_is_not_ours() -> None:
    """A wrong address is an OSError for the supervisor to report."""
    with pytest.raises(OSError, match="assign"):
        open_socket("192.0.2.1", 0)


def test_ipv6() -> None:
    """Queries over IPv6."""
    with serving(host="::1") as server, server.connect() as connection:
        assert ask(connection).endswith(b"GET / ")


# --- connections --------------------------------------------------------------------------------------------------


def test_pipelining_over_a_socket() -> None:
    """HTG-05: a hundred mixed requests in one write come back in order."""
    with serving() as server, server.connect() as connection:
        stream = b"".join(get(b"/%d" % n) if n % 2 else post(b"%d" % n) for n in range(99))
        connection.sendall(stream + get(b"/99", b"Connection: close"))
        bodies = [reply.body for reply in parse_replies(read_all(connection))]
    assert bodies == [b"GET /%d " % n if n % 2 else b"POST / %d" % n for n in range(100)]


def test_a_thousand_slow_connections_disturb_nobody() -> None:
    """SEC-05: 1,000 connections that dribble are cut off with 408, and a normal client never notices."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))
    with serving(header_timeout="3s", max_connections_per_address=2_000) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(1_000)]
        for connection in slow:
            connection.sendall(b"G")
        with server.connect() as normal:
            for n in range(100):
                for connection in slow[n * 10 : n * 10 + 10]:
                    with contextlib.suppress(OSError):  # cut off already, on a busy machine
                        connection.sendall(b"E")
                assert ask(normal, get(b"/%d" % n)).endswith(b"GET /%d " % n)
        replies = {read_all(connection).partition(b"\r\n")[0] for connection in slow}
        assert replies == {b"HTTP/1.1 408 Request Timeout"}
        for connection in slow:
            connection.close()
        until(lambda: not server.server.state.connections, "every connection is forgotten")


def test_the_connection_past_the_limit_is_closed_at_once() -> None:
    """SEC-05: the total is bounded; others go on, and room is made again."""
    with serving(max_connections=2) as server, server.connect() as first, server.connect() as second:
        ask(first), ask(second)
        with server.connect() as third, contextlib.suppress(ConnectionResetError):
            assert third.recv(1) == b""
        ask(first)
        second.close()
        until(lambda: len(server.server.state.connections) == 1, "the closed one is counted out")
        with server.connect() as again:
            ask(again)


def test_a_client_that_never_reads_is_cut_off() -> None:
    """SEC-05: its unread answers are bounded, and so is its time."""
    handler = FixedHandler(Response(200, b"x" * 50_000))
    with serving(handler, idle_timeout="1s") as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.sendall(get() * 1_000)
        until(lambda: not server.server.state.connections, "the connection is cut off")
        assert len(handler.requests) < 1_000


def test_a_slow_reader_gets_everything() -> None:
    """SEC-05: back-pressure loses nothing: 10 MB wait for a client that reads only once we have stopped."""
    handler = FixedHandler(Response(200, b"x" * 50_000))
    with serving(handler) as server, server.connect() as connection:
        connection.sendall(get() * 199 + get(b"/", b"Connection: close"))
        seen = -1
        while seen != (seen := len(handler.requests)):
            time.sleep(0.05)
        assert seen < 200
        assert len(parse_replies(read_all(connection))) == 200


@pytest.mark.clause("RFC 9112", "9.6", "SHOULD")
def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """HTR-11: 413 is read, not lost to a reset, though the client sends half a megabyte first."""
    with serving() as server, server.connect() as connection:
        connection.sendall(get(b"/", b"Content-Length: 10000000000", method=b"POST"))
        connection.sendall(b"x" * 500_000)
        (reply,) = parse_replies(read_all(connection))
    assert (reply.status, reply.fields["connection"]) == (413, "close")


def test_resets_at_every_moment() -> None:
    """SEC-12: clients that vanish mid-request or mid-answer leave nothing behind, and nobody gets their answer."""
    with serving() as server:
        stream = post(b"abc") + get(b"/b")
        for at in range(0, len(stream), 5):
            with server.connect() as gone:
                gone.sendall(stream[:at])
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            with server.connect() as next_one:
                assert ask(next_one, get(b"/%d" % at)).endswith(b"GET /%d " % at)
        until(lambda: not server.server.state.connections, "every connection is forgotten")


def test_metrics_count_responses_timeouts_and_connections() -> None:
    """Counts reach the metrics once a tick, by closed sets of labels."""

    def value(name: str, **labels: str) -> float:
        return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0

    def counts() -> list[float]:
        return [
            value("revocast_http_responses_total", status="200"),
            value("revocast_http_responses_total", status="405"),
            value("revocast_http_timeouts_total", what="request"),
            value("revocast_http_connections_refused_total", limit="total"),
        ]

    before = counts()
    wire = Wire(limits={"max_connections": 1}).send(get() + get(method=b"PUT") + b"GET")
    Wire(state=wire.state)
    wire.wait(1)
    assert value("revocast_http_connections") == 1
    wire.wait(11).lost()
    wire.state.tick()
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 1]
    assert value("revocast_http_connections") == 0


# --- a worker process ---------------------------------------------------------------------------------------------

WORKER = """
import asyncio, os, resource, signal, sys
import uvloop
from responder.clock import SystemClock
from responder.config import HTTPConfig
from responder.http.message import Response
from responder.http.server import adopt_socket, serve_sockets

class Handler:
    accepted_types = frozenset()
    def handle(self, request, reply):
        loop = asyncio.get_running_loop()
        if request.target == b"/slow":
            loop.call_later(0.3, reply, Response(200, b"slow"))
        elif request.target == b"/fill":
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                reply(Response(200, str(error.errno).encode()))
        elif request.target == b"/free":
            while held:
                os.close(held.pop())
            reply(Response(200, b"freed"))
        elif request.target != b"/never":
            reply(Response(200, b"%d" % os.getpid()))

held = []
if limit := int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
config = HTTPConfig(drain="1s")
ready = lambda: print("ready", flush=True)
uvloop.run(serve_sockets([adopt_socket(int(sys.argv[1]))], Handler(), config, SystemClock(), on_ready=ready))
"""


@contextlib.contextmanager
def worker(listening: socket.socket, file_limit: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Start a worker on an inherited socket, ready to serve; killed at the end if it still runs."""
    fd = listening.fileno()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(fd), str(file_limit)],
        cwd=ROOT, pass_fds=[fd], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            assert line, "the worker has died"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with open_socket("127.0.0.1", 0) as opened:
        yield opened


def connect(listening: socket.socket) -> socket.socket:
    return socket.create_connection(listening.getsockname(), DEADLINE_S)


def test_sigterm_drains(listening: socket.socket) -> None:
    """SIGTERM: a question that was on its way is answered with close, and so are those under way; idle connections end
    then, in order; the rest is cut; exit code 0.
    """
    with worker(listening) as process, contextlib.ExitStack() as stack:
        idle, late, slow, never = (stack.enter_context(connect(listening)) for _ in range(4))
        for connection in (idle, late, slow, never):
            ask(connection)
        slow.sendall(get(b"/slow"))
        never.sendall(get(b"/never"))
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        late.sendall(get(b"/late"))
        (reply,) = parse_replies(read_all(late))
        assert reply.status == 200
        (reply,) = parse_replies(read_all(slow))
        assert (reply.body, reply.fields["connection"]) == (b"slow", "close")
        assert idle.recv(1) == b"", "closed in order"
        with contextlib.suppress(ConnectionResetError):
            assert never.recv(1) == b""
        assert process.wait(DEADLINE_S) == 0
        assert time.monotonic() - started >= 0.9, "the connection under way had its drain time"


def test_a_successor_takes_over_the_queue(listening: socket.socket) -> None:
    """A connection made while no worker runs waits in the inherited socket's queue and is answered by the next."""
    with worker(listening) as first, connect(listening) as connection:
        assert ask(connection).endswith(b"%d" % first.pid)
        first.terminate()
        assert first.wait(DEADLINE_S) == 0
    with connect(listening) as waiting:
        waiting.sendall(get(b"/", b"Connection: close"))
        with worker(listening) as second:
            assert read_all(waiting).endswith(b"%d" % second.pid)


def test_running_out_of_descriptors(listening: socket.socket) -> None:
    """SEC-05: the accept loop survives EMFILE: it sheds what it cannot take, does not spin, and recovers."""
    with worker(listening, file_limit=150) as process, connect(listening) as control:
        assert ask(control, get(b"/fill")).endswith(b"24")  # EMFILE
        spent = cpu_seconds(process.pid)
        for _ in range(3):
            with connect(listening) as shed, contextlib.suppress(ConnectionResetError):
                shed.sendall(get())
                assert shed.recv(1) == b""
        assert ask(control, get(b"/")).endswith(b"%d" % process.pid)
        assert cpu_seconds(process.pid) - spent < 0.5
        assert ask(control, get(b"/free")).endswith(b"freed")
        with connect(listening) as again:
            assert ask(again).endswith(b"%d" % process.pid)


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def test_the_file_limit_bounds_the_connections() -> None:
    """SEC-05: max_connections never promises more than the process may open."""
    script = (
        "import resource; from responder.config import HTTPConfig; from responder.http.server import raise_file_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(raise_file_limit(HTTPConfig(max_connections=50)), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "print(raise_file_limit(HTTPConfig()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in said.stdout.splitlines() if line[0].isdigit() and "max_connections" not in line]
    assert lines == ["50 114", "236 300"]
    assert raise_file_limit(HTTPConfig(max_connections=10)) == 10


# --- curl ---------------------------------------------------------------------------------------------------------


def curl(*arguments: str) -> str:
    need("curl")
    said = subprocess.run(["curl", "-sS", "-m", "10", *arguments], capture_output=True, text=True, check=True)
    return said.stdout


def test_curl_waits_for_no_continue() -> None:
    """HTR-10: curl's Expect: 100-continue is answered at once: here it would wait longer than it may take at all."""
    with serving() as server:
        said = curl(
            "--expect100-timeout", "30", "-H", "Expect: 100-continue", "-H", "Content-Type: application/ocsp-request",
            "--data-binary", "x" * 1_100, server.url,
        )  # fmt: skip
    assert said == "POST / " + "x" * 1_100


def test_curl_chunked_http2_upgrade_and_http_1_0() -> None:
    """HTG-03, HTG-05: other ways in which curl may speak."""
    typed = ("-H", "Content-Type: application/ocsp-request")
    with serving() as server:
        assert curl("-H", "Transfer-Encoding: chunked", *typed, "--data-binary", "abc", server.url) == "POST / abc"
        assert curl("--http2", server.url + "/a") == "GET /a "
        assert curl("--http1.0", server.url + "/a") == "GET /a "
        assert curl("--path-as-is", server.url + "//a/../b%2F") == "GET //a/../b%2F "


def test_curl_revalidates() -> None:
    """HTC-06: ETag and date of a first answer make the second a 304, for curl too."""
    response = CachedResponse(b"body", b"application/ocsp-response", NOW - 100, NOW + 10**9, NOW + 10**8)
    status = ("-o", os.devnull, "-w", "%{http_code} %{size_download} %{num_connects}\n")
    with serving(FixedHandler(response)) as server:
        fields = curl("-I", server.url)
        etag = next(line.partition(": ")[2].strip() for line in fields.splitlines() if line.startswith("ETag"))
        assert curl("-H", f"If-None-Match: {etag}", *status, server.url) == "304 0 1\n"
        assert curl("-z", http_date(NOW).decode(), *status, server.url) == "304 0 1\n"
        assert curl(*status, server.url, *status, server.url + "/b") == "200 4 1\n200 4 0\n"


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE"])
def test_curl_other_methods(method: str) -> None:
    """HTR-09: 405 and Allow."""
    with serving() as server:
        said = curl("-i", "-X", method, server.url)
    assert said.startswith("HTTP/1.1 405 ")
    assert "Allow: GET, HEAD, POST" in said
