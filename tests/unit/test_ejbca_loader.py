"""EJBCA's database on real PostgreSQL and MariaDB servers, with the vendor's column types."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.dialects import mssql, oracle

from loaders import ejbca
from loaders.base import Batch, Loader, Row
from loaders.contract_suite import NOW, ContractSource, LoaderContract, read, rows_of
from loaders.ejbca import EJBCALoader, EJBCAOptions
from loaders.entries import RowMaker
from loaders.registry import check_options
from loaders.runner import Runner
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import CRLReason, Status, serial_from_octets, serial_to_octets
from tests import ejbca_tables
from tests.database_room import issuer_of
from tests.ejbca_tables import certificate_row, row
from tests.loader_room import LoaderRoom
from tests.pki import PKI, make_ca
from tests.redis_fixture import RedisServer

DN = "CN=Example Issuing CA R1,O=Example,C=SE"  # as EJBCA orders it
EXP = "exp=2030-12-31T23:59:59Z"
AT_MS = 1_767_323_045_000
AT = "2026-01-02T03:04:05Z"


class EJBCASource(ContractSource):
    """CertificateData with one root CA in it."""

    def __init__(self, url: str, issuer: Issuer) -> None:
        self.url, self.issuer = url, issuer
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        self.ca = x509.load_der_x509_certificate(issuer.certificate_der)
        self.fingerprint = self.ca.fingerprint(hashes.SHA1()).hex()
        self.updated = 1_794_000_000_000
        self.options: dict[str, Any] = {"url": url}
        ejbca_tables.create(self.engine)
        self.insert(certificate_row(self.ca, self.ca, DN, DN, type=8))
        self.ca_row = (serial_to_octets(self.ca.serial_number), "")

    def insert(self, *rows: dict[str, Any], table: str = "CertificateData") -> None:
        ejbca_tables.insert(self.engine, rows, table)

    def execute(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def row(self, serial: int | str, **values: Any) -> dict[str, Any]:
        return row(self.fingerprint, DN, str(serial), **({"updateTime": self.updated} | values))

    def open(self) -> Loader:
        options = check_options(EJBCAOptions, self.options, "corp", "revocast.toml")
        return EJBCALoader(options, self.issuer, [], self.clock)

    def read(self, loader: Loader | None = None) -> dict[str, str]:
        """Return serial (decimal) → text, without the CA's own row."""
        batches = read((loader or self.open()).snapshot())
        assert [str(row) for batch in batches for row in batch.rejected] == []
        found = {str(serial_from_octets(serial)): text for serial, text in rows_of(batches).items()}
        found.pop(str(self.ca.serial_number), None)
        return found

    def write(self, rows: Sequence[Row]) -> None:
        self.updated += 1_000_000
        self.execute("DELETE FROM CertificateData WHERE type = 1")
        made = []
        for serial, text in rows:
            status = Status.from_text(text)
            values: dict[str, Any] = {"expireDate": (status.not_after or 0) * 1000}
            if status.revoked_at is not None:
                reason = int(status.reason or 0)
                values |= {"status": 40, "revocationDate": status.revoked_at * 1000, "revocationReason": reason}
            made.append(self.row(serial_from_octets(serial), **values))
        self.insert(*made)

    def write_hostile(self, rows: Sequence[Row]) -> int:
        self.write(rows)
        hostile: list[dict[str, Any]] = [
            {"serialNumber": "9" * 65536 if self.url.startswith("postgresql") else "x" * 250},
            {"serialNumber": "0x1234"},
            {"serialNumber": "CVC-é00001"},
            {"serialNumber": "-"},
            {"expireDate": 253_402_300_800_000},
            {"expireDate": (1 << 63) - 1},
            {"status": 77},
            {"status": 40, "revocationReason": 4000, "revocationDate": AT_MS},
            {"status": 40, "revocationReason": 1, "revocationDate": -1},
            {"status": 40, "revocationReason": 1, "revocationDate": (1 << 63) - 1},
            {"cAFingerprint": "0" * 40},
        ]
        self.insert(*(self.row(7000 + at) | {"fingerprint": f"{at:040x}"} | one for at, one in enumerate(hostile)))
        return len(hostile)

    def take_away(self) -> None:
        self.execute("DROP TABLE CertificateData")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return issuer_of(tmp_path_factory.mktemp("ca"), "ejbca")


@pytest.fixture
def source(each_database: str, issuer: Issuer) -> EJBCASource:
    return EJBCASource(each_database, issuer)


