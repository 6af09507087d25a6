"""Records to entries and back: against cryptography and asn1crypto, and proven equal by the comparison."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.crl_compare import Changes, EntriesDiffer, compare_entries, order_of, use_instructions
from fastpath.crl_decode import Entry, EntryError, EntryReader, split_entries
from fastpath.crl_entries import (
    ALL_REASONS,
    MAX_SERIAL_OCTETS,
    Terms,
    encode_entries,
    pack_revoked,
    shard_of,
    unpack_records,
)
from responder.clock import format_utc, parse_utc
from responder.crl.der import SEQUENCE, element
from responder.model import CertStatus, CRLReason, Status, serial_from_octets, serial_to_octets
from responder.store.layout import serial_hash
from tests.crl_records import NOW, Seen, chunks_of, seen_by_cryptography
from tests.fuzz.make_corpus import entries_seeds
from tests.reference.crl_entries import check_crl_entries, crl_around
from tests.reference.mutate import mutate_octets, mutate_tree

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


@settings(max_examples=40)
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


@settings(max_examples=40)
@given(serials)
def test_order_is_the_stores(serial: bytes) -> None:
    """The comparison's own SHA-256 agrees with hashlib's, for one block and for two."""
    assert order_of(serial) == serial_hash(serial)


@pytest.mark.parametrize("by_instructions", [True, False])
def test_order_at_every_length(by_instructions: bool) -> None:
    """With the processor's own instructions and without."""
    use_instructions(by_instructions)
    try:
        for size in range(MAX_SERIAL_OCTETS + 1):
            for octets in (bytes(range(size)), bytes([0x80] * size)):
                assert order_of(octets) == serial_hash(octets)
    finally:
        use_instructions(True)


@settings(max_examples=40)
@given(serials, st.integers(1, 0xFFFF))
def test_shard_is_the_remainder(serial: bytes, shards: int) -> None:
    """IDP-07: a serial's shard is its value modulo the number of shards, also below zero."""
    assert shard_of(serial, shards) == serial_from_octets(serial) % shards


@settings(max_examples=40)
@given(st.dictionaries(serials, revoked_statuses, max_size=20), st.sampled_from([1, 2, 3, 256, 65_535]))
def test_shards_together_are_the_whole(statuses: dict[bytes, Status], shards: int) -> None:
    """IDP-07: each entry is in one shard, and each shard is proven by the comparison."""
    chunks = chunks_of({serial: status.to_text() for serial, status in statuses.items()})
    whole = {entry.serial_octets for entry in entries_of(der_of(chunks, Terms(NOW)))}
    found: list[bytes] = []
    for shard in {shard_of(serial, shards) for serial in statuses}:
        terms = Terms(NOW, shard=shard, shards=shards)
        der = der_of(chunks, terms)
        found += [entry.serial_octets for entry in entries_of(der)]
        compare_entries(reader_of(der), chunks, terms)
    assert sorted(found) == sorted(whole)


def encoded(text: str, terms: Terms) -> list[tuple[int, int | None]]:
    """Return date and reason of the one entry that a status text becomes, or nothing; the comparison agrees."""
    chunks = chunks_of({b"\x05": text})
    der = der_of(chunks, terms)
    compare_entries(reader_of(der), chunks, terms)
    return [(entry.revocation_date, entry.reason) for entry in entries_of(der)]


AT = format_utc(NOW)
BEFORE, AFTER = format_utc(NOW - 1), format_utc(NOW + 1)


@pytest.mark.clause("RFC 5280", "5.1.2.6", "MUST")
def test_revocation_is_dated_no_later_than_the_crl() -> None:
    """ENT-04: what is in force is dated to thisUpdate at the latest; what lies ahead is left out, and its time is told."""
    terms = Terms(NOW, now=NOW + 5)
    assert encoded(f"revoked {BEFORE}", terms) == [(NOW - 1, None)]
    assert encoded(f"revoked {AT}", terms) == [(NOW, None)]
    assert encoded(f"revoked {AFTER}", terms) == [(NOW, None)]
    assert encoded(f"revoked {format_utc(NOW + 6)}", terms) == []
    ahead = chunks_of({b"\x05": f"revoked {format_utc(NOW + 9)}", b"\x06": f"revoked {format_utc(NOW + 6)}"})
    soonest = [encode_entries(chunk, terms).soonest_ahead for chunk in ahead]
    assert sorted(soonest, key=str) == [NOW + 6, NOW + 9]
    assert encode_entries(b"", terms).soonest_ahead is None


