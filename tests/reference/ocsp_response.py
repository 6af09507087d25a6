"""An obvious, slow encoder of OCSPResponse, written from the ASN.1 module of RFC 6960 alone: nested calls, no tricks.

Knows nothing of fastpath. Tests compare the codec's bytes with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

OID_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
HASH_OIDS = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}


def tlv(tag: int, *contents: bytes) -> bytes:
    """Encode tag, definite length in the fewest octets, contents."""
    body = b"".join(contents)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def sequence(*contents: bytes) -> bytes:
    """Encode SEQUENCE or SEQUENCE OF."""
    return tlv(0x30, *contents)


def oid(dotted: str) -> bytes:
    """Encode OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    octets = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        octets += bytes(reversed(groups))
    return tlv(0x06, bytes(octets))


def generalized_time(seconds: int) -> bytes:
    """Encode GeneralizedTime as RFC 9919 §3.2.4 wants it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    text = f"{moment.year:04}{moment.month:02}{moment.day:02}{moment.hour:02}{moment.minute:02}{moment.second:02}Z"
    return tlv(0x18, text.encode("ascii"))


def cert_id(hash_name: str, issuer_name_hash: bytes, issuer_key_hash: bytes, serial_octets: bytes) -> bytes:
    """Encode CertID, hashAlgorithm parameters NULL."""
    return sequence(
        sequence(oid(HASH_OIDS[hash_name]), tlv(0x05)),
        tlv(0x04, issuer_name_hash),
        tlv(0x04, issuer_key_hash),
        tlv(0x02, serial_octets),
    )


def extension(dotted: str, extn_value: bytes) -> bytes:
    """Encode an Extension that is not critical."""
    return sequence(oid(dotted), tlv(0x04, extn_value))


def single_response(
    cert_id_der: bytes,
    cert_status: int,
    revoked_at: int,
    reason: int,
    this_update: int,
    next_update: int,
    archive_cutoff: int = -1,
) -> bytes:
    """Encode SingleResponse; -1: no reason, no archiveCutoff."""
    if cert_status == 0:
        status = tlv(0x80)
    elif cert_status == 2:
        status = tlv(0x82)
    else:
        revocation_reason = tlv(0xA0, tlv(0x0A, bytes([reason]))) if reason >= 0 else b""
        status = tlv(0xA1, generalized_time(revoked_at), revocation_reason)
    single_extensions = (
        tlv(0xA1, sequence(extension(OID_ARCHIVE_CUTOFF, generalized_time(archive_cutoff))))
        if archive_cutoff >= 0
        else b""
    )
    return sequence(
        cert_id_der,
        status,
        generalized_time(this_update),
        tlv(0xA0, generalized_time(next_update)),
        single_extensions,
    )


def response_data(
    key_hash: bytes, produced_at: int, singles: Sequence[bytes], extensions: Sequence[bytes] = ()
) -> bytes:
    """Encode ResponseData v1, byKey."""
    return sequence(
        tlv(0xA2, tlv(0x04, key_hash)),
        generalized_time(produced_at),
        sequence(*singles),
        tlv(0xA1, sequence(*extensions)) if extensions else b"",
    )


def ocsp_response(
    tbs_response_data: bytes, signature_algorithm_der: bytes, signature: bytes, certs_der: Sequence[bytes]
) -> bytes:
    """Encode a successful OCSPResponse of the basic type."""
    basic = sequence(
        tbs_response_data,
        signature_algorithm_der,
        tlv(0x03, b"\x00", signature),
        tlv(0xA0, sequence(*certs_der)) if certs_der else b"",
    )
    response_bytes = sequence(oid("1.3.6.1.5.5.7.48.1.1"), tlv(0x04, basic))
    return sequence(tlv(0x0A, b"\x00"), tlv(0xA0, response_bytes))
