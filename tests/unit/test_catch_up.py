"""A source that tells what changed: cursors, the overlap, whole passes beside it, and what a lost store does to all that."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loaders import database, rejects
from loaders.base import Batch, CursorLost, LoaderOptions, RowRejected, Rows
from loaders.database import Database
from loaders.follow import AS_OF_EVERY_S, CAFollower
from loaders.runner import Runner
from responder.clock import Clock
from responder.errors import SourceUnavailable, StoreUnavailable
from responder.revocation import Refused
from responder.store.redis_store import Store
from tests.loader_room import AT, EXP, NOW, LoaderRoom
from tests.redis_fixture import RedisServer

GOOD = f"good {EXP}"
REVOKED = f"revoked {AT} keyCompromise {EXP}"
HOLD = f"revoked {AT} certificateHold {EXP}"
ROWS_A_BATCH = 2


class Ledger:
    """A database in memory: serial → (text, number of its last change). Rows of None cannot be understood."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[str | None, int]] = {}
        self.number = 0
        self.version = "v1"
        self.reads: list[str] = []
        self.is_down = False
        self.second: list[tuple[bytes, tuple[str | None, int]]] = []  # rows of another table, which are always news
        self.between: list[Callable[[], None]] = []  # run one by one between the batches of a snapshot

    def put(self, *rows: tuple[int, str | None]) -> None:
        for serial, text in rows:
            self.number += 1
            self.rows[bytes([serial])] = (text, self.number)


class LedgerLoader:
    """Reads it as a database with a column for the last change is read, with an overlap of one change."""

    Options: ClassVar[type[LoaderOptions]] = LoaderOptions
    name = "ledger"
    lists_issued = True
    good_releases_hold = True
    follows_clock = True

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock

    def peek(self) -> str:
        raise AssertionError("a source that tells its changes is not peeked at")

    def snapshot(self) -> Rows:
        self._ledger.reads.append("snapshot")
        return self._rows(dict(self._ledger.rows), self._ledger.number, pauses=True)

    def changes(self, cursor: str) -> Rows:
        version, _, number = cursor.partition(":")
        if version != self._ledger.version:
            raise CursorLost
        self._ledger.reads.append("changes")
        changed = {serial: row for serial, row in self._ledger.rows.items() if row[1] >= int(number)}
        return self._rows(changed, self._ledger.number)

    def _rows(self, rows: dict[bytes, tuple[str | None, int]], number: int, *, pauses: bool = False) -> Rows:
        if self._ledger.is_down:
            raise SourceUnavailable("ledger: is down")
        cursor = f"{self._ledger.version}:{number}"
        return Rows(self._batches(rows, pauses), self._clock.now(), cursor=lambda: cursor)

    def _batches(self, rows: dict[bytes, tuple[str | None, int]], pauses: bool) -> Iterator[Batch]:
        items = sorted(rows.items()) + self._ledger.second
        for at in range(0, len(items), ROWS_A_BATCH):
            if at and pauses and self._ledger.between:
                self._ledger.between.pop(0)()
            some = items[at : at + ROWS_A_BATCH]
            yield Batch(
                [(serial, text) for serial, (text, _) in some if text is not None],
                rejected=[
                    RowRejected("ledger", serial.hex(), "no text", serial) for serial, row in some if row[0] is None
                ],
            )