@pytest.mark.clause("RFC 5280", "5.3.1", "SHOULD")
def test_reasons() -> None:
    """ENT-01, ENT-02: unspecified and what the terms exclude are left out, removeFromCRL never comes from a record."""
    text = "revoked 2026-11-01T00:00:00Z {}"
    date = parse_utc("2026-11-01T00:00:00Z")
    for reason in CRLReason:
        written = None if reason in (CRLReason.UNSPECIFIED, CRLReason.REMOVE_FROM_CRL) else int(reason)
        assert encoded(text.format(reason.asn1_name), Terms(NOW)) == [(date, written)]
        assert encoded(text.format(reason.asn1_name), Terms(NOW, delta=True)) == [(date, written)]
        without = Terms(NOW, reasons=ALL_REASONS & ~(1 << reason))
        assert encoded(text.format(reason.asn1_name), without) == [(date, None)]
        assert encode_entries(chunks_of({b"\x05": text.format(reason.asn1_name)})[0], without).reasons_left_out == (
            reason is not CRLReason.UNSPECIFIED
        )


def test_entries_without_a_reason_are_counted() -> None:
    """ENT-02: unspecified is never written, whatever the terms say, and counts as none."""
    date = parse_utc("2026-11-01T00:00:00Z")
    terms = Terms(NOW, reasons=0b11)  # unspecified, keyCompromise
    for word, expected in (
        ("", None),
        (" unspecified", None),
        (" keyCompromise", 1),
        (" cACompromise", None),
        (" exp=2027-01-01T00:00:00Z", None),
    ):
        text = "revoked 2026-11-01T00:00:00Z" + word
        chunks = chunks_of({b"\x05": text})
        assert encoded(text, terms) == [(date, expected)], word
        assert encode_entries(chunks[0], terms).without_reason == (expected is None), word
        assert compare_entries(reader_of(der_of(chunks, terms)), chunks, terms) == 1


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_delta_removes_what_is_not_revoked_any_more() -> None:
    """DLT-05: released and purged serials are removeFromCRL in a delta; a full CRL refuses them."""
    for text in ("good exp=2027-01-01T00:00:00Z", "good", ""):
        assert encoded(text, Terms(NOW, delta=True)) == [(NOW, 8)]
        with pytest.raises(ValueError, match=r"serial 05: .* is not revoked"):
            der_of(chunks_of({b"\x05": text}), Terms(NOW))
        with pytest.raises(EntriesDiffer, match="serial 05 is not revoked"):
            compare_entries(reader_of(b""), chunks_of({b"\x05": text}), Terms(NOW))


@pytest.mark.clause("RFC 5280", "3.3", "MUST")
def test_expired_entries_leave_from_the_second_told_on() -> None:
    """CRL-09: only what expired before the last regular CRL that had it is dropped."""
    text = f"revoked 2026-11-01T00:00:00Z exp={AT}"
    assert len(encoded(text, Terms(NOW))) == 1
    assert len(encoded(text, Terms(NOW, drop_expired_before=NOW))) == 1
    assert encoded(text, Terms(NOW + 1, drop_expired_before=NOW + 1)) == []
    assert encode_entries(chunks_of({b"\x05": text})[0], Terms(NOW + 1, drop_expired_before=NOW + 1)).expired == 1
    assert len(encoded("revoked 2026-11-01T00:00:00Z", Terms(NOW, drop_expired_before=NOW))) == 1


