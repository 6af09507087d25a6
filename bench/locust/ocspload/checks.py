"""Judge answers: what an OCSP client or a reader of CRLs must refuse is a ``CheckFailed`` with one of a few reasons.

Reasons become rows of locust's failure table, so they are few and hold nothing of the answer but closed enums; each is
explained in docs/load-testing.md, which a test compares with ``Reason``. RFC 6960 §3.2 and §4.2.2, RFC 9919 §5-7.

Parsing and verifying are remembered by the SHA-256 of the body: the same octets are parsed and verified once, and all
that depends on the question, the header fields and the time is checked each time.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from .targets import CertID, Issuer

CACHE_ENTRIES: Final = 50_000  # about 100 MB of answers that were parsed; older ones are parsed again
DEFAULT_SKEW_S: Final = 5.0  # more than NTP leaves between two machines, less than anyone would serve late by plan

T = TypeVar("T")


class Reason(StrEnum):
    """Why an answer is refused."""

    REFUSED = "connection refused"
    TIMEOUT = "timeout"
    BROKEN = "connection broken"
    HTTP_STATUS = "HTTP status"
    CONTENT_TYPE = "wrong content type"
    CONTENT_LENGTH = "wrong Content-Length"
    NOT_OCSP = "not an OCSP response"
    RESPONSE_STATUS = "responseStatus"
    CACHEABLE_ERROR = "error may be cached"
    CERT_ID = "wrong CertID"
    NO_SIGNER = "signer's certificate missing"
    FOREIGN_SIGNER = "signer not issued by the CA"
    SIGNER_USAGE = "signer without OCSPSigning"
    SIGNER_DATE = "signer out of date"
    ALGORITHM = "signature algorithm not accepted"
    SIGNATURE = "bad signature"
    FUTURE = "thisUpdate in the future"
    NO_NEXT_UPDATE = "no nextUpdate"
    EXPIRED = "past nextUpdate"
    NO_MAX_AGE = "no max-age"
    MAX_AGE = "max-age past nextUpdate"
    ETAG = "wrong ETag"
    NO_NONCE = "nonce not echoed"
    NONCE = "wrong nonce"
    STATUS = "wrong status"
    NOT_CRL = "not a CRL"
    CRL_ISSUER = "wrong CRL issuer"
    NO_CRL_NUMBER = "no cRLNumber"
    CRL_NUMBER = "cRLNumber went back"
    CHECKER = "checker broke"


class CheckFailed(Exception):
    """An answer is refused; ``detail`` is a word of a closed set (an HTTP status, a responseStatus, two CertStatus)."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason


@dataclass(frozen=True)
class HTTPAnswer:
    """What came back; names of ``headers`` are in lower case, repeated fields are joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Question:
    """What was asked."""

    method: str
    cert_id: CertID
    nonce: bytes | None = None
    expect: str | None = None


class Interval(NamedTuple):
    """POSIX seconds of the dates in an answer, a CRL or a certificate; ``end`` None where nextUpdate is absent."""

    begin: float
    end: float | None


# --- signatures ---

_ALGORITHMS: Final[dict[x509.ObjectIdentifier, tuple[str, hashes.HashAlgorithm | None]]] = {
    # No SHA-1 and no MD5: clients refuse them. RSASSA-PSS is not known here.
    SignatureAlgorithmOID.RSA_WITH_SHA256: ("rsa", hashes.SHA256()),
    SignatureAlgorithmOID.RSA_WITH_SHA384: ("rsa", hashes.SHA384()),
    SignatureAlgorithmOID.RSA_WITH_SHA512: ("rsa", hashes.SHA512()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ("ec", hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ("ec", hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ("ec", hashes.SHA512()),
    SignatureAlgorithmOID.ED25519: ("pure", None),
    SignatureAlgorithmOID.ED448: ("pure", None),
    **{
        # RFC 9881 §2: id-ml-dsa-44, -65 and -87
        x509.ObjectIdentifier(f"2.16.840.1.101.3.4.3.{number}"): ("pure", None)
        for number in (17, 18, 19)
    },
}


def _verify(key: Any, algorithm_oid: x509.ObjectIdentifier, signature: bytes, message: bytes) -> None:
    if algorithm_oid not in _ALGORITHMS:
        raise CheckFailed(Reason.ALGORITHM)
    family, algorithm = _ALGORITHMS[algorithm_oid]
    is_rsa, is_ec = isinstance(key, rsa.RSAPublicKey), isinstance(key, ec.EllipticCurvePublicKey)
    kind = "rsa" if is_rsa else "ec" if is_ec else "pure"
    try:
        if kind != family:
            raise InvalidSignature
        if algorithm is None:
            key.verify(signature, message)
        elif kind == "rsa":
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        else:
            key.verify(signature, message, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise CheckFailed(Reason.SIGNATURE) from None


def _key_hash(certificate: x509.Certificate) -> bytes:
    # RFC 6960 §4.2.1: KeyHash is SHA-1 of the key's BIT STRING, which is also how this identifier is computed.
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _check_delegate(certificate: x509.Certificate, issuer: Issuer) -> None:
    # RFC 6960 §4.2.2.2: issued directly by the CA that is asked about, and marked with id-kp-OCSPSigning.
    try:
        certificate.verify_directly_issued_by(issuer.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise CheckFailed(Reason.FOREIGN_SIGNER) from None
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        raise CheckFailed(Reason.SIGNER_USAGE) from None
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise CheckFailed(Reason.SIGNER_USAGE)


def _signers(response: ocsp.OCSPResponse, issuer: Issuer) -> list[x509.Certificate]:
    """Return the certificates that the ResponderID may mean: the CA's and those in the answer."""
    candidates = [issuer.certificate, *response.certificates]
    if response.responder_key_hash is not None:
        return [certificate for certificate in candidates if _key_hash(certificate) == response.responder_key_hash]
    return [certificate for certificate in candidates if certificate.subject == response.responder_name]


def _verify_response(response: ocsp.OCSPResponse, issuer: Issuer) -> Interval:
    """Verify the signature and who made it; returns the validity of the signer's certificate."""
    failure = CheckFailed(Reason.NO_SIGNER)
    for signer in _signers(response, issuer):  # two where a renewed signer has kept its key or its name
        try:
            if signer != issuer.certificate:
                _check_delegate(signer, issuer)
            _verify(
                signer.public_key(), response.signature_algorithm_oid, response.signature, response.tbs_response_bytes
            )
        except CheckFailed as error:
            failure = error
        else:
            return Interval(signer.not_valid_before_utc.timestamp(), signer.not_valid_after_utc.timestamp())
    raise failure


# --- what is remembered of a body ---


class Single(NamedTuple):
    """One SingleResponse."""

    cert_status: str
    dates: Interval


@dataclass(frozen=True)
class Parsed:
    """A body, parsed and verified. ``failure`` is the signature's; it counts only once the CertID has been compared."""

    response_status: str
    responses: Mapping[CertID, Single]
    nonce: bytes | None
    signer: Interval | None
    failure: Reason | None


class _Remembered(Generic[T]):
    """The results of ``compute`` by the SHA-256 of its argument, the latest ``CACHE_ENTRIES`` of them."""

    def __init__(self, compute: Callable[[bytes], T]) -> None:
        self._compute = compute
        self._results: OrderedDict[bytes, T] = OrderedDict()

    def get(self, body: bytes, digest: bytes) -> T:
        result = self._results.get(digest)
        if result is None:
            result = self._results[digest] = self._compute(body)
            if len(self._results) > CACHE_ENTRIES:
                self._results.popitem(last=False)
        else:
            self._results.move_to_end(digest)
        return result


def _interval(this_update: datetime, next_update: datetime | None) -> Interval:
    return Interval(this_update.timestamp(), None if next_update is None else next_update.timestamp())


_RESPONSE_STATUS: Final = {
    ocsp.OCSPResponseStatus.SUCCESSFUL: "successful",
    ocsp.OCSPResponseStatus.MALFORMED_REQUEST: "malformedRequest",
    ocsp.OCSPResponseStatus.INTERNAL_ERROR: "internalError",
    ocsp.OCSPResponseStatus.TRY_LATER: "tryLater",
    ocsp.OCSPResponseStatus.SIG_REQUIRED: "sigRequired",
    ocsp.OCSPResponseStatus.UNAUTHORIZED: "unauthorized",
}


