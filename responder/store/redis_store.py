"""The store as the writing roles and the commands use it: synchronous, one connection, text and bytes of the layout.

What each script does stands in scripts.py, what a commit is in link.py, every name in layout.py. Transitions are
decided in revocation.py, never here. A Store may be shared by threads (one command sequence at a time); a thread that
blocks in ``xreadgroup`` wants one of its own. Every failure is StoreUnavailable: nothing is known of what was not
answered. Only revocation.py may call the methods that change statuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from responder.clock import format_utc
from responder.config import Config
from responder.errors import CommitConflict, StoreUnavailable
from responder.store import layout, link, scripts, target, values
from responder.store.acl import acl_lines
from responder.store.edge_store import EdgeStore, JournalReading, Reading
from responder.store.fitness import check
from responder.store.layout import Layout, bucket_number, serial_hash
from responder.store.link import Command, Link
from responder.store.values import (
    AnswerBucket,
    BucketMap,
    CAInfo,
    Change,
    Claim,
    Commit,
    Committed,
    Finding,
    JournalEntry,
    Located,
    NewBucket,
    SignedAnswer,
    SignerRecord,
    StatusBucket,
)

if TYPE_CHECKING:
    from redis import Redis

__all__ = [
    "AnswerBucket",
    "BucketMap",
    "CAInfo",
    "Change",
    "Claim",
    "Commit",
    "Committed",
    "EdgeStore",
    "Finding",
    "JournalEntry",
    "JournalReading",
    "Located",
    "NewBucket",
    "Reading",
    "SignedAnswer",
    "SignerRecord",
    "StatusBucket",
    "Store",
    "acl_lines",
]

T = TypeVar("T")

PARTITIONS = range(layout.PARTITIONS)
BULK_BUCKETS = 16
MAP_TRIES = 20
BULK_READS = 1_000  # small commands in one pipeline


class Store:
    """One role's sight of Redis."""

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

    def set_as_of(self, ca: str, as_of: float, cursor: str | None = None, loaded: int | None = None) -> None:
        """Say as of when the source is known (its fraction is cut off): after all rows of that reading were committed.

        As a write that waits for the replicas it also vouches for every commit before it.
        """
        fields: list[Any] = [layout.CA_AS_OF, format_utc(as_of)]
        if cursor is not None:
            fields += [layout.CA_CURSOR, cursor]
        if loaded is not None:
            fields += [layout.CA_LOADED, loaded]
        self._write([("HSET", self.layout.ca(ca), *fields)])

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

    # --- buckets and statuses ---------------------------------------------------------------------------------------

    def bucket_map(self, ca: str, bits: int) -> BucketMap:
        """Return every bucket of a CA, looking down to ``bits`` and as far below as any bucket says that it lies."""
        for _ in range(MAP_TRIES):
            found: dict[int, int] = {}
            for numbers in _batches(range(1 << bits), BULK_READS):
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
        raise StoreUnavailable(f"the buckets of {ca} changed with every reading")

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
        while open_questions:
            again: list[tuple[int, int, int]] = []
            for batch in _batches(open_questions, BULK_READS):
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
        return [found[at] for at in range(len(serials))]

    def _next_depth(self, ca: str, hash_value: int, bits: int, bits_now: bytes | None) -> int:
        # A bucket that says it lies deeper has been split; where none is, a shallower one may hold the serial.
        depth = int(bits_now) if bits_now is not None else bits - 1
        if depth < layout.MIN_BITS or (bits_now is not None and depth <= bits) or depth > layout.MAX_BITS:
            raise StoreUnavailable(
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
        for batch in _batches(buckets, BULK_BUCKETS):
            replies = self._read([("HGETALL", self.layout.status(ca, bucket)) for bucket in batch])
            for bucket, flat in zip(batch, replies, strict=True):
                fields: dict[bytes, bytes] = values.pairs(flat)
                bits = fields.pop(layout.BITS_FIELD, None)
                if bits is None:
                    raise StoreUnavailable(f"Redis lacks {self.layout.status(ca, bucket)}: its statuses are lost")
                entries = {bytes.fromhex(serial.decode()): text.decode() for serial, text in fields.items()}
                found.append(StatusBucket(bucket, int(bits), entries))
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
        keys += [names.due(layout.partition_of(number)), names.journal(layout.partition_of(number))]
        members = (layout.due_member(ca, number), layout.due_member(ca, child))
        arguments = [bucket.bits, ca, f"{number:x}", *members, len(moving) // 2, *moving, *staying]
        reply = self._write([("EVALSHA", scripts.SPLIT.sha, len(keys), *keys, *arguments)], scripts.SPLIT)[0]
        _made(reply, ca, number)
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
        head = (commit.bits, ca, f"{commit.bucket:x}", member, _score(commit.due_at))
        return ("EVALSHA", scripts.COMMIT.sha, len(keys), *keys, *head, *arguments)

    def _create_command(self, new: NewBucket) -> Command:
        ca, keys, seen = new.ca, self._bucket_keys(new.ca, new.bucket), dict[str, int]()
        every = itertools.chain.from_iterable((octets.hex(), text) for octets, text in new.entries.items())
        revoked: list[Any] = []
        for octets, text in new.entries.items():
            if text.startswith("revoked"):
                revoked += (self._revoked_index(ca, keys, seen, octets), octets.hex(), text)
        member = layout.due_member(ca, new.bucket)
        ancestors: list[Any] = []
        for bits in range(layout.MIN_BITS, new.bits):
            number = bucket_number(new.bucket, bits)
            if number != new.bucket:
                ancestors += (self.layout.status(ca, number), bits)
        head = (new.bits, ca, f"{new.bucket:x}", member, _score(new.due_at), len(ancestors) // 2, len(revoked) // 3)
        revoked = [*ancestors, *revoked]
        return ("EVALSHA", scripts.CREATE.sha, len(keys), *keys, *head, *revoked, *every)

    def _bulk(self, commands: Iterator[Command], script: scripts.Script) -> Iterator[Committed | CommitConflict]:
        for replies, batch in self._link.write_pipelines(_batches(commands, BULK_BUCKETS), [script]):
            for reply, command in zip(replies, batch, strict=True):
                try:
                    number, size = _made(self._link.good(reply), *_named(command))
                except CommitConflict as conflict:
                    yield conflict
                else:
                    yield Committed(number, size)

    # --- due buckets and answers: the presigner ---------------------------------------------------------------------

    def claim_due(self, partitions: Iterable[int], now: float, lease_s: float, limit: int) -> list[Claim]:
        """Claim up to ``limit`` buckets that are due at ``now``, the most urgent first.

        A claim that is not finished comes due again at ``now + lease_s``.
        """
        partitions = list(partitions)
        peeks = [
            ("ZRANGEBYSCORE", self.layout.due(p), "-inf", _score(now), "WITHSCORES", "LIMIT", 0, limit)
            for p in partitions
        ]
        waiting = [
            (float(score), p, member)
            for p, flat in zip(partitions, self._read(peeks), strict=True)
            for member, score in values.pairs(flat).items()
        ]
        chosen = sorted(waiting)[:limit]
        if not chosen:
            return []
        lease = now + lease_s
        by_partition = [(p, [one for one in chosen if one[1] == p]) for p in sorted({one[1] for one in chosen})]
        commands = [
            (
                *("EVALSHA", scripts.CLAIM.sha, 1, self.layout.due(p), _score(lease)),
                *itertools.chain.from_iterable((member, _score(score)) for score, _, member in mine),
            )
            for p, mine in by_partition
        ]
        claims: list[Claim] = []
        for (_, mine), won in zip(by_partition, self._run(commands, scripts.CLAIM), strict=True):
            for (score, _, member), is_mine in zip(mine, won, strict=True):
                if is_mine:
                    claims.append(Claim(*layout.parse_due_member(member.decode()), score, lease))
        return sorted(claims, key=lambda claim: claim.score)

    def finish_claim(self, claim: Claim, next_due: float) -> bool:
        """Say when a claimed bucket is due again; False: it came due meanwhile, and stays so."""
        due, member = self.layout.due(layout.partition_of(claim.bucket)), layout.due_member(claim.ca, claim.bucket)
        command = ("EVALSHA", scripts.FINISH.sha, 1, due, member, _score(claim.lease), _score(next_due))
        return bool(self._run([command], scripts.FINISH)[0])

    def make_due(self, ca: str, bucket: int, at: float) -> None:
        """Bring a bucket's due time forward to ``at``; never back."""
        due, member = self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket)
        self._link.call("ZADD", due, "XX", "LT", _score(at), member)

    def due_at(self, ca: str, bucket: int) -> float | None:
        """Return a bucket's score in the due set; None: it is not there."""
        score = self._link.call("ZSCORE", self.layout.due(layout.partition_of(bucket)), layout.due_member(ca, bucket))
        return None if score is None else float(score)

    def due_counts(self, now: float) -> tuple[int, int]:
        """Return how many buckets are due at ``now``, and how many of these for a revocation."""
        due = self._read([("ZCOUNT", self.layout.due(p), "-inf", _score(now)) for p in PARTITIONS])
        urgent = self._read([("ZCOUNT", self.layout.due(p), "-inf", layout.DUE_REVOKED) for p in PARTITIONS])
        return sum(due), sum(urgent)

    def finish_claims(self, finished: Sequence[tuple[Claim, float]]) -> None:
        """Finish claims in one round trip, as ``finish_claim`` does each."""
        commands = [
            (
                *("EVALSHA", scripts.FINISH.sha, 1, self.layout.due(layout.partition_of(claim.bucket))),
                *(layout.due_member(claim.ca, claim.bucket), _score(claim.lease), _score(next_due)),
            )
            for claim, next_due in finished
        ]
        if commands:
            self._run(commands, scripts.FINISH)

    def due_slice(self, partition: int, first: int, count: int) -> list[tuple[str, int]]:
        """Return (CA, bucket) of ``count`` buckets of a partition from rank ``first``, the soonest due first."""
        members = self._link.call("ZRANGE", self.layout.due(partition), first, first + count - 1) if count > 0 else []
        return [layout.parse_due_member(member.decode()) for member in members]

    def read_headers(self, places: Sequence[tuple[str, int]], hash_name: str) -> list[list[bytes]]:
        """Return the headers of answers hashes, named by (CA, bucket)."""
        replies = self._read(
            [("HMGET", self.layout.answers(ca, bucket, hash_name), *layout.HEADER_FIELDS) for ca, bucket in places]
        )
        return [[header for header in reply if header is not None] for reply in replies]

    def read_answer_bucket(self, ca: str, bucket: int, hash_name: str) -> AnswerBucket:
        """Read a whole answers hash; empty where there is none."""
        return self.read_answer_buckets(ca, [bucket], hash_name)[0]

    def read_answer_buckets(self, ca: str, buckets: Sequence[int], hash_name: str) -> list[AnswerBucket]:
        """Read whole answers hashes."""
        found: list[AnswerBucket] = []
        for batch in _batches(buckets, BULK_BUCKETS):
            replies = self._read([("HGETALL", self.layout.answers(ca, bucket, hash_name)) for bucket in batch])
            found += map(values.answer_bucket, replies)
        return found

    def put_answers(
        self,
        ca: str,
        bucket: int,
        hash_name: str,
        slot: int,
        header: bytes,
        answers: Sequence[SignedAnswer],
        *,
        seen: AnswerBucket,
        override: str | None = None,
        replace: bool = False,
    ) -> int:
        """Store answers under ``header`` in ``slot``; returns how many: those whose status text still stands.

        ``replace``: they become the whole hash; else they join it, and ``slot`` must be one that no answer of ``seen``
        uses. ``seen``: the hash as it was read before signing; ``override``: the override that was signed. Raises
        CommitConflict where another presigner changed the headers meanwhile, or the override changed: read again.
        """
        return self.send_answers(
            ca, bucket, hash_name, slot, header, answers, seen=seen, override=override, replace=replace
        )()

    def send_answers(
        self,
        ca: str,
        bucket: int,
        hash_name: str,
        slot: int,
        header: bytes,
        answers: Sequence[SignedAnswer],
        *,
        seen: AnswerBucket,
        override: str | None = None,
        replace: bool = False,
    ) -> Callable[[], int]:
        """As ``put_answers``, without waiting for Redis: what is returned waits, and returns or raises what that does."""
        partition = layout.partition_of(bucket)
        keys = (self.layout.answers(ca, bucket, hash_name), self.layout.journal(partition))
        arguments: list[Any] = [
            *(self.layout.status(ca, bucket), self.layout.override(ca, partition), override or ""),
            *(ca, f"{bucket:x}", "1" if replace else "0", layout.HEADER_FIELDS[slot], header),
            *(seen.headers.get(number, b"") for number in range(layout.HEADER_SLOTS)),
        ]
        for answer in answers:
            arguments += (answer.serial_octets, answer.serial_octets.hex(), answer.status_text, answer.packed)
        command = ("EVALSHA", scripts.PUT_ANSWERS.sha, len(keys), *keys, *arguments)
        finish = self._link.send_scripts([command], [scripts.PUT_ANSWERS])
        return lambda: _made(self._link.good(finish()[0]), ca, bucket)[1]

    def drop_answers(self, ca: str, bucket: int, hash_name: str) -> None:
        """Drop a whole answers hash: nobody has asked for its kind for long."""
        self._link.call("DEL", self.layout.answers(ca, bucket, hash_name))

    def put_signer(self, signer_id: str, template: bytes, certificate: bytes) -> None:
        """Store what workers need to put a signer's answers together: before its first answer."""
        fields = (layout.SIGNER_TEMPLATE, template, layout.SIGNER_CERTIFICATE, certificate)
        self._link.call("HSET", self.layout.signer(signer_id), *fields)

    def get_signer(self, signer_id: str) -> SignerRecord | None:
        """Return a signer's record."""
        return values.signer_record(self._link.call("HGETALL", self.layout.signer(signer_id)))

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
        commands = []
        for p in PARTITIONS:
            keys = (self.layout.override(ca, p), self.layout.due(p), self.layout.journal(p))
            start = self.layout.answers(ca, p, "").removesuffix(f"{p:x}:")
            commands.append(("EVALSHA", scripts.OVERRIDE.sha, len(keys), *keys, text, ca, start))
        self._write(commands, scripts.OVERRIDE)

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

    def memory_fraction(self) -> float:
        """Return used memory as a fraction of maxmemory; 0 where there is no bound."""
        info = values.info_fields(self._link.call("INFO", "memory"))
        most = int(info.get("maxmemory", "0"))
        return int(info["used_memory"]) / most if most else 0.0

    def check(self) -> list[Finding]:
        """Look at what an operator should know of this Redis; never raises for what it merely may not see."""
        return check(self._link)

    # --- streams of live questions and answers (responder/live.py) ------------------------------------------------------

    def xadd(self, key: str, fields: Mapping[Any, Any], *, maxlen: int, expire_s: int | None = None) -> None:
        """Add an entry to a stream that keeps about ``maxlen``, and vanishes when unused for ``expire_s``."""
        flat = itertools.chain.from_iterable(fields.items())
        commands: list[Command] = [("XADD", key, "MAXLEN", "~", maxlen, "*", *flat)]
        if expire_s is not None:
            commands.append(("EXPIRE", key, expire_s))
        self._read(commands)

    def xread(self, key: str, after: bytes | str, count: int = 100) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries (id, fields) after an id, without waiting."""
        return _entries(self._link.call("XREAD", "COUNT", count, "STREAMS", key, after))

    def xreadgroup(
        self, key: str, group: str, consumer: str, *, count: int = 100, block_ms: int | None = None
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return entries that no consumer of the group has seen, making stream and group if need be.

        ``block_ms``: how long to wait for one, at most a second or so (this connection is blocked meanwhile).
        """
        block = () if block_ms is None else ("BLOCK", block_ms)
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">")
        reply = self._link.pipeline([command])[0]
        if isinstance(reply, Exception) and "NOGROUP" in str(reply):
            self._link.pipeline([("XGROUP", "CREATE", key, group, "0", "MKSTREAM")])
            reply = self._link.pipeline([command])[0]
        return _entries(self._link.good(reply))

    def xack(self, key: str, group: str, ids: Sequence[bytes]) -> None:
        """Say that a group is done with entries."""
        if ids:
            self._link.call("XACK", key, group, *ids)

    # --- ways to run commands -----------------------------------------------------------------------------------------

    def _read(self, commands: Sequence[Command]) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.pipeline(commands)]

    def _run(self, commands: Sequence[Command], script: scripts.Script) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.pipeline_scripts(commands, [script])]

    def _write(self, commands: Sequence[Command], *used: scripts.Script) -> list[Any]:
        return [self._link.good(reply) for reply in self._link.write(commands, used)]


def _score(score: float) -> str:
    return "+inf" if score == layout.NEVER_DUE else repr(float(score))


def _named(command: Command) -> tuple[str, int]:
    """Return CA and bucket of an EVALSHA of COMMIT or CREATE."""
    first = 3 + command[2]
    return command[first + 1], int(command[first + 2], 16)


def _made(reply: Any, ca: str, bucket: int) -> tuple[int, int]:
    """Return what a script reports that did its work; raises CommitConflict for one that did not."""
    if reply[0] == 0:
        raise CommitConflict(f"bucket {bucket:x} of {ca} has changed: {reply[1].decode()}")
    return int(reply[1] or 0), int(reply[2]) if len(reply) > 2 else 0


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry, values.pairs(flat or ())) for _, entries in reply or () for entry, flat in entries]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
