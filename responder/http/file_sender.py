"""Sends files on clients' sockets with sendfile(2): no octet of a file passes through this process's memory.

uvloop's transports have no sendfile. So while a file is sent, its connection's transport, which has nothing to send then,
stands aside, and what is here writes on its socket: a piece, then whatever else the worker has to do, then the next; where
the client's buffer is full, an epoll of its own, which the event loop watches as one descriptor, tells when there is
room. A thousand slow downloads are a thousand small objects (docs/adr/0017). Called by the protocol, which owns the socket; knows no HTTP.
One event loop's thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from functools import partial
from typing import Protocol

from responder.http.files import HeldFile
from responder.log import get_logger

log = get_logger(__name__)

PIECE_BYTES = 256 * 1024  # sent at a time, in about 50 µs; answers that wait go first after it
LEAST_RATE = 512  # octets a second that a client must take on the average, to be no idler
MAX_EVENTS = 64


class FileOwner(Protocol):
    """Whose socket a file is sent on."""

    def file_sent(self) -> None:
        """Go on: the kernel has all of it. Called in a later turn of the loop."""
        ...

    def file_failed(self) -> None:
        """End the connection: the client has gone, or the file is not what it was. Called in a later turn of the loop."""
        ...


class Sending:
    """One file on its way to one client; made by ``FileSender.send``."""

    __slots__ = ("_file", "_head", "_looked_at", "_offset", "_start", "_taken", "end", "fd", "is_queued", "owner")

    def __init__(self, fd: int, owner: FileOwner, head: bytes, file: HeldFile, start: int, end: int, tick: int) -> None:
        self.fd = fd
        self.owner: FileOwner | None = owner  # None once it is over, for whatever reason
        self.is_queued = True  # it will be looked at, so nobody need ask for that
        self.end = end
        self._head = head  # what of it is unsent
        self._file = file
        self._start = self._offset = start
        # When we last made sure that the client takes what it is sent, and how much it had by then:
        self._looked_at = tick
        self._taken = 0

    def advance(self) -> bool:
        """Send about a piece; returns whether that was the rest. Raises BlockingIOError, and OSError once it cannot go on."""
        if self._head:
            self._send_head()
        ends = min(self._offset + PIECE_BYTES, self.end)
        while self._offset < ends:
            sent = os.sendfile(self.fd, self._file.fd, self._offset, ends - self._offset)
            if not sent:
                raise OSError(f"a file ends at octet {self._offset}, and had {self._file.size}")
            self._offset += sent
        return self._offset == self.end

    def _send_head(self) -> None:
        # Only to send with a flag, so that the head travels with the file's first octets; the transport keeps the socket.
        lent = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self.fd)
        try:
            sent = lent.send(self._head, socket.MSG_MORE | socket.MSG_DONTWAIT)
        finally:
            lent.detach()
        self._head = self._head[sent:]
        if self._head:
            raise BlockingIOError

    def patience(self, tick: int, idle_timeout: int) -> int:
        """Return for how many ticks the client may go on, 0 if it takes nothing, or next to nothing.

        What counts is what it has acknowledged: the kernel's buffer holds more than a slow client reads in minutes.
        """
        elapsed = tick - self._looked_at
        if elapsed < idle_timeout:
            return idle_timeout - elapsed
        (queued,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"))
        taken = self._offset - self._start - queued
        if taken - self._taken < LEAST_RATE * elapsed:
            return 0
        self._looked_at, self._taken = tick, taken
        return idle_timeout


class FileSender:
    """All the files that a worker is sending."""

    def __init__(self, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """``later`` has something done in its turn; absent: at the loop's next."""
        self._later = later or (lambda work: asyncio.get_running_loop().call_soon(work))
        self._epoll = select.epoll()
        self._blocked: dict[int, Sending] = {}  # by socket: those that the epoll knows

    def fileno(self) -> int:
        """Return the descriptor that is readable while a client that was slow can take more; then ``run`` is to be called."""
        return self._epoll.fileno()

    def send(self, fd: int, owner: FileOwner, head: bytes, file: HeldFile, start: int, end: int, tick: int) -> Sending:
        """Send a head and a file's octets from ``start`` to ``end`` on a socket whose transport has nothing unsent.

        Until the owner is told of its end, or has called ``stop``, nobody else writes on the socket or closes it.
        """
        sending = Sending(fd, owner, head, file, start, end, tick)
        self._step(sending)
        return sending

    def stop(self, sending: Sending) -> None:
        """Send no more of it; must come before the socket is closed, whose number may then be somebody else's."""
        sending.owner = None
        if self._blocked.get(sending.fd) is sending:
            del self._blocked[sending.fd]
            with contextlib.suppress(OSError):  # a socket that is closed all the same has left the epoll by itself
                self._epoll.unregister(sending.fd)

    def run(self) -> None:
        """Go on with those whose clients can take more."""
        for fd, _ in self._epoll.poll(0, MAX_EVENTS):
            sending = self._blocked.get(fd)
            if sending is not None and not sending.is_queued:
                self._queue(sending)

    def _queue(self, sending: Sending) -> None:
        sending.is_queued = True
        self._later(partial(self._step, sending))

    def _step(self, sending: Sending) -> None:
        """Send a piece, and see to it that the next one follows."""
        owner = sending.owner
        if owner is None:
            return
        sending.is_queued = False
        try:
            is_rest = sending.advance()
        except BlockingIOError:
            if sending.fd not in self._blocked:
                self._blocked[sending.fd] = sending
                # Edge-triggered: one that is known already is told of again when there is room again.
                self._epoll.register(sending.fd, select.EPOLLOUT | select.EPOLLET)
        except OSError as error:
            log.debug("file_not_sent", error=str(error))
            self._end(sending, owner.file_failed)
        else:
            if is_rest:
                self._end(sending, owner.file_sent)
            else:
                self._queue(sending)

    def _end(self, sending: Sending, tell: Callable[[], None]) -> None:
        """Tell the owner, from the loop: it may be in the middle of something, and what it does next may be the same again."""
        sending.is_queued = True
        asyncio.get_running_loop().call_soon(self._tell, sending, tell)

    def _tell(self, sending: Sending, tell: Callable[[], None]) -> None:
        if sending.owner is not None:
            self.stop(sending)
            tell()
