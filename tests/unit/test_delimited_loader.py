"""CSV and JSON Lines by a mapping: the contract, and what files of others hold."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.base import Loader, Row
from loaders.contract_suite import NOW, ContractSource, LoaderContract, read, rows_of
from loaders.delimited import DelimitedLoader, DelimitedOptions
from loaders.follow import CAFollower
from loaders.registry import check_options
from responder.errors import ConfigError, SourceUnavailable
from responder.issuers import Issuer
from responder.model import Status
from tests.database_room import issuer_of
from tests.loader_room import LoaderRoom
from tests.redis_fixture import RedisServer

MAPPED: dict[str, Any] = {
    "serial": "serial",
    "serial_base": "hex",
    "status": "status",
    "reason": "reason",
    "revoked_at": "revoked",
    "not_after": "end",
}
NAMES = ("serial", "status", "reason", "revoked", "end")


class FileSource(ContractSource):
    """A file of either format."""

    def __init__(self, path: Path, issuer: Issuer, kind: str, **options: Any) -> None:
        self.path, self.issuer, self.kind = path, issuer, kind
        self.options = MAPPED | {"path": str(path), "format": kind} | options
        self.written = 0

    def open(self) -> Loader:
        options = check_options(DelimitedOptions, self.options, "corp", "revocast.toml")
        return DelimitedLoader(options, self.issuer, [], self.clock)

    def put(self, rows: Sequence[dict[str, Any]], *raw: bytes) -> None:
        text = io.StringIO()
        if self.kind == "csv":
            writer = csv.DictWriter(text, NAMES, restval="")
            writer.writeheader()
            writer.writerows(rows)
        else:
            text.writelines(json.dumps(row) + "\n" for row in rows)
        self.path.write_bytes(text.getvalue().encode() + b"".join(raw))
        self.written += 1
        os.utime(self.path, (NOW - 1000 + self.written, NOW - 1000 + self.written))

    def rows(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        made = []
        for serial, text in rows:
            status, words = Status.from_text(text), text.split(" ")
            made.append(
                {
                    "serial": ":".join(f"{octet:02x}" for octet in serial),
                    "status": status.cert_status.name,
                    "reason": status.reason.asn1_name if status.reason is not None else "",
                    "revoked": words[1] if status.revoked_at is not None else "",
                    "end": text.partition("exp=")[2].replace("Z", "+00:00").replace("T", " "),
                }
            )
        return made

    def write(self, rows: Sequence[Row]) -> None:
        self.put(self.rows(rows))

    def write_hostile(self, rows: Sequence[Row]) -> int:
        hostile: list[dict[str, Any]] = [
            {"serial": "ab" * 65536, "status": "good"},
            {"serial": "xyz", "status": "good"},
            {"serial": "\0", "status": "good"},
            {"serial": "70", "status": "perhaps"},
            {"serial": "71", "status": "revoked", "reason": "4000", "revoked": "2026-01-01T00:00:00Z"},
            {"serial": "72", "status": "good", "end": "10000-01-01T00:00:00Z"},
            {"serial": "73", "status": "revoked", "revoked": "yesterday"},
        ]
        raw = (
            (b"\xff\xfe,good,,,\n", b"74,good\n")
            if self.kind == "csv"
            else (b'{"serial": "\xff"}\n', b"[1]\n", b"{{\n", b"[" * 5000 + b"\n")
        )
        self.put([*self.rows(rows), *hostile], *raw)
        return len(hostile) + len(raw)

    def take_away(self) -> None:
        self.path.unlink()


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return issuer_of(tmp_path_factory.mktemp("ca"), "delimited")


@pytest.fixture(params=["csv", "jsonl"])
def source(request: pytest.FixtureRequest, tmp_path: Path, issuer: Issuer) -> FileSource:
    return FileSource(tmp_path / "export", issuer, request.param)


class TestDelimited(LoaderContract):
    """Both formats."""

    @pytest.fixture(params=["csv", "jsonl"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path, issuer: Issuer) -> ContractSource:
        return FileSource(tmp_path / "export", issuer, request.param)


def test_an_export_is_known_as_of_its_mtime(source: FileSource) -> None:
    source.put([])
    for is_live, as_of in ((False, NOW - 999), (True, NOW)):
        source.options["live"] = is_live
        loader = source.open()
        snapshot = loader.snapshot()
        snapshot.close()
        assert (snapshot.as_of, loader.follows_clock) == (as_of, is_live)


def test_members_of_members(tmp_path: Path, issuer: Issuer) -> None:
    """Inner members by a dot; numbers as numbers; what is not there is nothing; status by the revocation's time alone."""
    source = FileSource(
        tmp_path / "x",
        issuer,
        "jsonl",
        serial="cert.serial",
        serial_base="dec",
        status=None,
        revoked_at="revocation.at",
        reason="revocation.code",
        time="ms",
        not_after=None,
    )
    source.put(
        [
            {"cert": {"serial": 18_446_744_073_709_551_617}},
            {"cert": {"serial": "12"}, "revocation": {"at": 1_767_323_045_123, "code": 9}},
            {"cert": {"serial": 1.5}},
            {"cert": []},
        ]
    )
    batches = read(source.open().snapshot())
    assert rows_of(batches) == {
        b"\1" + bytes(7) + b"\1": "good",
        b"\x0c": "revoked 2026-01-02T03:04:05Z privilegeWithdrawn",
    }
    assert [row.row for batch in batches for row in batch.rejected] == ["3", "4"]


