"""A CA's database, read by SQLAlchemy Core: what all loaders of databases share.

Each reading is one read-only transaction that sees one state of the data (REPEATABLE READ or its like), takes no locks,
and comes in pages by a key, never by OFFSET; so a second, equal reading is not needed (loaders/base.py, Incremental). A
loader says what to select and what a row means. Knows no CA system. Called by loaders/ejbca.py and the others; times are
POSIX seconds UTC.
"""

from __future__ import annotations

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, field_validator
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import quoted_name

from loaders.base import Batch, CursorLost, FoundIssuer, LoaderOptions, RowRejected, Rows
from loaders.columns import certificate_of, shown
from loaders.entries import Item, Released, RowMaker
from responder.clock import Clock
from responder.config import Duration, FilePath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer, subject_and_key

PAGE_ROWS = 20_000  # of one query: some 10 MB in the client
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 300  # of a page; a connection that is dead must not hold up the follower for ever
NARROW_S = 30  # overlap of most polls: clocks of one farm and short transactions
WIDE_EVERY_S = 60.0  # the whole overlap is read this often
CURSOR_VERSION = "1"

# What the first statement of a transaction makes of it, by SQLAlchemy's name of the database. Python's sqlite3 begins none for a
# SELECT by itself; this one locks nothing before it reads, and then as a reader alone.
_BEGIN = {
    "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    "mariadb": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
    "mssql": "SET TRANSACTION ISOLATION LEVEL SNAPSHOT",
    "sqlite": "BEGIN DEFERRED",
}
# Dates of the databases' own types come and are compared in UTC, whatever the server's zone.
_MYSQL = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
    "init_command": "SET time_zone = '+00:00'",
}
_CONNECT: dict[str, dict[str, Any]] = {
    "psycopg": {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "options": f"-c statement_timeout={READ_TIMEOUT_S}s -c timezone=UTC",
    },
    "pymysql": _MYSQL,
    "mysqldb": _MYSQL,
}
# Parameters of a URL that hold a password, or may: odbc_connect is a whole connection string.
_SECRET = re.compile(r"pass|pwd|secret|token|odbc_connect", re.IGNORECASE)
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql", "oracle": "oracledb", "mssql": "pyodbc"}


class DatabaseOptions(LoaderOptions):
    """The keys of ``source`` of every loader of a database."""

    url: str = Field(
        description="The database as SQLAlchemy names it, such as postgresql://revocast@db.example.com/ejbca or "
        "mariadb://revocast@db.example.com/ejbca; a driver may be named, as in mysql+mysqldb://."
    )
    password_file: FilePath | None = Field(None, description="File whose first line is the database user's password.")
    poll: Duration | None = Field(1, ge=1, description="How often what changed is asked for.")
    overlap: Duration = Field(
        600,
        description="How far back what changed is read again, once a minute: more than the clocks of the CA's servers differ, and than its longest transaction takes.",
    )

    @field_validator("url")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            url = sa.make_url(value)
            with_driver(url).get_dialect().import_dbapi()
        except (ArgumentError, NoSuchModuleError) as error:
            raise ValueError(f"is no database that SQLAlchemy knows: {str(error).splitlines()[0]}") from None
        except ImportError as error:
            extra = {"mariadb": "mysql"}.get(url.get_backend_name(), url.get_backend_name())
            raise ValueError(f"its driver is not installed ({error}): pip install 'revocast[{extra}]'") from None
        return value

    @property
    def full_url(self) -> sa.URL:
        """The URL with driver and password; the file is read anew each time: passwords change."""
        url = with_driver(sa.make_url(self.url))
        if self.password_file is None:
            return url
        lines = self.password_file.read_text("utf-8").splitlines()
        return url.set(password=lines[0] if lines else "")

    @property
    def shown_url(self) -> str:
        """The URL without its password, wherever that stands, for people."""
        url = sa.make_url(self.url)
        query = {name: value for name, value in url.query.items() if not _SECRET.search(name)}
        return url.set(password=None, query=query).render_as_string()

    @property
    def shared_key(self) -> str | None:
        """CAs share a database."""
        return self.shown_url


