"""Reads the certificate repository of Dogtag PKI, FreeIPA and Red Hat Certificate System (docs/loaders/dogtag.md).

Over LDAP, or from an LDIF that ``db2ldif`` wrote. Its dates are the server's local time with a Z behind them that is not
true: the certificate in each entry and the directory's own timestamps tell the zone. Made by loaders/registry.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from loaders.base import CursorLost, FoundIssuer, Loader, LoaderOptions
from loaders.discovery import CertificateIssuers
from loaders.dogtag_sources import Directory, DirectoryOptions, Entry, read_ldif
from loaders.entries import Doubts, Item, ItemSnapshot, RowMaker, reason_from_code, serial_from_decimal
from loaders.files import file_state, open_source
from loaders.normalize import generalized_time_text
from loaders.ownership import CertificateOwner, certificate_expiry, certificate_serial, parse_certificate
from loaders.zone_offsets import ZoneOffsets, offset_between
from responder.clock import Clock, parse_utc
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import CRLReason

OVERLAP_S = 600  # clocks of replicas, and entries that were being written
CURSOR_VERSION = "1"
SAME_CHANGE_S = 60  # between the date of a revocation and that of its entry's last change, if they are one
_GOOD = frozenset({"VALID", "INVALID", "EXPIRED"})  # INVALID: its notBefore lies ahead
_REVOKED = frozenset({"REVOKED", "REVOKED_EXPIRED"})
_FRACTION = re.compile(r"\.[0-9]+(?=Z$)")


class DogtagOptions(DirectoryOptions):
    """The keys of ``source = { type = "dogtag", … }``."""

    path: AnyPath | None = Field(None, description="An LDIF with the repository, as db2ldif writes it; instead of url.")
    time_zone: str = Field(
        "auto",
        description="Time zone of the CA's server, such as Europe/Berlin; auto learns it from certificates and timestamps.",
    )

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto":
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError("no such time zone; it is written like Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> DogtagOptions:
        if (self.path is None) == (self.url is None):
            raise ValueError("either path or url must be there")
        return self

    @property
    def shared_key(self) -> str:
        """Sub-CAs share the repository."""
        return os.path.realpath(self.path) if self.path is not None else f"{self.url}/{self.base}"


class DogtagRows:
    """Makes items of the entries of one reading."""

    def __init__(self, source: str, owner: CertificateOwner, presumed_at: float, zone: str) -> None:
        self._make = RowMaker(source, presumed_at)
        self._source = source
        self._owner = owner
        self._zone = None if zone == "auto" else ZoneInfo(zone)
        self._offsets = ZoneOffsets()
        self.latest = 0  # the last change, POSIX seconds; 0: no entry tells
        self.count = 0  # of entries

    def items(self, entries: Iterator[Entry | tuple[str, str]], *, checks_owner: bool) -> Iterator[Item]:
        """Yield what the entries say; raises SourceUnavailable."""
        for entry in entries:
            if isinstance(entry, tuple):
                yield self._make.rejected(*entry)
                continue
            self.count += 1
            item = self._item(entry)
            if item is not None:
                yield item
        if checks_owner:
            self._owner.check(self._source)

    def _item(self, entry: Entry) -> Item | None:
        values, doubts = entry.values, Doubts()
        told = doubts.read("serialno", _serial, values)
        changed_at = Doubts().read("modifyTimestamp", _true_time, _text(values, "modifytimestamp"))
        self.latest = max(self.latest, changed_at or 0)
        der = _der(values)
        certificate = None if der is None else doubts.read("userCertificate", parse_certificate, der)
        octets, not_after = told, None
        if certificate is not None:
            if not self._owner.owns(certificate):
                return None
            octets, not_after = doubts.read("serial", certificate_serial, certificate), certificate_expiry(certificate)
            if told is not None and octets is not None and told != octets:
                doubts.add(f"serialno: {told.hex()}, but its certificate has {octets.hex()}")
            self._learn(values, int(certificate.not_valid_before_utc.timestamp()))
        elif der is None:
            doubts.add("has no userCertificate;binary (may it be read?)")
        status = _text(values, "certstatus")
        if status in _REVOKED:
            return self._revoked(entry.where, values, octets, not_after, doubts, changed_at)
        if status not in _GOOD:
            doubts.add(f"unknown certStatus {(status or '')[:40]!r}")
        return self._make.good(entry.where, octets, not_after, doubts)

    def _revoked(
        self,
        where: str,
        values: Mapping[str, bytes],
        octets: bytes | None,
        not_after: int | None,
        doubts: Doubts,
        changed_at: int | None,
    ) -> Item:
        date, *extensions = (_text(values, "revinfo") or _text(values, "revokedon") or "").split(";")
        said = dict(part.partition("=")[::2] for part in extensions)
        local = doubts.read("revInfo", _local_time, date) if date else None
        revoked_at = None if local is None else doubts.read("revInfo", self._utc, local, values, changed_at)
        reason: CRLReason | None = CRLReason.UNSPECIFIED
        if "CRLReasonExtension" in said:
            reason = doubts.read("revInfo", _reason, said["CRLReasonExtension"])
        invalidity_date = None
        if "InvalidityDateExtension" in said:
            told = doubts.read("InvalidityDateExtension", _local_time, said["InvalidityDateExtension"])
            invalidity_date = (
                None if told is None else doubts.read("InvalidityDateExtension", self._utc, told, {}, None)
            )
        return self._make.revoked(
            where, octets, not_after, doubts, revoked_at=revoked_at, reason=reason, invalidity_date=invalidity_date
        )

    def _learn(self, values: Mapping[str, bytes], not_before: int) -> None:
        local = Doubts().read("notBefore", _local_time, _text(values, "notbefore"))
        offset = None if local is None else offset_between(local, not_before)
        if local is not None and offset is not None:
            self._offsets.add(local, offset)

    def _utc(self, local: int, values: Mapping[str, bytes], changed_at: int | None) -> int:
        if self._zone is not None:
            moment = datetime.fromtimestamp(local, UTC).replace(tzinfo=self._zone)  # fold=0: the earlier of two
            return int(moment.timestamp())
        # The entry's last change is dated twice: by Dogtag in local time, by the directory in UTC.
        changed_local = Doubts().read("dateOfModify", _local_time, _text(values, "dateofmodify"))
        if changed_at is not None and changed_local is not None and abs(changed_local - local) <= SAME_CHANGE_S:
            offset = offset_between(changed_local, changed_at)
            if offset is not None:
                return local - offset
        return self._offsets.utc(local)


def _der(values: Mapping[str, bytes]) -> bytes | None:
    return values.get("usercertificate;binary") or values.get("usercertificate")


def _issuers(source: str, entries: Iterator[Entry | tuple[str, str]]) -> Sequence[FoundIssuer]:
    """Return whose certificates the entries hold: the CA's own is among them, and those of the sub-CAs that share the repository."""
    issuers = CertificateIssuers(source)
    for entry in entries:
        der = None if isinstance(entry, tuple) else _der(entry.values)
        certificate = None if der is None else Doubts().read("userCertificate", parse_certificate, der)
        if certificate is not None:
            issuers.add(certificate)
    return issuers.found()


