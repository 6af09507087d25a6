"""One pass over a whole source: its rows brought into the store bucket by bucket, and what it no longer lists.

One read, one diff and one script for each bucket, pipelined; memory for BATCH_BUCKETS buckets. The policy is
revocation.decide's. A bucket that somebody changes or splits meanwhile is read and decided again; one that is missing is
made with what the source says and the revoked index knows. Called by loaders/runner.py. Times are POSIX seconds UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from responder.clock import format_utc
from responder.errors import CommitConflict, InvariantBroken, StoreUnavailable
from responder.model import Status
from responder.revocation import (
    KEPT_VANISHED,
    MAX_TRIES,
    Decision,
    Refused,
    Report,
    Signal,
    change,
    count,
    decide,
    due_at,
    note,
    stored_status,
)
from responder.store import layout
from responder.store.layout import serial_hash
from responder.store.redis_store import Store
from responder.store.values import BucketMap, Change, Commit, Committed, NewBucket, StatusBucket

BATCH_BUCKETS = 256  # buckets of a pass that are held in memory at once


@dataclass(frozen=True, slots=True)
class PassTerms:
    """What holds for a whole pass. Seconds.

    ``good_releases_hold``: a good row of this source is an explicit statement, and so ends a hold. ``goods_say_issued``: a good
    row says nothing of revocations, and contradicts none. ``releases_wait``: it
    would, but this reading is not confirmed yet; what it would end is counted, not refused. ``remove_vanished``:
    this pass equals the one before, so what both lack is removed; ``gone``: serials that the pass before lacked too, which
    are removed though other rows have changed; ``keep``: serials that count as listed, such as those of rows that could
    not be understood. It may grow between two yields of the pass. ``let_go``: the CA's CRLs have left out what had expired before
    then; what is revoked and expired later is kept past its retention, until it was on one more CRL (RFC 5280 §3.3).
    """

    now: float
    retention_s: float
    good_releases_hold: bool = False
    goods_say_issued: bool = False
    releases_wait: bool = False
    remove_vanished: bool = False
    gone: frozenset[bytes] = frozenset()
    keep: Set[bytes] = frozenset()
    let_go: float = math.inf


# The last four octets of SHA-256(serial octets), hence serial_hash in big-endian; the serial's octets; the status text.
HashedRow = tuple[bytes, bytes, str]


@dataclass(frozen=True, slots=True)
class _Over:
    """Before when a certificate must have expired for its status to go. Such times sort as they follow upon each other."""

    good: str
    revoked: str

    @classmethod
    def of(cls, terms: PassTerms) -> _Over:
        good = max(0.0, terms.now - terms.retention_s)
        return cls(format_utc(good), format_utc(max(0.0, min(good, terms.let_go))))

    def has(self, text: str) -> bool:
        """Say whether a status is past its time."""
        at = text.find("exp=")
        return at >= 0 and text[at + 4 : at + 24] < (self.revoked if text[0] == "r" else self.good)


def bits_for(count: int) -> int:
    """Return how many bits a CA's buckets are to have for ``count`` certificates."""
    bits = layout.MIN_BITS
    while bits < layout.MAX_BITS and count > layout.BUCKET_TARGET << bits:
        bits += 1
    return bits


def map_buckets(store: Store, ca: str, count: int) -> BucketMap:
    """Return the CA's buckets before a pass over ``count`` rows; of a CA that has none yet all are missing."""
    return store.bucket_map(ca, store.agree_bits(ca, bits_for(count)))


def apply_pass(
    store: Store,
    ca: str,
    buckets: BucketMap,
    groups: Iterable[tuple[int, int, Sequence[HashedRow]]],
    terms: PassTerms,
) -> Iterator[Report]:
    """Bring a whole source in; yields a report for each batch of buckets, when it is committed.

    ``groups``: (number, bits, rows), each with all rows whose hash ends in ``number`` at ``bits`` <=
    ``buckets.least_bits``; every number once, also without rows. Of two rows of one serial a revoked one counts, else
    the last. Missing buckets are made with what they hold. Raises StoreUnavailable; then the pass is to be done again.
    """
    waiting: list[_Work] = []
    for number, bits, rows in groups:
        waiting += _works_of_group(buckets, number, bits, rows)
        if len(waiting) >= BATCH_BUCKETS:
            yield _settle_works(store, ca, waiting, terms)
            waiting = []
    yield _settle_works(store, ca, waiting, terms)
    store.grow(ca, buckets.bits)


