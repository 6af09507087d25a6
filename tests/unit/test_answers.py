"""What is to be signed, and when: the rules alone, and the planning of a bucket."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.ocsp_response import AnswerHeader, pack_answer
from responder.clock import format_utc
from responder.model import CertStatus, CRLReason, Status
from responder.signing.answers import (
    DAY_S,
    RECHECK_LEAST_S,
    UNKNOWN_VALIDITY_S,
    Moment,
    Terms,
    Wanted,
    spread_of,
)
from responder.signing.planning import SLOT_RESERVED_S, free_slot, plan_bucket
from responder.store.layout import HEADER_SLOTS, NEVER_DUE
from responder.store.values import AnswerBucket

NOW = 1_795_000_000
V = 4 * DAY_S
SIGNER, OTHER = "00000000000000aa", "00000000000000bb"
GOOD = "good exp=2049-12-31T23:59:59Z"
TERMS = Terms(V, 30 * DAY_S, "retention", NOW - 1000 * DAY_S, "unauthorized")


def moment(now: int = NOW, as_of: int = NOW - 60, **changed: object) -> Moment:
    """Return the rules at ``now``; keywords change the terms, or ``latest_next_update`` and ``override``."""
    latest = changed.pop("latest_next_update", NOW + 365 * DAY_S)
    override = changed.pop("override", None)
    terms = Terms(
        **{name: changed.get(name, getattr(TERMS, name)) for name in Terms.__slots__}  # type: ignore[arg-type]
    )
    return Moment(terms, now, as_of, latest, SIGNER, override)  # type: ignore[arg-type]


def want(one: Moment, text: str) -> Wanted:
    """Return what is wanted; it must be something."""
    found = one.wanted(text)
    assert found is not None
    return found


def revoked(at: int, reason: str = "keyCompromise", *words: str) -> str:
    """Spell a revocation."""
    return " ".join(filter(None, ["revoked", format_utc(at), reason, "exp=2049-12-31T23:59:59Z", *words]))


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_good_says_as_of_and_the_validity() -> None:
    """TIM-01: thisUpdate is the time at which the status was known to be correct, nextUpdate comes after it."""
    one = moment()
    assert want(one, GOOD) == (CertStatus.GOOD, 0, -1, False, False, NOW - 60, NOW - 60 + V)
    assert one.can_sign(want(one, GOOD))
    assert want(one, "good") == want(one, GOOD)


def test_this_update_is_never_in_the_future() -> None:
    """TIM-05: a source whose clock is a second ahead must not date an answer ahead of ours."""
    assert want(moment(as_of=NOW + 1), GOOD).this_update == NOW


def test_an_old_source_lets_answers_run_out() -> None:
    """A source out of reach: what it said may not be signed with a new date."""
    one = moment(as_of=NOW - V)
    assert not one.can_sign(want(one, GOOD))
    assert moment(as_of=NOW - V + 1).can_sign(want(moment(as_of=NOW - V + 1), GOOD))


@pytest.mark.clause("Mozilla", "6", "MUST")
def test_next_update_ends_with_the_signer() -> None:
    """DEL-05: nextUpdate is not past the notAfter of the certificate in the answer."""
    one = moment(latest_next_update=NOW + 2 * DAY_S)
    assert want(one, GOOD).next_update == NOW + 2 * DAY_S
    assert not moment(latest_next_update=NOW).can_sign(want(moment(latest_next_update=NOW), GOOD))


def test_a_revocation_dated_ahead_is_good_until_then() -> None:
    one = moment()
    text = revoked(NOW + 500)
    assert want(one, text) == (CertStatus.GOOD, 0, -1, False, False, NOW - 60, NOW + 500)
    later = want(moment(now=NOW + 500), text)
    assert (later.cert_status, later.revoked_at, later.reason) == (CertStatus.REVOKED, NOW + 500, 1)


def test_an_operators_revocation_is_known_first_hand() -> None:
    old = moment(as_of=NOW - 2 * V)
    first_hand = want(old, revoked(NOW - 10, "superseded", "by=operator"))
    assert (first_hand.this_update, first_hand.next_update) == (NOW, NOW + V)
    assert old.can_sign(first_hand)
    assert not old.can_sign(want(old, revoked(NOW - 10, "superseded")))
    # Where the source was read since, it shares the header of all others.
    assert want(moment(), revoked(NOW - 100, "superseded", "by=operator")).this_update == NOW - 60


@pytest.mark.clause("RFC 6960", "2.7", "MAY")
def test_an_override_holds_for_everything() -> None:
    """STS-07: on a compromise of the CA's key all its certificates are revoked, with the override's time and reason."""
    one = moment(override=f"revoked {format_utc(NOW - 5)} cACompromise", as_of=NOW - 2 * V)
    for text in (GOOD, revoked(NOW - 900), "good", revoked(NOW - 1, "removeFromCRL")):
        said = want(one, text)
        assert (said.cert_status, said.revoked_at, said.reason, said.this_update) == (1, NOW - 5, 2, NOW)
        assert one.can_sign(said)
    unassigned = one.override_for_unassigned()
    assert unassigned is not None
    assert unassigned.cert_status == CertStatus.REVOKED
    assert moment().override_for_unassigned() is None
    ahead = moment(override=f"revoked {format_utc(NOW + 50)} cACompromise")
    assert want(ahead, GOOD)[:1] + want(ahead, GOOD)[-1:] == (CertStatus.GOOD, NOW + 50)
    assert ahead.override_for_unassigned() is None


@pytest.mark.clause("RFC 5280", "5.3.1", "SHOULD")
@pytest.mark.parametrize("reason", list(CRLReason))
def test_reasons_that_an_answer_cannot_show(reason: CRLReason) -> None:
    """ENT-01: unspecified is left out, removeFromCRL means that the certificate is not revoked."""
    text = Status(CertStatus.REVOKED, revoked_at=NOW - 9, reason=reason).to_text()
    said = want(moment(), text)
    if reason is CRLReason.REMOVE_FROM_CRL:
        assert said.cert_status == CertStatus.GOOD
    else:
        assert said.cert_status == CertStatus.REVOKED
        assert said.reason == (-1 if reason is CRLReason.UNSPECIFIED else reason)


@pytest.mark.clause("RFC 6960", "4.4.4", "SHOULD")
def test_archive_cutoff() -> None:
    """EXT-03: an expired certificate within its retention is answered for, with producedAt - retention."""
    one = moment()
    expired = want(one, "good exp=" + format_utc(NOW - DAY_S))
    assert (expired.has_archive_cutoff, expired.expired) == (True, True)
    assert one.archive_cutoff == NOW - 30 * DAY_S
    # An answer that will be served beyond the expiry has it from the beginning.
    soon = want(one, "good exp=" + format_utc(NOW + DAY_S))
    assert (soon.has_archive_cutoff, soon.expired) == (True, False)
    assert not want(one, "good exp=" + format_utc(NOW + V)).has_archive_cutoff
    # RFC 6960 §2.3, ERR-05: past the retention there is no record any more.
    assert one.wanted("good exp=" + format_utc(NOW - 30 * DAY_S)) is None
    assert one.wanted("good exp=" + format_utc(NOW - 30 * DAY_S + 1)) is not None


@pytest.mark.clause("EN 319 411-2", "CSS-6.3.10-10", "SHOULD")
def test_archive_cutoff_of_the_issuer() -> None:
    """ETS-08: archiveCutoff is the CA certificate's notBefore."""
    assert moment(archive_cutoff="issuer").archive_cutoff == TERMS.issuer_not_before
    without = moment(archive_cutoff="none")
    assert without.archive_cutoff == -1
    assert want(without, "good exp=" + format_utc(NOW - DAY_S))[3:5] == (False, False)