@pytest.mark.clause("RFC 5280", "5.1.2.4", "MUST")
@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("1949-12-31T23:59:59Z", 0x18),
        ("1950-01-01T00:00:00Z", 0x17),
        ("1999-12-31T23:59:59Z", 0x17),
        ("2000-02-29T12:00:00Z", 0x17),
        ("2049-12-31T23:59:59Z", 0x17),
        ("2050-01-01T00:00:00Z", 0x18),
        ("9999-12-31T23:59:59Z", 0x18),
    ],
)
def test_times_are_utc_time_through_2049(text: str, tag: int) -> None:
    """UTCTime from 1950 through 2049, GeneralizedTime otherwise; as asn1crypto reads them."""
    der = der_of(chunks_of({b"\x05": f"revoked {text}"}), Terms(LAST_SECOND))
    assert der[5] == tag
    assert entries_of(der)[0].revocation_date == int(datetime.fromisoformat(text).timestamp())
    theirs = asn1_crl.RevokedCertificate.load(der, strict=True)["revocation_date"].native
    assert theirs == datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("field", "text", "problem"),
    [
        (b"", b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b"0", b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b"0A", b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b"0001", b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b"ffff", b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b".bits", b"4", "no serial"),
        (b"7f" * 65, b"revoked 2026-11-01T00:00:00Z", "no serial"),
        (b"01", b"revoked", "no status"),
        (b"01", b"revoked ", "no status"),
        (b"01", b"revoked 2026-02-29T00:00:00Z", "no status"),
        (b"01", b"revoked 2026-11-01T24:00:00Z", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:60Z", "no status"),
        (b"01", b"revoked 0000-11-01T00:00:00Z", "no status"),
        (b"01", b"revoked 2026-11-01 00:00:00Z", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z ", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Zx", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z compromised", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z by=x keyCompromise", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z exp=2027-01-01", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z exp=2027-01-01T00:00:00Z exp=2027-01-01T00:00:00Z", "no status"),
        (b"01", b"good keyCompromise", "no status"),
        (b"01", b"revoked 2026-11-01T00:00:00Z by=" + b"x" * 600, "no status"),
    ],
)
def test_what_is_no_record_is_refused(field: bytes, text: bytes, problem: str) -> None:
    """One line that names the field; statuses that responder.model refuses are refused here too."""
    with pytest.raises(ValueError, match=problem) as caught:
        pack_revoked([field, text])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_pairs_and_duplicates() -> None:
    with pytest.raises(ValueError, match="pairs"):
        pack_revoked([b"01"])
    with pytest.raises(ValueError, match="serial 01 is there twice"):
        pack_revoked([b"01", b"good"] * 2)


@settings(max_examples=40)
@given(st.dictionaries(serials, revoked_statuses, max_size=8))
def test_records_unpack(statuses: dict[bytes, Status]) -> None:
    flat = [part for serial, status in statuses.items() for part in (serial.hex().encode(), status.to_text().encode())]
    records = unpack_records(pack_revoked(flat))
    assert dict(records) == {serial: status.to_text().encode() for serial, status in statuses.items()}
    assert [serial for serial, _ in records] == sorted(statuses, key=lambda serial: (len(serial), serial))


@settings(max_examples=40)
@given(st.dictionaries(serials, revoked_statuses, min_size=1, max_size=5), st.data())
def test_broken_chunks_are_refused(statuses: dict[bytes, Status], data: st.DataObject) -> None:
    """Whatever a spool was turned into: a ValueError, or entries that the comparison agrees with."""
    chunk = bytearray(chunks_of({serial: status.to_text() for serial, status in statuses.items()})[0])
    place = data.draw(st.integers(0, len(chunk) - 1))
    chunk[place] = data.draw(st.integers(0, 255))
    cut = bytes(chunk[: data.draw(st.integers(1, len(chunk)))])
    try:
        der = encode_entries(cut, Terms(NOW)).der
    except ValueError:
        with suppress(ValueError):
            compare_entries(reader_of(b""), [cut], Terms(NOW))
        return
    try:
        compare_entries(reader_of(der), [cut], Terms(NOW))
    except EntriesDiffer as error:  # a serial that was changed is not where it belongs
        assert "belong" in str(error) or "twice" in str(error)  # noqa: PT017


