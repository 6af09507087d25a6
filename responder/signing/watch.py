"""Sees that the presigner keeps up, and says so long before an answer runs out where it does not.

The arithmetic is in capacity.py. Every few seconds: what is due, what this presigner makes a second while it has work, and
what the CAs' certificates need. Of several presigners each knows its own rate alone and may complain too early, though
only while much is due. The pace is of all keys together: a slow one among fast ones shows in the age of its CA's answers.
Called by the presigner; one thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from responder import metrics
from responder.clock import Clock, format_utc
from responder.log import get_logger
from responder.signing.capacity import Need, Outlook, Pace, Refresh, Standing, kinds_of, look_ahead
from responder.signing.census import Census
from responder.signing.desk import Desk
from responder.store.redis_store import Store
from responder.store.values import CAInfo

log = get_logger(__name__)

LEAST_WAIT_S = 60.0  # what is signed within a minute is no backlog: a new CA, a bucket that somebody asked for
SUSTAINED_S = 300.0  # of needing more than is possible, with a backlog all the while; and of neither, to be over
REPEAT_S = 300.0  # between complaints
LEAST_ROUND_S = 0.02  # a round of a signature or two tells of trips to Redis, not of the key
MOST_CARRIED_S = 60.0
BUSY_SHARE = 0.5  # of the time, below which something else than the key's pace keeps answers from being signed


class Watch:
    """One presigner's."""

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock) -> None:
        self._store = store
        self._desks = desks
        self._clock = clock
        self._census = Census(store)
        self._pace = Pace()
        self._busy_s = 0.0
        self._carried_s = 0.0  # of rounds without a signature, until one comes
        self._looked_at: float | None = None
        self._overloaded_since: float | None = None
        self._late_since: float | None = None
        self._relieved_since: float | None = None
        self._complained_at = float("-inf")
        self.is_behind = False
        self.outlook: Outlook | None = None
        metrics.PRESIGNER_BEHIND.set(0)

    def note(self, made: int, took_s: float) -> None:
        """Take in a round of work: the signatures that came of it, and how long it took."""
        if not made:
            # A slow key's signatures may come a few rounds later; a short round without any had nothing to do.
            if took_s >= LEAST_ROUND_S:
                self._carried_s = min(MOST_CARRIED_S, self._carried_s + took_s)
            return
        took_s, self._carried_s = took_s + self._carried_s, 0.0
        self._busy_s += took_s
        if took_s >= LEAST_ROUND_S or self._pace.per_second is None:
            self._pace.note(made, took_s)

    def look(self, soonest_next_updates: Mapping[str, float]) -> None:
        """Look at what is due and say how it stands; by CA, what ``Figures`` knows. Raises StoreUnavailable."""
        now = self._clock.monotonic()
        passed = now - self._looked_at if self._looked_at is not None else 0.0
        busy = passed > 0 and self._busy_s >= BUSY_SHARE * passed
        self._looked_at, self._busy_s = now, 0.0
        self._census.step()
        infos = {ca: self._store.ca_info(ca) for ca in self._desks}
        standings = {ca: self._standing(ca, infos[ca], soonest_next_updates.get(ca)) for ca in self._desks}
        for ca, one in standings.items():
            metrics.SIGNATURES_NEEDED.labels(self._desks[ca].issuer.name).set(one.need.per_second)
        rate = self._pace.per_second
        if rate is None:
            return
        due, urgent = self._store.due_counts(self._clock.now())
        backlog = urgent + (due - urgent) * self._signatures_of_bucket(standings)
        self.outlook = look_ahead(self._clock.now(), list(standings.values()), backlog, rate)
        self._publish(self.outlook)
        late = [self._desks[ca].issuer.name for ca, one in standings.items() if self._is_late(ca, infos[ca], one)]
        self._judge(self.outlook, now, late, busy=busy)

    def _is_late(self, ca: str, info: CAInfo | None, standing: Standing) -> bool:
        """Say whether an answer should long have been replaced, and could be: neither source nor signer stands in the way."""
        soonest, desk = standing.soonest_next_update, self._desks[ca]
        if soonest is None or info is None or info.as_of is None:
            return False
        validity = desk.terms_by(info).validity
        fresh = min(info.as_of + validity, desk.signer.latest_next_update)
        return soonest - self._clock.now() < validity / 4 and fresh - soonest > validity / 2

    def _standing(self, ca: str, info: CAInfo | None, soonest: float | None) -> Standing:
        desk = self._desks[ca]
        asked = False
        if info is not None and info.sha256_asked is not None:
            asked = self._clock.now() - info.sha256_asked < desk.terms.validity
        kinds = kinds_of(desk.issuer.config.ocsp, sha256_asked=asked)
        return Standing(Need(self._census.certificates(ca), kinds, Refresh(desk.terms)), soonest)

    def _signatures_of_bucket(self, standings: Mapping[str, Standing]) -> float:
        buckets = sum(self._census.buckets(ca) for ca in self._desks)
        return sum(one.need.whole for one in standings.values()) / max(1, buckets)

    def _publish(self, outlook: Outlook) -> None:
        metrics.SIGNATURES_POSSIBLE.set(outlook.possible)
        metrics.PRESIGN_UTILISATION.set(outlook.utilisation)
        metrics.PRESIGN_WAIT.set(outlook.wait_s)
        if outlook.margin_s is not None:
            metrics.PRESIGN_MARGIN.set(outlook.margin_s)

    def _judge(self, outlook: Outlook, now: float, late: list[str], *, busy: bool) -> None:
        at_work = busy or self.is_behind
        waits = outlook.wait_s > LEAST_WAIT_S and at_work
        overloaded = waits and outlook.utilisation > 1
        self._overloaded_since = _since(self._overloaded_since, now, holds=overloaded)
        self._late_since = _since(self._late_since, now, holds=bool(late) and at_work)
        relieved = not overloaded and not (waits and outlook.tight) and not late
        self._relieved_since = _since(self._relieved_since, now, holds=relieved)
        if (waits and (outlook.tight or _lasts(self._overloaded_since, now))) or _lasts(self._late_since, now):
            if not self.is_behind or now - self._complained_at >= REPEAT_S:
                self._complain(outlook, now, late)
            self.is_behind = True
        elif self.is_behind and _lasts(self._relieved_since, now):
            log.info("presigner_keeps_up_again", utilisation=round(outlook.utilisation, 2))
            self.is_behind = False
        metrics.PRESIGNER_BEHIND.set(int(self.is_behind))

    def _complain(self, outlook: Outlook, now: float, late: list[str]) -> None:
        self._complained_at = now
        at = outlook.will_run_out_at
        log.error(
            "presigner_falls_behind",
            needed_per_s=round(outlook.needed, 3),
            possible_per_s=round(outlook.possible, 3),
            utilisation=round(outlook.utilisation, 2),
            due_takes_s=round(outlook.wait_s),
            margin_s=None if outlook.margin_s is None else round(outlook.margin_s),
            first_runs_out_at=None if at is None else format_utc(at),
            late=late,
        )


def _since(since: float | None, now: float, *, holds: bool) -> float | None:
    """Return since when something holds; None: it does not."""
    return (now if since is None else since) if holds else None


def _lasts(since: float | None, now: float) -> bool:
    return since is not None and now - since >= SUSTAINED_S
