"""Real PostgreSQL and MariaDB servers, one of each for a test session: own data directory, unix socket, no port.

Fixtures: ``postgresql`` and ``mariadb`` give a fresh, empty database on the session's server, ``each_database`` runs a
test on both. Where a server is not installed its tests are skipped, and fail with CI=true.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.components import lacking

START_WITHIN_S = 60.0
QUICK_MARIADB = (
    "--no-defaults",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-file-per-table=0",
    "--sync-frm=0",
    "--performance-schema=OFF",
    "--skip-networking",
    "--skip-grant-tables",
    "--sql-mode=",  # as on servers that let hand-made zero dates in
)


@dataclass
class Server:
    """A running server; ``url(name)`` is a database's."""

    backend: str
    socket_dir: Path
    _count: int = 0

    def url(self, database: str, user: str | None = None) -> str:
        if self.backend == "postgresql":
            return f"postgresql+psycopg://{user or 'postgres'}@/{database}?host={self.socket_dir}"
        return (
            f"mariadb+pymysql://{user or 'root'}@localhost/{database}?unix_socket={self.socket_dir}/s&charset=utf8mb4"
        )

    def create(self) -> str:
        """Make an empty database, and return its URL."""
        self._count += 1
        name = f"test{self._count}"
        admin = "postgres" if self.backend == "postgresql" else "mysql"
        engine = sa.create_engine(self.url(admin), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


def _account(name: str) -> tuple[dict[str, object], int, int]:
    """Servers refuse to be root: as root they run as their package's user, else as ours."""
    if os.geteuid() != 0:
        return {}, os.geteuid(), os.getegid()
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}, account.pw_uid, account.pw_gid


def _started(command: list[str], log: Path, how: dict[str, object], url: str, listens: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd="/", **how)  # type: ignore[call-overload]
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaves its own open where it is refused
                probe.connect(str(listens))
            engine.connect().close()
        except (OSError, sa.exc.OperationalError):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        else:
            return process


def _ended(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """PostgreSQL, for the whole session."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """MariaDB, for the whole session."""
    with running_mariadb() as server:
        yield server


@contextmanager
def running_postgresql() -> Iterator[Server]:
    """Run a PostgreSQL server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    binaries = found[-1].parent if found else None
    if binaries is None:
        lacking("PostgreSQL is not installed (.ci/need test)")
        return
    how, uid, gid = _account("postgres")
    base = Path(tempfile.mkdtemp(prefix="rc-pg-"))
    data = base / "data"
    os.chown(base, uid, gid)
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            timeout=START_WITHIN_S,
            cwd="/",
            **how,  # type: ignore[call-overload]
        )
        options = ("listen_addresses=", f"unix_socket_directories={base}", "fsync=off", "full_page_writes=off")
        command = [str(binaries / "postgres"), "-D", str(data)]
        for option in (*options, "synchronous_commit=off", "max_wal_size=2GB", "autovacuum=off"):
            command += ["-c", option]
        server = Server("postgresql", base)
        process = _started(command, base / "log", how, server.url("postgres"), base / ".s.PGSQL.5432")
        try:
            yield server
        finally:
            _ended(process, signal.SIGQUIT)
    finally:
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def running_mariadb(*options: str) -> Iterator[Server]:
    """Run a MariaDB server; ``options`` come behind those of tests."""
    binary = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    if not Path(binary).exists():
        lacking("MariaDB is not installed (.ci/need test)")
        return
    how, uid, gid = _account("mysql")
    base = Path(tempfile.mkdtemp(prefix="rc-my-"))
    os.chown(base, uid, gid)
    try:
        # What mariadb-install-db does, which asks for the client's package: the system tables, and no accounts.
        for name in ("data", "tmp"):
            (base / name).mkdir()
            os.chown(base / name, uid, gid)
        system_tables = Path("/usr/share/mysql/mysql_system_tables.sql").read_bytes()
        subprocess.run(
            [binary, *QUICK_MARIADB, f"--datadir={base}/data", "--bootstrap"],
            input=b"CREATE DATABASE mysql;\nUSE mysql;\n" + system_tables,
            check=True,
            capture_output=True,
            timeout=START_WITHIN_S,
            cwd="/",
            **how,  # type: ignore[call-overload]
        )
        command = [
            binary,
            *QUICK_MARIADB,
            "--innodb-fast-shutdown=2",
            *options,
            f"--datadir={base}/data",
            f"--tmpdir={base}/tmp",  # in one of all, each server that starts removes the others' temporary tables
            f"--socket={base}/s",
            f"--pid-file={base}/pid",
        ]
        server = Server("mariadb", base)
        process = _started(command, base / "log", how, server.url("mysql"), base / "s")
        try:
            yield server
        finally:
            _ended(process, signal.SIGKILL)  # nobody needs its data again
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def postgresql(postgresql_server: Server) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgresql_server.create()


@pytest.fixture
def mariadb(mariadb_server: Server) -> str:
    """The URL of an empty MariaDB database."""
    return mariadb_server.create()


@pytest.fixture(params=["postgresql", "mariadb"])
def each_database(request: pytest.FixtureRequest) -> str:
    """Both in turn."""
    url: str = request.getfixturevalue(request.param)
    return url
