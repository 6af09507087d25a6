"""CRLs made by cryptography, in any shape that a test wants: the source's side of what the mirror and the loader read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.pki import PKI, Entity, utc

NOW = 1_795_000_000  # 2026-11-18T11:06:40Z
HOUR_S = 3_600
# serial, POSIX second of its revocation, reason's name as cryptography has it (None: no extension), more extensions
Revoked = tuple[int, int] | tuple[int, int, str | None] | tuple[int, int, str | None, Sequence[x509.ExtensionType]]


def revoked(serial: int, at: int, reason: str | None = None, more: Iterable[Any] = ()) -> x509.RevokedCertificate:
    """Make one entry."""
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(utc(at))
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags[reason]), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.CertificateIssuer))
    return builder.build()


def make_crl(
    ca: PKI,
    entries: Iterable[Revoked] = (),
    *,
    number: int | None = 1,
    base: int | None = None,
    this_update: int = NOW,
    next_update: int = NOW + 24 * HOUR_S,
    idp: x509.IssuingDistributionPoint | None = None,
    more: Iterable[tuple[x509.ExtensionType, bool]] = (),
    signer: Entity | None = None,
    issuer: x509.Name | None = None,
) -> bytes:
    """Return a CRL's DER. ``base`` makes it a delta CRL; ``signer`` signs it in the CA's place, ``issuer`` names another."""
    key = signer or ca
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or key.certificate.subject)
        .last_update(utc(this_update))
        .next_update(utc(next_update))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.certificate.public_key()), False)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), False)
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), True)
    if idp is not None:
        builder = builder.add_extension(idp, True)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    for entry in entries:
        builder = builder.add_revoked_certificate(revoked(*entry))
    return builder.sign(key.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def scope(*urls: str, **flags: Any) -> x509.IssuingDistributionPoint:
    """Make an issuingDistributionPoint; ``flags`` as cryptography names them."""
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier(url) for url in urls] or None,
        **{
            "relative_name": None,
            "only_contains_user_certs": False,
            "only_contains_ca_certs": False,
            "only_some_reasons": None,
            "indirect_crl": False,
            "only_contains_attribute_certs": False,
            **flags,
        },
    )
