"""Whether a CRL that somebody else made is to be believed: who signed it, for when it is, and what it follows.

RFC 5280 §5.1.2.3 (issuer), §5.2.1 (authorityKeyIdentifier), §5.2.3 (numbers), §5.2.4 (deltas), §5.2.5 (scope), §6.3.3 (which CRL
may be used).
Every refusal is one CRLError line with the file and the clause. Called by mirror.py and loaders/crl.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from responder.clock import format_utc
from responder.crl.reader import CRLFile
from responder.issuers import subject_and_key

AHEAD_S = 300  # how far a thisUpdate may lie ahead of our clock: clocks differ
_IDP = ExtensionOID.ISSUING_DISTRIBUTION_POINT.dotted_string


@dataclass(frozen=True, slots=True)
class CRLSigner:
    """Whose signature a CRL must have: the CA, or whoever signs its CRLs."""

    name_der: bytes  # Name, as it stands in the certificate
    public_key: PublicKeyTypes
    key_identifier: bytes | None  # subjectKeyIdentifier, where the certificate has one

    @classmethod
    def of(cls, certificate_der: bytes) -> CRLSigner:
        """Read a certificate; raises ValueError where it cannot be read, or its key may not sign CRLs."""
        certificate = x509.load_der_x509_certificate(certificate_der)
        key_identifier: bytes | None = None
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.KeyUsage) and not extension.value.crl_sign:
                raise ValueError("its keyUsage does not assert cRLSign (RFC 5280 §4.2.1.3)")
            if isinstance(extension.value, x509.SubjectKeyIdentifier):
                key_identifier = extension.value.digest
        return cls(subject_and_key(certificate)[0], certificate.public_key(), key_identifier)


def name_text(name_der: bytes) -> str:
    """Spell a Name for people; in hex where it cannot be read."""
    try:
        return str(asn1.Name.load(name_der, strict=True).human_friendly)
    except (ValueError, TypeError):
        return name_der.hex()[:200]


def is_same_name(one_der: bytes, other_der: bytes) -> bool:
    """Compare two Names as RFC 5280 §7.1 does: by their characters, without case and repeated spaces, whatever the string type.

    Where it matters that an entry may be ours, equal in that sense is equal.
    """
    if one_der == other_der:
        return True
    try:
        return bool(asn1.Name.load(one_der, strict=True) == asn1.Name.load(other_der, strict=True))
    except (ValueError, TypeError):
        return False


def check_origin(crl: CRLFile, signer: CRLSigner) -> None:
    """Prove that it is the signer's own; raises CRLError. Reads the whole file once, for the signature."""
    # Byte for byte (CRL-03): clients that search by the name's hash would not find it otherwise.
    if crl.issuer != signer.name_der:
        raise crl.error(
            f"its issuer is {name_text(crl.issuer)!r}, and must be {name_text(signer.name_der)!r}, octet for octet (RFC 5280 §5.1.2.3)"
        )
    identifier = crl.authority_key_identifier
    if identifier is not None and signer.key_identifier not in (None, identifier):
        raise crl.error(
            f"its authorityKeyIdentifier {identifier.hex()} names another key than the signer's {(signer.key_identifier or b'').hex()} (RFC 5280 §5.2.1)"
        )
    if not crl.is_signed_by(signer.public_key):
        raise crl.error(f"its signature is not that of {name_text(signer.name_der)!r} (RFC 5280 §6.3.3)")


def check_times(crl: CRLFile, now: float) -> None:
    """Refuse times that cannot be; one whose nextUpdate has passed is let by. Raises CRLError."""
    if crl.this_update > now + AHEAD_S:
        raise crl.error(f"its thisUpdate {format_utc(crl.this_update)} lies ahead (RFC 5280 §5.1.2.4)")
    if crl.next_update is not None and crl.next_update <= crl.this_update:
        raise crl.error(f"its nextUpdate {format_utc(crl.next_update)} is not after its thisUpdate (RFC 5280 §5.1.2.5)")


def check_kind(crl: CRLFile, *, is_delta: bool) -> None:
    """Refuse a delta CRL in place of a full one and the other way round, and a delta that cannot be placed. Raises CRLError."""
    if not is_delta:
        if crl.base_number is not None:
            raise crl.error("it is a delta CRL (deltaCRLIndicator), and a full one belongs here (RFC 5280 §5.2.4)")
        return
    if crl.base_number is None:
        raise crl.error("it is no delta CRL: it has no deltaCRLIndicator (RFC 5280 §5.2.4)")
    if crl.number is None:
        raise crl.error("it is a delta CRL without cRLNumber (RFC 5280 §5.2.3)")
    if crl.base_number > crl.number:
        raise crl.error(f"its BaseCRLNumber {crl.base_number} is above its cRLNumber {crl.number} (RFC 5280 §5.2.4)")


