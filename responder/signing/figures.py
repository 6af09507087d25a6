"""What the presigner tells the operator: how much is due, what could not be signed, and when the first answer runs out.

A presigner knows the buckets that it signed itself; the others' (another presigner's, or those of before it was started)
it looks up little by little, so that a wave of due buckets is not kept waiting.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastpath.ocsp_response import AnswerHeader
from responder import metrics
from responder.clock import Clock
from responder.log import get_logger
from responder.signing.answers import Moment
from responder.signing.desk import Desk
from responder.signing.planning import Plan
from responder.store.layout import PARTITIONS
from responder.store.redis_store import Store

log = get_logger(__name__)

LOOK_UP_BUCKETS = 500  # at a time: some ten milliseconds; a million certificates are looked through in 16 times


class Figures:
    """One presigner's figures; ``look`` is called every few seconds."""

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock) -> None:
        self._store = store
        self._desks = desks
        self._clock = clock
        # CA → bucket → soonest nextUpdate of its SHA-1 answers.
        self._next_updates: dict[str, dict[int, int]] = {ca: {} for ca in desks}
        self._partition = 0
        self._rank = 0  # in the partition's due set, of the next bucket to be looked up

    def note(self, desk: Desk, bucket: int, plan: Plan, moment: Moment) -> None:
        """Take in what a bucket's plan says, which is to be carried out."""
        known = self._next_updates[desk.issuer.id]
        if plan.next_update is None:
            known.pop(bucket, None)
        else:
            known[bucket] = plan.next_update
        if plan.unsigned:
            reason = "signer_ended" if moment.latest_next_update <= moment.now else "source_too_old"
            metrics.NOT_SIGNED.labels(desk.issuer.name, reason).inc(plan.unsigned)
            log.error("answers_not_signed", ca=desk.issuer.name, reason=reason, count=plan.unsigned)

    def look(self) -> None:
        """Bring the metrics up to date; raises StoreUnavailable."""
        due, urgent = self._store.due_counts(self._clock.now())
        metrics.DUE_BUCKETS.labels("routine").set(due - urgent)
        metrics.DUE_BUCKETS.labels("urgent").set(urgent)
        self._look_up()
        for ca, known in self._next_updates.items():
            if known:
                metrics.SOONEST_NEXT_UPDATE.labels(self._desks[ca].issuer.name).set(min(known.values()))

    def _look_up(self) -> None:
        left = LOOK_UP_BUCKETS
        for _ in range(PARTITIONS):
            places = self._store.due_slice(self._partition, self._rank, left)
            for (ca, bucket), headers in zip(places, self._store.read_headers(places, "sha1"), strict=True):
                self._take(ca, bucket, headers)
            self._rank += len(places)
            left -= len(places)
            if left <= 0:
                return
            self._partition, self._rank = (self._partition + 1) % PARTITIONS, 0

    def _take(self, ca: str, bucket: int, headers: list[bytes]) -> None:
        if ca not in self._next_updates:
            return
        now = self._clock.now()
        soonest: int | None = None
        for data in headers:
            try:
                next_update = AnswerHeader.from_bytes(data).next_update
            except ValueError:
                continue
            # A header in the past is most likely one that no answer names any more. Answers that have run out are due,
            # and ``note`` hears of them.
            if next_update > now and (soonest is None or next_update < soonest):
                soonest = next_update
        if soonest is not None:
            self._next_updates[ca][bucket] = soonest
