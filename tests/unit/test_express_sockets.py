"""The express lane on sockets lent to it: the same octets as ever, and every socket given back when it must be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from fastpath.express_sockets import ExpressSockets
from responder.http.message import Handler
from responder.http.routes import Routes
from responder.http.server import HTTPServer, open_socket
from responder.log import configure_logging
from tests.edge_room import until
from tests.express_room import ExpressRoom, Streams, cut, get, post
from tests.http_wire import parse_replies
from tests.reference import request_builder as build
from tests.unit.test_http_files import FileHandler

READ_WITHIN_S = 10.0


class Served:
    """A real server in front of a room's answers, and its clients, all on one loop."""

    def __init__(self, room: ExpressRoom, server: HTTPServer, address: tuple[str, int]) -> None:
        self.room = room
        self.server = server
        self.address = address
        self.loop = asyncio.get_running_loop()
        self.opened: list[socket.socket] = []

    async def connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece is a packet of its own
        self.opened.append(client)
        await self.loop.sock_connect(client, self.address)
        return client

    async def turns(self, count: int = 8) -> None:
        """Let the loop turn: what was sent is read, answered and written by then."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def read_end(self, client: socket.socket) -> bytes:
        """Read until the server closes, or resets."""
        octets = b""
        async with asyncio.timeout(READ_WITHIN_S):
            with contextlib.suppress(ConnectionResetError):
                while piece := await self.loop.sock_recv(client, 65_536):
                    octets += piece
        return octets

    async def connect_lent(self) -> socket.socket:
        """Connect, and ask once: then the socket is lent."""
        client, before = await self.connect(), self.lent
        await self.ask(client, get(self.room.kept[0]))
        await until("the loan", lambda: self.lent == before + 1)
        return client

    async def ask(self, client: socket.socket, request: bytes, count: int = 1) -> bytes:
        """Send, and read that many whole answers."""
        await self.loop.sock_sendall(client, request)
        octets = b""
        async with asyncio.timeout(READ_WITHIN_S):
            while True:
                with contextlib.suppress(AssertionError):
                    if len(parse_replies(octets)) >= count:
                        return octets
                octets += await self.loop.sock_recv(client, 65_536)

    @property
    def connections(self) -> list[object]:
        return list(self.server.state.connections)

    @property
    def lent(self) -> int:
        return sum(connection._lent_fd >= 0 for connection in self.server.state.connections)


def serve(room: ExpressRoom, body: Callable[[Served], Awaitable[None]], handler: Handler | None = None) -> None:
    """Run ``body`` beside a server."""

    @contextlib.asynccontextmanager
    async def served() -> AsyncIterator[Served]:
        with open_socket("127.0.0.1", 0) as listening:
            server = HTTPServer(handler or room.endpoint, room.config.http, room.clock, room.edge.ready)
            await server.start([listening])
            one = Served(room, server, listening.getsockname()[:2])
            try:
                yield one
            finally:
                for client in one.opened:
                    client.close()
                await server.drain()

    async def main() -> None:
        async with served() as one:
            await body(one)

    configure_logging("test", "error")
    uvloop.run(main())


@pytest.fixture(scope="module", params=["express = true", "express = false"])
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExpressRoom:
    """A room with the lane, and one where every read of a lent socket is its owner's."""
    return ExpressRoom(tmp_path_factory.mktemp("sockets"), request.param)


@pytest.fixture
def room(tmp_path: Path) -> ExpressRoom:
    return ExpressRoom(tmp_path)


class Files(FileHandler):
    """One file, beside the queries."""

    def owns(self, target: bytes) -> bool:
        return target == b"/file"


