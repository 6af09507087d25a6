"""Answers that have to be signed for the query: nonces, several CertIDs, rare hash algorithms, what is not signed yet.

A tick's questions go to the presigning role as one entry of a stream in Redis, its replies come back in another
(responder/live.py). Bounded in number and time; the same question without nonce is asked once. While the presigner is
silent, one question a second goes to see whether it is back, and the others are refused at once rather than after two
seconds. Called by the endpoint; holds no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from fastpath.answer_table import AbsentTable, AnswerTable
from fastpath.live_wire import check_answer
from responder import live
from responder.clock import Clock
from responder.errors import StoreUnavailable
from responder.http.caching import CachedResponse
from responder.http.message import STATUS_LINES, PreparedResponse, date_line, field_lines
from responder.live import Reply, ReplyKind
from responder.log import get_logger
from responder.metrics import LIVE_QUESTIONS
from responder.model import CertStatus
from responder.ocsp.answer import OCSP_RESPONSE_TYPE, LiveAnswer, Outcome, Question, terms_of
from responder.store.layout import could_hold, partition_of
from responder.store.redis_store import EdgeStore

log = get_logger(__name__)

PROBE_S = 1.0  # while the presigner is silent: how often it is asked all the same
GATHER_S = 0.0003  # how long a question waits for others while some are on their way
REPLIES_A_TURN = 32  # of the loop, half a millisecond: ready answers do not wait for more of those that were signed
MAX_ASKED = 3  # times that one question is asked whose bucket the journal keeps naming
FIRST_ID = b"0-0"  # the stream is this process's own: nothing in it is older than the first question
_IDS = 2**32
_OK_LINE = STATUS_LINES[200]
_PRIVATE_LINES = field_lines(
    (
        (b"Content-Type", OCSP_RESPONSE_TYPE),
        (b"Cache-Control", b"max-age=0, private, no-transform, must-revalidate"),
    )
)


Done = Callable[[LiveAnswer | Outcome], None]
_CERT_STATUSES = tuple(CertStatus)  # by number
_ASKED, _REFUSED, _TIMEOUT = (LIVE_QUESTIONS.labels(event) for event in ("asked", "refused", "timeout"))


class _Pending:
    """One question on its way. ``outdated``: the journal has named the bucket of one of its serials since it was sent."""

    __slots__ = ("asked", "deadline", "nonce_octets", "outdated", "questions", "sent_at", "waiting")

    def __init__(self, questions: Sequence[Question], nonce_octets: bytes | None, done: Done) -> None:
        self.questions = questions
        self.nonce_octets = nonce_octets
        self.waiting = [done]
        self.asked = 0
        self.deadline = 0.0  # of the loop's clock
        self.outdated = False
        self.sent_at = 0.0  # monotonic

    @property
    def key(self) -> tuple[bytes, ...]:
        """What makes two questions without nonce the same one."""
        return tuple([question.cert_id_der for question in self.questions])

    @property
    def ca(self) -> str:
        """The store's id of the CA, which all the serials share."""
        return self.questions[0].issuer.id