def with_driver(url: sa.URL) -> sa.URL:
    """Name the driver that we install, where the operator names none."""
    backend = url.get_backend_name()
    if "+" in url.drivername or backend not in _DRIVERS:
        return url
    return url.set(drivername=f"{backend}+{_DRIVERS[backend]}")


def unquoted(name: str, *columns: str) -> sa.TableClause:
    """Name a table and its columns without quotes: PostgreSQL and Oracle fold them, MySQL takes them as they stand."""
    return sa.table(quoted_name(name, False), *(sa.column(quoted_name(column, False)) for column in columns))


def utc(seconds: int) -> sa.BindParameter[datetime]:
    """Return a time as what a database's date column is compared with."""
    return sa.literal(datetime.fromtimestamp(seconds, UTC), sa.DateTime(timezone=True))


def found_issuer(name: str, blob: Any) -> FoundIssuer:
    """Describe an issuer that a database holds; one whose certificate cannot be read is named all the same."""
    try:
        return FoundIssuer(name, certificate_of(blob).public_bytes(Encoding.DER))
    except ValueError:
        return FoundIssuer(name)


class Database:
    """Connections to one database. Raises SourceUnavailable, in one line, for whatever the driver says."""

    def __init__(self, options: DatabaseOptions) -> None:
        self._options = options
        self._engine: sa.Engine | None = None
        self.name = options.shown_url

    def dialect(self) -> sa.Dialect:
        """Return the dialect: what is asked of the database depends on it."""
        return self._options.full_url.get_dialect()()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One read-only transaction that sees one state of the data."""
        try:
            if self._engine is None:
                url = self._options.full_url
                arguments = _CONNECT.get(url.get_driver_name(), {})
                self._engine = sa.create_engine(
                    url,
                    poolclass=QueuePool,
                    pool_size=1,
                    max_overflow=2,  # a whole pass, changes beside it, and one that is compared
                    pool_pre_ping=True,
                    pool_recycle=600,
                    connect_args=arguments,
                )
                weakref.finalize(self, self._engine.dispose)
                if self._engine.driver == "psycopg":
                    sa.event.listen(self._engine, "connect", _read_any_date)
                elif self._engine.dialect.name == "sqlite":
                    sa.event.listen(self._engine, "connect", _read_only)
            with self._engine.connect() as connection:
                connection.exec_driver_sql(_BEGIN.get(connection.dialect.name, "SELECT 1"))
                yield connection
        except (SQLAlchemyError, OSError, UnicodeError) as error:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None  # a password file may have changed
            said = getattr(error, "orig", None) or error
            raise SourceUnavailable(f"{self.name}: cannot be read: {' '.join(str(said).split())[:500]}") from error

    def pages(
        self, connection: sa.Connection, statement: sa.Select[Any], key: sa.ColumnElement[Any], at: int
    ) -> Iterator[Sequence[Any]]:
        """Yield a statement's rows page by page in the order of ``key``: unique, and column ``at`` of the statement."""
        ordered = statement.order_by(key).limit(PAGE_ROWS)
        page = connection.execute(ordered).fetchall()
        while page:
            yield page
            if len(page) < PAGE_ROWS:
                return
            page = connection.execute(ordered.where(key > page[-1][at])).fetchall()

    def stream(self, connection: sa.Connection, statement: sa.Select[Any]) -> Generator[Sequence[Any], None, None]:
        """Yield a statement's rows in its own order, through a cursor of the server's."""
        streaming = statement.execution_options(stream_results=True, max_row_buffer=PAGE_ROWS)
        with connection.execute(streaming) as result:
            yield from result.partitions(PAGE_ROWS)