def test_files_among_ready_answers(standing: ExpressRoom, tmp_path: Path) -> None:
    """A lent socket comes back for a file, which goes out between the answers before and after it."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(700_000))
    handler = Files(path)
    file_request = b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def body(served: Served) -> None:
        standing.refill()
        query = get(standing.kept[0])
        client = await served.connect_lent()
        (answer,) = parse_replies(await served.ask(client, query))
        for _ in range(3):
            (reply,) = parse_replies(await served.ask(client, file_request))
            assert (reply.status, reply.body == handler.content) == (200, True)
            (reply,) = parse_replies(await served.ask(client, query))
            assert reply.body == answer.body
        for requests in ((query, file_request, query, query), (file_request, query, file_request, query)):
            replies = parse_replies(await served.ask(client, b"".join(requests), len(requests)))
            expected = [handler.content if request is file_request else answer.body for request in requests]
            assert [reply.body == body for reply, body in zip(replies, expected, strict=True)] == [True] * len(requests)

    serve(standing, body, Routes(standing.endpoint, handler))


@pytest.mark.clause("RFC 9112", "11.2", "MUST")
def test_any_stream_gets_the_octets_of_the_reference(standing: ExpressRoom) -> None:
    """HTG-02: valid, odd, wrong and damaged requests, cut anywhere, over real sockets and over the reference."""
    streams = Streams(standing)

    async def body(served: Served) -> None:
        loop = served.loop
        for seed in range(3_000):
            chance = random.Random(seed)
            pieces = cut(chance, streams.stream(chance))
            standing.refill()
            expected = standing.see("reference", *pieces).out
            standing.refill()
            client = await served.connect()
            if seed % 2:
                await served.ask(client, get(standing.kept[0]))
                await served.turns(3)  # its socket is lent from now on
            with contextlib.suppress(ConnectionError):  # it may have hung up on what came before
                for piece in pieces:
                    await loop.sock_sendall(client, piece)
                    await served.turns()
                client.shutdown(socket.SHUT_WR)
            assert await served.read_end(client) == expected, (seed, pieces)
            client.close()
            served.opened.remove(client)

    serve(standing, body)


def test_a_plain_connection_is_read_past_its_transport(room: ExpressRoom) -> None:
    kept = room.kept[0]

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        first = await served.ask(client, get(kept))
        (connection,), sockets = served.server.state.connections, served.server.state.sockets
        assert sockets is not None
        for request in (get(kept), post(kept), get(kept) + post(kept)):
            await served.ask(client, request, request.count(b"HTTP/1.1\r\n"))
        assert await served.ask(client, get(kept)) == first
        assert sockets.activity(connection._lent_fd, connection)[0] == 6, "all but the first"

    serve(room, body)


def test_a_connection_whose_first_answer_was_fetched_is_lent_too(room: ExpressRoom) -> None:
    late = next(iter(room.shelf.values()))

    async def body(served: Served) -> None:
        client = await served.connect()
        await served.ask(client, get(late))
        await until("the loan", lambda: served.lent == 1)
        await served.ask(client, get(late))

    serve(room, body)


def test_nonces_are_answered_on_a_lent_socket(room: ExpressRoom) -> None:
    """What the presigner signs for a client goes past the transport too, and leaves the socket where it is."""
    kept = next(iter(room.live.values()))

    async def body(served: Served) -> None:
        client = await served.connect()
        for number in range(3):
            nonce = build.nonce(bytes([number]) * 32)
            for request in (get(kept, extensions=[nonce]), post(kept, extensions=[nonce])):
                (reply,) = parse_replies(await served.ask(client, request))
                assert reply.body == room.signed(kept, b"\x04\x20" + bytes([number]) * 32)
                await until("the loan", lambda: served.lent == 1)

    serve(room, body)


def test_without_the_lane_a_plain_connection_is_lent_too(tmp_path: Path) -> None:
    """`http.express = false` turns the lane's reading off, not its sockets: llhttp reads what came."""
    room = ExpressRoom(tmp_path, "express = false")
    kept = room.kept[0]

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        one = await served.ask(client, get(kept))
        assert await served.ask(client, get(kept)) == one
        assert served.lent == 1
        assert served.server.state.turns is None
        two = await served.ask(client, get(kept) * 2, 2)
        assert (two, served.lent) == (one * 2, 0)

    serve(room, body)


def test_what_is_unusual_gives_the_socket_back_and_is_answered(room: ExpressRoom) -> None:
    kept = room.kept[0]

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        (reply,) = parse_replies(await served.ask(client, get(kept, b"If-None-Match: *")))
        assert (reply.status, served.lent) == (304, 0)
        # It stays with its transport; the lane still answers what is plain.
        assert await served.ask(client, get(kept))
        assert served.lent == 0

    serve(room, body)


def test_a_request_with_the_end_behind_it(room: ExpressRoom) -> None:
    """The end of the stream may come with the last request: it is told once, and must not be lost."""
    kept = room.kept[0]

    async def body(served: Served) -> None:
        for connect in (served.connect, served.connect_lent):
            client = await connect()
            await served.loop.sock_sendall(client, get(kept))
            client.shutdown(socket.SHUT_WR)
            assert len(parse_replies(await served.read_end(client))) == 1
        await until("the connections to end", lambda: not served.connections)

    serve(room, body)


