"""The store's part in live answers: taking the workers' questions, replying, and reading statuses twice.

Nothing here has to outlast a crash: a question is void in two seconds. So what is taken and replied is kept from the
append-only file, which costs a write to the disk at every step of every batch, and from the replicas. Called through
redis_store.Store, by the live signing role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import hiredis

from responder.errors import StoreUnavailable
from responder.store import layout, scripts, values
from responder.store.layout import bucket_number, serial_hash
from responder.store.link import Command, Sendable
from responder.store.status_store import StatusStore
from responder.store.values import CAInfo

Entry = tuple[bytes, dict[bytes, bytes]]
ANY_ID = b"0-0"  # whatever stands in the stream has not been taken


class Sight(NamedTuple):
    """A CA and some of its serials as they were at one moment: the CA's ``as_of`` was read before the statuses.

    ``texts`` and ``buckets`` are in the order of the serials; a text None: never issued, or purged.
    """

    info: CAInfo | None
    texts: list[str | None]
    buckets: list[int]


class LiveStore(StatusStore):
    """Questions, replies, and the statuses that they are about."""

    def exchange_live(
        self,
        replies: Mapping[str, Mapping[bytes, bytes]],
        maxlen: int,
        expire_s: int,
        count: int,
        watches: Sequence[Watch] = (),
    ) -> list[Entry]:
        """Reply to workers (one entry's fields for each), take up to ``count`` entries of questions, and look; one trip.

        What was taken is in the stream no more: of several presigners each question reaches one. ``count`` 0: none.
        ``watches``: each has its ``sight`` afterwards. Raises StoreUnavailable.
        """
        commands: list[Sendable] = [
            ("EVALSHA", scripts.REPLY.sha, 1, self.layout.replies(worker), maxlen, expire_s, *_flat(fields))
            for worker, fields in replies.items()
        ]
        if count:
            commands.append(("EVALSHA", scripts.TAKE.sha, 1, self.layout.ask(), count))
        scripted = len(commands)
        for watch in watches:
            commands += watch.commands
        answers = self._link.pipeline_scripts(commands, (scripts.REPLY, scripts.TAKE, scripts.ASK)) if commands else []
        for answer in answers[:scripted]:
            self._link.good(answer)
        first = scripted
        for watch in watches:
            watch.take(answers[first : first + len(watch.commands)])
            first += len(watch.commands)
        return [(entry, values.pairs(flat or ())) for entry, flat in answers[scripted - 1]] if count else []

    def good(self, reply: Any) -> Any:
        """Return a reply, or raise StoreUnavailable where it is an error."""
        return self._link.good(reply)

    def load_ask(self) -> None:
        """Load the script by which workers ask. Raises StoreUnavailable."""
        self._link.call("SCRIPT", "LOAD", scripts.ASK.text)

    def await_live(self, block_ms: int) -> None:
        """Wait until there are questions to take, at most a second or so: the connection is blocked meanwhile."""
        self._link.call("XREAD", "COUNT", 1, "BLOCK", max(1, block_ms), "STREAMS", self.layout.ask(), ANY_ID)

    def watch(self, ca: str, serials: Sequence[bytes], bits: int | None) -> Watch:
        """Return what reads a CA and some serials, any number of times; ``bits`` is a first guess."""
        return Watch(self, ca, serials, bits or layout.MIN_BITS)


class Watch:
    """The same commands, again and again: before something is signed, and after.

    ``sight`` is what was seen last; None: nothing is known, for the reason in ``error``.
    """

    __slots__ = ("_bits", "_ca", "_flat", "_info", "_numbers", "_serials", "_store", "commands", "error", "sight")

    def __init__(self, store: LiveStore, ca: str, serials: Sequence[bytes], bits: int) -> None:
        self._store, self._ca, self._serials, self._bits = store, ca, serials, bits
        self._flat: list[bytes] = []  # the CA's fields, and what they say
        self._info: CAInfo | None = None
        self._numbers = [bucket_number(serial_hash(serial), bits) for serial in serials]
        status = store.layout.status
        commands: list[Command] = [("HGETALL", store.layout.ca(ca))]
        commands += [
            ("HMGET", status(ca, number), layout.BITS_FIELD, serial.hex())
            for number, serial in zip(self._numbers, serials, strict=True)
        ]
        self.commands: list[bytes] = list(map(hiredis.pack_command, commands))
        self.sight: Sight | None = None
        self.error = "it was not looked at yet"

    def take(self, answers: Sequence[Any]) -> None:
        """See what ``commands`` were answered. Where a bucket is missing, nothing is known of its serials."""
        try:
            self.sight = self._see(answers)
        except StoreUnavailable as error:
            self.sight, self.error = None, str(error)

    def _see(self, answers: Sequence[Any]) -> Sight:
        numbers, bits = self._numbers, b"%d" % self._bits
        flat, *replies = map(self._store.good, answers)
        if flat != self._flat:
            self._flat, self._info = flat, values.ca_info(self._ca, flat)
        info = self._info
        if info is None:
            return Sight(None, [], [])
        texts: list[str | None] = []
        strays: list[int] = []
        for at, (bits_now, text) in enumerate(replies):
            if bits_now != bits:
                strays.append(at)
            texts.append(None if text is None else text.decode())
        buckets = numbers
        if strays:
            # Buckets of other depths than was thought. Read after as_of all the same, hence at least as new.
            buckets = list(numbers)
            located = self._store.locate(self._ca, [self._serials[at] for at in strays], info.bits or layout.MIN_BITS)
            for at, place in zip(strays, located, strict=True):
                texts[at], buckets[at] = place.text, place.bucket
        return Sight(info, texts, buckets)

    def changed(self, before: Sight, after: Sight) -> frozenset[bytes]:
        """Return the serials whose statuses are not the same in two looks."""
        if before.texts == after.texts:
            return frozenset()
        return frozenset(
            serial for serial, was, now in zip(self._serials, before.texts, after.texts, strict=True) if was != now
        )


def _flat(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]
