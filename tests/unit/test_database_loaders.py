"""boulder, OpenXPKI, XiPKI and django-ca: their own tables on real servers, the contract, and what each has of its own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from loaders.base import Discovering, Incremental, Loader, Row
from loaders.boulder import BoulderLoader, name_id
from loaders.contract_suite import HOLD_ROW, ContractSource, LoaderContract, read, rows_of
from loaders.database import DatabaseOptions
from loaders.django_ca import DjangoCALoader
from loaders.openxpki import OpenXPKILoader, identifier_of
from loaders.registry import loader_class
from loaders.xipki import XiPKILoader
from responder.cli.app import build_app
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import CRLReason, Status, serial_from_octets
from tests.database_room import issuer_of
from tests.pki import make_ca, make_leaf

AT_S = 1_767_323_045
AT = "2026-01-02T03:04:05Z"


class TableSource(ContractSource):
    """A table of a CA system; a kind says how a status stands there."""

    loader: ClassVar[type]
    type: ClassVar[str]
    table: ClassVar[str]
    ddl: ClassVar[tuple[str, ...]]
    tells_the_ca: ClassVar[bool] = True  # without its rows' certificates

    def __init__(self, url: str, issuer: Issuer) -> None:
        self.url, self.issuer = url, issuer
        self.ca_certificate_der = issuer.certificate_der if self.tells_the_ca else None
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        self.ca = x509.load_der_x509_certificate(issuer.certificate_der)
        self.ca_der = issuer.certificate_der
        self.updated = int(self.clock.now()) - 100
        for statement in self.ddl:
            self.execute(statement)
        self.add_ca()

    def execute(self, statement: str, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(rows) or None)

    def insert(self, *rows: dict[str, Any], table: str | None = None) -> None:
        with self.engine.begin() as connection:
            for row in rows:
                marks = ", ".join(":" + name for name in row)
                statement = f"INSERT INTO {table or self.table} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608
                connection.execute(sa.text(statement), row)

    def open(self) -> Loader:
        found: Loader = self.loader(DatabaseOptions(url=self.url), self.issuer, [], self.clock)
        return found

    def write(self, rows: Sequence[Row]) -> None:
        self.updated += 1
        self.clear()
        self.insert(
            *(
                self.row(number, serial_from_octets(octets), Status.from_text(text))
                for number, (octets, text) in enumerate(rows, 10)
            )
        )

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        revoked = Status.from_text(f"revoked {AT} keyCompromise exp=2030-12-31T23:59:59Z")
        hostile = self.hostile()
        self.insert(*(self.row(1000 + at, 7000 + at, revoked) | change for at, change in enumerate(hostile)))
        return len(hostile)

    def take_away(self) -> None:
        for statement in self.ddl:
            self.execute("DROP TABLE " + statement.split()[2])

    def clear(self) -> None:
        self.execute(f"DELETE FROM {self.table}")  # noqa: S608

    def add_ca(self) -> None: ...

    def row(self, number: int, serial: int, status: Status) -> dict[str, Any]:
        raise NotImplementedError

    def hostile(self) -> list[dict[str, Any]]:
        raise NotImplementedError


def date(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


class Boulder(TableSource):
    loader, type, table = BoulderLoader, "boulder", "certificateStatus"
    tells_the_ca = False
    ddl = (
        "CREATE TABLE certificateStatus (id BIGINT(20) NOT NULL AUTO_INCREMENT PRIMARY KEY, serial VARCHAR(255) NOT NULL,"
        " subscriberApproved TINYINT(1) DEFAULT 0, status VARCHAR(255) NOT NULL, ocspLastUpdated DATETIME NOT NULL,"
        " revokedDate DATETIME NOT NULL, revokedReason INT(11) NOT NULL, lastExpirationNagSent DATETIME NOT NULL,"
        " notAfter DATETIME DEFAULT NULL, isExpired TINYINT(1) DEFAULT 0, issuerID BIGINT(20) DEFAULT NULL, UNIQUE KEY serial (serial))",
    )

    def row(self, number: int, serial: int, status: Status) -> dict[str, Any]:
        zero = "0000-00-00 00:00:00"
        return {
            "id": number,
            "serial": f"{serial:036x}",
            "status": status.cert_status.name.lower(),
            "ocspLastUpdated": date(self.updated),
            "revokedDate": date(status.revoked_at) or zero,
            "revokedReason": int(status.reason or 0),
            "lastExpirationNagSent": zero,
            "notAfter": date(status.not_after),
            "issuerID": name_id(self.issuer.subject_der),
        }

    def hostile(self) -> list[dict[str, Any]]:
        return [
            {"serial": "zz"},
            {"serial": "\0é"},
            {"status": "perhaps"},
            {"revokedReason": 4000},
            {"revokedDate": "0000-00-00 00:00:00"},
            {"notAfter": "0000-00-00 00:00:00"},
        ]


class OpenXPKI(TableSource):
    loader, type, table = OpenXPKILoader, "openxpki", "certificate"
    tells_the_ca = False
    ddl = (
        "CREATE TABLE certificate (pki_realm VARCHAR(255), issuer_dn VARCHAR(1000), cert_key DECIMAL(49,0) NOT NULL,"
        " issuer_identifier VARCHAR(64) NOT NULL, identifier VARCHAR(64), subject VARCHAR(1000), status VARCHAR(255),"
        " subject_key_identifier VARCHAR(255), authority_key_identifier VARCHAR(255), notbefore BIGINT, notafter BIGINT,"
        " revocation_time BIGINT, invalidity_time BIGINT, reason_code VARCHAR(50), hold_instruction_code VARCHAR(50),"
        " revocation_id INT, req_key BIGINT, data LONGTEXT, PRIMARY KEY (issuer_identifier, cert_key))",
    )

    def row(self, number: int, serial: int, status: Status) -> dict[str, Any]:
        states = {None: "ISSUED"} | dict.fromkeys(CRLReason, "REVOKED") | {CRLReason.CERTIFICATE_HOLD: "HOLD"}
        return {
            "cert_key": str(serial),
            "issuer_identifier": identifier_of(self.ca),
            "identifier": f"x{number}",
            "status": states[status.reason] if status.revoked_at is None or status.reason else "CRL_ISSUANCE_PENDING",
            "notbefore": self.updated,
            "notafter": status.not_after,
            "revocation_time": status.revoked_at,
            "reason_code": {"cACompromise": "CACompromise"}.get(status.reason.asn1_name, status.reason.asn1_name)
            if status.reason
            else None,
        }

    def hostile(self) -> list[dict[str, Any]]:
        return [
            {"status": "UNKNOWN"},
            {"reason_code": "b\x01ad"},
            {"revocation_time": None},
            {"revocation_time": -5},
            {"revocation_time": 1 << 60},
            {"notafter": 253_402_300_800},
        ]


class XiPKI(TableSource):
    loader, type, table = XiPKILoader, "xipki", "CERT"
    ddl = (
        "CREATE TABLE CA (ID SMALLINT NOT NULL PRIMARY KEY, NAME VARCHAR(45), SUBJECT VARCHAR(350) NOT NULL, REV_INFO VARCHAR(200), CERT VARCHAR(6000) NOT NULL)",
        "CREATE TABLE CERT (ID BIGINT NOT NULL PRIMARY KEY, CA_ID SMALLINT NOT NULL, SN TEXT NOT NULL, LUPDATE BIGINT NOT NULL,"
        " NBEFORE BIGINT, NAFTER BIGINT, REV SMALLINT NOT NULL, RR SMALLINT, RT BIGINT, RIT BIGINT, EE SMALLINT, SHA1 CHAR(28), CERT VARCHAR(6000))",
    )

    def add_ca(self) -> None:
        other = b64encode(b"no certificate").decode()
        self.insert(
            {"ID": 1, "SUBJECT": "CN=other", "CERT": other},
            {"ID": 2, "SUBJECT": "CN=corp", "CERT": b64encode(self.ca_der).decode()},
            table="CA",
        )

    def row(self, number: int, serial: int, status: Status) -> dict[str, Any]:
        return {
            "ID": number,
            "CA_ID": 2,
            "SN": f"{serial:x}",
            "LUPDATE": self.updated,
            "NAFTER": status.not_after,
            "REV": int(status.revoked_at is not None),
            "RR": int(status.reason or 0) if status.revoked_at is not None else None,
            "RT": status.revoked_at,
        }

    def hostile(self) -> list[dict[str, Any]]:
        return [
            {"SN": "a" * 65536},
            {"SN": "-"},
            {"REV": 7},
            {"RR": 4000},
            {"RT": None},
            {"RT": 1 << 60},
            {"NAFTER": 253_402_300_800},
        ]


class DjangoCA(TableSource):
    loader, type, table = DjangoCALoader, "django-ca", "django_ca_certificate"
    ddl = (
        "CREATE TABLE django_ca_certificateauthority (id INTEGER PRIMARY KEY, created TIMESTAMPTZ, name VARCHAR(256), pub BYTEA, serial VARCHAR(64))",
        "CREATE TABLE django_ca_certificate (id INTEGER PRIMARY KEY, created TIMESTAMPTZ, updated TIMESTAMPTZ NOT NULL, not_before TIMESTAMPTZ,"
        " not_after TIMESTAMPTZ, pub BYTEA, cn VARCHAR(128), serial VARCHAR(64), revoked BOOLEAN NOT NULL, revoked_date TIMESTAMPTZ,"
        " revoked_reason VARCHAR(32), compromised TIMESTAMPTZ, ca_id INTEGER NOT NULL)",
    )

    def add_ca(self) -> None:
        self.insert(
            {"id": 1, "name": "other", "pub": b"\x30"},
            {"id": 2, "name": "corp", "pub": self.ca_der},
            table="django_ca_certificateauthority",
        )

    def row(self, number: int, serial: int, status: Status) -> dict[str, Any]:
        def aware(seconds: int | None) -> datetime | None:
            return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

        return {
            "id": number,
            "updated": aware(self.updated),
            "not_after": aware(status.not_after),
            "serial": f"{serial:X}",
            "revoked": status.revoked_at is not None,
            "revoked_date": aware(status.revoked_at),
            "revoked_reason": "".join("_" + c.lower() if c.isupper() else c for c in status.reason.asn1_name)
            .replace("c_a", "ca")
            .replace("a_a", "aa")
            if status.reason
            else "",
            "ca_id": 2,
        }

    def hostile(self) -> list[dict[str, Any]]:
        return [
            {"serial": "0G"},
            {"revoked_reason": "4000"},
            {"revoked_date": "infinity"},
            {"revoked_date": None},
            {"not_after": "10000-01-01 00:00:00+00"},
        ]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return issuer_of(tmp_path_factory.mktemp("ca"), "xipki")


class TestBoulder(LoaderContract):
    """In MariaDB, which boulder needs; it knows no hold that is released, but the table could say one."""

    @pytest.fixture
    def source(self, mariadb: str, issuer: Issuer) -> ContractSource:
        return Boulder(mariadb, issuer)


class TestOpenXPKI(LoaderContract):
    """In MariaDB."""

    @pytest.fixture
    def source(self, mariadb: str, issuer: Issuer) -> ContractSource:
        return OpenXPKI(mariadb, issuer)


class TestXiPKI(LoaderContract):
    """In PostgreSQL."""

    @pytest.fixture
    def source(self, postgresql: str, issuer: Issuer) -> ContractSource:
        return XiPKI(postgresql, issuer)


class TestDjangoCA(LoaderContract):
    """In PostgreSQL."""

    @pytest.fixture
    def source(self, postgresql: str, issuer: Issuer) -> ContractSource:
        return DjangoCA(postgresql, issuer)


def read_all(source: TableSource) -> dict[bytes, str]:
    return rows_of(read(source.open().snapshot()))


def test_each_is_found_by_its_name(issuer: Issuer) -> None:
    """The registry knows them by the types of the documents."""
    for kind in (Boulder, OpenXPKI, XiPKI, DjangoCA):
        named = issuer.config.source.model_copy(update={"type": kind.type})
        config = issuer.config.model_copy(update={"source": named})
        other = type(issuer)(
            *(config if name == "config" else getattr(issuer, name) for name in issuer.__dataclass_fields__)
        )
        assert loader_class(other, "") is kind.loader


@pytest.mark.parametrize("kind", [XiPKI, DjangoCA])
def test_whose_rows_they_are(kind: type[TableSource], postgresql: str, issuer: Issuer, tmp_path: Any) -> None:
    """Other CAs' rows are passed over; another CA's database is an error, not an empty one; its CAs are told."""
    source = kind(postgresql, issuer)
    source.write([HOLD_ROW])
    source.insert(source.row(99, 99, Status.from_text("good")) | {"CA_ID" if kind is XiPKI else "ca_id": 1})
    assert read_all(source) == dict([HOLD_ROW])
    found = source.open().discover()  # type: ignore[attr-defined]
    assert [(one.name, one.certificate_der) for one in found if one.certificate_der] == [
        ("CN=corp" if kind is XiPKI else "corp", issuer.certificate_der)
    ]
    stranger = issuer_of(tmp_path, kind.type, "stranger")
    other = kind.loader(DatabaseOptions(url=postgresql), stranger, [], source.clock)
    with pytest.raises(SourceUnavailable, match="certificate of 'CN=Example Issuing CA R1"):
        read(other.snapshot())


def test_the_command_that_names_the_issuers(postgresql: str, issuer: Issuer, tmp_path: Any) -> None:
    """How a source is read, and whose certificates it holds: those of the configuration and others."""
    source = XiPKI(postgresql, issuer)
    other = make_ca(tmp_path / "other", name="Another CA", label="other")
    blob = b64encode(other.certificate.public_bytes(Encoding.DER)).decode()
    source.insert({"ID": 3, "SUBJECT": "CN=Another CA", "CERT": blob}, table="CA")
    file = issuer.config.certificate.parent / "sources.toml"
    file.write_text(
        f'[[ca]]\nname = "corp"\ncertificate = "ca.pem"\nocsp = {{ key = "ca.key" }}\n'
        f'source = {{ type = "xipki", url = "{postgresql}" }}\n'
    )
    done = CliRunner().invoke(build_app(["sources"]), ["sources", "-c", str(file)])
    shown = source.open().name
    assert done.stdout.splitlines() == [
        f"corp: xipki {shown}: lists what was issued, by what changed, one consistent view each time, whole each 3600 s",
        "corp:   holds CN=other: no certificate",
        "corp:   holds CN=corp: configured as corp",
        "corp:   holds CN=Another CA: not configured",
    ]
    assert done.exit_code == 0


def test_the_database_of_xipki_s_responder(postgresql: str, issuer: Issuer) -> None:
    """There the issuers stand in ISSUER, and CERT names them by IID."""
    source = XiPKI(postgresql, issuer)
    source.execute("ALTER TABLE CA RENAME TO ISSUER")
    source.execute("ALTER TABLE CERT RENAME COLUMN CA_ID TO IID")
    row = source.row(10, 0xABC, Status.from_text(f"revoked {AT} superseded")) | {"RIT": AT_S - 60, "IID": 2}
    del row["CA_ID"]
    source.insert(row)
    assert read_all(source) == {b"\x0a\xbc": f"revoked {AT} superseded invalid=2026-01-02T03:03:05Z"}


def test_an_account_with_columns_alone(postgresql: str, issuer: Issuer) -> None:
    """What docs/loaders/xipki.md grants is enough, and leaves the private keys out."""
    source = XiPKI(postgresql, issuer)
    source.execute("ALTER TABLE CERT ADD COLUMN PRIVATE_KEY TEXT")
    source.write([HOLD_ROW])
    name = "limited_" + postgresql.partition("?")[0].rpartition("/")[2]
    source.execute(f"CREATE ROLE {name} LOGIN")
    source.execute(f"GRANT SELECT (id, sn, lupdate, nafter, rev, rr, rt, rit, ca_id) ON cert TO {name}")
    source.execute(f"GRANT SELECT (id, subject, cert) ON ca TO {name}")
    source.url = postgresql.replace("//postgres@", f"//{name}@")
    assert read_all(source) == dict([HOLD_ROW])


def test_openxpki_s_renewed_ca(mariadb: str, issuer: Issuer, tmp_path: Any) -> None:
    """Certificates under an older certificate of the same key are the CA's too."""
    source = OpenXPKI(mariadb, issuer)
    older = make_ca(tmp_path, label="corp", subject=source.ca.subject).certificate
    key_id = older.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex(":").upper()
    pem = older.public_bytes(Encoding.PEM).decode()
    source.insert(
        {
            "cert_key": "1",
            "issuer_identifier": "root",
            "identifier": identifier_of(older),
            "status": "ISSUED",
            "subject_key_identifier": key_id,
            "data": pem,
        },
        source.row(2, 2, Status.from_text("good")) | {"issuer_identifier": identifier_of(older)},
        source.row(3, 3, Status.from_text("good")) | {"issuer_identifier": "somebody"},
    )
    assert read_all(source) == {b"\2": "good"}