TWO = {
    b"\x05": "revoked 2026-11-01T00:00:00Z keyCompromise invalid=2026-01-01T00:00:00Z",
    b"\x06": "revoked 2026-11-02T00:00:00Z",
    b"\x07": "revoked 2026-11-03T00:00:00Z superseded exp=2027-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({b"\x05": None}, "05 has an entry and no record|05 stands"),
        ({b"\x08": "revoked 2026-11-01T00:00:00Z"}, "08 has no entry"),
        ({b"\x06": "revoked 2026-11-02T00:00:01Z"}, "06 has revocationDate 20261102000000"),
        ({b"\x06": "revoked 2026-11-02T00:00:00Z keyCompromise"}, "06 has no reason"),
        ({b"\x07": "revoked 2026-11-03T00:00:00Z exp=2027-01-01T00:00:00Z"}, "07 has reason superseded"),
        ({b"\x07": "revoked 2026-11-03T00:00:00Z keyCompromise"}, "07 has reason superseded"),
        ({b"\x05": "revoked 2026-11-01T00:00:00Z keyCompromise"}, "05 has another invalidityDate"),
        (
            {b"\x05": "revoked 2026-11-01T00:00:00Z keyCompromise invalid=2026-01-01T00:00:01Z"},
            "05 has another invalidityDate",
        ),
        ({b"\x06": "revoked 2026-11-02T00:00:00Z invalid=2026-01-01T00:00:00Z"}, "06 has another invalidityDate"),
        ({b"\x06": f"revoked {AFTER}"}, "06 has an entry and no record|06 stands"),
        ({b"\x06": "good"}, "06 is not revoked"),
    ],
)
def test_comparison_finds_each_difference(change: dict[bytes, str | None], problem: str) -> None:
    """The entries of TWO against records that are otherwise in one respect."""
    statuses = {serial: text for serial, text in {**TWO, **change}.items() if text is not None}
    der = der_of(chunks_of(TWO), Terms(NOW))
    assert compare_entries(reader_of(der), chunks_of(TWO), Terms(NOW)) == 3
    with pytest.raises(EntriesDiffer, match=problem):
        compare_entries(reader_of(der), chunks_of(statuses), Terms(NOW))


def test_comparison_finds_records_out_of_place() -> None:
    """ENT-05: a serial that is there twice, in a hash where it does not belong, or in another order."""
    chunks = chunks_of(TWO)
    assert len(chunks) == 3
    terms = Terms(NOW)
    for wrong, problem in (
        ([chunks[1], chunks[0], chunks[2]], "belongs before"),
        ([*chunks, chunks[2]], "belongs before"),
        ([chunks[0] + chunks[1], chunks[2]], "does not belong into its chunk"),
        ([chunks[0] + chunks[0], *chunks[1:]], "is there twice"),
    ):
        with pytest.raises(EntriesDiffer, match=problem):
            compare_entries(reader_of(der_of(wrong, terms)), wrong, terms)


def test_delta_comparison_wants_the_removal() -> None:
    """A released serial whose entry says anything else than removeFromCRL as of thisUpdate."""
    delta = Terms(NOW, delta=True)
    for text in ("revoked 2026-11-01T00:00:00Z", f"revoked {AT} certificateHold"):
        der = der_of(chunks_of({b"\x05": text}), delta)
        with pytest.raises(EntriesDiffer, match="removeFromCRL"):
            compare_entries(reader_of(der), chunks_of({b"\x05": "good"}), delta)
    der = der_of(chunks_of({b"\x05": "good"}), Terms(NOW + 1, delta=True))
    with pytest.raises(EntriesDiffer, match="thisUpdate"):
        compare_entries(reader_of(der), chunks_of({b"\x05": "good"}), delta)


def changes(before: bytes, after: bytes) -> Iterator[tuple[bytes, bool, bool]]:
    for change in Changes(reader_of(before, 50), reader_of(after, 50)):
        yield change.serial_octets, change.before is not None, change.after is not None


@settings(max_examples=40)
@given(
    st.dictionaries(serials, revoked_statuses, max_size=15),
    st.dictionaries(serials, revoked_statuses, max_size=8),
    st.data(),
)
def test_changes_between_two_crls(
    statuses: dict[bytes, Status], more: dict[bytes, Status], data: st.DataObject
) -> None:
    """Exactly what is gone, new or otherwise is given, in any mixture."""
    gone = data.draw(st.sets(st.sampled_from(sorted(statuses)))) if statuses else set()
    later = {serial: status for serial, status in {**statuses, **more}.items() if serial not in gone}
    terms = Terms(LAST_SECOND)
    before = der_of(chunks_of({serial: status.to_text() for serial, status in statuses.items()}), terms)
    after = der_of(chunks_of({serial: status.to_text() for serial, status in later.items()}), terms)

    def says(found: dict[bytes, Status], serial: bytes) -> object:
        status = found.get(serial)
        return status and (status.revoked_at, status.reason or None, status.invalidity_date)

    expected = {
        (serial, serial in statuses, serial in later)
        for serial in statuses.keys() | later.keys()
        if says(statuses, serial) != says(later, serial)
    }
    found = list(changes(before, after))
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    "text",
    [
        "revoked 2026-11-01T00:00:01Z keyCompromise invalid=2026-01-01T00:00:00Z",
        "revoked 2026-11-01T00:00:00Z superseded invalid=2026-01-01T00:00:00Z",
        "revoked 2026-11-01T00:00:00Z invalid=2026-01-01T00:00:00Z",
        "revoked 2026-11-01T00:00:00Z keyCompromise invalid=2026-01-01T00:00:01Z",
        "revoked 2026-11-01T00:00:00Z keyCompromise",
    ],
)
def test_changes_within_an_entry_are_given(text: str) -> None:
    """DLT-06: another date, reason or invalidity date is a change."""
    before, after = der_of(chunks_of(TWO), Terms(NOW)), der_of(chunks_of({**TWO, b"\x05": text}), Terms(NOW))
    assert list(changes(before, after)) == [(b"\x05", True, True)]
    assert list(changes(before, before)) == []
    indirect = der_of(chunks_of(TWO), Terms(NOW, certificate_issuer=OTHER))
    assert len(list(changes(before, indirect))) == 3


