"""Reads the tables of django-ca (docs/loaders/django-ca.md).

Serials are hexadecimal without leading zeros, dates of the database's own type in UTC, reasons in snake case; the CAs'
certificates are in the same database. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from loaders.base import FoundIssuer
from loaders.columns import reason_of, seconds_of, serial_octets
from loaders.database import IncrementalDatabaseLoader, found_issuer, unquoted, utc
from loaders.entries import Doubts, Item, RowMaker
from responder.errors import SourceUnavailable

_COLUMNS = ("id", "serial", "updated", "revoked", "revoked_date", "revoked_reason", "compromised")
CERTIFICATES = unquoted("django_ca_certificate", *_COLUMNS, "ca_id", "not_after", "expires")
AUTHORITIES = unquoted("django_ca_certificateauthority", "id", "name", "pub")


class DjangoCALoader(IncrementalDatabaseLoader):
    """One CA's certificates in a django-ca database."""

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select the rows of the CA, found by its certificate; raises SourceUnavailable where it is not there."""
        rows = connection.execute(sa.select(AUTHORITIES.c.id, AUTHORITIES.c.pub)).fetchall()
        ids = [row[0] for row in rows if self.is_the_ca(row[1])]
        if not ids:
            raise SourceUnavailable(
                f"{self.name}: django-ca has no CA with the certificate of {self._issuer.subject_text!r}"
            )
        there = self.columns_of(connection, CERTIFICATES)
        columns = [CERTIFICATES.c[name] if name in there else sa.null().label(name) for name in _COLUMNS]
        end = CERTIFICATES.c.not_after if "not_after" in there else CERTIFICATES.c.expires  # before 2.0
        return sa.select(*columns, end).where(CERTIFICATES.c.ca_id.in_(ids)), CERTIFICATES.c.id

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """By ``updated``, which Django sets whenever a certificate is saved."""
        return statement.where(CERTIFICATES.c.updated >= utc(since)).order_by(CERTIFICATES.c.updated)

    def changed_at(self, row: Any) -> int:
        """Read ``updated``; what cannot be read is no change."""
        try:
            return max(0, seconds_of(row[2], "iso"))
        except ValueError:
            return 0

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Say what a row says: ``revoked`` decides."""
        _, serial, _, is_revoked, revoked_date, reason, compromised, not_after = row
        where, octets, doubts = self.row_name(row), serial_octets(serial, "hex"), Doubts()
        end = None if not_after is None else doubts.read("not_after", seconds_of, not_after, "iso")
        if not is_revoked:
            return make.good(where, octets, end, doubts)
        return make.revoked(
            where,
            octets,
            end,
            doubts,
            revoked_at=None if revoked_date is None else doubts.read("revoked_date", seconds_of, revoked_date, "iso"),
            reason=doubts.read("revoked_reason", reason_of, reason),
            invalidity_date=None if compromised is None else doubts.read("compromised", seconds_of, compromised, "iso"),
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the CAs of the database."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(AUTHORITIES.c.name, AUTHORITIES.c.pub)).fetchall()
        return [found_issuer(name, blob) for name, blob in rows]
