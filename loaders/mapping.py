"""Columns of somebody's table → statuses, by a mapping in the configuration: what ``sql`` and ``delimited`` share.

Nothing is guessed but what a certificate in the row says itself, which goes before all columns. Times are POSIX seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from loaders.base import FoundIssuer
from loaders.columns import SerialBase, TimeForm, certificate_of, reason_of, seconds_of, serial_octets, shown, text_of
from loaders.discovery import CertificateIssuers
from loaders.entries import Doubts, Item, RowMaker
from loaders.ownership import CertificateOwner, certificate_expiry, certificate_serial
from responder.issuers import Issuer
from responder.model import CRLReason

_ZERO = re.compile(r"(?:(?:0|-1)(?:\.0*)?)?")  # a REAL or DECIMAL column says 0.0


class MappingOptions(BaseModel):
    """Which column says what."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    serial: str | None = Field(None, description="Column of the serial; not needed where there is `certificate`.")
    serial_base: SerialBase | None = Field(
        None, description='How `serial` is written: "dec" or "hex" (colons and blanks are passed over). Never guessed.'
    )
    certificate: str | None = Field(
        None,
        description="Column of the certificate: DER, PEM or base64. Serial, expiry and issuer are taken from it; rows of other CAs are passed over.",
    )
    not_after: str | None = Field(None, description="Column of the certificate's end.")
    status: str | None = Field(
        None,
        description="Column of the status; absent: a row is revoked where it has a `revoked_at`. A list of the issued beside a CRL (`issued`) needs neither.",
    )
    good: list[str] = Field(
        ["good", "valid", "issued", "active", "v", "0", "false"],
        description="What `status` says of a certificate that is not revoked; upper and lower case are one.",
    )
    revoked: list[str] = Field(["revoked", "r", "1", "true"], description="What `status` says of a revoked one.")
    hold: list[str] = Field(
        ["hold", "onhold", "suspended"],
        description="What `status` says of one on hold, whatever the reason column says.",
    )
    ignored: list[str] = Field([], description="What `status` says of rows that are no certificates, such as requests.")
    revoked_at: str | None = Field(None, description="Column of the revocation's time.")
    reason: str | None = Field(
        None,
        description="Column of the reason: the number of RFC 5280, or a name such as keyCompromise or key_compromise.",
    )
    invalidity_date: str | None = Field(None, description="Column of the invalidity date.")
    time: TimeForm = Field(
        "iso",
        description='How times are written: "iso" (RFC 3339, or a date column), "s" or "ms" (since 1970).',
    )
    zone: str = Field("UTC", description="Time zone of dates that name none, such as Europe/Berlin.")
    lists: Literal["issued", "revoked"] = Field(
        "issued",
        description='"issued": a serial that is not listed was not issued. "revoked": only revoked ones are listed.',
    )

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("is no time zone such as UTC or Europe/Berlin") from error
        return value

    @model_validator(mode="after")
    def _enough(self, info: ValidationInfo) -> MappingOptions:
        if self.serial is None and self.certificate is None:
            raise ValueError("serial or certificate must be there")
        if self.serial is not None and self.certificate is None and self.serial_base is None:
            raise ValueError('serial_base must be there: "dec" or "hex"')
        is_beside = (info.context or {}).get("place") == "issued"  # the CRL says what is revoked
        if self.status is None and self.revoked_at is None and self.lists == "issued" and not is_beside:
            raise ValueError("status or revoked_at must be there")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        named = (
            self.serial,
            self.certificate,
            self.not_after,
            self.status,
            self.revoked_at,
            self.reason,
            self.invalidity_date,
        )
        return list(dict.fromkeys(name for name in named if name is not None))


