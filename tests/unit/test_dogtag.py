"""Dogtag's repository, from LDIF and from a real directory: local dates, holds, what changed, what cannot be understood."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loaders.base import CursorLost, Discovering, Incremental, Loader, Row
from loaders.contract_suite import ContractSource, LoaderContract, read, rows_of
from loaders.dogtag import DogtagLoader, DogtagOptions
from loaders.dogtag_sources import ATTRIBUTES
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from responder.model import Status
from tests.loader_reading import Read
from tests.pki import make_ca, make_leaf, utc
from tests.slapd_fixture import READER, READER_PASSWORD, SLAPD, SUFFIX, Slapd
from tests.unit.test_files_contract import EXP, Source

BASE = f"ou=certificateRepository,ou=ca,{SUFFIX}"
BERLIN = ZoneInfo("Europe/Berlin")
TEXT = "EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15"
NAMES = ("serialno", "certStatus", "revInfo", "revokedOn", "notBefore", "notAfter", "dateOfCreate", "dateOfModify")
# What Dogtag's own schema calls them; the numbers are of an arc for examples.
SCHEMA = "\n".join(
    [f"attributetype ( 1.1.2.1.{at} NAME '{name}' {TEXT} )" for at, name in enumerate(NAMES)]
    + [
        "objectclass ( 1.1.2.2.1 NAME 'certificateRecord' SUP top STRUCTURAL MUST cn"
        f" MAY ( {' $ '.join(NAMES)} $ userCertificate ) )"
    ]
)


def local(moment: datetime, zone: ZoneInfo) -> str:
    """A date as Dogtag writes it: local time, and a Z that is not true."""
    return f"{moment.astimezone(zone):%Y%m%d%H%M%SZ}"


def attributes(
    certificate: x509.Certificate, status: Status, zone: ZoneInfo, changed: datetime | None = None
) -> dict[str, Any]:
    """An entry's attributes, but for the operational ones."""
    serial = str(certificate.serial_number)
    made: dict[str, Any] = {
        "cn": serial,
        "serialno": f"{len(serial):02d}{serial}",
        "certStatus": "VALID",
        "notBefore": local(certificate.not_valid_before_utc, zone),
        "userCertificate;binary": certificate.public_bytes(Encoding.DER),
    }
    if status.revoked_at is not None:
        at = local(utc(status.revoked_at), zone)
        made |= {"certStatus": "REVOKED", "revokedOn": at, "revInfo": at}
        if status.reason:
            made["revInfo"] += f";CRLReasonExtension={int(status.reason)}"
        if status.invalidity_date is not None:
            made["revInfo"] += f";InvalidityDateExtension={local(utc(status.invalidity_date), zone)}"
        made["dateOfModify"] = local(changed or utc(status.revoked_at), zone)
    return made


def ldif(entries: Sequence[dict[str, Any]]) -> str:
    """An LDIF as db2ldif writes it: folded, with binary values in base64."""
    text = f"version: 1\n\n# entry-id: 1\ndn: {BASE}\nobjectClass: top\nobjectClass: repository\n\n"
    for entry in entries:
        text += f"dn: cn={entry['cn']},{BASE}\nobjectClass: top\nobjectClass: certificateRecord\n"
        for name, value in entry.items():
            line = f"{name}:: {base64.b64encode(value).decode()}" if isinstance(value, bytes) else f"{name}: {value}"
            text += line[:78] + "".join(f"\n {line[at : at + 77]}" for at in range(78, len(line), 77)) + "\n"
        text += "\n"
    return text


