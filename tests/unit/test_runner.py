"""One pass over a source, on a real Redis: what it brings in, what it leaves for later, what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from loaders import reading
from loaders.base import Batch, LoaderOptions, Row
from loaders.registry import open_loader
from loaders.runner import CONFIRM_AFTER_S, Runner, Stopped
from responder import revocation
from responder.clock import Clock, ManualClock
from responder.errors import ConfigError, OperatorError, SourceUnavailable
from responder.issuers import Issuer
from responder.metrics import TRANSITIONS_REFUSED
from responder.model import CRLReason
from responder.revocation import Refused
from responder.store import layout
from tests.loader_room import AT, EXP, NOW, REVOKED_AT, LoaderRoom, good, revoked
from tests.pki import make_ca
from tests.redis_fixture import RedisServer

DAY = 86_400


@pytest.fixture
def room(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> LoaderRoom:
    return LoaderRoom(tmp_path, redis_server())


@pytest.fixture
def each_room(tmp_path: Path, each_redis: RedisServer) -> LoaderRoom:
    return LoaderRoom(tmp_path, each_redis)


# --- what a pass brings in -----------------------------------------------------------------------------------------


def test_a_first_load(each_room: LoaderRoom) -> None:
    """Every row is there with its text, the CA can be looked at, and as_of is the moment before the reading."""
    room = each_room
    report = room.load(good("0A"), revoked("80", "keyCompromise"), revoked("0C", "removeFromCRL"))
    assert room.statuses() == {"0a": f"good {EXP}", "0080": f"revoked {AT} keyCompromise {EXP}", "0c": f"good {EXP}"}
    assert report.is_clean
    assert (report.listed, report.done.changes) == (3, {"new": 3})
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert (info.as_of, info.loaded, info.bits) == (int(NOW), 3, layout.MIN_BITS)
    assert (info.name, info.subject) == ("corp", room.issuer.subject_text)


def test_every_kind_of_change(each_room: LoaderRoom) -> None:
    """One pass finds each difference, and the journal tells of it by its kind."""
    room = each_room
    room.load(*(good(serial) for serial in ("01", "02", "03", "04")), revoked("05", "certificateHold"))
    report = room.load(
        good("01"),
        revoked("02", "superseded"),
        good("03", "20310101000000Z"),
        good("05"),
        good("06"),
    )
    assert room.statuses() == {
        "01": f"good {EXP}",
        "02": f"revoked {AT} superseded {EXP}",
        "03": "good exp=2031-01-01T00:00:00Z",
        "05": f"good {EXP}",
        "06": f"good {EXP}",
    }
    assert report.is_clean
    assert {"new", "revoked", "changed", "released", "purged"} <= set(room.journal_kinds())


def test_nothing_changed_writes_nothing_but_as_of(room: LoaderRoom) -> None:
    room.load(good("01"), revoked("02"))
    before = room.dump()
    room.pass_time(60)
    report = room.load(good("01"), revoked("02"))
    assert report.done.changed == 0
    after = room.dump()
    assert {key for key in before | after if before.get(key) != after.get(key)} == {b"rc:ca:" + room.issuer.id.encode()}
    assert room.as_of() == int(NOW + 60 + CONFIRM_AFTER_S)


def test_the_same_reading_again_is_not_compared_again(room: LoaderRoom) -> None:
    room.write(good("01"))
    runner = room.runner()
    assert not runner.run().skipped
    room.pass_time(5)
    report = runner.run()
    assert (report.skipped, report.settled, room.as_of()) == (True, True, int(NOW + 5))
    runner.forget()
    assert not runner.run().skipped


def test_growth(room: LoaderRoom) -> None:
    """Buckets are chosen by the first load's size and split as the CA grows; no certificate is lost on the way."""
    rows = [good(f"{number:04X}") for number in range(1, 12_001)]
    room.load(*rows[:100])
    assert len(room.redis.keys("rc:*:status:*")) == 16
    report = room.load(*rows)
    assert report.done.changes == {"new": 11_900}
    assert len(room.statuses()) == 12_000
    assert len(room.redis.keys("rc:*:status:*")) >= 12_000 // layout.BUCKET_SPLIT_ABOVE
    located = room.store.locate(room.issuer.id, [number.to_bytes(2, "big") for number in (0x0101, 0x2EE0)])
    assert [place.text for place in located] == [f"good {EXP}"] * 2
    assert room.load(*rows).done.changed == 0


