"""An issued list beside a CRL: what each says, as of when, and what happens while one of them is out of reach."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection
from typer.testing import CliRunner

from loaders import issued
from loaders.contract_suite import read
from loaders.database import Database
from loaders.reconcile import Reconciler
from loaders.registry import open_loader
from loaders.runner import CONFIRM_AFTER_S
from responder.cli.app import build_app
from responder.errors import ConfigError, SourceUnavailable
from responder.metrics import SOURCE_ERRORS
from tests.crl_made import HOUR_S, NOW
from tests.crl_source_room import AT, AT_TEXT
from tests.issued_room import CSV, BothRoom
from tests.pki import make_leaf
from tests.redis_fixture import RedisServer, start_redis

HOLD = "certificate_hold"
REMOVED = "remove_from_crl"
EXP = "exp=2030-12-31T23:59:59Z"
GOOD = f"good {EXP}"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = start_redis()
    yield server
    server.stop()


Rooms = Callable[..., BothRoom]


@pytest.fixture
def make_room(tmp_path: Path, server: RedisServer) -> Iterator[Rooms]:
    server.client().flushall()
    rooms: list[BothRoom] = []

    def make(issued: str = CSV, **more: str) -> BothRoom:
        rooms.append(BothRoom(tmp_path, server, issued, **more))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
def room(make_room: Rooms) -> BothRoom:
    return make_room()


# --- what each says --------------------------------------------------------------------------------------------------


@pytest.mark.clause("BR", "4.9.9", "MUST NOT")
def test_listed_is_good_unless_the_crl_revokes_it(room: BothRoom) -> None:
    """STS-02: a serial of no list was not issued; one on the CRL alone is revoked; two sources that agree are no conflict."""
    room.list("01", "02")
    room.publish([(2, AT, "superseded"), (3, AT)], this_update=NOW - HOUR_S, next_update=NOW + HOUR_S)
    report = room.read_twice()
    assert report.is_clean
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT} superseded", "03": f"revoked {AT_TEXT}"}
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert info.lists_issued
    assert room.store.find_status(room.issuer.id, b"\x04") is None


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_good_is_as_old_as_the_crl(room: BothRoom) -> None:
    """TIM-01: that a certificate was issued does not say that it is not revoked; nor does it hold beyond the CRL's end."""
    room.list("01")
    room.publish(this_update=NOW - 7 * HOUR_S, next_update=NOW + HOUR_S)
    room.step(3)
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until) == (NOW - 7 * HOUR_S, NOW + HOUR_S)
    room.list("01", "02")  # a newer list makes no newer answer
    room.step(4)
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until) == (NOW - 7 * HOUR_S, NOW + HOUR_S)
    assert room.statuses() == {"01": GOOD, "02": GOOD}


@pytest.mark.parametrize(("unassigned", "as_of"), [("unauthorized", NOW - 60), ("unknown", NOW - 1000)])
def test_a_signed_not_issued_is_as_old_as_the_list(make_room: Rooms, unassigned: str, as_of: int) -> None:
    """The list is an export with an mtime of NOW - 1000: only what it says, that there are no others, is that old."""
    room = make_room(ocsp=f', unassigned = "{unassigned}"')
    room.list("01")
    room.publish(this_update=NOW - 60)
    room.step(3)
    assert room.as_of() == as_of


def test_what_leaves_the_list_or_the_crl(room: BothRoom) -> None:
    """A good one is removed, after two readings; a revoked one stays whatever leaves, without an alarm in each pass."""
    room.list("01", "02", "03", "05")
    room.publish([(2, AT), (3, AT, HOLD)])
    room.read_twice()
    room.list("01", "03")
    room.publish(number=2)
    report = room.read_twice()
    assert report.is_clean
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT}", "03": f"revoked {AT_TEXT} {EXP}"}, (
        "the profile knows no hold; and once it is off the CRL the list tells when it expires"
    )


