"""Whose certificates a source holds: real files, generations of one name, forged and nameless certificates, one line for each."""

from __future__ import annotations

import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from loaders import discovery
from loaders.adcs_rows import AdcsRow, issuers_of
from loaders.base import FoundIssuer, Loader
from loaders.certificates import is_issued_by
from loaders.discovery import MAX_ISSUERS, CertificateIssuers, issuer_lines
from loaders.ownership import parse_certificate
from loaders.registry import check_options, loader_class
from responder.cli.app import build_app
from responder.clock import ManualClock
from responder.issuers import Issuer
from tests import database_room
from tests.loader_reading import NOW, SAMPLES, issuer_of, needs_samples
from tests.pki import PKI, key_of, make_ca, make_leaf, name_of, utc
from tests.unit.test_files_contract import EXP, CfsslSource, XcaSource
from tests.unit.test_stepca_contract import StepSqlSource

ADCS = SAMPLES / "adcs-edb" / "SEVENKINGDOMS-CA.edb"
XCA = SAMPLES / "xca" / "sample.xdb"
THEIRS = "not configured, and its certificate is not there"


class Told:
    """A configuration of CAs, and what is said of a source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, kind: str, configured: Sequence[Path] = (), **options: Any) -> list[str]:
        config = database_room.issuer_of(self.folder / "room", kind, "unrelated")
        loader_type = loader_class(config, "")
        checked = check_options(loader_type.Options, options, "corp", "revocast.toml")
        loader: Loader = loader_type(checked, config, [], ManualClock(NOW))
        issuers = [issuer_of(path, f"ca{number}") for number, path in enumerate(configured)]
        return list(issuer_lines(loader, issuers))  # type: ignore[arg-type]  # all that is asked of them is their order


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


# --- real files ------------------------------------------------------------------------------------------------------------


@needs_samples
@pytest.mark.parametrize(("name", "count"), [("step.bbolt", ", 40 certificates"), ("badger", ""), ("badgerv2", "")])
def test_what_step_ca_wrote(name: str, count: str, told: Told) -> None:
    """Its database holds no CA's certificate: a signature tells which it is. badger may hold a certificate twice."""
    path, ca = str(SAMPLES / "step-ca" / name), SAMPLES / "step-ca" / f"{name}.ca.pem"
    assert told.lines("stepca", [ca], path=path) == [
        f"holds CN=step db sample CA{count}: configured as ca0, by a signature"
    ]
    assert told.lines("stepca", path=path) == [f"holds CN=step db sample CA{count}: {THEIRS}"]


@needs_samples
def test_what_ad_cs_wrote(told: Told) -> None:
    """The CA's own certificate is a row of disposition 15; seven requests were granted."""
    name = "CN=SEVENKINGDOMS-CA,DC=sevenkingdoms,DC=local"
    assert told.lines("adcs", path=str(ADCS)) == [f"holds {name}, 7 certificates: not configured"]


@needs_samples
def test_what_xca_wrote(told: Told, tmp_path: Path) -> None:
    """Two CAs in one file, of which one is configured."""
    connection = sqlite3.connect(f"file:{XCA}?mode=ro&immutable=1", uri=True)
    text, *_ = connection.execute("SELECT cert FROM certs WHERE ca = 1 ORDER BY item").fetchone()
    connection.close()
    first = tmp_path / "first.pem"
    first.write_bytes(x509.load_der_x509_certificate(b64decode(text)).public_bytes(Encoding.PEM))
    assert told.lines("xca", [first], path=str(XCA)) == [
        "holds CN=vpn.jenkins.io, 32 certificates: configured as ca0",
        "holds CN=openssl ca sample,O=OpenSSL sample, 13 certificates: not configured",
    ]


@needs_samples
def test_what_cfssl_wrote(told: Told) -> None:
    """No CA's certificate; key identifiers are empty, so that the certificates alone tell."""
    folder = SAMPLES / "cfssl" / "generated"
    assert told.lines("cfssl", [folder / "ca.pem"], path=str(folder / "certs.db")) == [
        "holds CN=cfssl sample CA,O=cfssl, 4 certificates: configured as ca0, by a signature"
    ]


