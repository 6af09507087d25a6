"""Capacity's arithmetic, against numbers worked by hand, and what must hold whatever the numbers."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.memory import Certificates, in_redis, in_table
from responder.signing.answers import Terms
from responder.signing.capacity import (
    ANSWER_S,
    Kinds,
    Need,
    Outlook,
    Pace,
    Refresh,
    Standing,
    answers_per_second,
    kinds_of,
    longer_validity,
    look_ahead,
    utilisation,
)

DAY_S = 86_400
NOW = 1_800_000_000.0
ONE = Kinds(1, 1)


def terms(validity: int, profile: str = "private") -> Terms:
    # The other terms have no part in when an answer is refreshed.
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Terms)}
    return Terms(
        **values | {"validity": validity, "profile": profile, "archive_cutoff": "none", "unassigned": "unauthorized"}
    )


def need(certificates: int, validity: int = 4 * DAY_S, kinds: Kinds = ONE) -> Need:
    return Need(certificates, kinds, Refresh(terms(validity)))


def test_four_days_by_hand() -> None:
    """Half of 4 d is 172 800 s; each bucket is signed once in 28/32 of that, 151 200 s, and then has 194 400 s left."""
    refresh = Refresh(terms(4 * DAY_S))
    assert 151_199 <= min(refresh.intervals) <= max(refresh.intervals) <= 151_201
    assert refresh.per_second == pytest.approx(1 / 151_200, rel=1e-4)
    assert refresh.reserve_s == pytest.approx(194_400, abs=1)
    # A million certificates: 6.614 signatures a second; twice that for two kinds.
    assert need(1_000_000).per_second == pytest.approx(6.614, abs=0.001)
    assert need(1_000_000, kinds=Kinds(2, 2)).per_second == pytest.approx(13.228, abs=0.002)
    assert need(1_000_000).whole_s(100) == 10_000
    # A whole signing at 100/s takes 2.8 hours; after two days without, all of it is due.
    assert need(1_000_000).catch_up_s(100, 2 * DAY_S) == 10_000


def test_four_days_are_the_most_in_the_web() -> None:
    """BR §4.9.9: thirty days of validity are signed again every 3.5 days; a private CA's every 13.125."""
    assert Refresh(terms(30 * DAY_S, "etsi")).per_second * 3.5 * DAY_S == pytest.approx(1, rel=1e-3)
    assert Refresh(terms(30 * DAY_S)).per_second * 13.125 * DAY_S == pytest.approx(1, rel=1e-3)


def test_a_short_outage_leaves_others_to_come() -> None:
    """Of an hour's outage of four days' answers, an hour's share is due, and the rest comes meanwhile."""
    one = need(1_000_000)
    assert one.refresh.due_after(3600) == pytest.approx(3600 * one.refresh.per_second)
    due = 3600 * one.per_second
    took = one.catch_up_s(100, 3600)
    assert took == pytest.approx(due / (100 - one.per_second * (1 - 3600 * one.refresh.per_second)))
    assert one.catch_up_s(one.per_second / 2, 3600) is None


def test_a_keys_rate_and_the_rest_of_the_work() -> None:
    """10 us besides the signature: 20 000/s become 16 667, 100/s hardly less."""
    assert ANSWER_S == 10e-6
    assert answers_per_second(20_000) == pytest.approx(16_666.7, abs=0.1)
    assert answers_per_second(100) == pytest.approx(99.9, abs=0.01)


def test_a_longer_validity_that_fits() -> None:
    """A million at 4 d and 10/s take 66.14 %; half of the time is enough at 4 d * 0.6614 / 0.5 = 126.98 h."""
    assert longer_validity(need(1_000_000), 10, 0.5, 30 * DAY_S) == 127 * 3600
    # BR §4.9.9's four days end it: from 8 d on nothing is gained.
    etsi = Need(1_000_000, ONE, Refresh(terms(4 * DAY_S, "etsi")))
    assert longer_validity(etsi, 6, 0.5, 366 * DAY_S) is None
    assert longer_validity(etsi, 7, 0.5, 366 * DAY_S) == pytest.approx(4 * DAY_S * 6.614 / 3.5, abs=3600)


@pytest.mark.parametrize(
    ("certid", "asked", "expected"),
    [("each", False, (1, 1)), ("each", True, (2, 2)), ("sha1", True, (1, 1)), ("sha256", True, (1, 1))],
)
def test_kinds(certid: str, asked: bool, expected: tuple[int, int]) -> None:
    kinds: Any = kinds_of(SimpleNamespace(certid=certid), sha256_asked=asked)  # type: ignore[arg-type]
    assert (kinds.signatures, kinds.answers) == expected


def test_dual_signs_once() -> None:
    assert kinds_of(SimpleNamespace(certid="dual"), sha256_asked=True).signatures == 1  # type: ignore[arg-type]


# --- in operation -----------------------------------------------------------------------------------------------------


def ahead(certificates: int, backlog: float, rate: float, left_s: float | None, validity: int = 4 * DAY_S) -> Outlook:
    soonest = None if left_s is None else int(NOW + left_s)
    return look_ahead(NOW, [Standing(need(certificates, validity), soonest)], backlog, rate)


def test_all_is_well() -> None:
    """100/s for 6.6 needed, nothing due: an answer is replaced with the policy's reserve left, more than two days."""
    outlook = ahead(1_000_000, 0, 100, 3 * DAY_S)
    assert outlook.utilisation == pytest.approx(0.0661, abs=1e-4)
    assert outlook.margin_s == Refresh(terms(4 * DAY_S)).reserve_s
    assert 194_399 <= outlook.margin_s <= 194_401
    assert (outlook.wait_s, outlook.will_run_out_at, outlook.tight) == (0, None, False)


