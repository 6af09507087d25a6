"""Reads what ``certutil -view`` prints of an AD CS database, as text or CSV, in any display language (docs/loaders/adcs.md).

Labels are translated, the order of the columns and the codes are not: a value is known by its place in -out. The file is
read twice, first for its certificates, which tell how its dates are to be read. Called by loaders/certutil.py.
"""

from __future__ import annotations

import csv
import io
import re
from base64 import b64decode
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from loaders.adcs_rows import REVOKED, AdcsRow
from loaders.certutil_dates import Calibration
from loaders.entries import Doubts
from loaders.ownership import parse_certificate
from responder.errors import SourceUnavailable

DEFAULT_COLUMNS = (
    "RequestID",
    "Request.Disposition",
    "SerialNumber",
    "NotBefore",
    "NotAfter",
    "IssuerNameID",
    "Request.RevokedWhen",
    "Request.RevokedEffectiveWhen",
    "Request.RevokedReason",
    "RawCertificate",
)
NEEDED = ("disposition", "serialnumber", "revokedeffectivewhen", "revokedreason")
MAX_LINE = 1 << 16  # characters; certutil's longest are some hundred
MAX_RECORD = 1 << 18  # characters of one row; a certificate of 100 KiB fits
CALIBRATING = 1000  # certificates that are all compared with their rows; of the others each 16th
_ROW = re.compile(r"\S.*?\s([0-9]{1,10}):\s*")
_COLUMN = re.compile(r" {2}(\S[^:]*):(?: (.*))?", re.DOTALL)
_SCHEMA = re.compile(r" {2}(?:Request\.)?([A-Za-z0-9]+)\s{2,}\S")
_NUMBER = re.compile(r"(?:0x([0-9a-fA-F]{1,8})|(-?[0-9]{1,10}))(?:\s.*)?", re.DOTALL)
_STATUS = re.compile(r"certutil:\s", re.IGNORECASE)
_FAILED = re.compile(r"\b0x[0-9a-fA-F]{6,8}\b")
_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class _Raw:
    """One row as printed: values by place, or why it is none."""

    __slots__ = ("problem", "values", "where")

    def __init__(self, where: str, values: list[str], problem: str | None = None) -> None:
        self.where = where
        self.values = values
        self.problem = problem


def _canonical(column: str) -> str:
    return column.removeprefix("Request.").lower()


