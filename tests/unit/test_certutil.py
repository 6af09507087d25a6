"""The reader of what certutil -view prints: any language, date order and time zone; text and CSV; what is broken."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from loaders.certutil import CertutilLoader, CertutilOptions
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from tests.certutil_dump import NAMES, PACIFIC, Printed, Printer
from tests.loader_reading import NOW, Read, issuer_of
from tests.pki import PKI, make_ca, make_leaf

BERLIN = ZoneInfo("Europe/Berlin")
EXPIRES = 1_900_000_000
EXP = "exp=2030-03-17T17:46:40Z"
ISSUED_ON = [
    datetime(2026, month, day, 9, 41, 13, tzinfo=UTC) for month, day in ((1, 5), (1, 25), (2, 9), (6, 28), (7, 19))
]
REVOKED_ON = datetime(2026, 1, 26, 22, 34, 10, tzinfo=UTC)


class Ca:
    """A CA with five certificates, numbered 0x51 to 0x55, and a printer's file."""

    def __init__(self, directory: Path) -> None:
        self.pki: PKI = make_ca(directory / "ca")
        self.file = directory / "dump.txt"
        self.leaves = [
            make_leaf(self.pki, serial_number=0x51 + at, not_before=int(day.timestamp()), not_after=EXPIRES).certificate
            for at, day in enumerate(ISSUED_ON)
        ]

    def rows(self, **changes: object) -> list[Printed]:
        """All issued; the second with changes."""
        rows = [Printed(leaf) for leaf in self.leaves]
        rows[1] = Printed(self.leaves[1], **changes)  # type: ignore[arg-type]
        return rows

    def loader(self, **options: object) -> CertutilLoader:
        made = CertutilOptions.model_validate({"path": self.file, **options}, context={"base": self.file.parent})
        return CertutilLoader(made, issuer_of(self.pki.certificate_path), (), ManualClock(NOW))

    def read(self, text: str | bytes, **options: object) -> Read:
        self.file.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(self.file, (NOW - 900, NOW - 900))
        return Read(self.loader(**options))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("certutil"))


REVOKED = {"disposition": 21, "revoked": REVOKED_ON, "effective": REVOKED_ON, "reason": 4}


@pytest.mark.parametrize("schema", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "cp850"])
@pytest.mark.parametrize("language", ["en", "de"])
def test_a_text_dump_in_any_language_and_encoding(language: str, encoding: str, schema: bool, ca: Ca) -> None:
    """Values are known by their place; labels, which are translated, do not count."""
    text = Printer(language=language, schema=schema).print(ca.rows(**REVOKED))
    got = ca.read(text.encode(encoding, "replace"))
    assert got.statuses == {
        f"{0x51 + at:x}": f"good {EXP}" if at != 1 else f"revoked 2026-01-26T22:34:10Z superseded {EXP}"
        for at in range(5)
    }
    assert not got.rejected
    assert got.whole
    assert got.as_of == NOW - 900


@pytest.mark.parametrize(
    ("date_format", "zone", "said"),
    [
        ("us", PACIFIC, "2026-01-26T22:34:00Z"),
        ("us", UTC, "2026-01-26T22:34:00Z"),
        ("gb", BERLIN, "2026-01-26T22:34:00Z"),
        ("de", BERLIN, "2026-01-26T22:34:00Z"),
        ("iso", ZoneInfo("Asia/Kathmandu"), "2026-01-26T22:34:10Z"),
        ("zh", ZoneInfo("Asia/Shanghai"), "2026-01-26T22:34:00Z"),
    ],
)
def test_order_and_zone_are_learned_from_the_certificates(date_format: str, zone: ZoneInfo, said: str, ca: Ca) -> None:
    """The revocation lies a day after a certificate's notBefore, so that its zone is known."""
    got = ca.read(Printer(date_format=date_format, zone=zone).print(ca.rows(**REVOKED)))
    assert got.statuses["52"] == f"revoked {said} superseded {EXP}"
    assert not got.rejected