def test_a_large_first_load_makes_fitting_buckets(room: LoaderRoom) -> None:
    room.load(*(good(f"{number:04X}") for number in range(1, 5001)))
    info = room.store.ca_info(room.issuer.id)
    assert info is not None
    assert info.bits == 6
    assert len(room.statuses()) == 5000


# --- what is taken away only after a second look --------------------------------------------------------------------


def test_vanished_rows_go_after_two_equal_readings(room: LoaderRoom) -> None:
    room.load(*(good(serial) for serial in ("01", "02", "03")))
    room.write(good("01"), good("02"))
    runner = room.runner()
    first = runner.run()
    assert (first.settled, first.done.vanished, first.wants_confirmation) == (False, 1, True)
    assert room.as_of() == int(NOW), "what vanished is not known to be so yet"
    room.pass_time(CONFIRM_AFTER_S / 2)
    assert runner.run().done.vanished == 1, "too soon: the same writer may still hold the same file"
    room.pass_time(CONFIRM_AFTER_S / 2)
    assert runner.run().done.changes == {"purged": 1}
    assert sorted(room.statuses()) == ["01", "02"]


def test_a_reading_in_between_starts_the_wait_anew(room: LoaderRoom) -> None:
    room.load(*(good(serial) for serial in ("01", "02", "03")))
    runner = room.runner()
    for rows in ([good("01"), good("02")], [good("01")], [good("01"), good("02")]):
        room.write(*rows)
        assert not runner.run().settled
        room.pass_time(CONFIRM_AFTER_S)
    assert sorted(room.statuses()) == ["01", "02", "03"]


def test_a_hold_ends_after_two_equal_readings(room: LoaderRoom) -> None:
    """By a row of status V, and by removeFromCRL; counted as refused neither time."""
    alarms = TRANSITIONS_REFUSED.labels("hold_not_released")._value.get()
    for row in (good("01"), revoked("01", "removeFromCRL")):
        room.load(revoked("01", "certificateHold"))
        room.write(row)
        runner = room.runner()
        first = runner.run()
        assert (first.settled, first.done.releases_waiting, first.done.refused) == (False, 1, {})
        assert room.statuses() == {"01": f"revoked {AT} certificateHold {EXP}"}
        room.pass_time(CONFIRM_AFTER_S)
        assert runner.run().done.changes == {"released": 1}
        assert room.statuses() == {"01": f"good {EXP}"}
    assert TRANSITIONS_REFUSED.labels("hold_not_released")._value.get() == alarms


def test_an_older_copy_takes_nothing_away(room: LoaderRoom) -> None:
    """One that was put back knows nothing of the holds since: it ends none, removes nothing, and still revokes."""
    room.configure(", copy = true")
    older = (good("01"), revoked("02", "keyCompromise"))
    room.write(revoked("01", "certificateHold"), good("02"), good("03"))
    os.utime(room.index, (NOW - 100, NOW - 100))
    assert room.runner().run().settled
    room.write(*older)  # of long ago
    runner = room.runner()
    for _ in range(3):
        report = runner.run()
        assert (report.settled, report.wants_confirmation, report.as_of) == (True, False, NOW - 100)
        room.pass_time(CONFIRM_AFTER_S)
        runner.forget()
    assert report.done.refused == {Refused.HOLD_NOT_RELEASED: 1}
    assert room.statuses() == {
        "01": f"revoked {AT} certificateHold {EXP}",
        "02": f"revoked {AT} keyCompromise {EXP}",
        "03": f"good {EXP}",
    }
    room.write(*older)
    os.utime(room.index, (NOW - 50, NOW - 50))
    assert runner.run().done.changes == {"released": 1, "purged": 1}


