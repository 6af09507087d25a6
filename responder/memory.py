"""What certificates take in memory: in Redis, and in a worker's answer table. Pure arithmetic.

The constants were fitted to what Redis says that it uses (the fill of ``bench/redis_memory.py``, 1 000 to 300 000
certificates, serials of 8 to 20 octets, signatures of 64 to 512, none to half of them revoked; Redis 7.0, 2026-11-26) and
agree with it to 5 % from 20 000 on. Redis 6.2 takes a tenth less. With Redis's own limits of packed hashes it is half as
much again (``revocast check`` says so).
"""

from __future__ import annotations

from dataclasses import dataclass

from responder.full_pass import bits_for
from responder.store import layout
from responder.store.layout import REVOKED_BITS

ENTRY_BYTES = 5  # of a field and its value in a packed hash, besides their octets
SLACK = 1.08  # room that packed hashes have and the allocator adds
HASH_BYTES = 300  # a hash: its key's name, its place in the key space, headers of answers
BUCKET_BYTES = 270  # a bucket's members of the due set and of its CA's expiry
REVOKED_HASH_BYTES = 100  # a sub-hash of the revoked index: there are at most 2**REVOKED_BITS a CA
FIXED_BYTES = 1_500_000  # an empty server, its scripts, and the roles' connections
JOURNAL_ENTRY_BYTES = 80
JOURNALS_BYTES = layout.PARTITIONS * layout.JOURNAL_MAXLEN * JOURNAL_ENTRY_BYTES  # once they are full

GOOD_TEXT_BYTES = len("good exp=2026-11-20T10:00:00Z")
REVOKED_TEXT_BYTES = len("revoked 2026-11-20T10:00:00Z keyCompromise exp=2026-11-20T10:00:00Z")
PACKED_HEAD_BYTES = 1  # of a packed answer; a revoked one has six more (time and reason)
PACKED_REVOKED_BYTES = 6

# bench/answer_table.py: 150.2 bytes with a serial of 17 octets and a packed answer of 72.
TABLE_ENTRY_BYTES = 61


@dataclass(frozen=True, slots=True)
class Certificates:
    """Some certificates of one CA. ``signature_bytes`` and ``serial_bytes`` are means, ``revoked`` a part of one."""

    count: int
    answers_each: int
    signature_bytes: float
    serial_bytes: float = 16.0
    revoked: float = 0.1
    buckets: int | None = None  # None: as many as a first load makes


@dataclass(frozen=True, slots=True)
class RedisBytes:
    """What they take in Redis, by what for."""

    statuses: float
    revoked_index: float
    answers: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.statuses + self.revoked_index + self.answers


def in_redis(some: Certificates) -> RedisBytes:
    """Predict what certificates take in Redis, without the server itself and the journals."""
    buckets = some.buckets if some.buckets is not None else 1 << bits_for(some.count)
    buckets = min(buckets, some.count)
    text = GOOD_TEXT_BYTES + some.revoked * (REVOKED_TEXT_BYTES - GOOD_TEXT_BYTES)
    statuses = _packed(some.count, 2 * some.serial_bytes + text) + buckets * (HASH_BYTES + BUCKET_BYTES)
    revoked = some.count * some.revoked
    sub_hashes = 1 << REVOKED_BITS
    used = sub_hashes * (1 - (1 - 1 / sub_hashes) ** revoked)  # of a random spread
    index = _packed(revoked, 2 * some.serial_bytes + REVOKED_TEXT_BYTES) + used * REVOKED_HASH_BYTES
    packed = PACKED_HEAD_BYTES + PACKED_REVOKED_BYTES * some.revoked + some.signature_bytes
    each_kind = _packed(some.count, some.serial_bytes + packed) + buckets * HASH_BYTES
    return RedisBytes(statuses, index, some.answers_each * each_kind)


def _packed(count: float, octets: float) -> float:
    return count * (octets + ENTRY_BYTES) * SLACK


def in_table(some: Certificates) -> float:
    """Predict what the answers take in a worker's table, should it hold all of them."""
    packed = PACKED_HEAD_BYTES + PACKED_REVOKED_BYTES * some.revoked + some.signature_bytes
    return some.count * some.answers_each * (some.serial_bytes + packed + TABLE_ENTRY_BYTES)
