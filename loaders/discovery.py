"""Whose certificates a source holds: told by the certificates in it, and said in one line for each issuer.

``CertificateIssuers`` is for ``discover`` of loaders whose sources keep no list of CAs, ``issuer_lines`` for `revocast
sources`. A CA's name is not enough: its generations share it (RFC 6960 §4.1.1 names an issuer by name and key). So issuers
are kept apart by authorityKeyIdentifier (RFC 5280 §4.2.1.1), and which certificate is an issuer's a signature tells. Called
by the loaders and by loaders/cli.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from loaders.base import Discovering, FoundIssuer, Loader
from loaders.certificates import UNREADABLE_EXTENSIONS, is_issued_by
from loaders.ownership import key_id, parse_certificate
from responder.issuers import Issuers, issuer_name, subject_and_key
from responder.log import get_logger

log = get_logger(__name__)

MAX_ISSUERS = 1000  # that are told apart in one source; each certificate of a hostile one may name another
EXAMPLES = 3  # certificates of one issuer that are kept: the first may be forged
MAX_CERTIFICATE_BYTES = 1 << 16  # larger ones tell nothing: thousands are held in memory
MAX_SIGNATURES = 20_000  # that are verified for one source: its CAs may all have one name, and the largest of keys
MAX_NAME = 200  # characters of a name that are shown
_KEY_SHOWN_BYTES = 8  # of a key identifier: enough to tell generations apart


@dataclass(slots=True)
class _Group:
    """Certificates of one issuer name and authorityKeyIdentifier."""

    rows: int = 0
    examples: list[x509.Certificate] = field(default_factory=list)


class CertificateIssuers:
    """Collects the certificates of one reading. ``counts`` False: the source may hold one twice, so that nobody can count."""

    def __init__(self, source: str, *, counts: bool = True) -> None:
        self._source = source
        self._counts = counts
        self._groups: dict[tuple[bytes, bytes | None], _Group] = {}  # by the issuer's Name DER and key identifier
        self._cas: dict[tuple[bytes, bytes], x509.Certificate] = {}  # by subject and key: the latest certificate
        self._is_cut = False
        self._signatures = 0  # that were verified

    def add(self, certificate: x509.Certificate, *, is_ca: bool = False) -> None:
        """Count a certificate under its issuer; that of a CA (``is_ca``: so the source says) is one that may have issued."""
        self.add_issued(certificate)
        if is_ca or is_ca_certificate(certificate):
            self.add_ca(certificate)

    def add_issued(self, certificate: x509.Certificate, rows: int = 1) -> None:
        """Count a certificate, and ``rows`` - 1 others like it, under its issuer."""
        if self._is_too_large(certificate):
            return
        try:
            key = issuer_name(certificate), key_id(certificate, authority=True)
        except ValueError:
            return
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MAX_ISSUERS:
                self._is_cut = True
                return
            group = self._groups[key] = _Group()
        group.rows += rows
        if len(group.examples) < EXAMPLES:
            group.examples.append(certificate)

    def add_ca(self, certificate: x509.Certificate) -> None:
        """Remember the certificate of an issuer; of one that was renewed with its key the latest."""
        if self._is_too_large(certificate):
            return
        try:
            key = subject_and_key(certificate)
        except ValueError:
            return
        known = self._cas.get(key)
        if known is None and len(self._cas) >= MAX_ISSUERS:
            self._is_cut = True
        elif known is None or known.not_valid_before_utc < certificate.not_valid_before_utc:
            self._cas[key] = certificate

    def found(self) -> list[FoundIssuer]:
        """Return the issuers: those whose certificates are here, also where they issued nothing here, and then the others."""
        rows: dict[tuple[bytes, bytes], int | None] = dict.fromkeys(self._cas, 0)
        others: list[FoundIssuer] = []
        for (name_der, identifier), group in self._groups.items():
            issuers = [key for key, ca in self._cas.items() if self._any_issued_by(name_der, group, key[0], ca)]
            # Without key identifiers, or where they lie, nobody can say how many are of which key.
            is_told_apart = len(issuers) == 1 and (identifier is not None or self._keys_of(name_der) == 1)
            for key in issuers:
                so_far = rows[key]
                rows[key] = so_far + group.rows if is_told_apart and so_far is not None else None
            if not issuers:
                example = group.examples[0]
                rows_of_it = group.rows if self._counts else None
                der = example.public_bytes(Encoding.DER)
                others.append(FoundIssuer(name_text(example, of_issuer=True), None, rows_of_it, der))
        if self._is_cut:
            log.warning("issuers_cut", source=self._source, limit=MAX_ISSUERS)
        held = [
            FoundIssuer(
                name_text(ca, of_issuer=False), ca.public_bytes(Encoding.DER), rows[key] if self._counts else None
            )
            for key, ca in self._cas.items()
        ]
        return held + others

    def _is_too_large(self, certificate: x509.Certificate) -> bool:
        if len(certificate.public_bytes(Encoding.DER)) <= MAX_CERTIFICATE_BYTES:
            return False
        self._is_cut = True
        return True

    def _any_issued_by(self, name_der: bytes, group: _Group, subject_der: bytes, ca: x509.Certificate) -> bool:
        if name_der == subject_der:  # else no signature is looked at
            if self._signatures + len(group.examples) > MAX_SIGNATURES:
                self._is_cut, self._counts = True, False
                return False
            self._signatures += len(group.examples)
        return any(is_issued_by(example, ca) for example in group.examples)

    def _keys_of(self, name_der: bytes) -> int:
        return sum(1 for subject_der, _ in self._cas if subject_der == name_der)


def is_ca_certificate(certificate: x509.Certificate) -> bool:
    """Say whether it is a CA's: RFC 5280 §4.2.1.9; without extensions (X.509 v1) one whose subject is its issuer."""
    try:
        if not len(certificate.extensions):
            return certificate.issuer == certificate.subject
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE_EXTENSIONS):
        return False