@dataclass(slots=True)
class _Work:
    """One bucket of a pass, and what the source says of its serials."""

    bucket: int
    bits: int
    rows: dict[bytes, str]
    missing: bool = False
    tries: int = 0

    def halves(self) -> list[_Work]:
        """Return the work on the two buckets into which this one is, or is to be, split."""
        child = self.bucket + (1 << self.bits)
        rows: tuple[dict[bytes, str], dict[bytes, str]] = ({}, {})
        for serial, text in self.rows.items():
            rows[serial_hash(serial) >> self.bits & 1][serial] = text
        return [
            _Work(bucket, self.bits + 1, mine, self.missing, self.tries)
            for bucket, mine in zip((self.bucket, child), rows, strict=True)
        ]


def _works_of_group(buckets: BucketMap, number: int, bits: int, rows: Sequence[HashedRow]) -> list[_Work]:
    if bits > buckets.least_bits:
        raise InvariantBroken(f"groups of {bits} bits do not hold whole buckets of {buckets.least_bits}")
    leaves, mask = buckets.leaves, (1 << buckets.bits) - 1
    works = {
        bucket: _Work(bucket, buckets.bits_of(bucket), {}, bucket in buckets.missing)
        for bucket in dict.fromkeys(leaves[number :: 1 << bits])
    }
    by_bucket = {bucket: work.rows for bucket, work in works.items()}
    from_bytes = int.from_bytes
    for hash_octets, serial, text in rows:
        mine = by_bucket[leaves[from_bytes(hash_octets, "big") & mask]]
        if serial in mine and mine[serial].startswith("revoked") and not text.startswith("revoked"):
            continue
        mine[serial] = text
    return list(works.values())


def _settle_works(store: Store, ca: str, works: list[_Work], terms: PassTerms) -> Report:
    """Read, decide, commit, until every bucket is done; raises StoreUnavailable."""
    report = Report()
    over = _Over.of(terms)
    deepest = 0
    while works:
        again: list[_Work] = []
        ready: list[tuple[_Work, Commit | NewBucket, Report]] = []
        revoked = _revoked_of_missing(store, ca, works)
        for work, bucket in _with_buckets(store, ca, works):
            if work.tries >= MAX_TRIES:
                raise StoreUnavailable(f"bucket {work.bucket:x} of {ca} met a conflict {MAX_TRIES} times")
            if bucket is not None and bucket.bits < work.bits:
                raise StoreUnavailable(f"the buckets of {ca} have changed under a pass; it is to be done again")
            if bucket is not None and bucket.bits > work.bits:
                again += work.halves()  # somebody has split it
            elif _is_too_large(work, bucket):
                again += _split_work(store, ca, work, bucket)
                deepest = max(deepest, work.bits + 1)
            elif bucket is None:
                ready.append(_new_bucket(ca, work, revoked[id(work)], terms, over))
            else:
                decided = _diff(ca, work, bucket, terms, over)
                if decided[1].changes:
                    ready.append(decided)
                else:
                    count(decided[2])
                    report.add(decided[2])
        made_of = {id(work): made for work, made in _commit_all(store, ready)}
        for work, _, mine in ready:
            if isinstance(made_of[id(work)], CommitConflict):
                report.conflicts += 1
                work.tries += 1
                work.missing = False  # if it was: somebody has just made it
                again.append(work)
            else:
                count(mine)
                report.add(mine)
                if revoked.get(id(work)):
                    # What the source says of these is decided like any other change.
                    work.missing = False
                    again.append(work)
        works = again
    if deepest:
        store.grow(ca, deepest)
    return report


def _revoked_of_missing(store: Store, ca: str, works: Sequence[_Work]) -> dict[int, dict[bytes, str]]:
    """Return what the revoked index knows of the buckets that are missing, by the work's id.

    Of a CA that is new it is nothing. Of a bucket that was lost it is what nobody may undo, an operator's revocations
    among them, which the source does not know.
    """
    missing = [work for work in works if work.missing]
    found = store.read_revoked(ca, [(work.bucket, work.bits) for work in missing])
    return {id(work): entries for work, entries in zip(missing, found, strict=True)}


