"""CRLs of others through the reader: PKITS, cryptography's vectors, public CAs; and what is broken, one line each."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from responder.crl.independent import independent_parse
from responder.crl.reader import CRLFile
from responder.errors import CRLError
from responder.model import CRLReason, serial_from_octets
from tests.crl_records import Seen, seen_by_cryptography
from tests.loader_reading import SAMPLES, needs_samples
from tests.pki import key_of

X509 = Path(cryptography_vectors.__file__).parent / "x509"
CRLS = SAMPLES / "crl"
CUSTOM = [path for path in sorted((X509 / "custom").iterdir()) if path.is_file()]
VECTORS = [
    *sorted((X509 / "PKITS_data" / "crls").glob("*.crl")),
    *(path for path in CUSTOM if b"BEGIN X509 CRL" in path.read_bytes()),
    *(path for path in CUSTOM if path.suffix == ".der" and "crl" in path.name),
]
# Ours is stricter: the BIT STRING's unused bits.
OURS_ALONE = {"BadCRLSignatureCACRL.crl": "no BIT STRING of whole octets"}


def read(path: Path) -> tuple[CRLFile, list[Seen]]:
    """Read a CRL with ours, whole."""
    with CRLFile.open(path) as file:
        entries = [
            Seen(
                serial_from_octets(entry.serial_octets),
                entry.revocation_date,
                None if entry.reason is None else CRLReason(entry.reason).asn1_name,
                entry.invalidity_date,
            )
            for batch in file.entries()
            for entry in batch
        ]
        return file, entries


def reference(path: Path) -> x509.CertificateRevocationList:
    """Read a CRL with cryptography, whatever its armor."""
    data = path.read_bytes()
    return x509.load_der_x509_crl(data) if data[:1] == b"\x30" else x509.load_pem_x509_crl(data)


def assert_same_as_cryptography(path: Path) -> CRLFile:
    """Read with both; every value must be the same."""
    file, entries = read(path)
    crl = reference(path)
    assert entries == seen_by_cryptography(crl)
    assert file.issuer == crl.issuer.public_bytes()
    assert file.this_update == crl.last_update_utc.timestamp()
    assert file.next_update == (crl.next_update_utc and crl.next_update_utc.timestamp())
    assert file.signature == crl.signature
    assert {oid: raw.critical for oid, raw in file.extensions.items()} == {
        extension.oid.dotted_string: extension.critical for extension in crl.extensions
    }
    for extension in crl.extensions:
        raw, value = file.extensions[extension.oid.dotted_string].value, extension.value
        if not isinstance(value, x509.IssuingDistributionPoint | x509.AuthorityKeyIdentifier):
            assert raw == value.public_bytes()
    return file


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name)
def test_vectors_are_read_as_cryptography_does_or_refused_in_a_line(path: Path) -> None:
    """Equal, or refused by both; with one exception, where ours is the stricter."""
    try:
        assert_same_as_cryptography(path)
    except CRLError as error:
        text = str(error)
        assert text.startswith(f"{path}: ") and "\n" not in text  # noqa: PT018
        if path.name in OURS_ALONE:
            assert OURS_ALONE[path.name] in text
            return
        with pytest.raises((ValueError, x509.InvalidVersion, x509.DuplicateExtension)):
            seen_by_cryptography(reference(path))
    else:
        assert path.name not in OURS_ALONE


def test_most_vectors_are_read() -> None:
    """So that the test above cannot pass by refusing all."""
    assert len(VECTORS) > 190
    refused = 0
    for path in VECTORS:
        try:
            read(path)
        except CRLError:
            refused += 1
    assert refused < 12


PKITS_ISSUERS = {
    "GoodCACRL.crl": ("GoodCACert.crt", True),
    "BadSignedCACRL.crl": ("GoodCACert.crt", False),
    "deltaCRLCA1deltaCRL.crl": ("deltaCRLCA1Cert.crt", True),
    "indirectCRLCA1CRL.crl": ("indirectCRLCA1Cert.crt", True),
    "WrongCRLCACRL.crl": ("WrongCRLCACert.crt", False),
}


def test_signatures_of_pkits() -> None:
    """Each by its issuer's key, and not by another's."""
    for crl, (certificate, expected) in PKITS_ISSUERS.items():
        issuer = x509.load_der_x509_certificate((X509 / "PKITS_data" / "certs" / certificate).read_bytes())
        with CRLFile.open(X509 / "PKITS_data" / "crls" / crl) as file:
            assert file.is_signed_by(issuer.public_key()) is expected, crl
    other: list[Any] = [key_of(kind, "reader").public_key() for kind in ("p256", "ed25519", "mldsa44")]
    with CRLFile.open(X509 / "PKITS_data" / "crls" / "GoodCACRL.crl") as file:
        assert [file.is_signed_by(key) for key in other] == [False] * len(other)


def test_pkits_delta_and_indirect() -> None:
    """DLT-01, IDP-06: base numbers, and entries of other issuers named by the entry or one before it."""
    with CRLFile.open(X509 / "PKITS_data" / "crls" / "deltaCRLCA1deltaCRL.crl") as file:
        assert file.base_number is not None
        assert file.number is not None
        assert file.base_number < file.number
    with CRLFile.open(X509 / "PKITS_data" / "crls" / "indirectCRLCA5CRL.crl") as file:
        assert file.is_indirect
        assert {entry.certificate_issuer is None for batch in file.entries() for entry in batch} == {True, False}


@needs_samples
@pytest.mark.parametrize("path", sorted(CRLS.glob("*.crl")), ids=lambda path: path.name)
def test_crls_of_a_public_ca(path: Path) -> None:
    """Amazon's, which are DER as the Baseline Requirements want them."""
    assert_same_as_cryptography(path)
    assert independent_parse(path).entries == len(reference(path))