@needs_samples
@pytest.mark.parametrize(
    ("folder", "index", "ca", "name"),
    [
        ("openssl-ca/demoCA", "index.txt", "ca.pem", "CN=openssl ca sample,O=OpenSSL sample"),
        ("easyrsa3/pki", "index.txt", "ca.crt", "CN=Sample Easy-RSA CA"),
    ],
)
def test_what_openssl_wrote(folder: str, index: str, ca: str, name: str, told: Told) -> None:
    """The CA's certificate beside the index.txt, which itself names no issuer; nobody counts what lies in two folders."""
    path = SAMPLES / folder / index
    assert told.lines("openssl", [SAMPLES / folder / ca], path=str(path)) == [f"holds {name}: configured as ca0"]
    assert told.lines("certdir", path=str(path.parent))[0].startswith(f"holds {name}, ")


# --- certificates alone ------------------------------------------------------------------------------------------------------


def certificate(issuer: PKI, serial: int, *, key_id: bytes | None = None, name: str = "leaf") -> x509.Certificate:
    """A certificate with an authorityKeyIdentifier of one's own choice, or none."""
    builder = x509.CertificateBuilder(
        issuer.certificate.subject, name_of(name), key_of("p256", "leaf").public_key(), serial, utc(1), utc(2**31)
    )
    if key_id is not None:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
    return builder.sign(issuer.key, SHA256())


def found(*certificates: x509.Certificate) -> list[FoundIssuer]:
    issuers = CertificateIssuers("source")
    for one in certificates:
        issuers.add(one)
    return issuers.found()


@pytest.fixture
def generations(tmp_path: Path) -> tuple[PKI, PKI]:
    """Two keys under one name."""
    return make_ca(tmp_path / "g1", label="g1"), make_ca(tmp_path / "g2", label="g2")


def test_generations_of_one_name_are_told_apart(generations: tuple[PKI, PKI], tmp_path: Path) -> None:
    """By key identifier, wherever their certificates stand; one that was renewed with its key is the same issuer."""
    one, other = generations
    again = make_ca(tmp_path / "again", label="g1", not_before=1_700_000_000)
    leaves = [make_leaf(one, serial_number=at).certificate for at in (1, 2)] + [make_leaf(other).certificate]
    told = found(*leaves, again.certificate, one.certificate)
    assert [(issuer.certificate_der, issuer.rows) for issuer in told] == [(one.certificate_der, 4), (None, 1)]
    assert told[1].issued_der == leaves[2].public_bytes(Encoding.DER)
    assert [(issuer.certificate_der, issuer.rows) for issuer in found(*leaves, other.certificate)] == [
        (other.certificate_der, 2),
        (None, 2),
    ]


