"""Follows the partitions' journals, and has everything forgotten that they name.

This is what keeps promise 1: an answer is used only while the journal would have told of a change. A gap in the
numbers (trimmed), a number that went back (failover, or a journal begun anew) or another run_id (another Redis, or the
same one restarted) means that entries were missed: then the whole partition, or everything, is forgotten. One follower
for each worker. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from responder.clock import Clock
from responder.errors import StoreUnavailable
from responder.log import get_logger
from responder.metrics import JOURNAL_LAG
from responder.store.layout import PARTITIONS
from responder.store.redis_store import EdgeStore, JournalEntry

log = get_logger(__name__)

POLL_S = 0.05  # promise 1 allows 250 ms; in a Cluster one blocking XREAD could not span the partitions
LOOK_S = 1.0  # how often the numbers and the run_id are looked at, beside after every reconnect
BACKOFF_MOST_S = 1.0  # between tries to reach a Redis that is gone
READ_COUNT = 1_000  # entries of one partition that one poll takes


class Contact:
    """When the journal was last seen to its end. Monotonic seconds, so that a stepped clock changes nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_at: float | None = None
        self._first = asyncio.Event()

    def age(self) -> float:
        """Return for how many seconds nothing has been heard; infinite before the first contact."""
        return float("inf") if self._seen_at is None else self._clock.monotonic() - self._seen_at

    def seen(self, at: float) -> None:
        """Note a poll that was sent at ``at`` and came back whole."""
        self._seen_at = at
        self._first.set()

    async def first(self) -> None:
        """Wait for the first contact."""
        await self._first.wait()


class Forgetful(Protocol):
    """What holds, or is just fetching, something that a journal entry may end."""

    def drop_bucket(self, ca: str, bucket: int) -> None:
        """Forget what could lie in a bucket of that number, at any bits."""
        ...

    def drop_partition(self, partition: int) -> None:
        """Forget a partition."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class JournalFollower:
    """Reads the journals from where they stood at the first contact."""

    def __init__(
        self,
        store: EdgeStore,
        clock: Clock,
        contact: Contact,
        of_answers: Sequence[Forgetful],
        of_statuses: Sequence[Forgetful],
    ) -> None:
        """``of_answers`` hear of every entry, ``of_statuses`` not of those that only stored or moved answers."""
        self._store = store
        self._clock = clock
        self._contact = contact
        self._of_answers = tuple(of_answers)
        self._of_statuses = tuple(of_statuses)
        self._numbers: dict[int, int] = {}  # partition → number of the last entry seen
        self._named: set[tuple[str, int]] = set()  # buckets that the poll in hand has named
        self._changed: set[tuple[str, int]] = set()  # those of them where a status changed
        self._run_id: str | None = None
        self._looked_at = float("-inf")
        self._looked_over = 0  # the store's count of connections at that look

    async def run(self) -> None:
        """Poll until cancelled."""
        pause = POLL_S
        while True:
            try:
                behind = await self.poll()
                pause = 0.0 if behind else POLL_S
            except StoreUnavailable as error:
                log.warning("journal_unreachable", error=str(error), blind_s=round(min(self._contact.age(), 1e9), 1))
                pause = min(max(pause, POLL_S) * 2, BACKOFF_MOST_S)
            JOURNAL_LAG.set(min(self._contact.age(), 1e9))
            await asyncio.sleep(pause)

    async def poll(self) -> bool:
        """Read what is new, and have it forgotten; returns whether more is waiting. Raises StoreUnavailable."""
        sent_at = self._clock.monotonic()
        connections = self._store.connections
        look = sent_at - self._looked_at >= LOOK_S or connections != self._looked_over
        reading = await self._store.read_journal(self._numbers, look=look, count=READ_COUNT)
        if self._store.connections != connections and not look:
            # Connected anew on the way, perhaps to another Redis: nothing is trusted before it was looked at.
            return True
        if reading.run_id is not None:
            self._looked_at = sent_at
            self._looked_over = connections
            if reading.run_id != self._run_id:
                self._begin(reading.run_id, reading.ends)
                return True
            for partition, end in reading.ends.items():
                if end < self._numbers[partition]:
                    log.warning("journal_went_back", partition=partition, seen=self._numbers[partition], now=end)
                    self._forget_partition(partition)
                    self._numbers[partition] = end
        taken = dict.fromkeys(range(PARTITIONS), 0)
        for entry in reading.entries:
            taken[entry.partition] += 1
            self._take(entry)
        self._forget_buckets()
        behind = max(taken.values()) >= READ_COUNT
        if not behind:
            self._check_ends(reading.ends)
            self._contact.seen(sent_at)
        return behind

    def _check_ends(self, ends: Mapping[int, int]) -> None:
        """Find what was trimmed with nothing after it: the ends were read before the entries, which must reach them."""
        for partition, end in ends.items():
            if end > self._numbers[partition]:
                log.warning("journal_gap", partition=partition, seen=self._numbers[partition], next=end + 1)
                self._forget_partition(partition)
                self._numbers[partition] = end

    def _begin(self, run_id: str, ends: dict[int, int]) -> None:
        # What was fetched before these numbers were read may have changed unseen.
        if self._run_id is not None:
            log.warning("journal_of_another_server", run_id=run_id)
        self._run_id = run_id
        self._numbers = {partition: ends[partition] for partition in range(PARTITIONS)}
        for holder in (*self._of_answers, *self._of_statuses):
            holder.clear()

    def _take(self, entry: JournalEntry) -> None:
        seen = self._numbers[entry.partition]
        if entry.number <= seen:
            return
        self._numbers[entry.partition] = entry.number
        if entry.number != seen + 1:
            log.warning("journal_gap", partition=entry.partition, seen=seen, next=entry.number)
            self._forget_partition(entry.partition)
        elif entry.bucket is None:
            self._forget_partition(entry.partition)
        else:
            self._named.add((entry.ca, entry.bucket))
            if entry.kind not in ("signed", "split"):
                self._changed.add((entry.ca, entry.bucket))

    def _forget_buckets(self) -> None:
        # Once each, however many entries name a bucket; before the next await, so that no query comes in between.
        for holder in self._of_answers:
            for ca, bucket in self._named:
                holder.drop_bucket(ca, bucket)
        for holder in self._of_statuses:
            for ca, bucket in self._changed:
                holder.drop_bucket(ca, bucket)
        self._named.clear()
        self._changed.clear()

    def _forget_partition(self, partition: int) -> None:
        for holder in (*self._of_answers, *self._of_statuses):
            holder.drop_partition(partition)
