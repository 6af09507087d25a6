"""Records to entries and back: against cryptography and asn1crypto, and proven equal by the comparison."""

from __future__ import annotations

from typing import Any

from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from fastpath.crl_compare import compare_entries
from fastpath.crl_decode import Entry, EntryReader
from fastpath.crl_entries import (
    MAX_SERIAL_OCTETS,
    Terms,
    encode_entries,
)
from responder.clock import parse_utc
from responder.crl.der import SEQUENCE, element
from responder.model import CertStatus, CRLReason, Status, serial_from_octets, serial_to_octets
from tests.crl_records import NOW, Seen, chunks_of, seen_by_cryptography

OTHER = asn1_x509.Name.build({"common_name": "Example Other CA"}).dump()
YEAR_2049, YEAR_2050 = parse_utc("2049-12-31T23:59:59Z"), parse_utc("2050-01-01T00:00:00Z")
LAST_SECOND = parse_utc("9999-12-31T23:59:59Z")

serials = st.binary(min_size=1, max_size=MAX_SERIAL_OCTETS).map(
    lambda octets: serial_to_octets(int.from_bytes(octets, "big", signed=True))
)
times = st.one_of(
    st.integers(0, NOW + 1000),
    st.integers(NOW - 2, NOW + 2),
    st.integers(YEAR_2049 - 1, YEAR_2050 + 1),
    st.integers(0, LAST_SECOND),
)
revoked_statuses = st.builds(
    Status,
    cert_status=st.just(CertStatus.REVOKED),
    not_after=st.none() | times,
    revoked_at=times,
    reason=st.none() | st.sampled_from([reason for reason in CRLReason if reason != 8]),
    invalidity_date=st.none() | times,
    by_operator=st.booleans(),
)


def der_of(chunks: list[bytes], terms: Terms) -> bytes:
    """Encode chunks as the builder does."""
    count, found = 0, b""
    for chunk in chunks:
        encoded = encode_entries(chunk, terms, first=count == 0)
        count += encoded.count
        found += encoded.der
    return found


def reader_of(der: bytes, block: int = 1 << 16, **options: Any) -> EntryReader:
    """Return a reader that gets its octets in blocks of that size."""
    return EntryReader((der[at : at + block] for at in range(0, len(der), block)), len(der), **options)


def entries_of(der: bytes, block: int = 1 << 16, **options: Any) -> list[Entry]:
    return [entry for batch in reader_of(der, block, **options) for entry in batch]


def crl_around(der: bytes) -> bytes:
    """Put entries into a CRL that cryptography and asn1crypto take; nobody signed it."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    tbs = b"\x02\x01\x01" + algorithm + OTHER + b"\x17\x0d261118000000Z" + (element(SEQUENCE, der) if der else b"")
    return element(SEQUENCE, element(SEQUENCE, tbs) + algorithm + b"\x03\x02\x00\x00")


def expected_of(statuses: dict[bytes, Status], this_update: int, now: int) -> list[Seen]:
    """Say with plain Python what a full CRL has for statuses."""
    found = []
    for serial, status in statuses.items():
        assert status.revoked_at is not None
        if status.revoked_at <= now:
            reason = None
            if status.reason:
                reason = {9: "privilegeWithdrawn", 10: "aACompromise"}.get(status.reason, status.reason.asn1_name)
            date = min(status.revoked_at, this_update)
            found.append(Seen(serial_from_octets(serial), date, reason, status.invalidity_date))
    return found


@given(
    st.dictionaries(serials, revoked_statuses, max_size=12), st.integers(0, 1000), st.sampled_from([1, 7, 40, 1 << 16])
)
def test_entries_read_back_the_same_everywhere(statuses: dict[bytes, Status], ahead: int, block: int) -> None:
    """Our reader, cryptography and asn1crypto see what plain Python expects, and the comparison proves it."""
    terms = Terms(NOW, now=NOW + ahead)
    chunks = chunks_of({serial: status.to_text() for serial, status in statuses.items()})
    der = der_of(chunks, terms)
    expected = sorted(expected_of(statuses, NOW, NOW + ahead))
    mine = [
        Seen(
            serial_from_octets(entry.serial_octets),
            entry.revocation_date,
            None if entry.reason is None else CRLReason(entry.reason).asn1_name,
            entry.invalidity_date,
        )
        for entry in entries_of(der, block)
    ]
    assert sorted(mine) == expected
    assert compare_entries(reader_of(der, block), chunks, terms) == len(expected)
    if all(seen.serial >= 0 for seen in expected):  # cryptography takes no others
        assert sorted(seen_by_cryptography(x509.load_der_x509_crl(crl_around(der)))) == expected
    theirs = asn1_crl.CertificateList.load(crl_around(der), strict=True)["tbs_cert_list"]["revoked_certificates"]
    assert sorted(
        (entry["user_certificate"].native, int(entry["revocation_date"].native.timestamp())) for entry in theirs
    ) == [(seen.serial, seen.date) for seen in expected]
