"""Clients that never stop asking, and the judge of what they were told (DESIGN §2).

Each client has one keep-alive connection at a time, hence one worker, and notes every answer with its times. The judge
looks at the whole history afterwards: it needs no luck, and a wrong answer cannot hide behind a later right one.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from tests.pki import PKI, Leaf, verify
from tests.server import request_for

PAUSE_S = 0.004  # between a client's questions: the machine has other work too
TIMEOUT_S = 15.0  # of one question; a worker that was killed leaves its queue to its successor
GRACE_S = 5.0  # after an acknowledgement, or the end of an outage; the figure of DESIGN §8 is for a benchmark


@dataclass(frozen=True)
class Told:
    """One answer. Times are POSIX seconds; ``connection`` is one worker's."""

    connection: int
    asked_at: float
    told_at: float
    serial: int
    http_status: int
    body: bytes


@dataclass
class History:
    """All that happened; threads append to it."""

    told: list[Told] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)  # serial → when its revocation was
    outages: list[tuple[float, float]] = field(default_factory=list)  # when Redis could not be reached
    # When a worker had just been started, or had forgotten all because Redis was: it may have to say tryLater.
    cold: list[tuple[float, float]] = field(default_factory=list)
    _connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new_connection(self) -> int:
        """Number a connection."""
        with self._lock:
            self._connections += 1
            return self._connections


class Client(threading.Thread):
    """Asks about certificates in turn until it is stopped."""

    def __init__(
        self, history: History, address: Callable[[], tuple[str, int]], ca: PKI, leaves: Sequence[Leaf]
    ) -> None:
        super().__init__(daemon=True)
        self._history = history
        self._address = address
        self._requests = [(leaf.serial_number, request_for(leaf, ca)) for leaf in leaves]
        self._ended = threading.Event()
        self.told = 0

    def run(self) -> None:
        """Ask."""
        while not self._ended.is_set():
            number = self._history.new_connection()
            connection = http.client.HTTPConnection(*self._address(), timeout=TIMEOUT_S)
            # A worker that is killed ends its connections; whoever asked asks again, as any client would.
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._ask(connection, number)
            connection.close()
            self._ended.wait(PAUSE_S)

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        while True:
            for serial, request_der in self._requests:
                if self._ended.is_set():
                    return
                asked_at = time.time()
                connection.request("POST", "/", request_der, {"Content-Type": "application/ocsp-request"})
                reply = connection.getresponse()
                body = reply.read()
                self._history.told.append(Told(number, asked_at, time.time(), serial, reply.status, body))
                self.told += 1
                self._ended.wait(PAUSE_S)

    def stop(self) -> None:
        """Stop asking."""
        self._ended.set()
        self.join(TIMEOUT_S + 5)
        assert not self.is_alive()


@dataclass(frozen=True)
class Verdict:
    """What the judge found: complaints, and how often what was told."""

    complaints: list[str]
    counts: dict[str, int]


class Judge:
    """Holds a history against DESIGN §2."""

    def __init__(self, ca: PKI, history: History) -> None:
        self._ca = ca
        self._history = history
        self._read: dict[tuple[int, bytes], Any] = {}
        self._complaints: dict[str, int] = {}

    def judge(self, hot: Sequence[Leaf]) -> Verdict:
        """Judge everything; ``hot``: certificates that every worker had answers for, in buckets where nothing changed."""
        counts: dict[str, int] = {}
        hot_serials = {leaf.serial_number for leaf in hot}
        revoked_seen: set[tuple[int, int]] = set()
        for told in sorted(self._history.told, key=lambda one: one.told_at):
            what = self._what(told)
            counts[what] = counts.get(what, 0) + 1
            if told.serial in hot_serials and what != "good" and not (what == "try_later" and self._is_cold(told)):
                self._complain(f"the hot {told.serial:x} was answered with {what}")
            if what == "revoked":
                revoked_seen.add((told.connection, told.serial))
                if told.serial not in self._history.acknowledged:
                    self._complain(f"{told.serial:x} was called revoked, and never was")
            elif what == "good":
                self._good(told, revoked_seen)
        return Verdict([f"{text} ({times} times)" for text, times in self._complaints.items()], counts)

    def _is_cold(self, told: Told) -> bool:
        return any(start <= told.told_at and told.asked_at <= end for start, end in self._history.cold)

    def _complain(self, text: str) -> None:
        self._complaints[text] = self._complaints.get(text, 0) + 1

    def _good(self, told: Told, revoked_seen: set[tuple[int, int]]) -> None:
        if (told.connection, told.serial) in revoked_seen:
            self._complain(f"{told.serial:x} was good again after the same worker had said revoked")
        at = self._history.acknowledged.get(told.serial)
        if at is None:
            return
        if told.asked_at > self._deadline(at):
            self._complain(f"{told.serial:x} was called good too long after its revocation was acknowledged")
        produced_at = self._read[told.serial, told.body].produced_at_utc.timestamp()
        if produced_at > at:
            self._complain(f"{told.serial:x} was signed as good after its revocation was acknowledged")

    def _deadline(self, acknowledged_at: float) -> float:
        """Return from when on nobody may say good: a worker that is cut off from Redis cannot know (promise 1)."""
        ends = [
            end for start, end in self._history.outages if start < acknowledged_at + GRACE_S and end > acknowledged_at
        ]
        return max([acknowledged_at, *ends]) + GRACE_S

    def _what(self, told: Told) -> str:
        """Return good, revoked, or why not; complains of an answer that nobody may believe."""
        response = self._parsed(told)
        if response is None:
            return f"HTTP {told.http_status}"
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return str(response.response_status.name.lower())
        if not response.this_update_utc.timestamp() <= told.told_at + 1:
            self._complain(f"an answer for {told.serial:x} is dated ahead")
        if not told.told_at - 1 < response.next_update_utc.timestamp():
            self._complain(f"an answer for {told.serial:x} had run out")
        return str(response.certificate_status.name.lower())

    def _parsed(self, told: Told) -> Any:
        key = (told.serial, told.body)
        if key not in self._read:
            self._read[key] = None if told.http_status != 200 else ocsp.load_der_ocsp_response(told.body)
            if self._read[key] is not None and self._read[key].response_status is ocsp.OCSPResponseStatus.SUCCESSFUL:
                self._believe(told.serial, self._read[key])
        return self._read[key]

    def _believe(self, serial: int, response: ocsp.OCSPResponse) -> None:
        """Complain unless the answer is about what was asked, and signed by whom the CA lets sign."""
        (certificate,) = response.certificates or [self._ca.certificate]
        if certificate != self._ca.certificate:
            certificate.verify_directly_issued_by(self._ca.certificate)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            assert x509.oid.ExtendedKeyUsageOID.OCSP_SIGNING in usage
        verify(
            certificate.public_key(), self._ca.answer_signer.key_type, response.signature, response.tbs_response_bytes
        )
        (single,) = response.responses
        asked = (serial, self._ca.issuer_name_hash(), self._ca.issuer_key_hash())
        answered = (single.serial_number, single.issuer_name_hash, single.issuer_key_hash)
        if asked != answered or not isinstance(single.hash_algorithm, hashes.SHA1):
            self._complain(f"asked about {serial:x}, answered about {single.serial_number:x}")


def tally(counts: Mapping[str, int]) -> str:
    """Write counts for a failure's message."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
