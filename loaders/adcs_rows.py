"""What a row of the AD CS database means, however it was read: dispositions, issuers, revocations.

Disposition alone decides (CertSrv.h, DB_DISP_*): after a release from hold the dates and the reason of the revocation may
stay in their columns. Called by loaders/adcs.py with rows of adcs_edb.py and certutil.py. Knows no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography import x509

from loaders.base import FoundIssuer
from loaders.certificates import is_issued_by
from loaders.discovery import CertificateIssuers
from loaders.entries import Doubts, Item, RowMaker, reason_from_code, serial_from_hex
from loaders.ownership import CertificateOwner, certificate_expiry, certificate_serial, parse_certificate
from responder.errors import SourceUnavailable
from responder.model import CRLReason

FOREIGN, CA_CERTIFICATE, RECOVERY_AGENT, ISSUED, REVOKED = 12, 15, 17, 20, 21
_NOT_ISSUED = frozenset({8, 9, 30, 31})  # being processed, pending, failed, denied: no certificate
_CA_ROWS = frozenset({CA_CERTIFICATE, 16})  # the CA's own certificate, and its chain
_LISTED = frozenset({FOREIGN, RECOVERY_AGENT, ISSUED, REVOKED})
SAMPLE_EVERY = 256  # rows of which one certificate is compared with its row, once its CA is known: it is slow to read
MAX_CA_CERTIFICATES = 100  # of other generations; each costs a signature for a row that is not ours


@dataclass(slots=True)
class AdcsRow:
    """One request. Times are POSIX seconds; None where the column is empty or, with a doubt, cannot be read.

    ``serial`` is hexadecimal. ``certificate`` reads the DER, None where there is none; it raises ValueError.
    """

    where: str
    disposition: int | None
    serial: str | None
    issuer_name_id: int | None = None  # the CA's version: certificate index, and key index in the high 16 bits
    not_after: int | None = None
    revoked_when: int | None = None  # when somebody did it
    revoked_effective_when: int | None = None  # the date that counts; may lie ahead
    revoked_reason: int | None = None
    doubts: Doubts = field(default_factory=Doubts)
    certificate: Callable[[], bytes | None] = lambda: None


class AdcsJudge:
    """Makes items of the rows of one reading. ``looks_always``: certificates are at hand, so each is looked at."""

    def __init__(self, source: str, owner: CertificateOwner, presumed_at: float, *, looks_always: bool) -> None:
        self._source = source
        self._rows = RowMaker(source, presumed_at)
        self._owner = owner
        self._looks_always = looks_always
        self._is_ours: dict[int | None, bool] = {}  # by IssuerNameID, where a certificate has told
        self._unchecked: set[int | None] = set()  # IssuerNameIDs of rows without a certificate
        self._others: list[x509.Certificate] = []  # the CA's other generations
        self._seen = 0

    def item(self, row: AdcsRow) -> Item | None:
        """Return what a row says of the CA's certificates; None for nothing."""
        disposition, doubts = row.disposition, row.doubts
        if disposition in _NOT_ISSUED:
            return None
        if disposition in _CA_ROWS:
            self._remember(row)
            return None
        if self._is_ours.get(row.issuer_name_id) is False and disposition != FOREIGN:
            return None
        octets = doubts.read("SerialNumber", serial_from_hex, row.serial) if row.serial else None
        if disposition not in _LISTED:
            said = "no disposition" if disposition is None else f"unknown disposition {disposition}"
            return self._rows.rejected(row.where, doubts.problem or said, octets)
        if octets is None:
            doubts.add(f"disposition {disposition}, but no serial")
        not_after = row.not_after
        self._seen += 1
        known = disposition != FOREIGN and row.issuer_name_id in self._is_ours
        if self._looks_always or not known or self._seen % SAMPLE_EVERY == 0:
            certificate = self._certificate_of(row)
            if certificate is None and disposition == FOREIGN:
                return None
            if certificate is not None:
                if not self._is_owned(certificate, row):
                    return None
                octets, not_after = self._compare(certificate, octets, doubts)
        return self._make(row, octets, not_after)

    def check(self) -> None:
        """Raise SourceUnavailable where the rows are not the CA's, or nobody can say whose they are."""
        self._owner.check(self._source)
        if len(self._unchecked) > 1:
            numbers = ", ".join(sorted(map(str, self._unchecked)))
            raise SourceUnavailable(
                f"{self._source}: the CA was renewed (IssuerNameID {numbers}), and without the certificates nobody can say "
                f"which row is whose: add RawCertificate to -out"
            )

    def _make(self, row: AdcsRow, octets: bytes | None, not_after: int | None) -> Item:
        if row.disposition != REVOKED:
            return self._rows.good(row.where, octets, not_after, row.doubts)
        reason = row.doubts.read("RevokedReason", reason_from_code, row.revoked_reason)
        if reason is CRLReason.REMOVE_FROM_CRL:
            row.doubts.add("reason removeFromCRL, but the disposition says revoked")
            reason = None
        revoked_at = row.revoked_effective_when if row.revoked_effective_when is not None else row.revoked_when
        return self._rows.revoked(
            row.where, octets, not_after, row.doubts, revoked_at=revoked_at, reason=reason or CRLReason.UNSPECIFIED
        )

    def _certificate_of(self, row: AdcsRow) -> x509.Certificate | None:
        try:
            der = row.certificate()
            if der is not None:
                return parse_certificate(der)
            self._unchecked.add(row.issuer_name_id)
        except ValueError as error:
            row.doubts.add(f"RawCertificate: {error}")
        return None

    def _is_owned(self, certificate: x509.Certificate, row: AdcsRow) -> bool:
        if self._owner.owns(certificate):
            if row.disposition != FOREIGN:
                self._is_ours[row.issuer_name_id] = True
            return True
        if row.disposition != FOREIGN and any(is_issued_by(certificate, other) for other in self._others):
            self._is_ours[row.issuer_name_id] = False
        return False

    @staticmethod
    def _compare(certificate: x509.Certificate, octets: bytes | None, doubts: Doubts) -> tuple[bytes | None, int]:
        """Return the serial and the expiry of the certificate itself; a row that says another serial is doubtful."""
        own = doubts.read("RawCertificate", certificate_serial, certificate)
        if own is not None and octets is not None and own != octets:
            doubts.add(f"SerialNumber: {octets.hex()}, but its certificate has {own.hex()}")
            own = octets  # nobody knows whose row it is; this one keeps what it has
        return own, certificate_expiry(certificate)

    def _remember(self, row: AdcsRow) -> None:
        """Keep the certificate of another generation of the CA: its rows are then told apart quickly."""
        certificate = self._certificate_of(row)
        ours = self._owner.ca_certificate
        if (
            certificate is not None
            and certificate.public_key() != ours.public_key()
            and len(self._others) < MAX_CA_CERTIFICATES
        ):
            self._others.append(certificate)


