"""Answers what cannot be ready: nonces, several CertIDs, other hash algorithms, serials not signed yet or never issued.

Reads the workers' questions from a stream of the store and replies to each worker (encoding: responder/live.py). Every status
is read again after signing: an answer whose status has changed meanwhile is dropped. Only the answer to one CertID
without nonce, of a status that the store knows, is stored. Called by the presigning role, by the presigner's thread.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastpath.ocsp_response import (
    EXTENDED_REVOKE_DER,
    AnswerHeader,
    encode_response_extension_nonce,
    pack_answer,
)
from responder import metrics
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
from responder.signing.answers import NO_TIME, Moment, Wanted
from responder.signing.clock_guard import ClockGuard
from responder.signing.desk import Desk
from responder.signing.planning import free_slot
from responder.store.layout import DUE_ASKED_FOR, STORED_HASHES
from responder.store.redis_store import Store
from responder.store.values import CAInfo, Located, SignedAnswer

log = get_logger(__name__)

GROUP = "presign"  # the consumer group: each question is answered by one presigning role
CONSUMER = "presign"  # one name for all: nobody takes over another's questions, which are void in two seconds
READ_ENTRIES = 20  # of the stream at a time, each a tick of one worker's loop
QUEUE_MOST = 4 * MAX_QUESTIONS  # questions held here; more are left in the stream
SHA256_NOTED_EVERY = 8  # times in a validity that a SHA-256 question is written down


class _Waiting(NamedTuple):
    """A question, whom to reply to, and when it is void (on the monotonic clock)."""

    worker: str
    question: Question
    void_at: float


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to be signed for one question. ``serials``: whose statuses must be the same afterwards."""

    waiting: _Waiting
    desk: Desk
    moment: Moment
    located: list[Located]
    singles: list[Wanted]
    message: bytes

    @property
    def times(self) -> tuple[int, int, int, int]:
        """thisUpdate, nextUpdate, producedAt, archiveCutoff of an answer with one CertID."""
        return (*self.singles[0][-2:], self.moment.now, self.moment.archive_cutoff)

    @property
    def may_be_stored(self) -> bool:
        """RFC 6960 §4.4.1: an answer with a nonce is for nobody else; one for an unassigned serial is true today only."""
        question = self.waiting.question
        return (
            question.nonce_octets is None
            and len(question.serials) == 1
            and question.hash_name in STORED_HASHES
            and self.located[0].text is not None
        )


