"""What the tests of the store share: a CA in a Redis, its whole content as a value, answers made of words."""

from __future__ import annotations

import random
from typing import Any

import redis

from responder.store.layout import NEVER_DUE, Layout, bucket_number, partition_of, serial_hash
from responder.store.redis_store import Store
from responder.store.values import AnswerBucket, Change, NewBucket, SignedAnswer
from tests.redis_fixture import RedisServer

CA = "0123456789abcdef"
OTHER_CA = "fedcba9876543210"
NAMES = Layout("rc:")
GOOD = "good exp=2030-12-31T23:59:59Z"
REVOKED = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2030-12-31T23:59:59Z"
HOLD = "revoked 2026-11-20T10:00:00Z certificateHold exp=2030-12-31T23:59:59Z"


def serials(count: int, seed: int = 1) -> list[bytes]:
    """Return distinct serials of all lengths, the same for a seed."""
    chance = random.Random(seed)
    found: dict[bytes, None] = {b"\x2e\x30": None}  # ".0": what a header field must not be
    while len(found) < count:
        found[bytes([chance.randrange(1, 128)]) + chance.randbytes(chance.randrange(0, 20))] = None
    return list(found)


def serials_of(bucket: int, bits: int, count: int) -> list[bytes]:
    """Return serials that live in one bucket."""
    found: list[bytes] = []
    number = 1
    while len(found) < count:
        octets = b"\x01" + number.to_bytes(8, "big")
        if bucket_number(serial_hash(octets), bits) == bucket:
            found.append(octets)
        number += 1
    return found


def open_ca(server: RedisServer, bits: int = 4) -> Store:
    """Return a Store whose CA has its buckets, empty."""
    store = server.store()
    store.ensure_ca(CA, name="corp", subject="CN=Corp CA", certificate=b"\x30\x00")
    store.create_buckets(CA, bits)
    return store


def put(store: Store, entries: dict[bytes, str], kind: Any = "new", due_at: float = NEVER_DUE) -> None:
    """Commit statuses, whatever stands there."""
    by_bucket: dict[tuple[int, int], list[Change]] = {}
    for (octets, text), place in zip(entries.items(), store.locate(CA, list(entries)), strict=True):
        by_bucket.setdefault((place.bucket, place.bits), []).append(Change(octets, place.text, text, kind))
    for (bucket, bits), changes in by_bucket.items():
        store.commit(CA, bucket, bits, changes, due_at)


def answer(store: Store, octets: bytes, packed: bytes = b"\x00answer", header: bytes = b"header") -> None:
    """Store an answer for a serial's present status, beside those that are there."""
    place = store.locate(CA, [octets])[0]
    assert place.text is not None
    seen = store.read_answer_bucket(CA, place.bucket, "sha1")
    slot = packed[0] & 15
    store.put_answers(CA, place.bucket, "sha1", slot, header, [SignedAnswer(octets, place.text, packed)], seen=seen)


def everything(client: redis.Redis) -> dict[bytes, Any]:
    """Return the whole content of a Redis as one value that can be compared."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter(count=10_000):
        match client.type(key):
            case b"hash":
                found[key] = client.hgetall(key)
            case b"zset":
                found[key] = dict(client.zrange(key, 0, -1, withscores=True))
            case b"stream":
                found[key] = client.xrange(key)
            case _:
                found[key] = client.get(key)
    return found


def new_bucket(bucket: int, bits: int, entries: dict[bytes, str], due_at: float = 5.0) -> NewBucket:
    """Return a bucket of the test's CA."""
    return NewBucket(CA, bucket, bits, entries, due_at)


def partition(octets: bytes) -> int:
    """Return the partition of a serial."""
    return partition_of(serial_hash(octets))


EMPTY = AnswerBucket()