def check_follows(crl: CRLFile, number: int | None, this_update: int) -> None:
    """Refuse one that is older than another of its series that was believed already. Raises CRLError.

    RFC 5280 §5.2.3: numbers increase, and with them the dates. Whoever can replay an old CRL would undo revocations.
    """
    if number is not None and crl.number is not None and crl.number < number:
        raise crl.error(f"its cRLNumber {crl.number} is below {number}, which was read before (RFC 5280 §5.2.3)")
    if crl.this_update < this_update:
        raise crl.error(
            f"its thisUpdate {format_utc(crl.this_update)} is before {format_utc(this_update)}, which was read before (RFC 5280 §5.2.3)"
        )
    if number is not None and crl.number is None:
        raise crl.error(f"it has no cRLNumber, and {number} was read before (RFC 5280 §5.2.3)")


def scope_of(crl: CRLFile) -> bytes:
    """Return the value of its issuingDistributionPoint, DER; empty: it has none, and is of all certificates."""
    extension = crl.extensions.get(_IDP)
    return b"" if extension is None else extension.value


def scope_text(scope_der: bytes) -> str:
    """Spell an issuingDistributionPoint for people: its URLs where it names any."""
    if not scope_der:
        return "none"
    found = re.findall(rb"(?:https?|ldap)://[!-~]+", scope_der)
    return " ".join(url.decode() for url in found) or scope_der.hex()[:200]


def is_same_place(one_der: bytes, other_der: bytes, url: str | None) -> bool:
    """Say whether two scopes are of the same certificates: equal, or both name ``url`` and differ in other names alone.

    RFC 5280 §6.3.3 (b) (2): it is enough that one name is the certificate's. A CA adds one for its next certificates.
    """
    if one_der == other_der or url is None:
        return one_der == other_der
    try:
        one, other = (asn1_crl.IssuingDistributionPoint.load(der, strict=True) for der in (one_der, other_der))
        kinds = [{**point.native, "distribution_point": None} for point in (one, other)]
        names = [point["distribution_point"].native or [] for point in (one, other)]
    except (ValueError, TypeError):  # one has none
        return False
    return kinds[0] == kinds[1] and all(url in some for some in names)


def check_scope(crl: CRLFile, url: str | None, taken: Mapping[bytes, str] | None) -> None:
    """Refuse a CRL of other certificates than those whom its place is for, as far as that can be seen. Raises CRLError.

    RFC 5280 §5.2.5, §6.3.3 (b) (2) (i); BR §7.2.2.1. ``url``: the one in the certificates, where that is known. ``taken``: the
    scopes of the CA's other shards, with their names; None: it has no shards. Where it was fetched says nothing of it: proxies
    and load balancers rename. AD CS names nothing, or directories; another name may then be the one that certificates have.
    """
    scope, point = scope_of(crl), crl.issuing_distribution_point
    if taken is not None:
        if not scope:
            raise crl.error("it has no issuingDistributionPoint, so it is no shard (RFC 5280 §5.2.5)")
        if scope in taken:
            raise crl.error(f"its issuingDistributionPoint {scope_text(scope)} is that of shard {taken[scope]}")
    names = [] if point is None else point.full_name or []
    urls = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    over_http = [one for one in urls if one.lower().startswith(("http://", "https://"))]
    if url is not None and url.startswith("http") and over_http and url not in over_http:
        raise crl.error(
            f"its issuingDistributionPoint names {' '.join(over_http)}, and not crl.url {url}, octet for octet, as clients demand (RFC 5280 §6.3.3)"
        )


def why_not_combined(full: CRLFile, delta: CRLFile) -> str | None:
    """Say why a delta CRL cannot be combined with a full one; None: it can. An empty text: the full one is as new.

    RFC 5280 §5.2.4 (a) to (d): same issuer and scope, same key, and the full one's number within base and delta.
    """
    assert delta.number is not None and delta.base_number is not None  # noqa: S101, PT018 - check_kind saw to it
    if full.issuer != delta.issuer or full.authority_key_identifier != delta.authority_key_identifier:
        return "it is of another issuer or key than the full CRL"
    if scope_of(full) != scope_of(delta):
        return "its issuingDistributionPoint is not the full CRL's"
    if full.number is None:
        return "the full CRL has no cRLNumber"
    if full.number >= delta.number:
        return ""
    if full.number < delta.base_number:
        return f"it builds on full CRL {delta.base_number}, and {full.number} is the one at hand"
    if delta.this_update < full.this_update:
        return "it is dated before the full CRL"
    return None
