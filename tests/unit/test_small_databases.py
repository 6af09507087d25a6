"""What is particular to cfssl's and XCA's databases: real files, lost serials, zero dates, deleted certificates."""

from __future__ import annotations

import shutil
import sqlite3
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loaders.base import Loader
from loaders.cfssl import CfsslLoader
from loaders.database_file import DatabaseFileOptions
from loaders.xca import XcaLoader, XcaOptions
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from tests.loader_reading import NOW, SAMPLES, Read, issuer_of, needs_samples
from tests.pki import make_ca
from tests.unit.test_files_contract import EXP, CfsslSource, XcaSource

CFSSL, XCA = SAMPLES / "cfssl", SAMPLES / "xca" / "sample.xdb"
GOOD = [(bytes([at]), "good" + EXP) for at in (1, 2, 3)]


def cfssl(path: Path, ca: Path) -> CfsslLoader:
    return CfsslLoader(DatabaseFileOptions(path=path), issuer_of(ca), (), ManualClock(NOW))


def xca(path: Path, ca: Path) -> XcaLoader:
    return XcaLoader(XcaOptions(path=path), issuer_of(ca), (), ManualClock(NOW))


@needs_samples
def test_what_cfssl_wrote() -> None:
    """Four certificates by Debian's cfssl, whose key identifiers are empty."""
    got = Read(cfssl(CFSSL / "generated" / "certs.db", CFSSL / "generated" / "ca.pem"))
    leaves = [x509.load_pem_x509_certificate((CFSSL / "generated" / f"{name}.pem").read_bytes()) for name in "abcd"]
    assert got.statuses == {
        leaf.serial_number.to_bytes(20, "big").hex(): f"good exp={leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        for leaf in leaves
    }
    assert not got.rejected
    assert got.whole


def test_a_serial_that_became_a_number_is_taken_from_the_certificate(tmp_path: Path) -> None:
    """cfssl's own SQLite schema of old declares the column bytea: SQLite keeps 2.26e+46, and the digits are gone."""
    source = CfsslSource(tmp_path)
    source.execute("DROP TABLE certificates")
    source.execute(
        "CREATE TABLE certificates (serial_number bytea NOT NULL, authority_key_identifier bytea NOT NULL,"
        " ca_label bytea, status bytea NOT NULL, reason int, expiry timestamp, revoked_at timestamp, pem bytea NOT NULL)"
    )
    serial = (1 << 155) + 12345
    source.write([(serial.to_bytes(20, "big"), "good" + EXP)])
    with sqlite3.connect(source.path) as connection:
        assert connection.execute("SELECT typeof(serial_number) FROM certificates").fetchone() == ("real",)
    connection.close()
    got = Read(source.open())
    assert got.statuses == {serial.to_bytes(20, "big").hex(): "good" + EXP}
    assert not got.rejected


def test_a_revocation_with_the_zero_date_is_presumed(tmp_path: Path) -> None:
    """0001-01-01 is no date: revoked as of the reading."""
    source = CfsslSource(tmp_path)
    source.write(GOOD)
    source.execute("UPDATE certificates SET status = 'revoked', reason = 1 WHERE serial_number = '2'")
    (row,) = Read(source.open()).rejected
    assert "no date" in row.reason
    assert row.presumed == "revoked 2026-11-18T11:06:40Z keyCompromise" + EXP


def test_dates_of_mariadb_are_utc_whatever_its_zone(tmp_path: Path, mariadb: str) -> None:
    """A TIMESTAMP arrives in the session's zone, which the server decides."""
    source = CfsslSource(tmp_path, mariadb)
    source.write([(b"\x05", "revoked 2026-07-02T03:04:05Z superseded" + EXP)])
    source.execute("SET GLOBAL time_zone = '+05:00'")
    try:
        assert Read(source.open()).statuses == {"05": "revoked 2026-07-02T03:04:05Z superseded" + EXP}
    finally:
        source.execute("SET GLOBAL time_zone = 'SYSTEM'")


def test_another_cas_rows_are_not_ours(tmp_path: Path) -> None:
    """By the certificate, and without one by the key identifier."""
    source = CfsslSource(tmp_path)
    source.write(GOOD)
    other = make_ca(tmp_path / "other", label="other")
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        Read(cfssl(source.path, other.certificate_path))
    source.key_id = "00" * 20
    source.insert("77", "", "good", 0, None)
    assert sorted(Read(source.open()).statuses) == ["01", "02", "03"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "either path or url"),
        ({"path": "a", "url": "sqlite://"}, "either path or url"),
        ({"url": "nonsense"}, "SQLAlchemy"),
    ],
)
def test_a_path_or_a_url(options: dict[str, str], problem: str, tmp_path: Path) -> None:
    """One of them, and one that is known."""
    with pytest.raises(ValidationError, match=problem):
        DatabaseFileOptions.model_validate(options, context={"base": tmp_path})


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """As by rsync: another file of the same name. And a missing one is not made."""
    source = CfsslSource(tmp_path)
    source.write(GOOD)
    loader = source.open()
    assert len(Read(loader).rows) == 3
    shutil.copy(source.path, tmp_path / "new.db")
    source.write(GOOD[:1])
    (tmp_path / "new.db").rename(source.path)
    assert len(Read(loader).rows) == 3
    source.path.unlink()
    with pytest.raises(SourceUnavailable):
        Read(loader)
    assert not source.path.exists()


def test_what_is_no_database_of_the_kind(tmp_path: Path) -> None:
    """Not SQLite, or without the table, or without a column."""
    source = CfsslSource(tmp_path)
    source.execute("ALTER TABLE certificates DROP COLUMN revoked_at")
    with pytest.raises(SourceUnavailable, match="lacks the columns revoked_at"):
        Read(source.open())
    source.execute("DROP TABLE certificates")
    with pytest.raises(SourceUnavailable, match="has no table certificates"):
        Read(source.open())
    source.path.write_bytes(b"hello" * 1000)
    with pytest.raises(SourceUnavailable, match="not a database"):
        Read(source.open())