def test_a_hold_ends_by_the_crl_alone(make_room: Rooms) -> None:
    """By removeFromCRL in its delta, for what is listed; not by leaving the full CRL, nor by the list's rows."""
    room = make_room(profile="private")
    room.configure('path = "corp.crl", delta = "delta.crl"')
    room.list("01", "02", "03")
    room.publish([(1, AT, HOLD), (2, AT, HOLD), (9, AT, HOLD)], number=5, this_update=NOW - HOUR_S)
    room.publish([], name="delta.crl", number=5, base=5, this_update=NOW - HOUR_S)
    room.step(3)
    held = f"revoked {AT_TEXT} certificateHold"
    assert room.statuses() == {"01": held, "02": held, "03": GOOD, "09": held}
    room.publish([(1, AT, REMOVED), (9, AT, REMOVED)], name="delta.crl", number=6, base=5, this_update=NOW - 60)
    room.step(4)
    assert room.statuses() == {"01": GOOD, "02": held, "03": GOOD, "09": held}
    assert room.as_of() == NOW - 60
    room.publish([], number=7, this_update=NOW - 50)
    room.publish([], name="delta.crl", number=7, base=7, this_update=NOW - 50)
    room.step(4)
    assert room.statuses() == {"01": GOOD, "02": held, "03": GOOD, "09": held}


def test_the_lists_own_word_of_revocations_only_makes_it_stricter(make_room: Rooms) -> None:
    room = make_room(f'{CSV}, revoked_at = "at"')
    room.put(
        "issued.csv", b"serial,expires,at\n01,2030-12-31T23:59:59Z,2026-11-06T21:20:00Z\n02,2030-12-31T23:59:59Z,\n"
    )
    assert room.read_twice().is_clean
    assert room.statuses() == {"01": f"revoked {AT_TEXT} {EXP}", "02": GOOD}
    room.list("01", "02")
    room.put("issued.csv", b"serial,expires,at\n01,2030-12-31T23:59:59Z,\n02,2030-12-31T23:59:59Z,\n")
    room.read_twice()
    assert room.statuses() == {"01": f"revoked {AT_TEXT} {EXP}", "02": GOOD}


def test_a_directory_of_certificates_as_the_list(make_room: Rooms) -> None:
    """What was tidied away was issued all the same; a release waits until the directory was read twice the same."""
    room = make_room('"certdir", path = "issued"', profile="private")
    room.configure('path = "corp.crl", delta = "delta.crl"')
    (room.directory / "issued").mkdir()
    for serial in (1, 2):
        leaf = make_leaf(room.ca, serial_number=serial, not_after=1_924_991_999)
        (room.directory / "issued" / f"{serial}.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
    room.publish([(2, AT, HOLD)], number=5)
    room.publish([], name="delta.crl", number=5, base=5)
    room.read_twice()
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT} certificateHold"}
    (room.directory / "issued" / "1.pem").unlink()
    room.publish([(2, AT, REMOVED)], name="delta.crl", number=6, base=5)
    runner = room.runner()
    assert not runner.run().settled
    assert "hold" in room.statuses()["02"].lower()
    room.pass_time(CONFIRM_AFTER_S)
    assert runner.run().settled
    assert room.statuses() == {"01": GOOD, "02": GOOD}


def test_a_list_that_shrinks_takes_nothing_away(room: BothRoom) -> None:
    """However long the CRL is: it is the list that is counted."""
    room.list(*(f"{at:02x}" for at in range(1, 11)))
    room.publish([(0x100 + at, AT) for at in range(100)])
    room.read_twice()
    room.list("01")
    report = room.read_twice()
    assert report.shrunk_from == 10
    assert len(room.statuses()) == 110


def test_adding_a_list_to_a_crl_that_was_read_alone(room: BothRoom) -> None:
    """Entries of the CRL say nothing of how many the list should have."""
    room.configure(ca="# no list yet")
    room.publish([(0x100 + at, AT) for at in range(100)])
    room.read_twice()
    assert not room.store.ca_info(room.issuer.id).lists_issued  # type: ignore[union-attr]
    room.configure()
    room.list("01")
    assert room.read_twice().is_clean
    assert room.statuses()["01"] == GOOD
    assert room.store.ca_info(room.issuer.id).lists_issued  # type: ignore[union-attr]


