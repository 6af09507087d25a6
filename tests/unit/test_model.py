"""Statuses and serials, and how the store spells them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.clock import format_utc, parse_utc
from responder.model import (
    CertStatus,
    CRLReason,
    Status,
    serial_from_octets,
    serial_to_octets,
    serial_to_text,
)

LAST_SECOND = parse_utc("9999-12-31T23:59:59Z")
times = st.integers(0, LAST_SECOND)
reasons = st.sampled_from(CRLReason)
good = st.builds(Status, st.just(CertStatus.GOOD), st.none() | times)
revoked = st.builds(
    Status, st.just(CertStatus.REVOKED), st.none() | times, times, st.none() | reasons, st.none() | times, st.booleans()
)


@given(good | revoked)
def test_text_says_all(status: Status) -> None:
    """What is written is read again, whole."""
    assert Status.from_text(status.to_text()) == status


def test_text_is_for_people() -> None:
    """An operator sees words and dates."""
    status = Status(CertStatus.REVOKED, parse_utc("2027-12-31T23:59:59Z"), parse_utc("2026-11-20T10:00:00Z"))
    assert status.to_text() == "revoked 2026-11-20T10:00:00Z exp=2027-12-31T23:59:59Z"
    named = Status(CertStatus.REVOKED, None, parse_utc("2026-11-20T10:00:00Z"), CRLReason.KEY_COMPROMISE)
    assert named.to_text() == "revoked 2026-11-20T10:00:00Z keyCompromise"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bad",
        "revoked",
        "revoked yesterday",
        "revoked 2026-11-20T10:00:00Z becauseISaySo",
        "good exp=2027",
        "good since=2027-12-31T23:59:59Z",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A status that somebody mistyped into Redis is never half understood."""
    with pytest.raises(ValueError):  # noqa: PT011 - each word has its own sentence
        Status.from_text(text)


def test_revocation_dated_ahead_is_good_until_then() -> None:
    """AD CS and operators may date a revocation ahead."""
    status = Status(CertStatus.REVOKED, None, 1_000, CRLReason.SUPERSEDED)
    assert status.at(999.9) is CertStatus.GOOD
    assert status.at(1_000) is CertStatus.REVOKED


@pytest.mark.clause("X.690", "8.3.2", "MUST")
@given(st.integers(-(2**200), 2**200))
def test_serial_octets_are_minimal(serial: int) -> None:
    """REQ-09: a serial's octets are the minimal two's complement, the leading 00 of a high bit kept."""
    octets = serial_to_octets(serial)
    assert serial_from_octets(octets) == serial
    assert len(octets) == 1 or octets[:1] not in (b"\0", b"\xff") or (octets[0] ^ octets[1]) & 0x80
    assert serial_to_text(octets) == octets.hex()


@given(times)
def test_times_are_whole_utc_seconds(seconds: int) -> None:
    """Times are spelled to the second, in UTC."""
    assert parse_utc(format_utc(seconds)) == seconds
    assert parse_utc(format_utc(seconds + 0.75)) == seconds