@pytest.mark.clause("RFC 6960", "2.2", "MUST")
def test_extended_revoke() -> None:
    """STS-03: revocationTime 1970-01-01 and certificateHold for a serial that was not issued."""
    said = moment().extended_revoke()
    assert (said.cert_status, said.revoked_at, said.reason) == (CertStatus.REVOKED, 0, CRLReason.CERTIFICATE_HOLD)


def test_unknown_is_not_for_long() -> None:
    """BR-03: a certificate that is issued now has to be answered for within 15 minutes."""
    said = moment().unknown()
    assert (said.cert_status, said.next_update) == (CertStatus.UNKNOWN, NOW + UNKNOWN_VALIDITY_S)
    assert moment(as_of=NOW - V + 9).unknown().next_update == NOW + 9


@given(
    not_after=st.integers(NOW - 60 * DAY_S, NOW + 60 * DAY_S),
    as_of=st.integers(NOW - 5 * DAY_S, NOW + 2),
    latest=st.integers(NOW - DAY_S, NOW + 10 * DAY_S),
)
def test_the_quick_way_agrees_with_the_slow_one(not_after: int, as_of: int, latest: int) -> None:
    one = moment(as_of=as_of, latest_next_update=latest)
    text = "good exp=" + format_utc(not_after)
    assert one.wanted(text) == one._decide(Status.from_text(text))


