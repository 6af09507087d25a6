"""crlExtensions of the CRLs that are issued here (RFC 5280 §5.2): values in, DER out, by cryptography's encoders.

Knows no config, no key and no entries. BR §7.2.2 and Microsoft's Next CRL Publish are spelled here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from asn1crypto import core
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from responder.errors import InvariantBroken

MAX_CRL_NUMBER: Final = (1 << 159) - 1  # RFC 5280 §5.2.3: 20 octets at most
NEXT_CRL_PUBLISH: Final = "1.3.6.1.4.1.311.21.4"  # Microsoft's szOID_CRL_NEXT_PUBLISH
EXPIRED_CERTS_ON_CRL: Final = "2.5.29.60"  # X.509 §9.5.2.8; EN 319 411-2 CSS-6.3.10-02


@dataclass(frozen=True, slots=True)
class CRLExtensions:
    """The extensions of one CRL; what is None or empty is left out. Times are POSIX seconds UTC."""

    authority_key_identifier: bytes  # keyIdentifier octets: the issuer's subjectKeyIdentifier as it stands
    number: int
    base_number: int | None = None  # of a delta CRL
    distribution_points: Sequence[str] = ()  # URIs of the issuingDistributionPoint, as in the certificates
    only_users: bool = False
    only_cas: bool = False
    indirect: bool = False
    freshest: Sequence[str] = ()  # URIs of the delta CRL
    expired_certs_since: int | None = None  # expiredCertsOnCRL: what expired since then is still on it
    next_publish: int | None = None

    def to_der(self) -> bytes:
        """Encode them as Extension elements, one behind the other; raises InvariantBroken for what no CRL may say."""
        if not 0 <= self.number <= MAX_CRL_NUMBER:
            raise InvariantBroken(f"cRLNumber {self.number} is not in 0 to 2**159 - 1 (RFC 5280 §5.2.3)")
        if self.only_users and self.only_cas:
            raise InvariantBroken("a CRL with users' certificates only has none of CAs only (RFC 5280 §5.2.5)")
        encoded = [
            _extension(
                x509.AuthorityKeyIdentifier(self.authority_key_identifier, None, None),
                ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
            ),
            _extension(x509.CRLNumber(self.number), ExtensionOID.CRL_NUMBER),
        ]
        if self.base_number is not None:
            if not 0 <= self.base_number < self.number:
                raise InvariantBroken(
                    f"BaseCRLNumber {self.base_number} is not below cRLNumber {self.number} (RFC 5280 §5.2.4)"
                )
            if self.freshest:
                raise InvariantBroken("freshestCRL has no place in a delta CRL (RFC 5280 §5.2.6)")
            encoded.append(
                _extension(x509.DeltaCRLIndicator(self.base_number), ExtensionOID.DELTA_CRL_INDICATOR, critical=True)
            )
        if self.distribution_points or self.only_users or self.only_cas or self.indirect:
            encoded.append(
                _extension(
                    x509.IssuingDistributionPoint(
                        full_name=_uris(self.distribution_points) or None,
                        relative_name=None,
                        only_contains_user_certs=self.only_users,
                        only_contains_ca_certs=self.only_cas,
                        only_some_reasons=None,
                        indirect_crl=self.indirect,
                        only_contains_attribute_certs=False,
                    ),
                    ExtensionOID.ISSUING_DISTRIBUTION_POINT,
                    critical=True,
                )
            )
        if self.freshest:
            # RFC 5280 §5.2.6: distribution points' names alone.
            points = [x509.DistributionPoint(_uris(self.freshest), None, None, None)]
            encoded.append(_extension(x509.FreshestCRL(points), ExtensionOID.FRESHEST_CRL))
        if self.expired_certs_since is not None:
            since = core.GeneralizedTime(datetime.fromtimestamp(self.expired_certs_since, UTC)).dump()
            encoded.append(_raw_extension(EXPIRED_CERTS_ON_CRL, since))
        if self.next_publish is not None:
            encoded.append(_raw_extension(NEXT_CRL_PUBLISH, _time(self.next_publish)))
        return b"".join(encoded)


def authority_key_identifier_of(issuer: x509.Certificate) -> bytes:
    """Return the keyIdentifier that a CRL of this issuer has: its subjectKeyIdentifier, never computed where it has one."""
    try:
        value = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        value = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())  # RFC 5280 §4.2.1.2 (1)
    return value.digest


def encode_time(seconds: int) -> bytes:
    """Encode a Time: UTCTime through 2049, then GeneralizedTime (RFC 5280 §5.1.2.4, §5.1.2.5)."""
    return _time(seconds)


def _time(seconds: int) -> bytes:
    when = datetime.fromtimestamp(seconds, UTC)
    kind = core.UTCTime if when.year < 2050 else core.GeneralizedTime
    return bytes(kind(when).dump())


def _uris(uris: Sequence[str]) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(uri) for uri in uris]


def _extension(value: x509.ExtensionType, oid: x509.ObjectIdentifier, *, critical: bool = False) -> bytes:
    return _raw_extension(oid.dotted_string, value.public_bytes(), critical=critical)


class _Extension(core.Sequence):  # type: ignore[misc]
    _fields: Final = [
        ("extn_id", core.ObjectIdentifier),
        ("critical", core.Boolean, {"default": False}),
        ("extn_value", core.OctetString),
    ]


def _raw_extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return bytes(_Extension({"extn_id": oid, "critical": critical, "extn_value": value}).dump())
