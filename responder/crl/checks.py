"""What a CRL must pass before it is published: read again from the disk, as a client would, by code that did not write it.

Each check has a name and a clause; the first that fails is the reason of a PublicationRefused, and the CRL that is published
stays. RFC 5280 §5, BR §7.2, EN 319 411-1. Called by the publisher; knows no Redis: what it must ask, it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fastpath.crl_compare import Changes, EntriesDiffer, compare_entries
from fastpath.crl_decode import Entry, EntryError
from fastpath.crl_entries import Terms
from responder.clock import format_utc
from responder.crl.independent import independent_parse
from responder.crl.published import NO_NEXT_UPDATE
from responder.crl.reader import CRLFile
from responder.errors import CRLError, PublicationRefused
from responder.model import CertStatus, CRLReason, Status

GONE_AT_ONCE = 1_000
IDP_OID = "2.5.29.28"
FRESHEST_OID = "2.5.29.46"

# Returns the store's status texts of serials, in order; None: not known.
Lookup = Callable[[list[bytes]], list[str | None]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a CRL must say. Times are POSIX seconds UTC.

    ``longest_s``: the most that nextUpdate may be after thisUpdate. ``distribution_points``, ``only_users``, ``only_cas``
    and ``indirect`` make the issuingDistributionPoint. ``chunks`` gives the store's records anew, ``terms`` those on which
    they became entries. ``let_go``: serials that the operator lets go.
    """

    issuer_der: bytes
    public_key_der: bytes
    algorithm_der: bytes
    key_identifier: bytes
    number: int
    base_number: int | None
    this_update: int
    next_update: int
    longest_s: int
    now: float
    terms: Terms
    chunks: Callable[[], Iterable[bytes]]
    lookup: Lookup
    distribution_points: tuple[str, ...] = ()
    only_users: bool = False
    only_cas: bool = False
    indirect: bool = False
    freshest: tuple[str, ...] = ()
    let_go: frozenset[bytes] = field(default_factory=frozenset)

    @property
    def public_key(self) -> PublicKeyTypes:
        """The key that must have signed."""
        return load_der_public_key(self.public_key_der)


@dataclass(frozen=True, slots=True)
class Subject:
    """A CRL under check. ``previous``: what it replaces; ``base``: the complete CRL that a delta builds upon.

    ``is_foreign``: the previous one was issued by the CA itself, whose scope was its own business.
    """

    path: Path
    crl: CRLFile
    expected: Expected
    previous: CRLFile | None
    base: CRLFile | None
    is_foreign: bool
    signed: Future[bool]
    counted: list[int] = field(default_factory=list)  # by the parser that is not ours


def check_before_publication(
    path: Path,
    expected: Expected,
    *,
    previous: CRLFile | None = None,
    base: CRLFile | None = None,
    is_foreign: bool = False,
) -> None:
    """Check the CRL in ``path``; raises PublicationRefused, one line that names the check and its clause."""
    try:
        crl = CRLFile.open(path)
    except CRLError as error:
        raise PublicationRefused("der", CHECKS["der"], str(error)) from error
    with crl, ThreadPoolExecutor(1) as beside:  # the CRL is hashed while another parser reads it
        signed = beside.submit(crl.is_signed_by, expected.public_key)
        subject = Subject(path, crl, expected, previous, base, is_foreign, signed)
        for name, clause in CHECKS.items():
            try:
                problem = _FUNCTIONS[name](subject)
            except (CRLError, EntryError) as error:
                problem = str(error)
            if problem is not None:
                raise PublicationRefused(name, clause, problem)


# The order is that of cost; each name is a metric's label, each clause what an operator reads first.
CHECKS = {
    "der": "RFC 5280 §5.1, X.690",
    "issuer": "RFC 5280 §5.1.2.3",
    "algorithm": "RFC 5280 §5.1.1.2, BR §7.1.3.2",
    "authority_key_identifier": "RFC 5280 §5.2.1",
    "number": "RFC 5280 §5.2.3, BR §7.2.2",
    "times": "RFC 5280 §5.1.2.4, §5.1.2.5, BR §7.2",
    "scope": "RFC 5280 §5.2.5, BR §7.2.2.1",
    "freshest": "RFC 5280 §5.2.6",
    "base": "RFC 5280 §5.2.4",
    "signature": "RFC 5280 §5.1.1.3",
    "entries": "RFC 5280 §5.1.2.6, §5.3, BR §7.2",
    "predecessor": "RFC 5280 §3.3, BR §4.10.1, EN 319 411-1 REV-6.3.9-04",
    "profile": "RFC 5280 §5",
}