def test_where_summer_time_may_have_come_a_revocation_is_dated_earlier(ca: Ca) -> None:
    """Between February and June nothing tells the hour: an hour too early is harmless, an hour too late is good meanwhile."""
    when = datetime(2026, 4, 20, 10, 0, 0, tzinfo=UTC)
    text = Printer(date_format="de", zone=BERLIN).print(ca.rows(**REVOKED | {"effective": when}))
    assert ca.read(text).statuses["52"].startswith("revoked 2026-04-20T10:00:00Z")
    late = datetime(2026, 11, 1, 10, 0, 0, tzinfo=UTC)
    text = Printer(date_format="de", zone=BERLIN).print(ca.rows(**REVOKED | {"effective": late}))
    assert ca.read(text).statuses["52"].startswith("revoked 2026-11-01T08:00:00Z")
    assert ca.read(text, time_zone="Europe/Berlin").statuses["52"].startswith("revoked 2026-11-01T10:00:00Z")


def test_csv_needs_gmt_or_a_zone(ca: Ca) -> None:
    """It has no certificates, so that nothing tells the zone."""
    got = ca.read(Printer(csv=True).print(ca.rows(**REVOKED)))
    assert got.statuses["52"] == f"revoked 2026-01-26T22:34:10Z superseded {EXP}"
    assert len(got.rows) == 5
    assert got.whole
    local = Printer(csv=True, date_format="de", zone=BERLIN).print(ca.rows(**REVOKED))
    with pytest.raises(SourceUnavailable, match="has no time zone: use certutil -gmt"):
        ca.read(local)
    got = ca.read(local, time_zone="Europe/Berlin")
    assert got.statuses["52"] == "revoked 2026-01-26T22:34:00Z superseded exp=2030-03-17T17:46:00Z"


def test_an_order_that_nothing_tells_is_asked_for(ca: Ca) -> None:
    """5 January or 1 May: the file has nothing else."""
    leaf = make_leaf(
        ca.pki, serial_number=0x60, not_before=int(ISSUED_ON[0].timestamp()), not_after=1_893_801_600
    ).certificate
    text = Printer(csv=True).print([Printed(leaf)])
    with pytest.raises(SourceUnavailable, match="dmy or mdy: set date_order"):
        ca.read(text)
    assert ca.read(text, date_order="mdy").statuses == {"60": "good exp=2030-01-05T00:00:00Z"}


@pytest.mark.parametrize(
    ("options", "date_format"), [({"date_order": "dmy"}, "us"), ({"time_zone": "Asia/Tokyo"}, "us"), ({}, "thai")]
)
def test_dates_that_disagree_with_the_certificates_are_refused(
    options: dict[str, str], date_format: str, ca: Ca
) -> None:
    """A wrong order, zone or meaning of a word would date revocations wrongly, perhaps into the future."""
    with pytest.raises(SourceUnavailable, match="do not agree with the certificates"):
        ca.read(Printer(date_format=date_format, zone=PACIFIC).print(ca.rows()), **options)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", ""])
def test_a_zone_that_is_none(zone: str, ca: Ca) -> None:
    """One line names the key."""
    with pytest.raises(SourceUnavailable, match=r"no such time zone: .*source\.time_zone"):
        ca.read(Printer().print(ca.rows()), time_zone=zone)


