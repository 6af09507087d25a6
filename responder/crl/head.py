"""What a CRL says of itself before and behind its entries, read as far as it can be: of anybody's CRL, also a wrong one.

RFC 5280 §5.1 and §5.2, from the octets that parts.py has cut out. An extension that cannot be read is noted, and the others are read.
Judged by lint.py. reader.py is the strict one, for CRLs that are relied upon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asn1crypto import core, crl, x509

from responder.crl.parts import CRLParts, parse_integer, parse_time

AKI, NUMBER, DELTA, IDP = "2.5.29.35", "2.5.29.20", "2.5.29.27", "2.5.29.28"
FRESHEST, EXPIRED_CERTS, ISSUER_ALT_NAME, AIA = "2.5.29.46", "2.5.29.60", "2.5.29.18", "1.3.6.1.5.5.7.1.1"
NEXT_PUBLISH, CA_VERSION = "1.3.6.1.4.1.311.21.4", "1.3.6.1.4.1.311.21.1"
EXTENSION_NAMES = {
    AKI: "authorityKeyIdentifier",
    ISSUER_ALT_NAME: "issuerAltName",
    NUMBER: "cRLNumber",
    DELTA: "deltaCRLIndicator",
    IDP: "issuingDistributionPoint",
    FRESHEST: "freshestCRL",
    AIA: "authorityInfoAccess",
    EXPIRED_CERTS: "expiredCertsOnCRL",
    NEXT_PUBLISH: "Microsoft Next CRL Publish",
    CA_VERSION: "Microsoft CA Version",
}
# asn1crypto's names of ReasonFlags (RFC 5280 §4.2.1.13), whose bits 7 and 8 are CRLReason 9 and 10.
_REASON_FLAGS = {
    "key_compromise": 1,
    "ca_compromise": 2,
    "affiliation_changed": 3,
    "superseded": 4,
    "cessation_of_operation": 5,
    "certificate_hold": 6,
    "privilege_withdrawn": 9,
    "aa_compromise": 10,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """The issuingDistributionPoint: which certificates the CRL is about. ``urls``: fullName's, octet by octet."""

    urls: tuple[str, ...] = ()
    other_names: int = 0  # names in fullName that are no URLs
    only: tuple[str, ...] = ()  # the flags that are set, such as onlyContainsUserCerts
    reasons: frozenset[int] | None = None  # onlySomeReasons, by CRLReason; None: all
    indirect: bool = False
    empty: bool = False  # an empty SEQUENCE


@dataclass(frozen=True, slots=True)
class Head:
    """What a CRL says of itself before and behind its entries. Times are POSIX seconds; None: absent, or unreadable."""

    parts: CRLParts
    this_update: int
    next_update: int | None
    number: int | None
    base_number: int | None
    authority_key: bytes | None
    names_issuer: bool  # authorityKeyIdentifier has authorityCertIssuer or authorityCertSerialNumber
    scope: Scope | None  # None: no issuingDistributionPoint
    freshest: tuple[str, ...]
    freshest_is_plain: bool  # freshestCRL has neither reasons nor cRLIssuer
    next_publication: int | None
    expired_since: int | None
    unreadable: tuple[tuple[str, str], ...]  # extension, and what is wrong with it

    @property
    def is_delta(self) -> bool:
        """Say whether it calls itself a delta CRL."""
        return bool(self.parts.values(DELTA))


def read_head(parts: CRLParts) -> Head:
    """Read the values of a CRL's head; an extension that cannot be read is noted. Raises ValueError for a wrong time."""
    unreadable: list[tuple[str, str]] = []

    def value(oid: str, parse: Callable[[bytes], Any]) -> Any:
        for extension in parts.values(oid)[:1]:
            try:
                return parse(extension.value)
            except (ValueError, TypeError, KeyError) as error:
                unreadable.append((oid, str(error).splitlines()[0]))
        return None

    key_id, names_issuer = value(AKI, _parse_key_identifier) or (None, False)
    freshest, is_plain = value(FRESHEST, _parse_freshest) or ((), True)
    return Head(
        parts=parts,
        this_update=parse_time(parts.this_update_der),
        next_update=None if parts.next_update_der is None else parse_time(parts.next_update_der),
        number=value(NUMBER, parse_integer),
        base_number=value(DELTA, parse_integer),
        authority_key=key_id,
        names_issuer=names_issuer,
        scope=value(IDP, _parse_scope),
        freshest=freshest,
        freshest_is_plain=is_plain,
        next_publication=value(NEXT_PUBLISH, parse_time),
        expired_since=value(EXPIRED_CERTS, parse_time),
        unreadable=tuple(unreadable),
    )


def _parse_key_identifier(der: bytes) -> tuple[bytes | None, bool]:
    identifier = x509.AuthorityKeyIdentifier.load(der, strict=True)
    others = ("authority_cert_issuer", "authority_cert_serial_number")
    key_id = identifier["key_identifier"]
    return (
        None if isinstance(key_id, core.Void) else bytes(key_id.native),
        not all(isinstance(identifier[name], core.Void) for name in others),
    )


def _parse_scope(der: bytes) -> Scope:
    point = crl.IssuingDistributionPoint.load(der, strict=True)
    names = []
    place = point["distribution_point"]
    if not isinstance(place, core.Void) and place.name == "full_name":
        names = list(place.chosen)
    reasons = point["only_some_reasons"]
    return Scope(
        urls=tuple(_url(name) for name in names if name.name == "uniform_resource_identifier"),
        other_names=sum(name.name != "uniform_resource_identifier" for name in names),
        only=tuple(
            flag
            for flag, key in (
                ("onlyContainsUserCerts", "only_contains_user_certs"),
                ("onlyContainsCACerts", "only_contains_ca_certs"),
                ("onlyContainsAttributeCerts", "only_contains_attribute_certs"),
            )
            if point[key].native
        ),
        reasons=None if isinstance(reasons, core.Void) else _reasons(reasons),
        indirect=bool(point["indirect_crl"].native),
        empty=not point.contents,
    )


def _reasons(flags: Any) -> frozenset[int]:
    return frozenset(_REASON_FLAGS[name] for name in flags.native if name in _REASON_FLAGS)


def _parse_freshest(der: bytes) -> tuple[tuple[str, ...], bool]:
    urls: list[str] = []
    is_plain = True
    for point in x509.CRLDistributionPoints.load(der, strict=True):
        place = point["distribution_point"]
        is_plain &= isinstance(point["reasons"], core.Void) and isinstance(point["crl_issuer"], core.Void)
        if not isinstance(place, core.Void) and place.name == "full_name":
            urls += [_url(name) for name in place.chosen if name.name == "uniform_resource_identifier"]
    return tuple(urls), is_plain


def _url(name: Any) -> str:
    # asn1crypto's own value would be normalised; what counts are the octets.
    return bytes(name.chosen.contents).decode("latin-1")


def extension_name(oid: str) -> str:
    """Name an extension, or give its identifier."""
    return EXTENSION_NAMES.get(oid, f"extension {oid}")