class LdifSource(Source):
    kind = "dogtag"
    name = "ipaca.ldif"
    zone = BERLIN

    def entries(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        made = []
        for certificate, status in self.both(rows):
            entry = attributes(certificate, status, self.zone)
            at = utc(status.revoked_at or 1_700_000_000)
            made.append(entry | {"modifyTimestamp": f"{at:%Y%m%d%H%M%SZ}"})
        return made

    def write(self, rows: Sequence[Row]) -> None:
        # The CA's own certificate is there too, in a real repository; another CA's is not ours.
        other = attributes(self.stranger, Status.from_text("good"), self.zone)
        self.path.write_text(ldif([other, *self.entries(rows)]))

    @property
    def stranger(self) -> x509.Certificate:
        return make_ca(self.folder / "other", label="somebody-else").certificate

    def write_hostile(self, rows: Sequence[Row]) -> int:
        odd = self.entries([(bytes([9, at]), f"revoked 2026-01-02T03:04:05Z{EXP}") for at in range(7)])
        odd[0]["serialno"] = "9" * 65_536
        odd[1]["userCertificate;binary"] = b"no DER"
        odd[2]["revInfo"] = "99990231000000Z"
        odd[3]["revInfo"] = "20260102030405Z;CRLReasonExtension=4000"
        odd[4]["certStatus"] = "MAYBE\x00"
        del odd[5]["userCertificate;binary"]
        text = ldif([*odd[:3], *self.entries(rows), *odd[3:6]])
        broken = f"dn: cn=1,{BASE}\nobjectClass: certificateRecord\nuserCertificate;binary:: %%%\n\n"
        self.path.write_bytes((text + broken).encode() + b"dn: cn=2\nobjectClass: certificateRecord\n\xff\xfe\n\n")
        return 8


class TestLdif(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> LdifSource:
        return LdifSource(tmp_path)

    def test_an_empty_source_is_empty(self, source: ContractSource) -> None:
        """A repository without our certificates but with others' is another CA's."""
        source.write([])
        with pytest.raises(SourceUnavailable, match="belongs to another CA"):
            read(source.open().snapshot())


class LdapSource(LdifSource):
    """A repository in a real slapd."""

    zone = ZoneInfo("UTC")

    def __init__(self, folder: Path, server: Slapd) -> None:
        super().__init__(folder)
        self.server = server
        self.base = BASE
        self.clock = ManualClock(4_000_000_000)  # after slapd's own, whose timestamps make the cursor
        (folder / "password").write_text(READER_PASSWORD + "\n")
        self.fill({})

    def options(self) -> dict[str, Any]:
        return {
            "url": self.server.url,
            "base": self.base,
            "bind_dn": READER,
            "password_file": str(self.folder / "password"),
            "time_zone": "UTC",
        }

    def fill(self, entries: dict[str, dict[str, Any]]) -> None:
        """Have the directory hold exactly these, touching only what differs."""
        self.server.replace_below(BASE, "certificateRecord", entries)

    def write(self, rows: Sequence[Row]) -> None:
        self.fill({entry["cn"]: entry for entry in map(without_stamp, self.entries(rows))})

    def write_hostile(self, rows: Sequence[Row]) -> int:
        odd = [
            without_stamp(one)
            for one in self.entries([(bytes([9, at]), f"revoked 2026-01-02T03:04:05Z{EXP}") for at in range(5)])
        ]
        odd[0]["serialno"] = "9" * 65_536
        del odd[1]["userCertificate;binary"]
        odd[2]["revInfo"] = "99990231000000Z"
        odd[3]["revInfo"] = "20260102030405Z;CRLReasonExtension=4000"
        odd[4]["certStatus"] = "MAYBE"
        self.fill({entry["cn"]: entry for entry in [*odd, *map(without_stamp, self.entries(rows))]})
        return len(odd)

    def take_away(self) -> None:
        self.base = "ou=nowhere," + SUFFIX
        (self.folder / "password").write_text("wrong\n")


def without_stamp(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "modifyTimestamp"}


@pytest.fixture(scope="module")
def repository() -> Iterator[Slapd]:
    """A slapd with Dogtag's attributes."""
    if not Path(SLAPD).exists() and not os.environ.get("CI"):
        pytest.skip("slapd is not installed")
    server = Slapd(SCHEMA)
    try:
        server.wait()
        server.add(f"ou=ca,{SUFFIX}", "organizationalUnit", ou="ca")
        yield server
    finally:
        server.stop()


class TestLdap(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path, repository: Slapd) -> LdapSource:
        return LdapSource(tmp_path, repository)


# --- dates ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> LdifSource:
    return LdifSource(tmp_path)


REVOKED = "revoked 2026-07-02T03:04:05Z keyCompromise exp=2030-12-31T23:59:59Z invalid=2026-07-01T00:00:00Z"


def one(source: LdifSource, **changes: Any) -> dict[str, Any]:
    (entry,) = source.entries([(b"\x05", REVOKED)])
    return {name: value for name, value in (entry | changes).items() if value is not None}


def test_the_directorys_timestamp_tells_the_zone_of_a_revocation(source: LdifSource) -> None:
    """Dogtag dates the entry's change in local time, the directory in UTC: summer time, though the certificate is of November."""
    source.path.write_text(ldif([one(source)]))
    statuses = Read(source.open()).statuses
    # The invalidity date has no second witness: notBefore's winter time, and an hour for the summer.
    assert statuses["05"] == REVOKED.replace("2026-07-01T00", "2026-07-01T00")


def test_without_it_a_revocation_is_dated_earlier_rather_than_later(source: LdifSource) -> None:
    """The certificate's own notBefore tells one offset; that of the other half of the year is allowed for."""
    source.path.write_text(ldif([one(source, dateOfModify=None)]))
    assert Read(source.open()).statuses["05"].startswith("revoked 2026-07-02T03:04:05Z")
    later = one(source, dateOfModify="20261101000000Z", modifyTimestamp="20261031230000Z", revInfo="20260102040405Z")
    source.path.write_text(ldif([later]))
    assert Read(source.open()).statuses["05"] == "revoked 2026-01-02T02:04:05Z" + EXP
    source.path.write_text(ldif([later]))
    loader = DogtagLoader(DogtagOptions(path=source.path, time_zone="Europe/Berlin"), source.issuer, (), source.clock)
    assert Read(loader).statuses["05"] == "revoked 2026-01-02T03:04:05Z" + EXP


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("VALID", "good"),
        ("INVALID", "good"),
        ("EXPIRED", "good"),
        ("REVOKED", "revoked"),
        ("REVOKED_EXPIRED", "revoked"),
    ],
)
def test_each_status(status: str, said: str, source: LdifSource) -> None:
    """INVALID is not valid yet; what is revoked stays so when it expires."""
    source.path.write_text(ldif([one(source, certStatus=status)]))
    assert Read(source.open()).statuses["05"].startswith(said)