def test_the_issuers_in_openxpki(mariadb: str, issuer: Issuer, tmp_path: Any) -> None:
    """A CA that was renewed with its key is one; of one whose certificate is not in the table a signature may tell."""
    source = OpenXPKI(mariadb, issuer)
    older = make_ca(tmp_path, label="corp", subject=source.ca.subject, not_before=1_700_000_000).certificate
    elsewhere = make_ca(tmp_path / "elsewhere", label="elsewhere", name="Elsewhere")
    leaf = make_leaf(elsewhere, serial_number=5).certificate
    good = Status.from_text("good")

    def row(number: int, held: x509.Certificate | None, under: str, **more: Any) -> dict[str, Any]:
        data = None if held is None else held.public_bytes(Encoding.PEM).decode()
        name = f"x{number}" if held is None else identifier_of(held)
        return source.row(number, number, good) | {"issuer_identifier": under, "identifier": name, "data": data} | more

    old, new = identifier_of(older), identifier_of(source.ca)
    source.insert(
        row(1, older, old, pki_realm="one"),
        row(2, source.ca, new, pki_realm="two"),
        row(3, None, old),
        row(4, None, new),
        row(5, leaf, "unknown"),
        row(6, leaf, "forged"),
        row(7, source.ca, "", identifier="forged"),
    )
    loader = source.open()
    assert isinstance(loader, Discovering)
    told = {one.name: one for one in loader.discover()}
    ours = told.pop(source.ca.subject.rfc4514_string())
    assert (ours.certificate_der, ours.rows) == (issuer.certificate_der, 4)
    leaf_der = leaf.public_bytes(Encoding.DER)
    assert {name: (one.certificate_der, one.rows, one.issued_der) for name, one in told.items()} == {
        "issuer_identifier ''": (None, 1, issuer.certificate_der),
        "issuer_identifier 'forged'": (None, 1, leaf_der),
        "issuer_identifier 'unknown'": (None, 1, leaf_der),
    }