class OnDemandSource:
    """Live questions of one worker; ``run`` has to be running. One event loop's thread only."""

    def __init__(self, store: EdgeStore, clock: Clock, worker_id: str, table: AnswerTable, absent: AbsentTable) -> None:
        self._store = store
        self._clock = clock
        self._worker_id = worker_id
        self._table = table
        self._absent = absent
        self._pending: dict[int, _Pending] = {}
        self._shared: dict[tuple[bytes, ...], _Pending] = {}
        self._fresh: list[int] = []  # of this tick
        self._unsent: list[int] = []  # of ticks before, while an entry is on its way to Redis
        self._sending: asyncio.Task[None] | None = None
        self._next_id = 0
        self._heard_at = float("-inf")  # monotonic, of the last reply
        self._silent = False
        self._probe_at = 0.0
        self._wanted = asyncio.Event()  # set while replies are to be read

    def ask(self, questions: Sequence[Question], nonce_octets: bytes | None, done: Done) -> None:
        """Have CertIDs of one issuer and one hash algorithm answered in one response; ``done`` is called once, now or later.

        It gets an Outcome where there is no answer: NOT_SIGNED, BUSY or UNASSIGNED, or what went wrong here.
        """
        pending = _Pending(questions, nonce_octets, done)
        if nonce_octets is None:
            shared = self._shared.get(pending.key)
            if shared is not None:
                shared.waiting.append(done)
                return
        if len(self._pending) >= live.MAX_QUESTIONS:
            _REFUSED.inc()
            done(Outcome.BUSY)
            return
        if self._silent:
            now = self._clock.monotonic()
            if now < self._probe_at:
                _REFUSED.inc()
                done(Outcome.NOT_SIGNED)
                return
            self._probe_at = now + PROBE_S
        if nonce_octets is None:
            self._shared[pending.key] = pending
        pending.deadline = asyncio.get_running_loop().time() + live.QUESTION_TIMEOUT_S
        self._enqueue(pending)

    # --- questions ------------------------------------------------------------------------------------------------

    def _enqueue(self, pending: _Pending) -> None:
        # Asked again, it gets another id: the reply to the first must not be taken for the second's. But no more time.
        self._next_id = (self._next_id + 1) % _IDS
        pending.asked += 1
        pending.outdated = False
        self._pending[self._next_id] = pending
        if not self._fresh:
            loop = asyncio.get_running_loop()
            if len(self._pending) > 1:
                # Who is asked already is busy, or nearly: what a trip through Redis costs is shared with who comes in a moment.
                loop.call_later(GATHER_S, self._send)
            else:
                # call_soon: after every read of this tick has brought its queries.
                loop.call_soon(self._send)
        self._fresh.append(self._next_id)
        self._wanted.set()

    def _send(self) -> None:
        ids, self._fresh = self._fresh, []
        now, loop = self._clock.monotonic(), asyncio.get_running_loop()
        asked = [self._pending[one] for one in ids]
        for pending in asked:
            pending.sent_at = now
        _ASKED.inc(len(ids))
        loop.call_at(max([pending.deadline for pending in asked]), self._expire, ids)
        self._unsent += ids
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send what waits, one entry after another: the busier Redis is, the more questions an entry holds."""
        try:
            while self._unsent:
                ids, self._unsent = self._unsent, []
                await self._send_batch(ids)
        finally:
            self._sending = None

    async def _send_batch(self, ids: list[int]) -> None:
        questions = [
            live.Question(
                one,
                pending.ca,
                pending.questions[0].hash_name,
                tuple([question.serial_octets for question in pending.questions]),
                pending.nonce_octets,
            )
            for one in ids
            if (pending := self._pending.get(one)) is not None
        ]
        try:
            async with asyncio.timeout(live.QUESTION_TIMEOUT_S):
                await self._store.ask(live.encode_ask(self._worker_id, int(self._clock.now() * 1000), questions))
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("live_not_asked", error=str(error) or "timed out")
            for one in ids:
                self._settle(one, Outcome.STORE_UNAVAILABLE)
        except Exception:
            log.exception("live_ask_failed")
            for one in ids:
                self._settle(one, Outcome.INTERNAL)

    def _expire(self, ids: list[int]) -> None:
        for one in ids:
            pending = self._pending.get(one)
            if pending is None:
                continue
            _TIMEOUT.inc()
            if self._heard_at < pending.sent_at and not self._silent:
                log.warning("presigner_silent", seconds=live.QUESTION_TIMEOUT_S)
                self._silent = True
                self._probe_at = self._clock.monotonic() + PROBE_S
            self._settle(one, Outcome.NOT_SIGNED)

    def _settle(self, one: int, result: LiveAnswer | Outcome) -> None:
        pending = self._pending.pop(one, None)
        if not self._pending:
            self._wanted.clear()
        if pending is None:
            return
        if pending.nonce_octets is None:
            self._shared.pop(pending.key, None)
        for done in pending.waiting:
            try:
                done(result)
            except Exception:  # a mistake about one query must not cost the others their answers
                log.exception("query_failed")

    # --- replies --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read replies while any are awaited, until cancelled."""
        after = FIRST_ID
        while True:
            await self._wanted.wait()
            try:
                after, entries = await self._store.read_replies(self._worker_id, after)
            except StoreUnavailable as error:
                log.warning("live_replies_unreachable", error=str(error))
                after = FIRST_ID  # it may be another Redis; replies that nobody waits for are passed over
                await asyncio.sleep(0.1)
                continue
            for fields in entries:
                try:
                    replies = live.decode_replies(fields)
                except ValueError as error:
                    log.error("live_reply_malformed", error=str(error))
                    continue
                for at in range(0, len(replies), REPLIES_A_TURN):
                    self.take(replies[at : at + REPLIES_A_TURN])
                    await asyncio.sleep(0)

    def take(self, replies: Iterable[Reply]) -> None:
        """Hand replies to those who wait for them."""
        self._heard_at = self._clock.monotonic()
        self._silent = False
        for reply in replies:
            pending = self._pending.get(reply.id)
            if pending is None:
                continue  # came too late, or was asked again under another id
            if pending.outdated:
                # The presigner read the status after it signed, but perhaps before what the journal tells of.
                if pending.asked < MAX_ASKED:
                    del self._pending[reply.id]
                    self._enqueue(pending)
                else:
                    self._settle(reply.id, Outcome.NOT_SIGNED)
            else:
                self._settle(reply.id, self._result(pending, reply))

    def _result(self, pending: _Pending, reply: Reply) -> LiveAnswer | Outcome:
        questions, first = pending.questions, pending.questions[0]
        if reply.kind is ReplyKind.UNAUTHORIZED:
            if len(questions) == 1:
                self._absent.put(pending.ca, first.serial_octets, first.serial_hash)
            return Outcome.UNASSIGNED
        now = self._clock.now()
        if reply.kind is not ReplyKind.ANSWER or reply.next_update <= now:
            return Outcome.NOT_SIGNED
        try:
            cert_status, is_dual = _checked(questions, pending.nonce_octets, reply)
        except ValueError as error:
            log.error("live_answer_refused", error=str(error), ca=first.issuer.name)
            return Outcome.INTERNAL
        if not (reply.store_hint and len(questions) == 1 and pending.nonce_octets is None):
            return LiveAnswer(cert_status, _private_response(reply.response_der, int(now)))
        terms = terms_of(first.issuer, reply.this_update, reply.next_update)
        response = CachedResponse(
            reply.response_der,
            OCSP_RESPONSE_TYPE,
            reply.this_update,
            reply.next_update,
            terms.fresh_until(first.serial_hash),
        )
        self._table.put_whole(
            pending.ca,
            first.hash_name,
            first.serial_octets,
            first.serial_hash,
            terms,
            cert_status,
            reply.response_der,
            response.etag_digest,
            is_dual,
        )
        return LiveAnswer(cert_status, response)

    # --- the journal ----------------------------------------------------------------------------------------------

    def drop_bucket(self, ca: str, bucket: int) -> None:
        """Have replies asked for again whose serials could lie in a bucket of that number."""
        _outdate(
            pending
            for pending in self._pending.values()
            if pending.ca == ca and any(could_hold(bucket, question.serial_hash) for question in pending.questions)
        )

    def drop_partition(self, partition: int) -> None:
        """Have replies asked for again about serials of a partition."""
        _outdate(
            pending
            for pending in self._pending.values()
            if any(partition_of(question.serial_hash) == partition for question in pending.questions)
        )

    def clear(self) -> None:
        """Have all replies asked for again."""
        _outdate(self._pending.values())


