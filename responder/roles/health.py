"""Whether Revocast works, as a client would find out: ask a worker over HTTP, verify what it says, see whether CRLs are in date.

Called by the admin role for ``/health``. Knows nothing of how an answer comes about.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from fastpath.ocsp_response import encode_cert_id
from responder.clock import format_utc
from responder.crl.depot import Depot
from responder.errors import InvariantBroken
from responder.issuers import Issuer
from responder.signing.algorithms import public_key_to_der, scheme_of, verify_signature

PROBE_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 100_000  # as openssl's client allows


@dataclass(frozen=True, slots=True)
class Probe:
    """The outcome for one CA. ``problem`` is None where an in-date, verified answer came back and CRLs are in date."""

    ca: str
    problem: str | None


def probe_request(issuer: Issuer, serial_octets: bytes) -> bytes:
    """Encode an OCSPRequest with one SHA-1 CertID and nothing else (RFC 6960 §4.1.1)."""
    cert_id = encode_cert_id("sha1", issuer.name_hashes["sha1"], issuer.key_hashes["sha1"], serial_octets)
    return _sequence(_sequence(_sequence(_sequence(cert_id))))


def _sequence(contents: bytes) -> bytes:
    length = len(contents)
    if length >= 0x80:
        return b"\x30\x81" + bytes([length]) + contents  # a CertID is far below 256 octets
    return b"\x30" + bytes([length]) + contents


async def ask(host: str, port: int, request_der: bytes) -> bytes:
    """POST a request to a worker; returns the body. Raises OSError, TimeoutError or ValueError."""
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(
                b"POST / HTTP/1.1\r\nHost: health\r\nConnection: close\r\nContent-Type: application/ocsp-request\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(request_der), request_der)
            )
            reply = await reader.read(MAX_ANSWER_BYTES)
            while chunk := await reader.read(MAX_ANSWER_BYTES):
                reply += chunk
                if len(reply) > MAX_ANSWER_BYTES:
                    raise ValueError("the answer is too long")
        finally:
            writer.close()
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"HTTP says {head[:40]!r}")
    return body


def verify_answer(issuer: Issuer, serial_number: int, body: bytes, now: float, hash_name: str = "sha1") -> str | None:
    """Return what is wrong with an answer, or None: status, CertIDs, dates, signer, signature.

    ``hash_name``: of the CertID that was asked about. A dual answer has another beside it, of the same certificate.
    """
    try:
        response = ocsp.load_der_ocsp_response(body)
    except ValueError as error:
        return f"not an OCSP response: {error}"
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return f"the answer is {response.response_status.name}"
    named: set[str] = set()
    for single in response.responses:
        if single.serial_number != serial_number:
            return "the answer is for another serial"
        name = single.hash_algorithm.name
        hashes = (issuer.name_hashes.get(name), issuer.key_hashes.get(name))
        if (single.issuer_name_hash, single.issuer_key_hash) != hashes:
            return "the answer is for a certificate of another CA"
        next_update = single.next_update_utc
        if single.this_update_utc.timestamp() > now or next_update is None or next_update.timestamp() <= now:
            return "the answer is not in date"
        named.add(name)
    if hash_name not in named:
        return f"the answer has no {hash_name} CertID"
    ca = x509.load_der_x509_certificate(issuer.certificate_der)
    signer = response.certificates[0] if response.certificates else ca
    try:
        if signer is not ca:
            if (problem := _delegate_problem(signer, now)) is not None:
                return problem
            signer.verify_directly_issued_by(ca)
        _verify(signer.public_key(), response)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        return f"the signature does not verify: {error or type(error).__name__}"
    return None


def _delegate_problem(signer: x509.Certificate, now: float) -> str | None:
    """RFC 6960 §4.2.2.2: the CA must have issued it for OCSPSigning; RFC 5280 §6.1.3: and it is in date."""
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        return "the signer's certificate is not for OCSPSigning"
    if not signer.not_valid_before_utc.timestamp() <= now <= signer.not_valid_after_utc.timestamp():
        return "the signer's certificate is not in date"
    return None


def _verify(key: PublicKeyTypes, response: ocsp.OCSPResponse) -> None:
    """Raises InvalidSignature; ValueError for a key that no signer of ours has."""
    scheme = scheme_of(key, "pss" if response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS else None)
    if not verify_signature(
        public_key_to_der(key), scheme.algorithm_der, response.signature, response.tbs_response_bytes
    ):
        raise InvalidSignature("not the signer's")


def crl_problem(depot: Depot, issuer: Issuer, now: float) -> str | None:
    """Return what is wrong with the CRLs that clients get here, or None: each is there, and in date."""
    crl = issuer.config.crl
    for slot in crl.complete_slots if crl is not None else ():
        try:
            published = depot.get(issuer.name, slot)
        except InvariantBroken as error:
            return str(error)
        if published is None or published.ca_id != issuer.id:
            return f"no CRL is published ({slot})"
        if published.next_update is not None and published.next_update <= now:
            return f"the CRL is past its nextUpdate, {format_utc(published.next_update)} ({slot})"
    return None
