"""The store as an HTTP worker sees it: asynchronous, read only but for its questions to the presigner.

One connection for reads, whose requests never block it, and one that waits for the presigner's replies. Whatever cannot
be answered is StoreUnavailable: "cannot know", which is never "not issued" and never "good". Called by responder.ocsp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import hiredis

from fastpath.ocsp_response import AnswerHeader, packed_slot_and_status
from fastpath.redis_commands import pack_answer_reads
from responder.config import Config
from responder.errors import StoreUnavailable
from responder.model import CertStatus
from responder.store import layout, scripts, values
from responder.store.edge_link import Command, EdgeLink
from responder.store.layout import bucket_number
from responder.store.target import Target, target_of
from responder.store.values import CAInfo, JournalEntry, SignerRecord

ASK_MAXLEN = 10_000  # entries of the stream of questions; the presigner passes over old ones anyway
REPLIES_BLOCK_MS = 500  # how long a read of replies waits for one
REPLIES_COUNT = 100
MAX_TRIES = 2 * layout.MAX_BITS  # steps up and down through a CA's bits while its buckets are being split
MAX_HEADERS = 10_000  # parsed headers remembered; those of a bucket are asked for with each of its answers
BITS_SPELLED = tuple(b"%d" % bits for bits in range(layout.MAX_BITS + 1))
MAX_BEGUN = 20_000  # buckets whose commands are remembered as far as they are always the same

PARTITIONS = range(layout.PARTITIONS)
CERT_STATUSES = tuple(CertStatus)  # by number, as they are packed


@dataclass(slots=True)
class Reading:
    """What Redis holds for one CertID; not frozen, for speed, but nobody changes it.

    ``status_text`` None: its bucket is there, and it is not in it. ``packed``, ``header`` and ``cert_status`` are None
    where no answer is ready. The status was read before the answer, which hence is never older than it.
    """

    status_text: str | None
    header: AnswerHeader | None = None
    packed: bytes | None = None
    cert_status: CertStatus | None = None


@dataclass(frozen=True, slots=True)
class JournalReading:
    """New entries of the journals; ``run_id`` and ``ends`` only where they were looked at."""

    entries: list[JournalEntry]
    run_id: str | None = None
    ends: dict[int, int] = field(default_factory=dict)


class _Lookup:
    """One CertID being looked up: ``bits`` and ``slot`` are guesses until a reply confirms them."""

    __slots__ = ("at", "bits", "ca", "hash_name", "hash_value", "serial", "slot", "tries")

    def __init__(self, at: int, ca: str, hash_name: str, serial: bytes, hash_value: int, bits: int) -> None:
        self.at = at
        self.ca = ca
        self.hash_name = hash_name
        self.serial = serial
        self.hash_value = hash_value
        self.bits = bits
        self.slot = 0
        self.tries = 0


def _begin(count: int, *words: bytes) -> bytes:
    """Spell the beginning of a command of ``count`` words, as RESP does."""
    return b"*%d\r\n" % count + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class EdgeStore:
    """One worker's sight of Redis. One event loop's thread only."""

    def __init__(self, target: Target) -> None:
        self.layout = target.layout
        self._link = EdgeLink(target)
        self._replies = EdgeLink(target)
        self._bits: dict[str, int] = {}  # by CA: the deepest bucket seen
        self._headers: dict[bytes, AnswerHeader] = {}
        self._begun: dict[tuple[str, int, str, int], tuple[bytes, bytes]] = {}

    @classmethod
    def connect(cls, config: Config) -> Self:
        """Return the worker's store; it connects when it is first used, and again whenever that was lost."""
        return cls(target_of(config, "serve"))

    @property
    def connections(self) -> int:
        """How many connections reads went over so far: another number means that another Redis may be answering."""
        return self._link.connections

    async def close(self) -> None:
        """End the connections."""
        await asyncio.gather(self._link.close(), self._replies.close())

    async def ca_info(self, ca: str) -> CAInfo | None:
        """Return what is known of a CA."""
        return values.ca_info(ca, (await self._run([("HGETALL", self.layout.ca(ca))]))[0])

    async def signer(self, signer_id: str) -> SignerRecord | None:
        """Return what puts a signer's answers together."""
        return values.signer_record((await self._run([("HGETALL", self.layout.signer(signer_id))]))[0])

    # --- certificates ---------------------------------------------------------------------------------------------

    async def read_answers(
        self, certificates: Sequence[tuple[str, str, bytes, int]]
    ) -> list[Reading | StoreUnavailable]:
        """Read what there is for (CA, hash algorithm, serial octets, serial_hash of them), all in one pipeline.

        Where a bucket turns out to be another than was thought, a second pipeline follows.

        Raises StoreUnavailable where Redis does not answer; what it lacks is StoreUnavailable in its place of the list.
        """
        found: list[Reading | StoreUnavailable | None] = [None] * len(certificates)
        lookups = [
            _Lookup(at, ca, hash_name, serial, hash_value, self._bits.get(ca, layout.MIN_BITS))
            for at, (ca, hash_name, serial, hash_value) in enumerate(certificates)
        ]
        while lookups:
            commands: list[Command] = []
            for one in lookups:
                # Both commands in one piece, which counts as two.
                commands.append(pack_answer_reads(*self._begin_hmget(one), one.serial))
            replies = await self._link.pipeline(commands, commands_each=2)
            again: list[_Lookup] = []
            at = 0
            for one in lookups:
                status, answer = replies[at], replies[at + 1]
                reading = self._read_plain(one, status, answer) or self._read(one, status, answer)
                at += 2
                if reading is None:
                    again.append(one)
                else:
                    found[one.at] = reading
            lookups = again
        return found  # type: ignore[return-value]  # each has been found something for

    async def read_buckets(self, ca: str, numbers: Sequence[int], hash_name: str) -> list[dict[bytes, Reading]]:
        """Read whole buckets, in one pipeline: serial octets → what there is; empty where there is no such bucket.

        Each status was read before the answer beside it. Raises StoreUnavailable.
        """
        commands: list[Command] = []
        for number in numbers:
            commands.append(("HGETALL", self.layout.status(ca, number)))
            commands.append(("HGETALL", self.layout.answers(ca, number, hash_name)))
        replies = await self._run(commands)
        return [
            self._whole(values.pairs(status), values.pairs(answers))
            for status, answers in zip(replies[::2], replies[1::2], strict=True)
        ]

    def _whole(self, status: Mapping[bytes, bytes], answers: Mapping[bytes, bytes]) -> dict[bytes, Reading]:
        headers = [answers.get(field) for field in layout.HEADER_FIELDS]
        found: dict[bytes, Reading] = {}
        for serial, packed in answers.items():
            text = status.get(serial.hex().encode())
            if serial in layout.HEADER_FIELDS or text is None:
                continue
            try:
                slot, cert_status_number = packed_slot_and_status(packed)
                header = headers[slot]
                if header is not None:
                    cert_status = CERT_STATUSES[cert_status_number]
                    found[serial] = Reading(text.decode(), self._header(header), packed, cert_status)
            except ValueError:
                continue  # whoever asks for it is told
        return found

    def _begin_hmget(self, one: _Lookup) -> tuple[bytes, bytes]:
        """Return the two commands of a lookup without the serial at their ends: they are its bucket's."""
        place = (one.ca, one.hash_value & ((1 << one.bits) - 1), one.hash_name, one.slot)
        begun = self._begun.get(place)
        if begun is None:
            if len(self._begun) >= MAX_BEGUN:
                self._begun.clear()
            ca, number, hash_name, slot = place
            begun = self._begun[place] = (
                _begin(4, b"HMGET", self.layout.status(ca, number).encode(), layout.BITS_FIELD),
                _begin(4, b"HMGET", self.layout.answers(ca, number, hash_name).encode(), layout.HEADER_FIELDS[slot]),
            )
        return begun

    def _read_plain(self, one: _Lookup, status: Any, answer: Any) -> Reading | None:
        """Make of two replies what nearly all say: the bucket that was thought, and an answer. None: see ``_read``."""
        if type(status) is not list or type(answer) is not list:
            return None
        bits_field, text = status
        header, packed = answer
        if text is None or packed is None or header is None or bits_field != BITS_SPELLED[one.bits]:
            return None
        known = self._headers.get(header)
        try:
            slot, cert_status = packed_slot_and_status(packed)
        except ValueError:
            return None
        if known is None or slot != one.slot or one.bits > self._bits.get(one.ca, 0):
            return None
        return Reading(text.decode(), known, packed, CERT_STATUSES[cert_status])

    def _read(self, one: _Lookup, status: Any, answer: Any) -> Reading | StoreUnavailable | None:
        """Make of two replies what they say; None: ``one`` has been told where to look instead."""
        one.tries += 1
        if type(status) is not list or type(answer) is not list:  # else it is an error's object
            return StoreUnavailable(f"Redis: {status if type(status) is not list else answer}")
        bits_field, text = status
        if bits_field is None or not self._is_right(one, int(bits_field)):
            one.slot = 0
            one.bits = int(bits_field) if bits_field is not None else one.bits - 1
            if not layout.MIN_BITS <= one.bits <= layout.MAX_BITS or one.tries > MAX_TRIES:
                return StoreUnavailable(f"Redis lacks a bucket of {one.ca}: its statuses are lost")
            return None
        if one.bits > self._bits.get(one.ca, 0):
            self._bits[one.ca] = one.bits
        status_text = None if text is None else text.decode()
        header, packed = answer
        if packed is None or status_text is None:
            return Reading(status_text)
        try:
            slot, status = packed_slot_and_status(packed)
            if slot != one.slot:
                # Header and answer must come from one command: the hash may be written anew in between.
                one.slot = slot
                return None if one.tries <= MAX_TRIES else Reading(status_text)
            if header is None:
                return Reading(status_text)
            return Reading(status_text, self._header(header), packed, CERT_STATUSES[status])
        except ValueError as error:
            return StoreUnavailable(f"Redis holds a malformed answer of {one.ca}: {error}")

    @staticmethod
    def _is_right(one: _Lookup, bits: int) -> bool:
        if bits == one.bits:
            return True
        # A shallower bucket of the same number holds the serial too.
        right = bucket_number(one.hash_value, bits) == bucket_number(one.hash_value, one.bits) and bits < one.bits
        if right:
            one.bits = bits
        return right

    def _header(self, octets: bytes) -> AnswerHeader:
        header = self._headers.get(octets)
        if header is None:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            header = self._headers[octets] = AnswerHeader.from_bytes(octets)
        return header

    # --- the journal ------------------------------------------------------------------------------------------------

    async def read_journal(self, after: Mapping[int, int], *, look: bool, count: int = 1_000) -> JournalReading:
        """Return up to ``count`` entries of each partition after the numbers given, in one pipeline.

        ``look``: also the run_id and the last numbers, which were read before the entries.
        """
        commands: list[Command] = []
        if look:
            commands += values.RUN_COMMANDS
            commands += [("XINFO", "STREAM", self.layout.journal(partition)) for partition in PARTITIONS]
        if after:
            # One command for all: a Cluster, whose nodes hold a part of them each, would need one for each.
            keys = [self.layout.journal(partition) for partition in after]
            starts = [f"{number}-{2**64 - 1}" for number in after.values()]
            commands.append(("XREAD", "COUNT", count, "STREAMS", *keys, *starts))
        if not commands:
            return JournalReading([])
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and "no such key" not in str(reply):
                raise StoreUnavailable(f"Redis: {reply}")
        looked = len(values.RUN_COMMANDS) + layout.PARTITIONS if look else 0
        entries = [entry for reply in replies[looked:] for entry in values.journal_entries(reply)]
        if not look:
            return JournalReading(entries)
        server, replication, *streams = replies[:looked]
        ends = {partition: values.last_number(streams[partition]) for partition in PARTITIONS}
        return JournalReading(entries, values.run_id(server, replication), ends)

    # --- live questions ---------------------------------------------------------------------------------------------

    async def ask(self, fields: Mapping[bytes, bytes]) -> None:
        """Put questions to the presigning role (responder/live.py)."""
        key, flat = self.layout.ask(), [part for pair in fields.items() for part in pair]
        (reply,) = await self._link.pipeline([("EVALSHA", scripts.ASK.sha, 1, key, ASK_MAXLEN, *flat)])
        if isinstance(reply, hiredis.ReplyError):
            # No presigner has loaded the script there yet, or the user has no right to it: this way it costs a write to the disk.
            await self._run([("XADD", key, "MAXLEN", "~", ASK_MAXLEN, "*", *flat)])

    async def read_replies(self, worker_id: str, after: bytes) -> tuple[bytes, list[dict[bytes, bytes]]]:
        """Return replies after an entry's id, and the id to go on from; waits a moment where there are none."""
        key = self.layout.replies(worker_id)
        command = ("XREAD", "COUNT", REPLIES_COUNT, "BLOCK", REPLIES_BLOCK_MS, "STREAMS", key, after)
        reply = (await self._replies.pipeline([command], REPLIES_BLOCK_MS / 1000))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise StoreUnavailable(f"Redis: {reply}")
        entries = [entry for _, entries in reply or () for entry in entries]
        return (entries[-1][0] if entries else after), [values.pairs(flat or ()) for _, flat in entries]

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise StoreUnavailable(f"Redis: {reply}")
        return replies
