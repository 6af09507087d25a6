"""Lets ready answers go first: all other work waits for the end of the event loop's turn, and gets its share there.

A client whose answers are ready must not wait behind one that floods with nonces, foreign issuers or garbage, each of
which costs many times as much. What the express lane leaves, and what it has to fetch, waits here in order. While
ready answers are asked for, the rest gets as much of the worker's time as they take, all in all: what follows from it
later (replies of Redis and the presigner, closing connections, new ones) counts too. While none are, it gets everything.
One event loop's thread only; knows neither HTTP nor OCSP.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from responder.log import get_logger

log = get_logger(__name__)

READY_S = 5e-6  # what a ready answer costs at least, kernel and all; where it is more, the rest gets less than half
SLICE_S = 1e-3  # the longest that waiting work may hold the loop up, should nothing ready be asked for
MOST_OWED_S = 0.02  # what the rest took too much is forgotten above that


class Turns:
    """The waiting work of one worker."""

    def __init__(self, call_soon: Callable[..., object], ready_count: Callable[[], int]) -> None:
        """``call_soon`` is the loop's; ``ready_count`` tells how many ready answers there were so far."""
        self._call_soon = call_soon
        self._ready_count = ready_count
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._looked_at = time.thread_time()
        self._ready_seen = 0
        self._owed = 0.0  # seconds that the rest took more than ready answers did

    def add(self, work: Callable[[], None]) -> None:
        """Have ``work`` done in its turn."""
        self._waiting.append(work)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._run)

    def _run(self) -> None:
        """Do what is waiting: at least one, at most what its share allows."""
        waiting = self._waiting
        deadline = time.perf_counter() + (0.0 if self._is_over() else SLICE_S)
        while waiting:
            try:
                waiting.popleft()()
            except Exception:  # a mistake about one connection must not hold up the others
                log.exception("turn_failed")
            if time.perf_counter() >= deadline:
                break
        if waiting:
            self._call_soon(self._run)
        else:
            self._scheduled = False

    def _is_over(self) -> bool:
        """Tell whether the rest has had more than its share since ready answers were last asked for."""
        now, count = time.thread_time(), self._ready_count()
        spent, ready = now - self._looked_at, (count - self._ready_seen) * READY_S
        self._looked_at, self._ready_seen = now, count
        if not ready:
            self._owed = 0.0  # nobody to be fair to
            return False
        self._owed = min(max(self._owed + spent - 2 * ready, 0.0), MOST_OWED_S)
        return self._owed > 0.0
