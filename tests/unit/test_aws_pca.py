"""Audit reports of AWS Private CA, in the two forms of the vendor's documentation, and what is odd in them."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loaders.aws_pca import SETTLED_S, AwsPcaLoader, AwsPcaOptions
from responder.clock import ManualClock
from responder.errors import SourceUnavailable
from tests.loader_reading import NOW, Read, issuer_of
from tests.pki import PKI, make_ca

ARN = "arn:aws:acm-pca:eu-central-1:111122223333:certificate-authority/CA_ID"
HEAD = [
    "awsAccountId",
    "requestedByServicePrincipal",
    "certificateArn",
    "serial",
    "subject",
    "notBefore",
    "notAfter",
    "issuedAt",
    "revokedAt",
    "revocationReason",
    "templateArn",
]
EXP = "exp=2030-03-17T17:46:40Z"
Record = dict[str, object]


def record(serial: str = "00:11:0d:3a", **changes: object) -> Record:
    """One certificate as the documentation shows them."""
    made: Record = {
        "awsAccountId": "111122223333",
        "certificateArn": f"{ARN}/certificate/{serial.replace(':', '')}",
        "serial": serial,
        "subject": '2.5.4.5=#012345,CN=x.example.com,O="A, B"',
        "notBefore": "2026-02-26T18:39:57+0000",
        "notAfter": "2030-03-17T17:46:40+0000",
        "issuedAt": "2026-02-26T19:39:58+0000",
        "templateArn": "arn:aws:acm-pca:::template/EndEntityCertificate/V1",
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


REVOKED = {"revokedAt": "2026-02-27T01:02:03+0000", "revocationReason": "KEY_COMPROMISE"}


def as_json(records: list[Record]) -> str:
    return json.dumps(records, indent=2)


def as_csv(records: list[Record]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, HEAD)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return make_ca(tmp_path_factory.mktemp("aws"))


def loader_of(path: Path, ca: PKI, **options: object) -> AwsPcaLoader:
    made = AwsPcaOptions.model_validate({"path": path, **options}, context={"base": path.parent})
    return AwsPcaLoader(made, issuer_of(ca.certificate_path), (), ManualClock(NOW))


def read(text: str | bytes, ca: PKI, **options: object) -> Read:
    path = ca.directory / "report.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (NOW - 60, NOW - 60))
    return Read(loader_of(path, ca, **options))


both = pytest.mark.parametrize("form", [as_json, as_csv], ids=["json", "csv"])


@both
def test_both_forms_say_the_same(form: object, ca: PKI) -> None:
    """A certificate that was revoked stands there twice; revoked holds, and that is no conflict."""
    assert callable(form)
    text = form(
        [
            record(),
            record("a1:b2"),
            record("a1:b2", **REVOKED),
            record("0c:0d", **REVOKED | {"revocationReason": "A_A_COMPROMISE"}),
        ]
    )
    got = read(text, ca, arn=ARN)
    assert got.statuses == {
        "110d3a": f"good {EXP}",
        "00a1b2": f"revoked 2026-02-27T01:02:03Z keyCompromise {EXP}",
        "0c0d": f"revoked 2026-02-27T01:02:03Z aACompromise {EXP}",
    }
    assert len(got.rows) == 3
    assert not got.rejected
    assert got.whole
    assert got.as_of == NOW - 60


@both
def test_a_reason_without_a_date_is_no_revocation(form: object, ca: PKI) -> None:
    """The vendor's own example has UNSPECIFIED in a row that is not revoked."""
    assert callable(form)
    assert read(form([record(revocationReason="UNSPECIFIED")]), ca).statuses == {"110d3a": f"good {EXP}"}


@both
@pytest.mark.parametrize(
    ("changes", "problem", "serial", "presumed"),
    [
        ({"serial": "zz"}, "not hexadecimal", None, None),
        ({"serial": "1" * 65_536}, "not hexadecimal", None, None),
        ({"serial": "12\x0034"}, "not hexadecimal", None, None),
        ({"notAfter": "10000-01-01T00:00:00+0000"}, "RFC 3339", "110d3a", None),
        ({"notAfter": ""}, "RFC 3339", "110d3a", None),
        (REVOKED | {"revokedAt": "soon"}, "RFC 3339", "110d3a", f"revoked 2026-11-18T11:05:40Z keyCompromise {EXP}"),
        (REVOKED | {"revocationReason": "4000"}, "unknown", "110d3a", f"revoked 2026-02-27T01:02:03Z {EXP}"),
    ],
)
def test_what_cannot_be_understood_costs_one_row(
    form: object, changes: Record, problem: str, serial: str | None, presumed: str | None, ca: PKI
) -> None:
    """It is named by its place, and what surely is revoked is presumed to be."""
    assert callable(form)
    got = read(form([record("01"), record(**changes), record("02")]), ca)  # type: ignore[arg-type]
    (row,) = got.rejected
    assert problem in row.reason
    assert (row.serial_octets.hex() if row.serial_octets else None) == serial
    assert row.presumed == presumed
    assert sorted(got.statuses) == ["01", "02"]


def test_values_of_other_kinds_cost_one_row(ca: PKI) -> None:
    """Numbers, lists, null: JSON has them all."""
    odd: list[object] = [record("01"), 5, None, "x", record() | {"serial": 17}, record() | {"revokedAt": [1]}]
    text = json.dumps(odd)[:-1] + f', {{"serial": {"9" * 10_000}}}]'
    got = read(text, ca)
    assert list(got.statuses) == ["01"]
    assert len(got.rejected) == 6
    assert got.whole


