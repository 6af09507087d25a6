"""Which status may follow upon which, and the only code that changes one: the loaders' rows and the operator's word.

``decide`` is the whole policy (DESIGN §5, Transitions) and pure; the rest reads buckets, decides, and commits by
compare-and-set, again where somebody else was quicker. Knows no source and no format. Called by loaders/runner.py and
``revocast revoke``. Statuses are texts of ``responder.model.Status``, serials DER INTEGER contents octets, times POSIX
seconds UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from typing import Literal

from responder.errors import CommitConflict, InvariantBroken, OperatorError, StoreUnavailable
from responder.log import get_logger
from responder.metrics import STATUS_CHANGES, TRANSITIONS_REFUSED
from responder.model import CertStatus, CRLReason, Status
from responder.store import layout
from responder.store.layout import JournalKind
from responder.store.redis_store import Store
from responder.store.values import Change, Commit

log = get_logger(__name__)

# row: the source says so. release: the same, and a good row states that a hold is over. issued: a good row states that the
# certificate was issued, and nothing of revocations. operator: `revocast revoke`.
# vanished: two equal passes no longer had it. expired: expiry and retention have passed.
Signal = Literal["row", "release", "issued", "operator", "vanished", "expired"]

MAX_TRIES = 20  # of one bucket whose commits conflict; each conflict is another writer's success
BATCH_BUCKETS = 256  # buckets of a pass that are held in memory at once
KEPT_REFUSALS = 1_000  # named in a report; the others are counted
KEPT_VANISHED = 200_000  # of one pass; above it they wait for the next passes, so that memory is bounded


@unique
class Refused(Enum):
    """Why a status stays although a source or the operator says otherwise; the value is a metric's label."""

    PERMANENT = "permanent"  # revoked for good: it is not good again, and not merely suspended
    HOLD_NOT_RELEASED = "hold_not_released"  # a hold ends by an explicit release alone
    OPERATOR = "operator"  # revoked by the operator: only the source's own revocation replaces that
    IN_EFFECT = "in_effect"  # a revocation in effect is not put off to a time ahead
    NOT_A_HOLD = "not_a_hold"  # the operator released what is not suspended


@dataclass(frozen=True, slots=True)
class Decision:
    """``kind`` None: nothing changes. ``status`` None beside a kind: the serial is removed."""

    status: Status | None = None
    kind: JournalKind | None = None
    refused: Refused | None = None


_NOTHING = Decision()


def decide(old: Status | None, new: Status | None, *, signal: Signal, now: float) -> Decision:
    """Decide what becomes of ``old`` when ``signal`` brings ``new`` (None for vanished and expired).

    Never a permanent revocation undone, weakened to a hold or put off; everything that says so is ``refused``.
    """
    if signal in ("vanished", "expired"):
        # A revoked certificate that its CA deleted stays revoked until it has expired.
        gone = old is not None and (signal == "expired" or old.cert_status is CertStatus.GOOD)
        return Decision(None, "purged") if gone else _NOTHING
    if new is None:
        raise InvariantBroken(f"the signal {signal} brought no status")
    if new.reason is CRLReason.REMOVE_FROM_CRL:
        # RFC 5280 §5.3.1: it means "no longer revoked", so it may do what a good row may, and no more.
        new = Status(CertStatus.GOOD, not_after=new.not_after)
    if old is not None and new.not_after is None:
        new = replace(new, not_after=old.not_after)  # a source that tells no expiry takes none away
    if old == new:
        return _NOTHING
    if new.cert_status is CertStatus.GOOD:
        return _to_good(old, new, signal)
    if old is None or old.cert_status is CertStatus.GOOD:
        return Decision(new, "revoked")
    return _revoked_again(old, new, signal, now)


def _to_good(old: Status | None, new: Status, signal: Signal) -> Decision:
    if old is None:
        return _refused(Refused.NOT_A_HOLD) if signal == "operator" else Decision(new, "new")
    if old.cert_status is CertStatus.GOOD:
        return _refused(Refused.NOT_A_HOLD) if signal == "operator" else Decision(new, "changed")
    if signal == "operator":
        return Decision(new, "released") if old.is_hold else _refused(Refused.NOT_A_HOLD)
    if old.by_operator or signal == "issued":
        # The row is not wrong, the CA does not know yet; its notAfter is news where the operator gave only a serial.
        known = replace(old, not_after=new.not_after) if new.not_after is not None else old
        refused = Refused.OPERATOR if signal != "issued" else None
        return Decision(known if known != old else None, "changed" if known != old else None, refused)
    if not old.is_hold:
        return _refused(Refused.PERMANENT)
    return Decision(new, "released") if signal == "release" else _refused(Refused.HOLD_NOT_RELEASED)


