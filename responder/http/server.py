"""The worker's listening side: sockets, the second's tick, and the drain.

``open_socket`` is for the supervisor, which opens one socket for each worker slot and keeps it, so that a successor
takes over whatever connections wait in its queue (DESIGN: workers that bind by themselves lose some). A worker calls
``serve_sockets`` with the sockets that it inherited. Knows no OCSP.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable, Sequence

from responder.clock import Clock
from responder.config import HTTPConfig
from responder.http.message import Express, Handler
from responder.http.protocol import HTTPProtocol
from responder.http.state import ServerState
from responder.http.turns import Turns
from responder.log import get_logger

log = get_logger(__name__)

BACKLOG = 4_096  # connections that wait while a worker is busy or replaced; the kernel caps it at somaxconn
SPARE_FILES = 64  # descriptors for everything but clients: Redis, logs, metrics, the loop itself
TICK_S = 1.0
EXPIRY_STEPS = 64  # into which a tick's expired connections are spread
EXPIRED_AT_LEAST = 4  # in each step
LAST_ANSWER_S = 0.5  # that a stopping worker leaves to connections that are between requests


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening TCP socket that others may share (SO_REUSEPORT); ``port`` 0 takes a free one.

    ``host`` is an address or a name; a name with several addresses gives the first. Raises OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # 0.0.0.0 and [::] are two addresses in the configuration, and two sockets here.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def adopt_socket(fd: int) -> socket.socket:
    """Take over a listening socket inherited from the supervisor."""
    listening = socket.socket(fileno=fd)
    listening.setblocking(False)
    return listening


def raise_file_limit(config: HTTPConfig) -> int:
    """Allow this process the descriptors that ``max_connections`` needs; returns the connections that will fit.

    The soft limit (often 1024) is raised as far as the hard one lets us. Should descriptors run out all the same,
    libuv keeps one in reserve with which it takes and closes what it cannot serve: the loop neither ends nor spins.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    fitting = config.max_connections
    if soft != resource.RLIM_INFINITY:
        fitting = max(1, min(fitting, soft - SPARE_FILES))
    if fitting < config.max_connections:
        log.warning("max_connections_lowered", configured=config.max_connections, fitting=fitting, file_limit=soft)
    return fitting


class HTTPServer:
    """One worker's server; runs on the current event loop, uvloop's by preference."""

    def __init__(self, handler: Handler, config: HTTPConfig, clock: Clock, express: Express | None = None) -> None:
        fitting = raise_file_limit(config)
        self._config = config.model_copy(update={"max_connections": fitting})
        turns, self._sockets = None, None
        if express is not None:
            loop = asyncio.get_running_loop()
            self._sockets = express.open_sockets()
            loop.add_reader(self._sockets.fileno(), self._sockets.run)
            if express.read is not None:
                # Without the lane nothing tells ready answers from others before they are read.
                turns = Turns(loop.call_soon, express.ready_count)
        self.state = ServerState(handler, self._config, clock, express, turns, self._sockets)
        self.state.paces_expiry = True
        asyncio.get_running_loop().add_reader(self.state.files.fileno(), self.state.files.run)
        self._servers: list[asyncio.Server] = []
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on ``sockets`` from now on."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            self._servers.append(
                await loop.create_server(lambda: HTTPProtocol(self.state), sock=listening, backlog=BACKLOG)
            )
        self._tick()

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self.state.tick()
        self._expire(max(EXPIRED_AT_LEAST, self.state.wheel.due_count // EXPIRY_STEPS))

    def _expire(self, most: int) -> None:
        """End connections that are due, a few at a time: a thousand at once would all come back at once."""
        if self.state.wheel.expire(most):
            asyncio.get_running_loop().call_later(TICK_S / EXPIRY_STEPS, self._expire, most)

    async def drain(self) -> None:
        """Stop accepting, let what is under way finish for ``http.drain`` seconds, then cut the rest."""
        state = self.state
        state.drain()
        for server in self._servers:
            server.close()
        # Whoever asks within a moment still gets an answer, and is told in it to come to another worker; a request that
        # is on its way to a connection that we hang up on is lost.
        if state.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(state.empty.wait(), LAST_ANSWER_S)
        for connection in list(state.connections):
            connection.drain()
        if state.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(state.empty.wait(), self._config.drain)
        cut = list(state.connections)
        for connection in cut:
            connection.cut()
        if cut:
            log.info("connections_cut", count=len(cut))
        # One turn of the loop for the transports to end what was cut.
        await asyncio.sleep(0)
        if self._ticker is not None:
            self._ticker.cancel()
        if self._sockets is not None:
            asyncio.get_running_loop().remove_reader(self._sockets.fileno())
        asyncio.get_running_loop().remove_reader(state.files.fileno())
        state.publish()


async def serve_sockets(
    sockets: Sequence[socket.socket],
    handler: Handler,
    config: HTTPConfig,
    clock: Clock,
    *,
    express: Express | None = None,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until ``stop`` is set, then drain and return.

    Without ``stop``, SIGTERM and SIGINT stop it. ``on_ready`` is called once connections are accepted.
    """
    if stop is None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    server = HTTPServer(handler, config, clock, express)
    await server.start(sockets)
    if on_ready is not None:
        on_ready()
    await stop.wait()
    await server.drain()