def _text(values: Mapping[str, bytes], name: str) -> str | None:
    value = values.get(name)
    return None if value is None else value[:256].decode("utf-8", "replace").strip()


def _serial(values: Mapping[str, bytes]) -> bytes:
    """Read ``0210``: two digits tell how many follow. Without it the entry's name, which is the serial."""
    text = _text(values, "serialno")
    if text is None:
        return serial_from_decimal(_text(values, "cn") or "")
    if not re.fullmatch(r"[0-9]{2}-?[0-9]+", text) or int(text[:2]) not in (len(text) - 2, (len(text) - 2) % 100):
        raise ValueError(f"not a length of two digits and a number: {text[:60]!r}")
    return serial_from_decimal(text[2:])


def _local_time(text: str | None) -> int:
    """Read ``20240322134936Z``, whose Z is not true, as seconds on the server's clock."""
    if text is None:
        raise ValueError("no date")
    return parse_utc(generalized_time_text(text.encode("ascii", "replace")))


def _true_time(text: str | None) -> int | None:
    """Read a timestamp of the directory itself: UTC."""
    return None if text is None else _local_time(_FRACTION.sub("", text))


def _reason(text: str) -> CRLReason:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise ValueError(f"no CRLReason: {text[:40]!r}")
    return reason_from_code(int(text))


