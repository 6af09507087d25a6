"""Reads audit reports of AWS Private CA, JSON or CSV (docs/loaders/aws-pca.md).

A report lists every certificate, and one that was revoked perhaps twice: as issued and as revoked. So it is read twice: the
revoked first, whose serials are remembered. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pydantic import Field

from loaders.base import FoundIssuer, LoaderOptions
from loaders.discovery import MAX_ISSUERS
from loaders.entries import Doubts, Item, ItemSnapshot, RowMaker, seconds_from_iso, serial_from_hex
from loaders.files import file_state, open_source
from loaders.normalize import reason_from_name
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.log import get_logger
from responder.model import CRLReason

log = get_logger(__name__)

MAX_RECORD = 1 << 18  # characters of one certificate's record; real ones have some hundred
BLOCK = 1 << 20
# A report is complete when AWS puts it into the bucket, and whoever copies it writes it in one go. So one whose last row has
# no line end is complete too, once nobody has written to it for this long.
SETTLED_S = 60.0
_NEEDED = ("serial", "notAfter", "revokedAt")
_BETWEEN = " \t\r\n,"


class AwsPcaOptions(LoaderOptions):
    """The keys of ``source = { type = "aws-pca", … }``."""

    path: AnyPath = Field(
        description="An audit report (.json or .csv), or a directory of reports, of which the newest is read."
    )
    arn: str | None = Field(
        None,
        description="ARN of the CA; a report of another one is refused. Absent: the report is believed to be this CA's.",
    )

    @property
    def shared_key(self) -> None:
        """A report is of one CA."""


class AwsPcaLoader:
    """Audit reports of one CA."""

    Options: ClassVar[type[LoaderOptions]] = AwsPcaOptions
    lists_issued = True
    good_releases_hold = False  # AWS knows no hold
    follows_clock = False

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, AwsPcaOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._path = options.path
        self._arn = options.arn
        self._clock = clock
        self._issuer = issuer
        self._has_warned = False

    def peek(self) -> str:
        """Return the newest report's state; raises SourceUnavailable. It changes once a report without an end is settled."""
        path = self._newest()
        state = file_state(path, self._clock)
        file, changed_at = open_source(path, self._clock)
        with file:
            return state + ("" if _has_end(file) or self._is_settled(changed_at) else ":open")

    def _is_settled(self, changed_at: float) -> bool:
        return self._clock.now() - changed_at >= SETTLED_S

    def snapshot(self) -> ItemSnapshot:
        """Open the newest report for one reading; raises SourceUnavailable."""
        path = self._newest()
        file, as_of = open_source(path, self._clock)
        report = Report(path, file, self._arn, is_settled=self._is_settled(as_of))
        if self._arn is None and not self._has_warned:
            self._has_warned = True
            log.warning("source_owner_unchecked", source=str(path), ca=self._issuer.name)
        return ItemSnapshot(
            report.items(RowMaker(str(path), as_of)),
            as_of,
            size=2 * os.fstat(file.fileno()).st_size,
            position=lambda: report.position,
            is_whole=lambda: report.is_whole,
            let_go=file.close,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the ARNs of the CAs in the newest report: it holds no certificate."""
        path = self._newest()
        file, _ = open_source(path, self._clock)
        with file:
            return [FoundIssuer(arn) for arn in Report(path, file, None, is_settled=True).arns()]

    def _newest(self) -> Path:
        if not self._path.is_dir():
            return self._path
        try:
            reports = [one for one in self._path.iterdir() if one.suffix.lower() in (".json", ".csv")]
            if reports:
                return max(reports, key=lambda one: (one.stat().st_mtime, one.name))
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
        raise SourceUnavailable(f"{self._path}: holds no report (.json or .csv)")


class Report:
    """One open report. ``is_whole`` is known once ``items`` is at its end; ``is_settled``: nobody writes to it any more."""

    def __init__(self, path: Path, file: BinaryIO, arn: str | None, *, is_settled: bool) -> None:
        self._path = path
        self._is_settled = is_settled
        self._before = os.fstat(file.fileno())
        self._file = file
        self._arn = arn
        self.is_whole = True
        self._read_before = 0

    @property
    def position(self) -> int:
        """How far it was read, in octets; both readings count."""
        return self._read_before if self._file.closed else self._read_before + self._file.tell()

    def items(self, rows: RowMaker) -> Iterator[Item]:
        """Yield everything; raises SourceUnavailable where it is no report, or another CA's."""
        revoked: set[bytes] = set()
        try:
            for where, record in self._records():
                if isinstance(record, str):
                    yield rows.rejected(where, record)
                elif record.get("revokedAt"):
                    item = self._revoked(where, record, rows)
                    octets = item.serial_octets if not isinstance(item, tuple) else item[0]
                    if octets is not None:
                        revoked.add(octets)
                    yield item
            self._read_before = self._file.tell()
            for where, record in self._records():
                if not isinstance(record, str) and not record.get("revokedAt"):
                    item = self._good(where, record, rows)
                    octets = item.serial_octets if not isinstance(item, tuple) else item[0]
                    if octets is None or octets not in revoked:
                        yield item
            after, before = os.fstat(self._file.fileno()), self._before
            if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
                self.is_whole = False
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error

    def arns(self) -> list[str]:
        """Return the ARNs of the CAs whose certificates it lists; raises SourceUnavailable."""
        found: dict[str, None] = {}
        try:
            for _, record in self._records():
                arn = "" if isinstance(record, str) else record.get("certificateArn")
                ca, slash, _ = arn.partition("/certificate/") if isinstance(arn, str) else ("", "", "")
                if slash and len(found) < MAX_ISSUERS:
                    found[ca] = None
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
        return list(found)

    # --- one record -------------------------------------------------------------------------------------------------

    def _good(self, where: str, record: Mapping[str, Any], rows: RowMaker) -> Item:
        # A reason without a date is no revocation: AWS writes UNSPECIFIED into rows that are not revoked.
        doubts = Doubts()
        octets = self._serial(record, doubts)
        not_after = doubts.read("notAfter", _moment, record.get("notAfter"))
        return rows.good(where, octets, not_after, doubts)

    def _revoked(self, where: str, record: Mapping[str, Any], rows: RowMaker) -> Item:
        doubts = Doubts()
        octets = self._serial(record, doubts)
        not_after = doubts.read("notAfter", _moment, record.get("notAfter"))
        revoked_at = doubts.read("revokedAt", _moment, record.get("revokedAt"))
        reason = doubts.read("revocationReason", _reason, record.get("revocationReason"))
        return rows.revoked(where, octets, not_after, doubts, revoked_at=revoked_at, reason=reason)

    def _serial(self, record: Mapping[str, Any], doubts: Doubts) -> bytes | None:
        arn = record.get("certificateArn")
        if self._arn is not None and not (isinstance(arn, str) and arn.startswith(self._arn + "/")):
            raise SourceUnavailable(
                f"{self._path}: belongs to another CA: certificateArn {str(arn)[:200]!r} is not under {self._arn!r} (source.arn)"
            )
        return doubts.read("serial", _serial, record.get("serial"))

    # --- records ----------------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        """Yield where, and a record or what is wrong with it."""
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, "utf-8-sig", errors="replace", newline="")
        try:
            start = text.read(1)
            while start.isspace():
                start = text.read(1)
            if start == "[":
                yield from self._json(text)
            elif start:
                yield from self._csv(start, text)
            else:
                raise SourceUnavailable(f"{self._path}: the report is empty")
        finally:
            text.detach()

    def _json(self, text: io.TextIOWrapper) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        # Numbers are not read: no field that counts is one, and a million digits must not cost more than their row.
        decoder = json.JSONDecoder(parse_int=lambda _: None, parse_float=lambda _: None)
        rest, at, number, is_ended = "", 0, 0, False
        while True:
            while at < len(rest) and rest[at] in _BETWEEN:
                at += 1
            if rest.startswith("]", at):
                return
            try:
                record, at = decoder.raw_decode(rest, at)
            except (ValueError, RecursionError) as error:
                if not is_ended and len(rest) - at < MAX_RECORD:
                    block = text.read(BLOCK)
                    is_ended = not block
                    rest, at = rest[at:] + block, 0
                    continue
                if is_ended and isinstance(error, ValueError):
                    self.is_whole = False  # the report breaks off
                    return
                said = f"not JSON at certificate {number + 1}: {str(error)[:100]}"
                raise SourceUnavailable(f"{self._path}: {said}") from error
            number += 1
            if isinstance(record, dict):
                yield f"certificate {number}", record
            else:
                yield f"certificate {number}", "not a JSON object"

    def _csv(self, start: str, text: io.TextIOWrapper) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
        head = _cells(start + text.readline(MAX_RECORD)) or []
        missing = [name for name in _NEEDED if name not in head]
        if missing:
            raise SourceUnavailable(f"{self._path}: not an audit report: it lacks the columns {', '.join(missing)}")
        number, record, started = 1, "", 2
        while line := text.readline(MAX_RECORD):
            number += 1
            record += line
            if record.count('"') % 2 and len(record) < MAX_RECORD:
                continue  # a line end within quotes
            cells = _cells(record) if record.strip() else []
            is_odd = cells is None or (bool(cells) and len(cells) != len(head))
            if not line.endswith("\n") and (is_odd or not self._is_settled):
                self.is_whole = False
            if is_odd:
                yield str(started), f"{len(cells or [])} columns instead of {len(head)}"
            elif cells:
                yield str(started), dict(zip(head, cells, strict=True))
            record, started = "", number + 1
        if record:
            self.is_whole = False
            yield str(started), "the report breaks off here"


def _has_end(file: BinaryIO) -> bool:
    """Say whether a report ends in a line's end (CSV) or in its own (JSON)."""
    try:
        file.seek(-1, os.SEEK_END)
        return file.read(1) in (b"\n", b"]")
    except OSError:
        return True  # an empty file, of which something else is said


def _cells(record: str) -> list[str] | None:
    try:
        rows = list(csv.reader([record], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _serial(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"the serial {str(value)[:40]!r} is no text")
    return serial_from_hex(value.strip(), ":")


def _moment(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"no date: {str(value)[:40]!r}")
    return seconds_from_iso(value.strip())


def _reason(value: object) -> CRLReason:
    if value is None or value == "":
        return CRLReason.UNSPECIFIED
    if not isinstance(value, str):
        raise ValueError(f"unknown revocation reason {str(value)[:40]!r}")
    return reason_from_name(value[:100])
