"""Following a source: what is seen, how soon, and what happens when source or store are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from loaders import follow, reconcile
from loaders.follow import AS_OF_EVERY_S, POLL_S, CAFollower, follow_all
from responder import revocation
from responder.clock import Clock, SystemClock
from responder.config import HOUR_S
from responder.errors import ConfigError, StoreUnavailable
from responder.log import configure_logging
from responder.metrics import (
    SOURCE_COMPARED_AT,
    SOURCE_DIFFERENCES,
    SOURCE_ERRORS,
    SOURCE_HELD_BACK,
    SOURCE_REJECTED,
)
from responder.model import CRLReason
from responder.process import Stop
from responder.store.redis_store import Store
from tests.loader_room import AT, EXP, NOW, LoaderRoom, good, revoked
from tests.pki import make_ca
from tests.redis_fixture import RedisServer

WITHIN_S = 20.0  # a bound for a slow machine, not a figure


def eventually(is_so: Callable[[], bool], what: str) -> float:
    """Poll until something is so; returns how long it took."""
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < WITHIN_S, what
        time.sleep(0.01)
    return time.monotonic() - start


class FollowedRoom(LoaderRoom):
    """A room whose CA is followed step by step, on a clock of its own."""

    def __init__(self, directory: Path, server: RedisServer, clock: Clock | None = None) -> None:
        super().__init__(directory, server, clock)
        self._followers: list[CAFollower] = []
        self.follower = self.follow()

    def follow(self) -> CAFollower:
        """Return a fresh follower, as after a restart."""
        follower = CAFollower(self.issuer, self.config, str(self.config_file), self.issuers, self.clock)
        self._followers.append(follower)
        return follower

    def step(self, times: int = 1) -> float:
        """Let the follower work, and time pass as it says."""
        wait = 0.0
        for _ in range(times):
            wait = self.follower.step()
            self.pass_time(wait)
        return wait

    def close(self) -> None:
        for follower in self._followers:
            follower.close()


@pytest.fixture
def room(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> Iterator[FollowedRoom]:
    room = FollowedRoom(tmp_path, redis_server())
    yield room
    room.close()


@pytest.fixture
def each_room(tmp_path: Path, each_redis: RedisServer) -> Iterator[FollowedRoom]:
    room = FollowedRoom(tmp_path, each_redis)
    yield room
    room.close()


def metric(gauge: object) -> float:
    return gauge.labels("corp")._value.get()  # type: ignore[attr-defined]


# --- the source ----------------------------------------------------------------------------------------------------


def test_changes_are_brought_in_as_they_come(each_room: FollowedRoom) -> None:
    """At once for what is added, at the second look for what is taken away."""
    room = each_room
    room.write(good("01"), good("02"))
    room.step()
    assert sorted(room.statuses()) == ["01", "02"]
    room.write(good("01"), revoked("02"), good("03"))
    room.step()
    assert room.statuses()["02"] == f"revoked {AT} {EXP}"
    room.write(good("01"), revoked("02"))
    room.step()
    assert "03" in room.statuses()
    room.step()
    assert "03" not in room.statuses()


@pytest.mark.clause("RFC 6960", "2.4", "MUST")
def test_as_of_moves_while_the_source_stays_as_it_is(room: FollowedRoom) -> None:
    """TIM-01: an unchanged file is known as of each look at it; it is written at most every two seconds."""
    room.write(good("01"))
    room.step()
    seen = {room.as_of()}
    for _ in range(12):
        room.step()
        assert (room.as_of() or 0) <= room.clock.now()
        seen.add(room.as_of())
    assert room.clock.now() - (room.as_of() or 0) <= AS_OF_EVERY_S + POLL_S + 1
    assert len(seen) <= 1 + 12 * POLL_S / AS_OF_EVERY_S + 1


def test_a_copy_is_known_as_of_its_own_time_alone(room: FollowedRoom) -> None:
    room.configure(source=", copy = true")
    room.follower = room.follow()
    room.write(good("01"))
    room.step(20)
    assert room.as_of() == int(NOW - 1000)


def test_a_source_out_of_reach_stops_as_of(room: FollowedRoom) -> None:
    """Promise 2: what is not read is not said to be known; when it is back, it goes on."""
    room.write(good("01"))
    room.step()
    known, errors = room.as_of(), metric(SOURCE_ERRORS)
    room.index.unlink()
    room.step(20)
    assert room.as_of() == known
    assert metric(SOURCE_ERRORS) == errors + 20
    assert room.statuses() == {"01": f"good {EXP}"}
    room.write(good("01"), revoked("02"))
    room.step()
    assert room.statuses()["02"] == f"revoked {AT} {EXP}"
    assert (room.as_of() or 0) > (known or 0)


def test_too_old_a_source_is_an_alarm(
    room: FollowedRoom, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(structlog.reset_defaults)
    request.addfinalizer(structlog.contextvars.clear_contextvars)
    configure_logging("follow")
    room.write(good("01"))
    room.step()
    room.index.unlink()
    room.pass_time(3700)
    room.step(3)
    logged = capsys.readouterr().err
    assert logged.count("source_too_old") == 1
    assert logged.count("source_unavailable") == 3


def test_a_half_written_file_is_read_again(room: FollowedRoom) -> None:
    room.write(good("01"), good("02"))
    room.step()
    known = room.as_of()
    room.index.write_text(good("01") + good("02")[:30])
    room.step()
    assert room.as_of() == known
    room.write(good("01"), good("02"), good("03"))
    room.step()
    assert sorted(room.statuses()) == ["01", "02", "03"]
    assert room.as_of() != known


def test_two_writes_within_one_tick_of_the_clock(room: FollowedRoom) -> None:
    """Same mtime, size and inode: while the mtime is recent it says nothing, so what was read is read once more."""
    room.index.write_text(good("01"))
    os.utime(room.index, (NOW, NOW))
    room.step()
    with room.index.open("r+") as file:
        file.write(good("02"))
    os.utime(room.index, (NOW, NOW))
    room.step(10)
    assert "02" in room.statuses()


def test_a_touch_changes_nothing(room: FollowedRoom) -> None:
    room.write(good("01"))
    room.step(2)
    entries = len(room.journal_kinds())
    os.utime(room.index, (NOW - 500, NOW - 500))
    room.step(6)
    assert len(room.journal_kinds()) == entries
    assert (room.as_of() or 0) > NOW


def test_bad_rows_and_a_shrunken_source_show_in_the_metrics(room: FollowedRoom) -> None:
    rows = [good(f"{number:02X}") for number in range(1, 11)]
    room.write(*rows, "X\t\t\t0B\tunknown\t\n")
    room.step(8)
    assert (metric(SOURCE_REJECTED), metric(SOURCE_HELD_BACK)) == (1, 0)
    known = room.as_of()
    room.write(*rows[:2])
    room.step(8)
    assert (metric(SOURCE_REJECTED), metric(SOURCE_HELD_BACK)) == (0, 1)
    assert room.as_of() == known
    assert len(room.statuses()) == 10
    room.write(*rows)
    room.step(2)
    assert metric(SOURCE_HELD_BACK) == 0


def test_what_expires_goes_though_the_source_stays(room: FollowedRoom) -> None:
    """A whole pass now and then: nothing else would take an expired row out."""
    room.configure(ca='retention = "1h"')
    room.follower = room.follow()
    room.write(good("01", "261118120000Z"), good("02"))
    room.step(2)
    assert sorted(room.statuses()) == ["01", "02"]
    room.pass_time(2 * HOUR_S)
    room.step()
    assert sorted(room.statuses()) == ["02"]


def test_what_the_operator_revokes_stays(room: FollowedRoom) -> None:
    room.write(good("01"))
    room.step()
    revocation.revoke(room.store, room.issuer.id, b"\x01", CRLReason.SUPERSEDED, int(NOW), now=NOW)
    room.pass_time(HOUR_S + 1)
    room.step()
    room.write(good("01"), good("02"))
    room.step(2)
    assert room.statuses()["01"].endswith("by=operator")


# --- the store -----------------------------------------------------------------------------------------------------


def test_an_emptied_store_is_filled_again(room: FollowedRoom) -> None:
    """Flushed, so that the run id is the same: the journal's numbers went back."""
    room.write(good("01"), revoked("02"))
    room.step(2)
    expected = room.statuses()
    room.redis.flushall()
    room.step()
    assert room.statuses() == expected
    assert room.as_of() is not None