@pytest.mark.parametrize(
    ("changes", "problem", "presumed"),
    [
        (REVOKED | {"raw": {7: "yesterday"}}, "not a date", "revoked 2026-01-26T22:34:10Z superseded exp="),
        (
            REVOKED | {"raw": {7: "13/45/2026 1:00 PM 0.000s GMT"}},
            "not a date",
            "revoked 2026-01-26T22:34:10Z superseded",
        ),
        (REVOKED | {"raw": {7: "1/1/10000 1:00 PM GMT"}}, "not a date", "revoked 2026-01-26T22:34:10Z superseded"),
        (REVOKED | {"raw": {8: "0xfa0 (4000)"}}, "'4000'", "revoked 2026-01-26T22:34:10Z exp="),
        (REVOKED | {"raw": {8: "0xffffffff (-1)"}}, "'-1'", "revoked 2026-01-26T22:34:10Z exp="),
        (REVOKED | {"raw": {7: "EMPTY", 6: "EMPTY"}}, "no date", "revoked 2026-11-18T10:51:40Z superseded exp="),
        ({"raw": {1: "0x63 (99)"}}, "unknown disposition 99", None),
        ({"raw": {1: "Issued"}}, "not a number", None),
        ({"raw": {9: "\r\n-----BEGIN CERTIFICATE-----\r\n%%%\r\n-----END CERTIFICATE-----"}}, "RawCertificate", None),
        ({"raw": {9: "\r\n-----BEGIN CERTIFICATE-----\r\nMIIB\r\n-----END CERTIFICATE-----"}}, "RawCertificate", None),
        ({"raw": {2: '"53"'}}, "its certificate has 52", None),
    ],
)
def test_what_cannot_be_understood_costs_one_row(
    changes: dict[str, object], problem: str, presumed: str | None, ca: Ca
) -> None:
    """Each is named by its line; what surely is revoked is presumed to be."""
    got = ca.read(Printer().print(ca.rows(**changes)))
    (row,) = got.rejected
    assert "(row 2)" in row.row
    assert problem in row.reason
    assert (row.presumed or "").startswith(presumed or "")
    assert (row.presumed is None) is (presumed is None)
    assert len(got.rows) == 4


@pytest.mark.parametrize(
    ("at", "text", "problem"),
    [
        (2, '"' + "4" * 40_000 + '"', "not hexadecimal"),
        (2, '"44\0"', "not hexadecimal"),
        (2, '"44\udcff\udcfe"', "not hexadecimal"),
        (2, "EMPTY", "but no serial"),
        (0, "0x2\r\n  More: 0x1", "11 columns instead of 10"),
    ],
)
def test_a_row_without_a_serial_is_told_too(at: int, text: str, problem: str, ca: Ca) -> None:
    """Where the certificate tells it nevertheless, it does."""
    dump = Printer().print(ca.rows(raw={at: text}))
    got = ca.read(dump.encode("utf-8", "surrogateescape"))
    (row,) = got.rejected
    assert problem in row.reason
    assert len(got.rows) == 4


def test_pending_and_denied_rows_are_none(ca: Ca) -> None:
    """In any language, whatever stands for their empty columns."""
    for disposition in (9, 31):
        empty = dict.fromkeys((2, 6, 7, 8, 9), "LEER")
        got = ca.read(Printer(language="de").print(ca.rows(disposition=disposition, raw=empty)))
        assert len(got.rows) == 4
        assert not got.rejected


def test_rows_of_another_generation_are_not_ours(ca: Ca, tmp_path: Path) -> None:
    """The same name, another key: the certificates tell."""
    other = make_ca(tmp_path / "g2", label="generation-2")
    rows = [
        *ca.rows(),
        *(
            Printed(
                make_leaf(other, serial_number=0x70 + at, not_before=int(day.timestamp())).certificate,
                issuer_name_id=65537,
            )
            for at, day in enumerate(ISSUED_ON)
        ),
    ]
    assert sorted(ca.read(Printer().print(rows)).statuses) == ["51", "52", "53", "54", "55"]
    with pytest.raises(SourceUnavailable, match=r"was renewed .IssuerNameID 0, 65537.*add RawCertificate"):
        ca.read(Printer(certificates=False).print(rows))
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        ca.read(Printer().print(rows[5:]))


