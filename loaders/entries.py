"""From what a database's row says to a status: the one way for every loader whose source has rows.

Serials with a declared base (never guessed), POSIX seconds, CRLReason codes, and what becomes of a row of which a part
cannot be read. ``ItemSnapshot`` makes a reading out of a generator of such items. Called by the loaders of files and
databases. RFC 5280 §4.1.2.2 (serials), §5.3.1 (CRLReason).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from loaders.base import Batch, Row, RowRejected
from loaders.normalize import FIRST_YEAR, MAX_REMEMBERED, reason_word
from responder.clock import format_utc
from responder.model import CRLReason, serial_to_octets

BATCH_ITEMS = 4096
MAX_SERIAL_OCTETS = 128  # RFC 5280 §4.1.2.2 allows 20; far more is no serial
MAX_SERIAL_TEXT = 3 * MAX_SERIAL_OCTETS  # digits of either base, with separators
_EPOCH = date(1970, 1, 1)
_DAY_S = 86_400
_FIRST_DAY = (date(FIRST_YEAR, 1, 1) - _EPOCH).days
_LAST_DAY = (date.max - _EPOCH).days
_T = TypeVar("_T")


class Released(NamedTuple):
    """An explicit release from hold, with the status text that holds now."""

    serial_octets: bytes
    text: str


Item = Row | Released | RowRejected


# --- values -----------------------------------------------------------------------------------------------------------


def serial_from_decimal(text: str) -> bytes:
    """Read a decimal serial, such as ``47`` or ``-1``, as DER INTEGER contents octets; raises ValueError."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_SERIAL_TEXT:
        raise ValueError(f"the serial {text[:80]!r} is not a decimal number of at most {MAX_SERIAL_TEXT} digits")
    return checked_serial(int(text))


def serial_from_hex(text: str, separators: str = "") -> bytes:
    """Read a hexadecimal serial, odd lengths too, as DER INTEGER contents octets; raises ValueError.

    ``separators`` are the characters that may stand between octets, such as ``:-``.
    """
    digits = text.removeprefix("-")
    if len(digits) <= MAX_SERIAL_TEXT:
        for separator in separators:
            digits = digits.replace(separator, "")
        if digits.isascii() and digits.isalnum():
            try:
                value = int(digits, 16)
            except ValueError:
                pass
            else:
                return checked_serial(-value if text.startswith("-") else value)
    raise ValueError(f"the serial {text[:80]!r} is not hexadecimal of at most {MAX_SERIAL_TEXT} characters")


def checked_serial(number: int) -> bytes:
    """Return a serial's DER INTEGER contents octets; raises ValueError for one that nobody can have meant."""
    if number.bit_length() >= 8 * MAX_SERIAL_OCTETS:
        raise ValueError(f"a serial of more than {MAX_SERIAL_OCTETS} octets")
    return serial_to_octets(number)


class _DayTexts(dict[int, str]):
    """Days since 1970 → the start of a date as the store spells it, such as ``2029-02-25T``."""

    def __missing__(self, day: int) -> str:
        if not _FIRST_DAY <= day <= _LAST_DAY:
            raise ValueError(f"a date before {FIRST_YEAR} or after 9999")
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        text = self[day] = (_EPOCH + timedelta(days=day)).isoformat() + "T"
        return text


_DAY_TEXTS = _DayTexts()


def seconds_text(seconds: int) -> str:
    """Spell POSIX seconds as the store does; raises ValueError outside the years 1950 to 9999."""
    day, second = divmod(seconds, _DAY_S)
    minutes, second = divmod(second, 60)
    return f"{_DAY_TEXTS[day]}{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}Z"


