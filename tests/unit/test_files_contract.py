"""The contract of loaders (loaders/contract_suite.py), on each loader of files and of small databases.

Elsewhere: step-ca (test_stepca_contract.py), CRLs (test_crl_contract.py), and AD CS database files, of which a real one is
changed (test_adcs_edb.py).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from loaders.base import Loader, Row
from loaders.contract_suite import GOOD_ROWS, ContractSource, LoaderContract
from loaders.ownership import key_id
from loaders.registry import check_options, loader_class
from responder.issuers import Issuer
from responder.model import Status, serial_from_octets
from tests.certutil_dump import Printed, Printer
from tests.database_room import issuer_of
from tests.pki import PKI, key_of, make_leaf, name_of, utc
from tests.unit.test_aws_pca import as_csv, as_json, record

EXP = " exp=2030-12-31T23:59:59Z"


class Source(ContractSource):
    """A folder with a CA ``corp`` in it; ``kind`` is the loader, ``options`` its keys."""

    kind = ""
    name = "source"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.issuer: Issuer = issuer_of(folder / "ca", self.kind)
        self.ca_certificate_der = self.issuer.certificate_der
        certificate = x509.load_der_x509_certificate(self.issuer.certificate_der)
        key = key_of("p256", "corp")
        self.ca = PKI(certificate, key, "p256", folder / "ca" / "ca.pem", folder / "ca" / "ca.key", folder / "ca")
        self._made: dict[tuple[int, int | None], x509.Certificate] = {}
        self.path = folder / self.name

    def options(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def open(self) -> Loader:
        kind = loader_class(self.issuer, "")
        loader: Loader = kind(
            check_options(kind.Options, self.options(), "corp", "revocast.toml"), self.issuer, [], self.clock
        )
        return loader

    def certificate(self, serial: bytes, not_after: int | None) -> x509.Certificate:
        """The certificate of a row."""
        number = serial_from_octets(serial)
        found = self._made.get((number, not_after))
        if found is None:
            leaf = make_leaf(self.ca, serial_number=number, not_before=1_700_000_000, not_after=not_after)
            found = self._made[number, not_after] = leaf.certificate
        return found

    def both(self, rows: Sequence[Row]) -> list[tuple[x509.Certificate, Status]]:
        statuses = [(serial, Status.from_text(text)) for serial, text in rows]
        return [(self.certificate(serial, status.not_after), status) for serial, status in statuses]

    def take_away(self) -> None:
        self.path.rename(self.path.with_name("gone"))


def moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else utc(seconds)


# --- certutil -----------------------------------------------------------------------------------------------------------


class CertutilSource(Source):
    kind = "certutil"
    name = "dump.txt"

    def printed(self, rows: Sequence[Row]) -> list[Printed]:
        return [
            Printed(certificate)
            if status.revoked_at is None
            else Printed(certificate, 21, moment(status.revoked_at), moment(status.revoked_at), status.reason or 0)
            for certificate, status in self.both(rows)
        ]

    def write(self, rows: Sequence[Row]) -> None:
        self.path.write_text(Printer().print(self.printed(rows)))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        odd = self.both([(bytes([9, at]), "good" + EXP) for at in range(5)])
        raws: list[dict[int, str]] = [
            {1: "0x63 (99)"},
            {2: '"' + "4" * 60_000 + '"'},
            {2: '"4\0"'},
            {9: "\r\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----"},
            {1: "?"},
        ]
        hostile = [Printed(certificate, raw=raw) for (certificate, _), raw in zip(odd, raws, strict=True)]
        held = self.printed(rows)
        self.path.write_text(Printer().print([*hostile[:2], *held, *hostile[2:]]))
        return len(hostile)


class TestCertutil(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> CertutilSource:
        return CertutilSource(tmp_path)


# --- AWS Private CA -----------------------------------------------------------------------------------------------------


class AwsSource(Source):
    kind = "aws-pca"
    name = "report"
    form = staticmethod(as_json)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ca_certificate_der = None  # a report names an ARN

    def records(self, rows: Sequence[Row]) -> list[dict[str, object]]:
        made = []
        for serial, text in rows:
            status = Status.from_text(text)
            said: dict[str, object] = {"notAfter": f"{utc(status.not_after or 0):%Y-%m-%dT%H:%M:%S}+0000"}
            if status.revoked_at is not None:
                said["revokedAt"] = f"{utc(status.revoked_at):%Y-%m-%dT%H:%M:%S}+0000"
                said["revocationReason"] = status.reason.name if status.reason is not None else "UNSPECIFIED"
            made.append(record(f"{serial_from_octets(serial):02x}", **said))
        return made

    def write(self, rows: Sequence[Row]) -> None:
        self.path.write_text(self.form(self.records(rows)))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        good = self.records(rows)
        hostile = [
            record("7" * 65_536),
            record("zz"),
            record("1\x002"),
            record("0901", notAfter="10000-01-01T00:00:00+0000"),
            record("0902", revokedAt="2026-01-02T03:04:05+0000", revocationReason="4000"),
        ]
        self.path.write_text(self.form([*hostile[:2], *good, *hostile[2:]]))
        return len(hostile)


class AwsCsvSource(AwsSource):
    form = staticmethod(as_csv)


class TestAwsPca(LoaderContract):
    hold = None

    @pytest.fixture(params=[AwsSource, AwsCsvSource], ids=["json", "csv"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        made: Source = request.param(tmp_path)
        if isinstance(made, AwsCsvSource):
            made.write([])
        return made


# --- directories of certificates ----------------------------------------------------------------------------------------


class CertDirSource(Source):
    kind = "certdir"
    name = "issued"

    def write(self, rows: Sequence[Row]) -> None:
        self.path.mkdir(exist_ok=True)
        wanted = {f"{certificate.serial_number:x}.pem": certificate for certificate, _ in self.both(rows)}
        for file in self.path.iterdir():
            if file.name not in wanted:
                file.unlink()
        for name, certificate in wanted.items():
            if not (self.path / name).exists():
                (self.path / name).write_bytes(certificate.public_bytes(Encoding.PEM))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        (self.path / "a.der").write_bytes(b"MZ\0\0")
        (self.path / "b.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n\xff\xfe\n-----END CERTIFICATE-----\n")
        (self.path / "c.p7b").write_bytes(b"")
        return 3


class TestCertDir(LoaderContract):
    rows = GOOD_ROWS
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path) -> CertDirSource:
        return CertDirSource(tmp_path)

    def _one_more_revoked(self) -> list[Row]:
        """It knows no revocation: one more that is good."""
        return [*self.rows, (b"\x0e", "good" + EXP)]


# --- cfssl ----------------------------------------------------------------------------------------------------------------

CFSSL = {
    "sqlite": ("blob", "blob", "timestamp", "'0001-01-01 00:00:00+00:00'"),
    "postgresql": ("bytea", "bytea", "timestamptz", "NULL"),
    "mariadb": (
        "varbinary(128)",
        "varbinary(4096)",
        "timestamp DEFAULT '0000-00-00 00:00:00'",
        "'0000-00-00 00:00:00'",
    ),
}


class CfsslSource(Source):
    """A database as cfssl's migrations make it."""

    kind = "cfssl"
    name = "certs.db"

    def __init__(self, folder: Path, url: str = "") -> None:
        super().__init__(folder)
        self.url = url
        self.engine = sa.create_engine(url or f"sqlite:///{self.path}", poolclass=sa.pool.NullPool)
        self.key_id = (key_id(self.ca.certificate, authority=False) or b"").hex()
        octets, pem, at, self.zero = CFSSL[self.engine.dialect.name]
        self.execute(
            f"CREATE TABLE certificates (serial_number {octets} NOT NULL, authority_key_identifier {octets} NOT NULL,"
            f" ca_label {octets}, status {octets} NOT NULL, reason int, expiry {at}, revoked_at {at}, pem {pem} NOT NULL,"
            " PRIMARY KEY (serial_number, authority_key_identifier))"
        )

    def options(self) -> dict[str, Any]:
        return {"url": self.url} if self.url else {"path": str(self.path)}

    def execute(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)

    def value(self, text: str | bytes) -> str | bytes:
        """A text as this database keeps it: SQLite has texts in its blobs, as cfssl writes them."""
        if self.url:
            return text.encode() if isinstance(text, str) else text
        return text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) and b"\xff" not in text else text

    def insert(self, serial: str | bytes, pem: str | bytes, status: str, reason: int, revoked_at: str | None) -> None:
        values = {
            "s": self.value(serial),
            "a": self.value(self.key_id),
            "t": self.value(status),
            "r": reason,
            "p": self.value(pem),
        }
        at = self.zero if revoked_at is None else f"'{revoked_at}'"
        columns = "serial_number, authority_key_identifier, ca_label, status, reason, expiry, revoked_at, pem"
        said = f":s, :a, :s, :t, :r, '2030-12-31 23:59:59', {at}, :p"
        self.execute(f"INSERT INTO certificates ({columns}) VALUES ({said})", values)  # noqa: S608 - our own values

    def write(self, rows: Sequence[Row]) -> None:
        self.execute("DELETE FROM certificates")
        for certificate, status in self.both(rows):
            at = None if status.revoked_at is None else f"{utc(status.revoked_at):%Y-%m-%d %H:%M:%S}+00:00"
            if self.engine.dialect.name == "mariadb" and at is not None:
                at = at.removesuffix("+00:00")
            pem = certificate.public_bytes(Encoding.PEM).decode()
            word = "good" if at is None else "revoked"
            self.insert(str(certificate.serial_number), pem, word, status.reason or 0, at)

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        ((certificate, _), *_) = self.both([(b"\x09\x01", "good" + EXP)])
        pem = certificate.public_bytes(Encoding.PEM).decode()
        self.insert("2305", pem, "expired", 0, None)
        self.insert("2306", "no PEM", "good", 0, None)
        self.insert(b"\xff\xfe", pem, "good", 0, None)
        self.insert("99", pem, "good", 0, None)
        self.insert("2309", "", "revoked", 4000, "2026-01-02 03:04:05")
        return 5

    def take_away(self) -> None:
        if self.url:
            self.execute("DROP TABLE certificates")
        else:
            super().take_away()


