"""Signs answers before they are asked for: what is due, in which order, and into the store.

A claim moves a bucket's due time forward, so that presigners share the work and a claim that dies comes due again. What
is to be signed is decided in planning.py and answers.py; statuses are only read here. Every answer is stored only where
the status that was signed still stands. Called by the presigning role and by the quickstart; one thread.
"""

from __future__ import annotations

import itertools
import select
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from responder.signing.press import Batch
from responder.signing.watch import Watch
from responder.store.layout import BUCKET_TARGET, DUE_ASKED_FOR, DUE_REVOKED, PARTITIONS
from responder.store.redis_store import Store
from responder.store.values import AnswerBucket, CAInfo, Claim, Finished, SignedAnswer, StatusBucket

log = get_logger(__name__)

LEASE_S = 30.0  # after which a claim that nobody finished is due again
CLAIM_SIGNING_S = 0.25  # signing that the claims of one moment are worth
LEAST_ELSEWHERE = 3  # a token signs two buckets, so that no session idles, while another is read and stored
MOST_CLAIMS = 24
FINISH_AT = 8  # buckets that are done, of which the store is told in one trip
FINISH_WITHIN_S = 0.5  # and no later than that: a slow key's next ones may take longer than the lease
MOST_URGENT = 4  # that one such look takes
URGENT_LOOK_S = 0.05  # between looks at what goes before all that the keys are busy with
WAIT_S = 0.005  # for a token's signatures, between two looks at questions
NOT_LOADED_RECHECK_S = 1.0  # a bucket of a CA whose first load is under way
FOREIGN_RECHECK_S = 5.0  # a bucket of a CA that this configuration does not have; another presigner may
BUSY_RECHECK_S = 5.0  # a bucket of a key that has enough to do
FAILED_RECHECK_S = 5.0  # a bucket of a key that failed
MISSING_RECHECK_S = 5.0  # a bucket whose statuses Redis has lost
STORE_FULL = 0.85  # of maxmemory: above it only revocations are signed, so that they always fit
LOOK_AROUND_S = 5.0  # between looks at memory and figures