# --- when -----------------------------------------------------------------------------------------------------------


H, D = 3600, DAY_S


@pytest.mark.clause("BR", "4.9.9", "MUST")
@pytest.mark.clause("Microsoft", "3.2.2", "MUST")
@pytest.mark.clause("Mozilla", "6", "MUST")
@pytest.mark.parametrize(
    ("profile", "validity", "latest"),
    [
        ("webpki", 8 * H, 4 * H),  # BR: before half
        ("webpki", 15 * H, 15 * H // 2),
        ("webpki", 16 * H, 8 * H),  # BR: eight hours before the end; Microsoft: at half
        ("webpki", 1 * D, 12 * H),
        ("webpki", 4 * D, 2 * D),
        ("webpki", 7 * D - 1, 7 * D // 2 - 1),
        ("etsi", 60, 30),
        ("etsi", 10 * D, 4 * D),  # BR and Mozilla: four days
        ("etsi", 366 * D, 4 * D),
        ("private", 60, 30),
        ("private", 4 * D, 2 * D),
        ("private", 30 * D, 15 * D),  # nobody's rule: half, so that there is time to mend what fails
    ],
)
def test_refresh_by_the_strictest_of_the_profiles_rules(profile: str, validity: int, latest: int) -> None:
    """BR-02, RTP-01, RTP-05: Replaced in time by the strictest of the profile's rules, whatever the bucket and the source (C4)."""
    one = moment(validity=validity, profile=profile)
    assert one.terms.age_limit == latest
    for bucket in range(200):
        for lag in (0, latest // 10, latest // 2):
            at = one.refresh_at(NOW - lag, NOW, spread_of("00", bucket))
            assert NOW < at <= NOW - lag + latest * 31 / 32, "there must be time left to sign"


@given(validity=st.integers(60, 366 * DAY_S), bucket=st.integers(0, 1 << 24), lag=st.integers(0, 366 * DAY_S))
def test_a_refresh_lies_ahead_or_is_overdue(validity: int, bucket: int, lag: int) -> None:
    one = moment(validity=validity)
    latest = NOW - lag + one.terms.age_limit * 31 // 32
    at = one.refresh_at(NOW - lag, NOW, spread_of("00", bucket))
    assert NOW < at <= latest or at == latest


def test_a_bucket_keeps_its_moment() -> None:
    """Whenever it was signed; so a first load in one instant is spread over a whole period, evenly."""
    one, period = moment(), V // 2 * 7 // 8
    first = sorted(one.refresh_at(NOW, NOW, spread_of("00", bucket)) for bucket in range(256))
    steps = [after - before for before, after in pairwise([*first, first[0] + period])]
    assert max(steps) < 3 * period / 256
    for signed_at in range(NOW, NOW + V // 2, 4001):
        for bucket in (0, 7, 99):
            spread = spread_of("00", bucket)
            at = one.refresh_at(signed_at - 9, signed_at, spread)
            assert abs((at - spread * period + 1) % period) < 2


def test_stale_only_where_something_newer_can_be_said() -> None:
    at = NOW - V // 2 - 10
    fresh = want(moment(), GOOD)
    assert moment().is_stale(fresh, SIGNER, at, at + V, at, 0.5)
    assert not moment().is_stale(fresh, SIGNER, NOW - 100, NOW - 100 + V, NOW - 100, 0.5)
    stuck = moment(as_of=at)
    assert not stuck.is_stale(want(stuck, GOOD), SIGNER, at, at + V, at, 0.5)
    assert stuck.next_due(at, at + V, at, 0.5) > NOW


def test_a_source_that_always_lags_is_not_signed_at_every_step() -> None:
    """The source is three days old for ever: a refresh each of the hours that are left, not each second."""
    signed, this_update, signed_at = 0, NOW - 3 * DAY_S, NOW
    for now in range(NOW, NOW + 4 * DAY_S, 60):
        one = moment(now=now, as_of=now - 3 * DAY_S)
        assert this_update + V > now, "it ran out"
        if one.is_stale(want(one, GOOD), SIGNER, this_update, this_update + V, signed_at, 0.5):
            signed, this_update, signed_at = signed + 1, now - 3 * DAY_S, now
    assert signed <= 16


def test_answers_of_an_old_signer() -> None:
    """Replaced at their refresh, or at once where the old certificate ends before that."""
    at = NOW - 3600
    one = moment()
    assert not one.is_stale(want(one, GOOD), OTHER, at, at + V, at, 0.5)
    assert one.is_stale(want(one, GOOD), OTHER, at, at + V // 3, at, 0.5)
    assert not one.is_stale(want(one, GOOD), SIGNER, at, at + V // 3, at, 0.5)


def test_a_signer_about_to_end_is_watched() -> None:
    end = NOW + DAY_S
    one = moment(latest_next_update=end)
    assert one.next_due(NOW - 60, end, NOW - 60, 0.5) < NOW + DAY_S // 10
    assert moment().next_due(NOW - 60, NOW - 60 + V, NOW, 0.5) == moment().refresh_at(NOW - 60, NOW, 0.5)
    assert one.next_due(NOW - 60, NOW + 900, NOW, 0.5) == NOW + 900, "a revocation dated ahead: just then"


# --- a bucket -------------------------------------------------------------------------------------------------------


def header(this_update: int = NOW - 60, next_update: int = NOW - 60 + V, produced_at: int = NOW - 60) -> bytes:
    return AnswerHeader(this_update, next_update, produced_at, SIGNER, NOW - 30 * DAY_S).to_bytes()


def serial(number: int) -> bytes:
    return bytes([1, number])


def good_bucket(count: int, slot: int = 0, data: bytes = b"") -> AnswerBucket:
    return AnswerBucket(
        {slot: data or header()}, {serial(n): pack_answer(slot, 0, 0, -1, False, b"sig") for n in range(count)}
    )


def wanted_of(one: Moment, texts: dict[int, str]) -> dict[bytes, Wanted]:
    return {serial(n): want(one, text) for n, text in texts.items()}


def test_an_empty_bucket_is_signed_afresh_under_one_header() -> None:
    one = moment()
    plan = plan_bucket(one, wanted_of(one, dict.fromkeys(range(100), GOOD)), AnswerBucket(), 0.5)
    assert plan.afresh
    assert [(group.slot, len(group.serials)) for group in plan.groups] == [(0, 100)]
    assert plan.next_due == one.refresh_at(NOW - 60, NOW, 0.5)
    assert plan.next_update == NOW - 60 + V
    assert plan_bucket(one, {}, AnswerBucket(), 0.5).next_due == NEVER_DUE


def test_a_revocation_is_signed_alone() -> None:
    one = moment()
    seen = good_bucket(100)
    del seen.answers[serial(7)]
    texts = dict.fromkeys(range(100), GOOD) | {7: revoked(NOW - 1)}
    plan = plan_bucket(one, wanted_of(one, texts), seen, 0.5)
    assert not plan.afresh
    assert [(group.slot, group.serials) for group in plan.groups] == [(1, [serial(7)])]


def test_an_answer_that_says_something_else_is_signed() -> None:
    """The store drops answers when a status changes; should one have been left, it is replaced."""
    one = moment()
    plan = plan_bucket(one, wanted_of(one, dict.fromkeys(range(9), GOOD) | {3: revoked(NOW - 1)}), good_bucket(9), 0.5)
    assert [group.serials for group in plan.groups] == [[serial(3)]]


def test_nothing_to_do() -> None:
    one = moment()
    plan = plan_bucket(one, wanted_of(one, dict.fromkeys(range(9), GOOD)), good_bucket(9), 0.5)
    assert (plan.groups, plan.unsigned, plan.next_update) == ([], 0, NOW - 60 + V)


def test_a_bucket_whose_slots_are_used_up_is_signed_afresh() -> None:
    one = moment()
    seen = AnswerBucket()
    for slot in range(HEADER_SLOTS):
        seen.headers[slot] = header(produced_at=NOW - 60 + slot)
        seen.answers[serial(slot)] = pack_answer(slot, 0, 0, -1, False, b"sig")
    texts = dict.fromkeys(range(HEADER_SLOTS), GOOD) | {99: GOOD}
    plan = plan_bucket(one, wanted_of(one, texts), seen, 0.5)
    assert plan.afresh
    assert [len(group.serials) for group in plan.groups] == [HEADER_SLOTS + 1]
    assert free_slot(seen, AnswerHeader(NOW, NOW + 9, NOW, SIGNER)) is None


def test_a_header_of_this_minute_is_left_to_who_may_still_use_it() -> None:
    """Two presigners: contents alone cannot tell that nobody is about to add an answer under the very same header."""
    old, young = NOW - SLOT_RESERVED_S - 1, NOW - 1
    fresh = AnswerHeader(NOW, NOW + 9, NOW, SIGNER)
    seen = AnswerBucket({0: header(produced_at=young), 1: header(produced_at=old)}, {})
    assert free_slot(seen, fresh) == 1
    assert free_slot(seen, AnswerHeader.from_bytes(seen.headers[0])) == 0, "the very same header may be shared"
    assert free_slot(AnswerBucket({0: b"damaged"}), fresh) == 0
    one = moment()
    seen.answers.update({serial(n): pack_answer(2, 0, 0, -1, False, b"sig") for n in range(5)})
    seen.headers[2] = header()
    plan = plan_bucket(one, wanted_of(one, dict.fromkeys(range(6), GOOD)), seen, 0.5)
    assert [group.slot for group in plan.groups] == [1]


def test_many_revocations_dated_ahead_share_headers() -> None:
    """Each would cap its nextUpdate at its own time; sixteen headers are all there are."""
    one = moment()
    texts = {n: revoked(NOW + 100 + n) for n in range(60)} | dict.fromkeys(range(60, 200), GOOD)
    wanted = wanted_of(one, texts)
    plan = plan_bucket(one, wanted, AnswerBucket(), 0.5)
    assert plan.afresh
    assert len(plan.groups) == HEADER_SLOTS
    assert sorted(s for group in plan.groups for s in group.serials) == sorted(wanted)
    assert {group.slot for group in plan.groups} == set(range(HEADER_SLOTS))
    for group in plan.groups:
        assert group.header.next_update > NOW
        for one_serial in group.serials:
            assert group.header.next_update <= wanted[one_serial].next_update
    assert plan.groups[0].header.next_update == NOW - 60 + V, "most answers keep the whole validity"
    assert plan.next_due == NOW + 100


def test_what_cannot_be_signed_is_counted_and_looked_at_again() -> None:
    one = moment(as_of=NOW - V)
    wanted = wanted_of(one, {1: GOOD, 2: revoked(NOW - 5, "superseded", "by=operator")})
    plan = plan_bucket(one, wanted, AnswerBucket(), 0.5)
    assert [group.serials for group in plan.groups] == [[serial(2)]]
    assert plan.unsigned == 1
    assert plan.next_due == NOW + RECHECK_LEAST_S


def test_only_what_changed() -> None:
    """A revocation must not have the SHA-256 answers made that nobody asked for yet."""
    one = moment()
    wanted = wanted_of(one, dict.fromkeys(range(50), GOOD) | {7: revoked(NOW - 1)})
    plan = plan_bucket(one, wanted, AnswerBucket(), 0.5, frozenset([serial(7)]))
    assert not plan.afresh
    assert [group.serials for group in plan.groups] == [[serial(7)]]


def test_a_damaged_hash_is_signed_afresh() -> None:
    one = moment()
    seen = AnswerBucket({0: b"?"}, {serial(1): pack_answer(0, 0, 0, -1, False, b"sig"), serial(2): b""})
    plan = plan_bucket(one, wanted_of(one, {1: GOOD, 2: GOOD}), seen, 0.5)
    assert sorted(s for group in plan.groups for s in group.serials) == [serial(1), serial(2)]


def test_an_expired_certificate_gets_its_archive_cutoff() -> None:
    one = moment()
    wanted = wanted_of(one, {1: "good exp=" + format_utc(NOW - 5), 2: "good exp=" + format_utc(NOW + 5)})
    plan = plan_bucket(one, wanted, good_bucket(4), 0.5)
    assert [group.serials for group in plan.groups] == [[serial(1)]], "the other's answer lacks it while it may"
