"""A database that is a file, or perhaps a server: what the loaders of small CAs' databases share (SQLite and the like).

A file is looked at by its state, a server is read as a whole as often as ``reconcile`` says. Every reading is one
transaction. Called by loaders/cfssl.py, loaders/xca.py and loaders/stepca.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import sqlalchemy as sa
from pydantic import Field, model_validator

from loaders.base import Batch, LoaderOptions, RowRejected, Rows
from loaders.database import Database, DatabaseLoader, DatabaseOptions
from loaders.entries import Item, Released, RowMaker
from loaders.files import file_state
from loaders.ownership import CertificateOwner
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer


class DatabaseFileOptions(DatabaseOptions):
    """A ``path`` or a ``url``."""

    path: AnyPath | None = Field(None, description="The SQLite file, where it is one; instead of url.")
    url: str = Field(
        "",
        description="The database server as SQLAlchemy names it, such as postgresql://revocast@db.example.com/ca or mariadb://revocast@db.example.com/ca; instead of path.",
    )
    is_copy: bool = Field(
        False, alias="copy", description="The path is a copy: what it says is known as of the file's mtime."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> DatabaseFileOptions:
        if (self.path is None) == (not self.url):
            raise ValueError("either path or url must be there")
        return self

    @property
    def full_url(self) -> sa.URL:
        """The URL with driver and password, or of the file: read-only, and never made anew where it is absent."""
        if self.path is None:
            return super().full_url
        return sa.make_url(f"sqlite:///file:{quote(str(self.path))}?mode=ro&uri=true")

    @property
    def shown_url(self) -> str:
        """The path, or the URL without its password."""
        return str(self.path) if self.path is not None else super().shown_url

    @property
    def shared_key(self) -> str:
        """CAs share a database."""
        return os.path.realpath(self.path) if self.path is not None else super().shown_url


def path_state(path: Path, clock: Clock) -> str:
    """Return the state of a SQLite file with its write-ahead log, where that is in use; raises SourceUnavailable."""
    wal = path.with_name(path.name + "-wal")
    return file_state(path, clock) + ("," + file_state(wal, clock) if wal.exists() else "")


def copy_time(path: Path, clock: Clock) -> float:
    """Return as of when a copy speaks: its mtime, never ahead of the clock; raises SourceUnavailable."""
    try:
        return min(path.stat().st_mtime, clock.now())
    except OSError as error:
        raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error


class DatabaseFileLoader(DatabaseLoader):
    """Reads all rows of one statement in one transaction; a subclass says which, and what each means."""

    Options: ClassVar[type[LoaderOptions]] = DatabaseFileOptions

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        super().__init__(options, issuer, siblings, clock)
        assert isinstance(options, DatabaseFileOptions)  # noqa: S101 - the registry checks options by our own model
        self._path = options.path
        self._is_copy = options.is_copy
        self._owner = CertificateOwner(issuer)
        self.follows_clock = options.path is not None and not options.is_copy

    def peek(self) -> str:
        """Return a file's state; of a server always the same: whole passes see what changed."""
        return "" if self._path is None else path_state(self._path, self._clock)

    def snapshot(self) -> Rows:
        """Read everything in one transaction."""
        as_of = self._clock.now()
        self._database = self.fresh()
        if self._path is not None and self._is_copy:
            as_of = copy_time(self._path, self._clock)
        return Rows(self._batches(as_of), as_of)

    def fresh(self) -> Database:
        """Return the database, a file opened anew: an open connection would go on with one that was replaced."""
        return self._database if self._path is None else Database(self._options)

    def _batches(self, as_of: float) -> Iterator[Batch]:
        make = RowMaker(self.name, as_of)
        self._owner.begin()
        with self._database.reading() as connection:
            statement, _ = self.statement(connection)
            with closing(self._database.stream(connection, statement)) as pages:
                for page in pages:
                    yield self.batch(page, make)
            yield from self.more(connection, make, None)
        self._owner.check(self.name)


def table(connection: sa.Connection, name: str, needed: Sequence[str], source: str) -> Any:
    """Return a table with the columns that it has; raises SourceUnavailable where it, or one that is needed, is not there."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(name):
        raise SourceUnavailable(f"{source}: has no table {name}: not a database of this CA system")
    names = {column["name"].lower(): column["name"] for column in inspector.get_columns(name)}
    missing = [one for one in needed if one not in names]
    if missing:
        raise SourceUnavailable(f"{source}: the table {name} lacks the columns {', '.join(missing)}")
    # Without types, so that the driver's own values arrive: a library's idea of a date would stop at the first odd one.
    return sa.table(name, *(sa.column(one) for one in names.values()))


def add(item: Item, batch: Batch) -> None:
    """Put an item into a batch."""
    if isinstance(item, RowRejected):
        batch.rejected.append(item)
    elif isinstance(item, Released):
        batch.released.append((item.serial_octets, item.text))
    else:
        batch.rows.append(item)
