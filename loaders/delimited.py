"""Reads a CSV, JSON Lines or NDJSON file by a mapping in the configuration (docs/loaders/sql.md).

For CA systems that have no loader of their own, and inventories. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, ClassVar, Literal

from pydantic import Field, field_validator

from loaders.base import FoundIssuer, LoaderOptions, RowRejected
from loaders.columns import shown
from loaders.entries import Item, ItemSnapshot, RowMaker
from loaders.files import file_state, open_source
from loaders.mapping import Mapper, MappingOptions
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

MAX_LINE_OCTETS = (
    1 << 22
)  # a row with a certificate has some thousands; a file without line ends must not fill the memory


_CUT = "the file breaks off in this row, which is not believed, and until it is whole the source counts as not read (an exporter that writes no line end after the last row: final_newline = false)"


class DelimitedOptions(LoaderOptions, MappingOptions):
    """The keys of ``source = { type = "delimited", … }``."""

    path: AnyPath = Field(description="The file.")
    format: Literal["csv", "jsonl"] = Field(
        "csv",
        description='"csv" with a line of column names first, or "jsonl": an object a line (JSON Lines, NDJSON), of which a mapping may name inner members as in "cert.serial".',
    )
    delimiter: str = Field(
        ",", min_length=1, max_length=1, description='What parts the columns of a CSV file; "\\t" for a tab.'
    )
    encoding: str = Field(
        "utf-8-sig", description="The file's encoding, by its name in Python, such as utf-16 or cp1252."
    )
    final_newline: bool = Field(
        True,
        description="The last row of a CSV file ends in a line end too, as of nearly all exporters: one that has none was cut. false: it need not; then a file that was cut within its last column cannot be told from a whole one.",
    )
    live: bool = Field(
        False,
        description="The file is kept up by the CA itself, and known as of the moment it is read; else it is an export, known as of its mtime.",
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError("is no encoding that Python knows, such as utf-8 or cp1252") from None
        return value


class _Lines:
    """The lines of one reading, as text; octets that are none in the encoding come through as lone surrogates."""

    def __init__(self, name: str, file: BinaryIO, encoding: str) -> None:
        self._name = name
        self._file = file
        self._encoding = encoding
        self.is_open = False  # the line that was read last has no end
        self.is_over = False  # one more line was asked for than there are
        self.is_cut = False  # the reader has found that the file breaks off

    def __iter__(self) -> Iterator[str]:
        encoding = self._encoding
        wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        for line in self._wide() if wide else self._plain():
            self.is_open = not line.endswith("\n")
            yield line
        self.is_over = True

    def _wide(self) -> Iterator[str]:
        # Their line ends are not one octet.
        text = io.TextIOWrapper(self._file, self._encoding, errors="replace", newline="")
        try:
            while line := text.readline(MAX_LINE_OCTETS):
                self._check_length(len(line))
                yield line
        finally:
            with suppress(ValueError):  # closed in mid-reading
                text.detach()

    def _plain(self) -> Iterator[str]:
        encoding = self._encoding
        errors = "surrogateescape" if encoding.lower().startswith("utf") else "replace"
        first = True
        while line := self._file.readline(MAX_LINE_OCTETS):
            self._check_length(len(line))
            yield line.decode(encoding if first or encoding != "utf-8-sig" else "utf-8", errors)
            first = False

    def _check_length(self, length: int) -> None:
        if length >= MAX_LINE_OCTETS:
            raise SourceUnavailable(
                f"{self._name}: a line of more than {MAX_LINE_OCTETS} octets: is it of this format?"
            )


class _CutRow(dict[str, Any]):
    """A row in which the file breaks off: its last column may lack its end, or all of it."""


class DelimitedLoader:
    """One file for one CA."""

    Options: ClassVar[type[LoaderOptions]] = DelimitedOptions
    good_releases_hold = True

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, DelimitedOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._options = options
        self._clock = clock
        self._mapper = Mapper(options, issuer)
        self.no_issuers = self._mapper.no_issuers
        self.lists_issued = options.lists == "issued"
        self.follows_clock = options.live

    def peek(self) -> str:
        """Return mtime, inode and size; raises SourceUnavailable."""
        return file_state(self._options.path, self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        self._mapper.owner.begin()
        file, as_of = open_source(self._options.path, self._clock)
        before = os.fstat(file.fileno())
        done = [before.st_mtime_ns, 0]

        def is_whole() -> bool:
            return not lines.is_cut and done[0] == before.st_mtime_ns and done[1] == before.st_size

        lines = _Lines(self.name, file, self._options.encoding)

        def items() -> Iterator[Item]:
            yield from self._items(lines, RowMaker(self.name, as_of))
            done[:] = [os.fstat(file.fileno()).st_mtime_ns, os.fstat(file.fileno()).st_size]
            if self._options.certificate is not None:
                self._mapper.owner.check(self.name)

        return ItemSnapshot(
            items(),
            self._clock.now() if self._options.live else as_of,
            size=before.st_size,
            position=lambda: 0 if file.closed else file.tell(),
            is_whole=is_whole,
            is_cut=lambda: lines.is_cut,
            let_go=file.close,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the rows hold, where a column of them is mapped."""
        file, _ = open_source(self._options.path, self._clock)
        try:
            with file:
                lines = _Lines(self.name, file, self._options.encoding)
                rows = (row for _, row in self._rows(lines) if not isinstance(row, str))
                return self._mapper.issuers(self.name, rows)
        except OSError as error:
            raise SourceUnavailable(f"{self.name}: cannot be read: {error.strerror}") from error

    def _rows(self, lines: _Lines) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        return self._csv_rows(lines) if self._options.format == "csv" else self._json_rows(lines)

    def _items(self, lines: _Lines, make: RowMaker) -> Iterator[Item]:
        try:
            for number, row in self._rows(lines):
                where = str(number)
                try:
                    if isinstance(row, str):
                        raise ValueError(row)
                    item = self._mapper.item(row, where, make)
                except (ValueError, TypeError, ArithmeticError) as error:
                    item = make.rejected(where, str(error))
                if isinstance(row, _CutRow):
                    item = self._not_believed(item, row, where, make)
                if item is not None:
                    yield item
        except OSError as error:
            raise SourceUnavailable(f"{self.name}: cannot be read: {error.strerror}") from error

    def _not_believed(self, item: Item | None, row: _CutRow, where: str, make: RowMaker) -> RowRejected:
        """Reject the row in which the file breaks off: what is empty there, or short, may have said "revoked"."""
        rejected = make.rejected(where, _CUT)
        if not isinstance(item, tuple | RowRejected) or next(reversed(row)) in (
            self._options.serial,
            self._options.certificate,
        ):
            return rejected  # nobody knows whose row it is
        if isinstance(item, RowRejected):
            rejected.serial_octets, rejected.presumed = item.serial_octets, item.presumed
        else:
            rejected.serial_octets = item[0]
            rejected.presumed = item[1] if item[1].startswith("revoked") else None
        return rejected

    def _csv_rows(self, lines: _Lines) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        reader = csv.reader(lines, delimiter=self._options.delimiter)
        names = next(reader, None)
        if names is None:
            raise SourceUnavailable(f"{self.name}: is empty: not even the names of the columns are there")
        if missing := [name for name in self._options.columns if name not in names]:
            known = ", ".join(map(shown, names[:50]))
            raise SourceUnavailable(f"{self.name}: has no column {missing[0]!r}; there are {known}")
        wants_end = self._options.final_newline
        if lines.is_open and wants_end:
            lines.is_cut = True
            yield reader.line_num, _CUT
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield reader.line_num, f"cannot be read: {error}"
                continue
            if row is None:
                return
            # At the end of the lines a row ends also within quotes, and its last line also without an end of its own.
            if lines.is_over or (lines.is_open and (wants_end or len(row) < len(names))):
                lines.is_cut = True
            if len(row) == len(names):
                yield reader.line_num, (_CutRow if lines.is_cut else dict)(zip(names, row, strict=True))
            elif row:
                yield reader.line_num, _CUT if lines.is_cut else f"{len(row)} columns instead of {len(names)}"

    def _json_rows(self, lines: _Lines) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                # An object that was cut is no JSON; one that is whole is so without an end of its line too.
                lines.is_cut = lines.is_open
                yield number, _CUT if lines.is_cut else f"is no JSON: {shown(str(error))}"
                continue
            yield number, _Object(value) if isinstance(value, dict) else "is no JSON object"


class _Object(dict[str, Any]):
    """A JSON object: ``a.b`` is the member b of the member a; what is not there is None."""

    def __missing__(self, name: str) -> Any:
        value: Any = dict(self)
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value