def _columns_of(connection: sa.Connection, statement: sa.Select[Any]) -> frozenset[str]:
    # Of the databases only PostgreSQL ends a transaction with a statement's error.
    is_postgresql = connection.dialect.name == "postgresql"
    try:
        with connection.begin_nested() if is_postgresql else nullcontext():
            result = connection.execute(statement.where(sa.literal(1) == 0))
            return frozenset(name.lower() for name in result.keys())  # noqa: SIM118 - a result is no dict
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return frozenset()


def _read_only(connection: Any, _record: object) -> None:
    """Have SQLite refuse to write."""
    connection.execute("PRAGMA query_only = 1")


def _read_any_date(connection: Any, _record: object) -> None:
    """Have psycopg return dates that Python has none for (infinity, the year 10000) as text: one bad row, not a bad page."""
    import psycopg
    from psycopg.types import datetime as types

    def lenient(kind: Any) -> Any:
        class Lenient(kind):  # type: ignore[misc]
            def load(self, data: Any) -> Any:
                try:
                    return super().load(data)
                except psycopg.DataError:
                    return bytes(data).decode("ascii", "replace")

        return Lenient

    for name, kind in (
        ("timestamptz", types.TimestamptzLoader),
        ("timestamp", types.TimestampLoader),
        ("date", types.DateLoader),
    ):
        connection.adapters.register_loader(name, lenient(kind))


class DatabaseLoader(ABC):
    """Reads one CA's rows from a database. One that also tells what changed derives from IncrementalDatabaseLoader."""

    Options: ClassVar[type[LoaderOptions]] = DatabaseOptions
    lists_issued = True
    good_releases_hold = True  # a status column states what holds now
    follows_clock = False  # without changes only a whole pass says anything
    consistent = True

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        """``siblings`` are the other CAs whose rows stand in the same database."""
        assert isinstance(options, DatabaseOptions)  # noqa: S101 - the registry checks options by our own model
        self._options = options
        self._issuer = issuer
        self._siblings = siblings
        self._clock = clock
        self._database = Database(options)
        self.name = self._database.name

    # --- what a CA system's loader says ----------------------------------------------------------------------------

    @abstractmethod
    def statement(self, connection: sa.Connection) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
        """Return what selects the CA's rows, and the unique key in whose order they come: the first column.

        May ask the database, such as which columns it has; raises SourceUnavailable where the CA is not there.
        """

    @abstractmethod
    def item(self, row: Any, make: RowMaker) -> Item | None:
        """Return what one row says; None: nothing about certificates of this CA. ValueError rejects the row."""

    def batch(self, rows: Sequence[Any], make: RowMaker) -> Batch:
        """Make rows of the database into a batch. Loaders of large CAs have a quicker way for the ordinary row."""
        batch = Batch([])
        for row in rows:
            self.put(row, make, batch)
        return batch

    def put(self, row: Any, make: RowMaker, batch: Batch) -> None:
        """Put into the batch what one row says."""
        try:
            item = self.item(row, make)
        except (ValueError, TypeError, ArithmeticError) as error:
            item = make.rejected(self.row_name(row), str(error))
        if isinstance(item, RowRejected):
            batch.rejected.append(item)
        elif isinstance(item, Released):
            batch.released.append((item.serial_octets, item.text))
        elif item is not None:
            batch.rows.append(item)

    def row_name(self, row: Any) -> str:
        """Name a row so that an administrator finds it: by its key."""
        return shown(row[0])

    def more(self, connection: sa.Connection, make: RowMaker, since: int | None) -> Iterator[Batch]:
        """Yield what stands in further tables; ``since`` as in ``changed_since``, None for all."""
        yield from ()

    # --- what they share -----------------------------------------------------------------------------------------------

    @staticmethod
    def columns_of(connection: sa.Connection, table: sa.FromClause) -> frozenset[str]:
        """Return a table's columns in lower case: versions differ. Empty where there is none that the account may read."""
        return _columns_of(connection, sa.select(sa.text("*")).select_from(table))

    @staticmethod
    def may_read(connection: sa.Connection, *columns: sa.ColumnElement[Any]) -> bool:
        """Say whether these columns are there, and the account may read them."""
        return bool(_columns_of(connection, sa.select(*columns)))

    def is_the_ca(self, blob: Any) -> bool:
        """Say whether a certificate (DER, PEM, base64) has the CA's name and key, of whatever generation; never raises."""
        try:
            found = subject_and_key(certificate_of(blob))
        except ValueError:
            return False
        return found == (self._issuer.subject_der, self._issuer.public_key_octets)

    # --- readings ----------------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """One read-only transaction; raises SourceUnavailable."""
        return self._database.reading()

    def peek(self) -> str:
        """Return always the same: whole passes alone see what changed, as often as ``reconcile`` says."""
        return ""

    def snapshot(self) -> Rows:
        """Read everything in one transaction."""
        return Rows(self.batches_of_all(), self._clock.now())

    def batches_of_all(self) -> Iterator[Batch]:
        """Yield all rows."""
        make = RowMaker(self.name, self._clock.now())
        with self._database.reading() as connection:
            statement, key = self.statement(connection)
            for page in self._database.pages(connection, statement, key, 0):
                yield self.batch(page, make)
            yield from self.more(connection, make, None)