# --- the loaders --------------------------------------------------------------------------------------------------------


class _Ldif:
    """An LDIF: a copy."""

    Options: ClassVar[type[LoaderOptions]] = DogtagOptions
    lists_issued = True
    good_releases_hold = True  # certStatus states what holds now
    follows_clock = False

    def __init__(self, options: DogtagOptions, issuer: Issuer, clock: Clock) -> None:
        assert options.path is not None  # noqa: S101 - the factory below has looked
        self.name = str(options.path)
        self._path = options.path
        self._zone = options.time_zone
        self._clock = clock
        self._owner = CertificateOwner(issuer)

    def peek(self) -> str:
        """Return the file's state; raises SourceUnavailable."""
        return file_state(self._path, self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        file, as_of = open_source(self._path, self._clock)
        self._owner.begin()
        rows = DogtagRows(self.name, self._owner, as_of, self._zone)
        size = os.fstat(file.fileno()).st_size
        return ItemSnapshot(
            rows.items(read_ldif(self._path, file), checks_owner=True),
            as_of,
            size=size,
            position=lambda: size if file.closed else file.tell(),
            let_go=file.close,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the CAs of the repository."""
        file, _ = open_source(self._path, self._clock)
        with file:
            return _issuers(self.name, read_ldif(self._path, file))


class DirectoryReading(ItemSnapshot):
    """A reading of the directory, whole or of what changed; ``cursor`` is known once it is at its end."""

    def __init__(self, rows: DogtagRows, directory: Directory, since: int | None, latest: int, as_of: float) -> None:
        super().__init__(
            rows.items(directory.entries(since), checks_owner=since is None), as_of, let_go=directory.close
        )
        self._rows = rows
        self._source = directory.name
        self._latest = latest

    def batches(self) -> Iterator[Any]:
        """Yield the batches; raises SourceUnavailable where what changes afterwards could never be found."""
        yield from super().batches()
        if self._rows.count and not self._rows.latest:
            raise SourceUnavailable(
                f"{self._source}: the account may not read modifyTimestamp, by which changes are found"
            )
        # Never ahead of our clock: a server whose clock is wrong would hide all that others change.
        self.cursor = f"{CURSOR_VERSION}:{min(max(self._latest, self._rows.latest), int(self.as_of))}"


class _Ldap:
    """A live directory."""

    Options: ClassVar[type[LoaderOptions]] = DogtagOptions
    lists_issued = True
    good_releases_hold = True
    follows_clock = True

    def __init__(self, options: DogtagOptions, issuer: Issuer, clock: Clock) -> None:
        self.name = f"{options.url}/{options.base}"
        self._options = options
        self._clock = clock
        self._owner = CertificateOwner(issuer)

    def peek(self) -> str:
        """Return always the same: what changed is asked for."""
        return ""

    def snapshot(self) -> DirectoryReading:
        """Read the whole repository; raises SourceUnavailable."""
        return self._reading(None, 0)

    def changes(self, cursor: str) -> DirectoryReading:
        """Read what changed since, less an overlap; raises CursorLost, SourceUnavailable."""
        version, _, latest = cursor.partition(":")
        if version != CURSOR_VERSION or not latest.isdigit():
            raise CursorLost
        return self._reading(max(0, int(latest) - OVERLAP_S), int(latest))

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the CAs of the repository, of which every entry is read."""
        with closing(Directory(self._options)) as directory:
            return _issuers(self.name, directory.entries(None))

    def _reading(self, since: int | None, latest: int) -> DirectoryReading:
        as_of = self._clock.now()
        self._owner.begin()
        rows = DogtagRows(self.name, self._owner, as_of, self._options.time_zone)
        return DirectoryReading(rows, Directory(self._options), since, latest, as_of)


class DogtagLoader:
    """The loader of the type ``dogtag``: of an LDIF or of a directory."""

    Options: ClassVar[type[LoaderOptions]] = DogtagOptions

    def __new__(cls, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> Loader:  # type: ignore[misc]
        """Make the one or the other."""
        assert isinstance(options, DogtagOptions)  # noqa: S101 - the registry checks options by our own model
        return _Ldif(options, issuer, clock) if options.path is not None else _Ldap(options, issuer, clock)
