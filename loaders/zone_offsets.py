"""The offset of a clock that wrote local time, learned from moments of which both are known; and used on the safe side.

A revocation that is dated too late would be answered good until then, so that a doubt dates it earlier. Called by
loaders/certutil_dates.py and loaders/dogtag.py. Times are seconds since 1970: on the local clock, or POSIX.
"""

from __future__ import annotations

from bisect import bisect_left

MAX_OFFSET_S = 14 * 3600  # no zone is further from UTC
QUARTER_S = 900  # every zone's offset is a multiple
PRECISION_S = 60  # some clocks are cut off to minutes
DAY_S = 86_400
NEAR_DAYS = 28  # between two days this near, with the same offset, no summer time came and went
SUMMER_TIME_S = 3600
MAX_DAYS = 40_000  # remembered; a hundred years


def offset_between(local: int, utc: int) -> int | None:
    """Return the offset of a zone in which both are the same moment; None where there is none."""
    difference = local - utc
    offset = round(difference / QUARTER_S) * QUARTER_S
    if abs(offset) > MAX_OFFSET_S or abs(difference - offset) > PRECISION_S:
        return None
    return offset


class ZoneOffsets:
    """Offsets by day."""

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}
        self._days: list[int] | None = None

    def add(self, local: int, offset: int) -> None:
        """Learn; of two offsets on one day the larger stays: it dates earlier."""
        if len(self._offsets) < MAX_DAYS:
            day = local // DAY_S
            self._offsets[day] = max(offset, self._offsets.get(day, -MAX_OFFSET_S))
            self._days = None

    def utc(self, local: int) -> int:
        """Return the moment of a local time, or where that is not sure one before it; raises ValueError if nothing is known."""
        day = local // DAY_S
        if day in self._offsets:
            return local - self._offsets[day]
        if not self._offsets:
            raise ValueError("a date without a time zone, where nothing tells it")
        if self._days is None:
            self._days = sorted(self._offsets)
        at = bisect_left(self._days, day)
        near = [self._days[i] for i in (at - 1, at) if 0 <= i < len(self._days)]
        offsets = [self._offsets[one] for one in near]
        is_sure = len(near) == 2 and near[1] - near[0] <= NEAR_DAYS
        if len(set(offsets)) == 1 and not is_sure:
            return local - offsets[0] - SUMMER_TIME_S
        return local - max(offsets)
