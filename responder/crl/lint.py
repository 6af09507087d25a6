"""What is wrong with a CRL, by the standards' clauses: anybody's CRL, and more than any one linter finds.

RFC 5280 §5 for all; profile ``webpki``: BR §4.9.7, §7.1.3.2 and §7.2, and the root programmes' rules besides; ``etsi``: EN 319 411.
This is for what head.py reads; lint_entries.py is for entries. Called by ``revocast crl show``. Knows no store and no key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from responder.clock import format_utc
from responder.config_types import DAY_S
from responder.crl.head import AIA, AKI, DELTA, FRESHEST, IDP, ISSUER_ALT_NAME, NUMBER, Head, extension_name
from responder.crl.parts import GENERALIZED_TIME, parse_time
from responder.crl.published import NO_NEXT_UPDATE

Profile = Literal["webpki", "etsi", "private"]
Level = Literal["error", "warning"]

YEAR_2050 = 2_524_608_000
LARGE_BYTES = 10 * 1024 * 1024  # Microsoft Trusted Root Program 3.2.3
MAX_NUMBER_OCTETS = 20  # RFC 5280 §5.2.3
MAX_DAYS = {"users": 10, "cas": 365}  # BR §7.2: 10 days, 12 months

# Extension → whether it must be critical, and the clause.
_CRITICAL = {
    AKI: (False, "RFC 5280 §5.2.1"),
    ISSUER_ALT_NAME: (False, "RFC 5280 §5.2.2"),
    NUMBER: (False, "RFC 5280 §5.2.3"),
    DELTA: (True, "RFC 5280 §5.2.4"),
    IDP: (True, "RFC 5280 §5.2.5"),
    FRESHEST: (False, "RFC 5280 §5.2.6"),
    AIA: (False, "RFC 5280 §5.2.7"),
}
# BR §7.1.3.2: AlgorithmIdentifiers octet by octet: RSASSA-PKCS1-v1_5, RSASSA-PSS and ECDSA, with SHA-256, SHA-384 and SHA-512.
_BR_ALGORITHMS = frozenset(
    bytes.fromhex(text)
    for text in (
        "300d06092a864886f70d01010b0500",
        "300d06092a864886f70d01010c0500",
        "300d06092a864886f70d01010d0500",
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120",
        "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130",
        "304106092a864886f70d01010a3034a00f300d06096086480165030402030500a11c301a06092a864886f70d010108300d06096086480165030402030500a203020140",
        "300a06082a8648ce3d040302",
        "300a06082a8648ce3d040303",
        "300a06082a8648ce3d040304",
    )
)
_RSA_PREFIX = bytes.fromhex("2a864886f70d0101")  # 1.2.840.113549.1.1


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a standard forbids (error) or advises against (warning)."""

    level: Level
    text: str
    clause: str


def lint_head(head: Head, profile: Profile, certificates: str, now: float, size: int) -> Iterator[Problem]:
    """Yield what is wrong with a CRL's head. ``certificates``: users or cas, whom the CRL is about; ``size``: octets."""
    yield from _lint_structure(head)
    yield from _lint_times(head, profile, certificates, now)
    yield from _lint_extensions(head)
    yield from _lint_number(head)
    yield from _lint_scope(head)
    if profile == "webpki":
        yield from _lint_web_pki(head, size)


def _error(text: str, clause: str) -> Problem:
    return Problem("error", text, clause)


def _lint_structure(head: Head) -> Iterator[Problem]:
    parts = head.parts
    if parts.trailing:
        yield _error(f"{parts.trailing} octets follow the CertificateList", "RFC 5280 §5.1; X.690 §8.1")
    if parts.version != 1:
        said = "absent, so version 1" if parts.version is None else f"{parts.version}"
        yield _error(f"version must be v2(1), and is {said}", "RFC 5280 §5.1.2.1; BR §7.2.1")
    if parts.signature_der != parts.signature_algorithm_der:
        yield _error(
            f"signatureAlgorithm ({parts.signature_algorithm_der.hex()}) is not tbsCertList.signature ({parts.signature_der.hex()})",
            "RFC 5280 §5.1.1.2, §5.1.2.2",
        )
    if (
        _RSA_PREFIX in parts.signature_der[:14]
        and parts.signature_der[-2:] != b"\x05\x00"
        and len(parts.signature_der) < 32
    ):
        yield _error("the parameters of an RSA signature's algorithm must be NULL, and are absent", "RFC 4055 §5")
    if parts.issuer_der == b"\x30\x00":
        yield _error("issuer is an empty name", "RFC 5280 §5.1.2.3")
    if parts.revoked is not None and parts.revoked.contents == parts.revoked.end:
        yield _error("revokedCertificates is an empty SEQUENCE; it must be absent", "RFC 5280 §5.1.2.6")


def _lint_times(head: Head, profile: Profile, certificates: str, now: float) -> Iterator[Problem]:
    for name, der, clause in (
        ("thisUpdate", head.parts.this_update_der, "RFC 5280 §5.1.2.4"),
        ("nextUpdate", head.parts.next_update_der, "RFC 5280 §5.1.2.5"),
    ):
        if der is not None and (der[0] == GENERALIZED_TIME) != (parse_time(der) >= YEAR_2050):
            yield _error(f"{name} must be a UTCTime through 2049, a GeneralizedTime from 2050 on", clause)
    if head.this_update > now:
        yield _error(f"thisUpdate {format_utc(head.this_update)} lies ahead", "RFC 5280 §5.1.2.4")
    if head.next_update is None:
        yield _error("nextUpdate is absent", "RFC 5280 §5.1.2.5")
        return
    if head.next_update <= head.this_update:
        yield _error("nextUpdate is not after thisUpdate", "RFC 5280 §5.1.2.5")
    if head.next_update <= now:
        yield Problem("warning", f"nextUpdate {format_utc(head.next_update)} is past", "RFC 5280 §6.3.3")
    if head.next_publication is not None and head.next_publication > head.next_update:
        yield Problem("warning", "Next CRL Publish is after nextUpdate", "Microsoft TRP §3.2.3")
    lasts, most = head.next_update - head.this_update, MAX_DAYS[certificates]
    if profile == "webpki" and lasts > most * DAY_S:
        said = f"{most} days" if most < 365 else "12 months"
        yield _error(f"nextUpdate is {_days(lasts)} after thisUpdate, and may be {said}", "BR §7.2; Mozilla §6")
    if profile == "etsi" and certificates == "cas" and lasts > 366 * DAY_S and head.next_update != NO_NEXT_UPDATE:
        yield _error(f"nextUpdate is {_days(lasts)} after thisUpdate, and may be a year", "EN 319 411-1 CSS-6.3.9-12")


