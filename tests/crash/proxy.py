"""A proxy in front of Redis that strikes at the k-th command of its clients.

It reads RESP as far as to count whole commands. At the k-th it delivers the command and withholds the reply, or
withholds the command; in both cases Redis has done all that it was sent before ``on_strike`` is called with the process
id of the client (a test kills the role there), and then every connection is cut. Afterwards it refuses connections
until ``heal``. It counts over all connections, so that k means the k-th command of a role with only this way to Redis.

Without ``count`` it passes bytes on unread, as a replica's link wants it, which is no plain RESP.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 65_536
DONE_WITHIN_S = 10.0  # for Redis to do what it was sent
DONE = b"the proxy asks whether all is done"
ASK_DONE = b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(DONE), DONE)


def command_ends(data: bytes) -> list[int]:
    """Return where each whole RESP command (an array of bulk strings) ends in ``data``."""
    ends: list[int] = []
    at = 0
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


def command_name(command: bytes) -> str:
    """Return the first word of a whole RESP command."""
    return command.split(b"\r\n", 3)[2].decode()


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    pid: int  # of the client's process; 0 where it is not known
    pending: bytearray = field(default_factory=bytearray)  # an unfinished command


@dataclass(frozen=True)
class _Strike:
    at: int
    deliver: bool
    cut: bool
    then: Callable[[int], object]
    pid: int | None
    name: str | None

    def counts(self, pid: int, name: str) -> bool:
        """Say whether a command is one of those that are counted."""
        return self.pid in (None, pid) and self.name in (None, name)


class StrikingProxy:
    """Listens on a unix socket (``listen`` None: on a TCP port of 127.0.0.1) and passes all on to Redis's socket."""

    def __init__(self, listen: Path | None, redis_socket: Path, *, count: bool = True) -> None:
        self.path = listen
        self.commands = 0  # since the last ``strike`` or ``heal``
        self.names: list[str] = []  # theirs
        self.struck = threading.Event()
        self._redis_socket = redis_socket
        self._count = count
        self._strike: _Strike | None = None
        self._refusing = False
        if listen is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        else:
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

    @property
    def port(self) -> int:
        """The TCP port, where it has one."""
        return int(self._listener.getsockname()[1])

    def strike(
        self,
        k: int,
        *,
        deliver: bool = False,
        cut: bool = True,
        then: Callable[[int], object] = lambda _: None,
        pid: int | None = None,
        name: str | None = None,
    ) -> None:
        """Strike at the k-th command from now (1 is the next one); ``then`` is called with the client's process id.

        ``cut`` False: ``then`` is all that happens, before the command is passed on. ``pid``, ``name``: only that process's
        commands, or those of that name, count.
        """
        with self._lock:
            self.commands = 0
            self.names = []
            self.struck.clear()
            self._strike = _Strike(k, deliver, cut, then, pid, name)

    def has_struck(self, code: int) -> bool:
        """Say whether the client met its strike, from its exit code: one that was killed may be gone before ``then`` returns."""
        return self.struck.wait(DONE_WITHIN_S) if code < 0 else self.struck.is_set()

    def heal(self) -> None:
        """Pass everything on again; counting starts anew."""
        with self._lock:
            self._strike = None
            self._refusing = False
            self.commands = 0
            self.names = []

    def cut(self, *, refuse: bool = False) -> None:
        """Cut every connection; with ``refuse``, let nobody in until ``heal``."""
        with self._lock:
            self._refusing = self._refusing or refuse
            self._cut()

    def switch(self, redis_socket: Path) -> None:
        """Fail over: cut every connection, and connect the next ones to another server."""
        with self._lock:
            self._redis_socket = redis_socket
            self._cut()

    def close(self) -> None:
        """Stop."""
        self._closing = True
        self._waker.send(b"x")
        self._thread.join(10)
        for held in (self._listener, self._wake, self._waker):
            held.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data is not None and key.data[0] in self._pairs:
                        self._pass_on(*key.data)
        with self._lock:
            self._cut()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refusing:
            client.close()
            return
        pid = 0
        if self.path is not None:
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid = struct.unpack("3i", credentials)[0]
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._redis_socket))
        except OSError:
            client.close()
            server.close()
            return
        pair = _Pair(client, server, pid)
        self._pairs.append(pair)
        self._selector.register(client, selectors.EVENT_READ, (pair, "client"))
        self._selector.register(server, selectors.EVENT_READ, (pair, "server"))

    def _pass_on(self, pair: _Pair, side: str) -> None:
        source, sink = (pair.client, pair.server) if side == "client" else (pair.server, pair.client)
        try:
            data = source.recv(CHUNK)
            if not data:
                self._drop(pair)
            elif side == "server" or not self._count:
                sink.sendall(data)
            else:
                self._from_client(pair, data)
        except OSError:
            if pair in self._pairs:
                self._drop(pair)

    def _from_client(self, pair: _Pair, data: bytes) -> None:
        pair.pending += data
        passed = 0
        for end in command_ends(bytes(pair.pending)):
            name = command_name(bytes(pair.pending[passed:end]))
            strike = self._strike
            if strike is None or strike.counts(pair.pid, name):
                self.commands += 1
                self.names.append(name)
            if strike is not None and self.commands == strike.at and strike.counts(pair.pid, name):
                upto = end if strike.deliver and strike.cut else passed
                pair.server.sendall(bytes(pair.pending[:upto]))
                del pair.pending[:upto]
                end -= upto
                replies = self._wait_until_done(pair)
                if strike.cut:
                    self._refusing = True
                else:
                    pair.client.sendall(replies)
                strike.then(pair.pid)
                self.struck.set()
                if strike.cut:
                    self._cut()
                    return
                # The rest of what was read is passed on uncounted: the strike is over.
                pair.server.sendall(bytes(pair.pending[:end]))
                del pair.pending[:end]
                self._strike = None
                self._from_client(pair, b"")
                return
            passed = end
        if passed:
            pair.server.sendall(bytes(pair.pending[:passed]))
            del pair.pending[:passed]

    def _wait_until_done(self, pair: _Pair) -> bytes:
        """Wait until Redis has done what it was sent; returns the replies that were not passed on yet."""
        pair.server.sendall(ASK_DONE)
        deadline = time.monotonic() + DONE_WITHIN_S
        replies = b""
        pair.server.settimeout(DONE_WITHIN_S)
        while not replies.endswith(DONE + b"\r\n"):
            chunk = pair.server.recv(CHUNK)
            assert chunk, "Redis went away"
            assert time.monotonic() < deadline, "Redis does not answer"
            replies += chunk
        pair.server.settimeout(None)
        return replies[: replies.index(b"$%d\r\n%s" % (len(DONE), DONE))]

    def _drop(self, pair: _Pair) -> None:
        self._pairs.remove(pair)
        for held in (pair.client, pair.server):
            with contextlib.suppress(KeyError):
                self._selector.unregister(held)
            held.close()

    def _cut(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair)
