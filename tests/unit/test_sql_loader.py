"""Any database by a SELECT and a mapping, on PostgreSQL, MariaDB and SQLite: the contract, hostile rows, readings apart."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loaders import database, registry
from loaders.base import Incremental, Loader, Row
from loaders.contract_suite import ContractSource, LoaderContract, read, rows_of
from loaders.registry import check_options, loader_class
from responder.clock import ManualClock
from responder.errors import ConfigError, SourceUnavailable
from responder.issuers import Issuer
from responder.model import Status, serial_from_octets
from tests.database_room import issuer_of

QUERY = "SELECT id, serial, state, reason, revoked_at, not_after, updated FROM certs WHERE ca = 'corp: 1'"
MAPPED: dict[str, Any] = {
    "query": QUERY,
    "key": "id",
    "serial": "serial",
    "serial_base": "dec",
    "status": "state",
    "reason": "reason",
    "revoked_at": "revoked_at",
    "not_after": "not_after",
    "time": "s",
    "updated": "updated",
    "updated_time": "s",
}


class SQLSource(ContractSource):
    """A table of our own."""

    def __init__(self, url: str, issuer: Issuer, **options: Any) -> None:
        self.url, self.issuer = url, issuer
        self.options = MAPPED | {"url": url} | options
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        self.clock_at = int(self.clock.now())
        self.execute(
            "CREATE TABLE certs (id INTEGER PRIMARY KEY, ca VARCHAR(40), serial TEXT, state VARCHAR(20),"
            " reason VARCHAR(40), revoked_at BIGINT, not_after BIGINT, updated BIGINT)"
        )

    def execute(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), rows or None)

    def open(self) -> Loader:
        kind = loader_class(self.issuer, "")
        options = check_options(kind.Options, self.options, "corp", "revocast.toml")
        loader: Loader = kind(options, self.issuer, [], self.clock)
        return loader

    def write(self, rows: Sequence[Row]) -> None:
        with self.engine.connect() as connection:
            known = {row.serial: tuple(row) for row in connection.execute(sa.text("SELECT * FROM certs"))}
        self.execute("DELETE FROM certs")
        self.clock_at += 1
        made = []
        for number, (serial, text) in enumerate(rows, 1):
            status = Status.from_text(text)
            values = {
                "id": number,
                "ca": "corp: 1",
                "serial": str(serial_from_octets(serial)),
                "state": "Hold" if status.is_hold else status.cert_status.name.lower(),
                "reason": status.reason.name if status.reason is not None else None,
                "revoked_at": status.revoked_at,
                "not_after": status.not_after,
            }
            before = known.get(values["serial"])
            is_same = before is not None and before[1:7] == tuple(values.values())[1:]
            made.append(values | {"updated": before[7] if is_same and before is not None else self.clock_at})
        self.put(*made, {**dict.fromkeys(made[0] if made else {}), "id": 999_999, "ca": "other", "serial": "1"})

    def put(self, *rows: dict[str, Any]) -> None:
        names = ("id", "ca", "serial", "state", "reason", "revoked_at", "not_after", "updated")
        filled = [dict.fromkeys(names) | {"ca": "corp: 1", "state": "good", "updated": 1} | row for row in rows]
        values = ", ".join(":" + name for name in names)
        self.execute(f"INSERT INTO certs VALUES ({values})", *filled)  # noqa: S608 - names of our own

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        hostile: list[dict[str, Any]] = [
            {"serial": "7" * 65536},
            {"serial": "12ab"},
            {"serial": None},
            {"serial": "70", "state": "revoked", "reason": "4000", "revoked_at": 5},
            {"serial": "71", "state": "revoked", "reason": "\x01né\n", "revoked_at": 5},
            {"serial": "72", "state": "revoked", "revoked_at": -5},
            {"serial": "73", "state": "revoked", "revoked_at": None},
            {"serial": "74", "not_after": 253_402_300_800},
            {"serial": "75", "state": "perhaps"},
            {"serial": "76", "state": "revoked", "revoked_at": 1 << 60},
        ]
        self.put(*({"id": 1000 + at} | row for at, row in enumerate(hostile)))
        return len(hostile)

    def take_away(self) -> None:
        self.execute("DROP TABLE certs")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return issuer_of(tmp_path_factory.mktemp("ca"), "sql")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/db" if request.param == "sqlite" else str(request.getfixturevalue(request.param))


class TestSQL(LoaderContract):
    """With a column of the last change."""

    @pytest.fixture
    def source(self, url: str, issuer: Issuer) -> ContractSource:
        return SQLSource(url, issuer)


class TestSQLAsAWhole(LoaderContract):
    """Without one."""

    @pytest.fixture
    def source(self, tmp_path: Path, issuer: Issuer) -> ContractSource:
        return SQLSource(f"sqlite:///{tmp_path}/db", issuer, updated=None)


def test_a_reading_sees_one_state_and_writes_nothing(
    each_database: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed and deleted between two pages is not seen by halves; nobody is held up by the reading."""
    monkeypatch.setattr("loaders.database.PAGE_ROWS", 2)
    source = SQLSource(each_database, issuer)
    rows = [(bytes([number]), "good exp=2030-12-31T23:59:59Z") for number in range(1, 8)]
    source.write(rows)
    loader = source.open()
    snapshot = loader.snapshot()
    batches = snapshot.batches()
    first = next(batches)
    source.execute("UPDATE certs SET state = 'revoked', revoked_at = 5, updated = 7")
    source.execute("DELETE FROM certs WHERE id > 5")
    assert rows_of([first, *batches]) == dict(rows)
    snapshot.close()
    assert isinstance(loader, Incremental)
    news = rows_of(read(loader.changes("1:0")))
    assert set(news.values()) == {"revoked 1970-01-01T00:00:05Z exp=2030-12-31T23:59:59Z"}
    assert len(news) == 5
    with loader._database.reading() as connection, pytest.raises(sa.exc.DBAPIError):  # type: ignore[attr-defined]
        connection.execute(sa.text("DELETE FROM certs"))


