"""Reads cfssl's certificate database: SQLite, PostgreSQL, MySQL (docs/loaders/cfssl.md).

The certificate in each row tells serial, issuer and expiry; the columns of old databases may not: SQLite may have kept a
serial as a floating-point number, and the key identifier may be empty. Made by loaders/registry.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from loaders.base import FoundIssuer
from loaders.columns import reason_of, seconds_of, serial_octets, shown, text_of
from loaders.database_file import DatabaseFileLoader, table
from loaders.discovery import MAX_ISSUERS, CertificateIssuers
from loaders.entries import Doubts, Item, RowMaker
from loaders.ownership import certificate_expiry, certificate_serial, key_id, parse_pem_certificate

_COLUMNS = ("serial_number", "authority_key_identifier", "status", "reason", "expiry", "revoked_at", "pem")
_ZERO_TIMES = ("0001-01-01", "0000-00-00", "0000-01-01")  # what "not revoked" looks like


class CfsslLoader(DatabaseFileLoader):
    """One database of cfssl for one CA."""

    good_releases_hold = False  # cfssl knows no release

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select every row: whose it is, its certificate says."""
        if connection.dialect.name in ("mysql", "mariadb"):
            # A TIMESTAMP arrives in the session's time zone; cfssl writes UTC.
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        found = table(connection, "certificates", _COLUMNS, self.name)
        columns = [found.c[name] for name in _COLUMNS]
        return sa.select(*columns).order_by(*columns[:2]), columns[0]

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the database holds; of rows without one the key identifier of their issuer."""
        issuers, named = CertificateIssuers(self.name), Counter[str]()
        with self.fresh().reading() as connection:
            found = table(connection, "certificates", _COLUMNS, self.name)
            statement = sa.select(found.c.authority_key_identifier, found.c.pem)
            with closing(self._database.stream(connection, statement)) as pages:
                for authority, pem in (row for page in pages for row in page):
                    certificate = _certificate(pem, Doubts())
                    if certificate is not None:
                        issuers.add(certificate)
                        continue
                    name = Doubts().read("authority_key_identifier", text_of, authority or "") or "none"
                    if name in named or len(named) < MAX_ISSUERS:
                        named[name] += 1
        return [
            *issuers.found(),
            *(
                FoundIssuer(f"authority_key_identifier {shown(name)}, rows without a certificate", None, count)
                for name, count in named.items()
            ),
        ]

    def row_name(self, row: Any) -> str:
        """Name a row by its serial's column."""
        return f"certificates {shown(row[0])}"

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Return what a row says."""
        serial, authority, status, reason, expiry, revoked_at, pem = row
        doubts, where = Doubts(), self.row_name(row)
        certificate = _certificate(pem, doubts)
        octets: bytes | None
        not_after: int | None
        if certificate is not None:
            if not self._owner.owns(certificate):
                return None
            octets, not_after = doubts.read("pem", certificate_serial, certificate), certificate_expiry(certificate)
            if not isinstance(serial, float):
                told = doubts.read("serial_number", serial_octets, serial, "dec")
                if told is not None and told != octets:
                    doubts.add(f"serial_number: {shown(serial)}, but its certificate has {(octets or b'').hex()}")
        else:
            if not self._is_named(authority):
                return None
            octets = doubts.read("serial_number", serial_octets, serial, "dec")
            not_after = doubts.read("expiry", _moment, expiry)
        said = doubts.read("status", text_of, status)
        if said == "revoked":
            return make.revoked(
                where,
                octets,
                not_after,
                doubts,
                revoked_at=doubts.read("revoked_at", _moment, revoked_at),
                reason=doubts.read("reason", reason_of, reason),
            )
        if said != "good":
            doubts.add(f"unknown status {shown(said)}")
        return make.good(where, octets, not_after, doubts)

    def _is_named(self, authority: object) -> bool:
        """Say whether a row without a certificate may be the CA's: by its key identifier, and where it has none."""
        ours = key_id(self._owner.ca_certificate, authority=False)
        try:
            told = text_of(authority or "").lower()
        except ValueError:
            return True
        return not told or ours is None or told == ours.hex()


def _certificate(pem: object, doubts: Doubts) -> x509.Certificate | None:
    if not pem:
        doubts.add("no certificate in it")
        return None
    data = pem.encode("ascii", "replace") if isinstance(pem, str) else pem
    if not isinstance(data, bytes | bytearray | memoryview):
        doubts.add("pem: no certificate")
        return None
    return doubts.read("pem", parse_pem_certificate, bytes(data))


def _moment(value: object) -> int | None:
    """Read a date, UTC; None for the zero that stands for none."""
    if value is None or (not hasattr(value, "year") and text_of(value).startswith(_ZERO_TIMES)):
        return None
    if getattr(value, "year", 2000) <= 1:
        return None
    return seconds_of(value, "iso")
