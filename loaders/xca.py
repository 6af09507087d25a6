"""Reads the database of XCA: SQLite, or a server with a prefix of its own (docs/loaders/xca.md).

Revocations stand in a table of their own, by CA and serial, and many have no certificate beside them. To take one back XCA
deletes its row, so that a certificate without one is good now. Made by loaders/registry.py.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from pydantic import Field

from loaders.base import Batch, FoundIssuer, LoaderOptions
from loaders.columns import reason_of, serial_octets, shown, text_of
from loaders.database_file import DatabaseFileLoader, DatabaseFileOptions, add, table
from loaders.discovery import CertificateIssuers
from loaders.entries import Doubts, Item, RowMaker
from loaders.normalize import date_text, generalized_time_text
from loaders.ownership import certificate_expiry, certificate_serial, parse_certificate
from responder.clock import Clock, parse_utc
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

REVOCATION = ("caid", "serial", "date", "invaldate", "reasonbit")
_NONE = "99991231235959Z"  # what XCA writes for no date


class XcaOptions(DatabaseFileOptions):
    """The keys of ``source = { type = "xca", … }``."""

    prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="Prefix of the tables' names, of a database on a server."
    )


class XcaLoader(DatabaseFileLoader):
    """One database of XCA for one of its CAs."""

    Options: ClassVar[type[LoaderOptions]] = XcaOptions
    good_releases_hold = True

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        super().__init__(options, issuer, siblings, clock)
        assert isinstance(options, XcaOptions)  # noqa: S101 - the registry checks options by our own model
        self._prefix = f"{options.prefix}_" if options.prefix and not options.prefix.endswith("_") else options.prefix
        self._revoked: dict[bytes, Any] = {}  # serial → row of the revocations, while a reading goes on
        self._rejected: list[tuple[str, str]] = []  # revocations without a serial: where, and why

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Read the CA's revocations, and select the certificates."""
        certs, held = self._certificates(connection)
        self._read_revocations(connection, certs)
        return held.with_only_columns(certs.c.item, certs.c.serial, certs.c.cert).order_by(certs.c.item), certs.c.item

    def _certificates(self, connection: sa.Connection) -> tuple[Any, sa.Select[Any]]:
        """Return the table of certificates, and what selects from it those that were not deleted."""
        items = table(connection, self._prefix + "items", ("id", "del"), self.name)
        certs = table(connection, self._prefix + "certs", ("item", "serial", "ca", "cert"), self.name)
        held = sa.select(certs.c.ca, certs.c.cert).join_from(certs, items, items.c.id == certs.c.item)
        return certs, held.where(items.c["del"] == 0)

    def _revocations(self, connection: sa.Connection) -> list[Any]:
        """Return the columns that count of the table of revocations, as ``REVOCATION`` has them."""
        found = table(connection, self._prefix + "revocations", REVOCATION, self.name)
        by_name = {column.name.lower(): column for column in found.c}
        return [by_name[name] for name in REVOCATION]

    def _read_revocations(self, connection: sa.Connection, certs: Any) -> None:
        """Read the revocations of every certificate of the CA's key: those of its renewals are under the one that was used."""
        columns = self._revocations(connection)
        key, subject = self._owner.ca_certificate.public_key(), self._owner.ca_certificate.subject
        ours: list[int] = []
        others: list[int] = []
        for item, text in connection.execute(sa.select(certs.c.item, certs.c.cert).where(certs.c.ca == 1)):
            certificate = Doubts().read("cert", _certificate, text)
            if certificate is not None:
                is_ours = certificate.public_key() == key and certificate.subject == subject
                (ours if is_ours else others).append(item)
        if not ours:
            # Its revocations are kept under its own certificate: without that everything would seem good.
            raise SourceUnavailable(f"{self.name}: does not hold the certificate of {self._issuer.subject_text!r}")
        self._owner.ours += len(ours)  # whose database it is, is thereby shown
        self._revoked = {}
        self._rejected = []
        for row in connection.execute(sa.select(*columns).order_by(*columns[:2])):
            # Under a certificate that was deleted nobody can say whose they are, and revoked is never wrong.
            if row[0] in others:
                continue
            doubts = Doubts()
            octets = doubts.read("serial", serial_octets, row[1], "hex")
            if octets is None:
                self._rejected.append((f"revocations {shown(row[1])}", doubts.problem or "no serial"))
            elif octets not in self._revoked or _laxity(row) < _laxity(self._revoked[octets]):
                self._revoked[octets] = row  # of two, under two certificates of the CA, the stricter

    def discover(self) -> Sequence[FoundIssuer]:
        """Return every CA whose certificate the database holds, whose certificates, and whose revocations alone."""
        issuers = CertificateIssuers(self.name)
        with self.fresh().reading() as connection:
            certs, held = self._certificates(connection)
            for is_ca, text in connection.execute(held):
                certificate = Doubts().read("cert", _certificate, text)
                if certificate is not None:
                    issuers.add(certificate, is_ca=is_ca == 1)
            ca_id = self._revocations(connection)[0]
            lost = sa.select(ca_id, sa.func.count()).where(ca_id.not_in(sa.select(certs.c.item))).group_by(ca_id)
            rows = connection.execute(lost.order_by(ca_id)).fetchall()
        gone = [
            FoundIssuer(f"revocations under certs item {shown(row[0])}, which was deleted", None, row[1])
            for row in rows
        ]
        return [*issuers.found(), *gone]

    def row_name(self, row: Any) -> str:
        """Name a row by its item."""
        return f"certs item {shown(row[0])}"

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Return what a certificate's row says."""
        doubts = Doubts()
        _, serial, text = row
        told = doubts.read("serial", serial_octets, serial, "hex")
        certificate = doubts.read("cert", _certificate, text)
        if certificate is None:
            # Whose it is nobody can say; if it is revoked its revocation will tell.
            return None if told in self._revoked else make.rejected(self.row_name(row), doubts.problem or "", told)
        if not self._owner.owns(certificate):
            return None
        octets = doubts.read("cert", certificate_serial, certificate)
        if octets is not None and told is not None and octets != told:
            doubts.add(f"serial: {shown(serial)}, but its certificate has {octets.hex()}")
        revocation = self._revoked.pop(octets, None) if octets is not None else None
        if revocation is not None:
            return self._revocation(revocation, octets, certificate_expiry(certificate), doubts, make)
        return make.good(self.row_name(row), octets, certificate_expiry(certificate), doubts)

    def more(self, connection: sa.Connection, make: RowMaker, since: int | None) -> Iterator[Batch]:
        """Yield the revocations without a certificate: imported from a CRL, or their certificates were deleted."""
        batch = Batch([])
        batch.rejected += [make.rejected(where, reason) for where, reason in self._rejected]
        for octets, row in self._revoked.items():
            item = self._revocation(row, octets, None, Doubts(), make)
            add(item, batch)
        self._revoked = {}
        if batch.rows or batch.rejected or batch.released:
            yield batch

    def _revocation(
        self, row: Any, octets: bytes | None, not_after: int | None, doubts: Doubts, make: RowMaker
    ) -> Item:
        _, serial, date, invalidity_date, reason = row
        return make.revoked(
            f"revocations {shown(serial)}",
            octets,
            not_after,
            doubts,
            revoked_at=doubts.read("date", _moment, date),
            reason=doubts.read("reasonBit", reason_of, reason),
            invalidity_date=doubts.read("invaldate", _moment, invalidity_date),
        )


def _laxity(row: Any) -> int:
    """Rank a revocation: for good, on hold, taken back."""
    return {"6": 1, "8": 2}.get(str(row[4]), 0)


def _certificate(text: object) -> Any:
    if not isinstance(text, str | bytes):
        raise ValueError("no certificate")
    return parse_certificate(b64decode(text))


def _moment(value: object) -> int | None:
    """Read ``20261123154956Z`` or ``261123154956Z``, UTC; None for what XCA writes where there is no date."""
    text = text_of(value if value is not None else "")
    if text in ("", _NONE):
        return None
    data = text.encode("ascii", "replace")
    return parse_utc(generalized_time_text(data) if len(data) == 15 else date_text(data))
