"""Reads boulder's table ``certificateStatus`` (docs/loaders/boulder.md).

Serials are hexadecimal, dates DATETIME in UTC. A certificate has a status from its precertificate on. The issuers'
certificates are in boulder's configuration alone: a row names its issuer by a hash of the name. Made by
loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from loaders.base import FoundIssuer
from loaders.columns import reason_of, seconds_of, serial_octets, shown
from loaders.database import IncrementalDatabaseLoader, unquoted, utc
from loaders.entries import Doubts, Item, RowMaker
from responder.errors import SourceUnavailable

_COLUMNS = ("id", "serial", "status", "revokedDate", "revokedReason", "notAfter", "ocspLastUpdated")
STATUS = unquoted("certificateStatus", *_COLUMNS, "issuerID")
DISCOVERED_ROWS = 100_000  # the newest, whose issuers are told: the column has no index
FIRST_DATE = 86_400  # the zero dates of Go, of MySQL and of 1970 lie before


def name_id(subject_der: bytes) -> int:
    """Return boulder's NameID: the first seven octets of the SHA-1 of an issuer's Name."""
    return int.from_bytes(hashlib.sha1(subject_der, usedforsecurity=False).digest()[:7], "big")


class BoulderLoader(IncrementalDatabaseLoader):
    """One issuer's certificates in a boulder database."""

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select the issuer's rows by its name; raises SourceUnavailable where two CAs of the configuration share that."""
        for other in self._siblings:
            if other.subject_der == self._issuer.subject_der:
                raise SourceUnavailable(
                    f"{self.name}: boulder cannot tell apart {self._issuer.name} and {other.name}: one name"
                )
        wanted = STATUS.c.issuerID == name_id(self._issuer.subject_der)
        return sa.select(*(STATUS.c[name] for name in _COLUMNS)).where(wanted), STATUS.c.id

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the issuerIDs of the newest rows: hashes of names, which only names of the configuration can be compared with."""
        names = {name_id(one.subject_der): one.subject_text for one in (self._issuer, *self._siblings)}
        newest = sa.select(STATUS.c.issuerID).order_by(STATUS.c.id.desc()).limit(DISCOVERED_ROWS).subquery()
        with self._database.reading() as connection:
            found = [row[0] for row in connection.execute(sa.select(newest.c.issuerID).distinct())]
        return [
            FoundIssuer(f"issuerID {number}" + (f", the name {names[number]!r}" if number in names else ""))
            for number in sorted(found, key=lambda number: number or 0)
        ]

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """By ocspLastUpdated, which boulder sets on issuance and revocation."""
        changed = STATUS.c.ocspLastUpdated
        return statement.where(sa.or_(changed >= utc(since), STATUS.c.revokedDate >= utc(since))).order_by(changed)

    def changed_at(self, row: Any) -> int:
        """Read ocspLastUpdated; what cannot be read is no change."""
        try:
            return max(0, seconds_of(row[6], "iso"))
        except ValueError:
            return 0

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Say what a row says."""
        _, serial, status, revoked_date, reason, not_after, _ = row
        where, octets, doubts = self.row_name(row), serial_octets(serial, "hex"), Doubts()
        end = None if not_after is None else doubts.read("notAfter", seconds_of, not_after, "iso")
        if status == "good":
            return make.good(where, octets, end, doubts)
        if status != "revoked":
            return make.rejected(where, f"unknown status {shown(status)}", octets)
        revoked_at = None if revoked_date is None else doubts.read("revokedDate", seconds_of, revoked_date, "iso")
        if revoked_at is not None and revoked_at < FIRST_DATE:
            revoked_at = None
        code = doubts.read("revokedReason", reason_of, reason)
        return make.revoked(where, octets, end, doubts, revoked_at=revoked_at, reason=code)