# --- following both --------------------------------------------------------------------------------------------------


def errors_told() -> float:
    return float(SOURCE_ERRORS.labels("corp")._value.get())


def test_a_new_crl_comes_in_while_the_list_is_out_of_reach(room: BothRoom) -> None:
    """A revocation waits for no list; that is told once, and read again when it is back. Before the first whole reading nothing is known."""
    (room.directory / "issued.csv").rename(room.directory / "away.csv")
    room.publish([(2, AT)])
    room.step(2)
    assert room.as_of() is None
    (room.directory / "away.csv").unlink()
    room.list("01", "02", "03")
    room.step(2)
    assert room.as_of() == NOW
    (room.directory / "issued.csv").unlink()
    told = errors_told()
    room.publish([(2, AT), (3, AT)], number=2, this_update=NOW + 1, next_update=NOW + 30 * HOUR_S)
    room.step(3)
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT}", "03": f"revoked {AT_TEXT} {EXP}"}
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.source_until) == (NOW + 1, NOW + 30 * HOUR_S)
    assert errors_told() == told + 1
    room.list("01", "02", "03", "04")
    room.step(4)
    assert room.statuses()["04"] == GOOD


def test_a_restart_goes_on_where_it_was(room: BothRoom) -> None:
    """Also without the list: what the new CRL revokes is brought in, and no answer gets a new date before all was read."""
    room.list("01", "02")
    room.step(3)
    room.restart()
    (room.directory / "issued.csv").unlink()
    room.publish([(2, AT)], number=2, this_update=NOW + 1)
    room.step(3)
    assert room.statuses()["02"].startswith("revoked")
    assert room.as_of() == NOW
    room.list("01", "02")
    room.step(3)
    assert room.as_of() == NOW + 1


