"""Reads the database of an EJBCA CA, or of its Validation Authority (docs/loaders/ejbca.md).

CertificateData, NoConflictCertificateData, Base64CertData and CAData as EJBCA's own scripts make them, in MariaDB, MySQL,
PostgreSQL, Oracle and SQL Server. Serials are decimal, times milliseconds since 1970. Which certificates are the CA's is
told by the fingerprint of the issuer's certificate, never by the name alone: generations of a CA share that. Made by
loaders/registry.py, read by loaders/runner.py. RFC 5280 §5.3.1 (CRLReason).
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, Literal

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from loaders.base import Batch, FoundIssuer, LoaderOptions, Rows
from loaders.certificates import is_issued_by
from loaders.columns import certificate_of, shown
from loaders.database import DatabaseOptions, IncrementalDatabaseLoader, unquoted
from loaders.entries import Doubts, Item, RowMaker, reason_from_code, seconds_text, serial_from_decimal
from loaders.normalize import reason_word
from loaders.ownership import certificate_expiry, certificate_serial
from responder.clock import Clock
from responder.errors import SourceUnavailable
from responder.issuers import Issuer, subject_and_key
from responder.log import get_logger
from responder.model import CRLReason

log = get_logger(__name__)

# CertificateConstants of EJBCA: status
GOOD = frozenset(
    (0, 10, 11, 20, 21, 30, 50)
)  # 20 active, 21 told about its expiry; the others are not used for issued ones
REVOKED = 40
ARCHIVED = 60  # expired, and dropped from the CRL: revoked if its reason says so
NOT_REVOKED = -1  # revocationReason
# type: 0 "limited" rows, made from a CRL or by a publisher; 1 end entity, 2 sub CA, 8 root CA. Others are no X.509.
TYPES = (0, 1, 2, 8)
CA_TYPES = (2, 8)
PRECERTIFICATE = "P"  # tag: the final certificate, of the same serial, may have a row of its own
SAMPLE_ROWS = 16  # certificates of one reading that are compared with their rows
MAX_CAS = 10_000
_CHAIN = re.compile(rb"<string>\s*(MII[A-Za-z0-9+/=\s]{100,65536})</string>")
_USUAL_DIGITS = 60  # serials of more go the slow way, where they are bounded

# The usual reasons of a revoked certificate → the word in its status text.
_WORDS = {int(reason): reason_word(reason) for reason in CRLReason if reason is not CRLReason.REMOVE_FROM_CRL} | {
    -1: ""
}


_COLUMNS = (
    "fingerprint",
    "serialNumber",
    "status",
    "revocationReason",
    "revocationDate",
    "expireDate",
    "updateTime",
    "cAFingerprint",
    "invalidityDate",
    "tag",
)
_TAG = _COLUMNS.index("tag")
CERTIFICATES = unquoted("CertificateData", *_COLUMNS, "issuerDN", "subjectDN", "type", "base64Cert")
NO_CONFLICT = unquoted("NoConflictCertificateData", "id", *_COLUMNS, "issuerDN", "type")
BASE64 = unquoted("Base64CertData", "fingerprint", "base64Cert")
CAS = unquoted("CAData", "cAId", "name", "subjectDN", "data")


class EJBCAOptions(DatabaseOptions):
    """The keys of ``source = { type = "ejbca", … }``."""

    lists: Literal["issued", "revoked"] = Field(
        "issued",
        description='"issued": every issued certificate is stored, so a serial that is not there was not issued. "revoked": only revoked ones are, as of CAs without certificate storage and of a VA that is sent no others.',
    )
    issuer_dn: str | None = Field(
        None,
        description="The CA's name as EJBCA writes it in issuerDN; absent: found by the CA's certificate in CertificateData or CAData.",
    )


class EJBCALoader(IncrementalDatabaseLoader):
    """One CA's certificates in an EJBCA database."""

    Options: ClassVar[type[LoaderOptions]] = EJBCAOptions

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        super().__init__(options, issuer, siblings, clock)
        assert isinstance(options, EJBCAOptions)  # noqa: S101 - the registry checks options by our own model
        self._ejbca = options
        self.lists_issued = options.lists == "issued"
        self._certificate = x509.load_der_x509_certificate(issuer.certificate_der)
        self._columns: frozenset[str] = frozenset()
        self._has_no_conflict = False
        self._names: tuple[str, ...] = ()
        self._mine: frozenset[str] = frozenset()
        self._others: frozenset[str] = frozenset()

    # --- whose rows ------------------------------------------------------------------------------------------------

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select the rows of every generation of the CA's name; raises SourceUnavailable where nobody knows the name."""
        if not self._names:
            self._columns = self.columns_of(connection, CERTIFICATES)
            self._has_no_conflict = bool(self.columns_of(connection, NO_CONFLICT))
            self._find_ca(connection)
        return self._select(CERTIFICATES), CERTIFICATES.c.fingerprint

    def _select(self, table: sa.TableClause) -> sa.Select[Any]:
        columns: list[sa.ColumnElement[Any]] = [
            table.c[name] if name.lower() in self._columns else sa.null().label(name) for name in _COLUMNS
        ]
        return sa.select(*columns).where(table.c.issuerDN.in_(self._names), table.c.type.in_(TYPES))

    def _find_ca(self, connection: sa.Connection) -> None:
        """Find the CA's name as EJBCA writes it, and the fingerprints of its certificates and of its other generations."""
        wanted = (self._issuer.subject_der, self._issuer.public_key_octets)
        mine, others = {_fingerprint(self._certificate)}, set()
        names = {self._ejbca.issuer_dn} if self._ejbca.issuer_dn is not None else set()
        for name, certificate in self._cas(connection):
            subject_and_key_octets = subject_and_key(certificate)
            if subject_and_key_octets == wanted:
                mine.add(_fingerprint(certificate))
                names.add(name)
            elif subject_and_key_octets[0] == wanted[0]:
                others.add(_fingerprint(certificate))
        if not names:
            raise SourceUnavailable(
                f"{self.name}: neither CertificateData nor CAData holds the certificate of {self._issuer.subject_text!r}: "
                "is it this CA's database? Where it is, set issuer_dn"
            )
        self._mine, self._others = frozenset(mine), frozenset(others)
        self._names = tuple(sorted(names))

    def _cas(self, connection: sa.Connection) -> Iterator[tuple[str, x509.Certificate]]:
        """Yield name and certificate of every CA in the database, from both places where EJBCA keeps them."""
        table = CERTIFICATES.c
        rows = connection.execute(
            sa.select(table.fingerprint, table.subjectDN, table.base64Cert)
            .where(table.type.in_(CA_TYPES))
            .limit(MAX_CAS)
        ).fetchall()
        for fingerprint, name, blob in rows:
            certificate = _readable(blob or self._separate(connection, fingerprint))
            if certificate is not None and name:
                yield name, certificate
        if not self.columns_of(connection, CAS):
            return
        for name, data in connection.execute(sa.select(CAS.c.subjectDN, CAS.c.data).limit(MAX_CAS)).fetchall():
            text = data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data or b"")
            for found in _CHAIN.findall(text)[:10]:
                certificate = _readable(b64decode(found))
                # The chain holds the CAs above as well; the name is that of the first.
                if certificate is not None and name:
                    yield name, certificate
                    break

    def _separate(self, connection: sa.Connection, fingerprint: str) -> Any:
        """Return a certificate from Base64CertData: database.useSeparateCertificateTable keeps them there."""
        if not self.columns_of(connection, BASE64):
            return None
        return connection.execute(sa.select(BASE64.c.base64Cert).where(BASE64.c.fingerprint == fingerprint)).scalar()

    def discover(self) -> Sequence[FoundIssuer]:
        """Return every CA whose certificate the database holds."""
        with self._database.reading() as connection:
            self._columns = self.columns_of(connection, CERTIFICATES)
            found = {certificate: name for name, certificate in self._cas(connection)}
        return [FoundIssuer(name, certificate.public_bytes(Encoding.DER)) for certificate, name in found.items()]

    # --- rows --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Rows:
        """Read everything in one transaction; the CA's certificates are looked for again."""
        self._names = ()
        return super().snapshot()

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """By updateTime, which EJBCA sets on issuance, revocation, change and release."""
        return statement.where(CERTIFICATES.c.updateTime >= since * 1000).order_by(CERTIFICATES.c.updateTime)

    def changed_at(self, row: Any) -> int:
        """Read updateTime."""
        return int(row[6]) // 1000 if row[6] else 0

    def batch(self, rows: Sequence[Any], make: RowMaker) -> Batch:
        """Take the ordinary rows here and the odd in ``item``, which takes for the same whatever is taken here (a test compares)."""
        batch = Batch([])
        append, append_issued = batch.rows.append, batch.issued.append
        mine, words, text = self._mine, _WORDS, seconds_text
        for row in rows:
            _, serial, status, reason, revoked, expires, _, ca, invalid, tag = row
            try:
                if (
                    ca in mine
                    and expires > 0
                    and len(serial) <= _USUAL_DIGITS
                    and serial.isdigit()
                    and serial.isascii()
                ):
                    number = int(serial)
                    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")
                    if status == 20 or status == 21:
                        good = (octets, f"good exp={text(expires // 1000)}")
                        if tag == PRECERTIFICATE:
                            append_issued(good)
                        else:
                            append(good)
                        continue
                    if status == REVOKED and revoked > 0 and (invalid is None or invalid <= 0) and reason in words:
                        append((octets, f"revoked {text(revoked // 1000)}{words[reason]} exp={text(expires // 1000)}"))
                        continue
            except (ValueError, TypeError):
                pass  # the slow way says what is odd about it
            self.put(row, make, batch)
        return batch

    def put(self, row: Any, make: RowMaker, batch: Batch) -> None:
        """Put into the batch what one row says; a precertificate's says no more than that it was issued, unless it is revoked."""
        if row[_TAG] != PRECERTIFICATE:
            super().put(row, make, batch)
            return
        alone = Batch([])
        super().put(row, make, alone)
        batch.rejected += alone.rejected
        for one in [*alone.rows, *alone.released]:
            (batch.issued if one[1].startswith("good") else batch.rows).append(one)

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Say what a row says, as EJBCA itself decides it; None: another generation's."""
        _, serial, status, reason, revoked, expires, _, ca, invalid, _ = row
        where, doubts = self.row_name(row), Doubts()
        octets = serial_from_decimal(str(serial).strip())
        not_after = int(expires) // 1000 if expires and expires > 0 else None
        is_revoked = _is_revoked(status, reason)
        if ca in self._others:
            return None
        if not is_revoked and ca not in self._mine and (ca or self._others):
            self._names = ()  # the CA may have been renewed: the next reading looks for its certificates again
            problem = "cAFingerprint does not tell which generation of the CA issued it; a good one is not guessed at"
            return make.rejected(where, problem, octets)
        if not is_revoked:
            if status not in GOOD and status != ARCHIVED:
                doubts.add(f"unknown status {shown(status)}")
            return make.good(where, octets, not_after, doubts)
        code = (
            CRLReason.UNSPECIFIED
            if reason is None or reason == NOT_REVOKED
            else doubts.read("reason", reason_from_code, reason)
        )
        return make.revoked(
            where,
            octets,
            not_after,
            doubts,
            revoked_at=int(revoked) // 1000 if revoked and revoked > 0 else None,
            reason=code,
            invalidity_date=int(invalid) // 1000 if invalid and invalid > 0 else None,
        )

    def more(self, connection: sa.Connection, make: RowMaker, since: int | None) -> Iterator[Batch]:
        """Yield what NoConflictCertificateData says, where several rows speak of one certificate."""
        if since is None and (odd := self._compare_some(connection, make)).rejected:
            yield odd
        if not self._has_no_conflict:
            return
        table = NO_CONFLICT.c
        statement = self._select(NO_CONFLICT)
        if since is not None:
            # The changed rows alone do not say who wins.
            changed = sa.select(table.serialNumber).where(
                table.updateTime >= since * 1000, table.issuerDN.in_(self._names)
            )
            statement = statement.where(table.serialNumber.in_(changed))
        ordered = statement.order_by(table.serialNumber, table.updateTime)
        rows = (row for page in self._database.stream(connection, ordered) for row in page)
        batch = Batch([])
        for _, group in groupby(rows, key=lambda row: row[1]):
            ours = [row for row in group if row[7] not in self._others]
            if ours:
                self.put(_winner(ours), make, batch)
            if len(batch.rows) >= 10_000:
                yield batch
                batch = Batch([])
        if batch.rows or batch.released or batch.rejected or batch.issued:
            yield batch

    def _compare_some(self, connection: sa.Connection, make: RowMaker) -> Batch:
        """Compare some rows with their certificates; raises SourceUnavailable where most do not belong together."""
        table = CERTIFICATES.c
        statement = self._select(CERTIFICATES).add_columns(table.base64Cert)
        rows = connection.execute(statement.where(table.cAFingerprint.in_(self._mine)).limit(SAMPLE_ROWS)).fetchall()
        odd, compared = Batch([]), 0
        for row in rows:
            certificate = _readable(row[-1] or self._separate(connection, row[0]))
            if certificate is None:
                continue  # a database without the certificates is one that cannot be compared
            compared += 1
            try:
                is_same = certificate_serial(certificate) == serial_from_decimal(str(row[1]).strip())
            except ValueError:
                is_same = False
            problem = ""
            if not is_same or certificate_expiry(certificate) != row[5] // 1000:
                problem = f"is not what its row says: serial {shown(row[1])}, expireDate {row[5]}"
            elif not is_issued_by(certificate, self._certificate):
                problem = f"was not signed with the key of {self._issuer.subject_text!r}"
            if problem:
                # Without a serial: as nobody knows whose row it is, nothing may be taken for vanished.
                odd.rejected.append(make.rejected(self.row_name(row), f"the certificate {row[0]} {problem}"))
        if 2 * len(odd.rejected) > compared:
            raise SourceUnavailable(f"{self.name}: {odd.rejected[0].reason}")
        return odd


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - EJBCA's primary key, not a signature


def _readable(blob: Any) -> x509.Certificate | None:
    try:
        return certificate_of(blob) if blob else None
    except ValueError:
        return None


def _is_revoked(status: Any, reason: Any) -> bool:
    return status == REVOKED or (status == ARCHIVED and reason not in (NOT_REVOKED, CRLReason.REMOVE_FROM_CRL))


def _winner(rows: list[Any]) -> Any:
    """Return which of several rows of one certificate, by updateTime, EJBCA takes.

    A permanent revocation before all else, and of several the first; without one the latest row, of a good precertificate
    only where there is no other.
    """
    not_for_good = (NOT_REVOKED, CRLReason.CERTIFICATE_HOLD, CRLReason.REMOVE_FROM_CRL)
    permanent = [row for row in rows if row[2] in (REVOKED, ARCHIVED) and row[3] not in not_for_good]
    speaking = [
        row
        for row in rows
        if row[_TAG] != PRECERTIFICATE or (_is_revoked(row[2], row[3]) and row[3] != CRLReason.REMOVE_FROM_CRL)
    ]
    return permanent[0] if permanent else (speaking or rows)[-1]
