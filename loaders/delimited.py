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

from loaders.base import FoundIssuer, LoaderOptions
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
            return done[0] == before.st_mtime_ns and done[1] == before.st_size

        def items() -> Iterator[Item]:
            yield from self._items(file, RowMaker(self.name, as_of))
            done[:] = [os.fstat(file.fileno()).st_mtime_ns, os.fstat(file.fileno()).st_size]
            if self._options.certificate is not None:
                self._mapper.owner.check(self.name)

        return ItemSnapshot(
            items(),
            self._clock.now() if self._options.live else as_of,
            size=before.st_size,
            position=lambda: 0 if file.closed else file.tell(),
            is_whole=is_whole,
            let_go=file.close,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the rows hold, where a column of them is mapped."""
        file, _ = open_source(self._options.path, self._clock)
        try:
            with file:
                rows = (row for _, row in self._rows(file) if not isinstance(row, str))
                return self._mapper.issuers(self.name, rows)
        except OSError as error:
            raise SourceUnavailable(f"{self.name}: cannot be read: {error.strerror}") from error

    def _rows(self, file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        return self._csv_rows(file) if self._options.format == "csv" else self._json_rows(file)

    def _items(self, file: BinaryIO, make: RowMaker) -> Iterator[Item]:
        try:
            for number, row in self._rows(file):
                where = str(number)
                try:
                    if isinstance(row, str):
                        raise ValueError(row)
                    item = self._mapper.item(row, where, make)
                except (ValueError, TypeError, ArithmeticError) as error:
                    item = make.rejected(where, str(error))
                if item is not None:
                    yield item
        except OSError as error:
            raise SourceUnavailable(f"{self.name}: cannot be read: {error.strerror}") from error

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        """Yield lines as text; octets that are none in the encoding come through as lone surrogates."""
        encoding = self._options.encoding
        if encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
            text = io.TextIOWrapper(file, encoding, errors="replace", newline="")  # their line ends are not one octet
            try:
                while wide := text.readline(MAX_LINE_OCTETS):
                    self._check_length(len(wide))
                    yield wide
            finally:
                with suppress(ValueError):  # closed in mid-reading
                    text.detach()
            return
        errors = "surrogateescape" if encoding.lower().startswith("utf") else "replace"
        first = True
        while line := file.readline(MAX_LINE_OCTETS):
            self._check_length(len(line))
            yield line.decode(encoding if first or encoding != "utf-8-sig" else "utf-8", errors)
            first = False

    def _check_length(self, length: int) -> None:
        if length >= MAX_LINE_OCTETS:
            raise SourceUnavailable(f"{self.name}: a line of more than {MAX_LINE_OCTETS} octets: is it of this format?")

    def _csv_rows(self, file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        reader = csv.reader(self._lines(file), delimiter=self._options.delimiter)
        names = next(reader, None)
        if names is None:
            raise SourceUnavailable(f"{self.name}: is empty: not even the names of the columns are there")
        if missing := [name for name in self._options.columns if name not in names]:
            known = ", ".join(map(shown, names[:50]))
            raise SourceUnavailable(f"{self.name}: has no column {missing[0]!r}; there are {known}")
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield reader.line_num, f"cannot be read: {error}"
                continue
            if row is None:
                return
            if len(row) == len(names):
                yield reader.line_num, dict(zip(names, row, strict=True))
            elif row:
                yield reader.line_num, f"{len(row)} columns instead of {len(names)}"

    def _json_rows(self, file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        for number, line in enumerate(self._lines(file), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"is no JSON: {shown(str(error))}"
                continue
            yield number, _Object(value) if isinstance(value, dict) else "is no JSON object"


class _Object(dict[str, Any]):
    """A JSON object: ``a.b`` is the member b of the member a; what is not there is None."""

    def __missing__(self, name: str) -> Any:
        value: Any = dict(self)
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value
