"""How much signing a policy needs, what a key gives, and what follows: utilisation, times, and when an answer would run out.

Pure arithmetic: no store, no key, no clock. When an answer is signed again is asked of answers.Moment itself, so that this
and the presigner never drift apart. Called by ``revocast plan`` and, in operation, by watch.Watch. Durations in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from responder.config import OCSPConfig
from responder.signing.answers import Moment, Terms

SOME_DAY = 1_800_000_000  # the rule is the same every day; it is asked in whole seconds
SPREAD_STEPS = 64  # at which the refresh rule is asked
# Of the key's time that routine work may take. The rest is for revocations, new certificates, live answers, and for
# catching up: with it a whole signing after an outage ends well before the first answer does.
ROUTINE_SHARE = 0.7
# What an answer costs besides its signature, of a machine's CPU: reading, encoding, packing and storing. Measured with a
# signer that costs nothing, 30 000 answers: 5 us of the presigner, and not more of Redis.
ANSWER_S = 10e-6


@dataclass(frozen=True, slots=True)
class Kinds:
    """What one certificate takes: signatures, and answers kept in the store."""

    signatures: int
    answers: int


def kinds_of(ocsp: OCSPConfig, *, sha256_asked: bool) -> Kinds:
    """Count the kinds of CertID that are signed for each certificate. SHA-256 is kept up only while it is asked for."""
    # One signature over both CertIDs is one answer, kept with the SHA-1 ones.
    return Kinds(2, 2) if ocsp.certid == "each" and sha256_asked else Kinds(1, 1)


@dataclass(frozen=True)
class Refresh:
    """When one CA's answers are signed again, as its terms have it and its source keeps up."""

    terms: Terms

    def after_s(self, spread: float) -> int:
        """Return how long after one signing the next one is, once a bucket has found its moment; ``spread`` is its own."""
        moment = Moment(self.terms, SOME_DAY, SOME_DAY, SOME_DAY + self.terms.validity, "")
        first = moment.refresh_at(SOME_DAY, SOME_DAY, spread)
        return moment.refresh_at(first, first, spread) - first

    @cached_property
    def intervals(self) -> list[int]:
        """The intervals of buckets that are evenly spread."""
        return [max(1, self.after_s((step + 0.5) / SPREAD_STEPS)) for step in range(SPREAD_STEPS)]

    @cached_property
    def per_second(self) -> float:
        """How often a second one answer is signed, on the average over the buckets."""
        return sum(1 / interval for interval in self.intervals) / SPREAD_STEPS

    @cached_property
    def reserve_s(self) -> int:
        """How long an answer still lasts when it comes due: of the bucket that is refreshed last."""
        return self.terms.validity - max(self.intervals)

    def due_after(self, outage_s: float) -> float:
        """Return which part of the answers comes due during an outage."""
        return sum(min(1.0, outage_s / interval) for interval in self.intervals) / SPREAD_STEPS


@dataclass(frozen=True, slots=True)
class Need:
    """What one CA's policy needs."""

    certificates: int
    kinds: Kinds
    refresh: Refresh

    @property
    def whole(self) -> int:
        """Signatures that a first, whole signing takes."""
        return self.certificates * self.kinds.signatures

    @property
    def per_second(self) -> float:
        """Signatures a second, routine work alone."""
        return self.whole * self.refresh.per_second

    def whole_s(self, rate: float) -> float:
        """How long a whole signing takes at a rate."""
        return self.whole / rate

    def catch_up_s(self, rate: float, outage_s: float) -> float | None:
        """How long until nothing is due any more after an outage; None: it grows faster than it is signed."""
        part = self.refresh.due_after(outage_s)
        # What came due is not due again for an interval; only the others come meanwhile.
        left = rate - (1 - part) * self.per_second
        return part * self.whole / left if left > 0 else None


def answers_per_second(signatures_per_second: float) -> float:
    """What presigning makes of a key's bare rate."""
    return 1 / (1 / signatures_per_second + ANSWER_S)


def utilisation(needs: Sequence[tuple[Need, float]]) -> float:
    """Return which part of the presigner's time routine work takes; with each CA the rate at which its answers are made.

    The CAs are added up: keys in files sign one after the other. Several tokens do more than that.
    """
    return sum(need.per_second / rate for need, rate in needs)


