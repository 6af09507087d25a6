"""A worker's connection to Redis: an asyncio protocol that pairs replies with requests in the order they were sent.

No client's task ever touches the socket, so that a client that goes away, cancelled in the middle of a read, cannot leave
a reply behind for another (SEC-12; CVE-2023-28858 was that in redis-py). A reply that nobody waits for any more is read
and dropped. A packed answer does not say whose it is, so each pipeline ends with a PING that carries its number: where
the echo is another, replies and requests are out of step, and the connection goes before anything of it is used. After a
timeout or an error the connection is thrown away, never used again. Called by edge_store.py alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis

from responder.errors import StoreUnavailable
from responder.store import values
from responder.store.link import refusal
from responder.store.target import Target

Command = tuple[Any, ...] | bytes  # bytes: packed already, as RESP arrays of bulk strings
WATCH_S = 0.25  # between looks at whether the oldest request has waited too long
RETRY_S = 0.1  # after a failed try to connect, others fail at once for that long


class _Request:
    __slots__ = ("deadline", "future", "missing", "number", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], number: bytes, count: int, deadline: float) -> None:
        self.future = future
        self.number = number  # what the last reply must be
        self.missing = count + 1
        self.replies: list[Any] = []
        self.deadline = deadline


class _Protocol(asyncio.Protocol):
    """One connection, from its opening to its end."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._requests: deque[_Request] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._sent = 0  # pipelines; numbers them
        self.lost: StoreUnavailable | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream's protocol gets a Transport; uvloop's does not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._watch = self._loop.call_later(WATCH_S, self._look)

    def request(
        self, commands: Sequence[Command], timeout_s: float, commands_each: int = 1
    ) -> asyncio.Future[list[Any]]:
        """Send a pipeline; the future has its replies, errors of single commands among them."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.lost is not None or self._transport is None:
            future.set_exception(self.lost or StoreUnavailable(f"Redis at {self._label}: not connected"))
            return future
        self._sent += 1
        number = b"%d" % self._sent
        self._requests.append(_Request(future, number, commands_each * len(commands), self._loop.time() + timeout_s))
        packed = [one if isinstance(one, bytes) else hiredis.pack_command(one) for one in commands]
        packed.append(b"*2\r\n$4\r\nPING\r\n$%d\r\n%b\r\n" % (len(number), number))
        self._transport.write(b"".join(packed))
        return future

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                request = self._requests[0]
                request.replies.append(reply)
                request.missing -= 1
                if not request.missing:
                    if request.replies.pop() != request.number:
                        errors = [one for one in request.replies if isinstance(one, hiredis.ReplyError)]
                        self.drop(str(errors[0]) if errors else "replies and requests are out of step")
                        return
                    self._requests.popleft()
                    if not request.future.done():
                        request.future.set_result(request.replies)
        except (hiredis.ProtocolError, IndexError) as error:
            self.drop(f"not a reply: {error}")

    def _look(self) -> None:
        self._watch = self._loop.call_later(WATCH_S, self._look)
        if self._requests and self._requests[0].deadline < self._loop.time():
            self.drop("no answer in time")

    def connection_lost(self, error: Exception | None) -> None:
        self.drop(str(error) if error else "the connection was closed")

    def drop(self, reason: str) -> None:
        """End the connection; whoever waits is told."""
        if self.lost is not None:
            return
        self.lost = StoreUnavailable(f"Redis at {self._label}: {reason}")
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        for request in self._requests:
            if not request.future.done():
                request.future.set_exception(self.lost)
                request.future.exception()  # whoever waited may be gone: nothing to complain of then
        self._requests.clear()


class EdgeLink:
    """A connection that is opened when it is needed, and again after it was lost."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._protocol: _Protocol | None = None
        self._opening: asyncio.Task[_Protocol] | None = None
        self._not_before = 0.0
        self._last_error: StoreUnavailable | None = None
        self._closed = False
        self.connections = 0  # made so far: another number means that another server may be answering

    async def pipeline(self, commands: Sequence[Command], extra_s: float = 0.0, commands_each: int = 1) -> list[Any]:
        """Run commands in one round trip; raises StoreUnavailable.

        ``extra_s``: how long they may block. ``commands_each``: how many commands each packed piece holds.
        """
        protocol = self._protocol
        if protocol is None or protocol.lost is not None:
            protocol = await self._open()
        return await protocol.request(commands, self._target.timeout_s + extra_s, commands_each)

    async def _open(self) -> _Protocol:
        if self._closed:
            raise StoreUnavailable(f"Redis at {self._target.label}: the store was closed")
        if self._opening is None:
            loop = asyncio.get_running_loop()
            if self._last_error is not None and loop.time() < self._not_before:
                raise self._last_error
            self._opening = loop.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        # shield: one client that goes away must not take the connection from the others.
        return await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[_Protocol]) -> None:
        self._opening = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StoreUnavailable):
            self._last_error = error
            self._not_before = asyncio.get_running_loop().time() + RETRY_S

    async def _connect(self) -> _Protocol:
        target, loop = self._target, asyncio.get_running_loop()
        protocol: _Protocol | None = None
        try:
            async with asyncio.timeout(target.timeout_s):
                if target.unix_path is not None:
                    _, protocol = await loop.create_unix_connection(lambda: _Protocol(target.label), target.unix_path)
                else:
                    _, protocol = await loop.create_connection(
                        lambda: _Protocol(target.label),
                        target.host,
                        target.port,
                        ssl=target.ssl_context() if target.tls else None,
                    )
                await self._greet(protocol)
        except (OSError, TimeoutError, StoreUnavailable) as error:
            if protocol is not None:
                protocol.drop("not usable")
            if isinstance(error, StoreUnavailable):
                raise
            text = "no connection in time" if isinstance(error, TimeoutError) else str(error).splitlines()[0]
            raise StoreUnavailable(f"Redis at {target.label}: {text}") from error
        self._protocol = protocol
        self.connections += 1
        return protocol

    async def _greet(self, protocol: _Protocol) -> None:
        target = self._target
        commands: list[Command] = []
        if target.password is not None:
            user = () if target.username is None else (target.username,)
            commands.append(("AUTH", *user, target.password))
        if target.database:
            commands.append(("SELECT", target.database))
        commands.append(("INFO",))
        replies = await protocol.request(commands, target.timeout_s)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise StoreUnavailable(f"Redis at {target.label}: {reply}")
        reason = refusal(values.info_fields(replies[-1]))
        if reason is not None:
            raise StoreUnavailable(f"Redis at {target.label}: {reason}")

    async def close(self) -> None:
        """End the connection for good."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._protocol is not None:
            self._protocol.drop("the store was closed")
            await asyncio.sleep(0)  # lets the transport close its socket
