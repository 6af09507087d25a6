"""Reads OpenXPKI's table ``certificate`` (docs/loaders/openxpki.md).

Serials are decimal numbers of up to 49 digits, times seconds since 1970, reasons OpenSSL's names; the issuers'
certificates stand in the same table. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from loaders.base import FoundIssuer
from loaders.columns import certificate_of, reason_of, seconds_of, serial_octets, shown
from loaders.database import IncrementalDatabaseLoader, unquoted
from loaders.discovery import MAX_ISSUERS, name_text
from loaders.entries import Doubts, Item, RowMaker
from loaders.ownership import key_id
from responder.issuers import subject_and_key
from responder.model import CRLReason

_COLUMNS = ("cert_key", "status", "notbefore", "notafter", "revocation_time", "invalidity_time", "reason_code")
CERTIFICATE = unquoted("certificate", *_COLUMNS, "identifier", "issuer_identifier", "subject_key_identifier", "data")
GOOD = ("ISSUED", "EXPIRED")
# The revocation was accepted, and the next CRL will list it: for OCSP it is revoked already.
REVOKED = ("REVOKED", "CRL_ISSUANCE_PENDING")


def identifier_of(certificate: x509.Certificate) -> str:
    """Return the name that OpenXPKI gives a certificate: SHA-1 of its DER, in base64 for URLs, without padding."""
    digest = hashlib.sha1(certificate.public_bytes(Encoding.DER), usedforsecurity=False).digest()
    return urlsafe_b64encode(digest).decode().rstrip("=")


class OpenXPKILoader(IncrementalDatabaseLoader):
    """One CA's certificates in an OpenXPKI database."""

    narrow_s = 1 << 31  # notbefore may be minutes older than the row: each poll goes back the whole overlap

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Select what the CA issued, under any of its certificates: one that was renewed with its key has several."""
        table = CERTIFICATE.c
        own = x509.load_der_x509_certificate(self._issuer.certificate_der)
        identifiers = {identifier_of(own)}
        identifier_of_key = key_id(own, authority=False)
        if identifier_of_key is not None:
            wanted = table.subject_key_identifier == identifier_of_key.hex(":").upper()
            for identifier, data in connection.execute(
                sa.select(table.identifier, table.data).where(wanted)
            ).fetchall():
                if self.is_the_ca(data) and identifier == identifier_of(certificate_of(data)):
                    identifiers.add(identifier)
        there = self.columns_of(connection, CERTIFICATE)
        columns = [table[name] if name in there else sa.null().label(name) for name in _COLUMNS]
        self._revoked_at = table.revocation_time if "revocation_time" in there else sa.null()
        return sa.select(*columns).where(table.issuer_identifier.in_(identifiers)), table.cert_key

    def discover(self) -> Sequence[FoundIssuer]:
        """Return every CA that issued what the table holds, whatever its certificates: one that was renewed with its key is one."""
        table = CERTIFICATE.c
        held: dict[tuple[bytes, bytes], tuple[x509.Certificate, int]] = {}
        others: list[FoundIssuer] = []
        with self._database.reading() as connection:
            counted = sa.select(table.issuer_identifier, sa.func.count()).group_by(table.issuer_identifier)
            for identifier, rows in connection.execute(counted.limit(MAX_ISSUERS)).fetchall():
                certificate = self._data(connection, table.identifier == identifier)
                if certificate is None or identifier_of(certificate) != identifier:
                    # Imported, and their issuer is "unknown"; or its certificate is in no realm.
                    issued = self._data(connection, table.issuer_identifier == identifier)
                    der = None if issued is None else issued.public_bytes(Encoding.DER)
                    others.append(FoundIssuer(f"issuer_identifier {shown(identifier)}", None, rows, der))
                    continue
                key = subject_and_key(certificate)
                known, before = held.get(key, (certificate, 0))
                latest = max(known, certificate, key=lambda one: one.not_valid_before_utc)
                held[key] = latest, before + rows
        found = [
            FoundIssuer(name_text(one, of_issuer=False), one.public_bytes(Encoding.DER), rows)
            for one, rows in held.values()
        ]
        return [*found, *others]

    @staticmethod
    def _data(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> x509.Certificate | None:
        """Return a certificate, None where there is none that can be read."""
        blob = connection.execute(sa.select(CERTIFICATE.c.data).where(wanted).limit(1)).scalar()
        return None if blob is None else Doubts().read("data", certificate_of, blob)

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """By notbefore and revocation_time, as there is no column of the last change; and all that no CRL lists yet.

        A revocation may be dated back further than any overlap, and waits for the next CRL in a status of its own.
        """
        waits = CERTIFICATE.c.status.in_(("CRL_ISSUANCE_PENDING", "HOLD"))
        return statement.where(sa.or_(CERTIFICATE.c.notbefore >= since, self._revoked_at >= since, waits))

    def changed_at(self, row: Any) -> int:
        """Return the later of both, as far as they can be read."""
        return max(value if isinstance(value, int) else 0 for value in (row[2], row[4]))

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Say what a row says."""
        serial, status, _, not_after, revoked_at, invalidity_date, reason = row
        where, octets, doubts = self.row_name(row), serial_octets(serial, "dec"), Doubts()
        end = None if not_after is None else doubts.read("notafter", seconds_of, not_after, "s")
        if status in GOOD:
            return make.good(where, octets, end, doubts)
        if status not in REVOKED and status != "HOLD":
            return make.rejected(where, f"unknown status {shown(status)}", octets)
        return make.revoked(
            where,
            octets,
            end,
            doubts,
            revoked_at=doubts.read("revocation_time", seconds_of, revoked_at, "s") if revoked_at else None,
            reason=CRLReason.CERTIFICATE_HOLD if status == "HOLD" else doubts.read("reason_code", reason_of, reason),
            invalidity_date=doubts.read("invalidity_time", seconds_of, invalidity_date, "s")
            if invalidity_date
            else None,
        )
