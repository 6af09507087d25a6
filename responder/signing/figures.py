"""What the presigner tells the operator: how much is due, what could not be signed, and when the first answer runs out."""

from __future__ import annotations

from collections.abc import Mapping

from responder import metrics
from responder.clock import Clock
from responder.log import get_logger
from responder.signing.answers import Moment
from responder.signing.desk import Desk
from responder.signing.planning import Plan
from responder.store.redis_store import Store

log = get_logger(__name__)


class Figures:
    """One presigner's figures; ``look`` is called every few seconds."""

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock) -> None:
        self._store = store
        self._desks = desks
        self._clock = clock

    def note(self, desk: Desk, plan: Plan, moment: Moment) -> None:
        """Take in what a bucket's plan says, which is to be carried out."""
        if plan.unsigned:
            reason = "signer_ended" if moment.latest_next_update <= moment.now else "source_too_old"
            metrics.NOT_SIGNED.labels(desk.issuer.name, reason).inc(plan.unsigned)
            log.error("answers_not_signed", ca=desk.issuer.name, reason=reason, count=plan.unsigned)

    def look(self) -> dict[str, float]:
        """Bring the metrics up to date; returns each CA's soonest nextUpdate as far as known. Raises StoreUnavailable."""
        due, urgent = self._store.due_counts(self._clock.now())
        metrics.DUE_BUCKETS.labels("routine").set(due - urgent)
        metrics.DUE_BUCKETS.labels("urgent").set(urgent)
        # Of all presigners' buckets: whoever finishes a claim says when the bucket's first answer runs out.
        soonest = self._store.soonest_next_updates(list(self._desks))
        for ca, next_update in soonest.items():
            metrics.SOONEST_NEXT_UPDATE.labels(self._desks[ca].issuer.name).set(next_update)
        return soonest
