"""Signs answers before they are asked for: what is due, in which order, and into the store.

A claim moves a bucket's due time forward, so that presigners share the work and a claim that dies comes due again. What
is to be signed is decided in planning.py and answers.py; statuses are only read here. Every answer is stored only where
the status that was signed still stands. Called by the presigning role and by the quickstart; one thread.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastpath.ocsp_response import pack_answer
from responder import audit, metrics
from responder.clock import Clock
from responder.errors import CommitConflict, OperatorError, SignerUnavailable, StoreUnavailable
from responder.issuers import Issuers
from responder.log import get_logger
from responder.signing import ledger
from responder.signing.answers import Moment, Wanted, spread_of
from responder.signing.clock_guard import ClockGuard
from responder.signing.delegation import ResponseSigner
from responder.signing.desk import Desk, open_desks
from responder.signing.figures import Figures
from responder.signing.planning import Group, Plan, plan_bucket
from responder.signing.watch import Watch
from responder.store.layout import BUCKET_TARGET, DUE_ASKED_FOR, DUE_REVOKED, PARTITIONS
from responder.store.redis_store import Store
from responder.store.values import AnswerBucket, CAInfo, Claim, Finished, SignedAnswer, StatusBucket

log = get_logger(__name__)

LEASE_S = 30.0  # after which a claim that nobody finished is due again
CLAIM_SIGNING_S = 0.25  # signing that one round of claims is worth: a revocation waits no longer than that
MOST_CLAIMS = 16
NOT_LOADED_RECHECK_S = 1.0  # a bucket of a CA whose first load is under way
FOREIGN_RECHECK_S = 5.0  # a bucket of a CA that this configuration does not have; another presigner may
FAILED_RECHECK_S = 5.0  # a bucket of a key that failed
MISSING_RECHECK_S = 5.0  # a bucket whose statuses Redis has lost
STORE_FULL = 0.85  # of maxmemory: above it only revocations are signed, so that they always fit
LOOK_AROUND_S = 5.0  # between looks at memory and figures


@dataclass(slots=True, eq=False)
class _Work:
    """One claimed bucket under work. ``seen``: its answers by hash; ``stored``: waits for what was sent to the store."""

    desk: Desk
    info: CAInfo
    claim: Claim
    bucket: StatusBucket
    seen: dict[str, AnswerBucket]
    began: float  # monotonic
    next_due: float = 0.0
    next_update: float | None = None  # the soonest of its answers once all is stored
    stored: list[Callable[[], int]] = field(default_factory=list)

    @property
    def is_urgent(self) -> bool:
        """A revocation or release, or somebody asked."""
        return self.claim.score <= DUE_ASKED_FOR


class Presigner:
    """Keeps every answer of the desks' CAs in date."""

    def __init__(
        self,
        store: Store,
        issuers: Issuers,
        signers: Mapping[str, ResponseSigner],
        clock: Clock,
        *,
        guard: ClockGuard | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> None:
        """Set up a desk for each CA that has a signer; ``signers`` by the CA's id in the store (``Issuer.id``).

        ``guard``: by default the clock is compared with Redis TIME. ``between`` is called between slices of signing; what
        it raises goes through, and the claims are given back. Raises StoreUnavailable.
        """
        self._store = store
        self.desks = open_desks(store, issuers, signers, clock)
        self._clock = clock
        self._guard = guard or ClockGuard(clock, store.time)
        self._between = between
        self._last_refusal: SignerUnavailable | None = None
        self._claimed = 0
        self._conflicts: set[tuple[str, int]] = set()  # buckets whose last answers were not stored
        self._looked_around = float("-inf")
        self._store_is_full = False
        self._figures = Figures(store, self.desks, clock)
        self.watch = Watch(store, self.desks, clock)

    def pending(self) -> int:
        """Return how many buckets are due now."""
        return self._store.due_counts(self._clock.now())[0]

    def run_until_idle(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Sign until nothing is due; ``progress`` hears how many signatures were made so far. Returns that number.

        Raises SignerUnavailable where a key failed, and OperatorError where the clock is wrong.
        """
        made = 0
        while True:
            if not self._guard.agrees():
                raise OperatorError(
                    f"this machine's clock is {self._guard.ahead_s:+.1f} s from Redis's: nothing is signed"
                )
            made += self.run_once()
            progress(made)
            if self._last_refusal is not None:
                raise self._last_refusal
            if self._claimed == 0 and self.pending() == 0:
                return made

    def run_once(self) -> int:
        """Claim some due buckets, the most urgent ones, and sign what they need; returns the signatures made.

        Raises StoreUnavailable; what was claimed then comes due again.
        """
        self._last_refusal = None
        self._claimed = 0
        if not self._guard.agrees():
            return 0
        try:
            audit.require()
        except SignerUnavailable as error:
            self._last_refusal = error
            return 0
        self._look_around()
        began = self._clock.monotonic()
        open_claims = self._claim()
        self._claimed = len(open_claims)
        made = 0
        try:
            # Neighbours of one CA together, and never a later claim before a more urgent one.
            for ca, group in itertools.groupby(list(open_claims), key=lambda claim: claim.ca):
                made += self._sign_claims(ca, list(group), open_claims)
        finally:
            self._give_back(open_claims)
            self.watch.note(made, self._clock.monotonic() - began)
        return made

    def _claim(self) -> list[Claim]:
        slowest = max((desk.press.seconds_each for desk in self.desks.values()), default=0.0)
        limit = max(1, min(MOST_CLAIMS, int(CLAIM_SIGNING_S / (BUCKET_TARGET * max(slowest, 1e-6)))))
        now = self._clock.now()
        due_at, lease_s = now, LEASE_S
        if self._store_is_full:
            due_at, lease_s = float(DUE_REVOKED), now + LEASE_S - DUE_REVOKED
        return self._store.claim_due(range(PARTITIONS), due_at, lease_s, limit, list(self.desks))

    def _give_back(self, claims: Iterable[Claim]) -> None:
        try:
            self._store.finish_claims([Finished(claim, claim.score) for claim in claims])
        except StoreUnavailable as error:
            log.warning("claims_not_given_back", error=str(error), due_again_in_s=LEASE_S)

    def _sign_claims(self, ca: str, claims: Sequence[Claim], open_claims: list[Claim]) -> int:
        """Sign neighbouring claims of one CA, and take those that are finished out of ``open_claims``."""
        now = self._clock.now()
        desk = self.desks.get(ca)
        if desk is None:
            self._finish([Finished(claim, now + FOREIGN_RECHECK_S) for claim in claims], open_claims)
            return 0
        # Promise 2: as_of before the statuses, which are then at least that new.
        info = self._store.ca_info(ca)
        if info is None or desk.moment(now, info) is None:
            self._finish([Finished(claim, now + NOT_LOADED_RECHECK_S) for claim in claims], open_claims)
            return 0
        made = 0
        finished: list[Finished] = []
        ahead: deque[_Work] = deque()
        for work in self._read(desk, info, claims, finished):
            try:
                made += self._sign_bucket(work)
            except SignerUnavailable as error:
                self._last_refusal = error
                work.next_due, work.next_update = self._clock.now() + FAILED_RECHECK_S, None
            ahead.append(work)
            # Redis stores one bucket while the next is being signed.
            if len(ahead) > 1:
                finished.append(self._settle(ahead.popleft()))
        finished += [self._settle(work) for work in ahead]
        self._finish(finished, open_claims)
        return made

    def _finish(self, finished: Sequence[Finished], open_claims: list[Claim]) -> None:
        self._store.finish_claims(finished)
        for one in finished:
            open_claims.remove(one.claim)

    def _settle(self, work: _Work) -> Finished:
        """Wait until what was signed is stored; returns when the bucket is due again."""
        place = (work.claim.ca, work.claim.bucket)
        try:
            for stored in work.stored:
                stored()
            self._conflicts.discard(place)
        except CommitConflict as conflict:
            # Another presigner's lease ran out, or the CA's override changed: read again at once. But not for ever, should
            # rc:ca:<ca> have an override that the partition lacks, because setting it was cut short.
            work.next_due, work.next_update = work.claim.score, None
            if place in self._conflicts:
                work.next_due = self._clock.now() + FAILED_RECHECK_S
                log.warning("answers_not_stored", ca=work.desk.issuer.name, reason=str(conflict))
            self._conflicts.add(place)
        metrics.BATCH_SECONDS.observe(max(0.0, self._clock.monotonic() - work.began))
        return Finished(work.claim, work.next_due, work.next_update)

    def _read(self, desk: Desk, info: CAInfo, claims: Sequence[Claim], finished: list[Finished]) -> Iterator[_Work]:
        """Read statuses, then answers, of claimed buckets; one that is missing is ``finished``, to be looked at again."""
        ca, now = desk.issuer.id, self._clock.now()
        there: list[tuple[Claim, StatusBucket]] = []
        try:
            statuses = self._store.read_status_buckets(ca, [claim.bucket for claim in claims])
            there = list(zip(claims, statuses, strict=True))
        except StoreUnavailable:
            for claim in claims:  # one of them may be lost; then the others are signed all the same
                try:
                    there.append((claim, self._store.read_status_bucket(ca, claim.bucket)))
                except StoreUnavailable as error:
                    log.error("bucket_is_missing", ca=desk.issuer.name, error=str(error))
                    finished.append(Finished(claim, now + MISSING_RECHECK_S))
            if not there:
                self._store.time()  # raises where Redis is gone; else these buckets alone are, and the others are not held up
        hash_names = desk.kept(info, now)
        numbers = [claim.bucket for claim, _ in there]
        seen = [self._store.read_answer_buckets(ca, numbers, hash_name) for hash_name in hash_names]
        for (claim, bucket), *of_hashes in zip(there, *seen, strict=True):
            yield _Work(
                desk, info, claim, bucket, dict(zip(hash_names, of_hashes, strict=True)), self._clock.monotonic()
            )

    def _sign_bucket(self, work: _Work) -> int:
        """Sign what one bucket needs and send it off; returns the signatures made."""
        desk, claim = work.desk, work.claim
        now = self._clock.now()
        moment = desk.moment(now, work.info)
        if moment is None:
            work.next_due = now + NOT_LOADED_RECHECK_S
            return 0
        wanted = self._wanted(desk, moment, work.bucket)
        spread = spread_of(claim.ca, claim.bucket)
        first, *others = work.seen
        plan = plan_bucket(moment, wanted, work.seen[first], spread, score=claim.score, is_dual=desk.is_dual)
        self._figures.note(desk, plan, moment)
        work.next_due, work.next_update = plan.next_due, plan.next_update
        made = self._carry_out(work, moment, first, plan, wanted)
        for other in others:
            # An urgent claim is for what has changed; SHA-256 answers that were never made can wait.
            changed = None
            if work.is_urgent:
                changed = frozenset(serial for group in plan.groups for serial in group.serials)
            plan = plan_bucket(moment, wanted, work.seen[other], spread, changed)
            made += self._carry_out(work, moment, other, plan, wanted)
            work.next_due = min(work.next_due, plan.next_due)
            work.next_update = min(work.next_update, plan.next_update)
        if plan.afresh and not others:
            # Answers of the kind that is no longer kept up are let go, not kept to run out.
            self._drop_other(work, "sha256" if first == "sha1" else "sha1")
        return made

    def _drop_other(self, work: _Work, hash_name: str) -> None:
        # With "each" there are SHA-256 answers only after somebody has asked for them.
        if work.desk.certid != "each" or work.info.sha256_asked is not None:
            self._store.drop_answers(work.claim.ca, work.claim.bucket, hash_name)

    def _wanted(self, desk: Desk, moment: Moment, bucket: StatusBucket) -> dict[bytes, Wanted]:
        wanted: dict[bytes, Wanted] = {}
        for serial, text in bucket.entries.items():
            try:
                want = moment.wanted(text)
            except ValueError as error:
                log.error("status_not_understood", ca=desk.issuer.name, serial_number=serial.hex(), error=str(error))
                continue
            if want is not None:
                wanted[serial] = want
        return wanted

    def _carry_out(
        self, work: _Work, moment: Moment, hash_name: str, plan: Plan, wanted: Mapping[bytes, Wanted]
    ) -> int:
        """Sign a plan and send it to the store, group by group; returns the signatures made."""
        desk, bucket, seen = work.desk, work.bucket, work.seen[hash_name]
        made = 0
        replace = plan.afresh
        for group in plan.groups:
            audit.require()
            messages = _messages(desk, hash_name, group, wanted)
            signatures = desk.press.sign(messages, "urgent" if work.is_urgent else "routine", self._between)
            # Before anything of it is stored: nothing is served that the audit log does not have.
            ledger.signed(desk, bucket.bucket, hash_name, work.claim.score, group.header, group.serials, messages)
            made += len(signatures)
            header_der = group.header.to_bytes()
            answers = [
                SignedAnswer(serial, bucket.entries[serial], _packed(desk, group.slot, wanted[serial], signature))
                for serial, signature in zip(group.serials, signatures, strict=True)
            ]
            work.stored.append(
                self._store.send_answers(
                    desk.issuer.id,
                    bucket.bucket,
                    hash_name,
                    group.slot,
                    header_der,
                    answers,
                    seen=seen,
                    override=moment.override,
                    replace=replace,
                )
            )
            seen = AnswerBucket({} if replace else dict(seen.headers))
            seen.headers[group.slot] = header_der
            replace = False
        return made

    def _look_around(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_around < LOOK_AROUND_S:
            return
        self._looked_around = now
        fraction = self._store.memory_fraction()
        if (fraction > STORE_FULL) is not self._store_is_full:
            self._store_is_full = fraction > STORE_FULL
            if self._store_is_full:
                log.error("store_is_full", used=round(fraction, 3), consequence="only revocations are signed")
            else:
                log.info("store_has_room_again", used=round(fraction, 3))
        self.watch.look(self._figures.look())


def _messages(desk: Desk, hash_name: str, group: Group, wanted: Mapping[bytes, Wanted]) -> list[bytes]:
    header = group.header
    times = (header.this_update, header.next_update, header.produced_at, header.archive_cutoff)
    return [desk.message(hash_name, serial, wanted[serial], times) for serial in group.serials]


def _packed(desk: Desk, slot: int, wanted: Wanted, signature: bytes) -> bytes:
    status = (wanted.cert_status, wanted.revoked_at, wanted.reason)
    return pack_answer(slot, *status, wanted.has_archive_cutoff, signature, desk.is_dual)