def test_a_backlog_that_is_cleared_too_late() -> None:
    """A million due at 4/s is 250 000 s; the reserve is 194 400 s: somewhere in the middle answers run out."""
    outlook = ahead(1_000_000, 1_000_000, 4, 100_000)
    reserve = Refresh(terms(4 * DAY_S)).reserve_s
    assert outlook.wait_s == 250_000
    assert outlook.margin_s == reserve - 250_000
    assert outlook.tight
    # In place x: signed after 250 000 x, lasts 100 000 + (reserve - 100 000) x.
    place = 100_000 / (250_000 - reserve + 100_000)
    assert outlook.will_run_out_at == pytest.approx(NOW + 250_000 * place)
    assert NOW + 100_000 < outlook.will_run_out_at < NOW + 194_400


def test_already_out() -> None:
    outlook = ahead(1_000, 100, 10, -5)
    assert outlook.margin_s == -5
    assert outlook.will_run_out_at == NOW


def test_too_slow_but_bearable() -> None:
    """A million at 5/s: 132 %, a whole signing takes 200 000 s of 345 600: answers last, with 145 600 s left."""
    outlook = ahead(1_000_000, 0, 5, 2.5 * DAY_S)
    assert outlook.utilisation == pytest.approx(1.323, abs=0.001)
    assert outlook.margin_s == 145_600
    assert outlook.will_run_out_at is None
    assert not outlook.tight


def test_too_slow_for_ever() -> None:
    """A million at 2/s: a whole signing takes 500 000 s, more than the validity; due ever later, until one runs out."""
    outlook = ahead(1_000_000, 0, 2, 2.5 * DAY_S)
    reserve = Refresh(terms(4 * DAY_S)).reserve_s
    assert outlook.margin_s == 345_600 - 500_000
    assert outlook.tight
    assert outlook.will_run_out_at == pytest.approx(NOW + reserve + reserve / (outlook.utilisation - 1))


def test_certificates_without_answers_cannot_run_out() -> None:
    """A first load's backlog, beside answers that are not due: nothing runs out, though it takes days."""
    outlook = ahead(1_000_000, 1_000_000, 8, 3.9 * DAY_S)
    assert outlook.will_run_out_at is None
    assert not outlook.tight
    assert ahead(1_000_000, 1_000_000, 8, None).margin_s is None


def test_pace() -> None:
    """Made by busy time; what is older than the memory counts no more."""
    pace = Pace(60)
    assert pace.per_second is None
    pace.note(100, 10)
    assert pace.per_second == 10
    pace.note(50, 60)
    assert pace.per_second == pytest.approx(50 / 60)


SOME = st.integers(1, 10**9)
RATES = st.floats(0.1, 1e6)
VALIDITIES = st.integers(600, 30 * DAY_S)


@given(SOME, SOME, VALIDITIES, RATES)
def test_more_certificates_need_more(one: int, more: int, validity: int, rate: float) -> None:
    few, many = need(one, validity), need(one + more, validity)
    assert few.per_second < many.per_second
    assert few.whole_s(rate) < many.whole_s(rate)
    assert utilisation([(few, rate)]) < utilisation([(many, rate)])
    assert utilisation([(few, rate), (many, rate)]) > utilisation([(many, rate)])


@given(SOME, VALIDITIES, st.integers(0, 30 * DAY_S))
def test_longer_validities_need_less(count: int, validity: int, more: int) -> None:
    assert need(count, validity + more).per_second <= need(count, validity).per_second * 1.0001


@given(SOME, st.floats(0, 1e9), RATES, st.floats(1.0, 100.0), st.floats(-DAY_S, 4 * DAY_S))
def test_faster_keys_leave_more(count: int, backlog: float, rate: float, times: float, left_s: float) -> None:
    """A faster key, or less that waits: no less margin, and nothing runs out that did not."""
    slow, fast = ahead(count, backlog, rate, left_s), ahead(count, backlog, rate * times, left_s)
    relieved = ahead(count, backlog / times, rate, left_s)
    for better in (fast, relieved):
        assert slow.margin_s is not None
        assert better.margin_s is not None
        assert better.margin_s >= slow.margin_s - 1e-3
        if slow.will_run_out_at is None:
            assert better.will_run_out_at is None or better.margin_s > -1e-3
    assert (slow.will_run_out_at is None) is (slow.margin_s > 0)
    assert slow.will_run_out_at is None or slow.will_run_out_at >= NOW


@given(SOME, SOME, st.floats(64, 5000), st.floats(0, 1))
def test_more_certificates_take_more_memory(one: int, more: int, signature: float, revoked: float) -> None:
    few, many = (Certificates(count, 1, signature, revoked=revoked) for count in (one, one + more))
    assert in_redis(few).answers <= in_redis(many).answers
    assert in_redis(few).total < in_redis(many).total
    assert in_table(few) < in_table(many)
    longer = dataclasses.replace(few, signature_bytes=signature + 1)
    assert in_redis(longer).total > in_redis(few).total
    assert in_redis(dataclasses.replace(few, answers_each=2)).answers == 2 * in_redis(few).answers


def test_memory_by_hand() -> None:
    """A million, P-256, serials of 16 octets, a tenth revoked: what bench/redis_memory measured was 195 bytes."""
    each = in_redis(Certificates(1_000_000, 1, 71)).total / 1_000_000
    assert each == pytest.approx(195, rel=0.05)
    assert in_table(Certificates(1_000_000, 1, 71, 17, 0)) == pytest.approx(150_000_000, rel=0.01)
