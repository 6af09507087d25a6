"""What a parser makes of some octets, as values that can be compared."""

from __future__ import annotations

from typing import Any

from fastpath.http_target import TargetError, decode_target
from fastpath.ocsp_request import MalformedRequest, Unsupported, parse_ocsp_request
from tests.reference import http_target, ocsp_request


def values_of(request: Any) -> tuple[object, ...]:
    """Return everything that an OCSPRequest of either parser tells."""
    cert_ids = [
        (cert_id.hash_name, cert_id.issuer_name_hash, cert_id.issuer_key_hash, cert_id.serial_octets, cert_id.der)
        for cert_id in request.cert_ids
    ]
    return (
        cert_ids,
        request.nonce_octets,
        request.has_requestor_name,
        request.has_signature,
        request.accepts_basic,
        request.preferred_signature_algorithms_der,
    )


def fast_outcome(data: bytes, max_cert_ids: int = 16) -> tuple[object, ...]:
    """Return the values, or the exception's name, code and offset, of fastpath."""
    try:
        return values_of(parse_ocsp_request(data, max_cert_ids))
    except (MalformedRequest, Unsupported) as error:
        return (type(error).__name__, error.code, error.offset)


def reference_outcome(data: bytes, max_cert_ids: int = 16) -> tuple[object, ...]:
    """Return the same of the slow parser."""
    try:
        return values_of(ocsp_request.parse(data, max_cert_ids))
    except ocsp_request.RefusedError as error:
        return (error.kind, error.code, error.offset)


def check_ocsp_request(data: bytes) -> None:
    """Fail where the two request parsers differ: the fuzz target."""
    assert fast_outcome(data) == reference_outcome(data), data.hex()


def check_http_target(data: bytes) -> None:
    """Fail where the two target decoders differ: the fuzz target."""
    try:
        decoded = decode_target(data)
    except TargetError:
        decoded = None
    assert decoded == http_target.decode(data), data
