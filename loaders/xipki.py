"""Reads XiPKI's CA database, or the one of its OCSP responder (docs/loaders/xipki.md).

Serials are hexadecimal without leading zeros, times seconds since 1970, and the issuers' certificates are in the same
database. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from loaders.base import FoundIssuer
from loaders.columns import reason_of, serial_octets
from loaders.database import IncrementalDatabaseLoader, found_issuer, unquoted
from loaders.entries import Doubts, Item, RowMaker
from responder.errors import SourceUnavailable

_CERT = ("ID", "SN", "LUPDATE", "NAFTER", "REV", "RR", "RT", "RIT")
# Of the CA database, and of the OCSP database: issuers, and the column of CERT that names one.
PLACES = ((unquoted("CA", "ID", "SUBJECT", "CERT"), "CA_ID"), (unquoted("ISSUER", "ID", "SUBJECT", "CERT"), "IID"))


class XiPKILoader(IncrementalDatabaseLoader):
    """One CA's certificates in a XiPKI database."""

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select the rows of the CA, found by its certificate; raises SourceUnavailable where it is not there."""
        for issuers, column in PLACES:
            if self.may_read(connection, issuers.c.ID, issuers.c.CERT):
                rows = connection.execute(sa.select(issuers.c.ID, issuers.c.CERT)).fetchall()
                ids = [row[0] for row in rows if self.is_the_ca(row[1])]
                if ids:
                    table = unquoted("CERT", *_CERT, column)
                    self._changed = table.c.LUPDATE
                    return sa.select(*(table.c[name] for name in _CERT)).where(table.c[column].in_(ids)), table.c.ID
        raise SourceUnavailable(
            f"{self.name}: neither CA nor ISSUER holds the certificate of {self._issuer.subject_text!r}"
        )

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """By LUPDATE, which XiPKI sets on issuance, revocation and release."""
        return statement.where(self._changed >= since).order_by(self._changed)

    def changed_at(self, row: Any) -> int:
        """Read LUPDATE."""
        return int(row[2] or 0)

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Say what a row says: REV decides."""
        _, serial, _, not_after, is_revoked, reason, revoked_at, invalidity_date = row
        where, octets, doubts = self.row_name(row), serial_octets(serial, "hex"), Doubts()
        if is_revoked not in (0, 1):
            doubts.add(f"REV is {str(is_revoked)[:20]!r}, neither 0 nor 1")
        if not is_revoked:
            return make.good(where, octets, not_after, doubts)
        return make.revoked(
            where,
            octets,
            not_after,
            doubts,
            revoked_at=revoked_at,
            reason=doubts.read("reason", reason_of, reason),
            invalidity_date=invalidity_date,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the CAs of the database."""
        found: list[FoundIssuer] = []
        with self._database.reading() as connection:
            places = [issuers for issuers, _ in PLACES if self.may_read(connection, *issuers.c)]
            for issuers in places:
                for name, blob in connection.execute(sa.select(issuers.c.SUBJECT, issuers.c.CERT)).fetchall():
                    found.append(found_issuer(name, blob))
        if not places:
            raise SourceUnavailable(f"{self.name}: there is neither a table CA nor a table ISSUER")
        return found
