"""What the sources of answers are asked, and what they give: values without behaviour.

A Question is one CertID of a request whose issuer was recognised; an Answer is an OCSPResponse that may be sent to
whoever asks that Question without a nonce. Knows no HTTP and no store. Times are POSIX seconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from fastpath.answer_table import AnswerTerms
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate
from responder.http.caching import CachedResponse, expires_line, last_modified_line
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


# The values of the hot path are not frozen: a frozen dataclass takes three times as long to make. Nobody changes them.


@dataclass(slots=True)
class Question:
    """One CertID. ``cert_id_der`` is its canonical form (hashAlgorithm parameters NULL), which is what gets compared.

    ``serial_hash`` is the number whose low bits name the serial's bucket.
    """

    issuer: Issuer
    hash_name: str
    serial_octets: bytes
    cert_id_der: bytes
    serial_hash: int


@dataclass(slots=True)
class Answer:
    """A successful OCSPResponse without nonce, for one CertID; it may be sent to whoever asks for that.

    ``etag_digest`` is its SHA-256; ``serial_hash`` decides until when caches may use it.
    """

    cert_status: CertStatus
    response_der: bytes
    etag_digest: bytes
    terms: AnswerTerms
    serial_hash: int

    def response(self) -> CachedResponse:
        """Make the HTTP response."""
        return CachedResponse(
            self.response_der,
            OCSP_RESPONSE_TYPE,
            self.terms.this_update,
            self.terms.next_update,
            self.terms.fresh_until(self.serial_hash),
            self.etag_digest,
        )


@dataclass(slots=True)
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
        issuer, hash_name, serial_octets, issuer.cert_id(hash_name, serial_octets), serial_hash(serial_octets)
    )


def terms_of(
    issuer: Issuer,
    this_update: int,
    next_update: int,
    template: ResponseTemplate | None = None,
    header: AnswerHeader | None = None,
) -> AnswerTerms:
    """Make what answers of one header share in a worker; without template and header: for whole answers.

    RFC 9919 §7.1: max-age ends after thisUpdate and before nextUpdate, and a refreshed response is there by then. The
    presigner signs again at half of the validity; we leave it one eighth for that, and spread the serials over another.
    """
    validity = min(next_update - this_update, issuer.config.ocsp.validity)
    return AnswerTerms(
        this_update,
        next_update,
        this_update + validity * FRESH_EIGHTHS // 8,
        max(1, validity * JITTER_EIGHTHS // 8),
        last_modified_line(this_update),
        expires_line(next_update),
        template,
        header,
    )