def test_a_dump_that_breaks_off_is_not_whole(ca: Ca) -> None:
    """Only certutil's last line says that nothing is missing."""
    text = Printer().print(ca.rows())
    whole = ca.read(text)
    assert whole.whole
    for end in (text.index("Maximum"), text.index("Row 4:"), text.index("Row 4:") + 300):
        assert not ca.read(text[:end]).whole
    assert not ca.read(Printer(csv=True, ending="").print(ca.rows())).whole
    assert not ca.read(Printer(csv=True).print(ca.rows())[:-200]).whole


def test_without_certificates_the_generations_numbers_are_told(ca: Ca) -> None:
    """CSV has none: IssuerNameID is the CA's own count of its generations. With them their signatures tell."""
    rows = ca.rows()
    rows[0].issuer_name_id = 1 << 16 | 1
    ca.file.write_text(Printer(csv=True).print(rows))
    told = {one.name: (one.certificate_der, one.issued_der, one.rows) for one in ca.loader().discover()}
    assert told == {
        "IssuerNameID 65537, rows without a certificate": (None, None, 1),
        "IssuerNameID 0, rows without a certificate": (None, None, len(rows) - 1),
    }
    ca.file.write_text(Printer().print(rows))
    (one,) = ca.loader().discover()
    assert one.issued_der is not None
    assert one.rows == len(rows)


def test_a_command_that_failed_is_told(ca: Ca) -> None:
    """certutil prints its error where the rows would stand."""
    text = (
        "CertUtil: -view command FAILED: 0x80070005 (WIN32: 5 ERROR_ACCESS_DENIED)\r\nCertUtil: Access is denied.\r\n"
    )
    with pytest.raises(SourceUnavailable, match="0x80070005"):
        ca.read(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", None),
        ("hello\nworld\n", "neither an ESE database nor a dump"),
        ("x" * 100_000, "a line of more than"),
        ('"a","b"\r\n', "2 columns, but source.columns names 10"),
        (b"\xff\xfe\x00", "neither an ESE database nor a dump"),
    ],
)
def test_what_is_no_dump(text: str | bytes, problem: str | None, ca: Ca) -> None:
    """It is refused, or says nothing and is not whole."""
    if problem is None:
        got = ca.read(text)
        assert not got.rows
        assert not got.whole
        return
    with pytest.raises(SourceUnavailable, match=problem):
        ca.read(text)


def test_columns_are_configured_by_name(ca: Ca) -> None:
    """Another -out takes another list; without what is needed nothing is read."""
    order = [9, 2, 1, 7, 8, 3]
    printer = Printer()
    lines = []
    for number, row in enumerate(ca.rows(**REVOKED), 1):
        cells = printer.columns(number, row)
        lines.append(f"Row {number}:\r\n" + "".join(f"  {NAMES[at]}: {cells[at]}\r\n" for at in order))
    text = "\r\n".join(lines) + "\r\nCertUtil: -view command completed successfully.\r\n"
    got = ca.read(text, columns=[NAMES[at] for at in order])
    assert got.statuses["52"] == f"revoked 2026-01-26T22:34:10Z superseded {EXP}"
    with pytest.raises(SourceUnavailable, match="lacks the columns revokedreason"):
        ca.read(text, columns=[NAMES[at] for at in order if at != 8])
    with pytest.raises(ValidationError, match="columns"):
        ca.loader(columns=[])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    is_csv=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=0, max_size=6)), min_size=1, max_size=6),
)
def test_damage_costs_rows_or_ends_in_one_line(
    is_csv: bool, encoding: str, changes: list[tuple[int, bytes]], ca: Ca
) -> None:
    """Whatever octets are changed: rows, rejected rows, or a SourceUnavailable of one line."""
    dump = bytearray(Printer(csv=is_csv).print(ca.rows(**REVOKED)).encode(encoding))
    for at, octets in changes:
        dump[at % len(dump) : at % len(dump) + len(octets)] = octets
    try:
        got = ca.read(bytes(dump))
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
        assert len(got.rows) <= 10
    assert "\n" not in said