def name_text(certificate: x509.Certificate, *, of_issuer: bool) -> str:
    """Return a certificate's subject or issuer for people; never raises."""
    try:
        name = certificate.issuer if of_issuer else certificate.subject
        return name.rfc4514_string() or "an empty name"
    except ValueError:
        return "a name that cannot be read"


# --- for people ---------------------------------------------------------------------------------------------------------


def issuer_lines(loader: Loader, issuers: Issuers) -> Iterator[str]:
    """Say whose certificates a loader's source holds, a line each, or why nobody can say; raises SourceUnavailable."""
    found = loader.discover() if isinstance(loader, Discovering) else ()
    if not found:
        empty = "it holds no certificate" if isinstance(loader, Discovering) else "its loader does not look for any"
        yield f"names no issuer: {getattr(loader, 'no_issuers', '') or empty}"
    names = Counter(one.name for one in found)
    for one in found:
        shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in one.name[:MAX_NAME])
        if names[one.name] > 1 and (key := _key_shown(one)):
            shown += f" (key {key}…)"
        if one.rows is not None:
            shown += f", {one.rows} certificate{'' if one.rows == 1 else 's'}"
        yield f"holds {shown}: {_whose(one, issuers)}"


def _whose(found: FoundIssuer, issuers: Issuers) -> str:
    """Say which CA of the configuration it is."""
    certificate = _parsed(found.certificate_der)
    if certificate is not None:
        whose = subject_and_key(certificate)
        names = [one.name for one in issuers if (one.subject_der, one.public_key_octets) == whose]
        return f"configured as {names[0]}" if names else "not configured"
    issued = _parsed(found.issued_der)
    if issued is None:
        return "no certificate"
    names = [one.name for one in issuers if is_issued_by(issued, parse_certificate(one.certificate_der))]
    # The issuer's certificate is not in the source; that of one that is not configured must come from elsewhere.
    return f"configured as {names[0]}, by a signature" if names else "not configured, and its certificate is not there"


def _parsed(der: bytes | None) -> x509.Certificate | None:
    try:
        return None if der is None else parse_certificate(der)
    except ValueError:
        return None


def _key_shown(found: FoundIssuer) -> str:
    certificate = _parsed(found.certificate_der or found.issued_der)
    if certificate is None:
        return ""
    identifier = key_id(certificate, authority=found.certificate_der is None)
    return (identifier or b"")[:_KEY_SHOWN_BYTES].hex()