def test_changes_in_another_order_miss_nothing() -> None:
    """A CRL of another CA's order: what is gone is given, though more may be."""
    pieces = [der_of(chunks_of({serial: text}), Terms(NOW)) for serial, text in TWO.items()]
    after = der_of(chunks_of({b"\x06": TWO[b"\x06"]}), Terms(NOW))
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        before = b"".join(pieces[index] for index in order)
        gone = {serial for serial, was, is_there in changes(before, after) if was and not is_there}
        assert gone >= {b"\x05", b"\x07"}


@settings(max_examples=40)
@given(st.dictionaries(serials, revoked_statuses, min_size=1, max_size=12), st.integers(1, 100))
def test_entries_are_cut_between_elements(statuses: dict[bytes, Status], block: int) -> None:
    """Nothing is lost, and every piece is whole elements, whatever the blocks."""
    der = der_of(chunks_of({serial: status.to_text() for serial, status in statuses.items()}), Terms(LAST_SECOND))
    pieces = list(split_entries((der[at : at + block] for at in range(0, len(der), block)), len(der)))
    assert b"".join(pieces) == der
    assert sum(len(entries_of(piece)) for piece in pieces) == len(statuses)


ENTRY = bytes.fromhex("3012020105170d3236313130313030303030305a")


@pytest.mark.parametrize(
    ("der", "code"),
    [
        ("31", "truncated"),
        ("3112020105170d3236313130313030303030305a", "unexpected-tag"),
        ("3080", "indefinite-length"),
        ("3f8112", "high-tag-number"),
        ("308112020105170d3236313130313030303030305a", "length-not-minimal"),
        ("30850000000012", "length-too-large"),
        ("3082ffff" + "00" * 70_000, "entry-too-large"),
        ("308400ffffff" + "00" * 70_000, "length-not-minimal"),
        ("3084ffffffff" + "00" * 100_000, "entry-too-large"),
        ("3013020105170d3236313130313030303030305a", "truncated"),
        ("301302020005170d3236313130313030303030305a", "integer-invalid"),
        ("30110200170d3236313130313030303030305a", "integer-invalid"),
        ("3012040105170d3236313130313030303030305a", "unexpected-tag"),
        ("3012020105170d3236313330313030303030305a", "time-invalid"),
        ("3012020105170d3236313130313234303030305a", "time-invalid"),
        ("3012020105170d3236303232393030303030305a", "time-invalid"),
        ("3012020105170d3236303933313030303030305a", "time-invalid"),
        ("3014020105180f32313030303232393030303030305a", "time-invalid"),
        ("3012020105170d32363131303130303030303030", "time-invalid"),
        ("3010020105170b323631313031303030305a", "time-invalid"),
        ("3014020105180f30303030313130313030303030305a", "time-invalid"),
        ("3016020105181132303236313130313030303030302e305a", "time-invalid"),
        ("3014020105170d3236313130313030303030305a0500", "unexpected-tag"),
        ("3014020105170d3236313130313030303030305a3000", "extensions-empty"),
        ("3014020105170d3236313130313030303030305a3001", "truncated"),
    ],
)
def test_what_is_no_entry_is_refused(der: str, code: str) -> None:
    """The code, and an offset that lies in the octets, whatever the size of the blocks they come in."""
    octets = bytes.fromhex(der)
    for block in (1, 3, 1 << 20):
        if len(octets) > 1000 and block < 1000:
            continue
        with pytest.raises(EntryError) as caught:
            entries_of(ENTRY + octets, block)
        assert caught.value.code == code
        assert len(ENTRY) <= caught.value.offset <= len(ENTRY + octets)