def test_a_date_column_and_its_zone(each_database: str, issuer: Issuer) -> None:
    """A column of dates without a zone is what the configuration says; the last change is compared in UTC."""
    source = SQLSource(each_database, issuer)
    kind = "TIMESTAMP" if each_database.startswith("postgresql") else "DATETIME"
    source.execute(f"CREATE TABLE dated (id INTEGER PRIMARY KEY, serial TEXT, r {kind} NULL, changed {kind} NULL)")
    source.execute(
        "INSERT INTO dated VALUES (1, 'aB:01', '2026-07-01 12:00:00', '2026-11-18 11:00:00'), (2, '0x0c', NULL, '2026-11-01 11:00:00')"
    )
    source.options = {
        "url": each_database,
        "query": "SELECT * FROM dated",
        "key": "id",
        "serial": "serial",
        "serial_base": "hex",
        "revoked_at": "r",
        "zone": "Europe/Berlin",
        "updated": "changed",
    }
    loader = source.open()
    assert rows_of(read(loader.snapshot())) == {b"\0\xab\x01": "revoked 2026-07-01T10:00:00Z", b"\x0c": "good"}
    assert isinstance(loader, Incremental)
    changes = loader.changes("1:1794999600")  # 2026-11-18T11:00:00Z
    assert rows_of(read(changes)) == {b"\0\xab\x01": "revoked 2026-07-01T10:00:00Z"}
    assert changes.cursor == "1:1794999600"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"url": "nonsense"}, r"source\.url: .*no database that SQLAlchemy knows"),
        ({"url": "oracle://u@h/x"}, r"source\.url: .*driver is not installed.*pip install 'revocast\[oracle\]'"),
        ({"query": "DELETE FROM certs"}, "query must be one SELECT"),
        ({"query": "SELECT 1; DROP TABLE certs"}, "query must be one SELECT"),
        ({"serial_base": None}, "serial_base must be there"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"status": None, "revoked_at": None}, "status or revoked_at must be there"),
    ],
)
def test_a_wrong_key_is_one_line(change: dict[str, Any], text: str, issuer: Issuer) -> None:
    options = MAPPED | {"url": "sqlite:///x"} | change
    with pytest.raises(ConfigError, match=text):
        check_options(loader_class(issuer, "").Options, options, "corp", "revocast.toml")


def test_the_password_is_never_shown(issuer: Issuer, tmp_path: Path) -> None:
    """Neither the one of the URL nor the file's; a server that is not there is one line."""
    file = tmp_path / "pw"
    file.write_text("s3cret\n")
    for extra in (
        {"url": "postgresql://u:s3cret@/x?host=/nonexistent"},
        {"url": "postgresql://u@/x?host=/nonexistent", "password_file": str(file)},
        {"url": "postgresql://u@/x?host=/nonexistent&password=s3cret"},
    ):
        options = check_options(loader_class(issuer, "").Options, MAPPED | extra, "corp", "revocast.toml")
        loader: Loader = loader_class(issuer, "")(options, issuer, [], ContractSource.clock)
        with pytest.raises(SourceUnavailable) as caught:
            read(loader.snapshot())
        assert "s3cret" not in str(caught.value) + loader.name
        assert "\n" not in str(caught.value)
        assert "s3cret" in options.full_url.render_as_string(hide_password=False)  # type: ignore[attr-defined]


