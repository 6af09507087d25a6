"""A proxy in front of Redis that strikes after the k-th command of a connection's client.

It reads RESP as far as to count whole commands. At the k-th it either delivers the command and withholds the reply, or
withholds the command; then it cuts every connection, and calls ``on_strike`` (a test kills the role there). Afterwards
it refuses connections until ``heal``. Counts over all connections, so that k means the k-th command of the role.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 65_536


def command_ends(data: bytes, start: int) -> list[int]:
    """Return where each whole RESP command (an array of bulk strings) ends in ``data``, from ``start`` on."""
    ends: list[int] = []
    at = start
    while at < len(data):
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            break
        assert data[at : at + 1] == b"*", f"not a RESP command: {data[at : at + 20]!r}"
        position = line_end + 2
        for _ in range(int(data[at + 1 : line_end])):
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                return ends
            position = line_end + 2 + int(data[position + 1 : line_end]) + 2
        if position > len(data):
            break
        ends.append(position)
        at = position
    return ends


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    pending: bytearray = field(default_factory=bytearray)  # an unfinished command


class StrikingProxy:
    """Listens on a unix socket and passes everything on to Redis's, until it strikes."""

    def __init__(self, listen: Path, redis_socket: Path | str) -> None:
        self.path = listen
        self.redis_socket = str(redis_socket)
        self.commands = 0
        self.struck = threading.Event()
        self._strike_at: int | None = None
        self._deliver = False
        self._on_strike: Callable[[], None] = lambda: None
        self._refusing = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(listen))
        self._listener.listen(64)
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._pairs: list[_Pair] = []
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def strike(self, k: int, *, deliver: bool, on_strike: Callable[[], None] = lambda: None) -> None:
        """Strike at the k-th command from now (1 is the next one)."""
        with self._lock:
            self.commands = 0
            self.struck.clear()
            self._strike_at, self._deliver, self._on_strike = k, deliver, on_strike

    def heal(self) -> None:
        """Pass everything on again; counting starts anew."""
        with self._lock:
            self._strike_at = None
            self._refusing = False
            self.commands = 0

    def switch(self, redis_socket: Path | str) -> None:
        """Fail over: cut every connection, and connect the next ones to another server."""
        with self._lock:
            self.redis_socket = str(redis_socket)
            self._cut()

    def close(self) -> None:
        """Stop."""
        self._closing = True
        self._waker.send(b"x")
        self._thread.join(5)
        for held in (self._listener, self._wake, self._waker):
            held.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(1.0):
                with self._lock:
                    self._handle(key)
        with self._lock:
            self._cut()

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            client, _ = self._listener.accept()
            if self._refusing:
                client.close()
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.redis_socket)
            except OSError:
                client.close()
                server.close()
                return
            pair = _Pair(client, server)
            self._pairs.append(pair)
            self._selector.register(client, selectors.EVENT_READ, (pair, "client"))
            self._selector.register(server, selectors.EVENT_READ, (pair, "server"))
        elif key.data is not None:
            pair, side = key.data
            if pair not in self._pairs:
                return
            source, sink = (pair.client, pair.server) if side == "client" else (pair.server, pair.client)
            try:
                data = source.recv(CHUNK)
                if not data:
                    self._drop(pair)
                elif side == "server":
                    sink.sendall(data)
                else:
                    self._from_client(pair, data)
            except OSError:
                self._drop(pair)

    def _from_client(self, pair: _Pair, data: bytes) -> None:
        pair.pending += data
        passed = 0
        for end in command_ends(bytes(pair.pending), 0):
            self.commands += 1
            if self._strike_at is not None and self.commands == self._strike_at:
                pair.server.sendall(bytes(pair.pending[: end if self._deliver else passed]))
                if self._deliver:
                    # The server must have carried the command out before the cut: its reply says so, and is thrown away.
                    with contextlib.suppress(OSError):
                        pair.server.settimeout(5)
                        pair.server.recv(CHUNK)
                self._refusing = True
                self._cut()
                self._on_strike()
                self.struck.set()
                return
            passed = end
        if passed:
            pair.server.sendall(bytes(pair.pending[:passed]))
            del pair.pending[:passed]

    def _drop(self, pair: _Pair) -> None:
        self._pairs.remove(pair)
        for held in (pair.client, pair.server):
            self._selector.unregister(held)
            held.close()

    def _cut(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair)
