"""A store that takes everything and writes nothing: ``revocast load --dry-run`` makes its report by the real way.

Called by loaders/runner.py. What is asked of it is what responder.full_pass asks of a Store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from responder.store.layout import bucket_number, serial_hash
from responder.store.redis_store import Store
from responder.store.values import BucketMap, CAInfo, Commit, Committed, Located, NewBucket, StatusBucket


class DryStore:
    """Reads from a Store; a bucket that would be split is seen as if it were."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._halves: dict[int, StatusBucket] = {}

    def ca_info(self, ca: str) -> CAInfo | None:
        """Return what is known of a CA."""
        return self._store.ca_info(ca)

    def agree_bits(self, ca: str, bits: int) -> int:
        """Return how many bits a CA's buckets have, or would have."""
        info = self._store.ca_info(ca)
        return info.bits if info is not None and info.bits else bits

    def bucket_map(self, ca: str, bits: int) -> BucketMap:
        """Return a CA's buckets."""
        return self._store.bucket_map(ca, bits)

    def locate(self, ca: str, serials: Sequence[bytes], bits: int | None = None) -> list[Located]:
        """Find statuses; a CA that was never loaded has none."""
        info = self._store.ca_info(ca)
        if info is None or info.bits is None:
            return [Located(0, 0, None) for _ in serials]
        return self._store.locate(ca, serials, bits)

    def read_status_buckets(self, ca: str, buckets: Sequence[int]) -> list[StatusBucket]:
        """Read whole buckets."""
        real = iter(self._store.read_status_buckets(ca, [bucket for bucket in buckets if bucket not in self._halves]))
        return [self._halves[bucket] if bucket in self._halves else next(real) for bucket in buckets]

    def read_revoked(self, ca: str, buckets: Sequence[tuple[int, int]]) -> list[dict[bytes, str]]:
        """Return nothing: a bucket that was lost is reported as new, without what would be refused in it."""
        return [{} for _ in buckets]

    def split_bucket(self, ca: str, bucket: StatusBucket) -> tuple[int, int]:
        """Remember both halves."""
        numbers = (bucket.bucket, bucket.bucket + (1 << bucket.bits))
        for number in numbers:
            entries = {
                serial: text
                for serial, text in bucket.entries.items()
                if bucket_number(serial_hash(serial), bucket.bits + 1) == number
            }
            self._halves[number] = StatusBucket(number, bucket.bits + 1, entries)
        return numbers

    def commit_many(self, commits: Iterable[Commit]) -> Iterator[Committed]:
        """Say that each was made."""
        return (Committed(0, 0) for _ in commits)

    def create_many(self, buckets: Iterable[NewBucket]) -> Iterator[Committed]:
        """Say that each was made."""
        return (Committed(0, 0) for _ in buckets)

    def grow(self, ca: str, bits: int) -> None:
        """Do nothing."""


def dry(store: Store) -> Store:
    """Return the store's likeness that writes nothing."""
    return cast("Store", DryStore(store))