class TestEJBCA(LoaderContract):
    """The contract; the CA's own row stands beside the suite's."""

    @pytest.fixture
    def source(self, each_database: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> ContractSource:
        # The CA's own certificate is a row like any other; the suite counts its own alone.
        monkeypatch.setattr(ejbca, "TYPES", (0, 1, 2))
        return EJBCASource(each_database, issuer)


STATUSES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"status": 20}, f"good {EXP}"),
    ({"status": 21}, f"good {EXP}"),
    ({"status": 0}, f"good {EXP}"),
    ({"status": 60}, f"good {EXP}"),
    # A released hold keeps the time of its release in revocationDate.
    ({"status": 20, "revocationDate": AT_MS}, f"good {EXP}"),
    ({"status": 40, "revocationDate": AT_MS, "revocationReason": 0}, f"revoked {AT} {EXP}"),
    ({"status": 40, "revocationDate": AT_MS + 999, "revocationReason": 6}, f"revoked {AT} certificateHold {EXP}"),
    ({"status": 40, "revocationDate": AT_MS, "revocationReason": -1}, f"revoked {AT} {EXP}"),
    # Archived: expired and dropped from the CRL, and still revoked.
    ({"status": 60, "revocationDate": AT_MS, "revocationReason": 1}, f"revoked {AT} keyCompromise {EXP}"),
    ({"status": 60, "revocationDate": AT_MS, "revocationReason": 8}, f"good {EXP}"),
    ({"status": 40, "revocationDate": AT_MS, "revocationReason": 8}, f"good {EXP}"),
    (
        {"status": 40, "revocationDate": AT_MS, "revocationReason": 1, "invalidityDate": AT_MS - 86_400_000},
        f"revoked {AT} keyCompromise {EXP} invalid=2026-01-01T03:04:05Z",
    ),
    ({"status": 40, "revocationDate": AT_MS, "revocationReason": 4, "expireDate": 0}, f"revoked {AT} superseded"),
    *(
        (
            {"status": 40, "revocationDate": AT_MS, "revocationReason": int(reason)},
            f"revoked {AT} {reason.asn1_name} {EXP}",
        )
        for reason in CRLReason
        if reason not in (CRLReason.UNSPECIFIED, CRLReason.REMOVE_FROM_CRL, CRLReason.CERTIFICATE_HOLD)
    ),
)


def test_every_status_and_reason(source: EJBCASource) -> None:
    """As EJBCA itself decides them; SSH, card-verifiable and C-ITS certificates are passed over."""
    source.insert(*(source.row(100 + at, **values) for at, (values, _) in enumerate(STATUSES)))
    source.insert(source.row("90", type=10), source.row("abc", type=12), source.row("92", issuerDN="CN=Another"))
    source.insert(source.row("-5"), source.row("0"), source.row(str(1 << 159)))
    found = source.read()
    assert {serial: found.pop(serial) for serial in ("-5", "0", str(1 << 159))} == dict.fromkeys(
        ("-5", "0", str(1 << 159)), f"good {EXP}"
    )
    assert found == {str(100 + at): text for at, (_, text) in enumerate(STATUSES)}


def precertificates(source: EJBCASource) -> None:
    """Have EJBCA store precertificates too: their serials stand there twice."""
    where = "" if source.url.startswith("postgresql") else " ON CertificateData"
    source.execute(f"DROP INDEX certificatedata_idx12{where}")