@both
def test_a_report_that_breaks_off_is_not_whole(form: object, ca: PKI) -> None:
    """Its rows hold; what is missing says nothing."""
    assert callable(form)
    text = form([record(f"{at:02x}") for at in range(1, 9)])
    assert read(text, ca).whole
    for cut in (60, len(text) // 2):
        got = read(text[:-cut], ca)
        assert not got.whole
        assert got.statuses


def test_a_report_without_a_last_line_end_is_whole_once_it_is_settled(ca: PKI, tmp_path: Path) -> None:
    """Nobody has written to it for a minute: until then it may be half copied. The state tells when to read it again."""
    path = tmp_path / "report.csv"
    path.write_text(as_csv([record("01"), record("02")]).rstrip())
    os.utime(path, (NOW - SETTLED_S + 1, NOW - SETTLED_S + 1))
    clock = ManualClock(NOW)
    made = AwsPcaOptions(path=path)
    loader = AwsPcaLoader(made, issuer_of(ca.certificate_path), (), clock)
    state = loader.peek()
    got = Read(loader)
    assert not got.whole
    assert sorted(got.statuses) == ["01", "02"]
    clock.advance(1)
    assert loader.peek() != state
    assert Read(loader).whole
    assert Read(loader).fingerprint == got.fingerprint
    path.write_text(as_csv([record("01"), record("02", templateArn=None)]).rstrip().rstrip(","))
    os.utime(path, (NOW - 1000, NOW - 1000))
    cut = Read(loader)
    assert not cut.whole
    assert "columns instead of 11" in cut.rejected[0].reason


@both
def test_a_report_that_is_written_while_it_is_read_is_not_whole(form: object, ca: PKI, tmp_path: Path) -> None:
    """Its rows hold, what is not among them says nothing."""
    assert callable(form)
    path = tmp_path / "report"
    path.write_text(form([record("01")]))
    snapshot = loader_of(path, ca).snapshot()
    with path.open("a") as file:
        file.write("\n")
    assert [row for batch in snapshot.batches() for row in batch.rows]
    assert not snapshot.whole


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the report is empty"),
        ("hello,world\n1,2\n", "lacks the columns serial, notAfter, revokedAt"),
        ('{"a": 1}', "not an audit report"),
        ("[" * 300_000, "not JSON at certificate 1"),
        ('[{"serial": "' + "1" * 300_000, "not JSON at certificate 1"),
    ],
)
def test_what_is_no_report(text: str, problem: str, ca: PKI) -> None:
    """One line says so."""
    with pytest.raises(SourceUnavailable, match=problem):
        read(text, ca)


@both
def test_a_report_of_another_ca_is_refused(form: object, ca: PKI) -> None:
    """Each row names its CA; nothing else in a report does."""
    assert callable(form)
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        read(form([record()]), ca, arn=ARN.replace("CA_ID", "OTHER"))


@both
def test_a_report_names_its_ca_by_its_arn(form: object, ca: PKI, tmp_path: Path) -> None:
    """It holds no certificate; rows that are none say nothing."""
    assert callable(form)
    records = [
        record(),
        record("02"),
        record("03", certificateArn="arn:x/certificate/3"),
        record("04", certificateArn="?"),
    ]
    path = tmp_path / "report"
    path.write_text(form(records))
    assert [(one.name, one.certificate_der, one.rows) for one in loader_of(path, ca).discover()] == [
        (ARN, None, None),
        ("arn:x", None, None),
    ]


def test_of_a_directory_the_newest_report_is_read(ca: PKI, tmp_path: Path) -> None:
    """As S3 fills it, one report after the other."""
    loader = loader_of(tmp_path, ca)
    with pytest.raises(SourceUnavailable, match="holds no report"):
        loader.peek()
    for age, name in ((100, "b.json"), (300, "a.csv"), (50, "readme.txt")):
        text = as_csv([record("0a")]) if name.endswith("csv") else as_json([record("0b")])
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (NOW - age, NOW - age))
    before = loader.peek()
    assert list(Read(loader).statuses) == ["0b"]
    os.utime(tmp_path / "a.csv", (NOW - 20, NOW - 20))
    assert loader.peek() != before
    assert list(Read(loader).statuses) == ["0a"]


def test_a_long_report_is_read_in_blocks(ca: PKI) -> None:
    """Whatever the blocks' ends cut in two is put together again."""
    records = [record(f"{at:04x}") for at in range(1, 6000)]
    assert len(read(as_json(records), ca).rows) == 5999


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(max_size=4)), min_size=1, max_size=5))
def test_damage_costs_rows_or_ends_in_one_line(ca: PKI, is_csv: bool, changes: list[tuple[int, bytes]]) -> None:
    """Whatever octets are changed: rows, rejected rows, or a SourceUnavailable of one line."""
    records = [record("01"), record("02", **REVOKED), record("03")]
    text = bytearray((as_csv(records) if is_csv else as_json(records)).encode())
    for at, octets in changes:
        text[at % len(text) : at % len(text) + len(octets)] = octets
    try:
        got = read(bytes(text), ca)
    except SourceUnavailable as error:
        said = str(error)
    else:
        said = ""
        assert len(got.rows) <= 3
    assert "\n" not in said
