"""The contents of revokedCertificates read by cryptography, and where that and fastpath.crl_decode may differ."""

from __future__ import annotations

from cryptography import x509

from fastpath.crl_decode import Entry, EntryError, EntryReader, split_entries
from responder.crl.der import SEQUENCE, element
from responder.model import serial_from_octets
from tests.crl_records import Seen, seen_by_cryptography

# Ours is the stricter: limits, and a certificateIssuer that names no directory.
OURS_REFUSES = {
    "serial-too-long",
    "entry-too-large",
    "too-many-extensions",
    "object-identifier-invalid",
    "certificate-issuer-invalid",
    "extensions-empty",
}
# Cryptography is the stricter: it refuses what ours reads and tells as a fault.
FAULTS_REFUSED = ("X.690 §11.5",)
REASONS = ("unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
           "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise")  # fmt: skip


def crl_around(der: bytes) -> bytes:
    """Put entries into a CRL that parsers take; nobody signed it."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    name = bytes.fromhex("30133111300f06035504030c084578616d706c6520")
    tbs = b"\x02\x01\x01" + algorithm + name + b"\x17\x0d261118000000Z" + (element(SEQUENCE, der) if der else b"")
    return element(SEQUENCE, element(SEQUENCE, tbs) + algorithm + b"\x03\x02\x00\x00")


def _blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _seen(entry: Entry) -> Seen:
    return Seen(
        serial_from_octets(entry.serial_octets),
        entry.revocation_date,
        None if entry.reason is None else REASONS[entry.reason],
        entry.invalidity_date,
    )


def check_crl_entries(data: bytes) -> None:
    """Fail where the two readers differ, or ours depends on the size of its blocks: the fuzz target."""
    outcomes: list[tuple[list[Seen], str | None, int]] = []
    faults: frozenset[str] = frozenset()
    names_issuer = False
    for size in (1 << 16, 7):
        reader = EntryReader(_blocks(data, size), len(data))
        found: list[Seen] = []
        try:
            for batch in reader:
                found += map(_seen, batch)
                names_issuer |= any(entry.certificate_issuer is not None for entry in batch)
            outcomes.append((found, None, 0))
            faults = reader.faults
        except EntryError as error:
            outcomes.append((found, error.code, error.offset))
    assert outcomes[0][1:] == outcomes[1][1:], data.hex()
    mine, code, offset = outcomes[0]
    assert 0 <= offset <= len(data), data.hex()
    try:
        theirs = seen_by_cryptography(x509.load_der_x509_crl(crl_around(data)))
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        refused: Exception | None = error
    else:
        refused = None
    if code is None:
        assert b"".join(split_entries(_blocks(data, 7), len(data))) == data
        if refused is None:
            assert mine == theirs, data.hex()
        else:
            # The names in a certificateIssuer are compared with others, octet for octet, and never looked into.
            assert names_issuer or any(text in fault for fault in faults for text in FAULTS_REFUSED), (
                refused,
                data.hex(),
            )
    else:
        assert refused is not None or code in OURS_REFUSES, (code, data.hex())
