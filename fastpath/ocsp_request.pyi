from typing import Final

MAX_SERIAL_OCTETS: Final[int]
MAX_NONCE_OCTETS: Final[int]

class MalformedRequest(ValueError):
    """The bytes are not an OCSPRequest (RFC 6960 §4.1.1), or break a limit. ``code`` is a fixed short name."""

    code: str
    offset: int

class Unsupported(ValueError):
    """Well-formed, but holds a critical extension that we do not know (RFC 6960 §4.1.2). ``code`` is a fixed short name."""

    code: str
    offset: int

class CertID:
    """RFC 6960 §4.1.1. ``hash_name`` is sha1, sha256, sha384 or sha512, or None for any other algorithm."""

    hash_name: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_octets: bytes  # contents octets of the DER INTEGER, minimal
    der: bytes  # the CertID's whole TLV as it stood in the request

class OCSPRequest:
    cert_ids: list[CertID]
    nonce_octets: bytes | None  # extnValue contents octets, that is the DER of Nonce; None: no nonce to honour
    has_requestor_name: bool
    has_signature: bool
    accepts_basic: bool  # False only where acceptableResponses is there and lacks id-pkix-ocsp-basic
    preferred_signature_algorithms_der: bytes | None  # extnValue contents octets

def parse_ocsp_request(data: bytes, max_cert_ids: int = 16) -> OCSPRequest:
    """Parse strict DER; raises MalformedRequest or Unsupported, never anything else."""
