"""What a worker remembers: ready answers, and serials that are not there. Both in bounded bytes, least used first out.

Every entry is indexed by the low bits of its serial's hash, so that what the journal names can be dropped. A journal
entry names a bucket's number and not its bits, and the bucket may have been split or made anew since an entry was put
here: so whatever could lie in a bucket of that number, at any bits, goes. Dropping too much costs a read; dropping too
little, a wrong "good".

Knows no clock: the endpoint looks at nextUpdate. One worker's loop uses it, without locks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from responder.ocsp.answer import Answer
from responder.store.layout import MIN_BITS, PARTITIONS, partition_of

V = TypeVar("V")
K = TypeVar("K")

INDEX_BITS = (
    12  # a bucket of few bits takes at most 2**(12-4) look-ups, one of many a scan of 1/4096 of the CA's entries
)
# Measured with tracemalloc, CPython 3.11: the objects, two dict slots, the lines of the head.
ENTRY_OVERHEAD_BYTES = 1_500
ABSENT_BYTES = 400  # the same of an entry that holds nothing but its key


def could_hold(bucket: int, hash_value: int) -> bool:
    """Say whether a bucket of that number, at whatever bits, could hold a serial hash."""
    bits = max(MIN_BITS, bucket.bit_length())
    return hash_value & ((1 << bits) - 1) == bucket


class _Remembered(Generic[K, V]):
    """Entries with their CA, serial hash and size; the index; the budget."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[K, tuple[V, str, int, int]] = OrderedDict()
        self._index: dict[tuple[str, int], dict[K, int]] = {}  # (CA, low bits of the hash) → key → serial hash

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return what is remembered, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def _put(self, key: K, value: V, ca: str, hash_value: int, size: int) -> None:
        self.drop(key)
        if size > self.max_bytes:
            return
        while self.used_bytes + size > self.max_bytes:
            self.drop(next(iter(self._entries)))
        self._entries[key] = (value, ca, hash_value, size)
        self._index.setdefault((ca, hash_value & ((1 << INDEX_BITS) - 1)), {})[key] = hash_value
        self.used_bytes += size

    def drop(self, key: K) -> None:
        """Forget one entry, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        _, ca, hash_value, size = entry
        self.used_bytes -= size
        slot = (ca, hash_value & ((1 << INDEX_BITS) - 1))
        del self._index[slot][key]
        if not self._index[slot]:
            del self._index[slot]

    def drop_bucket(self, ca: str, bucket: int) -> int:
        """Forget every entry of a CA that could lie in a bucket of that number; returns how many."""
        bits = max(MIN_BITS, bucket.bit_length())
        dropped = 0
        for low in range(bucket & ((1 << INDEX_BITS) - 1), 1 << INDEX_BITS, 1 << min(bits, INDEX_BITS)):
            found = self._index.get((ca, low))
            for key in [key for key, hash_value in (found or {}).items() if could_hold(bucket, hash_value)]:
                self.drop(key)
                dropped += 1
        return dropped

    def drop_partition(self, partition: int) -> int:
        """Forget every entry of a partition, of all CAs; returns how many."""
        slots = [slot for slot in self._index if partition_of(slot[1]) == partition]
        keys = [key for slot in slots for key in self._index[slot]]
        for key in keys:
            self.drop(key)
        return len(keys)

    def clear(self) -> int:
        """Forget everything; returns how many entries that were."""
        count = len(self._entries)
        self._entries.clear()
        self._index.clear()
        self.used_bytes = 0
        return count


class AnswerTable(_Remembered[bytes, Answer]):
    """Ready answers by the canonical DER of their CertID, which holds hash algorithm, issuer and serial."""

    def put(self, key: bytes, answer: Answer, ca: str, hash_value: int) -> None:
        """Remember an answer; ``ca`` is the store's id, ``hash_value`` layout.serial_hash of the serial."""
        # The body twice: a response that was just sent keeps its octets for the rest of the second.
        size = 2 * len(answer.response.body) + 2 * len(key) + ENTRY_OVERHEAD_BYTES
        self._put(key, answer, ca, hash_value, size)


class AbsentTable(_Remembered[tuple[str, bytes], bool]):
    """Serials that the store said are not there, by CA and serial: until the journal names their bucket.

    Its budget is its own: a flood of made-up serials must not push out answers.
    """

    def put(self, ca: str, serial_octets: bytes, hash_value: int) -> None:
        """Remember that a CA has no such serial."""
        self._put((ca, serial_octets), True, ca, hash_value, len(serial_octets) + ABSENT_BYTES)


assert 1 << MIN_BITS == PARTITIONS  # noqa: S101 - drop_partition reads a hash's partition off its low MIN_BITS
