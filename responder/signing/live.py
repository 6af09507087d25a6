"""Answers what cannot be ready: nonces, several CertIDs, other hash algorithms, serials not signed yet or never issued.

Reads the workers' questions from a stream of the store and replies to each worker (encoding: responder/live.py). Every status
is read again after signing: an answer whose status has changed meanwhile is dropped. Only the answer to one CertID
without nonce, of a status that the store knows, is stored. Called by the presigning role, by the presigner's thread.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fastpath.ocsp_response import (
    EXTENDED_REVOKE_DER,
    AnswerHeader,
    encode_response_extension_nonce,
    pack_answer,
)
from responder import audit, metrics
from responder.clock import Clock
from responder.errors import CommitConflict, SignerUnavailable, StoreUnavailable
from responder.live import (
    MAX_QUESTIONS,
    QUESTION_TIMEOUT_S,
    REPLIES_EXPIRE_S,
    REPLIES_MAXLEN,
    Question,
    Reply,
    ReplyKind,
    decode_ask,
    encode_replies,
)
from responder.log import get_logger
from responder.signing import ledger
from responder.signing.answers import NO_TIME, Moment, Wanted
from responder.signing.clock_guard import ClockGuard
from responder.signing.desk import Desk
from responder.signing.planning import free_slot
from responder.store.layout import DUE_ASKED_FOR, STORED_HASHES
from responder.store.redis_store import Sight, Store, Watch
from responder.store.values import CAInfo, SignedAnswer

log = get_logger(__name__)

READ_ENTRIES = 20  # of the stream at a time, each a tick of one worker's loop
SLICE_S = 0.008  # what a slice of questions should take
FIRST_SLICE = 4  # questions, until the pace is known
MOST_IN_SLICE = 512
QUEUE_MOST = 4 * MAX_QUESTIONS  # questions held here; more are left in the stream
SHA256_NOTED_EVERY = 8  # times in a validity that a SHA-256 question is written down


class _Waiting(NamedTuple):
    """A question, whom to reply to, and when it is void (on the monotonic clock)."""

    worker: str
    question: Question
    void_at: float


class _Draft(NamedTuple):
    """What is to be signed for one question. ``texts``: the statuses of its serials, which must be the same afterwards."""

    waiting: _Waiting
    moment: Moment
    texts: list[str | None]
    bucket: int  # of the first serial
    singles: list[Wanted]
    message: bytes

    @property
    def times(self) -> tuple[int, int, int, int]:
        """thisUpdate, nextUpdate, producedAt, archiveCutoff of an answer with one CertID."""
        return (*self.singles[0][-2:], self.moment.now, self.moment.archive_cutoff)

    @property
    def may_be_kept(self) -> bool:
        """The worker may give it to others until the journal names its bucket."""
        return _may_be_kept(self.waiting.question, self.texts)


class LiveSigner:
    """Answers questions at the desks of the presigner."""

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock, guard: ClockGuard) -> None:
        self._store = store
        self._desks = desks
        self._clock = clock
        self._guard = guard
        self._queue: deque[_Waiting] = deque()
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
        if not self._queue:
            self._exchange([], [])
            if not self._queue and block_ms is not None:
                self._store.await_live(block_ms)
                self._exchange([], [])
        if not self._queue:
            return 0
        began = self._clock.monotonic()
        current: list[_Waiting] = []
        too_old = 0  # thousands, after a pause: those who wait still must not stand behind them
        while self._queue and len(current) < self._slice:
            one = self._queue.popleft()
            if one.void_at > began:
                current.append(one)
            else:
                too_old += 1
        if too_old:
            metrics.LIVE_REPLIES.labels("too_old").inc(too_old)
        replies, made = self._answer(current)
        if made:
            # By what a slice takes as a whole: a token of many sessions signs faster the more there is to sign.
            each = max((self._clock.monotonic() - began) / made, 1e-6)
            self._slice = max(1, min(MOST_IN_SLICE, 4 * self._slice, int(SLICE_S / each)))
        self._exchange(current, replies)
        return made

    def _exchange(self, asked: Sequence[_Waiting], replies: Sequence[Reply]) -> None:
        """Reply, and take the questions that came meanwhile, in one trip."""
        by_worker: dict[str, list[Reply]] = {}
        kinds = dict.fromkeys(ReplyKind, 0)
        for one, reply in zip(asked, replies, strict=True):
            by_worker.setdefault(one.worker, []).append(reply)
            kinds[reply.kind] += 1
        entries = self._store.exchange_live(
            {worker: encode_replies(mine) for worker, mine in by_worker.items()},
            REPLIES_MAXLEN,
            REPLIES_EXPIRE_S,
            0 if len(self._queue) >= QUEUE_MOST else READ_ENTRIES,
        )
        for kind, count in kinds.items():
            if count:
                metrics.LIVE_REPLIES.labels(kind.name.lower()).inc(count)
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
            self._queue.extend([_Waiting(ask.worker, question, void_at) for question in ask.questions])

    # --- one slice of questions -------------------------------------------------------------------------------------

    def _answer(self, asked: Sequence[_Waiting]) -> tuple[list[Reply], int]:
        """Answer questions; the same one without nonce is signed once. Returns the replies in order, and signatures."""
        replies: dict[int, Reply] = {}
        if not self._guard.agrees():
            return [_try_later(one) for one in asked], 0
        by_ca: dict[str, list[int]] = defaultdict(list)
        for at, one in enumerate(asked):
            by_ca[one.question.ca].append(at)
        made = 0
        for ca, numbers in by_ca.items():
            desk = self._desks.get(ca)
            if desk is None:
                replies |= {at: _try_later(asked[at]) for at in numbers}
                continue
            same: dict[object, list[int]] = {}
            for at in numbers:
                question = asked[at].question
                alone = question.nonce_octets is not None
                same.setdefault(at if alone else (question.hash_name, question.serials), []).append(at)
            firsts = [asked[group[0]] for group in same.values()]
            try:
                answered = self._answer_ca(desk, firsts)
            except StoreUnavailable as error:
                log.warning("live_store_unavailable", ca=desk.issuer.name, error=str(error))
                answered = [_try_later(one) for one in firsts]
            for group, reply in zip(same.values(), answered, strict=True):
                made += reply.kind is ReplyKind.ANSWER
                replies[group[0]] = reply
                for at in group[1:]:
                    replies[at] = _with_id(reply, asked[at].question.id)
        return [replies[at] for at in range(len(asked))], made

    def _answer_ca(self, desk: Desk, asked: Sequence[_Waiting]) -> list[Reply]:
        ca = desk.issuer.id
        watch = self._store.watch(ca, [serial for one in asked for serial in one.question.serials], self._bits.get(ca))
        # Promise 2: as_of before the statuses.
        before = watch.look()
        info = before.info
        moment = None if info is None else desk.moment(self._clock.now(), info)
        if info is None or moment is None:
            return [_try_later(one) for one in asked]
        self._bits[ca] = info.bits
        replies: list[Reply | None] = []
        drafts: list[_Draft] = []
        first = 0  # of the question's serials in what was seen
        for one in asked:
            end = first + len(one.question.serials)
            draft = _draft(desk, moment, one, before.texts[first:end], before.buckets[first])
            first = end
            if isinstance(draft, ReplyKind):
                replies.append(Reply(one.question.id, draft))
            else:
                drafts.append(draft)
                replies.append(None)
        signed = iter(self._sign(desk, before, drafts, watch) if drafts else ())
        return [next(signed) if reply is None else reply for reply in replies]

    def _sign(self, desk: Desk, before: Sight, drafts: Sequence[_Draft], watch: Watch) -> list[Reply]:
        try:
            audit.require()
            signatures = desk.press.sign([draft.message for draft in drafts], "live")
            _record(desk, drafts, signatures)
        except SignerUnavailable:
            return [_try_later(draft.waiting) for draft in drafts]
        # Whatever was revoked while this was being signed: the answer is dropped.
        after = watch.look()
        assert before.info is not None  # noqa: S101 - _answer_ca saw to it
        if after.info is None or after.info.override != before.info.override:
            return [_try_later(draft.waiting) for draft in drafts]
        changed = watch.changed(before, after)
        replies: list[Reply] = []
        to_store: list[tuple[_Draft, bytes]] = []
        make_response = desk.signer.template.response
        for draft, signature in zip(drafts, signatures, strict=True):
            question = draft.waiting.question
            if changed and not changed.isdisjoint(question.serials):
                replies.append(_try_later(draft.waiting))
                continue
            may_be_kept = draft.may_be_kept
            this_update, next_update = draft.singles[0][-2:]
            for single in draft.singles[1:]:
                this_update, next_update = max(this_update, single.this_update), min(next_update, single.next_update)
            replies.append(
                Reply(
                    question.id,
                    ReplyKind.ANSWER,
                    make_response(draft.message, signature),
                    this_update,
                    next_update,
                    may_be_kept,
                )
            )
            # What is not of the kinds that the presigner keeps up is the workers' alone.
            if may_be_kept and desk.stores(question.hash_name):
                to_store.append((draft, signature))
        if to_store:
            self._put(desk, before.info, to_store)
        return replies

    def _put(self, desk: Desk, info: CAInfo, signed: Iterable[tuple[_Draft, bytes]]) -> None:
        """Store answers that are as good for the next who asks: one header for those of a bucket with the same times."""
        groups: dict[tuple[int, str, tuple[int, int, int, int]], list[tuple[_Draft, bytes]]] = defaultdict(list)
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
        members: Sequence[tuple[_Draft, bytes]],
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


def _draft(desk: Desk, moment: Moment, one: _Waiting, texts: list[str | None], bucket: int) -> _Draft | ReplyKind:
    """Decide what one question's answer says, or how it ends without one."""
    question = one.question
    if question.nonce_octets is not None and len(texts) == 1 and texts[0] is not None:
        draft = _draft_usual(desk, moment, one, texts, texts[0], question.nonce_octets, bucket)
        if draft is not None:
            return draft
    try:
        known = [moment.wanted(text) if text is not None else None for text in texts]
    except ValueError as error:
        log.error("status_not_understood", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    singles: list[Wanted] = []
    extensions: list[bytes] = []
    for text, want in zip(texts, known, strict=True):
        if want is None and text is None:
            want = moment.override_for_unassigned()
            if want is None and desk.terms.unassigned == "revoked":
                # RFC 6960 §4.4.8: the extension says that this responder answers so for serials not issued.
                want = moment.extended_revoke()
                extensions = [EXTENDED_REVOKE_DER]
            elif want is None and desk.terms.unassigned == "unknown":
                want = moment.unknown()
        if want is None and any(known):
            # RFC 9919 §3.2.1: the most complete response possible; of this one nothing is known, or no longer.
            want = moment.unknown()
        if want is None:
            return ReplyKind.UNAUTHORIZED
        if not moment.can_sign(want):
            return ReplyKind.TRY_LATER
        singles.append(want)
    if question.nonce_octets is not None:
        try:
            extensions.insert(0, encode_response_extension_nonce(question.nonce_octets))
        except ValueError:
            return ReplyKind.TRY_LATER  # no worker of ours lets such a nonce through
    cutoff = moment.archive_cutoff
    is_dual = desk.is_dual and _may_be_kept(question, texts)
    try:
        encoded = [
            desk.single_response(
                hash_name,
                serial,
                want,
                (want.this_update, want.next_update, moment.now, cutoff if want.has_archive_cutoff else NO_TIME),
            )
            for serial, want in zip(question.serials, singles, strict=True)
            for hash_name in (STORED_HASHES if is_dual else (question.hash_name,))
        ]
        message = desk.signer.template.tbs_response_data(encoded, moment.now, extensions)
    except ValueError as error:
        log.error("live_answer_not_encoded", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    return _Draft(one, moment, texts, bucket, singles, message)


def _draft_usual(
    desk: Desk, moment: Moment, one: _Waiting, texts: list[str | None], text: str, nonce_octets: bytes, bucket: int
) -> _Draft | None:
    """As ``_draft`` does it, in less time, for one certificate with a nonce; None where anything is out of the way."""
    question, issuer = one.question, desk.issuer
    hash_name = question.hash_name
    try:
        want = moment.wanted(text)
        if want is None or not moment.can_sign(want):
            return None
        message = desk.signer.template.nonce_answer(
            hash_name,
            issuer.name_hashes[hash_name],
            issuer.key_hashes[hash_name],
            question.serials[0],
            want,
            moment.now,
            moment.archive_cutoff if want.has_archive_cutoff else NO_TIME,
            nonce_octets,
        )
    except ValueError:
        return None  # told of by _draft, which meets it too
    return _Draft(one, moment, texts, bucket, [want], message)


def _record(desk: Desk, drafts: Sequence[_Draft], signatures: Sequence[bytes]) -> None:
    ledger.signed_live(
        desk,
        {"dual" if desk.is_dual and draft.may_be_kept else draft.waiting.question.hash_name for draft in drafts},
        [serial for draft in drafts for serial in draft.waiting.question.serials],
        [second for draft in drafts for single in draft.singles for second in single[-2:]],
        [draft.message for draft in drafts],
        signatures,
        drafts[0].moment.now,
    )


def _may_be_kept(question: Question, texts: Sequence[str | None]) -> bool:
    """RFC 6960 §4.4.1: an answer with a nonce is for nobody else; one for an unassigned serial is true today only."""
    return (
        question.nonce_octets is None
        and len(question.serials) == 1
        and question.hash_name in STORED_HASHES
        and texts[0] is not None
    )


def _try_later(one: _Waiting) -> Reply:
    return Reply(one.question.id, ReplyKind.TRY_LATER)


def _with_id(reply: Reply, id_: int) -> Reply:
    return Reply(id_, reply.kind, reply.response_der, reply.this_update, reply.next_update, reply.store_hint)
