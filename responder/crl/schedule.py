"""When a CA's next CRL is due, and which: by the clock, at once upon a revocation, at the time of one that was dated ahead.

Pure; times are POSIX seconds but for durations. RFC 5280 §5.1.2.5 asks for a CRL before nextUpdate, BR §4.9.7 within 24
hours of a revocation; the rest is the operator's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from responder.config_crl import CRLConfig
from responder.crl.published import Published

BUILD_SHARE = 20  # a CRL made at once is made no sooner than so many times the last one's time after it

Why = Literal["first", "schedule", "revocation", "in_effect", "recovery", "operator"]


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be issued next. ``at``: when. ``full``: complete CRLs, else deltas alone.

    ``regular``: the complete CRL is one by schedule, after which expired entries may leave (RFC 5280 §3.3).
    """

    at: float
    full: bool
    regular: bool
    why: Why

    @property
    def needs_news(self) -> bool:
        """Say whether it is pointless while the source stands still: then it would only be dated afresh."""
        return self.why in ("schedule", "first")


@dataclass(slots=True)
class Pace:
    """What was seen since the last CRL. ``urgent_since``: when the first revocation was seen that no CRL has yet.

    ``fell_back``: the last was a complete CRL where a delta was due, but none could be made; upon the new one it can, as a rule.
    ``no_delta_before``: that was so twice in a row: the next is due then.
    ``is_torn``: this machine has a CRL of which Redis was not told, as its publisher ended in between, or its newest was lost.
    """

    urgent_since: float | None = None
    last_ended: float = 0.0
    last_took_s: float = 0.0
    fell_back: bool = False
    no_delta_before: float = 0.0
    is_torn: bool = False


def next_due(crl: CRLConfig, full: Published | None, delta: Published | None, pace: Pace, now: float) -> list[Due]:
    """Return what is due next, first things first; ``full`` and ``delta`` are published, of a sharded CA the ones that are due first.

    Of several that are due ``now`` it is the complete one by schedule, which says all that the others would.
    """
    if full is None:
        return [Due(0.0, full=True, regular=True, why="first")]
    if pace.is_torn:
        return [Due(0.0, full=True, regular=False, why="recovery")]
    found = [Due(full.next_publication, full=True, regular=True, why="schedule")]
    has_deltas = crl.delta_every is not None
    if has_deltas:
        at: float = delta.next_publication if delta is not None else full.this_update
        found.append(Due(max(at, pace.no_delta_before), full=False, regular=False, why="schedule"))
    newest = delta if has_deltas and delta is not None and (delta.number or 0) >= (full.number or 0) else full
    if newest.soonest_ahead is not None:
        found.append(Due(newest.soonest_ahead, full=not has_deltas, regular=False, why="in_effect"))
    if pace.urgent_since is not None and crl.on_revocation:
        at = max(pace.urgent_since + crl.debounce, pace.last_ended + BUILD_SHARE * pace.last_took_s)
        found.append(Due(at, full=not has_deltas, regular=False, why="revocation"))
    return sorted(found, key=lambda due: (max(due.at, now), not due.regular, not due.full))


def planned(crl: CRLConfig, now: float, full: Published | None, *, regular: bool) -> tuple[int, int | None]:
    """Return when the next complete and the next delta CRL come after one that is issued ``now``.

    ``regular``: what is issued is a complete one by schedule (``is_regular``).
    A complete CRL between two regular ones leaves the plan as it was: else frequent revocations would put off for ever
    the one after which expired entries may leave.
    """
    next_full = int(now) + crl.every if regular or full is None else full.next_publication
    if crl.delta_every is None:
        return next_full, None
    return next_full, min(int(now) + crl.delta_every, max(next_full, int(now)))


def is_regular(due: Due, now: float, full: Published | None, as_of: int) -> bool:
    """Say whether what is issued now is a complete CRL by schedule, also where something else asked for it.

    Not while the source stands still: the one by schedule is still due then.
    """
    if not due.full or full is None:
        return due.full
    return (due.regular or full.next_publication <= now) and as_of > full.this_update