def test_the_issuers_in_boulder(mariadb: str, issuer: Issuer) -> None:
    """A hash of a name is all that there is: one of the configuration is recognised."""
    source = Boulder(mariadb, issuer)
    source.write([HOLD_ROW])
    source.insert(source.row(99, 99, Status.from_text("good")) | {"issuerID": 77})
    loader = source.open()
    assert isinstance(loader, Discovering)
    assert {(one.name, one.certificate_der) for one in loader.discover()} == {
        ("issuerID 77", None),
        (f"issuerID {name_id(issuer.subject_der)}, the name {issuer.subject_text!r}", None),
    }


def test_openxpki_s_revocations_of_long_ago(mariadb: str, issuer: Issuer) -> None:
    """One dated back further than the overlap is found at once: no CRL lists it yet."""
    source = OpenXPKI(mariadb, issuer)
    row = source.row(1, 1, Status.from_text("good")) | {"notbefore": 1_500_000_000}
    source.insert(row, row | {"cert_key": "2"})
    loader = source.open()
    assert isinstance(loader, Incremental)
    cursor = f"1:{int(source.clock.now())}"
    assert rows_of(read(loader.changes(cursor))) == {}
    source.execute(
        "UPDATE certificate SET status = 'CRL_ISSUANCE_PENDING', revocation_time = 1600000000 WHERE cert_key = 2"
    )
    assert rows_of(read(loader.changes(cursor))) == {b"\2": "revoked 2020-09-13T12:26:40Z"}


def test_boulder_tells_issuers_by_name(mariadb: str, issuer: Issuer) -> None:
    """Two keys under one name cannot be told apart there: nothing is read."""
    source = Boulder(mariadb, issuer)
    loader = BoulderLoader(DatabaseOptions(url=mariadb), issuer, [issuer], source.clock)
    with pytest.raises(SourceUnavailable, match="cannot tell apart"):
        read(loader.snapshot())


def test_an_old_django_ca(postgresql: str, issuer: Issuer) -> None:
    """Before 2.0 the end was in ``expires``."""
    source = DjangoCA(postgresql, issuer)
    source.execute("ALTER TABLE django_ca_certificate RENAME COLUMN not_after TO expires")
    row = source.row(1, 5, Status.from_text("good")) | {"expires": "2027-01-01 00:00:00+01"}
    del row["not_after"]
    source.insert(row)
    assert read_all(source) == {b"\5": "good exp=2026-12-31T23:00:00Z"}