WHOLE = "".join(
    [
        good("01"),
        revoked("02", "keyCompromise"),
        good("0A0B0C0D0E0F"),
        revoked("80", "certificateHold"),
        revoked("-05"),
        good("0C"),
        revoked("0D", "keyTime,20250102030405Z"),
        good("0E"),
    ]
)


def test_half_written_at_every_octet(room: LoaderRoom) -> None:
    """Cut anywhere, also at a line's end: one reading takes nobody's status away, and says no as_of that it cannot."""
    room.load(WHOLE)
    expected = room.statuses()
    runner = room.runner()
    for end in range(len(WHOLE)):
        before = room.as_of()
        room.pass_time(10)
        room.write(WHOLE[:end])
        report = runner.run()
        assert room.statuses() == expected, f"cut at {end}"
        assert not report.settled
        assert room.as_of() == before
    room.pass_time(10)
    room.write(WHOLE)
    assert runner.run().settled
    assert room.statuses() == expected


def test_cut_within_a_line_for_long(room: LoaderRoom) -> None:
    """A file that stays broken off within a line removes nothing, however often it is read the same."""
    room.load(WHOLE)
    expected = room.statuses()
    runner = room.runner()
    for end in range(1, len(WHOLE), 7):
        if WHOLE[end - 1] == "\n":
            continue
        room.write(WHOLE[:end])
        for _ in range(3):
            room.pass_time(10)
            runner.run()
            assert room.statuses() == expected, f"cut at {end}"


def test_overwritten_in_place_at_every_octet(room: LoaderRoom) -> None:
    """New content over old, cut anywhere, so that a line is made of both: nobody who is revoked is good at any moment."""
    room.load(WHOLE)
    fresh = "".join(sorted(WHOLE.splitlines(keepends=True), reverse=True)).replace("R\t", "V\t").replace(REVOKED_AT, "")
    bad = {serial for serial, text in room.statuses().items() if text.startswith("revoked")}
    listed = set(room.statuses())
    runner = room.runner()
    for end in range(len(fresh)):
        room.write(fresh[:end] + WHOLE[end:])
        runner.run()
        statuses = room.statuses()
        assert not [serial for serial in bad if not statuses[serial].startswith("revoked")], f"cut at {end}"
        assert listed <= set(statuses)


def test_a_file_without_its_last_line_end_is_believed_when_it_stays_so(room: LoaderRoom) -> None:
    """An editor that ends no last line: its rows hold, nothing is removed, and the operator is told."""
    room.load(good("01"), good("02"))
    room.write(good("01"), revoked("03")[:-1])
    runner = room.runner()
    assert not runner.run().settled
    room.pass_time(CONFIRM_AFTER_S)
    report = runner.run()
    assert (report.settled, report.whole) == (True, False)
    assert room.statuses() == {"01": f"good {EXP}", "02": f"good {EXP}", "03": f"revoked {AT} {EXP}"}


def test_a_source_that_shrinks_too_much_is_not_believed(room: LoaderRoom) -> None:
    """Half of the certificates gone at once: nothing is removed, as_of stays; what it lists is brought in."""
    rows = [good(f"{number:02X}") for number in range(1, 11)]
    room.load(*rows)
    room.write(*rows[:3], revoked("04"))
    runner = room.runner()
    for _ in range(3):
        room.pass_time(10)
        report = runner.run()
        assert (report.shrunk_from, report.settled, report.wants_confirmation, report.is_clean) == (
            10,
            False,
            False,
            False,
        )
    assert len(room.statuses()) == 10
    assert room.statuses()["04"] == f"revoked {AT} {EXP}"
    assert room.as_of() == int(NOW)
    room.configure(source=", max_shrink = 0.7")
    report = room.load(*rows[:3], revoked("04"))
    assert report.done.changes == {"purged": 6}