def test_the_lines_name_the_key_where_the_name_is_the_same(
    generations: tuple[PKI, PKI], told: Told, tmp_path: Path
) -> None:
    """An operator sees which generation is missing in the configuration."""
    folder = tmp_path / "issued"
    folder.mkdir()
    for number, ca in enumerate(generations):
        leaf = make_leaf(ca, serial_number=5 + number)
        (folder / f"{number}.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
    (folder / "ca.pem").write_bytes(generations[0].certificate.public_bytes(Encoding.PEM))
    first, second = told.lines("certdir", [generations[1].certificate_path], path=str(folder))
    keys = [x509.SubjectKeyIdentifier.from_public_key(ca.key.public_key()).digest[:8].hex() for ca in generations]
    name = generations[0].certificate.subject.rfc4514_string()
    assert first == f"holds {name} (key {keys[0]}…), 2 certificates: not configured"
    assert second == f"holds {name} (key {keys[1]}…), 1 certificate: configured as ca0, by a signature"


def test_a_forged_certificate_does_not_hide_an_issuer(generations: tuple[PKI, PKI]) -> None:
    """Its key identifier is the CA's, its signature is not: those behind it tell."""
    one, other = generations
    key_id = x509.SubjectKeyIdentifier.from_public_key(one.key.public_key()).digest
    forged = certificate(other, 9, key_id=key_id)
    (issuer,) = found(forged, make_leaf(one).certificate, one.certificate)
    assert issuer.certificate_der == one.certificate_der


def test_without_key_identifiers_nobody_counts(generations: tuple[PKI, PKI]) -> None:
    """Two keys of one name: which certificate is whose is not found out for each. Of one key it is known."""
    one, other = generations
    leaves = [certificate(one, 1), certificate(other, 2), certificate(one, 3)]
    told = found(*leaves, one.certificate, other.certificate)
    assert [issuer.certificate_der for issuer in told] == [one.certificate_der, other.certificate_der]
    assert [issuer.rows for issuer in told] == [None, None]
    assert [issuer.rows for issuer in found(leaves[0], leaves[2], one.certificate)] == [3]


def test_a_ca_that_issued_nothing_here_is_told_too(generations: tuple[PKI, PKI], tmp_path: Path) -> None:
    """Such as a sub-CA whose certificate stands among those of the CA above."""
    sub = make_ca(tmp_path / "sub", label="sub", name="Sub CA", issuer=generations[0])
    told = found(sub.certificate)
    assert [(issuer.certificate_der, issuer.rows) for issuer in told] == [(sub.certificate_der, 0), (None, 1)]


def test_there_is_an_end_to_issuers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each certificate may name another key: memory is bounded, and the log says so."""
    ca = make_ca(tmp_path)
    issuers = CertificateIssuers("hostile")
    for number in range(MAX_ISSUERS + 5):
        issuers.add(certificate(ca, number + 1, key_id=number.to_bytes(4, "big")))
    assert len(issuers.found()) == MAX_ISSUERS
    assert "issuers_cut" in capsys.readouterr().out


def test_there_is_an_end_to_signatures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All CAs of a source may have one name: each certificate could be of each; nor is one of megabytes held in memory."""
    monkeypatch.setattr(discovery, "MAX_SIGNATURES", 10)
    looks = 0

    def counted(*pair: x509.Certificate) -> bool:
        nonlocal looks
        looks += 1
        return is_issued_by(*pair)

    monkeypatch.setattr(discovery, "is_issued_by", counted)
    issuers = CertificateIssuers("hostile")
    cas = [make_ca(tmp_path / str(number), label=f"ca{number}") for number in range(4)]
    for number, ca in enumerate(cas):
        issuers.add_ca(ca.certificate)
        issuers.add(certificate(ca, number + 1, key_id=bytes([number])))
    assert {issuer.rows for issuer in issuers.found()} == {None}
    assert looks == 10
    assert "issuers_cut" in capsys.readouterr().out
    monkeypatch.setattr(discovery, "MAX_CERTIFICATE_BYTES", 100)
    issuers = CertificateIssuers("hostile")
    issuers.add(cas[0].certificate)
    assert issuers.found() == []
    assert "issuers_cut" in capsys.readouterr().out


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A CA's certificate, one of a sub-CA, and a leaf."""
    ca = make_ca(tmp_path_factory.mktemp("ca"))
    sub = make_ca(tmp_path_factory.mktemp("sub"), label="sub", name="Sub CA", issuer=ca)
    return [ca.certificate_der, sub.certificate_der, make_leaf(ca).certificate_der]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1 << 10), st.integers(0, 255)), min_size=1, max_size=8),
    st.permutations([0, 1, 2]),
)
def test_damaged_certificates_end_in_issuers(
    originals: list[bytes], changes: list[tuple[int, int, int]], order: list[int]
) -> None:
    """Whatever octets are changed of certificates that can be parsed nevertheless: issuers, each in one line."""
    damaged = [bytearray(one) for one in originals]
    for which, at, value in changes:
        damaged[which][at % len(damaged[which])] = value
    issuers = CertificateIssuers("source")
    for which in order:
        for der in (damaged[which], originals[which]):
            try:
                certificate = parse_certificate(bytes(der))
            except ValueError:
                continue
            issuers.add(certificate)
    assert issuers.found()

    class Fake:
        """A loader that found them."""

        def discover(self) -> list[FoundIssuer]:
            return issuers.found()

    assert all(line.isprintable() for line in issuer_lines(Fake(), []))  # type: ignore[arg-type]