def with_sub_ca(source: LdifSource) -> tuple[list[dict[str, Any]], list[tuple[bytes | None, int | None]]]:
    """A repository that a sub-CA shares, as its entries, and the issuers that it holds."""
    ca = source.ca
    sub = make_ca(source.folder / "sub", label="sub", name="Sub CA", issuer=ca)
    leaf = make_leaf(sub, serial_number=0x1234)
    good = Status.from_text("good")
    certificates = [ca.certificate, sub.certificate, leaf.certificate, make_leaf(ca, serial_number=7).certificate]
    entries = [without_stamp(attributes(one, good, BERLIN)) for one in certificates]
    return entries, [(ca.certificate_der, 3), (sub.certificate_der, 1)]


def test_the_cas_of_a_repository_are_told(source: LdifSource) -> None:
    """The CA's own certificate is among its entries, and that of each sub-CA; broken entries tell nothing."""
    entries, issuers = with_sub_ca(source)
    broken = f"dn: cn=1,{BASE}\nobjectClass: certificateRecord\nuserCertificate;binary:: %%%\n\n"
    source.path.write_text(ldif(entries) + broken)
    loader = source.open()
    assert isinstance(loader, Discovering)
    assert [(one.certificate_der, one.rows) for one in loader.discover()] == issuers


@pytest.mark.parametrize("serialno", ["0155", "04", "05x", "", "995"])
def test_a_serial_that_its_length_denies(serialno: str, source: LdifSource) -> None:
    """The certificate tells the serial nevertheless."""
    source.path.write_text(ldif([one(source, serialno=serialno)]))
    (row,) = Read(source.open()).rejected
    assert row.serial_octets == b"\x05"
    assert row.presumed == REVOKED