def test_a_large_new_crl_waits_for_the_whole_pass(room: BothRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """In flat memory; as_of does not move before all of it is in."""
    monkeypatch.setattr(issued, "MAX_CHANGED_ROWS", 5)
    room.list("01", "02")
    room.step(3)
    entries = [(0x100 + at, AT) for at in range(10)]
    room.publish(entries, number=2, this_update=NOW + 10)
    (room.directory / "issued.csv").unlink()  # so that no whole pass succeeds
    room.step(5)
    assert room.as_of() == NOW
    room.list("01", "02")
    room.step(3)
    assert len(room.statuses()) == 12
    assert room.as_of() == NOW + 10


@pytest.fixture
def made(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database that lists 01 and 02."""
    with closing(sqlite3.connect(tmp_path / "ca.db", timeout=0)) as made:
        made.execute("CREATE TABLE certs (serial TEXT PRIMARY KEY, expires INTEGER, at INTEGER)")
        made.executemany("INSERT INTO certs VALUES (?, 1924991999, ?)", [("01", NOW - 9), ("02", NOW - 9)])
        made.commit()
        yield made


def database(directory: Path) -> str:
    """Configure it as the list."""
    query = 'query = "SELECT serial, expires, at FROM certs", key = "serial", updated = "at", updated_time = "s"'
    mapping = 'serial = "serial", serial_base = "hex", not_after = "expires", time = "s"'
    return f'"sql", url = "sqlite:///{directory}/ca.db?timeout=0", {query}, {mapping}'


def test_a_database_as_the_list_is_asked_for_changes(
    make_room: Rooms, tmp_path: Path, made: sqlite3.Connection
) -> None:
    """A row that is new is known at the next poll, not at the next whole pass; and what the CRL revokes stays revoked."""
    room = make_room(database(tmp_path))
    room.publish([(2, AT)])
    room.step(2)
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT} {EXP}"}
    passes = room.follower._report
    made.execute("INSERT INTO certs VALUES ('03', 1924991999, ?)", (NOW,))
    made.commit()
    room.step(2)
    assert room.statuses() == {"01": GOOD, "02": f"revoked {AT_TEXT} {EXP}", "03": GOOD}
    assert room.follower._report is passes
    room.publish([(2, AT), (3, AT)], number=2, this_update=NOW + 2)
    room.step(2)
    assert room.statuses()["03"] == f"revoked {AT_TEXT} {EXP}"
    assert room.as_of() == NOW + 2
    assert room.follower._report is passes


def test_the_list_hides_no_revocation_of_a_pass_under_way(
    make_room: Rooms, tmp_path: Path, made: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the whole pass reads a CRL that revokes 03, the changes say that 03 was issued: the pass's word of it counts."""
    room = make_room(database(tmp_path))
    runner = room.runner()
    assert runner.run().settled
    monkeypatch.setattr(issued, "MAX_CHANGED_ROWS", 0)
    room.publish([(3, AT)], number=2, this_update=NOW + 1)
    made.execute("INSERT INTO certs VALUES ('03', 1924991999, ?)", (NOW,))
    made.commit()
    room.pass_time(2)

    def meanwhile() -> None:
        if "03" not in room.statuses():
            runner.changes()
            assert room.statuses()["03"] == GOOD

    runner.run(meanwhile=meanwhile)
    assert room.statuses()["03"] == f"revoked {AT_TEXT} {EXP}"


def test_a_list_that_fails_is_left_alone_for_a_while(
    make_room: Rooms, tmp_path: Path, made: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at a database that is locked, or out of reach, may hold up the CRL for seconds."""
    room = make_room(database(tmp_path))
    room.step(2)
    made.execute("BEGIN EXCLUSIVE")
    looks = 0
    reading = Database.reading

    def counted(database: Database) -> AbstractContextManager[Connection]:
        nonlocal looks
        looks += 1
        return reading(database)

    monkeypatch.setattr(Database, "reading", counted)
    room.publish([(2, AT)], number=2, this_update=NOW + 1)
    room.step(10)
    assert looks == 1
    assert room.statuses()["02"] == f"revoked {AT_TEXT} {EXP}"
    made.execute("INSERT INTO certs VALUES ('03', 1924991999, ?)", (NOW,))
    made.commit()
    room.pass_time(issued.AFTER_FAILURE_S)
    room.step(2)
    assert room.statuses()["03"] == GOOD


def test_a_list_that_could_not_be_read_gives_no_date(make_room: Rooms) -> None:
    """Where "not issued" is signed, and so is as old as the list: a newer one counts once it was read to its end."""
    room = make_room(ocsp=', unassigned = "unknown"')
    loader, _ = open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)
    assert isinstance(loader, issued.WithIssuedList)
    room.list("01")
    os.utime(room.directory / "issued.csv", (NOW - 1000, NOW - 1000))
    read(loader.snapshot())
    room.put("issued.csv", b"no such columns\n")
    os.utime(room.directory / "issued.csv", (NOW - 10, NOW - 10))
    snapshot = loader.snapshot()
    with pytest.raises(SourceUnavailable):
        read(snapshot)
    assert loader.as_of(NOW) == NOW - 1000
    snapshot.close()


def test_what_a_second_reading_would_not_change_holds_up_no_date(make_room: Rooms) -> None:
    """removeFromCRL stands in deltas for weeks; a directory in which certificates come all the time is never read twice the same."""
    room = make_room('"certdir", path = "issued"', profile="private")
    room.configure('path = "corp.crl", delta = "delta.crl"')
    (room.directory / "issued").mkdir()

    def issue(serial: int) -> None:
        leaf = make_leaf(room.ca, serial_number=serial, not_after=1_924_991_999)
        (room.directory / "issued" / f"{serial}.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))

    issue(1)
    room.publish(number=5)
    room.publish([(1, AT, REMOVED)], name="delta.crl", number=6, base=5)
    runner = room.runner()
    assert runner.run().settled
    room.pass_time(CONFIRM_AFTER_S)
    issue(2)
    report = runner.run()
    assert report.settled, "though it was not read twice the same"
    assert report.done.releases_waiting == 0
    room.pass_time(CONFIRM_AFTER_S)
    issue(3)
    (room.directory / "issued" / "2.pem").unlink()
    assert runner.run().settled, "nor does a file that was tidied away, whose certificate is kept anyway"
    assert room.statuses() == {"01": GOOD, "02": GOOD, "03": GOOD}


# --- configuration, commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "listing", "problem"),
    [
        (None, '"crl", path = "corp.crl"', "ca[corp].issued: lists the revoked alone, and must list what was issued"),
        (None, '"klingon"', "ca[corp].issued.type: no loader 'klingon' is installed"),
        (None, '"certdir"', "ca[corp].issued.path: must be there"),
        (None, f'{CSV}, compare = "1h"', "ca[corp].issued.compare: stands in source"),
        ('path = "corp.crl", max_shrink = 0.5', CSV, "ca[corp].source.max_shrink: stands in issued"),
    ],
)
def test_pairs_that_do_not_go_together(make_room: Rooms, source: str | None, listing: str, problem: str) -> None:
    room = make_room(listing)
    room.configure(source or "")
    with pytest.raises(ConfigError) as caught:
        open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)
    assert problem in str(caught.value)


def test_a_list_goes_with_a_crl_alone(room: BothRoom) -> None:
    text = room.config_file.read_text().replace(
        'type = "crl", path = "corp.crl"', 'type = "openssl", path = "index.txt"'
    )
    room.config_file.write_text(text)
    with pytest.raises(ConfigError, match=r"ca\[corp\].issued: goes with a source of type crl"):
        open_loader(room.issuers, room.issuer, str(room.config_file), room.clock)


def test_commands_know_both(room: BothRoom) -> None:
    room.list("01", "02")
    room.publish([(2, AT)])
    room.read_twice()
    done = CliRunner().invoke(build_app(["sources"]), ["sources", "-c", str(room.config_file)])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if not line.startswith("corp:   ")]
    assert lines[0].startswith(f"corp: crl {room.directory}/corp.crl: lists the revoked alone")
    assert lines[1].startswith(f"corp: delimited {room.directory}/issued.csv: lists what was issued")

    def compare() -> list[str]:
        reconciler = Reconciler(
            room.store, room.config, str(room.config_file), room.issuers, room.issuer, room.clock, sleep=lambda _: None
        )
        return [str(difference) for difference in reconciler.run(0, []).differences]

    assert compare() == []
    place = room.store.locate(room.issuer.id, [b"\2"])[0]
    room.redis.hset(room.store.layout.status(room.issuer.id, place.bucket), "02", GOOD)
    place = room.store.locate(room.issuer.id, [b"\5"])[0]
    room.redis.hset(room.store.layout.status(room.issuer.id, place.bucket), "05", GOOD)
    assert compare() == [
        f"serial 02: Redis: the source says 'revoked {AT_TEXT}', Redis {GOOD!r}",
        f"serial 05: Redis: Redis says {GOOD!r}, the source does not list it",
    ]


def test_reconcile_tells_of_a_hold_that_should_have_ended(make_room: Rooms) -> None:
    """By removeFromCRL; what the list says of a hold is no contradiction, nor is a release of what is not on it."""
    room = make_room(CSV.replace(', not_after = "expires"', ""), profile="private")
    room.configure('path = "corp.crl", delta = "delta.crl"')
    room.list("01", "02")
    room.publish([(1, AT, HOLD), (2, AT, HOLD), (9, AT, HOLD)], number=5)
    room.read_twice()
    room.publish([(1, AT, REMOVED), (9, AT, REMOVED)], name="delta.crl", number=6, base=5)
    reconciler = Reconciler(
        room.store, room.config, str(room.config_file), room.issuers, room.issuer, room.clock, sleep=lambda _: None
    )
    held = f"revoked {AT_TEXT} certificateHold"
    told = f"serial 01: Redis: the source says 'good', Redis {held!r}"
    assert [str(difference) for difference in reconciler.run(0, []).differences] == [told]
    room.read_twice()
    assert reconciler.run(0, []).differences == []
