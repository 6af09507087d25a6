"""Reads any database by a SELECT and a mapping in the configuration (docs/loaders/sql.md).

For CA systems that have no loader of their own. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, ClassVar

import sqlalchemy as sa
from pydantic import Field, model_validator

from loaders.base import Batch, FoundIssuer, Loader, LoaderOptions
from loaders.columns import TimeForm, seconds_of
from loaders.database import DatabaseLoader, DatabaseOptions, IncrementalDatabaseLoader
from loaders.entries import Item, RowMaker
from loaders.mapping import Mapper, MappingOptions
from responder.clock import Clock, format_utc
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

_LONE_COLON = re.compile(r"(?<!:):(?!:)")


class SQLOptions(DatabaseOptions, MappingOptions):
    """The keys of ``source = { type = "sql", … }``."""

    query: str = Field(description="A SELECT of the CA's rows; without ORDER BY and without a semicolon.")
    key: str = Field(
        description="Column of the result that is unique and indexed: the rows are read in its order, page by page."
    )
    updated: str | None = Field(
        None,
        description="Column with the time of a row's last change, indexed; absent: the whole result is read each `reconcile`.",
    )
    updated_time: TimeForm = Field(
        "iso", description='How `updated` is written: "iso" for a date column (UTC), "s" or "ms".'
    )

    @model_validator(mode="after")
    def _one_statement(self) -> SQLOptions:
        if ";" in self.query or not re.match(r"\s*(?:SELECT|WITH)\b", self.query, re.IGNORECASE):
            raise ValueError("query must be one SELECT, without a semicolon")
        return self


class _Mapped(DatabaseLoader):
    """What both kinds share."""

    Options: ClassVar[type[LoaderOptions]] = SQLOptions

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        super().__init__(options, issuer, siblings, clock)
        assert isinstance(options, SQLOptions)  # noqa: S101 - the registry checks options by our own model
        self._mapped = options
        self._mapper = Mapper(options, issuer)
        self.no_issuers = self._mapper.no_issuers
        self.lists_issued = options.lists == "issued"
        names = [options.key, *options.columns]
        if options.updated is not None:
            names.append(options.updated)
        # Unquoted names: as the database folds them in the SELECT, so it folds them here.
        columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in dict.fromkeys(names)]
        self._source = sa.text(_LONE_COLON.sub(r"\\:", options.query)).columns(*columns).subquery("revocast")
        self._statement = sa.select(*self._source.c)

    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Return the query of the configuration."""
        return self._statement, self._source.c[self._mapped.key]

    def batch(self, rows: Sequence[Any], make: RowMaker) -> Batch:
        """Map rows; raises SourceUnavailable where the key is none: rows at the border of two pages would be lost."""
        keys = [row[0] for row in rows]
        if None in keys or len(set(keys)) < len(keys):
            raise SourceUnavailable(
                f"{self.name}: the key {self._mapped.key!r} is not unique, or empty in some rows of the query"
            )
        return super().batch(rows, make)

    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Map a row."""
        return self._mapper.item(row._mapping, self.row_name(row), make)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the query's rows hold, where a column of them is mapped."""
        with (
            self._database.reading() as connection,
            closing(self._database.stream(connection, self._statement)) as pages,
        ):
            return self._mapper.issuers(self.name, (row._mapping for page in pages for row in page))

    def more(self, connection: sa.Connection, make: RowMaker, since: int | None) -> Iterator[Batch]:
        """Yield nothing more; raises SourceUnavailable where the rows held certificates, and none was the CA's."""
        if since is None and self._mapped.certificate is not None:
            self._mapper.owner.check(self.name)
        yield from ()


class _MappedIncremental(_Mapped, IncrementalDatabaseLoader):
    """With a column of the last change."""

    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """Compare as the column is written."""
        column = self._source.c[self._mapped.updated or ""]
        form = self._mapped.updated_time
        if form == "iso":
            bound: Any = sa.cast(sa.literal(format_utc(since)[:19].replace("T", " ")), sa.DateTime())
            if self._database.dialect().name == "sqlite":  # which has no date type: texts are compared
                bound = sa.literal(format_utc(since)[:10])
        else:
            bound = since if form == "s" else since * 1000
        return statement.where(column >= bound).order_by(column)

    def changed_at(self, row: Any) -> int:
        """Read the column; what cannot be read is no change."""
        value = row._mapping[self._mapped.updated or ""]
        try:
            return 0 if value is None else seconds_of(value, self._mapped.updated_time)
        except ValueError:
            return 0


class SQLLoader:
    """The loader of the type ``sql``: one that tells what changed where the configuration names a column for that."""

    Options: ClassVar[type[LoaderOptions]] = SQLOptions

    def __new__(cls, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> Loader:  # type: ignore[misc]
        """Make the one or the other."""
        assert isinstance(options, SQLOptions)  # noqa: S101 - the registry checks options by our own model
        kind = _MappedIncremental if options.updated is not None else _Mapped
        return kind(options, issuer, siblings, clock)