# --- XCA ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xca_cas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The certificates of the two CAs in the sample."""
    folder = tmp_path_factory.mktemp("xca")
    connection = sqlite3.connect(f"file:{XCA}?mode=ro&immutable=1", uri=True)
    found = connection.execute("SELECT cert FROM certs WHERE ca = 1 ORDER BY item").fetchall()
    connection.close()
    paths = []
    for number, (text,) in enumerate(found):
        path = folder / f"{number}.pem"
        path.write_bytes(x509.load_der_x509_certificate(b64decode(text)).public_bytes(Encoding.PEM))
        paths.append(path)
    return paths


@needs_samples
def test_what_xca_wrote(xca_cas: list[Path]) -> None:
    """Two CAs in one file. Of the first's 46 revocations 28 have no certificate beside them."""
    first, second = (Read(xca(XCA, path)) for path in xca_cas)
    assert sum(text.startswith("revoked") for text in first.statuses.values()) == 46
    assert sum(text.startswith("revoked") and "exp=" not in text for text in first.statuses.values()) == 28
    assert not first.rejected
    assert {serial: text for serial, text in second.statuses.items() if text.startswith("revoked")} == {
        "0f": "revoked 2026-11-23T15:46:50Z certificateHold exp=2027-11-23T15:46:47Z",
        "10": "revoked 2026-11-23T15:46:50Z keyCompromise exp=2027-11-23T15:46:47Z invalid=2025-01-02T03:04:05Z",
        "11": "revoked 2026-11-23T15:46:50Z cACompromise exp=2027-11-23T15:46:47Z invalid=2025-02-03T04:05:06Z",
        "12": "revoked 2026-11-23T15:46:50Z exp=2027-11-23T15:46:48Z",
        "13": "revoked 2026-11-23T15:46:50Z affiliationChanged exp=2027-11-23T15:46:48Z",
        "14": "revoked 2026-11-23T15:46:50Z superseded exp=2027-11-23T15:46:48Z",
        "16": "revoked 2026-11-23T15:46:50Z exp=2027-11-23T15:46:49Z",
    }
    assert second.released == [(b"\x15", "good exp=2027-11-23T15:46:49Z")]  # removeFromCRL


def test_without_the_cas_own_certificate_nothing_is_read(tmp_path: Path) -> None:
    """Its revocations stand under it: without, everything would seem good."""
    source = XcaSource(tmp_path)
    source.write([(b"\x01", "revoked 2026-01-02T03:04:05Z" + EXP)])
    source.execute("DELETE FROM certs WHERE ca = 1")
    with pytest.raises(SourceUnavailable, match="does not hold the certificate of"):
        Read(source.open())


def test_revocations_under_a_certificate_that_is_gone_hold(tmp_path: Path) -> None:
    """Nobody can say whose they are; those under another CA's certificate are its own."""
    source = XcaSource(tmp_path)
    source.write(GOOD)
    source.revoke("01", "20260102030405Z", 4)
    source.execute("UPDATE revocations SET caId = 99")
    assert Read(source.open()).statuses["01"] == "revoked 2026-01-02T03:04:05Z superseded" + EXP
    other = make_ca(tmp_path / "other", label="other")
    source.insert(99, "0A", b64encode(other.certificate_der).decode(), ca=1)
    assert Read(source.open()).statuses["01"] == "good" + EXP


def test_of_two_revocations_the_stricter_holds(tmp_path: Path) -> None:
    """A CA that was renewed has two certificates to revoke under."""
    source = XcaSource(tmp_path)
    source.write(GOOD)
    for reason, ca in ((1, 97), (8, 98), (6, 99)):
        source.revoke("01", "20260102030405Z", reason)
        source.execute(f"UPDATE revocations SET caId = {ca} WHERE reasonBit = {reason}")  # noqa: S608
    assert Read(source.open()).statuses["01"] == "revoked 2026-01-02T03:04:05Z keyCompromise" + EXP


def test_a_hold_that_was_taken_back_is_good(tmp_path: Path) -> None:
    """XCA deletes the revocation's row; deleted certificates are not listed."""
    source = XcaSource(tmp_path)
    source.write(GOOD)
    source.revoke("02", "20260102030405Z", 6)
    loader = source.open()
    assert Read(loader).statuses["02"] == "revoked 2026-01-02T03:04:05Z certificateHold" + EXP
    source.execute("DELETE FROM revocations")
    source.execute("UPDATE items SET del = 1 WHERE id = 4")
    assert Read(loader).statuses == {"01": "good" + EXP, "02": "good" + EXP}
    assert loader.good_releases_hold


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["cfssl", "xca"]),
    st.lists(st.tuples(st.integers(0, 1 << 18), st.integers(0, 255)), min_size=1, max_size=20),
)
@needs_samples
def test_damage_costs_rows_or_ends_in_one_line(
    xca_cas: list[Path], tmp_path: Path, kind: str, changes: list[tuple[int, int]]
) -> None:
    """Whatever octets of the file are changed: rows, rejected rows, or a SourceUnavailable of one line."""
    raw = bytearray((XCA if kind == "xca" else CFSSL / "generated" / "certs.db").read_bytes())
    for at, value in changes:
        raw[at % len(raw)] = value
    path = tmp_path / "damaged.db"
    path.write_bytes(raw)
    loader: Loader = xca(path, xca_cas[0]) if kind == "xca" else cfssl(path, CFSSL / "generated" / "ca.pem")
    try:
        Read(loader)
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