def parse_response(body: bytes, issuer: Issuer) -> Parsed | None:
    """Parse and verify an OCSPResponse; None where it is none."""
    try:
        response = ocsp.load_der_ocsp_response(body)
        response_status = _RESPONSE_STATUS[response.response_status]
        if response_status != "successful":
            return Parsed(response_status, {}, None, None, None)
        responses = {
            CertID(
                single.hash_algorithm.name, single.issuer_name_hash, single.issuer_key_hash, single.serial_number
            ): Single(single.certificate_status.name.lower(), _interval(single.this_update_utc, single.next_update_utc))
            for single in response.responses
        }
        try:
            nonce = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        except x509.ExtensionNotFound:
            nonce = None
        try:
            return Parsed(response_status, responses, nonce, _verify_response(response, issuer), None)
        except CheckFailed as error:
            return Parsed(response_status, responses, nonce, None, error.reason)
    # cryptography raises ValueError for what is no DER, and others for DER that it does not take.
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension):
        return None


# --- the parts that OCSP and CRLs share ---

_NOT_KEPT: Final = re.compile(r"(?:^|[,\s])(?:private|no-store)(?:$|[,\s])", re.IGNORECASE)
_AGE: Final = re.compile(r"(?:^|[,\s])(?:s-maxage|max-age)=\"?(\d{1,10})", re.IGNORECASE)


def _check_http(answer: HTTPAnswer, content_type: str | None, *, length_needed: bool) -> None:
    if answer.status != 200:
        raise CheckFailed(Reason.HTTP_STATUS, str(answer.status))
    if content_type is not None and answer.headers.get("content-type", "").strip().lower() != content_type:
        raise CheckFailed(Reason.CONTENT_TYPE)
    length = answer.headers.get("content-length")
    if length is None and not length_needed:
        return
    if length is None or not length.isascii() or not length.isdigit() or int(length) != len(answer.body):
        raise CheckFailed(Reason.CONTENT_LENGTH)


def _check_dates(dates: Interval, now: float, skew_s: float) -> float:
    """Check thisUpdate <= now < nextUpdate, give or take ``skew_s``; returns nextUpdate."""
    if dates.begin > now + skew_s:
        raise CheckFailed(Reason.FUTURE)
    if dates.end is None:
        raise CheckFailed(Reason.NO_NEXT_UPDATE)
    if now - skew_s >= dates.end:
        raise CheckFailed(Reason.EXPIRED)
    return dates.end


def _max_ages(headers: Mapping[str, str]) -> list[int]:
    return [int(text) for text in _AGE.findall(headers.get("cache-control", ""))]


# --- OCSP ---