def test_a_precertificates_row_says_that_it_was_issued(
    source: EJBCASource, redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Beside the final's row it says nothing, unless it is revoked; alone it is good (BR §4.9.9). No conflict is told."""
    precertificates(source)
    hold = {"status": 40, "revocationDate": AT_MS, "revocationReason": 6}
    revoked = {"status": 40, "revocationDate": AT_MS, "revocationReason": 1}
    source.insert(
        *(source.row(serial, tag="P") | {"fingerprint": f"{serial:040x}"} for serial in (1, 2, 3, 4)),
        source.row(6, tag="P", **(revoked | {"revocationReason": 8})) | {"fingerprint": f"{6:040x}"},
        source.row(5, tag="P", **revoked) | {"fingerprint": f"{5:040x}"},
        source.row(1, **revoked),
        source.row(2, **hold),
        source.row(3),
        source.row(5),
        source.row(6, **hold),
    )
    ca = source.issuer.id
    store = redis_server().store()
    loader, options = source.open(), EJBCAOptions(url=source.url)
    runner = Runner(store, source.issuer, loader, options, ManualClock(NOW), tmp_path / "spool")
    report = runner.run()
    assert [error.row for error in report.errors] == ["serial 05"], "revoked as a precertificate alone: one to look at"
    key, held, good = f"revoked {AT} keyCompromise {EXP}", f"revoked {AT} certificateHold {EXP}", f"good {EXP}"
    expected = dict(zip(range(1, 7), (key, held, good, good, key, held), strict=True))

    def stored() -> dict[int, str | None]:
        return {serial: store.find_status(ca, bytes([serial])) for serial in range(1, 7)}

    assert stored() == expected
    # It changes after the final was put on hold: that is not released, nor is an alarm raised.
    source.updated = int(NOW) * 1000
    source.execute(
        "UPDATE CertificateData SET status = 21, updateTime = :at WHERE tag = 'P' AND status = 20", at=source.updated
    )
    report = runner.changes()
    assert (report.done.refused, report.rejected) == ({}, 0)
    assert stored() == expected
    # While a whole pass reads, too: what that says of the final counts.
    source.execute(
        "UPDATE CertificateData SET status = 40, revocationDate = :at, revocationReason = 1 WHERE serialNumber = '3' AND tag IS NULL",
        at=AT_MS,
    )
    runner.run(meanwhile=lambda: runner.changes() and None)
    assert stored() == expected | {3: key}


def test_the_quick_way_takes_what_the_careful_way_takes(issuer: Issuer) -> None:
    """Whatever ``batch`` takes by itself is what ``item`` makes of it."""
    loader = EJBCALoader(EJBCAOptions(url="sqlite://"), issuer, [], ManualClock(0.0))
    loader._mine = frozenset({"mine"})
    make, chance = RowMaker("x", 0.0), random.Random(7)
    pick = chance.choice
    for _ in range(5_000):
        row = (
            "f",
            pick(["1", "007", "-1", "12345678901234567890", "٣", "x", None]),
            pick([0, 20, 21, 40, 60, 99, None]),
            pick([-1, 0, 1, 6, 7, 8, 10, 4000, None]),
            pick([-1, 0, AT_MS, 1 << 60, None]),
            pick([0, AT_MS, 1 << 60, None, -1]),
            0,
            pick(["mine", "mine", None]),
            pick([None, -1, AT_MS]),
            pick([None, None, "P", "x"]),
        )
        quick, careful = loader.batch([row], make), Batch([])
        loader.put(row, make, careful)
        assert (quick.rows, quick.issued, quick.released, [str(one) for one in quick.rejected]) == (
            careful.rows,
            careful.issued,
            careful.released,
            [str(one) for one in careful.rejected],
        )


def test_a_hold_and_its_release_in_redis(
    source: EJBCASource, tmp_path: Path, redis_server: Callable[..., RedisServer]
) -> None:
    """By the changes alone, in seconds: revoked, on hold, released, and revoked for good, which nothing undoes."""
    room = LoaderRoom(tmp_path, redis_server())
    source.clock = room.clock
    source.insert(source.row(1), source.row(2), source.row(3))
    loader, options = source.open(), EJBCAOptions(url=source.url)
    runner = Runner(room.store, source.issuer, loader, options, room.clock, tmp_path / "state" / "spool")
    assert runner.run().settled, "one reading of a consistent source is enough"

    def change(serial: int, status: int, reason: int, date: int = AT_MS) -> str:
        source.updated += 1000
        source.execute(
            "UPDATE CertificateData SET status = :s, revocationReason = :r, revocationDate = :d, updateTime = :u WHERE serialNumber = :n",
            s=status,
            r=reason,
            d=date,
            u=source.updated,
            n=str(serial),
        )
        runner.changes()
        return room.statuses(source.issuer.id)[f"{serial:02x}"]

    assert change(1, 40, 6) == f"revoked {AT} certificateHold {EXP}"
    assert change(1, 20, -1, AT_MS + 1000) == f"good {EXP}"
    assert change(2, 40, 6) == f"revoked {AT} certificateHold {EXP}"
    assert change(2, 40, 1) == f"revoked {AT} keyCompromise {EXP}"
    assert change(2, 20, -1) == f"revoked {AT} keyCompromise {EXP}"
    source.updated += 1000
    source.insert(source.row(4))
    runner.changes()
    assert room.statuses(source.issuer.id)["04"] == f"good {EXP}"


def test_several_rows_of_one_certificate(source: EJBCASource) -> None:
    """NoConflictCertificateData: a permanent revocation wins, of several the first; else the latest row, of a good precertificate if alone."""

    def rows(serial: int, *entries: tuple[int, int, int], precertificate: Collection[int] = ()) -> list[dict[str, Any]]:
        return [
            source.row(
                serial,
                status=status,
                revocationReason=reason,
                revocationDate=AT_MS + at * 1000,
                updateTime=source.updated + at,
                tag="P" if at in precertificate else None,
            )
            | {"id": f"{serial}-{at}"}
            for status, reason, at in entries
        ]

    source.insert(
        *rows(1, (40, 4, 1), (40, 1, 2)),
        *rows(2, (40, 1, 2), (40, 6, 3), (20, -1, 4)),
        *rows(3, (40, 6, 1), (20, -1, 2)),
        *rows(4, (20, -1, 1), (40, 6, 2)),
        *rows(5, (40, 6, 1), (20, -1, 2), precertificate=[2]),
        *rows(6, (20, -1, 1), (40, 6, 2), precertificate=[2]),
        *rows(7, (40, 1, 1), (20, -1, 2), precertificate=[1]),
        *rows(8, (40, 6, 1), (20, -1, 2), precertificate=[1]),
        *rows(9, (20, -1, 1), (21, -1, 2), precertificate=[1, 2]),
        *rows(10, (40, 6, 1), (40, 8, 2), precertificate=[2]),
        table="NoConflictCertificateData",
    )
    loader = source.open()
    wanted = {
        "1": f"revoked 2026-01-02T03:04:06Z superseded {EXP}",
        "2": f"revoked 2026-01-02T03:04:07Z keyCompromise {EXP}",
        "3": f"good {EXP}",
        "4": f"revoked 2026-01-02T03:04:07Z certificateHold {EXP}",
        "5": f"revoked 2026-01-02T03:04:06Z certificateHold {EXP}",
        "6": f"revoked 2026-01-02T03:04:07Z certificateHold {EXP}",
        "7": f"revoked 2026-01-02T03:04:06Z keyCompromise {EXP}",
        "8": f"good {EXP}",
        "10": f"revoked 2026-01-02T03:04:06Z certificateHold {EXP}",
    }
    assert source.read(loader) == wanted
    assert [one for batch in read(loader.snapshot()) for one in batch.issued] == [(b"\x09", f"good {EXP}")]
    late = source.updated // 1000 + 10_000
    source.insert(
        *(one | {"updateTime": late * 1000, "id": "5"} for one in rows(2, (20, -1, 9))),
        table="NoConflictCertificateData",
    )
    assert isinstance(loader, EJBCALoader)
    assert rows_of(read(loader.changes(f"1:{late}"))) == {b"\2": wanted["2"]}, "what changed alone would have said good"


def test_limited_rows(source: EJBCASource) -> None:
    """Made from a CRL: no certificate, type 0, no expiry, a fingerprint that is none."""
    source.options["lists"] = "revoked"
    source.insert(
        source.row(
            7, type=0, expireDate=0, status=40, revocationReason=1, revocationDate=AT_MS, subjectDN="CN=limited"
        ),
        source.row(8, type=0, expireDate=0, status=40, revocationReason=1, revocationDate=AT_MS, cAFingerprint=None),
    )
    loader = source.open()
    assert source.read(loader) == dict.fromkeys(("7", "8"), f"revoked {AT} keyCompromise")
    assert not loader.lists_issued


def renewed(directory: Path, old: PKI, label: str) -> x509.Certificate:
    """Make another generation of a CA: with its key where the label is the same."""
    return make_ca(directory, label=label, subject=old.certificate.subject).certificate


def test_generations_of_a_ca(source: EJBCASource, tmp_path: Path) -> None:
    """Renewed with the same key it is the same issuer; with a new key another, of the same name."""
    same = renewed(tmp_path / "same", PKIStub(source.ca), "corp")
    other = renewed(tmp_path / "other", PKIStub(source.ca), "corp-g2")
    for certificate in (same, other):
        source.insert(certificate_row(certificate, certificate, DN, DN, type=8))
    by = {name: one.fingerprint(hashes.SHA1()).hex() for name, one in (("same", same), ("other", other))}
    source.insert(
        source.row(1),
        source.row(2, cAFingerprint=by["same"]),
        source.row(3, cAFingerprint=by["other"]),
        source.row(4, cAFingerprint=None, status=40, revocationDate=AT_MS, revocationReason=1),
        source.row(5, cAFingerprint=None),
    )
    batches = read(source.open().snapshot())
    found = rows_of(batches)
    assert {serial: found.get(serial) for serial in (b"\1", b"\2", b"\3", b"\4", b"\5")} == {
        b"\1": f"good {EXP}",
        b"\2": f"good {EXP}",
        b"\3": None,
        b"\4": f"revoked {AT} keyCompromise {EXP}",
        b"\5": None,
    }
    assert [one.serial_octets for batch in batches for one in batch.rejected] == [b"\5"]
    loader = source.open()
    assert isinstance(loader, EJBCALoader)
    assert {one.certificate_der for one in loader.discover()} == {
        certificate.public_bytes(Encoding.DER) for certificate in (source.ca, same, other)
    }


class PKIStub:
    """A CA of which only the certificate is known."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate


def test_certificates_elsewhere(source: EJBCASource) -> None:
    """In Base64CertData, or only in CAData's XML, or not at all: then the operator says the name."""
    source.insert(source.row(1))
    source.execute(
        "INSERT INTO Base64CertData (fingerprint, base64Cert, rowVersion) SELECT fingerprint, base64Cert, 0 FROM CertificateData WHERE type = 8"
    )
    source.execute("UPDATE CertificateData SET base64Cert = NULL")
    assert source.read() == {"1": f"good {EXP}"}
    source.execute("DELETE FROM Base64CertData")
    with pytest.raises(
        SourceUnavailable, match=r"neither CertificateData nor CAData holds the certificate .* set issuer_dn"
    ):
        source.read()
    source.options["issuer_dn"] = DN
    assert source.read() == {"1": f"good {EXP}"}
    del source.options["issuer_dn"]
    text = b64encode(source.ca.public_bytes(Encoding.DER)).decode()
    xml = f'<java><object class="java.util.ArrayList"><void method="add"><string>{text}</string></void></object></java>'
    source.execute(
        "INSERT INTO CAData (cAId, data, expireTime, name, rowVersion, status, subjectDN, updateTime) VALUES (1, :x, 0, 'corp', 0, 1, :d, 0)",
        x=xml,
        d=DN,
    )
    assert source.read() == {"1": f"good {EXP}"}
    for table in ("NoConflictCertificateData", "Base64CertData"):
        source.execute(f"DROP TABLE {table}")
    assert source.read() == {"1": f"good {EXP}"}, "a VA's account may not read them"


def test_an_old_schema(source: EJBCASource) -> None:
    """Databases of EJBCA 5 and 6 lack columns."""
    source.execute("ALTER TABLE CertificateData DROP COLUMN invalidityDate")
    source.execute("UPDATE CertificateData SET type = 1 WHERE type = 8")
    source.options["issuer_dn"] = DN
    batches = read(source.open().snapshot())
    assert len(rows_of(batches)) == 1


def test_a_row_that_is_not_its_certificates(source: EJBCASource) -> None:
    """A database in which the serials mean something else is not read at all."""
    source.execute("UPDATE CertificateData SET serialNumber = '4711' WHERE type = 8")
    with pytest.raises(SourceUnavailable, match="is not what its row says: serial '4711'"):
        read(source.open().snapshot())


def test_one_row_that_is_not_its_certificates_stops_no_other(source: EJBCASource) -> None:
    """Edited by hand, say: it is rejected, and nothing may be taken for vanished."""
    blob = b64encode(source.ca.public_bytes(Encoding.DER)).decode()
    source.insert(source.row(4711, base64Cert=blob), source.row(12))
    batches = read(source.open().snapshot())
    (rejected,) = [row for batch in batches for row in batch.rejected]
    assert "is not what its row says: serial '4711'" in rejected.reason
    assert rejected.serial_octets is None
    assert rows_of(batches)[b"\x0c"] == f"good {EXP}"


@pytest.mark.parametrize("dialect", [oracle.dialect(), mssql.dialect()], ids=["oracle", "mssql"])
def test_what_other_servers_would_be_asked(dialect: sa.Dialect, issuer: Issuer) -> None:
    """No name is quoted, no OFFSET, no LIMIT where there is none; every table and column is one of EJBCA's."""
    loader = EJBCALoader(EJBCAOptions(url="sqlite://"), issuer, [], ManualClock(0.0))
    loader._columns = frozenset(name.lower() for name in ejbca._COLUMNS)
    loader._names = (DN,)
    selected = loader._select(ejbca.CERTIFICATES)
    key = ejbca.CERTIFICATES.c.fingerprint
    asked = [
        selected.order_by(key).limit(10).where(key > "a"),
        loader.changed_since(selected, 5),
        loader._select(ejbca.NO_CONFLICT),
    ]
    for statement in asked:
        text = str(statement.compile(dialect=dialect))
        assert '"' not in text.replace('"type"', "type")
        assert "[" not in text.replace("[POSTCOMPILE", "").replace("[type]", "type")
        assert " OFFSET " not in text
        assert " LIMIT " not in text
        assert "ertificateData" in text
    text = str(asked[0].compile(dialect=dialect))
    assert ("FETCH FIRST" in text or "ROWNUM" in text) if dialect.name == "oracle" else "TOP" in text
