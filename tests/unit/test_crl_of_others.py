"""CRLs that others made, through the loader: every one of NIST's PKITS, and Amazon's of 2025. Read right, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography import x509

from loaders.crl import CRLLoader, CRLOptions
from responder.clock import ManualClock
from responder.config import CAConfig
from responder.crl.acceptance import CRLSigner
from responder.errors import ConfigError, SourceUnavailable
from responder.issuers import Issuer, subject_and_key
from responder.model import REASONS_BY_NAME, Status, serial_to_octets
from tests.loader_reading import SAMPLES, needs_samples
from tests.pki import make_ca

PKITS = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data"
CRLS = SAMPLES / "crl"
NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z; PKITS ends in 2030
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

# What is refused, whose it should be where the CRL cannot tell, and a part of the line.
REFUSED = {
    "BadCRLIssuerNameCACRL": ("BadCRLIssuerNameCACert", "its issuer "),
    "BadCRLSignatureCACRL": ("BadCRLSignatureCACert", "its signature is no BIT STRING of whole octets"),
    "DSACACRL": ("DSACACert", "it is signed with sha1"),
    "RolloverfromPrintableStringtoUTF8StringCACRL": (
        "RolloverfromPrintableStringtoUTF8StringCACert",
        "octet for octet (RFC 5280 §5.1.2.3)",
    ),
    "TwoCRLsCABadCRL": ("TwoCRLsCACert", "its issuer "),
    "UnknownCRLExtensionCACRL": ("", "its critical extension 2.16.840.1.101.2.1.12.2 is not known here"),
    "UnknownCRLEntryExtensionCACRL": ("", "has a critical extension that is not known here (RFC 5280 §5.3)"),
    "deltaCRLCA1deltaCRL": ("", "it is a delta CRL"),
    "deltaCRLCA2deltaCRL": ("", "it is a delta CRL"),
    "deltaCRLCA3deltaCRL": ("", "it is a delta CRL"),
    "deltaCRLIndicatorNoBaseCACRL": ("", "it is a delta CRL"),
    "keyUsageCriticalcRLSignFalseCACRL": ("keyUsageCriticalcRLSignFalseCACert", "does not assert cRLSign"),
    "keyUsageNotCriticalcRLSignFalseCACRL": ("keyUsageNotCriticalcRLSignFalseCACert", "does not assert cRLSign"),
    "onlyContainsAttributeCertsCACRL": ("", "it is a list of attribute certificates alone"),
    "onlyContainsCACertsCACRL": ("", "it is a list of CA certificates alone"),
    "onlyContainsUserCertsCACRL": ("", "it is a list of user certificates alone"),
    **{
        f"onlySomeReasonsCA{name}CRL": ("", "it is a list for some reasons alone, without ")
        for name in ("1compromise", "1otherreasons", "3compromise", "3otherreasons", "4compromise", "4otherreasons")
    },
    "onlySomeReasonsCA2CRL1": ("", "it is a list for some reasons alone, without aACompromise, cACompromise, "),
    "onlySomeReasonsCA2CRL2": ("", "it is a list for some reasons alone, without aACompromise, affiliationChanged, "),
}
UNREADABLE = {"DSAParametersInheritedCACRL"}  # its CA's certificate has no key of its own: no configuration takes it


def issuer_of(certificate: Path) -> Issuer:
    """Return the CA of a certificate, as far as the loader asks."""
    config = CAConfig.model_construct(name=certificate.stem, certificate=certificate)
    subject, key = subject_and_key(x509.load_der_x509_certificate(certificate.read_bytes()))
    return Issuer(certificate.stem, "", certificate.read_bytes(), subject, key, {}, {}, 0, 0, config)


def read(issuer: Issuer, **options: Any) -> dict[bytes, str]:
    """Read once; returns what is revoked."""
    loader = CRLLoader(CRLOptions(**options), issuer, [], ManualClock(NOW))
    found: dict[bytes, str] = {}
    for batch in loader.snapshot().batches():
        found.update(batch.rows)
        assert not batch.rejected
        for serial, _ in batch.released:
            assert found.pop(serial, None) is None  # the full CRL's entry was passed over
    return found


def _told(text: str) -> tuple[int | None, str | None]:
    status = Status.from_text(text)
    return status.revoked_at, None if status.reason is None else status.reason.asn1_name


def told_by_cryptography(crl: Path, subject: x509.Name) -> dict[bytes, tuple[int, str | None]]:
    """Return an issuer's serials with time and reason, as another reader has them."""
    found: dict[bytes, tuple[int, str | None]] = {}
    parsed = x509.load_der_x509_crl(crl.read_bytes())
    issuer = parsed.issuer
    for entry in parsed:
        reason = None
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason) and extension.value.reason.value != "unspecified":
                reason = extension.value.reason.value
            if isinstance(extension.value, x509.CertificateIssuer):
                (issuer,) = extension.value.get_values_for_type(x509.DirectoryName)
        if issuer == subject:
            size = (entry.serial_number + (entry.serial_number < 0)).bit_length() // 8 + 1
            octets = entry.serial_number.to_bytes(size, "big", signed=True)
            found[octets] = (int(entry.revocation_date_utc.timestamp()), reason)
    return found


