"""The answers in Redis: all misses of a tick of the loop in one pipeline, the same miss asked for many times once.

An answer that comes back is put together, looked at, and kept in the table; a serial that is not there is remembered
too. If the journal names a bucket while a read of it is on its way, the reply is thrown away and asked for again: the
entry may be newer than the reply. Called by the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

from fastpath.answer_table import AbsentTable, AnswerTable, AnswerTerms
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, assemble, is_dual
from responder.clock import Clock
from responder.errors import StoreUnavailable
from responder.issuers import Issuer
from responder.log import get_logger
from responder.metrics import MISSES_IN_FLIGHT
from responder.model import CertStatus, Status
from responder.ocsp.answer import Answer, NotReady, Question, question_of, terms_of
from responder.store.layout import could_hold, partition_of
from responder.store.redis_store import CAInfo, EdgeStore, Reading

log = get_logger(__name__)

TIMEOUT_S = 1.0  # for a read and all its repetitions
MAX_IN_FLIGHT = 10_000  # different CertIDs; above it nothing is asked: the store is not keeping up
MAX_READS = 4  # of one CertID, where the journal keeps naming its bucket
CA_INFO_S = 5.0  # how long what is known of a CA holds: asked for only where a serial has no answer
MAX_TEMPLATES = 1_000  # signers remembered; a deployment has a handful
MAX_TERMS = 10_000  # headers remembered; a bucket's answers mostly share one

Found = Answer | NotReady | StoreUnavailable


class _Flight:
    """One CertID on its way. ``outdated``: the journal has named its bucket since the read was sent."""

    __slots__ = ("outdated", "question", "settled", "waiters")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.waiters: list[Callable[[Found], None]] = []
        self.outdated = False
        self.settled = False


class StoredSource:
    """Reads of one worker. One event loop's thread only."""

    def __init__(self, store: EdgeStore, clock: Clock, table: AnswerTable, absent: AbsentTable) -> None:
        self._store = store
        self._clock = clock
        self._table = table
        self._absent = absent
        self._templates: dict[str, ResponseTemplate] = {}
        self._terms: dict[tuple[AnswerHeader, str], AnswerTerms] = {}  # by header and the store's id of the CA
        self._ca_infos: dict[str, tuple[float, CAInfo | None]] = {}  # when it was asked for, and what it said
        self._forgotten = 0  # times that these were dropped: what was asked for before holds no longer
        self._flights: dict[bytes, _Flight] = {}
        self._waiting: list[_Flight] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def fetch(self, question: Question, done: Callable[[Found], None]) -> None:
        """Have ``done`` called with the stored answer that is in date, or with what the store says instead.

        StoreUnavailable: nothing can be said. Redis is gone or too slow, or the bucket is missing. ``done`` may be
        called at once, and must not raise.
        """
        flight = self._flights.get(question.cert_id_der)
        if flight is None:
            if len(self._flights) >= MAX_IN_FLIGHT:
                done(StoreUnavailable(f"{MAX_IN_FLIGHT} reads are waiting already"))
                return
            flight = self._flights[question.cert_id_der] = _Flight(question)
            if not self._waiting:
                # call_soon: after every read of this tick has brought its queries.
                asyncio.get_running_loop().call_soon(self._send)
            self._waiting.append(flight)
        flight.waiters.append(done)

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        MISSES_IN_FLIGHT.set(len(self._flights))
        task = asyncio.get_running_loop().create_task(self._fetch_batch(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch_batch(self, batch: list[_Flight]) -> None:
        error: StoreUnavailable | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._read_until_settled(batch)
        except TimeoutError:
            error = StoreUnavailable(f"Redis did not answer within {TIMEOUT_S:g} s")
        except StoreUnavailable as unavailable:
            error = unavailable
        except Exception as mistake:
            log.exception("fetch_failed")
            error = StoreUnavailable(f"a read failed: {mistake}")
        finally:
            for flight in batch:
                if not flight.settled:
                    self._settle(flight, error or StoreUnavailable("a read was given up"))
            MISSES_IN_FLIGHT.set(len(self._flights))

    async def _read_until_settled(self, batch: list[_Flight]) -> None:
        open_flights = batch
        for _ in range(MAX_READS):
            for flight in open_flights:
                flight.outdated = False
            readings = await self._store.read_answers(
                [
                    (
                        question.issuer.id,
                        question.issuer.stored_by(question.hash_name),
                        question.serial_octets,
                        question.serial_hash,
                    )
                    for question in [flight.question for flight in open_flights]
                ]
            )
            if any(self._lacks_template(reading) for reading in readings):
                await self.load_templates(readings)
            now = self._clock.now()
            ready = [
                self._ready(one.question, reading, now) for one, reading in zip(open_flights, readings, strict=True)
            ]
            if None in ready:
                await self._load_ca_infos(
                    one.question.issuer.id for one, answer in zip(open_flights, ready, strict=True) if answer is None
                )
            # No await from here on: whatever the journal has named by now is marked, and nothing slips in between.
            again: list[_Flight] = []
            for flight, reading, answer in zip(open_flights, readings, ready, strict=True):
                if flight.outdated:
                    again.append(flight)
                elif answer is not None:
                    self._settle(flight, self._remember(flight.question, answer, reading))
                else:
                    self._settle(flight, self._not_ready(flight.question, reading))
            if not again:
                return
            open_flights = again
        for flight in open_flights:
            self._settle(flight, StoreUnavailable("the bucket changed with every read"))

    async def load_templates(self, readings: Iterable[Reading | StoreUnavailable]) -> None:
        """Read what puts a signer's answers together: once for each signer, whose id is a hash of it."""
        wanted = {
            reading.header.signer_id
            for reading in readings
            if isinstance(reading, Reading) and reading.header is not None
        }
        for signer_id in wanted - self._templates.keys():
            record = await self._store.signer(signer_id)
            if record is None:
                log.error("signer_unknown", signer_id=signer_id)
                continue
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            try:
                self._templates[signer_id] = ResponseTemplate.from_bytes(record.template)
            except ValueError as error:
                log.error("signer_malformed", signer_id=signer_id, error=str(error))

    async def _load_ca_infos(self, cas: Iterable[str]) -> None:
        """Read what is known of the CAs of serials that have no answer: whether a load is whole, and the override."""
        now = self._clock.monotonic()
        for ca in set(cas):
            read_at, info = self._ca_infos.get(ca, (float("-inf"), None))
            # Until a load is whole it is asked for each time: the answers begin the moment it is.
            if info is None or info.as_of is None or now - read_at >= CA_INFO_S:
                forgotten = self._forgotten
                info = await self._store.ca_info(ca)
                # Where the journal has named the CA meanwhile, the flight is outdated and asks again.
                self._ca_infos[ca] = (now if forgotten == self._forgotten else float("-inf"), info)

    def _not_ready(self, question: Question, reading: Reading | StoreUnavailable) -> NotReady | StoreUnavailable:
        """Turn what Redis holds instead of an answer into what the endpoint is told; remember what is not there."""
        info = self._ca_infos.get(question.issuer.id, (0.0, None))[1]
        is_loaded = info is not None and info.as_of is not None
        if isinstance(reading, StoreUnavailable):
            # No bucket where there should be one; before the first load is whole that is as it should be.
            return reading if is_loaded else NotReady(None, is_loaded=False, is_overridden=False)
        is_overridden = info is not None and info.override is not None
        if reading.status_text is None and is_loaded and not is_overridden:
            self._absent.put(question.issuer.id, question.serial_octets, question.serial_hash)
        return NotReady(reading.status_text, is_loaded, is_overridden)

    def _lacks_template(self, reading: Reading | StoreUnavailable) -> bool:
        return (
            isinstance(reading, Reading)
            and reading.header is not None
            and reading.header.signer_id not in self._templates
        )

    def _ready(self, question: Question, reading: Reading | StoreUnavailable, now: float) -> Answer | None:
        """Put a stored answer together; None: there is none that may be sent."""
        if isinstance(reading, StoreUnavailable) or reading.header is None:
            return None
        header, packed, status_text, cert_status = (
            reading.header,
            reading.packed,
            reading.status_text,
            reading.cert_status,
        )
        if packed is None or cert_status is None or status_text is None:
            return None
        template = self._templates.get(header.signer_id)
        # SEC-13: an answer that has run out is never served as successful.
        if template is None or now >= header.next_update:
            return None
        try:
            if cert_status is CertStatus.GOOD and not _is_good(status_text, now):
                # No script of ours leaves this behind; somebody's hand in Redis might.
                log.error("good_answer_of_revoked", ca=question.issuer.name, serial_number=question.serial_octets)
                return None
            if is_dual(packed):
                sha1_der, sha256_der = question.issuer.both_cert_ids(question.serial_octets)
                response_der = assemble(template, header, sha1_der, packed, sha256_der)
            elif question.issuer.stored_by(question.hash_name) != question.hash_name:
                return None  # signed for SHA-1 alone, before the configuration said dual
            else:
                response_der = assemble(template, header, question.cert_id_der, packed)
        except ValueError as error:
            log.error("answer_malformed", ca=question.issuer.name, error=str(error))
            return None
        return Answer(
            cert_status,
            response_der,
            sha256(response_der).digest(),
            self._terms.get((header, question.issuer.id)) or self._make_terms(question.issuer, header, template),
            question.serial_hash,
        )

    def _make_terms(self, issuer: Issuer, header: AnswerHeader, template: ResponseTemplate) -> AnswerTerms:
        if len(self._terms) >= MAX_TERMS:
            self._terms.clear()
        terms = terms_of(issuer, header.this_update, header.next_update, template, header)
        self._terms[header, issuer.id] = terms
        return terms

    def _remember(self, question: Question, answer: Answer, reading: Reading | StoreUnavailable) -> Answer:
        """Keep an answer that the journal has not overtaken, and return it."""
        assert isinstance(reading, Reading)  # noqa: S101 - what it was made of
        assert reading.packed is not None  # noqa: S101
        self._table.put(
            question.issuer.id,
            question.hash_name,
            question.serial_octets,
            question.serial_hash,
            answer.terms,
            reading.packed,
            answer.etag_digest,
        )
        return answer

    def keep_all(self, issuer: Issuer, hash_name: str, readings: Mapping[bytes, Reading]) -> int:
        """Put what was read of a bucket into the table, by serial octets; returns how many answers.

        The caller knows that the journal has not named it since, and has loaded the templates.
        """
        kept, now = 0, self._clock.now()
        for serial_octets, reading in readings.items():
            question = question_of(issuer, hash_name, serial_octets)
            answer = self._ready(question, reading, now)
            if answer is not None:
                self._remember(question, answer, reading)
                kept += 1
        return kept

    def _settle(self, flight: _Flight, found: Found) -> None:
        self._flights.pop(flight.question.cert_id_der, None)
        flight.settled = True
        for done in flight.waiters:
            try:
                done(found)
            except Exception:  # a mistake about one client must not cost the others their answers
                log.exception("reply_failed")

    # --- the journal ------------------------------------------------------------------------------------------------

    def drop_bucket(self, ca: str, bucket: int) -> None:
        """Have replies thrown away and asked for again that could be of a bucket of that number."""
        _outdate(
            flight
            for flight in self._flights.values()
            if flight.question.issuer.id == ca and could_hold(bucket, flight.question.serial_hash)
        )

    def drop_partition(self, partition: int) -> None:
        """Have replies thrown away and asked for again that are of a partition."""
        self._forget_ca_infos()
        _outdate(flight for flight in self._flights.values() if partition_of(flight.question.serial_hash) == partition)

    def clear(self) -> None:
        """Have all replies thrown away and asked for again."""
        self._forget_ca_infos()
        _outdate(self._flights.values())

    def _forget_ca_infos(self) -> None:
        self._ca_infos.clear()
        self._forgotten += 1


def _outdate(found: Iterable[_Flight]) -> None:
    for flight in found:
        flight.outdated = True


def _is_good(status_text: str, now: float) -> bool:
    # Most are plainly good, and need no parsing.
    return status_text.startswith("good") or Status.from_text(status_text).at(now) is CertStatus.GOOD