class LiveSigner:
    """Answers questions at the desks of the presigner."""

    def __init__(self, store: Store, desks: Mapping[str, Desk], clock: Clock, guard: ClockGuard) -> None:
        self._store = store
        self._desks = desks
        self._clock = clock
        self._guard = guard
        self._queue: deque[_Waiting] = deque()

    def poll(self, block_ms: int | None = None) -> int:
        """Read questions and answer one slice of them; returns the signatures made.

        ``block_ms``: how long to wait for questions where none wait here. Raises StoreUnavailable.
        """
        self._read(None if self._queue else block_ms)
        if not self._queue:
            return 0
        size = min((self._desks[ca].press.slice_size for ca in self._desks), default=1)
        taken = [self._queue.popleft() for _ in range(min(max(1, size), len(self._queue)))]
        metrics.LIVE_QUEUE.set(len(self._queue))
        now = self._clock.monotonic()
        current = [one for one in taken if one.void_at > now]
        metrics.LIVE_REPLIES.labels("too_old").inc(len(taken) - len(current))
        if not current:
            return 0
        replies, made = self._answer(current)
        self._reply(current, replies)
        return made

    def _read(self, block_ms: int | None) -> None:
        if len(self._queue) >= QUEUE_MOST:
            return
        layout = self._store.layout
        entries = self._store.xreadgroup(layout.ask(), GROUP, CONSUMER, count=READ_ENTRIES, block_ms=block_ms)
        if not entries:
            return
        self._store.xack(layout.ask(), GROUP, [entry_id for entry_id, _ in entries])
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
            self._queue.extend(_Waiting(ask.worker, question, void_at) for question in ask.questions)
        metrics.LIVE_QUEUE.set(len(self._queue))

    def _reply(self, asked: Sequence[_Waiting], replies: Sequence[Reply]) -> None:
        by_worker: dict[str, list[Reply]] = defaultdict(list)
        for one, reply in zip(asked, replies, strict=True):
            by_worker[one.worker].append(reply)
            metrics.LIVE_REPLIES.labels(reply.kind.name.lower()).inc()
        for worker, mine in by_worker.items():
            self._store.xadd(
                self._store.layout.replies(worker),
                encode_replies(mine),
                maxlen=REPLIES_MAXLEN,
                expire_s=REPLIES_EXPIRE_S,
            )

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
            same: dict[object, list[int]] = defaultdict(list)
            for at in numbers:
                question = asked[at].question
                alone = question.nonce_octets is not None
                same[at if alone else (question.hash_name, question.serials)].append(at)
            firsts = [asked[group[0]] for group in same.values()]
            try:
                answered = self._answer_ca(desk, firsts)
            except StoreUnavailable as error:
                log.warning("live_store_unavailable", ca=desk.issuer.name, error=str(error))
                answered = [_try_later(one) for one in firsts]
            made += sum(reply.kind is ReplyKind.ANSWER for reply in answered)
            for group, reply in zip(same.values(), answered, strict=True):
                replies |= {at: _with_id(reply, asked[at].question.id) for at in group}
        return [replies[at] for at in range(len(asked))], made

    def _answer_ca(self, desk: Desk, asked: Sequence[_Waiting]) -> list[Reply]:
        ca = desk.issuer.id
        # Promise 2: as_of before the statuses.
        info = self._store.ca_info(ca)
        moment = None if info is None else desk.moment(self._clock.now(), info)
        if info is None or moment is None:
            return [_try_later(one) for one in asked]
        before = self._locate(ca, info, asked)
        drafts: dict[int, _Draft] = {}
        replies: dict[int, Reply] = {}
        for at, (one, located) in enumerate(zip(asked, before, strict=True)):
            draft = _draft(desk, moment, one, located)
            if isinstance(draft, ReplyKind):
                replies[at] = Reply(one.question.id, draft)
            else:
                drafts[at] = draft
        if drafts:
            replies |= self._sign(desk, info, drafts)
        return [replies[at] for at in range(len(asked))]

    def _sign(self, desk: Desk, info: CAInfo, drafts: Mapping[int, _Draft]) -> dict[int, Reply]:
        try:
            signatures = desk.press.sign([draft.message for draft in drafts.values()], "live")
        except SignerUnavailable:
            return {at: _try_later(draft.waiting) for at, draft in drafts.items()}
        # Whatever was revoked while this was being signed: the answer is dropped.
        after = self._store.ca_info(desk.issuer.id)
        again = self._locate(desk.issuer.id, info, [draft.waiting for draft in drafts.values()])
        replies: dict[int, Reply] = {}
        to_store: list[tuple[_Draft, bytes]] = []
        for (at, draft), signature, located in zip(drafts.items(), signatures, again, strict=True):
            texts = [place.text for place in draft.located]
            if after is None or after.override != info.override or texts != [place.text for place in located]:
                replies[at] = _try_later(draft.waiting)
                continue
            replies[at] = Reply(
                draft.waiting.question.id,
                ReplyKind.ANSWER,
                desk.signer.template.response(draft.message, signature),
                max(single.this_update for single in draft.singles),
                min(single.next_update for single in draft.singles),
                draft.may_be_stored,
            )
            if draft.may_be_stored:
                to_store.append((draft, signature))
        self._put(desk, info, to_store)
        return replies

    def _locate(self, ca: str, info: CAInfo, asked: Sequence[_Waiting]) -> list[list[Located]]:
        serials = [serial for one in asked for serial in one.question.serials]
        found = iter(self._store.locate(ca, serials, info.bits))
        return [list(itertools.islice(found, len(one.question.serials))) for one in asked]

    def _put(self, desk: Desk, info: CAInfo, signed: Iterable[tuple[_Draft, bytes]]) -> None:
        """Store answers that are as good for the next who asks: one header for those of a bucket with the same times."""
        groups: dict[tuple[int, str, tuple[int, int, int, int]], list[tuple[_Draft, bytes]]] = defaultdict(list)
        for draft, signature in signed:
            question = draft.waiting.question
            groups[draft.located[0].bucket, question.hash_name, draft.times].append((draft, signature))
        for (bucket, hash_name, times), members in groups.items():
            try:
                self._put_group(desk, info, bucket, hash_name, times, members)
            except CommitConflict:
                continue  # the reply stands, the presigner will sign it in its own time
        if any(hash_name == "sha256" for _, hash_name, _ in groups):
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
            single, text = draft.singles[0], draft.located[0].text
            assert text is not None  # noqa: S101 - may_be_stored saw to it
            packed = pack_answer(
                slot, single.cert_status, single.revoked_at, single.reason, single.has_archive_cutoff, signature
            )
            answers.append(SignedAnswer(draft.waiting.question.serials[0], text, packed))
        self._store.put_answers(
            ca, bucket, hash_name, slot, header.to_bytes(), answers, seen=seen, override=info.override
        )

    def _note_sha256(self, desk: Desk, info: CAInfo) -> None:
        now = self._clock.now()
        if info.sha256_asked is None or now - info.sha256_asked > desk.terms.validity // SHA256_NOTED_EVERY:
            self._store.set_sha256_asked(desk.issuer.id, now)


def _draft(desk: Desk, moment: Moment, one: _Waiting, located: list[Located]) -> _Draft | ReplyKind:
    """Decide what one question's answer says, or how it ends without one."""
    question = one.question
    try:
        known = [moment.wanted(place.text) if place.text is not None else None for place in located]
    except ValueError as error:
        log.error("status_not_understood", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    singles: list[Wanted] = []
    extensions: list[bytes] = []
    for place, want in zip(located, known, strict=True):
        if want is None and place.text is None:
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
    try:
        encoded = [
            desk.single_response(
                question.hash_name,
                serial,
                want,
                (want.this_update, want.next_update, moment.now, cutoff if want.has_archive_cutoff else NO_TIME),
            )
            for serial, want in zip(question.serials, singles, strict=True)
        ]
        message = desk.signer.template.tbs_response_data(encoded, moment.now, extensions)
    except ValueError as error:
        log.error("live_answer_not_encoded", ca=desk.issuer.name, error=str(error))
        return ReplyKind.TRY_LATER
    return _Draft(one, desk, moment, located, singles, message)


def _try_later(one: _Waiting) -> Reply:
    return Reply(one.question.id, ReplyKind.TRY_LATER)


def _with_id(reply: Reply, id_: int) -> Reply:
    return Reply(id_, reply.kind, reply.response_der, reply.this_update, reply.next_update, reply.store_hint)