def _der(subject: Subject) -> str | None:
    """CRL-08: one CertificateList in DER and nothing behind it, to two parsers of which one is not ours."""
    parsed = independent_parse(subject.path)
    if int(parsed.crl.last_update_utc.timestamp()) != subject.crl.this_update:
        return "two parsers read two different values of thisUpdate"
    subject.counted.append(parsed.entries)
    return None


def _issuer(subject: Subject) -> str | None:
    """CRL-03: the octets of the certificate's subject."""
    if subject.crl.issuer != subject.expected.issuer_der:
        return "the issuer is not octet for octet the subject of the signer's certificate"
    return None


def _algorithm(subject: Subject) -> str | None:
    """CRL-02: the reader has compared tbsCertList's with the one beside the signature."""
    found = subject.crl.signature_algorithm
    if found != subject.expected.algorithm_der:
        return f"its signature algorithm is {found.hex()}, and the key's is {subject.expected.algorithm_der.hex()}"
    return None


def _authority_key_identifier(subject: Subject) -> str | None:
    """CRL-06."""
    found = subject.crl.authority_key_identifier
    if found != subject.expected.key_identifier:
        return f"the keyIdentifier is {found.hex() if found else 'absent'}, and must be {subject.expected.key_identifier.hex()}"
    return None


def _number(subject: Subject) -> str | None:
    """CRL-07, DLT-03: there, as it was reserved, and larger than any before it."""
    number, previous = subject.crl.number, subject.previous
    if number is None or number != subject.expected.number:
        return f"cRLNumber is {number}, and must be {subject.expected.number}"
    if number.bit_length() > 159:
        return "cRLNumber has more than 20 octets"
    if previous is not None and previous.number is not None and number <= previous.number:
        return f"cRLNumber {number} is not larger than {previous.number}, which is published"
    return None


def _times(subject: Subject) -> str | None:
    """TIM, BR-08: thisUpdate not ahead and not before the last one's, nextUpdate after it and within bounds."""
    crl, expected = subject.crl, subject.expected
    this_update, next_update = crl.this_update, crl.next_update
    if this_update != expected.this_update or this_update > expected.now:
        return (
            f"thisUpdate is {format_utc(this_update)}, and must be {format_utc(expected.this_update)} and not lie ahead"
        )
    if next_update is None or next_update != expected.next_update or next_update <= this_update:
        said = "absent" if next_update is None else format_utc(next_update)
        return f"nextUpdate is {said}, and must be {format_utc(expected.next_update)}, after thisUpdate"
    if next_update <= expected.now:
        return f"nextUpdate {format_utc(next_update)} has passed already"
    if next_update != NO_NEXT_UPDATE and next_update - this_update > expected.longest_s:
        return f"nextUpdate is {next_update - this_update} s after thisUpdate, and may be {expected.longest_s} s"
    if subject.previous is not None and this_update < subject.previous.this_update:
        return f"thisUpdate is before {format_utc(subject.previous.this_update)}, that of the CRL that is published"
    return None


def _scope(subject: Subject) -> str | None:
    """IDP-01 to IDP-04, DLT-02: the issuingDistributionPoint is what the configuration says, and never changes."""
    expected, point = subject.expected, subject.crl.issuing_distribution_point
    flags = (expected.only_users, expected.only_cas, expected.indirect)
    if point is None:
        if expected.distribution_points or any(flags):
            return "it lacks its issuingDistributionPoint"
    else:
        if not subject.crl.extensions[IDP_OID].critical:
            return "its issuingDistributionPoint is not critical"
        uris = tuple(name.value for name in point.full_name or () if isinstance(name, x509.UniformResourceIdentifier))
        if uris != expected.distribution_points or len(uris) != len(point.full_name or ()):
            return f"its issuingDistributionPoint names {', '.join(uris) or 'no URL'}, and must name {', '.join(expected.distribution_points) or 'none'}"
        if flags != (point.only_contains_user_certs, point.only_contains_ca_certs, point.indirect_crl):
            return "the flags of its issuingDistributionPoint are not those of its scope"
        if point.only_contains_attribute_certs or point.only_some_reasons:
            return "its issuingDistributionPoint narrows its scope by more than the configuration does"
    published = None if subject.is_foreign else subject.previous
    for other, what in ((published, "the CRL that is published"), (subject.base, "its base")):
        if other is not None and _value(other, IDP_OID) != _value(subject.crl, IDP_OID):
            return f"its issuingDistributionPoint is not that of {what}: certificates never change their CRL"
    return None


