"""The presigner that cannot keep up says so while every answer still has long to live; one that keeps up says nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from responder import metrics
from responder.clock import SystemClock, parse_utc
from responder.errors import SignerUnavailable
from responder.http.message import Request, Response
from responder.roles.admin import AdminHandler
from responder.roles.health import Probe
from responder.signing.answers import spread_of
from responder.signing.capacity import Kinds, Need, Refresh
from responder.signing.census import Census
from responder.signing.presigner import Presigner
from responder.signing.watch import LEAST_WAIT_S, REPEAT_S, SUSTAINED_S
from tests.signing_room import GOOD, Room

RoomMaker = Callable[..., Room]
VALIDITY_S = 3600
COUNT = 300
BEHIND, AGAIN = "presigner_falls_behind", "presigner_keeps_up_again"


class Working:
    """A presigner at work with a key of a pace that the test sets, and what it says. Time passes as it signs."""

    def __init__(self, room: Room, count: int = COUNT, bits: int = 6) -> None:
        self.room = room
        self.each_s = 0.001
        self.said: list[tuple[float, str, dict[str, Any]]] = []
        room.load(dict.fromkeys(range(1, count + 1), GOOD), bits=bits)
        room.key.spoil = self._slowly
        self.presigner: Presigner = room.presigner()

    def _slowly(self, signature: bytes) -> bytes:
        self.room.clock.advance(self.each_s)
        return signature

    def work(self, for_s: float, until: str = "") -> None:
        """Go on for some time, or until it says something."""
        clock = self.room.clock
        end = clock.now() + for_s
        while clock.now() < end:
            self.room.set_as_of()
            with capture_logs() as logs:
                made = self.presigner.run_once()
            new = [(clock.now(), str(line["event"]), dict(line)) for line in logs if line["event"] in (BEHIND, AGAIN)]
            self.said += new
            if until in [event for _, event, _ in new]:
                return
            if not made:
                clock.advance(10)

    def events(self) -> list[str]:
        return [event for _, event, _ in self.said]

    def soonest_left(self) -> float:
        answers = self.room.all_stored(range(1, COUNT + 1)).values()
        assert len(answers) == COUNT
        return min(answer.next_update_utc.timestamp() for answer in answers if answer.next_update_utc) - (
            self.room.clock.now()
        )


@pytest.fixture
def working(make_room: RoomMaker) -> Working:
    return Working(make_room(validity=f"{VALIDITY_S}s"))


def value(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(f"revocast_{name}", labels)
    assert found is not None
    return found


def test_a_key_that_grows_slow_is_told_of_while_answers_are_young(working: Working) -> None:
    """300 certificates at an hour need 0.19 a second; at 6.3 s a signature 120 % of the time. Told with more than a third of it left."""
    working.work(1500)
    assert working.events() == []
    working.each_s = 6.3
    began = working.room.clock.now()
    working.work(VALIDITY_S, until=BEHIND)
    assert working.events() == [BEHIND]
    line = working.said[0][2]
    assert line["log_level"] == "error"
    assert line["utilisation"] == pytest.approx(1.2, abs=0.08)
    assert line["possible_per_s"] == pytest.approx(1 / 6.3, abs=0.01)
    assert line["needed_per_s"] == pytest.approx(0.19, abs=0.01)
    assert line["first_runs_out_at"] is None  # a whole signing takes half an hour of the hour
    assert working.room.clock.now() - began < 1500
    assert working.soonest_left() > VALIDITY_S / 3
    assert value("presigner_behind") == 1
    assert value("presign_utilisation") == pytest.approx(1.2, abs=0.08)
    assert value("signatures_needed_per_second", ca="corp") == pytest.approx(0.19, abs=0.01)
    assert value("presign_wait_seconds") > LEAST_WAIT_S
    # It goes on complaining, but not all the time.
    at = working.said[0][0]
    working.work(3 * REPEAT_S)
    repeats = [one for one, event, _ in working.said if event == BEHIND]
    assert len(repeats) in (2, 3, 4)
    # The times are of the rounds' ends, and a round is up to a minute long.
    assert all(later - earlier >= REPEAT_S - 60 for earlier, later in itertools.pairwise(repeats))
    assert repeats[0] == at
    # The key recovers: said once.
    working.each_s = 0.001
    working.work(900)
    assert working.events()[-1] == AGAIN
    assert working.events().count(AGAIN) == 1
    assert value("presigner_behind") == 0


def test_a_key_far_too_slow_is_told_of_with_the_time_of_the_first_to_run_out(working: Working) -> None:
    """At 15 s a signature a whole signing takes 75 minutes of an hour: the time is named, and it is in the future."""
    working.work(1200)
    working.each_s = 15.0
    working.work(VALIDITY_S, until=BEHIND)
    assert working.soonest_left() > VALIDITY_S / 3
    assert working.said[0][2]["margin_s"] < VALIDITY_S / 4
    working.work(REPEAT_S + 100, until=BEHIND)  # until the pace of before has no part in it any more
    line = working.said[-1][2]
    assert line["utilisation"] == pytest.approx(2.9, abs=0.2)
    assert line["margin_s"] < 0
    assert parse_utc(line["first_runs_out_at"]) > working.room.clock.now()
    assert working.soonest_left() > VALIDITY_S / 5


def test_a_key_that_keeps_up_is_not_told_of(working: Working) -> None:
    """3 s a signature are 60 % of the time: nothing is said in a validity and a half, first signing and all."""
    working.each_s = 3.0
    working.work(1.5 * VALIDITY_S)
    assert working.events() == []
    assert working.soonest_left() > VALIDITY_S / 3
    assert value("presign_utilisation") == pytest.approx(0.6, abs=0.05)
    assert value("presigner_behind") == 0


def test_a_first_signing_that_is_too_slow_is_told_of_within_minutes(working: Working) -> None:
    """Nothing is stored that could run out yet, and it is known all the same."""
    working.each_s = 7.0
    working.work(SUSTAINED_S + 300, until=BEHIND)
    assert working.events() == [BEHIND]


def test_a_source_that_stands_still_is_not_the_keys_fault(working: Working) -> None:
    """Answers run down because nothing newer is known: another alarm's business."""
    working.work(600)
    clock = working.room.clock
    with capture_logs() as logs:
        for _ in range(VALIDITY_S // 20):
            working.presigner.run_once()
            clock.advance(20)
    assert BEHIND not in [line["event"] for line in logs]


def test_a_slow_key_beside_fast_ones_is_told_of(working: Working) -> None:
    """What other CAs' keys make a second hides that this one's answers are not replaced; their age does not."""
    working.work(600)
    watch, room = working.presigner.watch, working.room
    with capture_logs() as logs:
        while BEHIND not in [line["event"] for line in logs]:
            room.clock.advance(5)
            room.set_as_of()
            watch.note(20_000, 4.0)  # another CA's
            soonest = room.store.soonest_next_updates([room.issuer.id])
            watch.look(soonest)
            assert soonest[room.issuer.id] - room.clock.now() > VALIDITY_S / 8
    assert working.soonest_left() < VALIDITY_S / 4
    (line,) = [line for line in logs if line["event"] == BEHIND]
    assert line["late"] == ["corp"]
    assert line["utilisation"] < 0.01
    # Replaced, and not behind any more.
    working.work(2 * SUSTAINED_S)
    assert working.events() == [AGAIN]


def test_a_key_that_fails_is_not_a_slow_one(working: Working) -> None:
    """What waits then is no matter of pace: signer_unavailable is said of it, and nothing else."""
    working.each_s = 7.0
    working.work(SUSTAINED_S / 2)
    assert value("presign_wait_seconds") > LEAST_WAIT_S

    def fail() -> None:
        raise SignerUnavailable("the token is gone")

    working.room.key.on_sign = fail
    working.work(2 * SUSTAINED_S)
    assert working.events() == []
    assert value("presign_utilisation") > 1


def test_signatures_that_come_rounds_later_are_no_faster(working: Working) -> None:
    """Four rounds of a quarter second for one signature are one a second; rounds that had nothing to do do not count."""
    watch = working.presigner.watch
    for _ in range(100):
        for made in (0, 0, 0, 1):
            watch.note(made, 0.25)
        watch.note(0, 0.001)
    working.room.clock.advance(10)
    watch.look({})
    assert watch.outlook is not None
    assert watch.outlook.possible == pytest.approx(1)


def test_what_is_needed_is_what_is_signed(make_room: RoomMaker) -> None:
    """The presigner itself, over five hours of one-hour answers, signs as often as the arithmetic says."""
    room = make_room(validity=f"{VALIDITY_S}s")
    working = Working(room, count=200, bits=4)
    working.work(60)
    before, began = room.key.count, room.clock.now()
    while room.clock.now() < began + 5 * 3600:
        room.set_as_of()
        if not working.presigner.run_once():
            due = min(room.store.due_at(room.issuer.id, bucket) or 0 for bucket in range(16))
            room.clock.advance(max(0.1, due - room.clock.now()))
    refresh = Refresh(working.presigner.desks[room.issuer.id].terms)
    sizes = room.store.bucket_sizes([(room.issuer.id, bucket) for bucket in range(16)])
    passed = room.clock.now() - began
    times = [passed / refresh.after_s(spread_of(room.issuer.id, bucket)) for bucket in range(16)]
    expected = sum(size * often for size, often in zip(sizes, times, strict=True))
    assert room.key.count - before == pytest.approx(expected, rel=0.04)
    assert Need(200, Kinds(1, 1), refresh).per_second * passed == pytest.approx(expected, rel=0.01)


def test_the_census(make_room: RoomMaker) -> None:
    """All is counted where there is little; of much, some partitions tell of the rest."""
    room = make_room()
    room.load(dict.fromkeys(range(1, 5001), GOOD), bits=6)
    census = Census(room.store)
    census.take()
    assert census.certificates(room.issuer.id) == 5000
    assert census.buckets(room.issuer.id) == 64
    assert census.certificates("ffffffffffffffff") == 0
    few = Census(room.store)
    for partition in range(2):
        few._counted[partition] = census._counted[partition]
    assert few.certificates(room.issuer.id) == pytest.approx(5000, rel=0.1)


def test_health_says_so_beside_answers_that_are_good() -> None:
    """/health stays 200: clients get their answers as yet."""

    class Well:
        async def probe(self) -> list[Probe]:
            return [Probe("corp", None)]

    async def ask() -> Response:
        replied: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        handler = AdminHandler(Well(), SystemClock())  # type: ignore[arg-type]
        handler.handle(Request(b"GET", b"/health"), replied.set_result)
        return await asyncio.wait_for(replied, 5)

    for behind, shown in ((1, "falls behind"), (0, None)):
        metrics.PRESIGNER_BEHIND.set(behind)
        response = asyncio.run(ask())
        assert response.status == 200
        assert json.loads(response.body).get("presigner") == shown