def test_a_last_request_ends_a_lent_connection(room: ExpressRoom) -> None:
    kept, late = room.kept[0], next(iter(room.shelf.values()))

    async def body(served: Served) -> None:
        for one in (kept, late):
            client = await served.connect_lent()
            await served.loop.sock_sendall(client, get(one, b"Connection: close"))
            (reply,) = parse_replies(await served.read_end(client))
            assert (reply.body, reply.fields["connection"]) == (one.response_der, "close")
            await until("the connection to end", lambda: not served.connections)
        assert served.server.state.responses[200] + room.edge.ready.take_messages() >= 3

    serve(room, body)


def test_a_client_that_goes_away_leaves_nothing(room: ExpressRoom) -> None:
    kept = room.kept[0]

    async def body(served: Served) -> None:
        for reset in (False, True):
            for before in (b"", get(kept), get(kept)[:20], get(kept) + get(kept)[:30]):
                client = await served.connect_lent()
                if before:
                    await served.loop.sock_sendall(client, before)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                await until("the connection to end", lambda: not served.connections)
        assert served.server.state.sockets is not None

    serve(room, body)


def test_a_client_that_does_not_read_is_given_to_its_transport(room: ExpressRoom) -> None:
    """Back-pressure is the transport's: what the socket does not take waits there, in order, and reading stops."""
    kept = room.kept[0]

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        one = await served.ask(client, get(kept))
        sent = 0
        (connection,) = served.server.state.connections
        while served.lent or connection._reading:
            assert sent < 100_000
            await served.loop.sock_sendall(client, get(kept) * 16)
            sent += 16
            await served.turns()
        octets = b""
        async with asyncio.timeout(READ_WITHIN_S):
            while len(octets) < sent * len(one):
                octets += await served.loop.sock_recv(client, 65_536)
        assert octets == one * sent
        assert await served.ask(client, get(kept)) == one

    serve(room, body)


def test_a_miss_keeps_the_socket_and_later_questions_their_order(room: ExpressRoom) -> None:
    late = next(iter(room.shelf.values()))
    ready = room.kept[0]

    async def body(served: Served) -> None:
        room.stored.is_slow = True
        client = await served.connect_lent()
        await served.loop.sock_sendall(client, get(late))
        await until("the fetch", lambda: room.stored.waiting)
        assert served.lent == 1
        room.stored.waiting.pop()()
        (reply,) = parse_replies(await served.ask(client, b""))
        assert reply.body == late.response_der
        assert served.lent == 1, "and goes on"
        room.refill()
        await served.loop.sock_sendall(client, get(late))
        await until("the second fetch", lambda: room.stored.waiting)
        await served.loop.sock_sendall(client, get(ready))
        await served.turns()
        assert served.lent == 0, "a second question while the first waits is the ordinary way's"
        room.stored.waiting.pop()()
        first, second = parse_replies(await served.ask(client, b"", 2))
        assert (first.body, second.body) == (late.response_der, ready.response_der)

    serve(room, body)


def test_a_miss_of_a_client_that_has_gone(room: ExpressRoom) -> None:
    late = next(iter(room.shelf.values()))

    async def body(served: Served) -> None:
        room.stored.is_slow = True
        client = await served.connect_lent()
        await served.loop.sock_sendall(client, get(late))
        await until("the fetch", lambda: room.stored.waiting)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until("the connection to end", lambda: not served.connections)
        other = await served.connect()  # most likely on the same descriptor
        await served.turns()
        room.stored.waiting.pop()()
        (reply,) = parse_replies(await served.ask(other, get(room.kept[0])))
        assert reply.body == room.kept[0].response_der

    serve(room, body)


@pytest.mark.parametrize("asked_again", [False, True])
@pytest.mark.parametrize(("header", "idle"), [(5, 60), (20, 3)])
def test_lent_sockets_end_when_idle(tmp_path: Path, header: int, idle: int, asked_again: bool) -> None:
    """SEC-05: idle_timeout after the last answer, whoever gave it."""
    room = ExpressRoom(tmp_path, f'header_timeout = "{header}s"\nidle_timeout = "{idle}s"')

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        state = served.server.state
        if asked_again:
            for _ in range(2):
                state.tick()
            await served.ask(client, get(room.kept[0]))
        for _ in range(idle):
            state.tick()
            await served.turns()
            assert served.lent == 1
        state.tick()
        assert await served.read_end(client) == b""

    serve(room, body)