def test_a_revoked_certificate_that_is_listed_no_more_stays_revoked(room: LoaderRoom) -> None:
    room.load(good("01"), revoked("02"), good("03"))
    report = room.load(good("01"), good("03"))
    assert report.done.kept_revoked == 1
    assert room.statuses()["02"] == f"revoked {AT} {EXP}"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "5.3.1", "MUST")
def test_a_permanent_revocation_is_not_undone(room: LoaderRoom) -> None:
    """Only certificateHold may be released: R edited back to V by hand is refused, with an alarm."""
    room.load(revoked("01", "superseded"), revoked("02"))
    report = room.load(good("01"), revoked("02", "certificateHold"))
    assert report.done.refused == {Refused.PERMANENT: 2}
    assert not report.is_clean
    assert room.statuses() == {"01": f"revoked {AT} superseded {EXP}", "02": f"revoked {AT} {EXP}"}
    assert report.settled, "the rest of the source is believed"


def test_what_the_operator_revoked_is_not_undone(room: LoaderRoom) -> None:
    """Not by a good row, nor by its vanishing; and it is said."""
    room.load(good("01"), good("02"), good("03"))
    for serial in (b"\x01", b"\x02"):
        revocation.revoke(room.store, room.issuer.id, serial, CRLReason.KEY_COMPROMISE, int(NOW), now=NOW)
    report = room.load(good("01"), good("03"))
    assert report.done.refused == {Refused.OPERATOR: 1}
    for serial in ("01", "02"):
        assert room.statuses()[serial].startswith("revoked 2026-11-18T11:06:40Z keyCompromise")


def test_a_bad_row_keeps_what_was_known(room: LoaderRoom) -> None:
    """It counts as listed, revoked stays revoked, good stays good; the others go their way."""
    room.load(good("01"), revoked("02"), good("03"), revoked("04", "certificateHold"))
    bad = "X\tnever\t\t{0}\tunknown\t/CN=x\n"
    report = room.load(*(bad.format(serial) for serial in ("01", "02", "04")), revoked("03"))
    assert report.rejected == 3
    assert str(report.errors[0]) == f"{room.index}:1: unknown status 'X'"
    assert room.statuses() == {
        "01": f"good {EXP}",
        "02": f"revoked {AT} {EXP}",
        "03": f"revoked {AT} {EXP}",
        "04": f"revoked {AT} certificateHold {EXP}",
    }
    assert not report.is_clean


def test_a_row_without_a_serial_stops_every_removal(room: LoaderRoom) -> None:
    """It may be any certificate's: whoever is missing may be the one that stands there."""
    room.load(good("01"), good("02"), good("03"))
    report = room.load(good("01"), good("02"), "V\tgarbage\n")
    assert report.settled
    assert report.done.vanished == 1
    assert sorted(room.statuses()) == ["01", "02", "03"]


