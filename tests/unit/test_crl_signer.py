"""Whose key may sign a CA's CRLs: the CA's own, or another whose certificate says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from responder.config import load_config
from responder.errors import ConfigError, SignerEnded
from responder.issuers import Issuers
from responder.signing.crl_signer import CRLSigner, open_crl_signer
from tests.pki import PKI, key_of, make_ca, name_of, utc, write_key, write_pem
from tests.softhsm import SoftHSMToken

DAY_S = 86_400


def made(
    ca: PKI,
    key: Any,
    subject: x509.Name,
    *,
    usage: str | None = "crl_sign",
    identifier: bytes | None = b"identifier",
    days: int = 100,
) -> x509.Certificate:
    """Make a certificate of the CA's whose keyUsage asserts one bit, None: it has no keyUsage."""
    now = time.time()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(4711)
        .not_valid_before(utc(now - 200 * DAY_S))
        .not_valid_after(utc(now + days * DAY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if usage is not None:
        names = (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
        builder = builder.add_extension(x509.KeyUsage(**{name: name == usage for name in names}), critical=True)
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def opened(folder: Path, crl: str = "", profile: str = "private", key: str = "ca.key") -> CRLSigner:
    (folder / "index.txt").touch()
    (folder / "revocast.toml").write_text(
        f"""
[[ca]]
name = "corp"
profile = "{profile}"
certificate = "ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ key = "ca.key" }}
crl = {{ issue = true, key = "{key}"{crl} }}
"""
    )
    config_file = folder / "revocast.toml"
    config = load_config(config_file)
    (issuer,) = Issuers.from_config(config, str(config_file))
    signer = open_crl_signer(issuer, config.data_dir, time.time(), str(config_file))
    signer.close()
    return signer


@pytest.fixture
def ca(tmp_path: Path) -> PKI:
    return make_ca(tmp_path)


@pytest.mark.clause("RFC 5280", "5.1.2.3", "MUST")
@pytest.mark.clause("RFC 5280", "5.2.1", "MUST")
def test_the_cas_own_key(ca: PKI) -> None:
    """CRL-03, CRL-06: issuer and key identifier are the bytes of the CA's certificate."""
    signer = opened(ca.directory, profile="webpki")
    assert signer.issuer_der == ca.subject_der
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert signer.key_identifier == identifier
    assert not signer.is_indirect
    assert signer.not_after == int(ca.certificate.not_valid_after_utc.timestamp())
    assert signer.warnings == ()


def test_a_key_identifier_is_never_worked_out_anew(ca: PKI) -> None:
    """CRL-06: however the CA chose it, it stands in every CRL."""
    write_pem(ca.directory / "ca.pem", made(ca, ca.key, ca.certificate.subject))
    assert opened(ca.directory).key_identifier == b"identifier"
    write_pem(ca.directory / "ca.pem", made(ca, ca.key, ca.certificate.subject, identifier=None))
    assert opened(ca.directory).key_identifier == ca.key_hash


@pytest.mark.parametrize(("usage", "profile"), [("key_cert_sign", "private"), (None, "etsi"), (None, "webpki")])
@pytest.mark.clause("RFC 5280", "4.2.1.3", "MUST")
def test_a_key_that_may_not(ca: PKI, usage: str | None, profile: str) -> None:
    """CRL-10: keyUsage must assert cRLSign; what is wrong is one line."""
    write_pem(ca.directory / "ca.pem", made(ca, ca.key, ca.certificate.subject, usage=usage))
    with pytest.raises(ConfigError, match=r"ca\[corp\]\.certificate: .* lacks cRLSign \(RFC 5280 §4\.2\.1\.3\)"):
        opened(ca.directory, profile=profile)


def test_an_old_private_root(ca: PKI) -> None:
    """RFC 5280 §6.3.3 (f): without keyUsage nothing is denied; it is said."""
    write_pem(ca.directory / "ca.pem", made(ca, ca.key, ca.certificate.subject, usage=None))
    assert "no keyUsage" in opened(ca.directory).warnings[0]


def test_another_key_signs(ca: PKI) -> None:
    """With the CA's name it signs the CA's CRLs, with its own name indirect ones."""
    key = key_of("p384", "crl")
    write_key(ca.directory / "crl.key", key)
    for subject, indirect in ((ca.certificate.subject, False), (name_of("CRL Issuer"), True)):
        write_pem(ca.directory / "crl.pem", made(ca, key, subject))
        signer = opened(ca.directory, ', certificate = "crl.pem"', key="crl.key")
        assert signer.is_indirect is indirect
        assert signer.key_identifier == b"identifier"
    write_pem(ca.directory / "crl.pem", made(ca, key, name_of("CRL Issuer"), usage="digital_signature"))
    with pytest.raises(ConfigError, match=r"ca\[corp\]\.crl\.certificate: .*crl\.pem.* lacks cRLSign"):
        opened(ca.directory, ', certificate = "crl.pem"', key="crl.key")


def test_the_wrong_key_and_an_old_certificate(ca: PKI) -> None:
    """Key and certificate belong together, and the certificate is in date."""
    write_key(ca.directory / "crl.key", key_of("p384", "crl"))
    with pytest.raises(ConfigError, match=r"not the configured one \(crl\.key\)"):
        opened(ca.directory, key="crl.key")
    write_pem(ca.directory / "ca.pem", made(ca, ca.key, ca.certificate.subject, days=-1))
    with pytest.raises(SignerEnded, match="expired at"):
        opened(ca.directory)


def test_a_key_in_a_token(ca: PKI, softhsm: Callable[..., SoftHSMToken]) -> None:
    """The CA's key in a token signs as one in a file does."""
    token = softhsm()
    token.import_key(ca.key, "ca", b"\x01")
    signer = opened(ca.directory, f', pin_file = "{token.pin_file}"', key=token.uri("ca"))
    assert signer.issuer_der == ca.subject_der
