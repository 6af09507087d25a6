"""The answers that are ready, straight from the table: what the HTTP side may ask before it makes a Request.

Ties fastpath.express to this worker's CAs, clock and journal, and to the metrics. Whatever it returns is what the
endpoint would have answered, octet for octet; what it leaves, the endpoint decides. Called by the HTTP side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastpath.answer_table import AnswerTable
from fastpath.express import ExpressLane, Missing
from fastpath.express_sockets import ExpressSockets
from responder.clock import Clock
from responder.config import HTTPConfig
from responder.http.caching import head_parts
from responder.http.message import Response, date_line
from responder.issuers import HASH_NAMES, Issuers
from responder.metrics import ANSWERS, QUERIES, TABLE_BYTES, TABLE_ENTRIES, Tally
from responder.model import CertStatus
from responder.ocsp.answer import OCSP_RESPONSE_TYPE, Question
from responder.ocsp.endpoint import OCSPEndpoint
from responder.ocsp.journal import Contact
from responder.store.layout import serial_hash

_QUERY_COUNTERS = [QUERIES.labels(status.name.lower()) for status in CertStatus]
_TABLE_ANSWERS = ANSWERS.labels("table")


class ReadyAnswers:
    """The ``Express`` of one worker. ``ready`` and ``read`` are fastpath.express's own."""

    def __init__(
        self,
        http: HTTPConfig,
        clock: Clock,
        contact: Contact,
        issuers: Issuers,
        table: AnswerTable,
        endpoint: OCSPEndpoint,
        tally: Tally,
    ) -> None:
        """``table`` numbers its CAs in the order of ``issuers``; ``tally`` is the endpoint's too."""
        self._issuers = tuple(issuers)
        self._table = table
        self._endpoint = endpoint
        self._tally = tally
        self._lane = ExpressLane(
            table,
            [
                (
                    [(name, issuer.name_hashes[name], issuer.key_hashes[name]) for name in HASH_NAMES],
                    issuer.config.ocsp.max_blind,
                    issuer.config.ocsp.nonce != "ignore",
                )
                for issuer in issuers
            ],
            head_parts(OCSP_RESPONSE_TYPE),
            clock.now,
            contact.age,
            date_line,
            max_target_bytes=http.max_target_bytes,
            max_header_bytes=http.max_header_bytes,
            max_body_bytes=http.max_body_bytes,
        )
        self.ready: Callable[[bool, bytes, bytes], bytes | None] = self._lane.ready
        self.ready_count: Callable[[], int] = self._lane.ready_count
        self.read: Callable[[bytes], bytes | tuple[bytes] | Missing | None] | None = (
            self._lane.read if http.express else None
        )

    def open_sockets(self) -> ExpressSockets:
        """Make what reads from sockets lent to it."""
        return ExpressSockets(self._lane, frames=self.read is not None)

    def fetch(self, missing: Missing, reply: Callable[[Response], None]) -> None:
        """Have the endpoint answer a plain question that the table has no answer to."""
        serial_octets = missing.serial_octets
        question = Question(
            self._issuers[missing.issuer],
            missing.hash_name,
            serial_octets,
            missing.cert_id_der,
            serial_hash(serial_octets),
        )
        if missing.nonce_octets is None:
            self._endpoint.fetch(question, reply, partial(self._lane.message, missing))
        else:
            self._endpoint.sign(question, missing.nonce_octets, reply)

    def take_messages(self) -> int:
        """Move the counts since the last call into the metrics; returns how many messages the lane made."""
        messages, *by_status = self._lane.take_counts()
        for counter, count in zip(_QUERY_COUNTERS, by_status, strict=True):
            self._tally.add(counter, count)
        self._tally.add(_TABLE_ANSWERS, messages)
        self._tally.flush()
        TABLE_ENTRIES.set(len(self._table))
        TABLE_BYTES.set(self._table.used_bytes)
        return messages
