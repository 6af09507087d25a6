"""The answers in Redis: all misses of a tick of the loop in one pipeline, the same miss asked for many times once.

An answer that comes back is put together, looked at, and kept in the table; a serial that is not there is remembered
too. If the journal names a bucket while a read of it is on its way, the reply is thrown away and asked for again: the
entry may be newer than the reply. Called by the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from fastpath.ocsp_response import ResponseTemplate, assemble, unpack_answer
from responder.clock import Clock
from responder.errors import StoreUnavailable
from responder.http.caching import fresh_response
from responder.log import get_logger
from responder.metrics import MISSES_IN_FLIGHT
from responder.model import CertStatus, Status
from responder.ocsp.answer import OCSP_RESPONSE_TYPE, Answer, NotReady, Question, fresh_until
from responder.ocsp.table import AbsentTable, AnswerTable, could_hold
from responder.store.layout import partition_of
from responder.store.redis_store import CAInfo, EdgeStore, Reading

log = get_logger(__name__)

TIMEOUT_S = 1.0  # for a read and all its repetitions
MAX_IN_FLIGHT = 10_000  # different CertIDs; above it nothing is asked: the store is not keeping up
MAX_READS = 4  # of one CertID, where the journal keeps naming its bucket
CA_INFO_S = 5.0  # how long what is known of a CA holds: asked for only where a serial has no answer
MAX_TEMPLATES = 1_000  # signers remembered; a deployment has a handful


class _Flight:
    """One CertID on its way. ``outdated``: the journal has named its bucket since the read was sent."""

    __slots__ = ("future", "hash_value", "outdated", "question")

    def __init__(self, question: Question, future: asyncio.Future[Answer | NotReady | StoreUnavailable]) -> None:
        self.question = question
        self.future = future
        self.hash_value = question.serial_hash
        self.outdated = False


class StoredSource:
    """Reads of one worker. One event loop's thread only."""

    def __init__(self, store: EdgeStore, clock: Clock, table: AnswerTable, absent: AbsentTable) -> None:
        self._store = store
        self._clock = clock
        self._table = table
        self._absent = absent
        self._templates: dict[str, ResponseTemplate] = {}
        self._ca_infos: dict[str, tuple[float, CAInfo | None]] = {}  # when it was asked for, and what it said
        self._forgotten = 0  # times that these were dropped: what was asked for before holds no longer
        self._flights: dict[bytes, _Flight] = {}
        self._waiting: list[_Flight] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def fetch(self, question: Question) -> Answer | NotReady:
        """Return the stored answer that is in date, or what the store says instead.

        Raises StoreUnavailable where nothing can be said: Redis is gone or too slow, or the bucket is missing.
        """
        flight = self._flights.get(question.cert_id_der)
        if flight is None:
            if len(self._flights) >= MAX_IN_FLIGHT:
                raise StoreUnavailable(f"{MAX_IN_FLIGHT} reads are waiting already")
            loop = asyncio.get_running_loop()
            flight = self._flights[question.cert_id_der] = _Flight(question, loop.create_future())
            if not self._waiting:
                # call_soon: after every read of this tick has brought its queries.
                loop.call_soon(self._send)
            self._waiting.append(flight)
        found = await flight.future
        if isinstance(found, StoreUnavailable):
            raise found
        return found

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
                if not flight.future.done():
                    self._settle(flight, error or StoreUnavailable("a read was given up"))
            MISSES_IN_FLIGHT.set(len(self._flights))

    async def _read_until_settled(self, batch: list[_Flight]) -> None:
        open_flights = batch
        for _ in range(MAX_READS):
            for flight in open_flights:
                flight.outdated = False
            readings = await self._store.read_answers(
                [(one.question.issuer.id, one.question.hash_name, one.question.serial_octets) for one in open_flights]
            )
            await self._load_templates(readings)
            answers = [
                self._answer(flight, reading) if isinstance(reading, Reading) else None
                for flight, reading in zip(open_flights, readings, strict=True)
            ]
            await self._load_ca_infos(
                flight.question.issuer.id
                for flight, answer in zip(open_flights, answers, strict=True)
                if answer is None
            )
            # No await from here on: whatever the journal has named by now is marked, and nothing slips in between.
            again: list[_Flight] = []
            for flight, reading, answer in zip(open_flights, readings, answers, strict=True):
                if flight.outdated:
                    again.append(flight)
                else:
                    self._settle(flight, self._found(flight, reading, answer))
            if not again:
                return
            open_flights = again
        for flight in open_flights:
            self._settle(flight, StoreUnavailable("the bucket changed with every read"))

    async def _load_templates(self, readings: Sequence[Reading | StoreUnavailable]) -> None:
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

    def _found(
        self, flight: _Flight, reading: Reading | StoreUnavailable, answer: Answer | None
    ) -> Answer | NotReady | StoreUnavailable:
        """Turn what Redis holds into what the endpoint is told, and remember it."""
        question = flight.question
        if answer is not None:
            self._table.put(question.cert_id_der, answer, question.issuer.id, flight.hash_value)
            return answer
        info = self._ca_infos.get(question.issuer.id, (0.0, None))[1]
        is_loaded = info is not None and info.as_of is not None
        if isinstance(reading, StoreUnavailable):
            # No bucket where there should be one; before the first load is whole that is as it should be.
            return reading if is_loaded else NotReady(None, is_loaded=False, is_overridden=False)
        is_overridden = info is not None and info.override is not None
        if reading.status_text is None and is_loaded and not is_overridden:
            self._absent.put(question.issuer.id, question.serial_octets, flight.hash_value)
        return NotReady(reading.status_text, is_loaded, is_overridden)

    def _answer(self, flight: _Flight, reading: Reading) -> Answer | None:
        """Put a stored answer together; None: there is none that may be sent."""
        question = flight.question
        header, packed, status_text = reading.header, reading.packed, reading.status_text
        if header is None or packed is None or status_text is None:
            return None
        template = self._templates.get(header.signer_id)
        now = self._clock.now()
        # SEC-13: an answer that has run out is never served as successful.
        if template is None or now >= header.next_update:
            return None
        try:
            cert_status = CertStatus(unpack_answer(packed).cert_status)
            if cert_status is CertStatus.GOOD and not _is_good(status_text, now):
                # No script of ours leaves this behind; somebody's hand in Redis might.
                log.error("good_answer_of_revoked", ca=question.issuer.name, serial_number=question.serial_octets)
                return None
            response_der = assemble(template, header, question.cert_id_der, packed)
        except ValueError as error:
            log.error("answer_malformed", ca=question.issuer.name, error=str(error))
            return None
        response = fresh_response(
            response_der,
            OCSP_RESPONSE_TYPE,
            header.this_update,
            header.next_update,
            fresh_until(question.issuer, flight.hash_value, header.this_update, header.next_update),
        )
        return Answer(question.cert_id_der, cert_status, header.next_update, response)

    def _settle(self, flight: _Flight, result: Answer | NotReady | StoreUnavailable) -> None:
        self._flights.pop(flight.question.cert_id_der, None)
        if not flight.future.done():
            flight.future.set_result(result)

    # --- the journal ------------------------------------------------------------------------------------------------

    def drop_bucket(self, ca: str, bucket: int) -> int:
        """Have replies thrown away and asked for again that could be of a bucket of that number."""
        return self._outdate(
            flight
            for flight in self._flights.values()
            if flight.question.issuer.id == ca and could_hold(bucket, flight.hash_value)
        )

    def drop_partition(self, partition: int) -> int:
        """Have replies thrown away and asked for again that are of a partition."""
        self._forget_ca_infos()
        return self._outdate(
            flight for flight in self._flights.values() if partition_of(flight.hash_value) == partition
        )

    def clear(self) -> int:
        """Have all replies thrown away and asked for again."""
        self._forget_ca_infos()
        return self._outdate(self._flights.values())

    def _forget_ca_infos(self) -> None:
        self._ca_infos.clear()
        self._forgotten += 1

    @staticmethod
    def _outdate(found: Iterable[_Flight]) -> int:
        count = 0
        for flight in found:
            flight.outdated = True
            count += 1
        return count


def _is_good(status_text: str, now: float) -> bool:
    # Most are plainly good, and need no parsing.
    return status_text.startswith("good") or Status.from_text(status_text).at(now) is CertStatus.GOOD