class CertutilDump:
    """One open dump. ``is_complete`` is known once ``rows`` is at its end: certutil's last line says that it is."""

    def __init__(self, path: Path, file: BinaryIO, columns: tuple[str, ...], order: str, zone: str) -> None:
        """Take the open file; raises SourceUnavailable where the columns or the zone will not do."""
        self._path = path
        self._file = file
        self._columns = [_canonical(column) for column in columns]
        self._encoding = _encoding(file)
        try:
            self._dates = Calibration(order, zone)
        except ValueError as error:
            raise SourceUnavailable(f"{path}: {error} (source.time_zone)") from error
        self.is_complete = False

    @property
    def position(self) -> int:
        """How far it was read, in octets."""
        return 0 if self._file.closed else self._file.tell()

    def rows(self) -> Iterator[AdcsRow]:
        """Yield the rows; raises SourceUnavailable where it is no dump, or certutil failed."""
        try:
            self._learn()
            for raw in self._raw_rows():
                yield self._row(raw)
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error

    # --- values -----------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Read all dates that tell something of the others."""
        compared = at = dates = 0
        for raw in self._raw_rows():
            if raw.problem is not None:
                continue
            at += 1
            doubts = Doubts()
            for name in ("notafter", "revokedeffectivewhen", "revokedwhen"):
                text = self._value(raw, name)
                if text is not None:
                    dates += 1
                    doubts.read(name, self._dates.see, text)
            printed = self._value(raw, "notbefore")
            if printed is None or (compared >= CALIBRATING and at % 16):
                continue
            dates += 1
            der = doubts.read("RawCertificate", _der, self._value(raw, "rawcertificate"))
            if der is None:
                doubts.read("NotBefore", self._dates.see, printed)
                continue
            certificate = doubts.read("RawCertificate", parse_certificate, der)
            if certificate is not None:
                compared += 1
                doubts.read(
                    "NotBefore", self._dates.compare, printed, int(certificate.not_valid_before_utc.timestamp())
                )
        if dates:
            try:
                self._dates.settle()
            except ValueError as error:
                raise SourceUnavailable(f"{self._path}: {error}") from error

    def _value(self, raw: _Raw, name: str) -> str | None:
        """Return a value without its quotes; None where it is empty or the dump has no such column."""
        if name not in self._columns:
            return None
        value = raw.values[self._columns.index(name)].strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1].strip()
        return None if value in ("", "EMPTY") else value

    def _row(self, raw: _Raw) -> AdcsRow:
        doubts = Doubts()
        if raw.problem is not None:
            doubts.add(raw.problem)
            return AdcsRow(raw.where, None, None, doubts=doubts)

        def number(name: str, told: Doubts) -> int | None:
            text = self._value(raw, name)
            return None if text is None else told.read(name, _number, text)

        def moment(name: str, told: Doubts) -> int | None:
            text = self._value(raw, name)
            return None if text is None else told.read(name, self._dates.seconds, text)

        disposition = number("disposition", doubts)
        # Columns that say nothing of such a row may hold anything, in any language.
        revocation = doubts if disposition == REVOKED else Doubts()
        der_text = self._value(raw, "rawcertificate")
        return AdcsRow(
            raw.where,
            disposition,
            self._value(raw, "serialnumber"),
            number("issuernameid", Doubts()),
            moment("notafter", Doubts() if _PEM_BEGIN in (der_text or "") else doubts),
            moment("revokedwhen", revocation),
            moment("revokedeffectivewhen", revocation),
            number("revokedreason", revocation),
            doubts,
            lambda: _der(der_text),
        )

    # --- rows -------------------------------------------------------------------------------------------------------

    def _raw_rows(self) -> Iterator[_Raw]:
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, self._encoding, errors="replace")
        try:
            lines = self._lines(text)
            first, number = next(((line, number) for number, line in lines if line.strip()), ("", 0))
            if first.startswith('"'):
                yield from self._csv_rows(first, number, lines)
            else:
                yield from self._text_rows(chain([(number, first)] if first else [], lines))
        finally:
            text.detach()

    def _lines(self, text: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
        number = 0
        while line := text.readline(MAX_LINE):
            number += 1
            if len(line) >= MAX_LINE:
                raise SourceUnavailable(
                    f"{self._path}:{number}: a line of more than {MAX_LINE} characters: not a dump of certutil"
                )
            if _STATUS.match(line):
                if _FAILED.search(line):
                    raise SourceUnavailable(f"{self._path}:{number}: {line.strip()[:200]}")
                self.is_complete = True
                continue
            yield number, line.rstrip("\r\n")

    def _text_rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[_Raw]:
        schema: list[str] = []
        where, size = "", 0
        values: list[str] = []
        is_open = is_row = False  # within a quoted value of several lines; within a row
        for number, line in lines:
            size += len(line) + 1
            begins = _ROW.fullmatch(line) if not is_open or size > MAX_RECORD else None
            if begins is not None:
                if is_row:
                    yield self._text_row(where, values)
                elif schema:
                    self._columns = schema
                    self._check_columns()
                else:
                    self._check_columns()
                where, values, size, is_row, is_open = f"{number} (row {begins[1]})", [], 0, True, False
            elif not is_row:
                named = _SCHEMA.match(line)
                if named is not None and line.split()[:2] != ["Column", "Name"]:
                    schema.append(named[1].lower())
            elif size > MAX_RECORD:
                values.clear()  # far too much for a row: rejected for its number of columns
            elif is_open:
                values[-1] += "\n" + line
                is_open = not line.rstrip().endswith('"')
            elif (column := _COLUMN.fullmatch(line)) is not None:
                value = (column[2] or "").strip()
                values.append(value)
                is_open = value.startswith('"') and (len(value) == 1 or not value.endswith('"'))
            elif values and (line.startswith(_PEM_BEGIN) or _PEM_BEGIN in values[-1]) and _PEM_END not in values[-1]:
                values[-1] += line + "\n"
        if is_row:
            yield self._text_row(where, values)
        elif size and not self.is_complete:
            raise SourceUnavailable(f"{self._path}: neither an ESE database nor a dump of certutil -view")

    def _text_row(self, where: str, values: list[str]) -> _Raw:
        if len(values) != len(self._columns):
            return _Raw(where, [], f"{len(values)} columns instead of {len(self._columns)}")
        return _Raw(where, values)

    def _csv_rows(self, first: str, first_number: int, lines: Iterator[tuple[int, str]]) -> Iterator[_Raw]:
        self._check_columns()
        cells = _cells(first)
        if cells is None or len(cells) != len(self._columns):
            raise SourceUnavailable(
                f"{self._path}:{first_number}: {len(cells or [])} columns, but source.columns names {len(self._columns)}"
            )
        record, start = "", 0
        for number, line in lines:
            if not record:
                if not line.startswith('"'):
                    continue  # certutil's own words at the end
                record, start = line, number
            else:
                record += "\n" + line
            if record.count('"') % 2 and len(record) < MAX_RECORD:
                continue
            cells, where, record = _cells(record), str(start), ""
            if cells is None or len(cells) != len(self._columns):
                yield _Raw(where, [], f"{len(cells or [])} columns instead of {len(self._columns)}")
            else:
                yield _Raw(where, cells)
        if record:
            yield _Raw(str(start), [], "the file breaks off here")
            self.is_complete = False

    def _check_columns(self) -> None:
        missing = [name for name in NEEDED if name not in self._columns]
        if missing:
            raise SourceUnavailable(f"{self._path}: the dump lacks the columns {', '.join(missing)}: add them to -out")


def _encoding(file: BinaryIO) -> str:
    """Return the dump's encoding: PowerShell writes UTF-16, cmd the console's code page, of which only ASCII matters."""
    file.seek(0)
    start = file.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-8-sig"


def _cells(record: str) -> list[str] | None:
    try:
        rows = list(csv.reader([record], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _number(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    if match[1] is None:
        return int(match[2])
    value = int(match[1], 16)
    return value - (1 << 32) if value >> 31 else value  # the columns are signed


def _der(text: str | None) -> bytes | None:
    """Return a printed certificate; None where there is none, as in CSV, which tells its size only."""
    if text is None or _PEM_BEGIN not in text:
        return None
    body = text.partition(_PEM_BEGIN)[2].partition(_PEM_END)[0]
    return b64decode("".join(body.split()), validate=True)