def seconds_from_datetime(value: datetime) -> int:
    """Return the POSIX seconds of a datetime, which is UTC where it names no zone; the fraction is cut off."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def seconds_from_iso(text: str) -> int:
    """Read a date of RFC 3339 or ISO 8601, UTC where it names no zone, fraction cut off; raises ValueError."""
    if len(text) > 64:
        raise ValueError(f"not a date of RFC 3339: {text[:40]!r}…")
    try:
        return seconds_from_datetime(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a date of RFC 3339: {text!r}") from error


def reason_from_code(code: object) -> CRLReason:
    """Return the CRLReason of a number as RFC 5280 §5.3.1 counts; None is unspecified. Raises ValueError."""
    if code is None:
        return CRLReason.UNSPECIFIED
    try:
        return CRLReason(code)  # type: ignore[arg-type]  # anything else is a ValueError
    except ValueError:
        raise ValueError(f"no CRLReason has the number {str(code)[:40]!r}; there are 0 to 6 and 8 to 10") from None


# --- rows -------------------------------------------------------------------------------------------------------------


class Doubts:
    """Reads the values of one row, and remembers the first that cannot be read."""

    __slots__ = ("problem",)

    def __init__(self) -> None:
        self.problem: str | None = None

    def read(self, what: str, parse: Callable[..., _T], *values: Any) -> _T | None:
        """Return ``parse(*values)``, or None where that raises ValueError or TypeError."""
        try:
            return parse(*values)
        except (ValueError, TypeError) as error:
            self.add(f"{what}: {error}")
            return None

    def add(self, problem: str) -> None:
        """Note a problem; the first stays."""
        if self.problem is None:
            self.problem = problem


class RowMaker:
    """Makes the items of one reading. ``presumed_at``: the date of revocations whose own cannot be read."""

    def __init__(self, source: str, presumed_at: float) -> None:
        self._source = source
        self._presumed_at = int(presumed_at)

    def rejected(self, where: str, reason: str, serial_octets: bytes | None = None) -> RowRejected:
        """Reject a row."""
        return RowRejected(self._source, where, reason, serial_octets)

    def good(self, where: str, serial_octets: bytes | None, not_after: int | None, doubts: Doubts) -> Item:
        """Make a row that is not revoked; with a doubt it is rejected and says nothing."""
        ending = self._ending(not_after, None, doubts)
        if serial_octets is None or doubts.problem is not None:
            return self.rejected(where, doubts.problem or "no serial", serial_octets)
        return serial_octets, "good" + ending

    def revoked(
        self,
        where: str,
        serial_octets: bytes | None,
        not_after: int | None,
        doubts: Doubts,
        *,
        revoked_at: int | None,
        reason: CRLReason | None,
        invalidity_date: int | None = None,
    ) -> Item:
        """Make a row that surely is revoked; what of it cannot be read is presumed, and the row told.

        ``revoked_at`` None: it has no date that can be read. ``reason`` None: not to be read. removeFromCRL is a release.
        """
        ending = self._ending(not_after, invalidity_date, doubts)
        if serial_octets is None:
            return self.rejected(where, doubts.problem or "no serial", None)
        if reason is CRLReason.REMOVE_FROM_CRL:
            # RFC 5280 §5.3.1: removeFromCRL means that the certificate is no longer revoked; OCSP never says it.
            if doubts.problem is not None:
                return self.rejected(where, doubts.problem, serial_octets)
            return Released(serial_octets, "good" + ending)
        if revoked_at is None:
            doubts.add("the revocation has no date")
        elif revoked_at < 0:
            doubts.add("the revocation is dated before 1970, which no OCSP response can say")
            revoked_at = None
        else:
            try:
                at = seconds_text(revoked_at)
            except ValueError as error:
                doubts.add(f"the revocation: {error}")
                revoked_at = None
        if revoked_at is None:
            at = format_utc(self._presumed_at)
        text = f"revoked {at}{reason_word(reason or CRLReason.UNSPECIFIED)}{ending}"
        if doubts.problem is not None:
            return RowRejected(self._source, where, doubts.problem, serial_octets, text)
        return serial_octets, text

    @staticmethod
    def _ending(not_after: int | None, invalidity_date: int | None, doubts: Doubts) -> str:
        ending = ""
        for word, what, seconds in ((" exp=", "notAfter", not_after), (" invalid=", "invalidityDate", invalidity_date)):
            if seconds is not None:
                try:
                    ending += word + seconds_text(seconds)
                except ValueError as error:
                    doubts.add(f"{what}: {error}")
        return ending


# --- readings ---------------------------------------------------------------------------------------------------------


class ItemSnapshot:
    """A reading (loaders.base.Snapshot) whose items a generator yields; it raises SourceUnavailable where it must.

    ``is_whole`` and ``is_cut`` are asked once the items are at their end, ``position`` with each batch. ``let_go`` closes the source.
    """

    def __init__(
        self,
        items: Iterator[Item],
        as_of: float,
        *,
        size: int = 0,
        position: Callable[[], int] = lambda: 0,
        is_whole: Callable[[], bool] = lambda: True,
        is_cut: Callable[[], bool] = lambda: False,
        let_go: Callable[[], None] = lambda: None,
        cursor: Callable[[], str] = lambda: "",
    ) -> None:
        """``cursor`` is asked for once the items are at their end (loaders.base.Incremental)."""
        self.as_of = as_of
        self.cursor = ""
        self._cursor = cursor
        self.size = size
        self.fingerprint = ""
        self.whole = False
        self.cut = False
        self._items = items
        self._position = position
        self._is_whole = is_whole
        self._is_cut = is_cut
        self._let_go = let_go

    def close(self) -> None:
        """Let go of the source."""
        self._let_go()

    def batches(self) -> Iterator[Batch]:
        """Yield what was read. The fingerprint is that of the rows, in their order."""
        digest = hashlib.sha256()
        try:
            while True:
                rows: list[Row] = []
                batch = Batch(rows)
                taken = 0
                for item in islice(self._items, BATCH_ITEMS):
                    taken += 1
                    if type(item) is tuple:
                        rows.append(item)
                        digest.update(item[0] + item[1].encode())
                    elif isinstance(item, Released):
                        batch.released.append((item.serial_octets, item.text))
                        digest.update(b"released" + item.serial_octets + item.text.encode())
                    elif isinstance(item, RowRejected):
                        batch.rejected.append(item)
                        digest.update(repr((item.row, item.reason, item.serial_octets)).encode())
                if not taken:
                    break
                batch.position = self._position()
                yield batch
        finally:
            self.close()
        self.fingerprint = digest.hexdigest()
        self.cursor = self._cursor()
        self.whole, self.cut = self._is_whole(), self._is_cut()