@dataclass(slots=True)
class _Part:
    """Answers of one hash kind under one header: signed as one batch, stored by one script."""

    hash_name: str
    group: Group
    wanted: Mapping[bytes, Wanted]
    replace: bool  # the whole answers hash
    batch: Batch


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
    override: str | None = None  # that was signed
    let_go: str | None = None  # the kind of answers that is no longer kept up: dropped, not kept to run out
    parts: list[_Part] = field(default_factory=list)
    stored: list[Callable[[], int]] = field(default_factory=list)

    @property
    def is_urgent(self) -> bool:
        """A revocation or release, or somebody asked."""
        return self.claim.score <= DUE_ASKED_FOR

    @property
    def is_signed(self) -> bool:
        """Nothing more comes from the key."""
        return all(part.batch.done for part in self.parts)


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
    ) -> None:
        """Set up a desk for each CA that has a signer; ``signers`` by the CA's id in the store (``Issuer.id``).

        ``guard``: by default the clock is compared with Redis TIME. Raises StoreUnavailable.
        """
        self._store = store
        self.desks = open_desks(store, issuers, signers, clock)
        self._clock = clock
        self._guard = guard or ClockGuard(clock, store.time)
        self._last_refusal: SignerUnavailable | None = None
        self._to_begin: list[Claim] = []  # claimed in this turn
        self._works: deque[_Work] = deque()  # claimed, being signed, in the order of their claims
        self._under_way: Counter[Desk] = Counter()  # how many of these, by CA
        self._sent: deque[_Work] = deque()  # signed, being stored
        self._finished: list[Finished] = []  # stored; the store is still to be told when they are due again
        self._finished_since = 0.0  # monotonic: the first of them
        self._urgent_looked_at = float("-inf")  # monotonic
        self._claimed: int | None = None  # in this turn; None: it was not tried
        self._conflicts: set[tuple[str, int]] = set()  # buckets whose last answers were not stored
        self._looked_around = float("-inf")
        self._store_is_full = False
        self._figures = Figures(store, self.desks, clock)
        self.watch = Watch(store, self.desks, clock)
        self._round_began: float | None = None  # monotonic: since when there is work
        self._round_made = 0

    def pending(self) -> int:
        """Return how many buckets are due now."""
        return self._store.due_counts(self._clock.now())[0]

    def run_until_idle(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Sign until nothing is due that may be signed here and now; ``progress`` hears how many signatures were made so far. Returns that number.

        Raises SignerUnavailable where a key failed, and OperatorError where the clock is wrong.
        """
        made = 0
        with self._giving_back():
            while True:
                was_idle = self.is_idle
                made += self.turn()
                progress(made)
                if self._last_refusal is not None:
                    raise self._last_refusal
                if self.is_idle:
                    if not self._guard.agrees():
                        raise OperatorError(
                            f"this machine's clock is {self._guard.ahead_s:+.1f} s from Redis's: nothing is signed"
                        )
                    if was_idle and self._claimed == 0:
                        return made  # what is due yet is another presigner's, or has to wait
                self.wait(WAIT_S)

    def run_once(self) -> int:
        """Claim some due buckets, the most urgent ones, and see them through; returns the signatures made.

        Raises StoreUnavailable; what was claimed then comes due again.
        """
        made = 0
        with self._giving_back():
            if self._may_sign():
                self._claim(max(map(self._room, self.desks.values()), default=0))
            while not self.is_idle:
                made += self._advance()
                self.wait(WAIT_S)
        return made

    def turn(self) -> int:
        """Do a little of what is due: some milliseconds of work, and no waiting; returns the signatures made.

        Claims, a slice of signing, and what is signed off to the store; between two turns questions may be answered.
        Raises StoreUnavailable; what was claimed then comes due again.
        """
        with self._giving_back():
            self._claimed = None
            if self._may_sign():
                # A few at a time: a claim is a trip for one bucket as for several.
                free = [room for desk in self.desks.values() if (room := self._room(desk)) * 2 >= self._under_way[desk]]
                now = self._clock.monotonic()
                if max(free, default=0) > 0:
                    self._claimed = self._claim(max(free))
                elif now - self._urgent_looked_at >= URGENT_LOOK_S:
                    # The keys are busy enough; only what goes before all that they do is taken.
                    self._urgent_looked_at = now
                    self._claim(MOST_URGENT, urgent_only=True)
            return self._advance()

    def wait(self, within_s: float) -> None:
        """Wait until a token has signed something, where tokens are all that is waited for; else not at all."""
        busy = [desk.press for desk in self._under_way if desk.press.is_busy]
        files = [number for press in busy if (number := press.fileno()) is not None]
        if files and len(files) == len(busy):
            select.select(files, [], [], within_s)

    @property
    def is_idle(self) -> bool:
        """Nothing is claimed."""
        return not (self._works or self._sent or self._finished)

    def signs_with(self, signer: ResponseSigner) -> bool:
        """Say whether something is under way with a signer, though another may have its desk by now."""
        return any(works for desk, works in self._under_way.items() if desk.signer is signer)

    def give_back(self) -> None:
        """Let go of what is claimed: it is due again at once, for whoever comes next."""
        finished, claims = self._finished, {work.claim for work in (*self._works, *self._sent)} | set(self._to_begin)
        for work in self._works:
            work.desk.press.drop([part.batch for part in work.parts])
        self._to_begin = []
        self._works.clear()
        self._sent.clear()
        self._under_way.clear()
        self._finished = []
        try:
            self._store.finish_claims([*finished, *(Finished(claim, claim.score) for claim in claims)])
        except StoreUnavailable as error:
            log.warning("claims_not_given_back", error=str(error), due_again_in_s=LEASE_S)

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        self._last_refusal = None
        if self._round_began is None:
            self._round_began = self._clock.monotonic()
        try:
            yield
        except BaseException:
            self.give_back()
            raise
        finally:
            if self.is_idle:
                self._round_began = None

    def _may_sign(self) -> bool:
        if not self._guard.agrees():
            return False
        try:
            audit.require()
        except SignerUnavailable as error:
            self._last_refusal = error
            return False
        self._look_around()
        return True

    def _room(self, desk: Desk) -> int:
        """Say how many more of a CA's buckets may be under way: all of them its key should sign in CLAIM_SIGNING_S.

        A slow key has a few all the same, but not so many that the last one's lease would run out.
        """
        bucket_s = BUCKET_TARGET * max(desk.press.seconds_each, 1e-6)
        most = int(CLAIM_SIGNING_S / bucket_s)
        least = max(1, min(LEAST_ELSEWHERE, int(LEASE_S / 2 / bucket_s))) if desk.press.signs_elsewhere else 1
        return max(least, min(MOST_CLAIMS, most)) - self._under_way[desk]

    def _claim(self, limit: int, *, urgent_only: bool = False) -> int:
        """Claim up to ``limit`` buckets and have them signed; returns how many were won."""
        now = self._clock.now()
        due_at, lease_s = now, LEASE_S
        if self._store_is_full:
            urgent_only = True
        if urgent_only:
            due_at = float(DUE_REVOKED if self._store_is_full else DUE_ASKED_FOR)
            lease_s = now + LEASE_S - due_at
        # What is urgent for a key that rests keeps its place, and is the first that is signed when it works again.
        awake = [ca for ca, desk in self.desks.items() if not desk.press.is_resting]
        if limit <= 0 or not awake:
            return 0
        claims = self._store.claim_due(range(PARTITIONS), due_at, lease_s, limit, awake)
        self._to_begin = claims
        # Neighbours of one CA together, and never a later claim before a more urgent one.
        for ca, group in itertools.groupby(claims, key=lambda claim: claim.ca):
            self._begin(ca, list(group))
        self._to_begin = []
        return len(claims)

    def _begin(self, ca: str, claims: Sequence[Claim]) -> None:
        """Have neighbouring claims of one CA signed."""
        now = self._clock.now()
        desk = self.desks.get(ca)
        if desk is None:
            self._store.finish_claims([Finished(claim, now + FOREIGN_RECHECK_S) for claim in claims])
            return
        # Promise 2: as_of before the statuses, which are then at least that new.
        info = self._store.ca_info(ca)
        if info is None or desk.moment(now, info) is None:
            self._store.finish_claims([Finished(claim, now + NOT_LOADED_RECHECK_S) for claim in claims])
            return
        # What this key has no time for is left to others, and looked at later: the next key may be idle.
        taken = [claim for at, claim in enumerate(claims) if claim.score <= DUE_ASKED_FOR or at < self._room(desk)]
        finished = [Finished(claim, now + BUSY_RECHECK_S) for claim in claims if claim not in taken]
        for work in self._read(desk, info, taken, finished):
            self._sign_bucket(work)
            self._works.append(work)
            self._under_way[desk] += 1
        self._store.finish_claims(finished)

    def _advance(self) -> int:
        """Have every key sign a little, and send what is signed to the store; returns the signatures made."""
        # Redis stores one round while the next is being signed.
        self._settle(self._sent)
        made = sum(desk.press.pump() for desk, works in self._under_way.items() if works)
        signed = [work for work in self._works if work.is_signed]
        for work in signed:
            self._works.remove(work)
            self._under_way[work.desk] -= 1
            if not self._under_way[work.desk]:
                del self._under_way[work.desk]  # it may have been replaced
            self._sent.append(work)
            self._send(work)
        if not self._works:
            self._settle(self._sent)
        self._note_round(made)
        return made

    def _note_round(self, made: int) -> None:
        now = self._clock.monotonic()
        self._round_made += made
        if self._round_began is not None and (self.is_idle or now - self._round_began >= CLAIM_SIGNING_S):
            self.watch.note(self._round_made, now - self._round_began)
            self._round_began, self._round_made = None if self.is_idle else now, 0

    def _settle(self, sent: deque[_Work]) -> None:
        """Wait until what was sent is stored, and say, some buckets at a time, when they are due again."""
        now = self._clock.monotonic()
        if not self._finished:
            self._finished_since = now
        self._finished += [self._finish(work) for work in sent]
        sent.clear()
        waited = now - self._finished_since
        if len(self._finished) >= FINISH_AT or waited >= FINISH_WITHIN_S or not self._works:
            finished, self._finished = self._finished, []
            self._store.finish_claims(finished)

    def _finish(self, work: _Work) -> Finished:
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

    def _sign_bucket(self, work: _Work) -> None:
        """Have the key sign what one bucket needs."""
        desk, claim = work.desk, work.claim
        now = self._clock.now()
        moment = desk.moment(now, work.info)
        if moment is None:
            work.next_due = now + NOT_LOADED_RECHECK_S
            return
        work.override = moment.override
        wanted = self._wanted(desk, moment, work.bucket)
        spread = spread_of(claim.ca, claim.bucket)
        first, *others = work.seen
        plan = plan_bucket(moment, wanted, work.seen[first], spread, score=claim.score, is_dual=desk.is_dual)
        self._figures.note(desk, plan, moment)
        work.next_due, work.next_update = plan.next_due, plan.next_update
        self._submit(work, first, plan, wanted)
        for other in others:
            # An urgent claim is for what has changed; SHA-256 answers that were never made can wait.
            changed = None
            if work.is_urgent:
                changed = frozenset(serial for group in plan.groups for serial in group.serials)
            plan = plan_bucket(moment, wanted, work.seen[other], spread, changed)
            self._submit(work, other, plan, wanted)
            work.next_due = min(work.next_due, plan.next_due)
            work.next_update = min(work.next_update, plan.next_update)
        # With "each" there are SHA-256 answers only after somebody has asked for them.
        if plan.afresh and not others and (desk.certid != "each" or work.info.sha256_asked is not None):
            work.let_go = "sha256" if first == "sha1" else "sha1"

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

    def _submit(self, work: _Work, hash_name: str, plan: Plan, wanted: Mapping[bytes, Wanted]) -> None:
        """Have the key sign a plan, group by group."""
        replace = plan.afresh
        for group in plan.groups:
            batch = work.desk.press.submit(
                _messages(work.desk, hash_name, group, wanted),
                "urgent" if work.is_urgent else "routine",
                urgent=work.is_urgent,
            )
            work.parts.append(_Part(hash_name, group, wanted, replace, batch))
            replace = False

    def _send(self, work: _Work) -> None:
        """Send what was signed to the store; where the key has failed, nothing of the bucket."""
        try:
            for part in work.parts:
                if part.batch.error is not None:
                    raise part.batch.error
            for part in work.parts:
                # Before anything of it is stored: nothing is served that the audit log does not have.
                ledger.signed(
                    work.desk,
                    work.bucket.bucket,
                    part.hash_name,
                    work.claim.score,
                    part.group.header,
                    part.group.serials,
                    part.batch.messages,
                    part.batch.signatures,
                )
        except SignerUnavailable as error:
            self._last_refusal = error
            # A revocation stays one; routine work makes room for other keys'.
            again = work.claim.score if work.is_urgent else self._clock.now() + FAILED_RECHECK_S
            work.next_due, work.next_update = again, None
            return
        for part in work.parts:
            seen, slot = work.seen[part.hash_name], part.group.slot
            header_der = part.group.header.to_bytes()
            is_dual, texts = work.desk.is_dual, work.bucket.entries
            answers = []
            for serial, signature in zip(part.group.serials, part.batch.signatures, strict=True):
                want = part.wanted[serial]
                packed = pack_answer(
                    slot,
                    want.cert_status,
                    want.revoked_at,
                    want.reason,
                    want.has_archive_cutoff,
                    signature,
                    is_dual,
                )
                answers.append(SignedAnswer(serial, texts[serial], packed))
            work.stored.append(
                self._store.send_answers(
                    work.desk.issuer.id,
                    work.bucket.bucket,
                    part.hash_name,
                    slot,
                    header_der,
                    answers,
                    seen=seen,
                    override=work.override,
                    replace=part.replace,
                )
            )
            after = AnswerBucket({} if part.replace else dict(seen.headers))
            after.headers[slot] = header_der
            work.seen[part.hash_name] = after
        if work.let_go is not None:
            self._store.drop_answers(work.claim.ca, work.claim.bucket, work.let_go)

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
    return desk.messages(hash_name, group.serials, wanted, times)
