"""Answers what cannot be ready: nonces, several CertIDs, other hash algorithms, serials not signed yet or never issued.

Reads the workers' questions from a stream of the store and replies to each worker (encoding: responder/live.py). Every status
is read again after signing: an answer whose status has changed meanwhile is dropped. Only the answer to one CertID
without nonce, of a status that the store knows, is stored. Called by the presigning role, by the presigner's thread.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fastpath.ocsp_response import AnswerHeader, pack_answer
from responder import audit, metrics
from responder.clock import Clock
from responder.errors import CommitConflict, SignerUnavailable, StoreUnavailable
from responder.live import (
    MAX_QUESTIONS,
    QUESTION_TIMEOUT_S,
    REPLIES_EXPIRE_S,
    REPLIES_MAXLEN,
    Reply,
    ReplyKind,
    decode_ask,
    encode_replies,
)
from responder.log import get_logger
from responder.signing import ledger
from responder.signing.clock_guard import ClockGuard
from responder.signing.desk import Desk
from responder.signing.drafts import Draft, Waiting, draft_answer
from responder.signing.planning import free_slot
from responder.store.layout import DUE_ASKED_FOR
from responder.store.redis_store import Sight, Store, Watch
from responder.store.values import CAInfo, SignedAnswer

log = get_logger(__name__)

READ_ENTRIES = 20  # of the stream at a time, each a tick of one worker's loop
SLICE_S = 0.008  # what a slice of questions should take
FIRST_SLICE = 4  # questions, until the pace is known
MOST_IN_SLICE = 512
QUEUE_MOST = 4 * MAX_QUESTIONS  # questions held here; more are left in the stream
SHA256_NOTED_EVERY = 8  # times in a validity that a SHA-256 question is written down


@dataclass(slots=True)
class _Group:
    """The questions of a slice that are about one CA. ``same``: places in the slice; one question, asked by so many."""

    desk: Desk
    same: list[list[int]]
    watch: Watch
    before: Sight | None = None
    drafts: list[Draft] = field(default_factory=list)
    signatures: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Slice:
    """Questions that are answered together, and what is to be replied, by place."""

    asked: list[Waiting]
    groups: list[_Group]
    replies: dict[int, Reply]

    @property
    def watches(self) -> list[Watch]:
        """What reads the statuses that it is about."""
        return [group.watch for group in self.groups]


class LiveSigner:
    """Answers questions at the desks of the presigner.

    Two trips to Redis a slice: statuses are read again together with the taking of further questions, and the next slice's are
    read for the first time together with the replies.
    """

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock, guard: ClockGuard) -> None:
        """Raises StoreUnavailable."""
        store.load_ask()
        self._store = store
        self._desks = desks
        self._clock = clock
        self._guard = guard
        self._queue: deque[Waiting] = deque()
        self._next: _Slice | None = None  # whose statuses were looked at
        self._slice = FIRST_SLICE  # questions that are answered together
        self._bits: dict[str, int | None] = {}  # by CA: of its buckets, as they were last seen

    def serve(self, for_s: float) -> None:
        """Answer questions for that long, at least one slice of those that wait. Raises StoreUnavailable."""
        until = self._clock.monotonic() + for_s
        while (left := until - self._clock.monotonic()) > 0:
            self.poll(int(left * 1000) + 1)
        self.poll()

    def poll(self, block_ms: int | None = None) -> int:
        """Take questions and answer one slice of them; returns the signatures made.

        ``block_ms``: how long to wait for questions where none wait here. Raises StoreUnavailable.
        """
        if self._next is None:
            if not self._queue:
                self._exchange()
                if not self._queue and block_ms is not None:
                    self._store.await_live(block_ms)
                    self._exchange()
            self._next = self._pick()
            if self._next is None:
                return 0
            self._exchange(watches=self._next.watches, take=False)
        current, self._next = self._next, None
        began = self._clock.monotonic()
        made = self._answer(current)
        if made:
            # By what a slice takes as a whole: a token of many sessions signs faster the more there is to sign.
            each = max((self._clock.monotonic() - began) / made, 1e-6)
            self._slice = max(1, min(MOST_IN_SLICE, 4 * self._slice, int(SLICE_S / each)))
        self._next = self._pick()
        self._reply(current)
        return made

    def _pick(self) -> _Slice | None:
        """Take the next questions from those that wait here; None: there are none."""
        now = self._clock.monotonic()
        asked: list[Waiting] = []
        too_old = 0  # thousands, after a pause: those who wait still must not stand behind them
        while self._queue and len(asked) < self._slice:
            one = self._queue.popleft()
            if one.void_at > now:
                asked.append(one)
            else:
                too_old += 1
        if too_old:
            metrics.LIVE_REPLIES.labels("too_old").inc(too_old)
        if not asked:
            return None
        by_ca: dict[str, list[int]] = defaultdict(list)
        for at, one in enumerate(asked):
            by_ca[one.question.ca].append(at)
        current = _Slice(asked, [], {})
        for ca, numbers in by_ca.items():
            desk = self._desks.get(ca)
            if desk is None:
                current.replies |= {at: _try_later(asked[at]) for at in numbers}
                continue
            # The same one without nonce is signed once.
            same: dict[object, list[int]] = {}
            for at in numbers:
                question = asked[at].question
                alone = question.nonce_octets is not None
                same.setdefault(at if alone else (question.hash_name, question.serials), []).append(at)
            groups = list(same.values())
            serials = [serial for group in groups for serial in asked[group[0]].question.serials]
            current.groups.append(_Group(desk, groups, self._store.watch(ca, serials, self._bits.get(ca))))
        return current

    def _reply(self, current: _Slice) -> None:
        by_worker: dict[str, list[Reply]] = {}
        kinds = dict.fromkeys(ReplyKind, 0)
        for at, one in enumerate(current.asked):
            reply = current.replies.get(at)
            if reply is None:
                metrics.LIVE_REPLIES.labels("too_old").inc()
                continue
            by_worker.setdefault(one.worker, []).append(reply)
            kinds[reply.kind] += 1
        self._exchange(
            {worker: encode_replies(mine) for worker, mine in by_worker.items()},
            self._next.watches if self._next is not None else (),
            take=self._next is None,
        )
        for kind, count in kinds.items():
            if count:
                metrics.LIVE_REPLIES.labels(kind.name.lower()).inc(count)

    def _exchange(
        self,
        replies: Mapping[str, Mapping[bytes, bytes]] | None = None,
        watches: Sequence[Watch] = (),
        *,
        take: bool = True,
    ) -> None:
        """Reply, look, and take the questions that came meanwhile, in one trip."""
        count = READ_ENTRIES if take and len(self._queue) < QUEUE_MOST else 0
        entries = self._store.exchange_live(replies or {}, REPLIES_MAXLEN, REPLIES_EXPIRE_S, count, watches)
        if entries:
            self._queue_up(entries)
        metrics.LIVE_QUEUE.set(len(self._queue))

    def _queue_up(self, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        redis_now = self._clock.now() - self._guard.ahead_s
        monotonic = self._clock.monotonic()
        for entry_id, fields in entries:
            # Redis's own time of the entry: workers' clocks need not agree with ours.
            age_s = max(0.0, redis_now - int(entry_id.split(b"-")[0]) / 1000)
            try:
                ask = decode_ask(fields)
            except ValueError as error:
                metrics.LIVE_REPLIES.labels("malformed").inc()
                log.warning("question_not_understood", error=str(error))
                continue
            void_at = monotonic + QUESTION_TIMEOUT_S - age_s
            self._queue.extend([Waiting(ask.worker, question, void_at) for question in ask.questions])

    # --- one slice of questions -------------------------------------------------------------------------------------

    def _answer(self, current: _Slice) -> int:
        """Put the replies together; returns how many signatures that took."""
        if not self._guard.agrees():
            current.replies |= {at: _try_later(one) for at, one in enumerate(current.asked)}
            return 0
        signed = [group for group in current.groups if self._sign(current, group)]
        if signed:
            # Whatever was revoked while this was being signed: the answer is dropped.
            self._exchange(watches=[group.watch for group in signed])
        for group in signed:
            self._settle(current, group)
        for group in current.groups:
            for first, *others in group.same:
                reply = current.replies.get(first)
                if reply is not None:
                    current.replies |= {at: _with_id(reply, current.asked[at].question.id) for at in others}
        return sum(len(group.signatures) for group in signed)

    def _sign(self, current: _Slice, group: _Group) -> bool:
        """Sign what a group's questions need; returns whether anything was signed. The rest has its replies."""
        # A new signer may have taken the desk since the questions were picked, and the old one's key be closed.
        desk = group.desk = self._desks.get(group.desk.issuer.id, group.desk)
        asked = [current.asked[same[0]] for same in group.same]
        # Promise 2: as_of was read before the statuses.
        group.before = before = group.watch.sight
        info = None if before is None else before.info
        moment = None if info is None else desk.moment(self._clock.now(), info)
        if before is None:
            log.warning("live_store_unavailable", ca=desk.issuer.name, error=group.watch.error)
        if before is None or info is None or moment is None:
            current.replies |= {same[0]: _try_later(one) for same, one in zip(group.same, asked, strict=True)}
            return False
        self._bits[desk.issuer.id] = info.bits
        first, now = 0, self._clock.monotonic()  # first: of the question's serials in what was seen
        for same, one in zip(group.same, asked, strict=True):
            at, first = first, first + len(one.question.serials)
            if one.void_at <= now:
                continue  # nobody waits for it any more
            draft = draft_answer(desk, moment, same[0], one, before.texts[at:first], before.buckets[at])
            if isinstance(draft, ReplyKind):
                current.replies[same[0]] = Reply(one.question.id, draft)
            else:
                group.drafts.append(draft)
        if not group.drafts:
            return False
        try:
            audit.require()
            group.signatures = desk.press.sign([draft.message for draft in group.drafts], "live")
            _record(desk, group.drafts, group.signatures)
        except SignerUnavailable:
            current.replies |= {draft.place: _try_later(draft.waiting) for draft in group.drafts}
            return False
        return True

    def _settle(self, current: _Slice, group: _Group) -> None:
        """Make the replies of what was signed, but where the status is another by now."""
        desk, before, after = group.desk, group.before, group.watch.sight
        assert before is not None and before.info is not None  # noqa: S101, PT018 - _sign saw to it
        if after is None or after.info is None or after.info.override != before.info.override:
            current.replies |= {draft.place: _try_later(draft.waiting) for draft in group.drafts}
            return
        changed = group.watch.changed(before, after)
        to_store: list[tuple[Draft, bytes]] = []
        make_response = desk.signer.template.response
        for draft, signature in zip(group.drafts, group.signatures, strict=True):
            question = draft.waiting.question
            if changed and not changed.isdisjoint(question.serials):
                current.replies[draft.place] = _try_later(draft.waiting)
                continue
            may_be_kept = draft.may_be_kept
            this_update, next_update = draft.singles[0][-2:]
            for single in draft.singles[1:]:
                this_update, next_update = max(this_update, single.this_update), min(next_update, single.next_update)
            current.replies[draft.place] = Reply(
                question.id,
                ReplyKind.ANSWER,
                make_response(draft.message, signature),
                this_update,
                next_update,
                may_be_kept,
            )
            # What is not of the kinds that the presigner keeps up is the workers' alone.
            if may_be_kept and desk.stores(question.hash_name) and draft.texts[0] is not None:
                to_store.append((draft, signature))
        if to_store:
            try:
                self._put(desk, before.info, to_store)
            except StoreUnavailable as error:
                log.warning("live_store_unavailable", ca=desk.issuer.name, error=str(error))

    def _put(self, desk: Desk, info: CAInfo, signed: Iterable[tuple[Draft, bytes]]) -> None:
        """Store answers that are as good for the next who asks: one header for those of a bucket with the same times."""
        groups: dict[tuple[int, str, tuple[int, int, int, int]], list[tuple[Draft, bytes]]] = defaultdict(list)
        for draft, signature in signed:
            question = draft.waiting.question
            hash_name = desk.issuer.stored_by(question.hash_name)
            groups[draft.bucket, hash_name, draft.times].append((draft, signature))
        for (bucket, hash_name, times), members in groups.items():
            try:
                self._put_group(desk, info, bucket, hash_name, times, members)
            except CommitConflict:
                continue  # the reply stands, the presigner will sign it in its own time
        if desk.certid == "each" and any(hash_name == "sha256" for _, hash_name, _ in groups):
            self._note_sha256(desk, info)

    def _put_group(
        self,
        desk: Desk,
        info: CAInfo,
        bucket: int,
        hash_name: str,
        times: tuple[int, int, int, int],
        members: Sequence[tuple[Draft, bytes]],
    ) -> None:
        ca = desk.issuer.id
        header = AnswerHeader(*times[:3], desk.signer.signer_id, times[3])
        seen = self._store.read_answer_bucket(ca, bucket, hash_name)
        slot = free_slot(seen, header)
        if slot is None:
            self._store.make_due(ca, bucket, DUE_ASKED_FOR)
            return
        answers = []
        for draft, signature in members:
            single, text = draft.singles[0], draft.texts[0]
            assert text is not None  # noqa: S101 - may_be_kept saw to it
            status = (single.cert_status, single.revoked_at, single.reason)
            packed = pack_answer(slot, *status, single.has_archive_cutoff, signature, desk.is_dual)
            answers.append(SignedAnswer(draft.waiting.question.serials[0], text, packed))
        self._store.put_answers(
            ca, bucket, hash_name, slot, header.to_bytes(), answers, seen=seen, override=info.override
        )

    def _note_sha256(self, desk: Desk, info: CAInfo) -> None:
        now = self._clock.now()
        if info.sha256_asked is None or now - info.sha256_asked > desk.terms.validity // SHA256_NOTED_EVERY:
            self._store.set_sha256_asked(desk.issuer.id, now)


def _record(desk: Desk, drafts: Sequence[Draft], signatures: Sequence[bytes]) -> None:
    ledger.signed_live(
        desk,
        {"dual" if desk.is_dual and draft.may_be_kept else draft.waiting.question.hash_name for draft in drafts},
        [serial for draft in drafts for serial in draft.waiting.question.serials],
        [second for draft in drafts for single in draft.singles for second in single[-2:]],
        [draft.message for draft in drafts],
        signatures,
        drafts[0].moment.now,
    )


def _try_later(one: Waiting) -> Reply:
    return Reply(one.question.id, ReplyKind.TRY_LATER)


def _with_id(reply: Reply, id_: int) -> Reply:
    return Reply(id_, reply.kind, reply.response_der, reply.this_update, reply.next_update, reply.store_hint)