def _revoked_again(old: Status, new: Status, signal: Signal, now: float) -> Decision:
    """Decide between two revocations."""
    sooner = old.at(now) is not CertStatus.REVOKED and _time(new) < _time(old)
    refused: Refused | None = None
    if new.is_hold and old.by_operator and not new.by_operator:
        refused = Refused.OPERATOR  # else a release by the source would end what the operator began
    elif new.is_hold and not old.is_hold and not sooner:
        refused = Refused.PERMANENT
    elif old.at(now) is CertStatus.REVOKED and new.at(now) is not CertStatus.REVOKED:
        refused = Refused.IN_EFFECT
    if refused is not None:
        # What stands is kept, but a revocation that lies ahead begins as soon as the other would: never good meanwhile.
        return Decision(replace(old, revoked_at=new.revoked_at), "revoked", refused) if sooner else _refused(refused)
    if signal == "operator" and not old.is_hold and not sooner:
        return _NOTHING  # revoked already, and by whom stays on record
    return Decision(new, "revoked" if sooner or (old.is_hold and not new.is_hold) else "changed")


def _refused(reason: Refused) -> Decision:
    return Decision(refused=reason)


def _time(status: Status) -> int:
    assert status.revoked_at is not None  # noqa: S101 - of a revoked Status
    return status.revoked_at


# --- reports ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What a pass did. ``vanished``: good serials that the source no longer lists and that were left for now."""

    rows: int = 0
    changes: dict[JournalKind, int] = field(default_factory=dict)
    unchanged: int = 0
    expired: int = 0  # rows past expiry and retention, which are not kept
    vanished: int = 0
    vanished_serials: list[bytes] = field(default_factory=list)  # the first KEPT_VANISHED
    releases_waiting: int = 0  # holds that end once the reading is confirmed
    kept_revoked: int = 0  # revoked serials that the source no longer lists: kept until they expire
    conflicts: int = 0
    refused: dict[Refused, int] = field(default_factory=dict)
    refusals: list[tuple[bytes, Refused]] = field(default_factory=list)  # the first KEPT_REFUSALS

    @property
    def changed(self) -> int:
        """How many serials changed, by whatever kind."""
        return sum(self.changes.values())

    def add(self, other: Report) -> None:
        """Take another report in."""
        self.rows += other.rows
        self.unchanged += other.unchanged
        self.expired += other.expired
        self.vanished += other.vanished
        self.vanished_serials += other.vanished_serials[: KEPT_VANISHED - len(self.vanished_serials)]
        self.releases_waiting += other.releases_waiting
        self.kept_revoked += other.kept_revoked
        self.conflicts += other.conflicts
        for kind, count in other.changes.items():
            self.changes[kind] = self.changes.get(kind, 0) + count
        for reason, count in other.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        self.refusals += other.refusals[: KEPT_REFUSALS - len(self.refusals)]

    def decided(self, serial: bytes, decision: Decision) -> None:
        if decision.refused is not None:
            self.refused[decision.refused] = self.refused.get(decision.refused, 0) + 1
            if len(self.refusals) < KEPT_REFUSALS:
                self.refusals.append((serial, decision.refused))
        if decision.kind is None:
            self.unchanged += 1
        else:
            self.changes[decision.kind] = self.changes.get(decision.kind, 0) + 1


# --- a few rows ---------------------------------------------------------------------------------------------------------


def apply(store: Store, ca: str, rows: Iterable[tuple[bytes, str]], *, signal: Signal, now: float) -> Report:
    """Bring single statuses in: each serial once. For a whole source there is ``apply_pass``.

    Raises StoreUnavailable where it is not known what of it is committed; to be tried again.
    """
    wanted = dict(rows)
    report = Report(rows=len(wanted))
    for _ in range(MAX_TRIES):
        places = store.locate(ca, list(wanted)) if wanted else []
        commits: dict[int, Commit] = {}
        decided: dict[int, list[tuple[bytes, Decision]]] = {}
        for (serial, text), place in zip(wanted.items(), places, strict=True):
            new = None if signal in ("vanished", "expired") else Status.from_text(text)
            decision = decide(stored_status(serial, place.text), new, signal=signal, now=now)
            decided.setdefault(place.bucket, []).append((serial, decision))
            if decision.kind is None:
                continue
            commit = commits.get(place.bucket)
            changes = [*commit.changes] if commit else []
            changes.append(change(serial, place.text, decision))
            due = min(due_at(decision, now), commit.due_at if commit else layout.NEVER_DUE)
            commits[place.bucket] = Commit(ca, place.bucket, place.bits, changes, due)
        too_large: list[int] = []
        for bucket, made in zip(commits, store.commit_many(commits.values()), strict=True):
            if isinstance(made, CommitConflict):
                report.conflicts += 1
                del decided[bucket]
            elif made.size > layout.BUCKET_SPLIT_ABOVE:
                too_large.append(bucket)
        for decisions in decided.values():
            for serial, decision in decisions:
                note(report, ca, serial, decision)
                del wanted[serial]
        _split_soon(store, ca, too_large)
        if not wanted:
            count(report)
            return report
    raise StoreUnavailable(f"{len(wanted)} statuses of {ca} met a conflict {MAX_TRIES} times")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the operator's word: the status that stands now, None where the serial has none."""

    status: Status | None
    kind: JournalKind | None
    refused: Refused | None


