"""`revocast check` on databases that are asked for changes: whether those are found by an index, on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from loaders.poll_index import source_findings
from responder.config import load_config
from responder.issuers import Issuer
from tests import ejbca_tables
from tests.database_room import issuer_of
from tests.ejbca_tables import certificate_row

DN = "CN=corp"


def findings(directory: Path, source: str) -> list[tuple[str, str]]:
    file = directory / "check.toml"
    file.write_text(
        f'[[ca]]\nname = "corp"\ncertificate = "ca.pem"\nocsp = {{ key = "ca.key" }}\nsource = {{ {source} }}\n'
    )
    return [(one.level, one.text) for one in source_findings(load_config(file), file)]


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return issuer_of(tmp_path, "ejbca")


def test_ejbca_with_and_without_its_index(each_database: str, issuer: Issuer, tmp_path: Path) -> None:
    """EJBCA ships the index commented out."""
    from cryptography import x509

    engine = sa.create_engine(each_database, poolclass=sa.pool.NullPool)
    ejbca_tables.create(engine)
    ca = x509.load_der_x509_certificate(issuer.certificate_der)
    ejbca_tables.insert(engine, [certificate_row(ca, ca, DN, DN, type=8)])
    source = f'type = "ejbca", url = "{each_database}"'
    assert findings(tmp_path, source) == [("ok", "can be read")]
    with engine.begin() as connection:
        where = "" if engine.dialect.name == "postgresql" else " ON CertificateData"
        connection.exec_driver_sql(f"DROP INDEX certificatedata_idx_upd{where}")
    ((level, text),) = findings(tmp_path, source)
    assert level == "warning"
    assert text.lower().startswith("certificatedata.updatetime without an index: each poll reads the whole table")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE CertificateData")
    ((level, text),) = findings(tmp_path, source)
    assert level == "error"


@pytest.mark.parametrize("index", ["", "updated", "id, updated"])
def test_a_query_of_the_configuration(each_database: str, issuer: Issuer, tmp_path: Path, index: str) -> None:
    """The table that it names first; an index that begins with another column does not help."""
    engine = sa.create_engine(each_database, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE certs (id INTEGER PRIMARY KEY, serial VARCHAR(40), at BIGINT, updated BIGINT)"
        )
        if index:
            connection.exec_driver_sql(f"CREATE INDEX one ON certs ({index})")
    mapping = (
        'serial = "serial", serial_base = "hex", revoked_at = "at", updated = "updated", updated_time = "s", time = "s"'
    )
    query = 'key = "id", query = "SELECT id, serial, at, updated FROM certs"'
    ((level, text),) = findings(tmp_path, f'type = "sql", url = "{each_database}", {query}, {mapping}')
    assert level == ("ok" if index == "updated" else "warning"), text
    if level == "warning":
        assert text.startswith("certs.updated without an index")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW seen AS SELECT id, serial, at, updated FROM certs")
    source = f'type = "sql", url = "{each_database}", {query.replace("FROM certs", "FROM seen")}, {mapping}'
    assert findings(tmp_path, source) == [("ok", "can be read")], "no view has an index, whatever its tables have"


def test_other_sources_are_not_looked_at(issuer: Issuer, tmp_path: Path) -> None:
    assert findings(tmp_path, 'type = "openssl", path = "nothing.txt"') == []