class Mapper:
    """Makes items of rows, by a mapping. Used by one thread."""

    def __init__(self, options: MappingOptions, issuer: Issuer) -> None:
        self._options = options
        self._zone = None if options.zone == "UTC" else ZoneInfo(options.zone)
        self._words = {
            word.lower(): kind for kind in ("ignored", "good", "revoked", "hold") for word in getattr(options, kind)
        }
        self.owner = CertificateOwner(issuer)

    def item(self, row: Mapping[str, Any], where: str, make: RowMaker) -> Item | None:
        """Return what a row says; None: it is ignored, or another CA's. Raises ValueError where nothing is known of it."""
        options, doubts = self._options, Doubts()
        kind = self._kind(row, doubts)
        if kind == "ignored":
            return None
        octets: bytes | None = None
        not_after: int | None = None
        blob = row[options.certificate] if options.certificate is not None else None
        if blob:
            certificate = doubts.read("certificate", certificate_of, blob)
            if certificate is not None:
                if not self.owner.owns(certificate):
                    return None
                octets, not_after = certificate_serial(certificate), certificate_expiry(certificate)
        if octets is None:
            if options.serial is None or options.serial_base is None:
                return make.rejected(
                    where, doubts.problem or "no certificate in this row, and no column for the serial"
                )
            octets = serial_octets(row[options.serial], options.serial_base)
        if not_after is None and options.not_after is not None:
            not_after = doubts.read("not_after", self._time, row[options.not_after])
        if kind == "good":
            item = make.good(where, octets, not_after, doubts)
        elif kind is None:
            item = make.rejected(where, doubts.problem or "no status", octets)
        else:
            item = self._revoked(row, where, make, octets, not_after, doubts, is_hold=kind == "hold")
        return item

    @property
    def no_issuers(self) -> str:
        """Why ``issuers`` finds none."""
        return "" if self._options.certificate is not None else "no column is mapped as certificate"

    def issuers(self, source: str, rows: Iterable[Mapping[str, Any]]) -> Sequence[FoundIssuer]:
        """Return whose certificates the rows hold; none where no column is said to hold any."""
        issuers = CertificateIssuers(source)
        for row in rows:
            if self._options.certificate is None:
                break
            blob = row[self._options.certificate]
            certificate = Doubts().read("certificate", certificate_of, blob) if blob else None
            if certificate is not None and self._kind(row, Doubts()) != "ignored":
                issuers.add(certificate)
        return issuers.found()

    def _kind(self, row: Mapping[str, Any], doubts: Doubts) -> str | None:
        options = self._options
        if options.status is None:
            if options.revoked_at is None:
                return "revoked" if options.lists == "revoked" else "good"
            return "good" if _is_never(row[options.revoked_at]) else "revoked"
        value = row[options.status]
        try:
            word = text_of("" if value is None else value).lower()
        except ValueError as error:
            doubts.add(f"status: {error}")
            return None
        kind = self._words.get(word)
        if kind is None:
            doubts.add(f"unknown status {shown(word)}; known are {', '.join(sorted(self._words))}")
        return kind

    def _revoked(
        self,
        row: Mapping[str, Any],
        where: str,
        make: RowMaker,
        octets: bytes,
        not_after: int | None,
        doubts: Doubts,
        *,
        is_hold: bool,
    ) -> Item:
        options = self._options
        revoked_at = invalidity_date = None
        if options.revoked_at is not None and not _is_never(row[options.revoked_at]):
            revoked_at = doubts.read("revoked_at", self._time, row[options.revoked_at])
        reason: CRLReason | None = CRLReason.UNSPECIFIED
        if options.reason is not None:
            reason = doubts.read("reason", reason_of, row[options.reason])
        if options.invalidity_date is not None and not _is_never(row[options.invalidity_date]):
            invalidity_date = doubts.read("invalidity_date", self._time, row[options.invalidity_date])
        return make.revoked(
            where,
            octets,
            not_after,
            doubts,
            revoked_at=revoked_at,
            reason=CRLReason.CERTIFICATE_HOLD if is_hold else reason,
            invalidity_date=invalidity_date,
        )

    def _time(self, value: Any) -> int | None:
        return None if value is None or value == "" else seconds_of(value, self._options.time, self._zone)


def _is_never(value: Any) -> bool:
    """Say whether a column means that there is no date: empty, zero, or the zero dates of Go, MySQL and others."""
    if value is None:
        return True
    text = str(value) if not isinstance(value, bytes) else value.decode("ascii", "replace")
    text = text.strip()
    return bool(_ZERO.fullmatch(text)) or text.startswith(("0001-01-01", "0000-00-00"))
