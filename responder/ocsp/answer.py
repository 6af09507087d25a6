"""What the sources of answers are asked, and what they give: values without behaviour.

A Question is one CertID of a request whose issuer was recognised; an Answer is an OCSPResponse that may be sent to
whoever asks that Question without a nonce. Knows no HTTP and no store. Times are POSIX seconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from fastpath.ocsp_response import encode_cert_id
from responder.http.message import Response
from responder.issuers import Issuer
from responder.model import CertStatus
from responder.store.layout import serial_hash

OCSP_REQUEST_TYPE = b"application/ocsp-request"
OCSP_RESPONSE_TYPE = b"application/ocsp-response"
FRESH_EIGHTHS = 5  # of the validity; the presigner has a newer answer at four eighths
JITTER_EIGHTHS = 1


@unique
class Outcome(Enum):
    """How a query may end; ``endpoint.DECISIONS`` says what each means on the wire."""

    ANSWERED = "answered"
    BAD_TARGET = "bad_target"
    BAD_REQUEST = "bad_request"
    CRITICAL_EXTENSION = "critical_extension"
    RESPONSE_TYPE = "response_type"
    UNKNOWN_HASH = "unknown_hash"
    UNKNOWN_ISSUER = "unknown_issuer"
    SEVERAL_ISSUERS = "several_issuers"
    SEVERAL_HASHES = "several_hashes"
    UNASSIGNED = "unassigned"
    PURGED = "purged"
    NOT_LOADED = "not_loaded"
    STORE_UNAVAILABLE = "store_unavailable"
    BLIND = "blind"
    NOT_SIGNED = "not_signed"
    BUSY = "busy"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Question:
    """One CertID. ``cert_id_der`` is its canonical form (hashAlgorithm parameters NULL), which is what gets compared."""

    issuer: Issuer
    hash_name: str
    serial_octets: bytes
    cert_id_der: bytes

    @property
    def serial_hash(self) -> int:
        """The number whose low bits name the serial's bucket."""
        return serial_hash(self.serial_octets)


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful OCSPResponse without nonce, for one CertID; it may be sent to whoever asks for that."""

    cert_id_der: bytes
    cert_status: CertStatus
    next_update: int
    response: Response


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """A successful OCSPResponse made for one query. ``cert_status`` is GOOD where any of its CertIDs is."""

    cert_status: CertStatus
    response: Response


@dataclass(frozen=True, slots=True)
class NotReady:
    """The store holds no answer that is in date. ``status_text`` None: no such serial (and its bucket is there).

    ``is_loaded``: the CA's database was read to its end once. ``is_overridden``: the CA is compromised, so that serials
    of no list are revoked too (RFC 6960 §2.7).
    """

    status_text: str | None
    is_loaded: bool
    is_overridden: bool


def question_of(issuer: Issuer, hash_name: str, serial_octets: bytes) -> Question:
    """Make the Question about a serial of a CA."""
    return Question(
        issuer,
        hash_name,
        serial_octets,
        encode_cert_id(hash_name, issuer.name_hashes[hash_name], issuer.key_hashes[hash_name], serial_octets),
    )


def fresh_until(issuer: Issuer, hash_value: int, this_update: int, next_update: int) -> int:
    """Return when an answer should be asked for again; ``hash_value`` is layout.serial_hash of its serial.

    RFC 9919 §7.1: after thisUpdate, before nextUpdate, and a refreshed response is there by then. The presigner signs
    again at half of the validity; we leave it one eighth for that, and spread the serials over another.
    """
    validity = min(next_update - this_update, issuer.config.ocsp.validity)
    # High bits: the low ones name the bucket, whose answers are all refreshed together.
    jitter = (hash_value >> 8) % max(1, validity * JITTER_EIGHTHS // 8)
    return max(this_update, min(this_update + validity * FRESH_EIGHTHS // 8 + jitter, next_update - 1))
