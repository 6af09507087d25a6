"""Reasons and dates in every spelling (loaders/normalize.py)."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.normalize import date_text, generalized_time_text, reason_from_name, reason_word
from responder.model import CRLReason, Status

SPELLINGS = {
    CRLReason.UNSPECIFIED: ["unspecified"],
    CRLReason.KEY_COMPROMISE: ["keyCompromise", "keycompromise", "key_compromise", "KEY_COMPROMISE", "keyTime"],
    CRLReason.CA_COMPROMISE: [
        *("cACompromise", "CACompromise", "cacompromise", "ca_compromise"),
        *("CERTIFICATE_AUTHORITY_COMPROMISE", "CAkeyTime"),
    ],
    CRLReason.AFFILIATION_CHANGED: ["affiliationChanged", "affiliation_changed", "affiliation-changed"],
    CRLReason.SUPERSEDED: ["superseded", "Superseded"],
    CRLReason.CESSATION_OF_OPERATION: ["cessationOfOperation", "cessation_of_operation", "Cessation Of Operation"],
    CRLReason.CERTIFICATE_HOLD: ["certificateHold", "certificate_hold", "holdInstruction"],
    CRLReason.REMOVE_FROM_CRL: ["removeFromCRL", "remove_from_crl"],
    CRLReason.PRIVILEGE_WITHDRAWN: ["privilegeWithdrawn", "PRIVILEGES_WITHDRAWN"],
    CRLReason.AA_COMPROMISE: ["aACompromise", "AACompromise", "aa_compromise", "ATTRIBUTE_AUTHORITY_COMPROMISE"],
}


@pytest.mark.clause("RFC 5280", "5.3.1", "MUST")
def test_every_spelling_of_a_reason_is_known() -> None:
    """Each CRLReason is found under every name that a CA system gives it; 7 does not exist."""
    assert set(SPELLINGS) == set(CRLReason)
    for reason, names in SPELLINGS.items():
        assert [reason_from_name(name) for name in names] == [reason] * len(names)


@pytest.mark.parametrize("name", ["", "unused", "7", "keyCompromise2", "key.compromise"])
def test_an_unknown_reason_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown revocation reason"):
        reason_from_name(name)


@pytest.mark.clause("RFC 5280", "5.3.1", "SHOULD")
def test_unspecified_is_left_out() -> None:
    """A CA that says unspecified says nothing: the status holds no reason."""
    assert reason_word(CRLReason.UNSPECIFIED) == ""
    status = Status.from_text("revoked 2026-01-02T03:04:05Z" + reason_word(CRLReason.SUPERSEDED))
    assert status.reason is CRLReason.SUPERSEDED


@pytest.mark.clause("RFC 5280", "4.1.2.5.1", "MUST")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"490101000000Z", "2049-01-01T00:00:00Z"),
        (b"500101000000Z", "1950-01-01T00:00:00Z"),
        (b"000229000000Z", "2000-02-29T00:00:00Z"),
        (b"991231235959Z", "1999-12-31T23:59:59Z"),
        (b"20500101000000Z", "2050-01-01T00:00:00Z"),
        (b"99991231235959Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_two_digit_years_turn_at_fifty(text: bytes, expected: str) -> None:
    """TIM-04: UTCTime's YY from 50 means 19YY, below it 20YY; four digits are as they stand."""
    assert date_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"Z", b"210229000000Z", b"21000229000000Z", b"210431000000Z", b"210001000000Z", b"211301000000Z"),
        *(b"210101240000Z", b"210101006000Z", b"210101000060Z", b"2101010000Z", b"210101000000", b"210101000000z"),
        *(b"210101000000+0000", b"20210101000000.0Z", b"19491231235959Z", b" 10101000000Z", b"2101010000000Z"),
        "２１0101000000Z".encode(),
    ],
)
def test_what_is_no_date_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"date|day"):
        date_text(text)


def test_a_generalized_time_has_four_digits_of_year() -> None:
    assert generalized_time_text(b"20250102030405Z") == "2025-01-02T03:04:05Z"
    with pytest.raises(ValueError, match="YYYYMMDDHHMMSSZ"):
        generalized_time_text(b"250102030405Z")


@given(st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_every_second_comes_out_as_it_went_in(moment: datetime) -> None:
    """Both forms, and the store's model reads what comes out."""
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    expected = moment.isoformat().replace("+00:00", "Z")
    assert date_text(moment.strftime("%Y%m%d%H%M%SZ").encode()) == expected
    if moment.year < 2050:
        assert date_text(moment.strftime("%y%m%d%H%M%SZ").encode()) == expected
    assert Status.from_text(f"good exp={expected}").not_after == int(moment.timestamp())


@given(st.binary(max_size=18))
def test_no_other_error_leaves_a_date(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        date_text(text)