def test_a_name_is_one_line(told: Told, tmp_path: Path) -> None:
    """Whatever it holds."""
    folder = tmp_path / "issued"
    folder.mkdir()
    odd = make_ca(tmp_path / "odd", name="a\nb\x1b[31m" + "c" * 20)
    (folder / "a.pem").write_bytes(make_leaf(odd).certificate.public_bytes(Encoding.PEM))
    (line,) = told.lines("certdir", path=str(folder))
    assert line.isprintable()
    assert "a" in line


# --- one CA system each --------------------------------------------------------------------------------------------------------


def test_intermediates_in_a_server_of_step_ca(
    each_database: str, told: Told, tmp_path: Path, generations: tuple[PKI, PKI]
) -> None:
    """Both kinds of server; what is no certificate is passed over."""
    source = StepSqlSource(tmp_path, each_database)
    ders = [make_leaf(ca, serial_number=at).certificate_der for ca in generations for at in (5, 6)]
    source.put([(b"x509_certs", str(at).encode(), der) for at, der in enumerate([*ders[:3], b"no DER"])])
    lines = told.lines("stepca", [generations[0].certificate_path], url=each_database)
    assert [line.partition("…), ")[2] for line in lines] == [
        "2 certificates: configured as ca0, by a signature",
        f"1 certificate: {THEIRS}",
    ]
    source.put([])
    assert told.lines("stepca", url=each_database) == ["names no issuer: it holds no certificate"]


def test_the_generations_of_an_ad_cs(generations: tuple[PKI, PKI], tmp_path: Path) -> None:
    """Their own certificates have a disposition, their rows a number of the generation; imported ones are of others."""
    one, other = generations
    foreign = make_ca(tmp_path / "foreign", label="foreign", name="Foreign")

    def row(disposition: int, number: int, issuer: PKI | None, *, own: bool = False) -> AdcsRow:
        der = None
        if issuer is not None:
            der = issuer.certificate_der if own else make_leaf(issuer).certificate_der
        return AdcsRow("x", disposition, "01", number, certificate=lambda: der)

    told = issuers_of(
        "x.edb",
        [
            row(15, 0, one, own=True),
            row(15, 1, other, own=True),
            row(16, 0, foreign, own=True),
            row(20, 0, None),
            row(20, 0, one),
            row(21, 0, one),
            row(17, 1 << 16 | 1, other),
            row(12, 0, foreign),
            row(30, 0, None),
            row(20, 2, None),
        ],
    )
    assert [(issuer.certificate_der, issuer.rows, issuer.name) for issuer in told] == [
        (one.certificate_der, 3, one.certificate.subject.rfc4514_string()),
        (other.certificate_der, 1, other.certificate.subject.rfc4514_string()),
        (None, 1, foreign.certificate.subject.rfc4514_string()),
        (None, 1, "IssuerNameID 2, rows without a certificate"),
    ]


def test_xca_s_deleted_ca(told: Told, tmp_path: Path) -> None:
    """Its certificates show that there was one, and its revocations stand under a number alone."""
    source = XcaSource(tmp_path)
    source.write([(bytes([at]), "good" + EXP) for at in (1, 2)])
    source.revoke("01", "20260102030405Z", 4)
    other = make_ca(tmp_path / "other", name="Another CA", label="other")
    source.insert(50, "07", b64encode(other.certificate_der).decode())
    source.execute("UPDATE items SET del = 1 WHERE id = 50")
    name = source.ca.certificate.subject.rfc4514_string()
    options = {"path": str(source.path)}
    assert told.lines("xca", **options) == [
        f"holds {name}, 2 certificates: not configured",
        f"holds {name_of('Somebody Else').rfc4514_string()}, 1 certificate: {THEIRS}",
    ]
    source.execute("DELETE FROM certs WHERE ca = 1")
    assert told.lines("xca", [source.ca.certificate_path], **options) == [
        f"holds {name}, 2 certificates: configured as ca0, by a signature",
        "holds revocations under certs item 1, which was deleted, 1 certificate: no certificate",
    ]


