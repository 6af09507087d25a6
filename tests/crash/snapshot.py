"""All that Redis holds, as values that compare: what a crash may have left, and what it may not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis

from fastpath.ocsp_response import unpack_answer
from responder.store.layout import (
    DUE_REVOKED,
    HEADER_FIELDS,
    PARTITIONS,
    STORED_HASHES,
    Layout,
    bucket_number,
    due_member,
    partition_of,
    serial_hash,
)

LAYOUT = Layout()
Snapshot = dict[str, Any]


def take(client: redis.Redis) -> Snapshot:
    """Read every key of the layout."""
    keys = sorted(client.scan_iter(match=LAYOUT.prefix + "*", count=1_000))
    readers = {
        b"hash": lambda key: client.hgetall(key),
        b"zset": lambda key: dict(client.zrange(key, 0, -1, withscores=True)),
        b"stream": lambda key: client.xrange(key),
        b"string": lambda key: client.get(key),
    }
    return {key.decode(): readers[client.type(key)](key) for key in keys}


def journal(snapshot: Snapshot) -> Iterable[tuple[int, int, dict[bytes, bytes]]]:
    """Yield (partition, number, fields) of every entry; the numbers of each partition must be gapless."""
    for partition in range(PARTITIONS):
        last: int | None = None
        for entry_id, fields in snapshot.get(LAYOUT.journal(partition), ()):
            number = int(entry_id.split(b"-")[0])
            assert last is None or number == last + 1, f"a gap in the journal: {last}, {number}"
            last = number
            yield partition, number, fields


class Revocation:
    """What the revocation of one serial must change together: the traces that a crash leaves of it."""

    def __init__(self, ca: str, serial: bytes, bits: int) -> None:
        self.ca = ca
        self.serial = serial
        self.hex = serial.hex().encode()
        self.hash_value = serial_hash(serial)
        self.bucket = bucket_number(self.hash_value, bits)

    def traces(self, before: Snapshot, after: Snapshot) -> dict[str, bool]:
        """Say of each trace whether it is there. ``before``: good, answered, and not due for a revocation."""
        status_key = LAYOUT.status(self.ca, self.bucket)
        due_key, member = LAYOUT.due(partition_of(self.bucket)), due_member(self.ca, self.bucket).encode()
        assert before[status_key][self.hex].startswith(b"good")
        assert before[due_key][member] > DUE_REVOKED
        traces = {
            "status": after[status_key][self.hex].startswith(b"revoked"),
            "index": self.hex in after.get(LAYOUT.revoked(self.ca, self.hash_value), {}),
            "due": after[due_key][member] == DUE_REVOKED,
            "journal": self.entries(after) > 0,
        }
        for hash_name in STORED_HASHES:
            answers_key = LAYOUT.answers(self.ca, self.bucket, hash_name)
            assert self.serial in before[answers_key]
            traces[f"answer dropped: {hash_name}"] = self.serial not in after.get(answers_key, {})
        return traces

    def entries(self, snapshot: Snapshot) -> int:
        """Return how many journal entries tell of it."""
        return sum(
            1
            for _, _, fields in journal(snapshot)
            if fields[b"kind"] == b"revoked" and self.hex in fields[b"serials"].split()
        )

    def others_are_untouched(self, before: Snapshot, after: Snapshot) -> None:
        """Fail where anything has changed that is not this revocation's."""
        mine = {
            LAYOUT.revoked(self.ca, self.hash_value): {self.hex},
            LAYOUT.status(self.ca, self.bucket): {self.hex},
            LAYOUT.due(partition_of(self.bucket)): {due_member(self.ca, self.bucket).encode()},
            LAYOUT.ca(self.ca): {b"settled"},  # of Store.settle
            **{LAYOUT.answers(self.ca, self.bucket, name): {self.serial} for name in STORED_HASHES},
        }
        for key in before.keys() | after.keys():
            if key == LAYOUT.journal(partition_of(self.bucket)):
                old, new = before.get(key, []), after[key]
                assert new[: len(old)] == old
                continue
            old, new = (dict(one.get(key, {})) for one in (before, after))
            for field in mine.get(key, ()):
                old.pop(field, None)
                new.pop(field, None)
            assert old == new, f"{key} has changed"


def answers_without_header(snapshot: Snapshot) -> list[str]:
    """Return the answers whose header is not there."""
    return [
        f"{key} {field.hex()}"
        for key, fields in snapshot.items()
        if ":answers:" in key
        for field, packed in fields.items()
        if field not in HEADER_FIELDS and HEADER_FIELDS[unpack_answer(packed).slot] not in fields
    ]