def test_an_empty_ca_is_known_again_too(room: FollowedRoom) -> None:
    """No journal entry tells of its loss; its own record is missed."""
    room.step(2)
    room.redis.flushall()
    room.step()
    assert room.as_of() is not None


def test_a_store_that_lost_its_last_writes_gets_them_again(room: FollowedRoom) -> None:
    """As after a failover: the journal ends sooner than it did, and the revocation comes back."""
    room.write(good("01"), good("02"))
    room.step(2)
    raw = room.server.client()
    before = {key: raw.dump(key) for key in raw.keys("*")}
    room.write(good("01"), revoked("02"))
    room.step()
    assert room.statuses()["02"].startswith("revoked")
    raw.flushall()
    for key, value in before.items():
        raw.restore(key, 0, value)
    assert room.statuses()["02"].startswith("good")
    room.step()
    assert room.statuses()["02"].startswith("revoked")


def test_journal_numbers_gone_back_are_enough(room: FollowedRoom) -> None:
    """Though nothing else shows that writes were lost, not even as_of."""
    room.write(good("01"), good("02"))
    room.step(2)
    raw = room.server.client()
    before = {key: raw.dump(key) for key in raw.keys("*{*")}
    room.write(good("01"), revoked("02"))
    room.step()
    for key, value in before.items():
        raw.restore(key, 0, value, replace=True)
    room.step()
    assert room.statuses()["02"].startswith("revoked")


