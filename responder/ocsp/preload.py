"""Fills a fresh worker's table from Redis, so that a restart is no storm of misses (``http.preload``).

Bucket by bucket, while queries are served. A bucket that the journal names while it is being read is left out: its
answers are fetched when they are asked for, like any other. Ends when all is read or the table is full.
"""

from __future__ import annotations

import asyncio

from fastpath.answer_table import AnswerTable
from responder.clock import Clock
from responder.errors import StoreUnavailable
from responder.issuers import Issuer, Issuers
from responder.log import get_logger
from responder.ocsp.stored import StoredSource
from responder.store import layout
from responder.store.layout import partition_of
from responder.store.redis_store import EdgeStore

log = get_logger(__name__)

BUCKETS_AT_ONCE = 16  # in one pipeline
FULL = 0.95  # of the table: what is put after that may push out what queries brought
PROGRESS_S = 1.0  # between two lines of progress


class Preload:
    """Preloads once; the journal's follower tells it what changes meanwhile. One event loop's thread only."""

    def __init__(
        self, store: EdgeStore, clock: Clock, issuers: Issuers, table: AnswerTable, stored: StoredSource
    ) -> None:
        self._store = store
        self._clock = clock
        self._issuers = issuers
        self._table = table
        self._stored = stored
        self._outdated: set[tuple[str, int]] = set()  # (CA, partition) that the journal has named since the last read
        self._told_at = float("-inf")
        self.answers = 0

    async def run(self) -> None:
        """Read every bucket of every CA; a Redis that goes away ends it, and the queries do the rest."""
        began = self._clock.monotonic()
        self._told_at = began
        try:
            for issuer in self._issuers:
                info = await self._store.ca_info(issuer.id)
                if info is not None and info.bits is not None and not await self._preload(issuer, info.bits):
                    break
        except StoreUnavailable as error:
            log.warning("preload_ended", error=str(error), answers=self.answers)
        except Exception:
            log.exception("preload_failed", answers=self.answers)
        else:
            seconds = round(self._clock.monotonic() - began, 1)
            log.info("preloaded", answers=self.answers, bytes=self._table.used_bytes, seconds=seconds)

    async def _preload(self, issuer: Issuer, bits: int) -> bool:
        """Preload one CA; returns whether there is room for another. Shallower buckets have smaller numbers."""
        buckets = 1 << bits
        for first in range(0, buckets, BUCKETS_AT_ONCE):
            numbers = range(first, min(first + BUCKETS_AT_ONCE, buckets))
            for hash_name in dict.fromkeys(map(issuer.stored_by, layout.STORED_HASHES)):
                self._outdated.clear()
                for number, readings in zip(
                    numbers, await self._store.read_buckets(issuer.id, numbers, hash_name), strict=True
                ):
                    await self._stored.load_templates(readings.values())
                    # No await between this look and the last put: nothing slips in between.
                    if (issuer.id, partition_of(number)) not in self._outdated:
                        self.answers += self._stored.keep_all(issuer, hash_name, readings)
                    if self._table.fullness > FULL:
                        log.warning("preload_table_full", ca=issuer.name, answers=self.answers)
                        return False
                    await asyncio.sleep(0)  # let queries be answered between two buckets
            self._tell(issuer, first + len(numbers), buckets)
        return True

    def _tell(self, issuer: Issuer, done: int, buckets: int) -> None:
        now = self._clock.monotonic()
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            log.info("preloading", ca=issuer.name, percent=100 * done // buckets, answers=self.answers)

    # --- the journal ------------------------------------------------------------------------------------------------

    def drop_bucket(self, ca: str, bucket: int) -> None:
        """Leave out what is being read of the bucket's partition: it may lie in it at any bits."""
        self._outdated.add((ca, partition_of(bucket)))

    def drop_partition(self, partition: int) -> None:
        """Leave out what is being read of a partition."""
        self._outdated.update((issuer.id, partition) for issuer in self._issuers)

    def clear(self) -> None:
        """Leave out all that is being read."""
        for partition in range(layout.PARTITIONS):
            self.drop_partition(partition)