def longer_validity(need: Need, rate: float, share: float, most: int) -> int | None:
    """Return the shortest validity, in whole hours up to ``most``, at which a CA takes ``share`` of the time; None: none."""

    def fits(validity: int) -> bool:
        return Need(need.certificates, need.kinds, _with_validity(need.refresh, validity)).per_second <= share * rate

    low, high = need.refresh.terms.validity // 3600, most // 3600
    if not fits(high * 3600):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle * 3600) else (middle, high)
    return high * 3600


def _with_validity(refresh: Refresh, validity: int) -> Refresh:
    return Refresh(replace(refresh.terms, validity=validity))


# --- in operation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """One CA in operation: its need, and the soonest nextUpdate of its stored answers (None: none is known)."""

    need: Need
    soonest_next_update: float | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the present rate leads to.

    ``wait_s``: how long what is due now takes. ``margin_s``: the least time that an answer will have left when it is
    replaced (None: nothing is stored); where it is not positive, ``will_run_out_at`` says when the first runs out.
    ``tight``: an answer will have less than a quarter of its validity left, because of the rate.
    """

    needed: float
    possible: float
    utilisation: float
    wait_s: float
    margin_s: float | None
    will_run_out_at: float | None
    tight: bool


def look_ahead(now: float, standings: Sequence[Standing], backlog: float, rate: float) -> Outlook:
    """Look ahead from ``backlog`` signatures that are due now, at ``rate`` signatures a second.

    The nearest nextUpdate is signed first, whatever the CA. A stored answer that is due has between its time left now and
    the policy's reserve; in between they are taken to lie evenly.
    """
    needed = sum(one.need.per_second for one in standings)
    whole_s = sum(one.need.whole for one in standings) / rate
    wait_s = backlog / rate
    load = needed / rate
    margin: float | None = None
    runs_out: float | None = None
    tight = False
    for one in standings:
        if one.soonest_next_update is None:
            continue
        validity = one.need.refresh.terms.validity
        first_left = one.soonest_next_update - now
        reserve = one.need.refresh.reserve_s
        left, at = _of_one(now, first_left, reserve, wait_s, load, validity - whole_s, validity)
        margin = left if margin is None else min(margin, left)
        if at is not None:
            runs_out = at if runs_out is None else min(runs_out, at)
        tight = tight or left < validity / 4
    return Outlook(needed, rate, load, wait_s, margin, runs_out, tight)


def _of_one(
    now: float, first_left: float, reserve: float, wait_s: float, load: float, steady: float, validity: int
) -> tuple[float, float | None]:
    """Return an answer's least time left when it is replaced, and when the first runs out (None: none does)."""
    # An answer that is not due yet has more left than the policy's reserve: then what waits are certificates that have
    # no answer, which cannot run out.
    waits = first_left < reserve
    margins = [first_left] if waits else [reserve]
    if waits:
        margins.append(reserve - wait_s)
    if load > 1:
        # Every answer is replaced once in the time of a whole signing, and no sooner.
        margins.append(min(reserve, steady))
    left = min(margins)
    if left > 0:
        return left, None
    if waits and first_left <= 0:
        return left, now
    if waits and wait_s >= reserve:
        # The answer in place x (0 to 1) of what is due is signed after x * wait_s, and lasts first_left to reserve.
        return left, now + wait_s * first_left / (wait_s - reserve + first_left)
    # What comes due t from now is signed after wait_s + load * t, and then would have lasted t + reserve.
    return left, now + reserve + max(0.0, reserve - (wait_s if waits else 0.0)) / (load - 1)


class Pace:
    """Signatures a second while there was work, over about the last ``memory_s`` seconds of it."""

    def __init__(self, memory_s: float = 60.0) -> None:
        self._memory_s = memory_s
        self._made = 0.0
        self._busy_s = 0.0

    def note(self, made: int, busy_s: float) -> None:
        """Take in a piece of work."""
        kept = max(0.0, 1 - busy_s / self._memory_s)
        self._made = kept * self._made + made
        self._busy_s = kept * self._busy_s + busy_s

    @property
    def per_second(self) -> float | None:
        """The rate; None: nothing was signed yet."""
        return self._made / self._busy_s if self._made > 0 and self._busy_s > 0 else None