class LedgerRoom(LoaderRoom):
    """A room whose CA is followed step by step from a ledger."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        super().__init__(directory, server)
        self.ledger = Ledger()
        self.follower = self.follow()

    def loader(self) -> LedgerLoader:
        return LedgerLoader(self.ledger, self.clock)

    def follow(self, options: LoaderOptions | None = None) -> CAFollower:
        follower = CAFollower(self.issuer, self.config, str(self.config_file), self.issuers, self.clock)
        follower._loader, follower._options = self.loader(), options or LoaderOptions()
        follower._is_incremental, follower._poll_s = True, 1.0
        return follower

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.pass_time(self.follower.step())

    def reads(self) -> list[str]:
        """Return what was read since the last call."""
        reads, self.ledger.reads = self.ledger.reads, []
        return reads

    def cursor(self) -> str | None:
        info = self.store.ca_info(self.issuer.id)
        return info.cursor if info is not None else None


@pytest.fixture
def room(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> Iterator[LedgerRoom]:
    room = LedgerRoom(tmp_path, redis_server())
    yield room
    room.follower.close()


def test_one_pass_and_then_changes_alone(room: LedgerRoom) -> None:
    """A revocation, a hold and its release, a new certificate: each is in after one reading of what changed."""
    room.ledger.put((1, GOOD), (2, GOOD), (3, GOOD))
    room.step()
    assert room.reads() == ["snapshot"]
    for change, wanted in (
        ((2, REVOKED), {"01": GOOD, "02": REVOKED, "03": GOOD}),
        ((3, HOLD), {"01": GOOD, "02": REVOKED, "03": HOLD}),
        ((3, GOOD), {"01": GOOD, "02": REVOKED, "03": GOOD}),
        ((4, GOOD), {"01": GOOD, "02": REVOKED, "03": GOOD, "04": GOOD}),
    ):
        room.ledger.put(change)
        room.step()
        assert room.statuses() == wanted
        assert room.reads() == ["changes"]
    assert (room.cursor() or "").endswith(" v1:7")


def test_two_tables_that_speak_of_one_certificate(room: LedgerRoom) -> None:
    """Good in the first and on hold in the second: never good, not even until the second is read."""
    room.ledger.put(*((number, GOOD) for number in (1, 2, 3)))
    room.ledger.second = [(b"\1", (HOLD, 0))]
    room.step()
    for number in range(4, 7):
        room.ledger.put((1, GOOD), (number, GOOD))
        room.step()
        assert room.statuses()["01"] == HOLD
    assert room.reads()[-3:] == ["changes"] * 3
    assert "released" not in room.journal_kinds()
    assert sorted(room.statuses()) == ["01", "02", "03", "04", "05", "06"]


def test_as_of_follows_the_readings_and_the_overlap_costs_nothing(room: LedgerRoom) -> None:
    """as_of is the moment before the last reading; a row that comes again is neither written nor refused again."""
    room.ledger.put((1, REVOKED))
    room.step()
    room.ledger.put((1, GOOD))
    room.step()
    refused = room.follower._runner._catch_up  # type: ignore[union-attr]
    assert refused._seen == {b"\1": GOOD}
    assert room.statuses() == {"01": REVOKED}, "a revocation for good is not undone"
    journal = room.journal_kinds()
    for _ in range(3):
        room.pass_time(AS_OF_EVERY_S)
        began = room.clock.now()
        room.step()
        assert room.as_of() == int(began)
    assert room.journal_kinds() == journal
    assert room.follower._runner.changes().done.refused == {}  # type: ignore[union-attr]


def test_a_restart_goes_on_from_the_saved_cursor_and_compares_all(room: LedgerRoom) -> None:
    """What was revoked while nobody followed is in before the pass; as_of moves only after it."""
    room.ledger.put((1, GOOD), (2, GOOD), (3, GOOD))
    room.step()
    as_of = room.as_of()
    room.ledger.put((2, REVOKED))
    room.pass_time(1000)
    room.reads()
    room.follower.close()
    room.follower = room.follow()
    seen: list[tuple[str, int | None]] = []
    room.ledger.between.append(lambda: seen.append((room.statuses()["02"], room.as_of())))
    room.step()
    assert seen == [(REVOKED, as_of)]
    assert room.reads() == ["changes", "snapshot"]
    assert (room.as_of() or 0) > (as_of or 0)


def test_changes_go_on_during_a_pass_and_win_over_it(room: LedgerRoom) -> None:
    """What a pass read before a change neither undoes it nor makes an alarm of it, nor takes its serial away."""
    room.ledger.put((1, GOOD), (2, GOOD), (3, GOOD), (4, GOOD), (5, HOLD))
    room.step()
    room.pass_time(3601)
    during: list[dict[str, str]] = []

    def revoke() -> None:
        room.ledger.put((1, REVOKED), (2, HOLD), (9, GOOD), (5, GOOD))
        room.pass_time(1.0)

    room.ledger.between += [revoke, lambda: during.append(room.statuses())]
    room.step()
    wanted = {"01": REVOKED, "02": HOLD, "03": GOOD, "04": GOOD, "05": GOOD, "09": GOOD}
    assert during == [wanted], "the changes were in before the pass had been read"
    assert room.statuses() == wanted
    assert room.follower._report is not None
    assert room.follower._report.done.refused == {}
    assert room.reads()[-3:] == ["changes", "snapshot", "changes"]


def test_what_vanishes_goes_with_the_second_pass_that_lacks_it(room: LedgerRoom) -> None:
    """Also where other rows change all the time; a serial that is back stays, a revoked one too."""
    room.ledger.put(*((serial, GOOD) for serial in range(1, 7)), (7, REVOKED))
    room.step()
    for serial in (1, 2, 7):
        del room.ledger.rows[bytes([serial])]
    room.ledger.put((8, GOOD))
    room.pass_time(3601)
    room.step()
    assert {"01", "02"} <= set(room.statuses())
    assert room.follower._report is not None
    assert room.follower._report.settled, "good rows that are missing do not hold up the rest"
    room.ledger.put((1, GOOD), (9, GOOD))
    room.pass_time(3601)
    room.step()
    assert sorted(room.statuses()) == ["01", "03", "04", "05", "06", "07", "08", "09"]


def test_a_source_that_is_down_stops_as_of_and_needs_no_pass_afterwards(room: LedgerRoom) -> None:
    room.ledger.put((1, GOOD))
    room.step()
    as_of = room.as_of()
    room.ledger.is_down = True
    room.pass_time(10)
    room.step()
    assert room.as_of() == as_of
    room.ledger.is_down = False
    room.ledger.put((1, REVOKED))
    room.reads()
    room.step()
    assert room.statuses() == {"01": REVOKED}
    assert room.reads() == ["changes"]


def test_a_cursor_that_means_nothing_any_more_is_a_whole_pass(room: LedgerRoom) -> None:
    """Of another version, and of another source: that of an older configuration."""
    room.ledger.put((1, GOOD))
    room.step()
    room.ledger.version = "v2"
    room.ledger.put((1, REVOKED))
    room.step(2)
    assert room.statuses() == {"01": REVOKED}
    assert (room.cursor() or "").endswith(" v2:2")
    room.store.set_as_of(room.issuer.id, NOW, cursor="01234567 v2:99")
    room.reads()
    room.follower.close()
    room.follower = room.follow()
    room.step()
    assert room.reads() == ["snapshot"]


def test_an_emptied_store_is_filled_again(room: LedgerRoom) -> None:
    room.ledger.put((1, GOOD), (2, REVOKED))
    room.step()
    room.redis.flushall()
    room.step()
    assert room.statuses() == {"01": GOOD, "02": REVOKED}
    assert room.as_of() is not None


def test_a_store_that_fails_in_mid_change_gets_it_again(room: LedgerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """as_of and cursor stay until a whole pass is through, since what was committed is not known."""
    room.ledger.put((1, GOOD), (2, GOOD), (3, GOOD))
    room.step()
    before = (room.as_of(), room.cursor())
    real = Store.commit_many

    def lost(self: Store, commits: Sequence[object]) -> Iterator[object]:
        raise StoreUnavailable("cut off")

    monkeypatch.setattr(Store, "commit_many", lost)
    room.ledger.put((2, REVOKED))
    room.step()
    assert (room.as_of(), room.cursor()) == before
    monkeypatch.setattr(Store, "commit_many", real)
    room.reads()
    room.step()
    assert room.statuses()["02"] == REVOKED
    assert room.reads() == ["changes", "snapshot"]


def test_a_shrunken_source_still_revokes(room: LedgerRoom) -> None:
    """Nothing is taken away, as_of stays; but what changes is believed, since a revocation is never wrong to take."""
    room.ledger.put(*((serial, GOOD) for serial in range(1, 9)))
    room.step()
    as_of = room.as_of()
    for serial in range(3, 9):
        del room.ledger.rows[bytes([serial])]
    room.pass_time(3601)
    room.step()
    held = room.as_of()
    room.ledger.put((1, REVOKED))
    room.step()
    assert room.statuses()["01"] == REVOKED
    assert len(room.statuses()) == 8
    assert as_of is not None
    assert held is not None
    assert room.as_of() == held, "it was not believed as a whole: answers run out"


def test_refused_and_expired_rows(room: LedgerRoom) -> None:
    """A change that is not allowed is told once; one that expired long ago is not brought in again."""
    room.ledger.put((1, REVOKED))
    room.step()
    room.ledger.put((1, HOLD), (2, "good exp=2001-01-01T00:00:00Z"))
    runner = room.follower._runner
    assert runner is not None
    report = runner.changes()
    assert report.done.refused == {Refused.PERMANENT: 1}
    assert report.done.expired == 1
    assert runner.changes().done.refused == {}
    assert room.statuses() == {"01": REVOKED}


def test_rejected_rows_stand_in_a_file(room: LedgerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source, row, reason and serial; changes add to it, each once, and each whole pass replaces it. It is bounded."""
    file = room.directory / "state" / "rejected" / "corp.jsonl"

    def rows() -> list[str]:
        return [json.loads(line)["row"] for line in file.read_text().splitlines()]

    room.ledger.put((1, GOOD), (2, None))
    room.step()
    assert json.loads(file.read_text()) == {"source": "ledger", "row": "02", "reason": "no text", "serial": "02"}
    room.ledger.put((3, None))
    room.step(3)
    assert rows() == ["02", "03"]
    room.ledger.put((2, GOOD), (3, GOOD))
    room.pass_time(3601)
    room.step()
    assert rows() == []
    monkeypatch.setattr(rejects, "MAX_LINES", 3)
    room.ledger.put(*((serial, None) for serial in range(10, 20)))
    room.pass_time(3601)
    room.step()
    assert len(rows()) == 3
    assert list(file.parent.iterdir()) == [file]