class Watermark:
    """The latest change that one reading saw."""

    def __init__(self, latest: int) -> None:
        self.latest = latest


class IncrementalDatabaseLoader(DatabaseLoader):
    """A DatabaseLoader whose rows carry the time of their last change."""

    follows_clock = True
    narrow_s: ClassVar[int] = NARROW_S  # where the time of a change is not the time at which it was written, far more

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        super().__init__(options, issuer, siblings, clock)
        self._wide_at: float | None = None  # monotonic: when the whole overlap was last read

    @abstractmethod
    def changed_since(self, statement: sa.Select[Any], since: int) -> sa.Select[Any]:
        """Narrow the statement to rows that changed at ``since`` (POSIX seconds) or later, in the order of their changes."""

    @abstractmethod
    def changed_at(self, row: Any) -> int:
        """Return when a row changed, POSIX seconds rounded down; 0 where it does not say. Never raises."""

    def snapshot(self) -> Rows:
        """Read everything in one transaction; the cursor says how far its changes go."""
        mark = Watermark(0)
        return self._rows(self._marked(mark, None), mark)

    def changes(self, cursor: str) -> Rows:
        """Read what changed since the cursor, less the overlap: a short one, and once a minute the whole."""
        version, _, latest = cursor.partition(":")
        if version != CURSOR_VERSION or not latest.isdigit():
            raise CursorLost
        mark = Watermark(int(latest))
        now = self._clock.monotonic()
        is_wide = self._wide_at is None or now - self._wide_at >= WIDE_EVERY_S
        overlap = self._options.overlap if is_wide else min(self.narrow_s, self._options.overlap)
        return self._rows(self._marked(mark, max(0, mark.latest - overlap)), mark, wide_at=now if is_wide else None)

    def _rows(self, batches: Iterator[Batch], mark: Watermark, *, wide_at: float | None = None) -> Rows:
        as_of = self._clock.now()

        def cursor() -> str:
            if wide_at is not None:
                self._wide_at = wide_at
            # Never ahead of our clock: a row of a server whose clock is wrong would hide all that others change.
            return f"{CURSOR_VERSION}:{min(mark.latest, int(as_of))}"

        return Rows(batches, as_of, cursor=cursor)

    def _marked(self, mark: Watermark, since: int | None) -> Iterator[Batch]:
        make, changed_at = RowMaker(self.name, self._clock.now()), self.changed_at
        with self._database.reading() as connection:
            statement, key = self.statement(connection)
            pages: Iterator[Sequence[Any]]
            if since is None:
                pages = self._database.pages(connection, statement, key, 0)
            else:
                pages = self._database.stream(connection, self.changed_since(statement, since))
            for page in pages:
                mark.latest = max(mark.latest, max(map(changed_at, page)))
                yield self.batch(page, make)
            yield from self.more(connection, make, since)
