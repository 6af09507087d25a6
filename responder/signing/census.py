"""How many certificates and buckets each CA has, counted little by little from what is to be signed.

Serials are spread over the partitions by their hashes, so that a few partitions tell of all. Used by the presigner's
watch, a slice every few seconds, and by ``revocast plan``, in one go.
"""

from __future__ import annotations

from collections import Counter

from responder.store.layout import PARTITIONS
from responder.store.redis_store import Store

SLICE_BUCKETS = 500  # at a time: some milliseconds
ENOUGH_BUCKETS = 4_000  # of half a million certificates: the rest is known to about a part in a thousand


class Census:
    """Walks the partitions, one after the other and around again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._partition = 0
        self._rank = 0
        self._certificates: Counter[str] = Counter()  # of the partition that is being walked
        self._buckets: Counter[str] = Counter()
        self._counted: dict[int, tuple[Counter[str], Counter[str]]] = {}

    def step(self) -> None:
        """Count some more buckets; raises StoreUnavailable."""
        left = SLICE_BUCKETS
        for _ in range(PARTITIONS):
            places = self._store.due_slice(self._partition, self._rank, left)
            for (ca, _bucket), size in zip(places, self._store.bucket_sizes(places), strict=True):
                self._certificates[ca] += size
                self._buckets[ca] += size > 0
            self._rank += len(places)
            left -= len(places)
            if left <= 0:
                return
            self._counted[self._partition] = (self._certificates, self._buckets)
            self._partition, self._rank = (self._partition + 1) % PARTITIONS, 0
            self._certificates, self._buckets = Counter(), Counter()

    def take(self) -> None:
        """Count until enough is known to tell of all; raises StoreUnavailable."""
        while len(self._counted) < PARTITIONS and self._counted_buckets() < ENOUGH_BUCKETS:
            self.step()

    def _counted_buckets(self) -> int:
        return sum(buckets.total() for _, buckets in self._counted.values())

    def certificates(self, ca: str) -> int:
        """Return a CA's certificates: all counted, or as many as the partitions counted so far tell of."""
        return self._scaled(sum(certificates[ca] for certificates, _ in self._counted.values()))

    def buckets(self, ca: str) -> int:
        """Return a CA's buckets that hold any certificate; counted likewise."""
        return self._scaled(sum(buckets[ca] for _, buckets in self._counted.values()))

    def _scaled(self, counted: int) -> int:
        return round(counted * PARTITIONS / len(self._counted)) if self._counted else 0