@pytest.mark.parametrize(
    "never", ["", "0", "-1", "0.0", "0.", "-1.00", " ", "0001-01-01T00:00:00Z", "0000-00-00 00:00:00"]
)
def test_a_date_that_means_never(never: str, tmp_path: Path, issuer: Issuer) -> None:
    """Without a column of the status a row is revoked where it has a date; a real number's zero is none."""
    source = FileSource(tmp_path / "x", issuer, "csv")
    source.options["status"] = None
    source.path.write_text(f"serial,status,reason,revoked,end\n0A,,,{never},\n0B,,,2026-01-02T03:04:05Z,\n")
    assert rows_of(read(source.open().snapshot())) == {b"\x0a": "good", b"\x0b": "revoked 2026-01-02T03:04:05Z"}


@pytest.mark.parametrize("odd", ["NULL", "1900-01-01 00:00:00", "n/a"])
def test_what_is_no_date_is_a_revocation_all_the_same(odd: str, tmp_path: Path, issuer: Issuer) -> None:
    """Nothing is guessed to mean never: the row is told, and its certificate revoked as of the reading."""
    source = FileSource(tmp_path / "x", issuer, "csv")
    source.options["status"] = None
    source.path.write_text(f"serial,status,reason,revoked,end\n0A,,,{odd},\n")
    os.utime(source.path, (NOW - 1000, NOW - 1000))
    (batch,) = read(source.open().snapshot())
    assert [(row.serial_octets, row.presumed) for row in batch.rejected] == [(b"\x0a", "revoked 2026-11-18T10:50:00Z")]


def test_a_column_that_is_not_there(tmp_path: Path, issuer: Issuer) -> None:
    """Also for a file of another kind: nothing of it is read."""
    source = FileSource(tmp_path / "x", issuer, "csv", delimiter=";")
    source.put([{"serial": "1", "status": "good"}])
    with pytest.raises(SourceUnavailable, match=r"has no column 'serial'; there are 'serial,status"):
        read(source.open().snapshot())