def test_the_overlap_finds_what_was_written_late(tmp_path: Path, issuer: Issuer) -> None:
    """A row that appears with an older time: of seconds at the next poll, of minutes within a minute, never beyond."""
    source = SQLSource(f"sqlite:///{tmp_path}/db", issuer)
    clock = ManualClock(1_795_000_000.0)
    source.clock = clock
    now = int(clock.now())
    source.put({"id": 1, "serial": "1", "updated": now})
    loader = source.open()
    assert isinstance(loader, Incremental)
    snapshot = loader.snapshot()
    read(snapshot)
    cursor: str = snapshot.cursor  # type: ignore[attr-defined]

    def seen() -> set[int]:
        return {serial_from_octets(serial) for serial in rows_of(read(loader.changes(cursor)))}

    assert seen() == {1}
    source.put(
        {"id": 2, "serial": "2", "updated": now - 20},
        {"id": 3, "serial": "3", "updated": now - 300},
        {"id": 4, "serial": "4", "updated": now - 700},
    )
    assert seen() == {1, 2}
    clock.advance(61.0)
    assert seen() == {1, 2, 3}
    # A server whose clock is ahead does not hide what the others write.
    source.put({"id": 5, "serial": "5", "updated": now + 86_400})
    ahead = loader.changes(cursor)
    read(ahead)
    assert ahead.cursor == f"1:{int(clock.now())}"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"query": "DELETE FROM x"}, "one SELECT"),
        ({"url": "klingon://u:s3cret@db/x"}, r"klingon://u:…@db/x"),
        ({"url": "postgres://u:s3cr@s3cret@db/x"}, r"postgres://u:…@db/x"),
        ({"url": "klingon://u@db/x?Password=s3cret&a=b"}, r"Password=…&a=b"),
    ],
)
def test_no_wrong_key_shows_the_password(change: dict[str, Any], text: str, issuer: Issuer) -> None:
    """Not that of the key itself, and not another key's."""
    options = MAPPED | {"url": "postgresql://u:s3cret@db/x"} | change
    with pytest.raises(ConfigError, match=text) as caught:
        check_options(loader_class(issuer, "").Options, options, "corp", "revocast.toml")
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize("key", ["not_after", "reason"])
def test_a_key_that_is_none_is_refused(key: str, tmp_path: Path, issuer: Issuer) -> None:
    """The same in two rows, or empty: rows at the border of two pages would be passed over in silence."""
    source = SQLSource(f"sqlite:///{tmp_path}/x.db", issuer, key=key)
    source.write([(b"\1", "good exp=2030-12-31T23:59:59Z"), (b"\2", "good exp=2030-12-31T23:59:59Z")])
    with pytest.raises(SourceUnavailable, match=rf"the key '{key}' is not unique, or empty"):
        read(source.open().snapshot())


def test_a_loader_that_cannot_be_loaded_is_one_line(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a third party, say, that wants a module which is not there."""
    point = EntryPoint("sql", "no.such.module:Loader", "revocast.loaders")
    monkeypatch.setattr(registry, "entry_points", lambda **_: [point])
    with pytest.raises(ConfigError, match="cannot be loaded: ModuleNotFoundError: No module named 'no'"):
        loader_class(issuer, "revocast.toml")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_writer_between_two_pages_tears_no_reading(
    journal: str, tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite: a reading sees one state. With a write-ahead log the writer goes on; without, it waits until the reading is done."""
    monkeypatch.setattr(database, "PAGE_ROWS", 2)
    source = SQLSource(f"sqlite:///{tmp_path}/db", issuer, updated=None)
    revoked = "revoked 2026-01-02T03:04:05Z"
    source.write([(bytes([serial]), "good" if serial < 4 else revoked) for serial in range(1, 6)])
    with closing(sqlite3.connect(tmp_path / "db", timeout=0, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode = {journal}")
        first = read(source.open().snapshot())
        reading = source.open().snapshot().batches()
        batches = [next(reading)]
        change = "DELETE FROM certs WHERE serial LIKE '%5'"
        if journal == "wal":
            writer.execute(change)
        else:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                writer.execute(change)
        batches += reading
        assert rows_of(batches) == rows_of(first)
        assert len(rows_of(first)) == 5
        writer.execute(change)
        assert len(rows_of(read(source.open().snapshot()))) == 4