def test_another_run_of_the_store_is_enough(room: FollowedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover behind the same address, without an error on the way: what it lacks comes back."""
    room.write(good("01"), revoked("02"))
    room.step(2)
    bucket = partition_of(room, "02")
    room.redis.hdel(f"rc:{{{bucket:x}}}:status:{room.issuer.id}:{bucket:x}", "02")
    room.step(2)
    assert "02" not in room.statuses(), "nothing has told of the loss yet"
    monkeypatch.setattr(Store, "run_id", lambda _store: "another")
    room.step()
    assert room.statuses()["02"].startswith("revoked")


def test_a_restarted_store_is_compared(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    """Another run id: whatever it lost comes back, and in between the follower waits with patience."""
    server = redis_server("7", appendonly="yes", appendfsync="always")
    room = FollowedRoom(tmp_path, server)
    try:
        room.write(good("01"), revoked("02"))
        room.step(2)
        server.kill()
        waits = [room.step() for _ in range(6)]
        assert waits == sorted(waits)
        assert waits[0] < waits[-1] <= 5.0
        room.write(good("01"), revoked("02"), revoked("03"))
        server.start()
        room.redis.hdel(
            f"rc:{{{partition_of(room, '02'):x}}}:status:{room.issuer.id}:{partition_of(room, '02'):x}", "02"
        )
        room.step()
        assert {serial: text.split()[0] for serial, text in room.statuses().items()} == {
            "01": "good",
            "02": "revoked",
            "03": "revoked",
        }
    finally:
        room.close()


def partition_of(room: LoaderRoom, serial: str) -> int:
    return room.store.locate(room.issuer.id, [bytes.fromhex(serial)])[0].bucket


def test_a_store_that_fails_in_mid_pass(room: FollowedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of it was committed is not known: the next pass compares everything again, and nothing is lost."""
    rows = [revoked(f"{number:04X}") for number in range(0x0100, 0x1000)]
    room.write(*rows)
    real = Store.create_many
    calls = iter([True])

    def failing(store: Store, buckets: object) -> object:
        found = real(store, buckets)  # type: ignore[arg-type]
        for made in found:
            yield made
            if next(calls, False):
                raise StoreUnavailable("the connection was cut")

    monkeypatch.setattr(Store, "create_many", failing)
    room.step()
    assert room.as_of() is None
    room.step()
    assert len(room.statuses()) == len(rows)
    assert room.as_of() is not None


def test_a_disk_that_is_full_is_tried_again(room: FollowedRoom) -> None:
    room.write(good("01"))
    (room.directory / "state").mkdir()
    (room.directory / "state" / "spool").write_text("")
    room.step(2)
    assert room.statuses() == {}
    (room.directory / "state" / "spool").unlink()
    room.step()
    assert room.statuses() == {"01": f"good {EXP}"}


# --- the role ------------------------------------------------------------------------------------------------------


def test_two_cas_follow_side_by_side(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    """Real threads and a real clock: a change is in within a second; a source out of reach holds up no other."""
    room = LoaderRoom(tmp_path, redis_server(), SystemClock())
    other = room.directory / "other"
    make_ca(other, label="other")
    room.configure(
        more='[[ca]]\nname = "absent"\ncertificate = "other/ca.pem"\nsource = { type = "openssl", path = "none.txt" }\n'
        'ocsp = { key = "other/ca.key" }\n'
    )
    room.write(good("01"))
    stop, ready = Stop(), threading.Event()
    thread = threading.Thread(
        target=follow_all, args=(room.config, room.config_file, room.clock, stop, ready.set), daemon=True
    )
    thread.start()
    try:
        assert ready.wait(WITHIN_S)
        eventually(lambda: "01" in room.statuses(), "first load")
        took = []
        for number in range(2, 7):
            room.write(*(good(f"{one:02X}") for one in range(1, number)), revoked(f"{number:02X}"))
            took.append(eventually(lambda serial=f"{number:02x}": serial in room.statuses(), "a change"))  # type: ignore[misc]
        assert sorted(took)[2] < 1.0, took
    finally:
        stop.set()
        thread.join(WITHIN_S)
    assert not thread.is_alive()


def test_a_wrong_source_is_refused_before_anything_is_followed(room: FollowedRoom) -> None:
    room.configure(source=", kopie = true")
    with pytest.raises(ConfigError, match="kopie: unknown key"):
        follow_all(room.config, room.config_file, room.clock, Stop(), lambda: None)


def test_sigterm_ends_it_in_mid_load(tmp_path: Path, redis_server: Callable[..., RedisServer]) -> None:
    """Between batches and buckets: the process ends by itself, long before the load would; as_of was never written."""
    room = LoaderRoom(tmp_path, redis_server(), SystemClock())
    rows = "".join(good(f"{number:08X}") for number in range(0x10000000, 0x10000000 + 50_000))
    with room.index.open("w") as file:
        for part in range(16):  # 800 000 rows: half a dozen seconds
            file.write(rows.replace("\t1", f"\tA{part:X}1"))
    process = subprocess.Popen(
        [sys.executable, "-m", "responder", "role", "follow", "-c", str(room.config_file)],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        eventually(lambda: (room.directory / "state" / "spool").is_dir() and is_reading(process.pid), "the load")
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, logged.decode()
    assert b"load_interrupted" in logged
    assert time.monotonic() - start < 5
    assert room.as_of() is None


def is_reading(pid: int) -> bool:
    """Whether a process has put rows on disk: its spool is a file that has no name."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "/spool/" in str(link.readlink()) and link.stat().st_size > 0:
                return True
        except OSError:
            continue
    return False


# --- the scheduled comparison ------------------------------------------------------------------------------------------


class Turns:
    """A Stop that lets time pass on the room's clock, does what a test wants before each comparison, and then stops."""

    def __init__(self, room: LoaderRoom, *before: Callable[[], None]) -> None:
        self._room = room
        self._before = list(before)
        self.waited: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self._room.pass_time(seconds)
        if not self._before:
            return True
        self._before.pop(0)()
        return False


def test_comparing_on_a_schedule(
    tmp_path: Path, redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ``compare`` the differences are counted anew, and told; a comparison that fails leaves the last result and its time."""
    monkeypatch.setattr(reconcile, "LOOK_AGAIN_AFTER_S", 0)
    monkeypatch.setattr(follow, "COMPARED_ANSWERS", 0)
    room = LoaderRoom(tmp_path, redis_server())
    room.configure(', compare = "6h"')
    room.load(good("01"), revoked("02"))
    place = room.store.locate(room.issuer.id, [b"\2"])[0]
    key = room.store.layout.status(room.issuer.id, place.bucket)
    away = tmp_path / "away.txt"
    told: list[tuple[float, float]] = []

    def note() -> None:
        told.append((metric(SOURCE_DIFFERENCES), metric(SOURCE_COMPARED_AT) - NOW))

    def alter() -> None:
        room.redis.hset(key, "02", f"good {EXP}")

    def lose() -> None:
        note()
        room.index.rename(away)

    def restore() -> None:
        note()
        away.rename(room.index)
        room.redis.hset(key, "02", f"revoked {AT} {EXP}")

    began = room.clock.now() - NOW
    turns = Turns(room, alter, lose, restore)
    with structlog.testing.capture_logs() as logs:
        follow._compare(room.config, room.config_file, room.issuers, room.issuer, room.clock, turns)  # type: ignore[arg-type]
    note()
    six = 6 * HOUR_S
    assert turns.waited == [six] * 4
    assert told == [(1.0, began + six), (1.0, began + six), (0.0, began + 3 * six)]
    compared = [entry for entry in logs if entry["event"] != "index_owner_unchecked"]
    events = ["source_differs", "source_compared", "compare_failed", "source_compared"]
    assert [entry["event"] for entry in compared] == events
    assert "serial 02: Redis: the source says 'revoked" in compared[0]["difference"]


def test_only_where_the_configuration_asks_for_it(
    tmp_path: Path, redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of its own for each CA that has ``compare``, beside the follower's."""
    room = LoaderRoom(tmp_path, redis_server(), SystemClock())
    compared: list[str] = []
    monkeypatch.setattr(follow, "_compare", lambda *arguments: compared.append(arguments[3].name))
    for source, names in (("", []), (', compare = "1h"', ["corp"])):
        room.configure(source)
        stop = Stop()
        follow_all(room.config, room.config_file, room.clock, stop, stop.set)
        assert compared == names