def test_too_many_bad_rows_stop_every_removal(room: LoaderRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their serials are held in memory only up to a bound."""
    monkeypatch.setattr(reading, "MAX_KEPT_SERIALS", 2)
    room.load(*(good(serial) for serial in ("01", "02", "03", "04")))
    room.load(*(f"X\t\t\t{serial}\tunknown\t/CN=x\n" for serial in ("01", "02", "03")))
    assert len(room.statuses()) == 4


def test_too_many_that_surely_are_revoked_are_revoked_all_the_same(
    room: LoaderRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: above it they go the way of the other rows, through the disk."""
    monkeypatch.setattr(reading, "MAX_KEPT_SERIALS", 2)
    serials = ("01", "02", "03", "04")
    room.load(*(good(serial) for serial in serials))
    held: list[int] = []
    monkeypatch.setattr(Runner, "_presume", lambda _self, presumed, _report, _now: held.append(len(presumed)))
    room.load(*(revoked(serial, at="never") for serial in serials))
    assert max(held) <= 2
    assert set(room.statuses().values()) == {f"revoked 2026-11-18T11:06:40Z {EXP}"}


def test_surely_revoked_nobody_knows_when_or_why(room: LoaderRoom) -> None:
    """Good would be worse: it is revoked as of the reading, unless it is revoked already; and it is reported."""
    room.load(good("01"), revoked("02", "superseded"), good("03"))
    report = room.load(
        revoked("01", at="never"),
        revoked("02", at="never"),
        revoked("03", "becauseISaySo"),
        revoked("04", "becauseISaySo"),
    )
    assert report.rejected == 4
    assert room.statuses() == {
        "01": f"revoked 2026-11-18T11:06:40Z {EXP}",
        "02": f"revoked {AT} superseded {EXP}",
        "03": f"revoked {AT} {EXP}",
        "04": f"revoked {AT} {EXP}",
    }
    room.pass_time(100)
    before = room.statuses()
    room.load(revoked("01", at="never"), revoked("02", at="never"), revoked("03", "why"), revoked("04", "why"))
    assert room.statuses() == before, "the moment of the first reading stays"


def test_two_rows_of_one_serial(room: LoaderRoom) -> None:
    """Revoked wins whichever comes first, the permanent one over the hold; a difference is reported, a repetition not."""
    report = room.load(
        *(good("01"), revoked("01")),
        *(revoked("02"), good("02")),
        *(revoked("03", "certificateHold"), revoked("03", "superseded", at="260601000000Z"), good("03")),
        *(good("04"), good("04")),
        *(good("05", "20310101000000Z"), good("05")),
    )
    assert room.statuses() == {
        "01": f"revoked {AT} {EXP}",
        "02": f"revoked {AT} {EXP}",
        "03": f"revoked 2026-06-01T00:00:00Z superseded {EXP}",
        "04": f"good {EXP}",
        "05": "good exp=2031-01-01T00:00:00Z",
    }
    assert sorted(error.row for error in report.errors) == ["serial 01", "serial 02", "serial 03", "serial 05"]
    assert "stands there twice" in str(report.errors[0])


@pytest.mark.clause("BR", "4.9.13", "MUST")
def test_webpki_knows_no_hold(room: LoaderRoom) -> None:
    """BR-10: a suspended entry is reported, and answered as revoked for good and without a reason."""
    room.configure(ca='profile = "webpki"')
    report = room.load(revoked("01", "certificateHold"), revoked("02", "holdInstruction,holdInstructionReject"))
    assert room.statuses() == {"01": f"revoked {AT} {EXP}", "02": f"revoked {AT} {EXP}"}
    assert report.rejected == 2
    assert "BR §4.9.13" in str(report.errors[0])
    assert room.load(good("01"), good("02")).done.refused == {Refused.PERMANENT: 2}


@pytest.mark.clause("BR", "4.10.1", "MUST NOT")
def test_a_hold_from_before_webpki_is_never_released(room: LoaderRoom) -> None:
    """CRLs have said since that it is revoked, so it stays so: by a good row, and by an explicit release."""
    room.load(revoked("01", "certificateHold"))
    held = room.statuses()
    assert "certificateHold" in held["01"]
    room.configure(ca='profile = "webpki"')
    report = room.load(good("01"))
    assert room.statuses() == held
    assert report.done.refused == {Refused.HOLD_NOT_RELEASED: 1}
    batch = Batch([(b"\x02", "good")], released=[(b"\x01", "good")])
    reading.refuse_holds(batch, "db")
    assert (batch.rows, batch.released) == ([(b"\x02", "good"), (b"\x01", "good")], [])
    assert "nothing is released in the profile webpki (BR §4.9.13, §4.10.1)" in str(batch.rejected[0])


# --- expiry --------------------------------------------------------------------------------------------------------


def test_what_expired_long_ago_is_not_kept(room: LoaderRoom) -> None:
    """Past expiry and retention a row is not brought in; one that was goes, in the journal, and does not come back."""
    room.configure(ca='retention = "10d"')
    recent, old = "261115000000Z", "261101000000Z"
    report = room.load(good("01", old), revoked("02", expiry=old), good("03", recent), revoked("04", expiry=recent))
    assert sorted(room.statuses()) == ["03", "04"]
    assert report.done.expired == 2
    room.pass_time(10 * DAY)
    rows = [good("01", old), good("03", recent), revoked("04", expiry=recent)]
    room.load(*rows)
    assert room.statuses() == {}
    assert room.journal_kinds().count("purged") >= 1
    entries = len(room.journal_kinds())
    room.load(*rows)
    assert (room.statuses(), len(room.journal_kinds())) == ({}, entries)


# --- dry runs, interruptions, failures ------------------------------------------------------------------------------


def test_a_dry_run_reports_the_same_and_writes_nothing(room: LoaderRoom) -> None:
    """Also where buckets would be made or split."""
    rows = [good(f"{number:04X}") for number in range(1, 9001)]
    for stage in (rows[:50], [*rows, "bad\n"], [revoked("0001"), "X\t\t\t0003\tunknown\t\n", revoked("0004", at="x")]):
        room.write(*stage)
        before = room.dump()
        dry = room.runner(dry_run=True)
        told = dry.run()
        assert room.dump() == before
        real = room.runner().run()
        assert told.done.changes == real.done.changes
        assert (told.rejected, told.done.vanished, told.listed) == (real.rejected, real.done.vanished, real.listed)
    assert room.statuses()["01"] == f"revoked {AT} {EXP}"


def test_as_of_is_written_after_all_rows(room: LoaderRoom) -> None:
    """TIM-01: a load that is stopped half-way has said nothing about freshness; the next one does the rest."""
    room.write(*(good(f"{number:04X}") for number in range(1, 3001)))
    asked = iter(range(1000))
    with pytest.raises(Stopped):
        room.runner(is_stopped=lambda: next(asked) >= 10).run()
    assert room.as_of() is None
    assert room.runner().run().settled
    assert len(room.statuses()) == 3000


def test_as_of_never_goes_back(room: LoaderRoom) -> None:
    """A clock that was stepped back, or an older copy put in place, makes nothing known as of earlier."""
    room.load(good("01"))
    before = room.as_of()
    assert isinstance(room.clock, ManualClock)
    room.clock.step(-3600)
    room.load(good("01"), good("02"))
    assert room.as_of() == before


def test_another_cas_index_changes_nothing(room: LoaderRoom) -> None:
    room.load(good("01"))
    before = room.dump()
    other = make_ca(room.directory / "other", label="other")
    (room.directory / "newcerts").mkdir()
    (room.directory / "newcerts" / "02.pem").write_bytes(other.certificate_path.read_bytes())
    room.write(good("02"))
    with pytest.raises(SourceUnavailable, match="belongs to another CA"):
        room.runner().run()
    assert room.dump() == before


def test_no_room_for_the_rows(room: LoaderRoom) -> None:
    (room.directory / "state").mkdir()
    (room.directory / "state" / "spool").write_text("not a directory")
    with pytest.raises(OperatorError, match="the rows of a load are put there"):
        room.runner().run()


def test_nothing_is_left_on_disk(room: LoaderRoom) -> None:
    room.load(good("01"))
    assert list((room.directory / "state" / "spool").iterdir()) == []


# --- a source with explicit releases alone ----------------------------------------------------------------------------


class ListedSnapshot:
    """A snapshot of given rows."""

    def __init__(self, clock: Clock, rows: Sequence[Row], released: Sequence[Row]) -> None:
        self.as_of, self.size, self.whole = clock.now(), 1, True
        self.fingerprint = repr((rows, released))
        self._batch = Batch(list(rows), list(released))

    def batches(self) -> Iterator[Batch]:
        yield self._batch

    def close(self) -> None:
        pass


class ListedLoader:
    """A source whose good rows say nothing about a hold."""

    Options: ClassVar[type[LoaderOptions]] = LoaderOptions
    name = "listed"
    lists_issued = True
    good_releases_hold = False
    follows_clock = True

    def __init__(self, clock: Clock, rows: Sequence[Row], released: Sequence[Row] = ()) -> None:
        self._clock, self._rows, self._released = clock, rows, released

    def peek(self) -> str:
        return repr((self._rows, self._released))

    def snapshot(self) -> ListedSnapshot:
        return ListedSnapshot(self._clock, self._rows, self._released)


def test_a_hold_ends_by_an_explicit_release_alone(room: LoaderRoom) -> None:
    """A good row does not end it where it is no statement of the moment; nor does a release beside a revocation."""
    held = [(bytes([number]), f"revoked {AT} certificateHold {EXP}") for number in (1, 2, 3)]
    free = [(serial, f"good {EXP}") for serial, _ in held]

    def passes(rows: Sequence[Row], released: Sequence[Row] = ()) -> list[dict[Refused, int]]:
        loader = ListedLoader(room.clock, rows, released)
        options = LoaderOptions(max_shrink=1.0)
        runner = Runner(room.store, room.issuer, loader, options, room.clock, room.directory / "spool")
        found = []
        for _ in range(2):
            found.append(runner.run().done.refused)
            room.pass_time(CONFIRM_AFTER_S)
        return found

    passes(held)
    refused = passes([*free[:1], *held[1:]], free[1:2] + free[2:])
    assert refused[-1] == {Refused.HOLD_NOT_RELEASED: 1}
    assert room.statuses() == {serial.hex(): text for serial, text in held}, "revoked rows stand beside the releases"
    passes(free[:1], free[1:2])
    assert room.statuses()["02"] == f"good {EXP}"
    assert room.statuses()["01"] == room.statuses()["03"] == held[0][1]


# --- the registry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('type = "oracle"', r"ca\[corp\]\.source\.type: no loader 'oracle' is installed; there are: .*openssl"),
        (
            'type = "openssl", path = "index.txt", pfad = 1',
            r"ca\[corp\]\.source\.pfad: unknown key; allowed are type, certificates, compare, copy, live, max_shrink, path, poll, reconcile",
        ),
        ('type = "openssl"', r"ca\[corp\]\.source\.path: must be there"),
        ('type = "openssl", path = 5', r"ca\[corp\]\.source\.path: .*path.* \(got 5\)"),
        ('type = "openssl", path = "x", max_shrink = 2', r"ca\[corp\]\.source\.max_shrink: .*less than or equal to 1"),
        ('type = "openssl", path = "x", live = true, copy = true', r"ca\[corp\]\.source: .*exclude each other"),
    ],
)
def test_a_wrong_source_is_one_line(room: LoaderRoom, source: str, text: str) -> None:
    """File, key, value, and what is allowed."""
    path = room.config_file
    path.write_text(path.read_text().replace('type = "openssl", path = "index.txt"', source))
    with pytest.raises(ConfigError, match=text) as caught:
        open_loader(room.issuers, room.issuer, str(path), room.clock)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_generations_that_share_a_file_are_found(room: LoaderRoom) -> None:
    """Through whatever path: rows are then told apart by their certificates."""
    make_ca(room.directory / "g2", label="ca-g2")
    (room.directory / "link.txt").symlink_to("index.txt")
    room.configure(
        more='[[ca]]\nname = "g2"\ncertificate = "g2/ca.pem"\nsource = { type = "openssl", path = "link.txt" }\n'
        'ocsp = { key = "g2/ca.key" }\n'
    )
    room.write(good("01"), revoked("02"))
    stores: dict[str, Issuer] = {issuer.name: issuer for issuer in room.issuers}
    for issuer in stores.values():
        loader, options = open_loader(room.issuers, issuer, str(room.config_file), room.clock)
        report = Runner(room.store, issuer, loader, options, room.clock, room.directory / "spool").run()
        assert report.rejected == 1, "nobody knows whose the good one is"
        assert room.statuses(issuer.id) == {"02": f"revoked {AT} {EXP}"}
