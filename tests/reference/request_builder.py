"""Builds OCSPRequests octet by octet, right ones and, by exchanging a part, wrong ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from tests.reference.der import encode_integer, oid, tlv

NAME = b"issuer name"
KEY = b"issuer key"
HASH_OIDS = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
OCSP = "1.3.6.1.5.5.7.48.1"
PRIVATE = "1.3.6.1.4.1.99999.1"
NULL = tlv(5)
VERSION_V1 = tlv(0xA0, tlv(2, b"\0"))
BASIC = oid(OCSP + ".1")


def algorithm(dotted: str, *parameters: bytes) -> bytes:
    return tlv(0x30, tlv(6, oid(dotted)), *parameters)


def cert_id(
    serial: int | bytes = 4711,
    hash_name: str = "sha1",
    parameters: bytes = NULL,
    hash_algorithm: bytes | None = None,
    name_hash: bytes | None = None,
    key_hash: bytes | None = None,
) -> bytes:
    """Build a CertID; ``serial`` as bytes is the INTEGER's contents octets as they shall stand."""
    return tlv(
        0x30,
        hash_algorithm or algorithm(HASH_OIDS[hash_name], parameters),
        tlv(4, hashlib.new(hash_name, NAME).digest() if name_hash is None else name_hash),
        tlv(4, hashlib.new(hash_name, KEY).digest() if key_hash is None else key_hash),
        tlv(2, serial if isinstance(serial, bytes) else encode_integer(serial)),
    )


def extension(dotted: str, value: bytes, critical: bytes = b"") -> bytes:
    """Build an Extension; ``critical`` is the whole BOOLEAN, or nothing."""
    return tlv(0x30, tlv(6, oid(dotted)), critical, tlv(4, value))


CRITICAL = tlv(1, b"\xff")


def nonce(octets: bytes, critical: bytes = b"") -> bytes:
    return extension(OCSP + ".2", tlv(4, octets), critical)


def acceptable_responses(*types: bytes, critical: bytes = b"") -> bytes:
    return extension(OCSP + ".4", tlv(0x30, *(tlv(6, contents) for contents in types)), critical)


def service_locator(critical: bytes = b"") -> bytes:
    name = tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, oid("2.5.4.3")), tlv(0x0C, b"CA"))))
    access = tlv(0x30, tlv(0x30, tlv(6, oid(OCSP)), tlv(0x86, b"http://canary.example/")))
    return extension(OCSP + ".7", tlv(0x30, name, access), critical)


def preferred_signature_algorithms(critical: bytes = b"") -> bytes:
    return extension(OCSP + ".8", tlv(0x30, tlv(0x30, algorithm("1.2.840.10045.4.3.2"))), critical)


def single(cert_id_der: bytes, extensions: Sequence[bytes] = ()) -> bytes:
    """Build a Request."""
    return tlv(0x30, cert_id_der, *([tlv(0xA0, tlv(0x30, *extensions))] if extensions else []))


def directory_name(common_name: str = "somebody") -> bytes:
    return tlv(0xA4, tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, oid("2.5.4.3")), tlv(0x0C, common_name.encode())))))


def signature(certificates: Sequence[bytes] | None = None, signature_algorithm: bytes | None = None) -> bytes:
    """Build optionalSignature; its bits sign nothing."""
    certs = [] if certificates is None else [tlv(0xA0, tlv(0x30, *certificates))]
    return tlv(
        0xA0,
        tlv(
            0x30,
            signature_algorithm or algorithm("1.2.840.113549.1.1.11", NULL),
            tlv(3, b"\0" + bytes(range(64))),
            *certs,
        ),
    )


def request(
    singles: Sequence[bytes] | None = None,
    version: bytes = b"",
    requestor_name: bytes = b"",
    extensions: Sequence[bytes] = (),
    optional_signature: bytes = b"",
) -> bytes:
    """Build an OCSPRequest; ``requestor_name`` is the GeneralName without its [1]."""
    return tlv(
        0x30,
        tlv(
            0x30,
            version,
            tlv(0xA1, requestor_name) if requestor_name else b"",
            tlv(0x30, *([single(cert_id())] if singles is None else singles)),
            tlv(0xA2, tlv(0x30, *extensions)) if extensions else b"",
        ),
        optional_signature,
    )


def random_request(rng: random.Random, certificates: Sequence[bytes] = ()) -> bytes:
    """Build a well-formed request with each optional part there or not."""

    def maybe(part: bytes) -> list[bytes]:
        return [part] if rng.random() < 0.3 else []

    def one_single() -> bytes:
        serial = rng.choice([0, 1, 127, 128, -1, rng.getrandbits(64), rng.getrandbits(159), rng.getrandbits(160)])
        hash_name = rng.choice([*HASH_OIDS, "sha1", "sha1", "sha256"])
        extensions = maybe(service_locator()) + maybe(extension(PRIVATE, rng.randbytes(rng.randrange(200))))
        return single(cert_id(serial, hash_name, rng.choice([NULL, b""])), extensions)

    extensions = [
        *maybe(nonce(rng.randbytes(rng.choice([1, 16, 32, 64, 128])))),
        *maybe(acceptable_responses(BASIC)),
        *maybe(preferred_signature_algorithms()),
        *maybe(extension(PRIVATE, rng.randbytes(rng.randrange(8)), rng.choice([b"", b"", b"", CRITICAL]))),
    ]
    rng.shuffle(extensions)
    return request(
        [one_single() for _ in range(rng.choice([1, 1, 1, 1, 1, 2, 5]))],
        version=VERSION_V1 if rng.random() < 0.1 else b"",
        requestor_name=directory_name() if rng.random() < 0.2 else b"",
        extensions=extensions,
        optional_signature=signature(rng.choice([None, certificates[:1]])) if rng.random() < 0.2 else b"",
    )