def test_other_encodings(tmp_path: Path, issuer: Issuer) -> None:
    source = FileSource(tmp_path / "x", issuer, "csv", encoding="utf-16")
    source.path.write_text("serial,status,reason,revoked,end\r\n0A,Gültig,,,\r\n", "utf-16")
    source.options["good"] = ["GÜLTIG"]
    assert rows_of(read(source.open().snapshot())) == {b"\x0a": "good"}
    # A line ends where CSV says so, and one that never ends is told.
    source.path.write_text("serial,status,reason,revoked,end\n0A,Gültig,,,\n0B,\u2028Gültig,,,\n", "utf-16")
    assert rows_of(read(source.open().snapshot())) == {b"\x0a": "good", b"\x0b": "good"}
    source.path.write_text("serial,status,reason,revoked,end\n" + "0" * (1 << 22), "utf-16")
    with pytest.raises(SourceUnavailable, match="a line of more than"):
        read(source.open().snapshot())
    with pytest.raises(ConfigError, match=r"source\.encoding: .*no encoding"):
        check_options(DelimitedOptions, source.options | {"encoding": "klingon"}, "corp", "x")


# --- a file that breaks off ------------------------------------------------------------------------------------------

CSVS = {
    "the revocation last": ("serial", "end", "revoked"),
    "the status last": ("serial", "end", "revoked", "status"),
    "the serial last": ("end", "revoked", "serial"),
    "the serial first, in quotes": ("serial", "end", "note", "revoked"),
}


