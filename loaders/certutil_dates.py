"""Dates as certutil prints them: in the order and the time zone of whoever ran it, which the certificates give away.

The dump holds both a printed notBefore and the certificate that it belongs to; the difference is the zone. Where that
leaves a doubt, a revocation is dated earlier rather than later: a revocation that seems to lie ahead would be answered
good until then. Called by loaders/certutil_dump.py. Times are POSIX seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from loaders.zone_offsets import PRECISION_S, ZoneOffsets, offset_between

AGREEING = 0.9  # share of the certificates that must agree; some row may always be odd

_ORDERS = {"dmy": (2, 1, 0), "mdy": (2, 0, 1), "ymd": (0, 1, 2)}  # where year, month and day stand
_NUMBER = re.compile(r"[0-9]+")
_GMT = re.compile(r"\b(?:gmt|utc)\b")
_SECONDS_SIGN = re.compile(r"(?<=[0-9])s\b")
_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202c"))  # Windows writes them where text runs from right to left
_FORENOON = {"am", "πμ", "上午", "午前", "오전", "sa", "sáng"}
_AFTERNOON = {"pm", "μμ", "下午", "午後", "오후", "ch", "chiều"}


class PrintedDate:
    """The numbers of one printed date, before anybody knows their order."""

    __slots__ = ("_numbers", "_second_of_day", "is_gmt")

    def __init__(self, text: str) -> None:
        """Read ``5/28/2026 3:34 PM``, ``28.05.2026 15:34:10 GMT`` and the like; raises ValueError."""
        plain = text.translate(_MARKS).casefold().strip()
        rest = _SECONDS_SIGN.sub("", _GMT.sub("", plain))
        self.is_gmt = bool(_GMT.search(plain))
        digits = _NUMBER.findall(rest)
        word = "".join(letter for letter in rest if letter.isalpha())
        known = all(letter.isalnum() or letter.isspace() or letter in "./:,-" for letter in rest)
        if not known or not 5 <= len(digits) <= 7 or any(len(one) > 4 for one in digits[:6]) or len(text) > 80:
            raise ValueError(f"not a date: {text[:60]!r}")
        hour, minute, second = (int(one) for one in [*digits[3:6], "0"][:3])
        if word in _FORENOON or word in _AFTERNOON:
            if not 1 <= hour <= 12:
                raise ValueError(f"not a time: {text[:60]!r}")
            hour = hour % 12 + (12 if word in _AFTERNOON else 0)
        elif word:
            raise ValueError(f"not a date that is known here; use -gmt, or ask for {word!r} to be added: {text[:60]!r}")
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError(f"not a time: {text[:60]!r}")
        self._numbers = tuple(digits[:3])
        self._second_of_day = hour * 3600 + minute * 60 + second

    def local(self, order: str) -> int:
        """Return the seconds since 1970 on the wall clock that it was printed by; raises ValueError for another order."""
        year, month, day = (self._numbers[at] for at in _ORDERS[order])
        if len(year) == 3 or len(month) > 2 or len(day) > 2 or (len(year) < 3 and order == "ymd"):
            raise ValueError("not in that order")
        full_year = int(year) if len(year) == 4 else int(year) + (2000 if int(year) < 50 else 1900)
        return int(datetime(full_year, int(month), int(day), tzinfo=UTC).timestamp()) + self._second_of_day


class Calibration:
    """Learns order and zone from printed dates and certificates; then reads dates. ``settle`` stands in between."""

    def __init__(self, order: str, zone: str) -> None:
        """Take the configured order and zone, each ``auto`` or told; raises ValueError for a zone that is not known."""
        self._zone: ZoneInfo | None = None
        if zone != "auto":
            try:
                self._zone = ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError(f"no such time zone: {zone!r}; it is written like Europe/Berlin") from error
        self._orders = list(_ORDERS) if order == "auto" else [order]
        self._certificates = 0
        self._hits = dict.fromkeys(self._orders, 0)  # certificates with which an order agrees
        self._votes = dict.fromkeys(self._orders, 0)  # dates that an order can read at all
        self._offsets = {order: ZoneOffsets() for order in self._orders}
        self._zoneless: str | None = None  # a date without GMT
        self.order = ""

    def see(self, text: str) -> None:
        """Look at a date of which nothing else is known: some orders cannot read it."""
        date = PrintedDate(text)
        if not date.is_gmt and self._zoneless is None:
            self._zoneless = text
        for order in self._orders:
            try:
                date.local(order)
            except ValueError:
                continue
            self._votes[order] += 1

    def compare(self, text: str, not_before: int) -> None:
        """Look at a printed notBefore and at its certificate's."""
        self.see(text)
        date = PrintedDate(text)
        self._certificates += 1
        for order in self._orders:
            try:
                local = date.local(order)
            except ValueError:
                continue
            offset = offset_between(local, not_before)
            if offset is None or (date.is_gmt and offset):
                continue
            if self._zone is not None and abs(self._in_zone(local) - not_before) > PRECISION_S:
                continue
            self._hits[order] += 1
            self._offsets[order].add(local, offset)

    def settle(self) -> None:
        """Decide; raises ValueError, with what to do, where it cannot be decided."""
        best = max((self._hits[order], self._votes[order]) for order in self._orders)
        orders = [order for order in self._orders if (self._hits[order], self._votes[order]) == best]
        if best[0] < AGREEING * self._certificates:
            raise ValueError(
                "the dates printed do not agree with the certificates beside them: wrong columns, date_order or time_zone?"
            )
        if len(orders) > 1:
            raise ValueError(f"the dates may be read as {' or '.join(orders)}: set date_order")
        if not self._certificates and self._zone is None and self._zoneless is not None:
            raise ValueError(
                f"the date {self._zoneless!r} has no time zone: use certutil -gmt, add RawCertificate and NotBefore to -out, or set time_zone"
            )
        self.order = orders[0]

    def seconds(self, text: str) -> int:
        """Read a date; raises ValueError."""
        date = PrintedDate(text)
        try:
            local = date.local(self.order)
        except (ValueError, OverflowError):
            raise ValueError(f"not a date in the order {self.order}: {text[:60]!r}") from None
        if date.is_gmt:
            return local
        if self._zone is not None:
            return self._in_zone(local)
        return self._offsets[self.order].utc(local)

    def _in_zone(self, local: int) -> int:
        assert self._zone is not None  # noqa: S101 - the callers have looked
        naive = datetime.fromtimestamp(local, UTC).replace(tzinfo=self._zone)  # fold=0: the earlier of two
        return int(naive.timestamp())