def test_mutations_show_no_difference_from_cryptography() -> None:
    """What ours reads it reads the same, and what it refuses is refused there too, but for the limits."""
    rng = random.Random(1)
    seeds = entries_seeds()
    for _ in range(2_000):
        check_crl_entries(rng.choice([mutate_octets, mutate_tree])(rng, rng.choice(seeds)))


def entry_with(*extensions: str) -> bytes:
    """Build an entry with extensions given as hex of OID contents, critical or not, and value."""
    found = b"".join(element(SEQUENCE, bytes.fromhex(extension)) for extension in extensions)
    return element(SEQUENCE, ENTRY[2:] + element(SEQUENCE, found))


REASON = "0603551d1504030a0101"


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        ([REASON, REASON], "duplicate-extension"),
        ([f"0603551d{number:02x}0400" for number in range(40, 57)], "too-many-extensions"),
        (["0603551d1504030a0107"], "reason-invalid"),
        (["0603551d1504030a010b"], "reason-invalid"),
        (["0603551d1504040a020001"], "reason-invalid"),
        (["0603551d150403020101"], "unexpected-tag"),
        (["0603551d1504050a01010500"], "trailing-data"),
        (["0603551d15040300"], "truncated"),
        (["0603551d1501010104030a0101"], "boolean-invalid"),
        (["0603551d1504030a01010500"], "trailing-data"),
        (["060080040100"], "object-identifier-invalid"),
        (["0603551d18040f170d3236313130313030303030305a"], "unexpected-tag"),
        (["0603551d1804151813323032363131303130303030303030302e305a"], "time-invalid"),
        (["0603551d1d0101ff04023000"], "certificate-issuer-invalid"),
        (["0603551d1d0101ff0406300482026162"], "certificate-issuer-invalid"),
        (["0603551d1d0101ff0406a4043000a400"], "unexpected-tag"),
    ],
)
def test_extensions_of_entries_that_are_refused(extensions: list[str], code: str) -> None:
    der = entry_with(*extensions)
    with pytest.raises(EntryError) as caught:
        entries_of(der)
    assert caught.value.code == code
    if code != "object-identifier-invalid":
        with pytest.raises(EntryError, match="extensions-in-version-1"):
            entries_of(der, version_2=False)


def test_faults_that_can_be_understood() -> None:
    """What is against RFC 5280 and yet clear is read, and told."""
    der = (
        entry_with(
            "0603551d150101ff04030a0100",
            "0603551d180101ff0411180f32303236313130313030303030305a",
            "0603551d1a0101000400",
        )
        + bytes.fromhex("3014020180180f32303236313130313030303030305a")
        + entry_with("06032a03040101ff0400")
    )
    reader = reader_of(der)
    entries = [entry for batch in reader for entry in batch]
    assert [entry.unknown_critical for entry in entries] == [None, None, bytes.fromhex("2a0304")]
    assert entries[0].reason == 0
    assert len(reader.faults) == 6
    with pytest.raises(EntriesDiffer, match="none of ours"):
        compare_entries(
            reader_of(entry_with("06032a03040101ff0400")),
            chunks_of({b"\x05": "revoked 2026-11-01T00:00:00Z"}),
            Terms(NOW),
        )


@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_certificate_issuer_is_sticky() -> None:
    """IDP-06: it holds until another entry names another."""

    def naming(name: bytes) -> str:
        value = element(SEQUENCE, element(0xA4, name))
        return "0603551d1d0101ff" + element(0x04, value).hex()

    third = asn1_x509.Name.build({"common_name": "Example Third CA"}).dump()
    der = ENTRY + entry_with(naming(OTHER)) + ENTRY + entry_with(naming(third), REASON) + ENTRY
    assert [entry.certificate_issuer for entry in entries_of(der, 30)] == [None, OTHER, OTHER, third, third]


@pytest.mark.parametrize("wrong", [
    {"this_update": -1}, {"now": NOW - 1}, {"this_update": LAST_SECOND + 1}, {"shards": 0}, {"shards": 65_536},
    {"shard": 2, "shards": 2}, {"drop_expired_before": LAST_SECOND + 1},
])  # fmt: skip
def test_terms_that_are_none(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"years|before|shards"):
        Terms(**{"this_update": NOW, **wrong})
