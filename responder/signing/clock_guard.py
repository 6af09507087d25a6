"""Whether this machine's clock may be believed: without that, nothing is signed (RFC 9919 §5: an accurate time source)."""

from __future__ import annotations

from collections.abc import Callable

from responder import metrics
from responder.clock import Clock
from responder.log import get_logger
from responder.signing.answers import CLOCK_TOLERANCE_S

log = get_logger(__name__)

COMPARE_EVERY_S = 1.0
READ_WITHIN_S = 0.1


class ClockGuard:
    """Compares the wall clock with Redis TIME once a second, and with the time that has passed at every call."""

    def __init__(self, clock: Clock, reference: Callable[[], float]) -> None:
        """``reference`` returns POSIX seconds of another clock (Store.time); its errors go through."""
        self._clock = clock
        self._reference = reference
        self._agrees = False
        self._said: bool | None = None
        self._compared = -COMPARE_EVERY_S  # monotonic
        self._wall = clock.now()
        self._monotonic = clock.monotonic()
        self.ahead_s = 0.0  # wall clock minus reference, at the last comparison

    def agrees(self) -> bool:
        """Say whether the clock may be believed now."""
        while True:
            monotonic, wall = self._clock.monotonic(), self._clock.now()
            if self._clock.monotonic() - monotonic < READ_WITHIN_S:
                break  # else this process stood still between the two readings, and they cannot be compared
        stepped = (wall - self._wall) - (monotonic - self._monotonic)
        self._wall, self._monotonic = wall, monotonic
        if stepped < -CLOCK_TOLERANCE_S:
            # What was signed a moment ago may be dated later than what would be signed now.
            log.error("clock_stepped_back", by_s=round(-stepped, 3))
            self._agrees = self._said = False
            metrics.CLOCK_AGREES.set(0)
            self._compared = monotonic  # agreement is looked for in a second, not at once
        elif abs(stepped) > CLOCK_TOLERANCE_S or monotonic - self._compared >= COMPARE_EVERY_S:
            self._compare()
        return self._agrees

    def _compare(self) -> None:
        before = self._clock.now()
        reference = self._reference()
        after = self._clock.now()
        self._compared = self._clock.monotonic()
        self.ahead_s = (before + after) / 2 - reference
        # Redis may have read its clock at any time between the two readings of ours.
        self._agrees = abs(self.ahead_s) <= CLOCK_TOLERANCE_S + (after - before) / 2
        if self._agrees is not self._said:
            metrics.CLOCK_AGREES.set(int(self._agrees))
            if not self._agrees:
                log.error("clock_disagrees_with_redis", ahead_s=round(self.ahead_s, 3), consequence="nothing is signed")
            elif self._said is False:
                log.info("clock_agrees_again", ahead_s=round(self.ahead_s, 3))
            self._said = self._agrees