def issuers_of(source: str, rows: Iterable[AdcsRow]) -> list[FoundIssuer]:
    """Return the CA's generations, by the certificates that it keeps of itself, and whose certificates the rows are.

    One certificate of each IssuerNameID is read: it tells by its signature whose the others are.
    """
    issuers = CertificateIssuers(source)
    counts: Counter[int | None] = Counter()
    examples: dict[int | None, x509.Certificate] = {}
    for row in rows:
        is_foreign = row.disposition == FOREIGN
        if row.disposition != CA_CERTIFICATE and row.disposition not in _LISTED:
            continue
        if row.disposition in _LISTED and not is_foreign:
            counts[row.issuer_name_id] += 1
            if row.issuer_name_id in examples:
                continue
        certificate = Doubts().read("RawCertificate", _parsed, row)
        if certificate is None:
            continue
        if row.disposition == CA_CERTIFICATE:
            issuers.add_ca(certificate)
        elif is_foreign:
            issuers.add_issued(certificate)
        else:
            examples[row.issuer_name_id] = certificate
    for number, certificate in examples.items():
        issuers.add_issued(certificate, counts[number])
    lone = [
        FoundIssuer(f"IssuerNameID {'none' if number is None else number}, rows without a certificate", None, count)
        for number, count in counts.items()
        if number not in examples
    ]
    return issuers.found() + lone


def _parsed(row: AdcsRow) -> x509.Certificate | None:
    der = row.certificate()
    return None if der is None else parse_certificate(der)
