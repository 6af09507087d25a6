"""What the entries of a CA's CRLs say of its certificates: a full CRL, what its delta changes, and whose entries they are.

Entries stream by; in memory are those of the delta alone. RFC 5280 §5.2.4 and §5.2.5 (what a CRL is a list of), §5.3 (entries).
Called by loaders/crl.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography import x509

from fastpath.crl_decode import Entry, EntryError
from fastpath.crl_rows import read_rows
from loaders.base import Batch, Row, RowRejected
from loaders.discovery import MAX_ISSUERS
from responder.clock import format_utc
from responder.crl.acceptance import is_same_name, name_text
from responder.crl.reader import CRLFile
from responder.model import CertStatus, CRLReason, Status

BATCH_ROWS = 10_000
MAX_DELTA_ENTRIES = 1_000_000  # some 150 MB; a delta of more is a full CRL by another name
Scope = Literal["all", "users", "cas"]
_HOLD = f" {CRLReason.CERTIFICATE_HOLD.asn1_name}"
# RFC 5280 §5.2.5: all that onlySomeReasons can name; what it leaves out is in another CRL.
_ALL_REASONS = frozenset(x509.ReasonFlags) - {x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl}


def check_scopes(crls: Sequence[CRLFile], subject_der: bytes, scope: Scope, *, is_whole_list: bool) -> None:
    """Prove that together these full CRLs tell of every certificate in ``scope``; raises CRLError.

    RFC 5280 §5.2.5: a CRL may be of one distribution point, of some reasons or of one kind of certificates alone, and then what
    is not in it may well be revoked. ``is_whole_list``: the operator named several, and says that there are no more.
    """
    covered: set[tuple[str, x509.ReasonFlags]] = set()
    for crl in crls:
        point = crl.issuing_distribution_point
        if not is_same_name(crl.issuer, subject_der) and not crl.is_indirect:
            raise crl.error(
                f"its issuer {name_text(crl.issuer)!r} is not the CA, and it is not an indirect CRL (RFC 5280 §5.2.5)"
            )
        if point is not None and point.only_contains_attribute_certs:
            raise crl.error("it is a list of attribute certificates alone (RFC 5280 §5.2.5)")
        names = (point.full_name or point.relative_name) if point is not None else None
        if names and not is_whole_list:
            shown = ", ".join(str(getattr(name, "value", name)) for name in names)
            raise crl.error(
                f"it is the list of one distribution point ({shown[:200]}): name all of the CA's as paths or urls, which says that there are no others (RFC 5280 §5.2.5)"
            )
        kinds = {"users", "cas"}
        if point is not None and point.only_contains_user_certs:
            kinds = {"users"}
        elif point is not None and point.only_contains_ca_certs:
            kinds = {"cas"}
        some = point.only_some_reasons if point is not None else None
        covered |= {(kind, reason) for kind in kinds for reason in (_ALL_REASONS if some is None else some)}
    for kind in ("users", "cas") if scope == "all" else (scope,):
        missing = {reason for reason in _ALL_REASONS if (kind, reason) not in covered}
        if missing == _ALL_REASONS:
            has, other = ("CA", "cas") if kind == "users" else ("user", "users")
            raise crls[0].error(
                f'it is a list of {has} certificates alone (RFC 5280 §5.2.5): name the other list too, or say scope = "{other}" where there are no others'
            )
        if missing:
            raise crls[0].error(
                f"it is a list for some reasons alone, without {', '.join(sorted(reason.value for reason in missing))} (RFC 5280 §5.2.5): name the other lists too, as paths or urls"
            )


def issuers_of(crl: CRLFile) -> dict[bytes, int]:
    """Count a CRL's entries by the issuer (Name DER) of their certificates; its own is there also without any. Raises CRLError."""
    found = {crl.issuer: 0}
    reader = crl.entry_reader()
    try:
        for entries in reader:
            for entry in entries:
                name = entry.certificate_issuer or crl.issuer
                if name in found or len(found) < MAX_ISSUERS:
                    found[name] = found.get(name, 0) + 1
    except EntryError as error:
        raise crl.error(f"entry {reader.count + 1}: {error}") from error
    return found


@dataclass(slots=True)
class _Changes:
    """What a delta CRL says: of each serial its status text, or None where it is no longer on the list."""

    texts: dict[bytes, str | None]
    rejected: list[RowRejected]