def test_a_load_by_hand_saves_the_cursor_too(room: LedgerRoom) -> None:
    runner = Runner(
        room.store, room.issuer, room.loader(), LoaderOptions(), room.clock, room.directory / "state" / "spool"
    )
    room.ledger.put((1, GOOD))
    assert runner.run().settled
    assert (room.cursor() or "").endswith(" v1:1")


def test_a_writer_that_waits_for_a_pass_does_not_end_it(
    room: LedgerRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SQLite file without a write-ahead log: nobody else can begin to read then, but the pass goes on, and is tried beside once."""
    mapping = 'serial = "serial", serial_base = "hex", revoked_at = "revoked", time = "s"'
    query = 'query = "SELECT serial, revoked, at FROM certs", key = "serial", updated = "at", updated_time = "s"'
    source = f'type = "sql", url = "sqlite:///{tmp_path}/ca.db?timeout=0", {query}, {mapping}'
    text = room.config_file.read_text().replace('type = "openssl", path = "index.txt"', source)
    room.config_file.write_text(text)
    monkeypatch.setattr(database, "PAGE_ROWS", 1)
    pages, looks = Database.pages, 0

    def written(*call: Any) -> Iterator[Sequence[Any]]:
        for page in pages(*call):
            if writer.in_transaction:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    writer.commit()
            room.pass_time(1)
            yield page

    def counted(*call: Any) -> Any:
        nonlocal looks
        looks += 1
        return changes(*call)

    with closing(sqlite3.connect(tmp_path / "ca.db", timeout=0)) as writer:
        writer.execute("CREATE TABLE certs (serial TEXT PRIMARY KEY, revoked INTEGER, at INTEGER)")
        writer.executemany("INSERT INTO certs VALUES (?, NULL, ?)", [(f"0{at}", int(NOW)) for at in range(1, 5)])
        writer.commit()
        follower = CAFollower(room.issuer, room.config, str(room.config_file), room.issuers, room.clock)
        try:
            follower.step()
            monkeypatch.setattr(Database, "pages", written)
            changes = Runner.changes
            monkeypatch.setattr(Runner, "changes", counted)
            writer.execute("UPDATE certs SET revoked = ?, at = ? WHERE serial = '03'", (int(NOW), int(NOW) + 1))
            follower._redo()
            before = follower._report
            follower.step()
            assert follower._report is not before
            assert room.statuses()["03"] == "good"
            assert looks == 2, "before the pass, and once beside it"
            writer.commit()
            room.pass_time(follower._poll_s)
            follower.step()
            assert room.statuses()["03"].startswith("revoked")
        finally:
            follower.close()
