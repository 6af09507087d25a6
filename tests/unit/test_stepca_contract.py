"""The contract of loaders (loaders/contract_suite.py) on step-ca's databases: badger logs, bbolt files and a server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding

from loaders.base import Row
from loaders.contract_suite import LoaderContract
from tests.bbolt_made import make_bbolt
from tests.pki import utc
from tests.unit.test_files_contract import Source
from tests.unit.test_stepca import directory, write


def step_values(source: Source, rows: Sequence[Row]) -> list[tuple[bytes, bytes, bytes]]:
    """Bucket, key and value of everything."""
    made = []
    for certificate, status in source.both(rows):
        key = str(certificate.serial_number).encode()
        made.append((b"x509_certs", key, certificate.public_bytes(Encoding.DER)))
        if status.revoked_at is not None:
            said = {
                "Serial": key.decode(),
                "RevokedAt": utc(status.revoked_at).isoformat(),
                "ReasonCode": status.reason or 0,
            }
            made.append((b"revoked_x509_certs", key, json.dumps(said).encode()))
    return made


STEP_HOSTILE = [
    (b"x509_certs", b"9" * 250, b"no DER"),
    (b"x509_certs", b"\xff\xfe", b""),
    (b"x509_certs", b"23041", b"no DER"),
    (b"revoked_x509_certs", b"23042", b"{"),
    (b"revoked_x509_certs", b"23043", b'{"RevokedAt": "10000-01-01T00:00:00Z"}'),
    (b"revoked_x509_certs", b"23044", b'{"RevokedAt": "2026-01-02T03:04:05Z", "ReasonCode": 4000}'),
    (b"revoked_x509_certs", b"1\x002", b"{}"),
]


class BadgerSource(Source):
    kind = "stepca"
    name = "db"

    def put(self, values: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        directory(self.path, b"".join(write(*value, version) for version, value in enumerate(values, 1)))
        self._count = getattr(self, "_count", 0) + 1
        os.utime(self.path / "000000.vlog", ns=(0, self._count))

    def write(self, rows: Sequence[Row]) -> None:
        self.put(step_values(self, rows))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.put([*STEP_HOSTILE, *step_values(self, rows)])
        return len(STEP_HOSTILE)


class BboltSource(Source):
    kind = "stepca"
    name = "step.bbolt"

    def put(self, values: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        buckets: dict[bytes, dict[bytes, bytes]] = {
            b"x509_certs": {},
            b"revoked_x509_certs": {},
            b"used_ott": {b"a": b"b"},
        }
        for bucket, key, value in values:
            buckets[bucket][key] = value
        self.path.write_bytes(make_bbolt(buckets))
        self._count = getattr(self, "_count", 0) + 1
        os.utime(self.path, ns=(0, self._count))

    def write(self, rows: Sequence[Row]) -> None:
        self.put(step_values(self, rows))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        # One whose value takes pages of its own.
        more = [*STEP_HOSTILE, (b"x509_certs", b"23045", bytes(20_000))]
        self.put([*more, *step_values(self, rows)])
        return len(more)


class StepSqlSource(Source):
    kind = "stepca"

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        is_postgresql = url.startswith("postgresql")
        kinds = ("BYTEA", "BYTEA") if is_postgresql else ("VARBINARY(255)", "BLOB")
        for bucket in ("x509_certs", "revoked_x509_certs"):
            self.execute(f"CREATE TABLE {bucket} (nkey {kinds[0]}, nvalue {kinds[1]}, PRIMARY KEY (nkey))")

    def options(self) -> dict[str, Any]:
        return {"url": self.url}

    def execute(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)

    def put(self, values: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        for bucket in (b"x509_certs", b"revoked_x509_certs"):
            self.execute(f"DELETE FROM {bucket.decode()}")  # noqa: S608 - our own names
            rows = [{"k": key, "v": value} for where, key, value in values if where == bucket]
            if rows:
                self.execute(f"INSERT INTO {bucket.decode()} VALUES (:k, :v)", *rows)  # noqa: S608 - our own names

    def write(self, rows: Sequence[Row]) -> None:
        self.put(step_values(self, rows))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.put([*STEP_HOSTILE, *step_values(self, rows)])
        return len(STEP_HOSTILE)

    def take_away(self) -> None:
        self.execute("DROP TABLE x509_certs")


class TestStepCaBadger(LoaderContract):
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path) -> BadgerSource:
        return BadgerSource(tmp_path)


class TestStepCaBbolt(LoaderContract):
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path) -> BboltSource:
        return BboltSource(tmp_path)


class TestStepCaSql(LoaderContract):
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path, mariadb: str) -> StepSqlSource:
        return StepSqlSource(tmp_path, mariadb)