def _days(seconds: int) -> str:
    return f"{seconds / DAY_S:.5f}".rstrip("0").rstrip(".") + " days"


def _lint_extensions(head: Head) -> Iterator[Problem]:
    found = head.parts.extensions
    if found and head.parts.version != 1:
        yield _error("extensions are for version 2", "RFC 5280 §5.1.2.1")
    for oid, count in Counter(extension.oid for extension in found).items():
        if count > 1:
            yield _error(f"{extension_name(oid)} is there {count} times", "RFC 5280 §4.2")
    for extension in found:
        must, clause = _CRITICAL.get(extension.oid, (None, ""))
        if must is not None and extension.critical != must:
            yield _error(f"{extension_name(extension.oid)} must {'' if must else 'not '}be critical", clause)
        elif extension.critical and extension.oid not in _CRITICAL:
            yield _error(
                f"{extension_name(extension.oid)} is critical and not known to clients: they must not use the CRL",
                "RFC 5280 §5.2",
            )
    for oid, problem in head.unreadable:
        yield _error(f"{extension_name(oid)} cannot be read: {problem}", _CRITICAL.get(oid, (None, "RFC 5280 §5.2"))[1])
    unreadable = dict(head.unreadable)
    if not head.parts.values(AKI):
        yield _error("authorityKeyIdentifier is absent", "RFC 5280 §5.2.1")
    elif head.authority_key is None and AKI not in unreadable:
        yield _error("authorityKeyIdentifier has no keyIdentifier", "RFC 5280 §5.2.1")
    if head.is_delta and head.parts.values(FRESHEST):
        yield _error("freshestCRL must not be in a delta CRL", "RFC 5280 §5.2.6")
    if not head.freshest_is_plain:
        yield _error("freshestCRL must have neither reasons nor cRLIssuer", "RFC 5280 §5.2.6")


def _lint_number(head: Head) -> Iterator[Problem]:
    if not head.parts.values(NUMBER):
        what = "cRLNumber is absent" + (
            "; verifiers have crashed on such deltas (CVE-2026-28388)" if head.is_delta else ""
        )
        yield _error(what, "RFC 5280 §5.2.3")
    for name, number in (("cRLNumber", head.number), ("BaseCRLNumber", head.base_number)):
        if number is not None and (number < 0 or number.bit_length() >= 8 * MAX_NUMBER_OCTETS):
            yield _error(f"{name} must be 0 or more, of at most 20 octets", "RFC 5280 §5.2.3; BR §7.2.2")
    if head.number is not None and head.base_number is not None and head.base_number >= head.number:
        yield _error(
            f"BaseCRLNumber {head.base_number} must be less than cRLNumber {head.number}, or no base goes with it",
            "RFC 5280 §5.2.4",
        )


def _lint_scope(head: Head) -> Iterator[Problem]:
    scope = head.scope
    if scope is None:
        return
    clause = "RFC 5280 §5.2.5"
    if scope.empty:
        yield _error("issuingDistributionPoint is an empty SEQUENCE", clause)
    if len(scope.only) > 1:
        yield _error(f"{' and '.join(scope.only)} exclude each other", clause)
    if "onlyContainsAttributeCerts" in scope.only:
        yield _error("onlyContainsAttributeCerts must be FALSE", clause)
    if scope.reasons is not None and not scope.reasons:
        yield _error("onlySomeReasons names no reason", clause)


def _lint_web_pki(head: Head, size: int) -> Iterator[Problem]:
    scope = head.scope
    if head.parts.signature_der not in _BR_ALGORITHMS:
        yield _error(
            f"the signature's AlgorithmIdentifier {head.parts.signature_der.hex()} is not allowed", "BR §7.1.3.2"
        )
    if head.names_issuer:
        yield _error(
            "authorityKeyIdentifier must have keyIdentifier alone, and has authorityCertIssuer or authorityCertSerialNumber",
            "BR §7.1.2.11.1",
        )
    if scope is not None:
        if scope.indirect:
            yield _error("indirectCRL must be FALSE", "BR §7.2.2.1")
        if not scope.urls or scope.other_names:
            yield _error(
                "issuingDistributionPoint must name one or more URLs, and nothing else", "BR §7.2.2.1; Mozilla §5.2"
            )
        for url in scope.urls:
            if not url.startswith("http://"):
                yield _error(
                    f"issuingDistributionPoint names {url}; CRLs are fetched by http://", "BR §4.9.7, §7.2.2.1"
                )
        if scope.reasons is not None:
            yield Problem("warning", "onlySomeReasons should not be used", "BR §7.2.2.1")
    if size > LARGE_BYTES:
        yield Problem(
            "warning",
            f"{size} octets: without OCSP at most 10 MB are advised; shards are smaller",
            "Microsoft TRP §3.2.3",
        )
