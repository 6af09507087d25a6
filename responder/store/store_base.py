"""What the parts of the store share: the connection, the CAs' own hashes, the journal, the server itself.

Called through redis_store.Store alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from responder.clock import format_utc
from responder.config import Config
from responder.errors import CommitConflict, StoreUnavailable
from responder.store import layout, link, scripts, target, values
from responder.store.fitness import check
from responder.store.layout import Layout
from responder.store.link import Command, Link
from responder.store.values import CAInfo, Finding, JournalEntry

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

PARTITIONS = range(layout.PARTITIONS)
BULK_BUCKETS = 16  # buckets in one pipeline: some 200 kB, 5 ms of Redis; two are under way at once


class StoreBase:
    """A connection, and what every part of the store needs."""

    def __init__(
        self,
        client: Redis | None,
        layout: Layout,
        *,
        timeout_s: float = 2.0,
        min_replicas: int = 0,
        _link: Link | None = None,
    ) -> None:
        """Use a connection of ``client``'s own kind, never one from its pool; ``connect`` is the ordinary way."""
        if _link is None:
            assert client is not None  # noqa: S101 - one of the two is given
            _link = Link(link.connection_of(client), "the given client", timeout_s, min_replicas)
        self.layout = layout
        self._link = _link

    @classmethod
    def connect(cls, config: Config, role: target.Role) -> Self:
        """Return the role's Store; it connects at its first command, and whenever the connection was lost.

        Raises OperatorError for a configuration that cannot work.
        """
        return cls.of(target.target_of(config, role))

    @classmethod
    def of(cls, to: target.Target) -> Self:
        """Return a Store of a target."""
        one = Link(link.open_connection(to), to.label, to.timeout_s, to.min_replicas)
        return cls(None, to.layout, _link=one)

    def close(self) -> None:
        """Drop the connection."""
        self._link.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the connection."""
        self.close()

    # --- CAs ------------------------------------------------------------------------------------------------------

    def ensure_ca(self, ca: str, *, name: str, subject: str, certificate: bytes) -> CAInfo:
        """Write who a CA is (``certificate``: DER), and return all that is known of it."""
        fields = (layout.CA_NAME, name, layout.CA_SUBJECT, subject, layout.CA_CERTIFICATE, certificate)
        self._write([("HSET", self.layout.ca(ca), *fields)])
        info = self.ca_info(ca)
        if info is None:
            raise StoreUnavailable(f"the CA {name} was lost while it was being written")
        return info

    def ca_info(self, ca: str) -> CAInfo | None:
        """Return what is known of a CA; None: it was never loaded into this Redis."""
        return values.ca_info(ca, self._link.call("HGETALL", self.layout.ca(ca)))

    def set_as_of(
        self,
        ca: str,
        as_of: float,
        cursor: str | None = None,
        loaded: int | None = None,
        until: float | None = None,
        lists_issued: bool | None = None,
    ) -> None:
        """Say as of when the source is known (its fraction is cut off): after all rows of that reading were committed.

        ``until``: as long as the source itself says that it holds; None: it does not say. As a write that waits for the
        replicas it also vouches for every commit before it.
        """
        fields: list[Any] = [layout.CA_AS_OF, format_utc(as_of)]
        if cursor is not None:
            fields += [layout.CA_CURSOR, cursor]
        if loaded is not None:
            fields += [layout.CA_LOADED, loaded]
        if lists_issued is not None:
            fields += [layout.CA_LISTS, layout.LISTS_ISSUED if lists_issued else layout.LISTS_REVOKED]
        if until is not None:
            self._write([("HSET", self.layout.ca(ca), *fields, layout.CA_SOURCE_UNTIL, format_utc(until))])
        else:
            # The end of an earlier source goes after the new time is there: what is read in between ends too soon.
            key = self.layout.ca(ca)
            self._write([("HSET", key, *fields), ("HDEL", key, layout.CA_SOURCE_UNTIL)])

    def set_sha256_asked(self, ca: str, at: float) -> None:
        """Remember that a SHA-256 CertID was asked for."""
        self._link.call("HSET", self.layout.ca(ca), layout.CA_SHA256_ASKED, format_utc(at))

    def settle(self, ca: str) -> None:
        """Wait until all that this Redis holds is on its replicas too: after a commit whose fate was not known.

        Raises StoreUnavailable where that cannot be said.
        """
        # A write, though it changes nothing that matters: WAIT vouches for what its own connection wrote, and before.
        self._write([("HSET", self.layout.ca(ca), layout.CA_SETTLED, "yes")])

    def grow(self, ca: str, bits: int) -> None:
        """Raise readers' first guess of a bucket's bits; it never goes back."""
        self._write([("EVALSHA", scripts.GROW.sha, 1, self.layout.ca(ca), bits)], scripts.GROW)

    # --- the audit logs' ends ---------------------------------------------------------------------------------------

    def anchor(self, machine: str, log: str, number: int, digest: str, text: str, *, force: bool) -> tuple[bool, str]:
        """Keep the last line of a machine's audit log, unless a later one is kept already; ``force``: in any case.

        Returns whether it was done, and what was kept before.
        """
        arguments = (log, number, digest, text, int(force))
        key = self.layout.audit(machine)
        reply = self._run([("EVALSHA", scripts.ANCHOR.sha, 1, key, *arguments)], scripts.ANCHOR)[0]
        return bool(reply[0]), reply[1].decode()

    def anchors(self, machine: str) -> dict[str, str]:
        """Return what is kept of each of a machine's audit logs."""
        flat = self._link.call("HGETALL", self.layout.audit(machine))
        return {log.decode(): text.decode() for log, text in values.pairs(flat).items()}

    # --- the journal and the server -----------------------------------------------------------------------------------

    def journal_ends(self) -> dict[int, int]:
        """Return the number of each partition's last journal entry; 0: none yet."""
        replies = self._link.pipeline([("XINFO", "STREAM", self.layout.journal(p)) for p in PARTITIONS])
        for reply in replies:
            if isinstance(reply, Exception) and "no such key" not in str(reply):
                self._link.good(reply)
        return {p: values.last_number(reply) for p, reply in zip(PARTITIONS, replies, strict=True)}

    def read_journal(self, after: Mapping[int, int], count: int = 1_000) -> list[JournalEntry]:
        """Return up to ``count`` entries of each partition in ``after`` that follow the number given there."""
        commands = [
            ("XREAD", "COUNT", count, "STREAMS", self.layout.journal(p), f"{number}-{2**64 - 1}")
            for p, number in after.items()
        ]
        return [entry for reply in self._read(commands) for entry in values.journal_entries(reply)]

    def time(self) -> float:
        """Return the server's POSIX time."""
        seconds, micros = self._link.call("TIME")
        return int(seconds) + int(micros) / 1e6

    def run_id(self) -> str:
        """Return the name of the server's run and history: another one means a restart or a failover."""
        return values.run_id(*self._read(values.RUN_COMMANDS))

    def version(self) -> tuple[int, int]:
        """Return the server's major and minor version."""
        major, minor = values.info_fields(self._link.call("INFO", "server"))["redis_version"].split(".")[:2]
        return int(major), int(minor)

    def memory(self) -> tuple[int, int]:
        """Return used memory and maxmemory, in bytes; maxmemory 0: there is no bound."""
        info = values.info_fields(self._link.call("INFO", "memory"))
        return int(info["used_memory"]), int(info.get("maxmemory", "0"))

    def memory_fraction(self) -> float:
        """Return used memory as a fraction of maxmemory; 0 where there is no bound."""
        used, most = self.memory()
        return used / most if most else 0.0

    def check(self) -> list[Finding]:
        """Look at what an operator should know of this Redis; never raises for what it merely may not see."""
        return check(self._link)

    # --- ways to run commands -----------------------------------------------------------------------------------------

    def _read(self, commands: Sequence[Command]) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.pipeline(commands)]

    def _run(self, commands: Sequence[Command], script: scripts.Script) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.pipeline_scripts(commands, [script])]

    def _write(self, commands: Sequence[Command], *used: scripts.Script) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.write(commands, used)]


def score_text(score: float) -> str:
    """Spell a score as Redis reads it, without loss."""
    return "+inf" if score == layout.NEVER_DUE else repr(float(score))


def made_or_conflict(reply: Any, ca: str, bucket: int) -> tuple[int, int]:
    """Return what a script reports that did its work; raises CommitConflict for one that did not."""
    if reply[0] == 0:
        raise CommitConflict(f"bucket {bucket:x} of {ca} has changed: {reply[1].decode()}")
    return int(reply[1] or 0), int(reply[2]) if len(reply) > 2 else 0


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