class OCSPChecker:
    """Checks answers about the certificates of one CA."""

    def __init__(self, issuer: Issuer, skew_s: float = DEFAULT_SKEW_S) -> None:
        self._skew_s = skew_s
        self._parsed = _Remembered[Parsed | bool](lambda body: parse_response(body, issuer) or False)

    def check(self, answer: HTTPAnswer, question: Question, now: float) -> None:
        """Check everything; raises CheckFailed at the first thing that is wrong."""
        _check_http(answer, "application/ocsp-response", length_needed=True)
        digest = hashlib.sha256(answer.body)
        parsed = self._parsed.get(answer.body, digest.digest())
        if not isinstance(parsed, Parsed):
            raise CheckFailed(Reason.NOT_OCSP)
        if parsed.response_status != "successful":
            self._check_error(parsed.response_status, answer, question)
            return
        single = parsed.responses.get(question.cert_id)
        if single is None:
            raise CheckFailed(Reason.CERT_ID)
        if parsed.failure is not None:
            raise CheckFailed(parsed.failure)
        assert parsed.signer is not None
        assert parsed.signer.end is not None
        if not parsed.signer.begin - self._skew_s <= now <= parsed.signer.end + self._skew_s:
            raise CheckFailed(Reason.SIGNER_DATE)
        next_update = _check_dates(single.dates, now, self._skew_s)
        self._check_caching(answer, question, digest.hexdigest(), now, next_update)
        self._check_nonce(parsed.nonce, question.nonce)
        if question.expect is not None and single.cert_status != question.expect:
            raise CheckFailed(Reason.STATUS, f"{single.cert_status}, expected {question.expect}")

    @staticmethod
    def _check_error(response_status: str, answer: HTTPAnswer, question: Question) -> None:
        if response_status != question.expect:  # of the error statuses only unauthorized can be expected
            raise CheckFailed(Reason.RESPONSE_STATUS, response_status)
        # An error has no signature and no dates: a cache that kept it would hide the certificate's true status.
        if any(_max_ages(answer.headers)):
            raise CheckFailed(Reason.CACHEABLE_ERROR)

    def _check_caching(
        self, answer: HTTPAnswer, question: Question, digest: str, now: float, next_update: float
    ) -> None:
        # RFC 9919 §7.2: what caches may keep is replaced before it runs out; the ETag is the SHA-256 in hex.
        is_kept = question.method == "GET" and not _NOT_KEPT.search(answer.headers.get("cache-control", ""))
        ages = _max_ages(answer.headers)
        if is_kept and not ages:
            raise CheckFailed(Reason.NO_MAX_AGE)
        age = answer.headers.get("age", "")  # of a cache on the way; its time counts against max-age (RFC 9111 §4.2)
        spent = int(age) if age.isascii() and age.isdigit() else 0
        # An answer with max-age=0 is never fresh, so it cannot be kept too long.
        if ages and max(ages) > 0 and now - self._skew_s + max(ages) - spent >= next_update:
            raise CheckFailed(Reason.MAX_AGE)
        etag = answer.headers.get("etag")
        if (is_kept or etag is not None) and (etag or "").strip().lower() != f'"{digest}"':
            raise CheckFailed(Reason.ETAG)

    @staticmethod
    def _check_nonce(nonce: bytes | None, asked: bytes | None) -> None:
        if nonce == asked:
            return
        # A nonce that was not asked for is that of somebody else's answer (RFC 9654 §2.1).
        raise CheckFailed(Reason.NO_NONCE if nonce is None else Reason.NONCE)


# --- CRLs ---


@dataclass(frozen=True)
class ParsedCRL:
    """A CRL, parsed and verified."""

    dates: Interval
    crl_number: int | None
    failure: Reason | None


def parse_crl(body: bytes, issuer: Issuer) -> ParsedCRL | None:
    """Parse and verify a CertificateList in DER (RFC 5280 §5.1); None where it is none."""
    try:
        crl = x509.load_der_x509_crl(body)
        dates = _interval(crl.last_update_utc, crl.next_update_utc)
        try:
            crl_number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except x509.ExtensionNotFound:
            crl_number = None
        failure = None
        if crl.issuer != issuer.certificate.subject:
            failure = Reason.CRL_ISSUER
        else:
            try:
                _verify(issuer.public_key, crl.signature_algorithm_oid, crl.signature, crl.tbs_certlist_bytes)
            except CheckFailed as error:
                failure = error.reason
        return ParsedCRL(dates, crl_number, failure)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension):
        return None


class CRLChecker:
    """Checks the CRLs of one CA, and that the number of what one URL serves never goes back."""

    def __init__(self, issuer: Issuer, skew_s: float = DEFAULT_SKEW_S) -> None:
        self._skew_s = skew_s
        self._parsed = _Remembered[ParsedCRL | bool](lambda body: parse_crl(body, issuer) or False)
        self._highest: dict[str, int] = {}

    def floor(self, url: str) -> int:
        """Return the number that an answer to a request sent now must reach.

        To be asked before sending: an answer under way while a newer CRL is published may rightly have the old number.
        """
        return self._highest.get(url, -1)

    def check(self, answer: HTTPAnswer, url: str, floor: int, now: float) -> None:
        """Check everything; raises CheckFailed at the first thing that is wrong."""
        _check_http(answer, None, length_needed=False)  # file servers name all sorts of types
        parsed = self._parsed.get(answer.body, hashlib.sha256(answer.body).digest())
        if not isinstance(parsed, ParsedCRL):
            raise CheckFailed(Reason.NOT_CRL)
        if parsed.failure is not None:
            raise CheckFailed(parsed.failure)
        _check_dates(parsed.dates, now, self._skew_s)
        if parsed.crl_number is None:
            raise CheckFailed(Reason.NO_CRL_NUMBER)
        if parsed.crl_number < floor:
            raise CheckFailed(Reason.CRL_NUMBER)
        self._highest[url] = max(parsed.crl_number, self._highest.get(url, -1))