class Entries:
    """The entries of one full CRL and of its delta, where there is one, that are this CA's. Read ``batches`` once."""

    def __init__(self, full: CRLFile, delta: CRLFile | None, subject_der: bytes) -> None:
        self._full = full
        self._delta = delta
        self._subject_der = subject_der
        self._ours: dict[bytes, bool] = {}  # by Name DER: few CAs share a CRL

    def batches(self) -> Iterator[Batch]:
        """Yield them as rows; raises CRLError for what makes the whole CRL unusable."""
        changes = self._changes()
        texts = changes.texts
        for batch in self._read(self._full):
            if texts:
                batch.rows = [row for row in batch.rows if row[0] not in texts or self._stays(row, texts)]
            yield batch
        last = Batch([], rejected=changes.rejected)
        for serial, text in texts.items():
            if text is None:
                last.released.append((serial, "good"))
            else:
                last.rows.append((serial, text))
        yield last

    @staticmethod
    def _stays(row: Row, texts: dict[bytes, str | None]) -> bool:
        """Say whether an entry of the full CRL holds though the delta names its serial.

        RFC 5280 §5.3.1: removeFromCRL releases a hold, but is allowed for a certificate that has expired too: that one was
        revoked for good, and is not good for being forgotten.
        """
        if texts[row[0]] is not None or _HOLD in row[1]:
            return False
        del texts[row[0]]
        return True

    def _changes(self) -> _Changes:
        changes = _Changes({}, [])
        if self._delta is None:
            return changes
        for batch in self._read(self._delta):
            changes.texts.update(batch.rows)
            changes.texts.update((serial, None) for serial, _ in batch.released)
            changes.rejected += batch.rejected
            if len(changes.texts) > MAX_DELTA_ENTRIES:
                raise self._delta.error(f"more than {MAX_DELTA_ENTRIES} entries in a delta CRL")
        return changes

    def _read(self, crl: CRLFile) -> Iterator[Batch]:
        """Yield one CRL's entries; its removals, which only a delta may have, as ``released``."""
        is_ca = is_same_name(crl.issuer, self._subject_der)
        reader = crl.entry_reader()
        while True:
            try:
                rows, odd = read_rows(reader, BATCH_ROWS)
            except EntryError as error:
                raise crl.error(f"entry {reader.count + 1}: {error}") from error
            if not rows and not odd:
                return
            batch = Batch(rows if is_ca else [])
            for entry in odd:
                self._take(batch, crl, entry, is_ca)
            yield batch

    def _take(self, batch: Batch, crl: CRLFile, entry: Entry, is_ca: bool) -> None:
        """Decide about one entry that is not of the usual kind."""
        serial = entry.serial_octets
        if entry.unknown_critical is not None:
            # RFC 5280 §5.3: then the CRL must not be used for any certificate.
            raise crl.error(
                f"the entry of serial {serial.hex()} has a critical extension that is not known here (RFC 5280 §5.3)"
            )
        if entry.certificate_issuer is not None:
            if not crl.is_indirect:
                raise crl.error(
                    f"the entry of serial {serial.hex()} names another issuer, but the CRL is not indirect (RFC 5280 §5.3.3)"
                )
            if not self._is_ours(entry.certificate_issuer):
                return
        elif not is_ca:
            return
        if entry.reason == CRLReason.REMOVE_FROM_CRL:
            if crl.base_number is not None:
                batch.released.append((serial, "good"))
            else:
                reason = "removeFromCRL in a full CRL, which says nothing (RFC 5280 §5.3.1)"
                batch.rejected.append(RowRejected(crl.name, f"serial {serial.hex()}", reason, serial))
            return
        reason_code = CRLReason(entry.reason) if entry.reason else None
        if entry.revocation_date < 0:
            text = Status(CertStatus.REVOKED, revoked_at=crl.this_update, reason=reason_code).to_text()
            reason = f"revoked at {format_utc(entry.revocation_date)}, before 1970, which no OCSP response can say"
            batch.rejected.append(RowRejected(crl.name, f"serial {serial.hex()}", reason, serial, text))
            return
        status = Status(
            CertStatus.REVOKED,
            revoked_at=entry.revocation_date,
            reason=reason_code,
            invalidity_date=entry.invalidity_date,
        )
        batch.rows.append((serial, status.to_text()))

    def _is_ours(self, name_der: bytes) -> bool:
        ours = self._ours.get(name_der)
        if ours is None:
            ours = self._ours[name_der] = is_same_name(name_der, self._subject_der)
        return ours
