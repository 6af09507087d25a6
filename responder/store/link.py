"""One connection to Redis, and what it means for a write to be committed. Called by redis_store.py alone.

A Link never repeats a command by itself: whether a write whose reply was lost has been made is for the caller to read.
Whatever goes wrong on the socket, the connection is dropped, so that no reply can be taken for another's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
from redis import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from responder.errors import StoreDamaged, StoreUnavailable
from responder.store import values
from responder.store.scripts import Script
from responder.store.target import Target

Command = tuple[Any, ...]
Sendable = Command | bytes  # bytes: one command, packed already
LEAST_VERSION = (6, 2)
_PLAIN_REPLIES = frozenset({bytes, int, list})  # of RESP2, beside nil and errors
# redis-py's connections are partly untyped.
_CLASSES: tuple[Any, Any, Any] = (UnixDomainSocketConnection, Connection, SSLConnection)
_TERMS: dict[str, Any] = {
    "protocol": 2,
    "driver_info": None,  # CLIENT SETINFO needs rights that no role has
    "retry": Retry(NoBackoff(), 0),
}


def open_connection(target: Target) -> Any:
    """Return a redis-py connection, not yet connected."""
    unix_class, tcp_class, tls_class = _CLASSES
    common: dict[str, Any] = {
        "username": target.username,
        "password": target.password,
        "db": target.database,
        # WAIT may block for a whole timeout of its own.
        "socket_timeout": 2 * target.timeout_s + 1,
        "socket_connect_timeout": target.timeout_s,
    } | _TERMS
    if target.unix_path is not None:
        return unix_class(path=target.unix_path, **common)
    common |= {"host": target.host, "port": target.port}
    if not target.tls:
        return tcp_class(**common)
    return tls_class(ssl_cert_reqs="required", ssl_check_hostname=True, ssl_ca_certs=target.ca_certificate, **common)


def connection_of(client: Redis) -> Any:
    """Return a connection of its own to where ``client`` connects."""
    pool = client.connection_pool
    # RESP2: redis-py's own client speaks RESP3 unless told otherwise, in which hashes are no flat lists.
    return pool.connection_class(**(pool.connection_kwargs | _TERMS))


def refusal(info: dict[str, str]) -> str | None:
    """Say why this server must not hold statuses, from the fields of INFO; None: it may."""
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < LEAST_VERSION:
        return f"Redis {version} is too old: 6.2 or later is needed"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return f"maxmemory-policy is {policy}: it may throw a revocation away; set noeviction"
    return None


class Pending:
    """The replies of a pipeline that was sent. What Redis refused stands among them as ResponseError."""

    def __init__(self, link: Link, count: int) -> None:
        self._link = link
        self.count = count
        self.replies: list[Any] | None = None
        self.error: StoreUnavailable | None = None

    def result(self) -> list[Any]:
        """Wait for the replies; raises StoreUnavailable where they were lost."""
        if self.replies is None and self.error is None:
            self._link.receive_until(self)
        if self.error is not None:
            raise self.error
        assert self.replies is not None  # noqa: S101 - receive_until has filled the one or the other
        return self.replies


class Link:
    """One connection. Threads may share it: each pipeline's replies reach the one that sent it."""

    def __init__(self, connection: Any, label: str, timeout_s: float = 2.0, min_replicas: int = 0) -> None:
        self._connection = connection
        self._label = label
        self._wait_ms = int(timeout_s * 1000)
        self._min_replicas = min_replicas
        self._lock = threading.RLock()
        self._checked = False  # whether the server behind this very connection was found fit
        self._replicas = 0  # online at the last write
        self._generation = 0  # of the connection: one that was dropped and opened again is another
        self._pending: deque[Pending] = deque()  # sent and not yet read, in order

    def close(self) -> None:
        """Drop the connection; the next command opens another. What was not read yet is lost."""
        self._drop(StoreUnavailable(f"Redis at {self._label}: the connection was dropped"))

    def _drop(self, error: StoreUnavailable) -> None:
        with self._lock:
            self._checked = False
            self._generation += 1
            for pending in self._pending:
                pending.error = error
            self._pending.clear()
            self._connection.disconnect()

    def unavailable(self, error: object) -> StoreUnavailable:
        """Make the one error of this package: one line, without secrets."""
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        password = getattr(self._connection, "password", None)
        if password:
            text = text.replace(password, "***")
        return StoreUnavailable(f"Redis at {self._label}: {text}")

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Drop the connection whatever goes wrong, a KeyboardInterrupt too: a reply may be half read."""
        try:
            yield
        except (RedisError, OSError) as error:
            ours = self.unavailable(error)
            self._drop(ours)
            raise ours from error
        except BaseException:
            self.close()
            raise

    def send(self, commands: Sequence[Sendable]) -> Pending:
        """Send a pipeline."""
        packed = [one if isinstance(one, bytes) else hiredis.pack_command(one) for one in commands]
        return self.send_packed(b"".join(packed), len(commands))

    def send_packed(self, packed: bytes, count: int) -> Pending:
        """Send a pipeline of ``count`` commands that are spelled in RESP already."""
        pending = Pending(self, count)
        with self._lock, self._dropping():
            if not self._checked:
                self._check_server()
            self._connection.send_packed_command([packed], check_health=False)
            self._pending.append(pending)
        return pending

    def receive_until(self, wanted: Pending) -> None:
        """Read replies, in the order in which they were asked for, until ``wanted`` has its own."""
        with self._lock, self._dropping():
            while wanted.replies is None and wanted.error is None:
                self._pending[0].replies = self._read_replies(self._pending[0].count)
                self._pending.popleft()

    def _read_replies(self, count: int) -> list[Any]:
        """Read so many replies: what came in one packet with another is taken from the parser at once, for speed."""
        replies: list[Any] = []
        while len(replies) < count:
            replies.append(self._reply())
            # redis-py's own, which has no public name for it; another parser than hiredis's is asked reply by reply.
            reader = getattr(getattr(self._connection, "_parser", None), "_reader", None)
            while reader is not None and len(replies) < count:
                reply = reader.gets(False)
                if reply is not None and type(reply) not in _PLAIN_REPLIES:
                    if isinstance(reply, ResponseError):
                        replies.append(reply)
                        continue
                    if isinstance(reply, Exception):
                        raise reply
                    break  # no whole one is there yet
                replies.append(reply)
        return replies

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    def _check_server(self) -> None:
        self._connection.connect()
        self._connection.send_command("INFO", check_health=False)
        reason = refusal(values.info_fields(self._connection.read_response(disable_decoding=True)))
        if reason is not None:
            raise RedisError(reason)
        self._checked = True

    def pipeline(self, commands: Sequence[Sendable]) -> list[Any]:
        """Run commands in one round trip; errors of single commands stand among the replies."""
        return self.send(commands).result() if commands else []

    def call(self, *command: Any) -> Any:
        """Run one command; raises StoreUnavailable for any error."""
        return self.good(self.pipeline([command])[0])

    def good(self, reply: Any) -> Any:
        """Return a reply, or raise StoreUnavailable where it is an error; StoreDamaged where a key is not of its kind."""
        if isinstance(reply, ResponseError):
            error = self.unavailable(reply)
            raise (StoreDamaged(*error.args) if "WRONGTYPE" in str(reply) else error) from reply
        return reply

    def pipeline_scripts(self, commands: Sequence[Sendable], scripts: Sequence[Script]) -> list[Any]:
        """Run commands of which some are EVALSHA; those that met NOSCRIPT have done nothing, and are sent once more."""
        return self.send_scripts(commands, scripts)()

    def send_scripts(self, commands: Sequence[Sendable], scripts: Sequence[Script]) -> Callable[[], list[Any]]:
        """As ``pipeline_scripts``, without waiting: what is returned waits for the replies and returns them."""
        pending = self.send(commands)

        def finish() -> list[Any]:
            replies = pending.result()
            unknown = _unknown(replies)
            if unknown:
                self._load(scripts)
                for at, reply in zip(unknown, self.pipeline([commands[at] for at in unknown]), strict=True):
                    replies[at] = reply
            return replies

        return finish

    def write(self, commands: Sequence[Command], scripts: Sequence[Script] = ()) -> list[Any]:
        """Run writes, and return their replies once they are committed: on every replica that is online too.

        ``scripts``: those that EVALSHA names; they are loaded where the server does not know them. Raises
        StoreUnavailable where a replica does not report in time: the writes stand here, but may be lost in a failover,
        so the caller tries again and ends with ``Store.settle``.
        """
        return next(self.write_pipelines([commands], scripts))[0]

    def write_pipelines(
        self, batches: Iterable[Sequence[Command]], scripts: Sequence[Script]
    ) -> Iterator[tuple[list[Any], Sequence[Command]]]:
        """Run ``write`` for many batches, sending one while Redis works on another; yields (replies, batch) in order."""
        ahead: deque[tuple[Pending, Sequence[Command], int]] = deque()
        for batch in batches:
            ahead.append(self._send_write(batch))
            if len(ahead) == 2:
                yield self._finish_write(*ahead.popleft(), scripts)
        while ahead:
            yield self._finish_write(*ahead.popleft(), scripts)

    def _send_write(self, commands: Sequence[Command]) -> tuple[Pending, Sequence[Command], int]:
        # WAIT on any other connection would vouch for nothing, so it goes with the writes.
        expected = max(self._min_replicas, self._replicas)
        tail: list[Command] = [("INFO", "replication")]
        if expected:
            tail.insert(0, ("WAIT", expected, self._wait_ms))
        return self.send([*commands, *tail]), commands, expected

    def _finish_write(
        self, pending: Pending, commands: Sequence[Command], expected: int, scripts: Sequence[Script]
    ) -> tuple[list[Any], Sequence[Command]]:
        generation = self._generation
        replies = pending.result()
        info = values.info_fields(self.good(replies[-1]))
        self._replicas = sum("state=online" in value for name, value in info.items() if name.startswith("slave"))
        needed = max(self._min_replicas, self._replicas)
        reported = int(self.good(replies[-2])) if expected else 0
        if reported < needed > expected:  # a replica has come since the writes were sent
            waited = int(self.call("WAIT", needed, self._wait_ms))
            reported = waited if generation == self._generation else 0
        if reported < needed:
            raise StoreUnavailable(
                f"Redis at {self._label}: not committed: {reported} of {needed} replicas reported within {self._wait_ms} ms"
            )
        replies = replies[: len(commands)]
        unknown = _unknown(replies)
        if unknown:
            self._load(scripts)
            again = self._finish_write(*self._send_write([commands[at] for at in unknown]), ())[0]
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return replies, commands

    def _load(self, scripts: Sequence[Script]) -> None:
        for reply in self.pipeline([("SCRIPT", "LOAD", script.text) for script in scripts]):
            self.good(reply)


def _unknown(replies: Sequence[Any]) -> list[int]:
    return [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
