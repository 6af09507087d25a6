"""One OCSP query from its bytes to its answer: authority ▸ table ▸ stored ▸ on demand.

``DECISIONS`` is the only place that says what an outcome is on the wire; docs/decisions.md shows it to operators.
A ready answer is replied before ``handle`` returns, and most never come here (responder/ocsp/ready.py); one that Redis
has, or the presigner makes, comes through callbacks. Knows no key. RFC 6960 §2.3, §4.2; RFC 9919
§3, §7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter

from fastpath.answer_table import AbsentTable, AnswerTable
from fastpath.http_target import TargetError, decode_target
from fastpath.ocsp_request import MalformedRequest, Unsupported, parse_ocsp_request
from fastpath.ocsp_response import error_response
from responder.clock import Clock
from responder.config import HTTPConfig
from responder.errors import InvariantBroken, StoreUnavailable
from responder.http.message import PreparedResponse, Request, Response, non_authoritative_response
from responder.log import get_logger
from responder.metrics import ANSWERS, QUERIES, TRY_LATER, UNAUTHORIZED, Tally
from responder.model import CertStatus, OCSPResponseStatus, Status
from responder.ocsp.answer import (
    OCSP_REQUEST_TYPE,
    OCSP_RESPONSE_TYPE,
    Answer,
    LiveAnswer,
    NotReady,
    Outcome,
    Question,
)
from responder.ocsp.authority import Authority
from responder.ocsp.journal import Contact
from responder.ocsp.on_demand import OnDemandSource
from responder.ocsp.stored import Found, StoredSource

log = get_logger(__name__)

ABSENT_TRUSTED_S = 5.0  # cut off from the journal for longer, a new certificate could be here unseen


@dataclass(frozen=True, slots=True)
class Decision:
    """What an outcome is on the wire. ``when`` and ``clause`` are for docs/decisions.md."""

    response_status: OCSPResponseStatus
    when: str
    clause: str
    http_status: int = 200


_S = OCSPResponseStatus
# ERR-06: all of them travel under HTTP 200: several clients, Java's among them, read a body under no other status.
# ERR-04: sigRequired never stands here, since no policy of ours asks for signed requests.
DECISIONS: dict[Outcome, Decision] = {
    Outcome.ANSWERED: Decision(_S.SUCCESSFUL, "The status is known and signed.", "RFC 6960 §2.2"),
    Outcome.BAD_TARGET: Decision(
        _S.MALFORMED_REQUEST,
        "GET, and the path is not `/` and base64 of a request (an empty path too).",
        "RFC 6960 §2.3, App. A.1",
    ),
    Outcome.BAD_REQUEST: Decision(
        _S.MALFORMED_REQUEST,
        "The bytes are not the DER of an OCSPRequest, the request list is empty or longer than `http.max_cert_ids`, "
        "or the nonce has 0 or more than 128 octets.",
        "RFC 6960 §2.3, §4.1.1; RFC 9654 §2.1",
    ),
    Outcome.CRITICAL_EXTENSION: Decision(
        _S.MALFORMED_REQUEST,
        "An extension that is not known here is marked critical.",
        "RFC 6960 §4.1.2",
    ),
    Outcome.RESPONSE_TYPE: Decision(
        _S.UNAUTHORIZED, "acceptableResponses lacks id-pkix-ocsp-basic.", "RFC 6960 §4.4.3"
    ),
    Outcome.UNKNOWN_HASH: Decision(
        _S.UNAUTHORIZED,
        "A CertID's hash algorithm is not SHA-1, SHA-256, SHA-384 or SHA-512: its issuer cannot be recognised.",
        "RFC 9919 §3.2.3",
    ),
    Outcome.UNKNOWN_ISSUER: Decision(
        _S.UNAUTHORIZED,
        "issuerNameHash and issuerKeyHash together name no CA of the configuration.",
        "RFC 6960 §2.3; RFC 9919 §3.2.3",
    ),
    Outcome.SEVERAL_ISSUERS: Decision(
        _S.UNAUTHORIZED,
        "The CertIDs are of several CAs: no one key may speak for all of them (docs/adr/0005).",
        "RFC 6960 §4.2.2.2",
    ),
    Outcome.SEVERAL_HASHES: Decision(
        _S.UNAUTHORIZED,
        "The CertIDs are of one CA, but use several hash algorithms; clients use one.",
        "RFC 6960 §2.3",
    ),
    Outcome.UNASSIGNED: Decision(
        _S.UNAUTHORIZED,
        'The CA never issued this serial, and `unassigned = "unauthorized"`; or the serial was purged long ago; or it is on no '
        "CRL, and nothing says what was issued ([an issued list](loaders/crl.md) would).",
        "RFC 9919 §3.2.3",
    ),
    Outcome.PURGED: Decision(
        _S.UNAUTHORIZED,
        "The certificate expired longer ago than `retention`.",
        "RFC 6960 §2.3; RFC 9919 §3.2.3",
    ),
    Outcome.NOT_LOADED: Decision(
        _S.TRY_LATER, "The CA's database has not been loaded into this Redis to its end yet.", "RFC 6960 §2.3"
    ),
    Outcome.STORE_UNAVAILABLE: Decision(
        _S.TRY_LATER,
        "No ready answer in this worker, and Redis does not answer within a second or lacks the bucket.",
        "RFC 6960 §2.3",
    ),
    Outcome.BLIND: Decision(
        _S.TRY_LATER,
        "The answer is good, and this worker has not seen the journal for longer than `max_blind`.",
        "RFC 6960 §2.3",
    ),
    Outcome.NOT_SIGNED: Decision(
        _S.TRY_LATER,
        "No ready answer, and the presigner does not answer within two seconds, or may not sign: its source is too old, "
        'its key is out of reach. With `nonce = "required"` also where only the answer without nonce is there.',
        "RFC 6960 §2.3",
    ),
    Outcome.BUSY: Decision(
        _S.TRY_LATER, "Too many questions are waiting for Redis or the presigner already.", "RFC 6960 §2.3"
    ),
    Outcome.INTERNAL: Decision(_S.INTERNAL_ERROR, "A mistake of Revocast's own; the log names it.", "RFC 6960 §2.3"),
}


@dataclass(slots=True)
class Result:
    """How a query ended; not frozen, for speed, but nobody changes it. ``source`` is table, stored or on_demand where it was answered."""

    outcome: Outcome
    response: Response
    source: str = ""
    cert_status: CertStatus | None = None


_REFUSED = {
    outcome: Result(
        outcome,
        # ERR-07: nobody keeps these, so a certificate that is registered now is answered for at once.
        non_authoritative_response(error_response(decision.response_status), OCSP_RESPONSE_TYPE, decision.http_status),
    )
    for outcome, decision in DECISIONS.items()
    if decision.response_status is not _S.SUCCESSFUL
}
# Looked up once: finding a metric's child by its labels costs more than counting.
_QUERY_COUNTERS: dict[tuple[Outcome, CertStatus | None], Counter] = {
    **{(Outcome.ANSWERED, status): QUERIES.labels(status.name.lower()) for status in CertStatus},
    **{(outcome, None): QUERIES.labels(DECISIONS[outcome].response_status.name.lower()) for outcome in _REFUSED},
}
_ANSWER_COUNTERS = {source: ANSWERS.labels(source) for source in ("table", "stored", "on_demand")}
_ANSWERED_COUNTERS = [_QUERY_COUNTERS[Outcome.ANSWERED, status] for status in CertStatus]  # by number
_STORED_COUNTER = _ANSWER_COUNTERS["stored"]
_REASON_COUNTERS = {
    outcome: counter.labels(outcome.value)
    for status, counter in ((_S.UNAUTHORIZED, UNAUTHORIZED), (_S.TRY_LATER, TRY_LATER))
    for outcome, decision in DECISIONS.items()
    if decision.response_status is status
}


class OCSPEndpoint:
    """Answers queries; the ``Handler`` of the HTTP worker. One event loop's thread only."""

    accepted_types = frozenset({OCSP_REQUEST_TYPE})

    def __init__(
        self,
        http: HTTPConfig,
        clock: Clock,
        contact: Contact,
        authority: Authority,
        table: AnswerTable,
        absent: AbsentTable,
        stored: StoredSource,
        on_demand: OnDemandSource,
        tally: Tally,
    ) -> None:
        self._max_cert_ids = http.max_cert_ids
        self._clock = clock
        self._contact = contact
        self._authority = authority
        self._table = table
        self._absent = absent
        self._stored = stored
        self._on_demand = on_demand
        self._tally = tally
        self._asked_live = 0  # and not answered yet
        self._drained: asyncio.Event | None = None

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        """Answer a GET, HEAD or POST; replies before it returns where the answer is ready."""
        done = partial(self._reply, reply)
        try:
            # Of a POST the body alone decides: a path before it, as some AIA URLs have, says nothing.
            request_der = request.body if request.method == b"POST" else decode_target(request.target)
        except TargetError:
            done(refused(Outcome.BAD_TARGET))
        else:
            self.decide(request_der, done)

    async def ask(self, request_der: bytes) -> Result:
        """Answer a request, for who would rather wait than be called."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.decide(request_der, partial(_fulfil, future))
        return await future

    def decide(self, request_der: bytes, done: Callable[[Result], None]) -> None:
        """Answer a request: ``done`` is called once, at once or later; never raises."""
        try:
            result = self._decide(request_der, done)
        except Exception:
            log.exception("query_failed")
            result = refused(Outcome.INTERNAL)
        if result is not None:
            done(result)

    def _decide(self, request_der: bytes, done: Callable[[Result], None]) -> Result | None:
        """Return the answer, or None: ``done`` will be called."""
        try:
            request = parse_ocsp_request(request_der, self._max_cert_ids)
        except MalformedRequest:
            return refused(Outcome.BAD_REQUEST)
        except Unsupported:
            # RFC 6960 §4.1.2: an extension that is critical and unknown may not be ignored.
            return refused(Outcome.CRITICAL_EXTENSION)
        # RFC 9919 §3.1.2: a requestorName is as if absent, and so is a signature: neither is looked at.
        if not request.accepts_basic:
            return refused(Outcome.RESPONSE_TYPE)
        questions = self._authority.questions_of(request)
        if isinstance(questions, Outcome):
            return refused(questions)
        first = questions[0]
        nonce_octets = None if first.issuer.config.ocsp.nonce == "ignore" else request.nonce_octets
        if len(questions) == 1:
            ready = self._from_table(first) if nonce_octets is None else None
            if ready is not None:
                return ready
            if self._known_absent(first):
                return refused(Outcome.UNASSIGNED)
            if nonce_octets is None:
                self._stored.fetch(first, partial(self._fetched, first, done, may_ask_live=True))
                return None
        self._ask_live(questions, nonce_octets, done)
        return None

    def fetch(self, question: Question, reply: Callable[[Response], None], message: Callable[[], bytes | None]) -> None:
        """Answer one CertID without nonce that the table has no answer to.

        Where Redis has one, it is in the table when ``message`` is asked for the whole message that holds it.
        """
        try:
            if not self._known_absent(question):
                self._stored.fetch(question, partial(self._arrived, question, reply, message))
                return
            result = refused(Outcome.UNASSIGNED)
        except Exception:
            log.exception("query_failed")
            result = refused(Outcome.INTERNAL)
        self._reply(reply, result)

    def sign(self, question: Question, nonce_octets: bytes, reply: Callable[[Response], None]) -> None:
        """Answer one CertID with a nonce that its CA does not ignore."""
        done = partial(self._reply, reply)
        try:
            if not self._known_absent(question):
                self._ask_live([question], nonce_octets, done)
                return
            result = refused(Outcome.UNASSIGNED)
        except Exception:
            log.exception("query_failed")
            result = refused(Outcome.INTERNAL)
        done(result)

    def _arrived(
        self, question: Question, reply: Callable[[Response], None], message: Callable[[], bytes | None], found: Found
    ) -> None:
        octets = message() if isinstance(found, Answer) else None
        if isinstance(found, Answer) and octets is not None:
            self._tally.add(_ANSWERED_COUNTERS[found.cert_status])
            self._tally.add(_STORED_COUNTER)
            reply(PreparedResponse(octets))
        else:
            self._fetched(question, partial(self._reply, reply), found, may_ask_live=True)

    def _known_absent(self, question: Question) -> bool:
        return (
            self._absent.has(question.issuer.id, question.serial_octets)
            and question.issuer.config.ocsp.unassigned == "unauthorized"
            and self._contact.age() < ABSENT_TRUSTED_S
        )

    def _from_table(self, question: Question) -> Result | None:
        issuer = question.issuer
        found = self._table.get(
            issuer.id, question.hash_name, question.serial_octets, question.cert_id_der, issuer.both_cert_ids
        )
        if found is None:
            return None
        if self._clock.now() >= found.terms.next_update:
            self._table.drop(issuer.id, question.hash_name, question.serial_octets)
            return None
        # SEC-12: the table found it by issuer, hash algorithm and serial, and put the question's own CertID into it.
        answer = Answer(
            CertStatus(found.cert_status), found.response_der, found.etag_digest, found.terms, question.serial_hash
        )
        return self._leave(question, answer, "table")

    def _leave(self, question: Question, answer: Answer, source: str) -> Result:
        """Let an answer out: the last look at it, whichever source it came from."""
        if answer.cert_status is CertStatus.GOOD and self._contact.age() > question.issuer.config.ocsp.max_blind:
            return refused(Outcome.BLIND)
        return Result(Outcome.ANSWERED, answer.response(), source, answer.cert_status)

    def _fetched(
        self,
        question: Question,
        done: Callable[[Result], None],
        found: Found,
        *,
        may_ask_live: bool,
    ) -> None:
        """Go on with what the store said about one CertID without nonce."""
        try:
            if isinstance(found, Answer):
                result = self._leave(question, found, "stored")
            elif isinstance(found, StoreUnavailable):
                # The follower of the journal tells of a Redis that is gone; here it would be told for every query.
                log.debug("store_unavailable", error=str(found))
                result = refused(Outcome.STORE_UNAVAILABLE)
            elif (refusal := self._refusal_of(question, found)) is not None:
                result = refused(refusal)
            elif may_ask_live:
                self._ask_live([question], None, done)
                return
            else:
                result = refused(Outcome.NOT_SIGNED)
        except InvariantBroken as error:
            log.error("invariant_broken", error=str(error))
            result = refused(Outcome.INTERNAL)
        except Exception:
            log.exception("query_failed")
            result = refused(Outcome.INTERNAL)
        done(result)

    def _ask_live(self, questions: list[Question], nonce_octets: bytes | None, done: Callable[[Result], None]) -> None:
        """Have it signed."""
        self._asked_live += 1
        self._on_demand.ask(questions, nonce_octets, partial(self._signed_live, questions, nonce_octets, done))

    def _signed_live(
        self,
        questions: list[Question],
        nonce_octets: bytes | None,
        done: Callable[[Result], None],
        live: LiveAnswer | Outcome,
    ) -> None:
        """Go on with what the presigner said; without it RFC 9919 §3.2.1 wants the most complete answer there is."""
        self._asked_live -= 1
        try:
            result = self._from_live(questions, nonce_octets, live)
            if result is None:
                self._stored.fetch(questions[0], partial(self._fetched, questions[0], done, may_ask_live=False))
        except Exception:
            log.exception("query_failed")
            result = refused(Outcome.INTERNAL)
        if result is not None:
            done(result)
        if not self._asked_live and self._drained is not None:
            self._drained.set()

    def _from_live(
        self, questions: list[Question], nonce_octets: bytes | None, live: LiveAnswer | Outcome
    ) -> Result | None:
        """Return the answer; None: the store may have a ready one."""
        if isinstance(live, LiveAnswer):
            return self._leave_live(questions, live)
        if nonce_octets is None or len(questions) > 1 or DECISIONS[live].response_status is not _S.TRY_LATER:
            return refused(live)
        # BR §4.9.9 and RFC 9654 §2.1 leave it to us; a shop that needs the nonce says so.
        if questions[0].issuer.config.ocsp.nonce == "required":
            return refused(live)
        return self._from_table(questions[0])

    def _refusal_of(self, question: Question, found: NotReady) -> Outcome | None:
        """Say why a serial without a stored answer gets none made for it either; None: ask the presigner."""
        if not found.is_loaded:
            return Outcome.NOT_LOADED
        config = question.issuer.config
        if found.status_text is None:
            # RFC 6960 §2.2, BR §4.9.9: never good for a serial that nobody issued.
            unauthorized = config.ocsp.unassigned == "unauthorized" and not found.is_overridden
            return Outcome.UNASSIGNED if unauthorized else None
        try:
            not_after = Status.from_text(found.status_text).not_after
        except ValueError as error:
            raise InvariantBroken(f"status of {question.serial_octets.hex()} of {config.name}: {error}") from error
        if not_after is not None and not_after + config.retention <= self._clock.now():
            return Outcome.PURGED
        return None

    def _leave_live(self, questions: list[Question], live: LiveAnswer) -> Result:
        # The presigner read the statuses after it signed; the journal has named none of them since (on_demand).
        if live.cert_status is CertStatus.GOOD and self._contact.age() > questions[0].issuer.config.ocsp.max_blind:
            return refused(Outcome.BLIND)
        return Result(Outcome.ANSWERED, live.response, "on_demand", live.cert_status)

    def _reply(self, reply: Callable[[Response], None], result: Result) -> None:
        """Count a result, and send it."""
        self._tally.add(_QUERY_COUNTERS[result.outcome, result.cert_status])
        if result.source:
            self._tally.add(_ANSWER_COUNTERS[result.source])
        elif (counter := _REASON_COUNTERS.get(result.outcome)) is not None:
            self._tally.add(counter)
        reply(result.response)

    async def drain(self) -> None:
        """Wait until every query that was taken is answered."""
        self._drained = asyncio.Event()
        if self._asked_live:
            await self._drained.wait()


def refused(outcome: Outcome) -> Result:
    """Return the result of a query that gets no answer."""
    return _REFUSED[outcome]


def _fulfil(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():  # whoever waited may have given up
        future.set_result(result)