def _outdate(found: Iterable[_Pending]) -> None:
    for pending in found:
        pending.outdated = True


def _checked(questions: Sequence[Question], nonce_octets: bytes | None, reply: Reply) -> tuple[CertStatus, bool]:
    """Compare a reply's CertIDs and nonce with the question's; returns its status, and whether it is dual.

    What others may be given too may have both the SHA-1 and the SHA-256 CertID of the certificate (docs/adr/0009). Whether
    it has is for the presigner, whose configuration may be a moment older or newer than this worker's.
    """
    first = questions[0]
    cert_ids = [question.cert_id_der for question in questions]
    try:
        return _CERT_STATUSES[check_answer(cert_ids, nonce_octets, reply.response_der)], False
    except ValueError:
        if not reply.store_hint or nonce_octets is not None or len(questions) > 1:
            raise
    cert_ids = list(first.issuer.both_cert_ids(first.serial_octets))
    if first.cert_id_der not in cert_ids:
        raise ValueError("the CertIDs are not those of the question")
    return _CERT_STATUSES[check_answer(cert_ids, None, reply.response_der)], True


def _private_response(response_der: bytes, second: int) -> PreparedResponse:
    """Build the response for one client alone, who gets it at once.

    RFC 6960 §4.4.1: a nonce answer is of no use to others. RFC 9919 §7.2: no no-store on an authoritative answer.
    """
    return PreparedResponse(
        b"%b%b%bContent-Length: %d\r\n\r\n%b"
        % (_OK_LINE, date_line(second), _PRIVATE_LINES, len(response_der), response_der)
    )
