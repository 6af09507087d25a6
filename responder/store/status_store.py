"""The store's statuses: reading buckets, finding serials in them, and the commit.

Transitions are decided in revocation.py, never here; only it and full_pass.py call what changes statuses. Called through
redis_store.Store alone.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from responder.errors import CommitConflict, StoreDamaged, StoreOutrun
from responder.store import layout, scripts, values
from responder.store.layout import bucket_number, serial_hash
from responder.store.link import Command
from responder.store.store_base import BULK_BUCKETS, PARTITIONS, StoreBase, batches, made_or_conflict, score_text
from responder.store.values import BucketMap, Change, Commit, Committed, Located, NewBucket, StatusBucket

MAP_TRIES = 20  # of reading a CA's buckets while they are being split
BULK_READS = 1_000  # small commands in one pipeline


class StatusStore(StoreBase):
    """Statuses in their buckets, and the override above them."""

    # --- buckets and statuses ---------------------------------------------------------------------------------------

    def bucket_map(self, ca: str, bits: int) -> BucketMap:
        """Return every bucket of a CA, looking down to ``bits`` and as far below as any bucket says that it lies."""
        for _ in range(MAP_TRIES):
            found: dict[int, int] = {}
            for numbers in batches(range(1 << bits), BULK_READS):
                commands = [("HGET", self.layout.status(ca, number), layout.BITS_FIELD) for number in numbers]
                for number, reply in zip(numbers, self._read(commands), strict=True):
                    if reply is not None:
                        found[number] = int(reply)
            deepest = max(found.values(), default=bits)
            if deepest > bits:
                bits = deepest
                continue
            covered = bytearray(1 << bits)
            for number, depth in found.items():
                covered[number :: 1 << depth] = bytes(1 if leaf == 0 else 2 for leaf in covered[number :: 1 << depth])
            if 2 in covered:
                continue  # a bucket was split between the reading of it and of its child
            return BucketMap(bits, found, frozenset(number for number, times in enumerate(covered) if not times))
        raise StoreOutrun(f"the buckets of {ca} changed with every reading")

    def agree_bits(self, ca: str, bits: int) -> int:
        """Return the bits by which a CA's buckets are made; ``bits`` is what whoever comes first makes them by."""
        key = self.layout.ca(ca)
        replies = self._write([("HSETNX", key, layout.CA_BITS, bits), ("HGET", key, layout.CA_BITS)])
        return int(replies[1])

    def create_buckets(self, ca: str, bits: int) -> None:
        """Make every bucket that a CA lacks, empty; for one that holds nothing yet. ``bits``: if none were agreed."""
        buckets = self.bucket_map(ca, self.agree_bits(ca, bits))
        made = [NewBucket(ca, bucket, buckets.bits, {}, layout.NEVER_DUE) for bucket in sorted(buckets.missing)]
        for _ in self.create_many(made):  # a conflict: somebody else has made it
            pass

    def locate(self, ca: str, serials: Sequence[bytes], bits: int | None = None) -> list[Located]:
        """Find where serials live, and their statuses; ``bits`` is a first guess.

        Raises StoreUnavailable where a bucket is missing: then nothing is known of its serials.
        """
        if bits is None:
            info = self.ca_info(ca)
            bits = info.bits if info and info.bits else layout.MIN_BITS
        found: dict[int, Located] = {}
        open_questions = [(at, serial_hash(octets), bits) for at, octets in enumerate(serials)]
        for _ in range(2 * layout.MAX_BITS):
            again: list[tuple[int, int, int]] = []
            for batch in batches(open_questions, BULK_READS):
                commands = [
                    ("HMGET", self.layout.status(ca, bucket_number(h, b)), layout.BITS_FIELD, serials[at].hex())
                    for at, h, b in batch
                ]
                for (at, h, b), (bits_now, text) in zip(batch, self._read(commands), strict=True):
                    number = bucket_number(h, b)
                    if bits_now is not None and bucket_number(h, int(bits_now)) == number:
                        found[at] = Located(number, int(bits_now), None if text is None else text.decode())
                    else:
                        again.append((at, h, self._next_depth(ca, h, b, bits_now)))
            open_questions = again
            if not open_questions:
                return [found[at] for at in range(len(serials))]
        # One half of a split bucket is lost: the other half points to it for ever.
        raise StoreDamaged(f"Redis lacks a bucket of {ca}: its statuses are lost")

    def _next_depth(self, ca: str, hash_value: int, bits: int, bits_now: bytes | None) -> int:
        # A bucket that says it lies deeper has been split; where none is, a shallower one may hold the serial.
        depth = int(bits_now) if bits_now is not None else bits - 1
        if depth < layout.MIN_BITS or (bits_now is not None and depth <= bits) or depth > layout.MAX_BITS:
            raise StoreDamaged(
                f"Redis lacks the bucket of {self.layout.status(ca, bucket_number(hash_value, bits))}: its statuses are lost"
            )
        return depth

    def find_status(self, ca: str, serial_octets: bytes) -> str | None:
        """Return a serial's status text; None: never issued, or purged."""
        return self.locate(ca, [serial_octets])[0].text

    def read_status_bucket(self, ca: str, bucket: int) -> StatusBucket:
        """Read a whole bucket; raises StoreUnavailable where it is missing."""
        return self.read_status_buckets(ca, [bucket])[0]

    def read_status_buckets(self, ca: str, buckets: Sequence[int]) -> list[StatusBucket]:
        """Read whole buckets; raises StoreUnavailable where one is missing."""
        found: list[StatusBucket] = []
        for batch in batches(buckets, BULK_BUCKETS):
            replies = self._read([("HGETALL", self.layout.status(ca, bucket)) for bucket in batch])
            for bucket, flat in zip(batch, replies, strict=True):
                fields: dict[bytes, bytes] = values.pairs(flat)
                bits = fields.pop(layout.BITS_FIELD, None)
                if bits is None:
                    raise StoreDamaged(f"Redis lacks {self.layout.status(ca, bucket)}: its statuses are lost")
                try:
                    entries = {bytes.fromhex(serial.decode()): text.decode() for serial, text in fields.items()}
                except ValueError as error:
                    key = self.layout.status(ca, bucket)
                    raise StoreDamaged(f"{key} holds a field that is no serial in hex: {error}") from error
                found.append(StatusBucket(bucket, int(bits), entries))
        return found

    def read_revoked(self, ca: str, buckets: Sequence[tuple[int, int]]) -> list[dict[bytes, str]]:
        """Return what the revoked index holds of buckets (number, bits), whether they are there or not."""
        places = [
            (at, low)
            for at, (bucket, bits) in enumerate(buckets)
            for low in range(
                bucket & ((1 << layout.REVOKED_BITS) - 1), 1 << layout.REVOKED_BITS, 1 << min(bits, layout.REVOKED_BITS)
            )
        ]
        found: list[dict[bytes, str]] = [{} for _ in buckets]
        for batch in batches(places, BULK_BUCKETS):
            replies = self._read([("HGETALL", self.layout.revoked(ca, low)) for _, low in batch])
            for (at, low), flat in zip(batch, replies, strict=True):
                bucket, bits = buckets[at]
                for serial, text in values.pairs(flat).items():
                    try:
                        octets = bytes.fromhex(serial.decode())
                    except ValueError as error:
                        key = self.layout.revoked(ca, low)
                        raise StoreDamaged(f"{key} holds a field that is no serial in hex: {error}") from error
                    if bucket_number(serial_hash(octets), bits) == bucket:
                        found[at][octets] = text.decode()
        return found

    # --- the commit: called by revocation.py alone ------------------------------------------------------------------

    def commit(self, ca: str, bucket: int, bits: int, changes: Sequence[Change], due_at: float) -> int:
        """Make the changes of one bucket together; returns the number of the last journal entry.

        Raises CommitConflict where the bucket is not what the caller read (nothing was changed), and StoreUnavailable
        where it is not known whether the commit was made, or where replicas did not report it.
        """
        (made,) = self.commit_many([Commit(ca, bucket, bits, changes, due_at)])
        if isinstance(made, CommitConflict):
            raise made
        return made.number

    def commit_many(self, commits: Iterable[Commit]) -> Iterator[Committed | CommitConflict]:
        """Make many commits, each for itself, pipelined; yields each one's fate in order. Each bucket once only.

        What was yielded is committed, on the replicas too.
        """
        return self._bulk((self._commit_command(one) for one in commits), scripts.COMMIT)

    def create_many(self, buckets: Iterable[NewBucket]) -> Iterator[Committed | CommitConflict]:
        """Make buckets that are not there, with all they hold; as ``commit_many``. In ascending order.

        A bucket is not made below one that holds its serials already. Nor above: it would have to come between two of
        those that another makes in the same order, of which the first has its own number.
        """
        return self._bulk((self._create_command(one) for one in buckets), scripts.CREATE)

    def split_bucket(self, ca: str, bucket: StatusBucket) -> tuple[int, int]:
        """Split a bucket, as it was just read, in two; returns the numbers of both. Raises CommitConflict.

        Readers' first guess is to be raised by ``grow`` afterwards.
        """
        child = bucket.bucket + (1 << bucket.bits)
        moving: list[Any] = []
        staying: list[Any] = []
        for octets in bucket.entries:
            if bucket_number(serial_hash(octets), bucket.bits + 1) == child:
                moving += [octets.hex(), octets]
            else:
                staying.append(octets.hex())
        names, number = self.layout, bucket.bucket
        keys = [names.status(ca, number), names.status(ca, child)]
        for hash_name in layout.STORED_HASHES:
            keys += [names.answers(ca, number, hash_name), names.answers(ca, child, hash_name)]
        partition = layout.partition_of(number)
        keys += [names.due(partition), names.journal(partition), names.expiry(ca, partition)]
        members = (layout.due_member(ca, number), layout.due_member(ca, child))
        arguments = [bucket.bits, ca, f"{number:x}", *members, f"{child:x}", len(moving) // 2, *moving, *staying]
        reply = self._write([("EVALSHA", scripts.SPLIT.sha, len(keys), *keys, *arguments)], scripts.SPLIT)[0]
        made_or_conflict(reply, ca, number)
        return number, child

    def _bucket_keys(self, ca: str, bucket: int) -> list[str]:
        names, partition = self.layout, layout.partition_of(bucket)
        return [
            names.status(ca, bucket),
            *(names.answers(ca, bucket, hash_name) for hash_name in layout.STORED_HASHES),
            names.changed(ca, partition),
            names.due(partition),
            names.journal(partition),
        ]

    def _revoked_index(self, ca: str, keys: list[str], seen: dict[str, int], octets: bytes) -> int:
        """Return which of the revoked keys, counted from 1, is the serial's; added to ``keys`` if need be."""
        key = self.layout.revoked(ca, serial_hash(octets))
        if key not in seen:
            keys.append(key)
            seen[key] = len(seen) + 1
        return seen[key]

    def _commit_command(self, commit: Commit) -> Command:
        ca, keys, seen = commit.ca, self._bucket_keys(commit.ca, commit.bucket), dict[str, int]()
        arguments: list[Any] = []
        for change in commit.changes:
            old, new, octets = change.old_text or "", change.new_text or "", change.serial_octets
            of_revoked = old.startswith("revoked") or new.startswith("revoked")
            index = self._revoked_index(ca, keys, seen, octets) if of_revoked else 0
            arguments += (octets, octets.hex(), old, new, change.kind, index)
        member = layout.due_member(ca, commit.bucket)
        head = (commit.bits, ca, f"{commit.bucket:x}", member, score_text(commit.due_at))
        return ("EVALSHA", scripts.COMMIT.sha, len(keys), *keys, *head, *arguments)

    def _create_command(self, new: NewBucket) -> Command:
        ca, keys = new.ca, self._bucket_keys(new.ca, new.bucket)
        keys.append(self.layout.expiry(ca, layout.partition_of(new.bucket)))
        places = dict[int, int]()
        where = array("H")
        # A bucket of so many bits lies in one hash of the revoked index, so that a big CRL's serials need not be placed.
        is_one = new.bits >= layout.REVOKED_BITS
        for octets, text in new.entries.items():
            index = 0
            if text.startswith("revoked"):
                place = bucket_number(new.bucket if is_one else serial_hash(octets), layout.REVOKED_BITS)
                index = places.setdefault(place, len(places) + 1)
            where.append(index)
        member = layout.due_member(ca, new.bucket)
        ancestors: list[Any] = []
        for bits in range(layout.MIN_BITS, new.bits):
            number = bucket_number(new.bucket, bits)
            if number != new.bucket:
                ancestors += (self.layout.status(ca, number), bits)
        keys += (self.layout.revoked(ca, place) for place in places)
        if sys.byteorder == "big":
            where.byteswap()
        head = (new.bits, ca, f"{new.bucket:x}", member, score_text(new.due_at), len(ancestors) // 2, where.tobytes())
        every = itertools.chain.from_iterable((octets.hex(), text) for octets, text in new.entries.items())
        return ("EVALSHA", scripts.CREATE.sha, len(keys), *keys, *head, *ancestors, *every)

    def _bulk(self, commands: Iterator[Command], script: scripts.Script) -> Iterator[Committed | CommitConflict]:
        for replies, batch in self._link.write_pipelines(batches(commands, BULK_BUCKETS), [script]):
            for reply, command in zip(replies, batch, strict=True):
                try:
                    number, size = made_or_conflict(self._link.good(reply), *_named(command))
                except CommitConflict as conflict:
                    yield conflict
                else:
                    yield Committed(number, size)

    # --- the override -----------------------------------------------------------------------------------------------

    def set_override(self, ca: str, text: str) -> None:
        """Let one status text hold for every certificate of a CA (RFC 6960 §2.7); drops all its answers.

        Each partition changes at once. The copy in ``rc:ca:<ca>`` comes first here and goes last in
        ``clear_override``: a crash in between leaves the CA more revoked, never less.
        """
        self._write([("HSET", self.layout.ca(ca), layout.CA_OVERRIDE, text)])
        self._override_partitions(ca, text)

    def clear_override(self, ca: str) -> None:
        """Let each certificate's own status hold again."""
        self._override_partitions(ca, "")
        self._write([("HDEL", self.layout.ca(ca), layout.CA_OVERRIDE)])

    def override(self, ca: str, partition: int) -> str | None:
        """Return the override that holds in a partition."""
        text = self._link.call("GET", self.layout.override(ca, partition))
        return None if text is None else text.decode()

    def _override_partitions(self, ca: str, text: str) -> None:
        # The script finds the CA's buckets in the due sets: one that is not there (a due set lost or damaged by hand)
        # would keep its good answers.
        info = self.ca_info(ca)
        if info is not None and info.bits is not None:
            buckets = self.bucket_map(ca, info.bits)
            every = sorted({*buckets.buckets, *buckets.missing})
            for batch in batches(every, BULK_READS):
                self._write(
                    [
                        (
                            "ZADD",
                            self.layout.due(layout.partition_of(n)),
                            "NX",
                            layout.DUE_REVOKED,
                            layout.due_member(ca, n),
                        )
                        for n in batch
                    ]
                )
        commands = []
        for p in PARTITIONS:
            keys = (self.layout.override(ca, p), self.layout.due(p), self.layout.journal(p), self.layout.expiry(ca, p))
            start = self.layout.answers(ca, p, "").removesuffix(f"{p:x}:")
            commands.append(("EVALSHA", scripts.OVERRIDE.sha, len(keys), *keys, text, ca, start))
        self._write(commands, scripts.OVERRIDE)


def _named(command: Command) -> tuple[str, int]:
    """Return CA and bucket of an EVALSHA of COMMIT or CREATE."""
    first = 3 + command[2]
    return command[first + 1], int(command[first + 2], 16)