def test_cfssl_s_rows_without_a_certificate(told: Told, tmp_path: Path) -> None:
    """They name their issuer's key identifier, if that."""
    source = CfsslSource(tmp_path)
    source.insert("77", "", "good", 0, None)
    source.key_id = ""
    source.insert("78", "", "good", 0, None)
    key = x509.SubjectKeyIdentifier.from_public_key(source.ca.key.public_key()).digest.hex()
    assert told.lines("cfssl", path=str(source.path)) == [
        f"holds authority_key_identifier {key!r}, rows without a certificate, 1 certificate: no certificate",
        "holds authority_key_identifier 'none', rows without a certificate, 1 certificate: no certificate",
    ]


def test_an_index_txt_alone_names_no_issuer(told: Told, tmp_path: Path) -> None:
    """It has no column for it; what lies beside it tells, if there is anything."""
    (tmp_path / "index.txt").write_text("")
    why = "names no issuer: index.txt has no column for the issuer, and there are no certificates beside it"
    assert told.lines("openssl", path=str(tmp_path / "index.txt")) == [why]
    ca = make_ca(tmp_path / "ca")
    (tmp_path / "newcerts").mkdir()
    (tmp_path / "newcerts" / "05.pem").write_bytes(make_leaf(ca).certificate.public_bytes(Encoding.PEM))
    (tmp_path / "server.crt").write_bytes(make_leaf(ca).certificate.public_bytes(Encoding.PEM))
    (line,) = told.lines("openssl", [ca.certificate_path], path=str(tmp_path / "index.txt"))
    assert line.endswith(": configured as ca0, by a signature")


def test_a_mapping_without_certificates_names_no_issuer(told: Told, tmp_path: Path) -> None:
    """Of a file and of a database; with them their certificates tell."""
    ca = make_ca(tmp_path / "ca")
    pem = make_leaf(ca).certificate.public_bytes(Encoding.PEM).decode()
    file = tmp_path / "issued.csv"
    file.write_text(f'serial,revoked,pem\n05,,"{pem}"\n06,,x\n')
    mapped = {"serial": "serial", "serial_base": "hex", "revoked_at": "revoked"}
    why = ["names no issuer: no column is mapped as certificate"]
    assert told.lines("delimited", path=str(file), **mapped) == why
    name = ca.certificate.subject.rfc4514_string()
    ours = [f"holds {name}, 1 certificate: configured as ca0, by a signature"]
    assert told.lines("delimited", [ca.certificate_path], path=str(file), certificate="pem", **mapped) == ours
    url = f"sqlite:///{tmp_path}/issued.db"
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE issued (serial TEXT, revoked TEXT, pem TEXT)")
        connection.execute(sa.text("INSERT INTO issued VALUES ('05', NULL, :pem)"), {"pem": pem})
    query = {"url": url, "query": "SELECT * FROM issued", "key": "serial"}
    assert told.lines("sql", **query, **mapped) == why
    assert told.lines("sql", [ca.certificate_path], **query, certificate="pem", **mapped) == ours


def test_a_loader_of_somebody_else_s_may_have_no_discover() -> None:
    """One line says so."""
    issuers: list[Issuer] = []
    assert list(issuer_lines(object(), issuers)) == ["names no issuer: its loader does not look for any"]  # type: ignore[arg-type]


def test_the_command_goes_on_behind_a_source_that_cannot_be_read(tmp_path: Path) -> None:
    """As an administrator sees it: one line says what is wrong, and the next CA's issuers follow."""
    issuer = database_room.issuer_of(tmp_path, "stepca")
    (tmp_path / "index.txt").write_text("")
    make_ca(tmp_path / "g2", label="g2")
    file = tmp_path / "revocast.toml"
    file.write_text(
        file.read_text().replace('type = "stepca"', 'type = "stepca", path = "nowhere"')
        + '[[ca]]\nname = "g2"\ncertificate = "g2/ca.pem"\nsource = { type = "openssl", path = "index.txt" }\n'
        'ocsp = { key = "g2/ca.key" }\n'
    )
    done = CliRunner().invoke(build_app(["sources"]), ["sources", "-c", str(file)])
    name = x509.load_der_x509_certificate(issuer.certificate_der).subject.rfc4514_string()
    assert [line for line in done.stdout.splitlines() if ":   " in line] == [
        f"corp:   {tmp_path}/nowhere: cannot be read: No such file or directory",
        f"g2:   holds {name}: configured as corp",
    ]
    assert done.exit_code == 2