def test_draining_takes_every_socket_back(room: ExpressRoom) -> None:
    async def body(served: Served) -> None:
        clients = [await served.connect_lent() for _ in range(20)]
        assert served.lent == 20
        draining = asyncio.ensure_future(served.server.drain())
        await served.turns()
        assert served.lent == 0
        for client in clients[:10]:
            (reply,) = parse_replies(await served.ask(client, get(room.kept[0])))
            assert reply.fields["connection"] == "close"
        for client in clients:
            assert await served.read_end(client) == b""
            client.close()
        await draining

    serve(room, body)


def test_the_number_of_a_descriptor_may_be_another_s(room: ExpressRoom) -> None:
    """What is given back late must not take somebody else's socket with it."""

    class Owner:
        def __init__(self) -> None:
            self.calls: list[tuple[bytes, bytes]] = []

        def returned(self, data: bytes, unsent: bytes) -> None:
            self.calls.append((data, unsent))

        def missing(self, answer: object) -> None:
            raise AssertionError

    sockets = ExpressSockets(room.lane)
    first, second = Owner(), Owner()
    here, there = socket.socketpair()
    with here, there:
        sockets.lend(here.fileno(), first)
        with pytest.raises(ValueError, match="lent already"):
            sockets.lend(here.fileno(), second)
        sockets.take_back(here.fileno(), second)
        there.send(b"x")
        sockets.run()
        assert first.calls == [(b"x", b"")]
        sockets.take_back(here.fileno(), first)
        sockets.lend(here.fileno(), second)
        sockets.take_back(here.fileno(), first)
        assert sockets.activity(here.fileno(), first) == (0, 0)
        there.send(get(room.kept[0]))
        sockets.run()
        assert sockets.activity(here.fileno(), second) == (1, 0)
        assert len(parse_replies(there.recv(65_536))) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        sockets.lend(os.sysconf("SC_OPEN_MAX") + 1, first)


class Broken:
    """An owner whose every method fails but the last resort."""

    def __init__(self) -> None:
        self.has_failed = False

    def returned(self, data: bytes, unsent: bytes) -> None:
        raise RuntimeError("broken on purpose")

    def missing(self, answer: object) -> None:
        raise RuntimeError("broken on purpose")

    def failed(self) -> None:
        self.has_failed = True


def test_a_mistake_about_one_costs_the_others_nothing(room: ExpressRoom) -> None:
    """What an edge has announced once is not announced again: the whole batch is served, and the mistake told after it."""
    sockets = ExpressSockets(room.lane)
    pairs = [socket.socketpair() for _ in range(6)]
    owners = [Broken() for _ in pairs]
    with contextlib.ExitStack() as stack:
        for (here, there), owner in zip(pairs, owners, strict=True):
            stack.enter_context(here)
            stack.enter_context(there)
            there.settimeout(READ_WITHIN_S)
            sockets.lend(here.fileno(), owner)
        for number, (_, there) in enumerate(pairs):
            there.send(get(room.kept[0]) if number % 2 else b"garbage")
        with pytest.raises(RuntimeError, match="broken on purpose"):
            sockets.run()
        for number, (_, there) in enumerate(pairs):
            assert owners[number].has_failed == (number % 2 == 0)
            if number % 2:
                assert len(parse_replies(there.recv(65_536))) == 1


def test_more_than_one_read_takes_is_not_left_in_the_socket(room: ExpressRoom) -> None:
    """A read that fills the buffer with whole requests says nothing of what lies behind it."""
    kept = room.kept[0]
    plain = get(kept)
    filler = b"X: " + b"y" * 4_000
    requests = get(kept, *[filler] * 3) * 5
    padding = 65_536 - len(requests) - len(plain) - len(b"X: \r\n")
    requests += get(kept, b"X: " + b"y" * padding)
    assert len(requests) == 65_536

    async def body(served: Served) -> None:
        client = await served.connect_lent()
        answers = parse_replies(await served.ask(client, requests + plain, 7))
        assert [reply.body for reply in answers] == [kept.response_der] * 7

    serve(room, body)