# --- armor ------------------------------------------------------------------------------------------------------------

GOOD = (X509 / "PKITS_data" / "crls" / "GoodCACRL.crl").read_bytes()


def armored(line: int = 64, label: str = "X509 CRL", end: str = "\n") -> str:
    text = base64.b64encode(GOOD).decode()
    lines = [text[at : at + line] for at in range(0, len(text), line)]
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


@pytest.mark.parametrize(
    "text",
    [
        armored(),
        armored(76, end="\r\n"),
        armored(7),
        armored(1_000_000),
        armored(label="CRL"),
        "\ufeff" + armored(),
        "\n\n" + armored(),
        "Certificate Revocation List (CRL):\n    Version 2 (0x1)\n" + armored(),
        armored() + "behind it\n",
        armored().split("-----")[2],
        base64.b64encode(GOOD).decode(),
    ],
    ids=[
        "pem",
        "crlf",
        "short",
        "one-line",
        "old-label",
        "bom",
        "blank",
        "text",
        "behind",
        "base64",
        "base64-one-line",
    ],
)
def test_armor_is_taken_off(tmp_path: Path, text: str) -> None:
    path = tmp_path / "armored.crl"
    path.write_text(text, encoding="utf-8", newline="")
    with CRLFile.open(path) as file:
        assert file.size == len(GOOD)
        assert len([entry for batch in file.entries() for entry in batch]) == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"hello", "neither DER nor PEM"),
        (b"<html><body>404</body></html>", "neither DER nor PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "neither DER nor PEM"),
        (armored().encode()[:200], "base64 is cut off"),
        (armored().replace("-----END X509 CRL-----\n", "").encode(), "base64 is cut off"),
        (armored().replace("M", "!", 1).encode(), "base64 is broken|no CRL"),
        (base64.b64encode(GOOD)[:-3], "base64 is cut off"),
        (b"0", "octet 0"),
        (b"00", "octet 0: cut off"),
        (GOOD + b"\n", "1 octets behind the CRL"),
        (GOOD[:-1], "cut off"),
        (GOOD[:100], "cut off"),
        (b"\x30\x80" + GOOD[4:] + b"\x00\x00", "indefinite length"),
        (b"\x30\x83\x00" + GOOD[2:], "fewest octets|cut off"),
    ],
)
def test_what_is_no_crl_is_refused_in_a_line(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "broken.crl"
    path.write_bytes(data)
    with pytest.raises(CRLError, match=problem) as caught:
        CRLFile.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.crl", tmp_path):
        for opened in (CRLFile.open, independent_parse):
            with pytest.raises(CRLError, match="cannot be read"):
                opened(path)


def test_every_cut_and_every_flipped_octet_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever is wrong with a CRL, the reader says so in a line, and so does the independent parser."""
    path = tmp_path / "mutated.crl"
    for place in range(0, len(GOOD), 3):
        for data in (GOOD[:place], GOOD[:place] + bytes([GOOD[place] ^ 0x41]) + GOOD[place + 1 :]):
            path.write_bytes(data)
            for opened in (read, independent_parse):
                try:
                    opened(path)  # type: ignore[operator]
                except CRLError as error:
                    assert "\n" not in str(error)  # noqa: PT017


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """Another process truncates it: an error, never a list that ends early."""
    path = tmp_path / "shrinking.crl"
    path.write_bytes(GOOD)
    with CRLFile.open(path) as file:
        path.write_bytes(GOOD[:-600])
        with pytest.raises(CRLError, match="truncated"):
            list(file.entries())


def test_weak_hash_proves_nothing() -> None:
    """MD2 and SHA-1: two CRLs of one signature can be made."""
    weak = 0
    for path in VECTORS:
        try:
            file = CRLFile.open(path)
        except CRLError:
            continue
        with file:
            try:
                used = reference(path).signature_hash_algorithm
            except UnsupportedAlgorithm:
                used = None
            if not isinstance(used, hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
                weak += 1
                with pytest.raises(CRLError, match=r"which proves nothing|is not supported"):
                    file.is_signed_by(key_of("rsa2048", "reader").public_key())
    assert 0 < weak < 20
