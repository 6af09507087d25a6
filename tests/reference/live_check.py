"""The worker's last look at a live answer in plain Python: what fastpath.live_wire.check_answer is compared with.

Walks just far enough into an OCSPResponse of our own making; anything unexpected is ValueError, and the answer stays
here. RFC 6960 §4.2.1 (structure), RFC 9654 §2.1 (nonce).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastpath.ocsp_response import encode_response_extension_nonce
from responder.model import CertStatus

# SEQUENCE { ENUMERATED 0, [0] { SEQUENCE { OID id-pkix-ocsp-basic, OCTET STRING { BasicOCSPResponse
_SEQUENCE, _CONTEXT_0, _CONTEXT_1, _OCTET_STRING = 0x30, 0xA0, 0xA1, 0x04
_SUCCESSFUL_DER = b"\x0a\x01\x00"
_BASIC_DER = bytes.fromhex("06092b0601050507300101")  # id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1
_CERT_STATUS = {0x80: CertStatus.GOOD, 0xA1: CertStatus.REVOKED, 0x82: CertStatus.UNKNOWN}


def check_live_answer(cert_ids: Sequence[bytes], nonce_octets: bytes | None, response_der: bytes) -> CertStatus:
    """Return the status that an answer gives: GOOD where any of its CertIDs is good, else the first one's.

    Raises ValueError where it is not a successful answer to exactly these questions, with exactly this nonce or none.
    """
    top = _only(response_der, _SEQUENCE)
    status, response_bytes = _children(top)
    if status[1] != _SUCCESSFUL_DER:
        raise ValueError("responseStatus is not successful")
    response_type, response = _children(_only(_contents(response_bytes, _CONTEXT_0), _SEQUENCE))
    if response_type[1] != _BASIC_DER:
        raise ValueError("responseType is not id-pkix-ocsp-basic")
    basic = _only(_contents(response, _OCTET_STRING), _SEQUENCE)
    response_data = [*_children(_contents(next(_children(basic)), _SEQUENCE))]
    # responderID, producedAt, responses, and responseExtensions where there is a nonce or the extended revoke
    if not 3 <= len(response_data) <= 4:
        raise ValueError("ResponseData has unexpected fields")
    statuses = _statuses(cert_ids, _contents(response_data[2], _SEQUENCE))
    extensions = (
        [der for _, der, _ in _children(_only(_contents(response_data[3], _CONTEXT_1), _SEQUENCE))]
        if len(response_data) == 4
        else []
    )
    _check_nonce(nonce_octets, extensions)
    return CertStatus.GOOD if CertStatus.GOOD in statuses else statuses[0]


def _statuses(cert_ids: Sequence[bytes], responses: bytes) -> list[CertStatus]:
    """Compare the CertIDs, byte for byte and in order: both sides write them in the one canonical form."""
    singles = [[*_children(_contents(single, _SEQUENCE))] for single in _children(responses)]
    if [single[0][1] for single in singles] != [*cert_ids]:
        raise ValueError("the CertIDs are not those of the question")
    try:
        return [_CERT_STATUS[single[1][0]] for single in singles]
    except KeyError:
        raise ValueError("certStatus is none of the three") from None


def _check_nonce(nonce_octets: bytes | None, extensions: list[bytes]) -> None:
    """NON-03, NON-06: the nonce is the question's own, byte for byte, and nobody else's."""
    wanted = None if nonce_octets is None else encode_response_extension_nonce(nonce_octets)
    if wanted is not None and wanted not in extensions:
        raise ValueError("the nonce is not the question's")
    if any(_NONCE_OID_DER in extension[:16] and extension != wanted for extension in extensions):
        raise ValueError("there is a nonce that was not asked for")


_NONCE_OID_DER = bytes.fromhex("06092b0601050507300102")  # id-pkix-ocsp-nonce, 1.3.6.1.5.5.7.48.1.2


def _children(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, whole TLV, contents) of the elements that ``data`` is made of."""
    at = 0
    while at < len(data):
        start = at
        if len(data) - at < 2:
            raise ValueError("cut short")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if length > len(data) - at:
            raise ValueError("cut short")
        yield tag, data[start : at + length], data[at : at + length]
        at += length


def _contents(element: tuple[int, bytes, bytes], tag: int) -> bytes:
    if element[0] != tag:
        raise ValueError(f"tag {element[0]:02x} instead of {tag:02x}")
    return element[2]


def _only(data: bytes, tag: int) -> bytes:
    (element,) = _children(data)
    return _contents(element, tag)
