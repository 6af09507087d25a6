"""What all connections of a worker share: limits, handler, clock, deadlines, and counts. Called by protocol and server."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import TYPE_CHECKING

from responder import metrics
from responder.clock import Clock
from responder.config import HTTPConfig
from responder.http.deadlines import DeadlineWheel
from responder.http.file_sender import FileSender
from responder.http.heads import HeadReader
from responder.http.message import Express, ExpressSockets, Handler
from responder.http.turns import Turns

if TYPE_CHECKING:
    from responder.http.protocol import HTTPProtocol


def address_key(peer: str) -> bytes:
    """Return what connections are counted by: an IPv4 address, or the /64 that one IPv6 client can roam in."""
    if ":" not in peer:
        return peer.encode("latin-1", "replace")
    try:
        octets = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
    except OSError:
        return peer.encode("latin-1", "replace")
    if octets[:12] == b"\x00" * 10 + b"\xff\xff":  # an IPv4 address in IPv6's clothes
        return socket.inet_ntop(socket.AF_INET, octets[12:]).encode("ascii")
    return octets[:8]


class ServerState:
    """Owned by the server, written by its connections; one event loop's thread only.

    Counts are plain integers on the hot path and go to the metrics once a tick.
    """

    def __init__(
        self,
        handler: Handler,
        config: HTTPConfig,
        clock: Clock,
        express: Express | None = None,
        turns: Turns | None = None,
        sockets: ExpressSockets | None = None,
    ) -> None:
        """Without ``turns`` everything is done as it arrives; without ``sockets`` connections keep theirs."""
        self.handler = handler
        self.config = config
        self.clock = clock
        self.idle_timeout = config.idle_timeout
        self.wheel = DeadlineWheel()
        self.no_head = self.new_head()  # of connections that have not needed one of their own
        self.paces_expiry = False  # True: whoever calls tick also has the wheel expire what is due
        self.draining = False
        self._express = express
        self.turns = turns
        self.sockets = sockets  # None while draining
        self.files = FileSender(turns.add if turns is not None else None)
        # What connections call; None while draining, when every answer says `Connection: close`.
        self.ready = express.ready if express else None
        self.read = express.read if express else None
        self.fetch = express.fetch if express else None
        self.empty = asyncio.Event()  # set when the last connection ends while draining
        self.connections: set[HTTPProtocol] = set()
        self.responses: Counter[int] = Counter()  # by status, since the last tick
        self.timeouts: Counter[str] = Counter()  # by what was waited for, since the last tick
        self.refused: Counter[str] = Counter()  # connections, by the limit that refused them, since the last tick
        self._by_address: Counter[bytes] = Counter()

    def new_head(self) -> HeadReader:
        """Make a connection's reader of heads."""
        return HeadReader(self.config.max_header_bytes, self.config.max_target_bytes)

    def admit(self, connection: HTTPProtocol, key: bytes) -> bool:
        """Count a new connection in, or say that a limit is reached (SEC-05)."""
        if len(self.connections) >= self.config.max_connections:
            self.refused["total"] += 1
            return False
        if self._by_address[key] >= self.config.max_connections_per_address:
            self.refused["address"] += 1
            return False
        self._by_address[key] += 1
        self.connections.add(connection)
        return True

    def release(self, connection: HTTPProtocol, key: bytes) -> None:
        """Count an admitted connection out."""
        self.connections.discard(connection)
        self._by_address[key] -= 1
        if self._by_address[key] <= 0:
            del self._by_address[key]
        if self.draining and not self.connections:
            self.empty.set()

    def tick(self) -> None:
        """Let a second pass: deadlines first (unless somebody paces them), then the counts."""
        self.wheel.tick()
        if self.sockets is not None:
            self.sockets.tick = self.wheel.now
        if not self.paces_expiry:
            self.wheel.expire()
        self.publish()

    def drain(self) -> None:
        """From now on every answer is its connection's last."""
        self.draining = True
        self.ready = self.read = None
        for connection in self.connections:
            connection.take_back()
        self.sockets = None

    def publish(self) -> None:
        """Move the counts into the metrics."""
        metrics.HTTP_CONNECTIONS.set(len(self.connections))
        if self._express is not None:
            self.responses[200] += self._express.take_messages()
        for status, count in self.responses.items():
            metrics.HTTP_RESPONSES.labels(str(status)).inc(count)
        for what, count in self.timeouts.items():
            metrics.HTTP_TIMEOUTS.labels(what).inc(count)
        for limit, count in self.refused.items():
            metrics.HTTP_CONNECTIONS_REFUSED.labels(limit).inc(count)
        self.responses.clear()
        self.timeouts.clear()
        self.refused.clear()