def csv_of(columns: Sequence[str]) -> bytes:
    rows = [("0a1b", ""), ("0c2d", "2026-01-02T03:04:05Z"), ("0e3f", "2026-02-02T03:04:05Z")]
    lines = [",".join(columns)]
    for serial, at in rows:
        cells = {"serial": serial, "end": "2030-12-31T23:59:59Z", "revoked": at, "note": '"a\nb, ""c"""'}
        cells["status"] = "revoked" if at else "good"
        lines.append(",".join(cells[name] for name in columns))
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize("columns", CSVS.values(), ids=CSVS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_wherever_it_breaks_off_nobody_is_better_for_it(
    columns: tuple[str, ...], encoding: str, tmp_path: Path, issuer: Issuer
) -> None:
    """A column that lacks its end may have said "revoked": nothing of that row is believed, but that it is revoked."""
    source = FileSource(tmp_path / "export", issuer, "csv", encoding=encoding)
    del source.options["reason"]
    if "status" not in columns:
        del source.options["status"]
    whole = csv_of(columns).decode().encode(encoding.replace("-sig", ""))
    source.path.write_bytes(whole)
    expected = rows_of(read(source.open().snapshot()))
    assert {octets.hex(): text[:4] for octets, text in expected.items()} == {
        "0a1b": "good",
        "0c2d": "revo",
        "0e3f": "revo",
    }
    unit = 2 if encoding == "utf-16" else 1
    for end in range(unit, len(whole), unit):
        source.path.write_bytes(whole[:end])
        snapshot = source.open().snapshot()
        try:
            batches = read(snapshot)
        except SourceUnavailable:
            assert end <= unit * (len(",".join(columns)) + 1)  # within the header
            continue
        assert rows_of(batches).items() <= expected.items(), end
        for row in (row for batch in batches for row in batch.rejected):
            if row.serial_octets is not None:
                assert row.serial_octets in expected, end
                assert row.presumed is None or expected[row.serial_octets].startswith("revoked"), end
            assert "breaks off in this row" in row.reason, end
        at_line_end = whole[:end].decode("utf-16" if unit == 2 else "utf-8").endswith("\n")
        quoted = whole[:end].decode("utf-16" if unit == 2 else "utf-8").count('"') % 2
        assert snapshot.cut == (not at_line_end or bool(quoted)), end
        assert snapshot.whole != snapshot.cut


def test_an_exporter_without_a_last_line_end(tmp_path: Path, issuer: Issuer) -> None:
    """It has to be said; what lacks columns is cut all the same."""
    source = FileSource(tmp_path / "export", issuer, "csv", final_newline=False)
    source.path.write_text("serial,status,reason,revoked,end\n0a,good,,,\n0b,revoked,,2026-01-02T03:04:05Z,")
    snapshot = source.open().snapshot()
    assert rows_of(read(snapshot)) == {b"\x0a": "good", b"\x0b": "revoked 2026-01-02T03:04:05Z"}
    assert (snapshot.whole, snapshot.cut) == (True, False)
    source.path.write_text("serial,status,reason,revoked,end\n0a,good,,,\n0b,revoked,,2026-01-02")
    snapshot = source.open().snapshot()
    assert rows_of(read(snapshot)) == {b"\x0a": "good"}
    assert (snapshot.whole, snapshot.cut) == (False, True)


def test_json_lines_that_break_off(tmp_path: Path, issuer: Issuer) -> None:
    """An object that was cut is no JSON; one that is whole needs no line end."""
    source = FileSource(tmp_path / "export", issuer, "jsonl")
    whole = (
        b'{"serial": "0a", "status": "good"}\n{"serial": "0b", "status": "revoked", "revoked": "2026-01-02T03:04:05Z"}'
    )
    for end in range(1, len(whole) + 1):
        source.path.write_bytes(whole[:end])
        snapshot = source.open().snapshot()
        found = rows_of(read(snapshot))
        assert found.items() <= {b"\x0a": "good", b"\x0b": "revoked 2026-01-02T03:04:05Z"}.items()
        assert snapshot.cut == (whole[:end].count(b"}") < len(whole[:end].splitlines()))
        assert len(found) == whole[:end].count(b"}")


def test_a_cut_file_revokes_but_makes_nothing_newer(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    """Until it is whole: rows that are there hold, nothing is removed, and the source counts as not read."""
    room = LoaderRoom(tmp_path, redis_server())
    mapping = 'type = "delimited", path = "export.csv", serial = "serial", serial_base = "hex", revoked_at = "at"'
    text = room.config_file.read_text().replace('type = "openssl", path = "index.txt"', mapping)
    room.config_file.write_text(text)
    export = tmp_path / "export.csv"

    def put(rows: str, at: float) -> None:
        export.write_text("serial,at\n" + rows)
        os.utime(export, (at, at))

    put("0a,\n0b,\n0c,\n", NOW - 1000)
    follower = CAFollower(room.issuer, room.config, str(room.config_file), room.issuers, room.clock)
    try:
        for _ in range(3):
            room.pass_time(follower.step())
        assert room.as_of() == NOW - 1000
        put("0a,2026-01-02T03:04:05Z\n0b,", NOW - 500)
        passes = []
        for _ in range(4):
            room.pass_time(follower.step())
            passes.append(follower._report)
        assert room.statuses() == {"0a": "revoked 2026-01-02T03:04:05Z", "0b": "good", "0c": "good"}
        assert room.as_of() == NOW - 1000
        assert passes[0] is passes[-1], "it is not read again before it changes"
        put("0a,2026-01-02T03:04:05Z\n0b,2026-01-02T03:04:05Z\n0c,\n", NOW - 400)
        for _ in range(3):
            room.pass_time(follower.step())
        assert room.statuses()["0b"] == "revoked 2026-01-02T03:04:05Z"
        assert room.as_of() == NOW - 400
    finally:
        follower.close()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), kind=st.sampled_from(["csv", "jsonl"]))
def test_whatever_a_file_holds(
    tmp_path_factory: pytest.TempPathFactory, issuer: Issuer, data: bytes, kind: str
) -> None:
    """Rows, rejected rows or SourceUnavailable, and nothing else; every row is a status."""
    source = FileSource(tmp_path_factory.getbasetemp() / f"fuzz.{kind}", issuer, kind)
    source.put([{"serial": "01", "status": "good"}], data)
    try:
        found = rows_of(read(source.open().snapshot()))
    except SourceUnavailable:
        return
    for text in found.values():
        assert Status.from_text(text).to_text() == text