def test_what_is_no_repository(source: LdifSource) -> None:
    """Another LDIF, or none."""
    source.path.write_text("dn: o=x\nobjectClass: organization\n\n")
    with pytest.raises(SourceUnavailable, match="holds no certificateRecord"):
        Read(source.open())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "either path or url"),
        ({"path": "a", "url": "ldap://x"}, "either path or url"),
        ({"url": "http://x"}, "must be like ldaps"),
        ({"url": "ldap://x", "time_zone": "Mars"}, "no such time zone"),
    ],
)
def test_options_that_will_not_do(options: dict[str, str], problem: str, tmp_path: Path) -> None:
    """One line each."""
    with pytest.raises(ValidationError, match=problem):
        DogtagOptions.model_validate(options, context={"base": tmp_path})


# --- a live directory ------------------------------------------------------------------------------------------------------


def test_what_changed_is_asked_for_alone(tmp_path: Path, repository: Slapd) -> None:
    """By modifyTimestamp; a cursor of another version asks for all."""
    source = LdapSource(tmp_path, repository)
    source.write([(bytes([at]), "good" + EXP) for at in range(1, 5)])
    loader: Loader = source.open()
    assert isinstance(loader, Incremental)
    snapshot = loader.snapshot()
    assert len(rows_of(read(snapshot))) == 4
    far = f"1:{int(snapshot.cursor.split(':')[1]) + 10_000}"  # type: ignore[attr-defined]  # of the loader's own class
    assert rows_of(read(loader.changes(far))) == {}
    for cursor in ("", "2:5", "1:x"):
        with pytest.raises(CursorLost):
            loader.changes(cursor)


def test_the_cas_of_a_directory_are_told(tmp_path: Path, repository: Slapd) -> None:
    """By the certificates of all its entries."""
    source = LdapSource(tmp_path, repository)
    entries, issuers = with_sub_ca(source)
    source.fill({entry["cn"]: entry for entry in entries})
    loader = source.open()
    assert isinstance(loader, Discovering)
    assert sorted((one.certificate_der or b"", one.rows or 0) for one in loader.discover()) == sorted(issuers)  # type: ignore[type-var]


def test_more_entries_than_a_page(tmp_path: Path, repository: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory gives them page by page."""
    monkeypatch.setattr("loaders.dogtag_sources.PAGE_ENTRIES", 3)
    source = LdapSource(tmp_path, repository)
    source.write([(bytes([at]), "good" + EXP) for at in range(1, 9)])
    assert len(rows_of(read(source.open().snapshot()))) == 8


def test_a_directory_that_hides_its_timestamps_is_refused(
    tmp_path: Path, repository: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No revocation would be found before the next whole reading, and all would seem known as of now."""
    source = LdapSource(tmp_path, repository)
    source.write([(b"\1", "good" + EXP)])
    monkeypatch.setattr("loaders.dogtag_sources.ATTRIBUTES", [one for one in ATTRIBUTES if one != "modifyTimestamp"])
    with pytest.raises(SourceUnavailable, match="may not read modifyTimestamp"):
        read(source.open().snapshot())


def test_a_password_does_not_go_over_the_wire_in_the_clear(
    tmp_path: Path, repository: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another machine StartTLS comes first; a server that has none is not logged in to."""
    monkeypatch.setattr("loaders.dogtag_sources._is_loopback", lambda host: False)
    with pytest.raises(SourceUnavailable, match="unsupported extended operation"):
        read(LdapSource(tmp_path, repository).open().snapshot())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4)), min_size=1, max_size=6))
def test_damage_costs_rows_or_ends_in_one_line(source: LdifSource, changes: list[tuple[int, bytes]]) -> None:
    """Whatever octets are changed: rows, rejected rows, or a SourceUnavailable of one line."""
    text = bytearray(ldif(source.entries([(b"\x05", REVOKED), (b"\x06", "good" + EXP)])).encode())
    for at, octets in changes:
        text[at % len(text) : at % len(text) + len(octets)] = octets
    source.path.write_bytes(text)
    try:
        got = Read(source.open())
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
        assert len(got.rows) + len(got.rejected) <= 4
    assert "\n" not in said
