"""A CA's database into Redis: rows a second of a full pass, and how soon a change is there.

    .venv/bin/python -m bench.loaders [--rows N] [--changes N] [--large N] [--json FILE]
        [--only postgresql|mariadb] [--driver NAME]

Starts a private PostgreSQL, MariaDB and redis-server, fills EJBCA's CertificateData (every tenth revoked), and reads it as
``revocast follow`` does, polling each second: one whole pass into the empty store, then single revocations at random
moments, each timed from the commit in the database to the status in Redis. Targets: 50 000 rows/s, 2 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bench.load import load
from loaders.follow import CAFollower
from responder.clock import SystemClock
from responder.config import load_config
from responder.issuers import Issuers
from responder.log import configure_logging
from responder.model import serial_to_octets
from tests import ejbca_tables
from tests.databases import Server, running_mariadb, running_postgresql
from tests.pki import make_ca
from tests.redis_fixture import start_redis

TARGET_ROWS_S = 50_000
TARGET_LAG_S = 2.0
DN = "CN=Example Issuing CA R1,O=Example,C=SE"
CHUNK = 20_000
MOST_MADE = 1_000_000  # rows that are sent; more are copies of these, nine at most


def fill(url: str, ca: x509.Certificate, rows: int) -> list[int]:
    """Make the tables and the rows; returns the serials of some good ones."""
    engine = sa.create_engine(url)
    ejbca_tables.create(engine)
    ejbca_tables.insert(engine, [ejbca_tables.certificate_row(ca, ca, DN, DN, type=8)])
    chance = random.Random(1)
    fingerprint = ca.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - EJBCA's key
    now_ms = int(time.time() * 1000)
    good: list[int] = []
    copies = max(1, rows // MOST_MADE)
    for start in range(0, rows // copies, CHUNK):
        made = []
        for number in range(start, min(rows // copies, start + CHUNK)):
            serial = chance.getrandbits(127) | 1 << 120
            values: dict[str, Any] = {"expireDate": ejbca_tables.FAR + chance.randrange(1 << 35)}
            if number % 10 == 0:
                reason, at = chance.choice((0, 1, 3, 4, 5)), now_ms - chance.randrange(1 << 34)
                values |= {"status": 40, "revocationReason": reason, "revocationDate": at}
            elif number % 1000 == 1:
                good.append(serial)
            updated = now_ms - 86_400_000 - chance.randrange(1 << 34)
            made.append(ejbca_tables.row(fingerprint, DN, str(serial), updateTime=updated, **values))
        ejbca_tables.insert(engine, made)
    for copy in range(1, copies):
        _copy(engine, copy)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            "ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE TABLE CertificateData"
        )
    engine.dispose()
    return good


def _copy(engine: sa.Engine, copy: int) -> None:
    """Have the server make as many rows again, with other serials: ten times as fast as sending them."""
    table = sa.Table(
        "CertificateData" if engine.dialect.name != "postgresql" else "certificatedata",
        sa.MetaData(),
        autoload_with=engine,
    )
    columns = {column.name: column for column in table.columns}
    by_name = {name.lower(): column for name, column in columns.items()}
    made = {
        by_name["fingerprint"].name: sa.literal("ghijklmno"[copy - 1]) + sa.func.substr(by_name["fingerprint"], 2),
        by_name["serialnumber"].name: sa.literal(str(copy)) + by_name["serialnumber"],
    }
    values = [made.get(name, column) for name, column in columns.items()]
    originals = sa.and_(by_name["type"] == 1, sa.func.substr(by_name["fingerprint"], 1, 1) < "g")
    with engine.begin() as connection:
        connection.execute(table.insert().from_select(list(columns), sa.select(*values).where(originals)))


def measure(server: Server, rows: int, changes: int, driver: str | None) -> dict[str, Any]:
    """Fill, load, change."""
    url = server.create()
    with tempfile.TemporaryDirectory(prefix="rc-bench-") as name:
        directory = Path(name)
        ca = make_ca(directory).certificate
        good = fill(url, ca, rows)
        loader_url = url if driver is None else url.replace("mariadb+pymysql", f"mysql+{driver}")
        redis = start_redis()
        try:
            file = directory / "revocast.toml"
            file.write_text(
                f'data_dir = "state"\n{redis.config_section()}\n[[ca]]\nname = "corp"\ncertificate = "ca.pem"\n'
                f'source = {{ type = "ejbca", url = "{loader_url}", poll = "1s" }}\nocsp = {{ key = "ca.key" }}\n'
            )
            config = load_config(file)
            issuers = Issuers.from_config(config, str(file))
            issuer = next(iter(issuers))
            passed = load(file)
            took = passed["seconds"]
            follower = CAFollower(issuer, config, str(file), issuers, SystemClock())
            store = redis.store()
            info = store.ca_info(issuer.id)
            assert info is not None
            assert info.loaded == rows + 1
            stop = threading.Event()

            def follow() -> None:
                while not stop.wait(follower.step()):
                    pass

            thread = threading.Thread(target=follow)
            if changes:
                thread.start()
            lags = []
            engine = sa.create_engine(url)
            chance = random.Random(2)
            try:
                for serial in chance.sample(good, changes):
                    time.sleep(chance.random())
                    with engine.begin() as connection:
                        connection.execute(
                            sa.text(
                                "UPDATE CertificateData SET status = 40, revocationReason = 1, revocationDate = :now,"
                                " updateTime = :now WHERE serialNumber = :serial"
                            ),
                            {"now": int(time.time() * 1000), "serial": str(serial)},
                        )
                    committed = time.perf_counter()
                    while not (store.find_status(issuer.id, serial_to_octets(serial)) or "").startswith("revoked"):
                        assert time.perf_counter() - committed < 30
                        time.sleep(0.005)
                    lags.append(time.perf_counter() - committed)
            finally:
                stop.set()
                if changes:
                    thread.join()
                follower.close()
                engine.dispose()
                store.close()
        finally:
            redis.stop()
    return {
        "rows": rows,
        "seconds": round(took, 2),
        "rows_per_s": round(rows / took),
        "peak_mb": round(passed["peak_rss_mb"]),
        "changes": changes,
        "lag_median_s": round(statistics.median(lags), 3) if lags else None,
        "lag_most_s": round(max(lags), 3) if lags else None,
    }


def figures_of(name: str, one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what docs/performance.md is to say of a server."""
    memory = [
        {"what": f"a whole pass over {of['rows']:,} rows of {name}, peak memory", "value": of["peak_mb"], "unit": "MB"}
        for of in (one, one.get("large"))
        if of is not None
    ]
    return [
        *memory,
        {
            "what": f"rows of {name} into Redis",
            "value": one["rows_per_s"],
            "unit": "a second",
            "at_least": TARGET_ROWS_S,
        },
        {
            "what": f"a change in {name} is in Redis, at most",
            "value": one["lag_most_s"],
            "unit": "s",
            "at_most": TARGET_LAG_S,
        },
    ]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--large", type=int, help="a whole pass over so many rows too, for its memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("postgresql", "mariadb"))
    parser.add_argument("--driver", help="SQLAlchemy's name of another driver for MariaDB, such as mysqldb")
    asked = parser.parse_args()
    configure_logging("bench", "error")
    results: dict[str, Any] = {}
    # What is measured is not how a server with little memory keeps ten million rows in order.
    mariadb = partial(running_mariadb, "--innodb-buffer-pool-size=4G", "--innodb-log-file-size=1G")
    for name, running in (("postgresql", running_postgresql), ("mariadb", mariadb)):
        if asked.only in (None, name):
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(running())
                driver = asked.driver if name == "mariadb" else None
                results[name] = measure(server, asked.rows, asked.changes, driver)
            if asked.large:
                with running() as server:
                    large = results[name]["large"] = measure(server, asked.large, 0, driver)
                print(f"{name}: {large['rows']} rows: {large['rows_per_s']:,} rows/s, {large['peak_mb']} MB")
            one = results[name]
            print(
                f"{name}: {one['rows']} rows in {one['seconds']} s: {one['rows_per_s']:,} rows/s (target {TARGET_ROWS_S:,}); "
                f"a change is in Redis after {one['lag_median_s']} s, {one['lag_most_s']} s at most (target {TARGET_LAG_S} s)"
            )
    if asked.json is not None:
        machine = {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}
        measured: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **machine,
            "results": results,
        }
        measured["figures"] = [figure for name, one in results.items() for figure in figures_of(name, one)]
        text = json.dumps(measured, indent=2)
        asked.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