def _with_buckets(store: Store, ca: str, works: Sequence[_Work]) -> Iterator[tuple[_Work, StatusBucket | None]]:
    there = [work for work in works if not work.missing]
    found = iter(store.read_status_buckets(ca, [work.bucket for work in there]))
    for work in works:
        yield work, None if work.missing else next(found)


def _commit_all(
    store: Store, ready: Sequence[tuple[_Work, Commit | NewBucket, Report]]
) -> Iterator[tuple[_Work, Committed | CommitConflict]]:
    commits = [(work, what) for work, what, _ in ready if isinstance(what, Commit)]
    creates = [(work, what) for work, what, _ in ready if isinstance(what, NewBucket)]
    yield from zip((w for w, _ in commits), store.commit_many(what for _, what in commits), strict=True)
    yield from zip((w for w, _ in creates), store.create_many(what for _, what in creates), strict=True)


def _is_too_large(work: _Work, bucket: StatusBucket | None) -> bool:
    size = max(len(work.rows), len(bucket.entries) if bucket else 0)
    return size > layout.BUCKET_SPLIT_ABOVE and work.bits < layout.MAX_BITS


def _split_work(store: Store, ca: str, work: _Work, bucket: StatusBucket | None) -> list[_Work]:
    if bucket is None:
        return work.halves()
    try:
        store.split_bucket(ca, bucket)
    except CommitConflict:
        work.tries += 1
        return [work]
    return work.halves()


def _new_bucket(
    ca: str, work: _Work, revoked: dict[bytes, str], terms: PassTerms, over: _Over
) -> tuple[_Work, NewBucket, Report]:
    report = Report(rows=len(work.rows))
    # _Over.has, written out: a million rows come by here.
    good, revoked_one = over.good, over.revoked
    entries = {
        serial: text
        for serial, text in work.rows.items()
        if (at := text.find("exp=")) < 0 or text[at + 4 : at + 24] >= (revoked_one if text[0] == "r" else good)
    }
    report.expired = len(work.rows) - len(entries)
    entries.update(revoked)
    if entries:
        report.changes["new"] = len(entries)
    due = terms.now if entries else layout.NEVER_DUE
    return work, NewBucket(ca, work.bucket, work.bits, entries, due), report


def _diff(ca: str, work: _Work, bucket: StatusBucket, terms: PassTerms, over: _Over) -> tuple[_Work, Commit, Report]:
    """Decide for every serial of one bucket."""
    report = Report(rows=len(work.rows))
    changes: list[Change] = []
    due = layout.NEVER_DUE
    signal: Signal = "issued" if terms.goods_say_issued else "release" if terms.good_releases_hold else "row"
    entries = bucket.entries

    def take(serial: bytes, new: Status | None, signal: Signal) -> None:
        nonlocal due
        text = entries.get(serial)
        decision = decide(stored_status(serial, text), new, signal=signal, now=terms.now)
        if terms.releases_wait and decision.refused is Refused.HOLD_NOT_RELEASED:
            report.releases_waiting += 1
            decision = Decision()
        note(report, ca, serial, decision)
        if decision.kind is not None:
            changes.append(change(serial, text, decision))
            due = min(due, due_at(decision, terms.now))

    for serial, text in work.rows.items():
        if over.has(text):
            report.expired += 1
            stands = entries.get(serial, "")
            if stands.startswith("revoked") and "exp=" in stands and not over.has(stands):
                report.unchanged += 1  # a wrong expiry, put right afterwards, would else make it good again
            else:
                take(serial, None, "expired")
        elif entries.get(serial) == text:
            report.unchanged += 1
        else:
            take(serial, Status.from_text(text), signal)
    for serial in entries.keys() - work.rows.keys():
        text = entries[serial]
        if over.has(text):
            take(serial, None, "expired")
        elif serial in terms.keep:
            report.unchanged += 1
        elif text.startswith("revoked"):
            report.kept_revoked += 1
        elif terms.remove_vanished or serial in terms.gone:
            take(serial, None, "vanished")
        else:
            report.vanished += 1
            if len(report.vanished_serials) < KEPT_VANISHED:
                report.vanished_serials.append(serial)
    return work, Commit(ca, work.bucket, work.bits, changes, due), report
