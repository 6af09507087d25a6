"""Load over time, as bench/load_over_time.py simulates it: flat after a first load in one instant, and orderly after an outage."""

from __future__ import annotations

from typing import Any

import pytest

from bench import load_over_time
from bench.load_over_time import Case, one_in_each
from responder.signing.answers import Moment, Terms, spread_of
from responder.store.layout import parse_due_member
from responder.store.redis_store import Store
from responder.store.values import Claim
from tests.signing_room import DAY_S, GOOD, Room

BITS, HOURS = 8, 120
PERIOD_H = 42  # of a validity of four days
AGE_LIMIT_H = 48


@pytest.mark.parametrize(
    ("every_h", "bound", "a_day"),
    [(0, 1.1, 24 / PERIOD_H), (1, 1.1, 24 / PERIOD_H), (24, 1.4, 1.0)],
    ids=["live", "hourly", "daily"],
)
def test_load_is_flat_after_a_first_load_in_one_instant(room: Room, every_h: int, bound: float, a_day: float) -> None:
    """Also where the source's as_of moves in steps; no answer is ever older than the strictest rule allows."""
    case = Case("", max(1, every_h * 3600))
    load = load_over_time.run(room, case, HOURS, BITS, step_s=3600)
    assert load.counts[0] == load_over_time.CERTIFICATES
    assert load.peak_to_mean(PERIOD_H + 6, bins=6) < bound
    # In the first period too nothing heaps up.
    mean = sum(load.counts[48:]) / len(load.counts[48:])
    assert max(sum(load.counts[at : at + 6]) for at in range(1, 48)) < 6 * 1.4 * mean
    # ... and it is not bought with signatures: the least that the rules allow is one in AGE_LIMIT_H, or one each day.
    assert mean * 24 / load_over_time.CERTIFICATES == pytest.approx(a_day, rel=0.05)
    assert min(load.left_s) >= (2 * 48 - AGE_LIMIT_H) * 3600


@pytest.mark.parametrize("every_h", [0, 1, 6, 24, 36])
def test_no_step_of_the_source_has_all_buckets_signed_at_once(every_h: int) -> None:
    """The rules alone, minute by minute: hours that sign much more than others would be the source's, not the buckets'."""
    terms = Terms(4 * DAY_S, 30 * DAY_S, "none", 0, "unauthorized")
    began = 1_795_000_000
    counts = [0] * 400
    for bucket in range(64):
        spread = spread_of("00", bucket)
        this_update = signed_at = began
        now = began + 60
        while now < began + len(counts) * 3600:
            as_of = now if every_h == 0 else began + (now - began) // (every_h * 3600) * every_h * 3600
            moment = Moment(terms, now, as_of, began + 10**9, "00")
            wanted = moment.wanted(GOOD)
            assert wanted is not None
            if moment.is_stale(wanted, "00", this_update, this_update + terms.validity, signed_at, spread):
                this_update, signed_at = as_of, now
                counts[(now - began) // 3600] += 1
            assert now - this_update <= terms.age_limit, "older than the rules allow"
            now = max(now + 60, moment.next_due(this_update, this_update + terms.validity, signed_at, spread))
    busiest = max(sum(counts[at : at + 2]) for at in range(60, 398))
    # A source that is read every 36 hours, where 48 are allowed, leaves 12 in which to sign everything.
    assert busiest <= (64 / 6 * 2 if every_h == 36 else 64 / 24 * 2 * 2)


def test_after_an_outage_of_half_the_validity_the_most_urgent_come_first(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claim takes the buckets whose answers run out first, whenever they came due; all are in date in time."""
    case = Case("", 9 * 3600, down=range(60, 108), rate=1_000_000 / (7 * 3600))
    client, layout = room.server.client(), room.store.layout
    overdue: set[int] = set()
    taken: list[tuple[int, float]] = []
    claim_due = Store.claim_due

    def claim_and_note(store: Store, *terms: Any) -> list[Claim]:
        claims = claim_due(store, *terms)
        for claim in claims:
            at = client.zscore(layout.expiry(claim.ca, claim.bucket % 16), f"{claim.bucket:x}")
            taken.append((claim.bucket, float(at)))
        return claims

    def look(hour: int) -> None:
        if hour == case.down.stop - 1:
            now = room.clock.now()
            members = [m for p in range(16) for m in client.zrangebyscore(layout.due(p), "-inf", now)]
            overdue.update(parse_due_member(member.decode())[1] for member in members)
            taken.clear()

    monkeypatch.setattr(Store, "claim_due", claim_and_note)
    load = load_over_time.run(room, case, 118, BITS, look=look)
    assert len(overdue) > 0.95 * (1 << BITS)
    first = dict(reversed(taken))  # each bucket's first claim alone
    order = [end for bucket, end in dict.fromkeys((bucket, first[bucket]) for bucket, _ in taken) if bucket in overdue]
    assert len(order) == len(overdue)
    assert order == sorted(order)
    assert len(set(order)) > 4, "of several readings of the source"
    assert min(load.left_s) > 0, "none has run out"


def test_one_certificate_for_each_bucket() -> None:
    assert len(set(one_in_each(6))) == 64
