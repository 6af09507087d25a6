"""Time as the program sees it: POSIX seconds, UTC. Injected everywhere, so that tests own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the program asks about time."""

    def now(self) -> float:
        """Return wall-clock POSIX seconds, UTC; may step when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; for durations only."""
        ...


class SystemClock:
    """The machine's clock: the C library's own functions, since the hot path asks once a query."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that a test sets; both readings move together, unless ``step`` moves the wall clock alone."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Return the wall-clock time that was set."""
        return self._now

    def monotonic(self) -> float:
        """Return the time passed through ``advance``."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Step the wall clock, as an administrator or NTP would; no time passes."""
        self._now += seconds


def format_utc(seconds: float) -> str:
    """Format POSIX seconds as ``2026-11-20T10:00:00Z``; the fraction is cut off."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_utc(text: str) -> int:
    """Parse ``2026-11-20T10:00:00Z`` into POSIX seconds; raises ValueError for anything else."""
    # fromisoformat is ten times as fast as strptime, and a million of these are read; it would take more forms than one.
    if len(text) != 20 or text[4] != "-" or text[7] != "-" or text[10] != "T" or text[13] + text[16] != "::":
        raise ValueError(f"not a time like 2026-11-20T10:00:00Z: {text!r}")
    if text[19] != "Z":
        raise ValueError(f"not a UTC time, which ends with Z: {text!r}")
    return int(datetime.fromisoformat(text).timestamp())