@pytest.fixture(scope="module")
def signers() -> list[tuple[Path, CRLSigner]]:
    found = []
    for path in sorted((PKITS / "certs").glob("*.crt")):
        try:
            found.append((path, CRLSigner.of(path.read_bytes())))
        except ValueError:
            continue
    return found


def certificate_for(crl: Path, signers: Sequence[tuple[Path, CRLSigner]]) -> Path:
    """Return the CA certificate by which a CRL verifies."""
    parsed = x509.load_der_x509_crl(crl.read_bytes())
    for path, signer in signers:
        if signer.name_der == parsed.issuer.public_bytes() and parsed.is_signature_valid(signer.public_key):  # type: ignore[arg-type]
            return path
    raise AssertionError(f"PKITS has no certificate of whoever signed {crl.name}")


@pytest.mark.clause("RFC 5280", "6.3.3", "MUST")
def test_every_crl_of_pkits(signers: list[tuple[Path, CRLSigner]]) -> None:
    """PKITS: 173 CRLs; each gives what cryptography reads in it, or is refused for the reason that PKITS made it for."""
    crls = sorted((PKITS / "crls").glob("*.crl"))
    assert len(crls) == 173
    refused: set[str] = set()
    entries = 0
    for crl in crls:
        if crl.stem in UNREADABLE:
            continue
        name, expected = REFUSED.get(crl.stem, ("", None))
        certificate = PKITS / "certs" / f"{name}.crt" if name else certificate_for(crl, signers)
        issuer = issuer_of(certificate)
        if expected is not None:
            with pytest.raises((SourceUnavailable, ConfigError), match=re.escape(expected)) as caught:
                read(issuer, paths=[crl])
            assert "\n" not in str(caught.value)
            refused.add(crl.stem)
            continue
        found = read(issuer, paths=[crl])
        subject = x509.load_der_x509_certificate(certificate.read_bytes()).subject
        told = {serial: _told(text) for serial, text in found.items()}
        assert told == told_by_cryptography(crl, subject), crl.name
        entries += len(found)
    assert refused == REFUSED.keys()
    assert entries == 20  # 40 less those of refused CRLs and of other issuers


@pytest.mark.clause("RFC 5280", "5.2.4", "MUST")
def test_pkits_deltas_are_combined() -> None:
    """PKITS 4.15.2 to 4.15.9: of each certificate what its name says."""
    for ca, tests in (("deltaCRLCA1", range(2, 8)), ("deltaCRLCA2", range(8, 10))):
        crls = PKITS / "crls"
        found = read(
            issuer_of(PKITS / "certs" / f"{ca}Cert.crt"),
            path=crls / f"{ca}CRL.crl",
            delta=str(crls / f"{ca}deltaCRL.crl"),
        )
        for number in tests:
            (path,) = (PKITS / "certs").glob(f"*deltaCRLTest{number}EE.crt")
            serial = x509.load_der_x509_certificate(path.read_bytes()).serial_number
            assert (serial_to_octets(serial) in found) is path.name.startswith("Invalid"), path.name


def test_pkits_lists_of_reasons_add_up() -> None:
    crls = PKITS / "crls"
    issuer = issuer_of(PKITS / "certs" / "onlySomeReasonsCA1Cert.crt")
    paths = [crls / f"onlySomeReasonsCA1{name}CRL.crl" for name in ("compromise", "otherreasons")]
    assert {Status.from_text(text).reason for text in read(issuer, paths=paths).values()} == {
        REASONS_BY_NAME["keyCompromise"],
        REASONS_BY_NAME["certificateHold"],
    }


@pytest.mark.clause("RFC 5280", "5.3.3", "MUST")
def test_pkits_indirect_crls() -> None:
    """PKITS 4.14.28 to 4.14.33: of a CRL of three CAs each has its own entries; certificateIssuer holds until the next."""
    certs, crl = PKITS / "certs", PKITS / "crls" / "indirectCRLCA5CRL.crl"
    signer = certs / "indirectCRLCA5Cert.crt"
    for name, expected in (("indirectCRLCA5Cert", b"\1\n\v"), ("indirectCRLCA6Cert", b"\2\3\4\x08\t")):
        found = read(issuer_of(certs / f"{name}.crt"), paths=[crl], signer=signer)
        assert b"".join(sorted(found)) == expected, name
    with pytest.raises(SourceUnavailable, match="its issuer"):
        read(issuer_of(certs / "indirectCRLCA6Cert.crt"), paths=[crl])


@needs_samples
def test_amazons_crls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is read as cryptography reads it; their CAs' certificates are not at hand, so the signature is taken for good."""
    monkeypatch.setattr("loaders.crl.check_origin", lambda _crl, _signer: None)
    der = tmp_path / "ca.der"
    der.write_bytes(make_ca(tmp_path).certificate_der)
    any_ca = issuer_of(der)
    crls = sorted(CRLS.glob("*.crl"))
    assert crls
    for crl in crls:
        parsed = x509.load_der_x509_crl(crl.read_bytes())
        issuer = replace(any_ca, subject_der=parsed.issuer.public_bytes())
        found = read(issuer, paths=[crl])
        told = {serial: _told(text) for serial, text in found.items()}
        assert told == told_by_cryptography(crl, parsed.issuer), crl.name