def _freshest(subject: Subject) -> str | None:
    """DLT-07: complete CRLs say where deltas are; deltas do not."""
    extension = subject.crl.extensions.get(FRESHEST_OID)
    if subject.crl.freshest != subject.expected.freshest:
        return f"freshestCRL names {', '.join(subject.crl.freshest) or 'nothing'}, and must name {', '.join(subject.expected.freshest) or 'nothing'}"
    if extension is not None and (extension.critical or subject.crl.base_number is not None):
        return "freshestCRL is critical, or in a delta CRL"
    return None


def _base(subject: Subject) -> str | None:
    """DLT-01: a delta builds upon a complete CRL that was published, of the same issuer."""
    found, wanted = subject.crl.base_number, subject.expected.base_number
    if found != wanted:
        return f"BaseCRLNumber is {found}, and must be {wanted}"
    if wanted is None:
        return None
    base = subject.base
    if base is None or base.number is None or base.number < wanted:
        return f"no complete CRL with the number {wanted} or a later one is published"
    if base.base_number is not None:
        return "its base is no complete CRL"
    if base.issuer != subject.crl.issuer or base.authority_key_identifier != subject.crl.authority_key_identifier:
        return "its base is of another issuer or key"
    return None


def _signature(subject: Subject) -> str | None:
    """The signature verifies with the key of the certificate."""
    return None if subject.signed.result() else "the signature does not verify"


def _entries(subject: Subject) -> str | None:
    """ENT-01 to ENT-06, IDP-07: exactly the store's records, in order, each serial once."""
    reader = subject.crl.entry_reader()
    try:
        count = compare_entries(reader, subject.expected.chunks(), subject.expected.terms)
    except EntriesDiffer as error:
        return str(error)
    if subject.counted != [count]:
        return f"one parser counts {count} entries, the other {subject.counted[0]}"
    return next(iter(sorted(reader.faults)), None)


def _predecessor(subject: Subject) -> str | None:
    """CRL-09, ETS-06, DLT-06: what was listed is listed, or gone for a reason that can be stated."""
    previous, expected = subject.previous, subject.expected
    if previous is None:
        return None
    if expected.base_number is not None and previous.base_number != expected.base_number:
        return None  # what the earlier delta listed is in the newer base, whose own predecessor has seen to that
    gone = (
        change.before
        for change in Changes(previous.entry_reader(), subject.crl.entry_reader())
        if change.before is not None and change.after is None and change.serial_octets not in expected.let_go
    )
    while some := list(islice(gone, GONE_AT_ONCE)):
        texts = expected.lookup([entry.serial_octets for entry in some])
        for entry, text in zip(some, texts, strict=True):
            if (problem := why_not_gone(entry, text, expected)) is not None:
                return f"serial {entry.serial_octets.hex()} is not on it any more, and was on number {previous.number}: {problem}"
    return None


def why_not_gone(entry: Entry, text: str | None, expected: Expected) -> str | None:
    """Say why an entry may not be gone whose status text in the store is now ``text``; None: it may."""
    if text is None:
        return "no status of it is known"
    status = Status.from_text(text)
    if status.at(expected.now) is CertStatus.REVOKED:
        drop = expected.terms.drop_expired_before
        if status.not_after is not None and drop >= 0 and status.not_after < drop:
            return None  # it has expired, and was shown once more
        return "it is revoked"
    if entry.reason in (CRLReason.CERTIFICATE_HOLD, CRLReason.REMOVE_FROM_CRL):
        return None  # released
    return (
        f"it is good, and was revoked for good; revoke it again: revocast revoke -c FILE {entry.serial_octets.hex()}, "
        f"or if it never should have been listed: revocast crl now -c FILE --ca NAME --let-go {entry.serial_octets.hex()}"
    )


def _profile(subject: Subject) -> str | None:
    """Nothing that RFC 5280 wants otherwise, though it can be understood."""
    return subject.crl.faults[0] if subject.crl.faults else None


def _value(crl: CRLFile, oid: str) -> bytes | None:
    extension = crl.extensions.get(oid)
    return extension.value if extension is not None else None


_FUNCTIONS: dict[str, Callable[[Subject], str | None]] = {
    "der": _der,
    "issuer": _issuer,
    "algorithm": _algorithm,
    "authority_key_identifier": _authority_key_identifier,
    "number": _number,
    "times": _times,
    "scope": _scope,
    "freshest": _freshest,
    "base": _base,
    "signature": _signature,
    "entries": _entries,
    "predecessor": _predecessor,
    "profile": _profile,
}