class TestCfsslSqlite(LoaderContract):
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path) -> CfsslSource:
        return CfsslSource(tmp_path)


class TestCfsslServers(LoaderContract):
    hold = None

    @pytest.fixture
    def source(self, tmp_path: Path, postgresql: str) -> CfsslSource:
        return CfsslSource(tmp_path, postgresql)


# --- XCA ------------------------------------------------------------------------------------------------------------------


class XcaSource(Source):
    """A database of XCA, schema 7: the tables that are read."""

    kind = "xca"
    name = "corp.xdb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.engine = sa.create_engine(f"sqlite:///{self.path}", poolclass=sa.pool.NullPool)
        self.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR(128), type INTEGER, del SMALLINT)")
        self.execute(
            "CREATE TABLE certs (item INTEGER, hash INTEGER, iss_hash INTEGER, serial VARCHAR(64), issuer INTEGER,"
            " ca INTEGER, cert VARCHAR(8000))"
        )
        self.execute(
            "CREATE TABLE revocations (caId INTEGER, serial VARCHAR(64), date CHAR(15), invaldate CHAR(15), crlNo INTEGER,"
            " reasonBit INTEGER)"
        )

    def execute(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)

    def insert(self, item: int, serial: str, cert: str | bytes, ca: int = 0) -> None:
        self.execute("INSERT INTO items VALUES (:i, 'x', 3, 0)", {"i": item})
        values = {"i": item, "s": serial, "c": cert, "ca": ca}
        self.execute("INSERT INTO certs VALUES (:i, 0, 0, :s, 1, :ca, :c)", values)

    def write(self, rows: Sequence[Row]) -> None:
        for name in ("items", "certs", "revocations"):
            self.execute(f"DELETE FROM {name}")  # noqa: S608 - our own names
        # A CA that another CA signed: its own certificate is none of those it issued.
        self.insert(1, "AB", base64.b64encode(self.issuer_certificate()).decode(), ca=1)
        for item, (certificate, status) in enumerate(self.both(rows), 2):
            serial = f"{certificate.serial_number:X}"
            serial = "0" * (len(serial) % 2) + serial
            self.insert(item, serial, base64.b64encode(certificate.public_bytes(Encoding.DER)).decode())
            if status.revoked_at is not None:
                self.revoke(serial, f"{utc(status.revoked_at):%Y%m%d%H%M%SZ}", status.reason or 0)

    def issuer_certificate(self) -> bytes:
        """A certificate of the CA's key and name, signed by somebody else."""
        builder = x509.CertificateBuilder(
            name_of("Somebody Else"),
            self.ca.certificate.subject,
            self.ca.certificate.public_key(),
            0xAB,
            utc(1),
            utc(2**32),
        )
        other = key_of("p256", "somebody-else")
        return builder.sign(other, SHA256()).public_bytes(Encoding.DER)

    def revoke(self, serial: str, date: str, reason: int) -> None:
        values = {"s": serial, "d": date, "r": reason}
        self.execute("INSERT INTO revocations VALUES (1, :s, :d, '99991231235959Z', 32767, :r)", values)

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        self.insert(900, "0901", "no base64!")
        self.insert(901, "0902", base64.b64encode(b"no DER").decode())
        self.revoke("zz" * 40_000, "20260102030405Z", 1)
        self.revoke("1\0", "20260102030405Z", 1)
        self.revoke("0903", "99999999999999Z", 1)
        self.revoke("0904", "20260102030405Z", 4000)
        return 6


class TestXca(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> XcaSource:
        return XcaSource(tmp_path)
