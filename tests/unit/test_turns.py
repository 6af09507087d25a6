"""Ready answers go first: what the rest may take of a worker's time while they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from responder.http import turns
from responder.http.turns import MOST_OWED_S, READY_S, SLICE_S, Turns
from responder.log import configure_logging


class Loop:
    """A loop, its clock and its ready answers, all in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ready = 0
        self.callbacks: deque[Callable[[], None]] = deque()
        monkeypatch.setattr(turns.time, "thread_time", lambda: self.now)
        monkeypatch.setattr(turns.time, "perf_counter", lambda: self.now)
        self.turns = Turns(self.callbacks.append, lambda: self.ready)
        self.done: list[int] = []

    def work(self, number: int, seconds: float) -> None:
        def work() -> None:
            self.now += seconds
            self.done.append(number)

        self.turns.add(work)

    def turn(self, ready: int = 0) -> None:
        """One turn: that many ready answers, then what was called soon."""
        self.ready += ready
        self.now += ready * READY_S
        for _ in range(len(self.callbacks)):
            self.callbacks.popleft()()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_without_ready_answers_everything_is_done_in_order_within_slices(loop: Loop) -> None:
    for number in range(50):
        loop.work(number, SLICE_S / 10)
    loop.turn()
    assert 10 <= len(loop.done) <= 11
    while loop.callbacks:
        loop.turn()
    assert loop.done == list(range(50))


def test_the_rest_takes_no_more_than_ready_answers_take(loop: Loop) -> None:
    """A flood of work that costs forty times as much as a ready answer gets half of the time, not all of it."""
    cost, ready = 40 * READY_S, 16
    for number in range(2_000):
        loop.work(number, cost)
    loop.turn(ready)
    began, done = loop.now, len(loop.done)
    for _ in range(400):
        loop.turn(ready)
    share = (len(loop.done) - done) * cost / (loop.now - began)
    # At least one piece of work a turn is always done: with it alone the share would be 40 / 56.
    assert share == pytest.approx(40 / 56, abs=0.02)
    loop.ready, began, done = loop.ready + 0, loop.now, len(loop.done)
    for _ in range(400):
        loop.turn(4 * ready)
    assert (len(loop.done) - done) * cost / (loop.now - began) == pytest.approx(0.5, abs=0.1)


def test_what_was_taken_elsewhere_counts(loop: Loop) -> None:
    """Replies of the presigner and new connections take their time outside of the turns."""
    for number in range(1_000):
        loop.work(number, READY_S)
    loop.turn(100)
    for _ in range(20):
        loop.now += 400 * READY_S
        before = len(loop.done)
        loop.turn(100)
        assert len(loop.done) - before == 1, "only what is always done"


def test_what_is_owed_is_forgotten_when_nobody_asks(loop: Loop) -> None:
    for number in range(1_000):
        loop.work(number, READY_S)
    loop.turn(1)
    loop.now += 10 * MOST_OWED_S
    loop.turn(1)
    assert len(loop.done) < 400
    before = len(loop.done)
    loop.turn(0)
    assert len(loop.done) - before >= SLICE_S / READY_S


def test_a_mistake_in_one_does_not_stop_the_others(loop: Loop) -> None:
    configure_logging("test", "critical")

    def broken() -> None:
        raise RuntimeError("broken on purpose")

    loop.turns.add(broken)
    loop.work(1, 0.0)
    loop.turn()
    assert loop.done == [1]
    loop.work(2, 0.0)
    loop.turn()
    assert loop.done == [1, 2]