def revoke(
    store: Store,
    ca: str,
    serial_octets: bytes,
    reason: CRLReason | None,
    at: int,
    *,
    now: float,
    invalidity_date: int | None = None,
) -> Outcome:
    """Revoke by the operator's word, also a serial that nobody knows yet and a CA that was never loaded.

    When this returns the revocation is committed, also where it stood before: an earlier try may have been cut off
    before the replicas had it. Raises StoreUnavailable otherwise.
    """
    if reason is CRLReason.REMOVE_FROM_CRL:
        raise OperatorError("removeFromCRL does not revoke; it is a CRL's way to release a hold")
    if at < 0:
        raise OperatorError("a revocation before 1970 is one that no OCSP response can say")
    new = Status(
        CertStatus.REVOKED,
        revoked_at=at,
        reason=None if reason is CRLReason.UNSPECIFIED else reason,
        invalidity_date=invalidity_date,
        by_operator=True,
    )
    return _by_operator(store, ca, serial_octets, new, now)


def release(store: Store, ca: str, serial_octets: bytes, *, now: float) -> Outcome:
    """End a hold by the operator's word; as ``revoke``."""
    return _by_operator(store, ca, serial_octets, Status(CertStatus.GOOD), now)


def _by_operator(store: Store, ca: str, serial: bytes, new: Status, now: float) -> Outcome:
    info = store.ca_info(ca)
    if info is None:
        raise OperatorError("this CA is not in Redis yet: start revocast run, or load it, first")
    if info.bits is None:
        store.create_buckets(ca, layout.MIN_BITS)
    report = apply(store, ca, [(serial, new.to_text())], signal="operator", now=now)
    store.settle(ca)
    text = store.find_status(ca, serial)
    return Outcome(
        Status.from_text(text) if text is not None else None,
        next(iter(report.changes), None),
        next(iter(report.refused), None),
    )


# --- shared with full_pass.py ----------------------------------------------------------------------------------------


def stored_status(serial: bytes, text: str | None) -> Status | None:
    """Read what the store holds for a serial. Raises StoreUnavailable where it is no status: it may have been revoked."""
    try:
        return None if text is None else Status.from_text(text)
    except ValueError as error:
        raise StoreUnavailable(f"Redis holds no status for serial {serial.hex()}: {error}") from error


def change(serial: bytes, old_text: str | None, decision: Decision) -> Change:
    assert decision.kind is not None  # noqa: S101 - the callers have looked
    return Change(serial, old_text, decision.status.to_text() if decision.status else None, decision.kind)


def due_at(decision: Decision, now: float) -> float:
    """Return when a changed serial's bucket is to be signed.

    One that is dated ahead is due at once too: the good answer that was dropped is signed anew with a nextUpdate that
    does not pass the revocation, and the presigner comes back at its time.
    """
    if decision.status is None:
        return layout.NEVER_DUE
    in_effect = decision.status.at(now) is CertStatus.REVOKED
    if decision.kind == "released" or (decision.kind in ("revoked", "changed") and in_effect):
        return layout.DUE_REVOKED
    return now


def note(report: Report, ca: str, serial: bytes, decision: Decision) -> None:
    report.decided(serial, decision)
    if decision.refused in (Refused.PERMANENT, Refused.IN_EFFECT):
        log.error("transition_refused", ca=ca, serial_number=serial.hex(), reason=decision.refused.value)


def count(report: Report) -> None:
    """Bring a committed report into the metrics."""
    for kind, count in report.changes.items():
        STATUS_CHANGES.labels(kind).inc(count)
    for reason, count in report.refused.items():
        TRANSITIONS_REFUSED.labels(reason.value).inc(count)


def _split_soon(store: Store, ca: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        try:
            bucket = store.read_status_bucket(ca, number)
            if len(bucket.entries) > layout.BUCKET_SPLIT_ABOVE and bucket.bits < layout.MAX_BITS:
                store.split_bucket(ca, bucket)
                store.grow(ca, bucket.bits + 1)
        except CommitConflict:
            log.debug("split_put_off", ca=ca, bucket=f"{number:x}")  # the next commit will try again
