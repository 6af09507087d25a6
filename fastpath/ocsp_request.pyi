from typing import ClassVar, Final, Never, final

MAX_REQUEST_OCTETS: Final[int]
MAX_SERIAL_OCTETS: Final[int]
MAX_NONCE_OCTETS: Final[int]
MAX_CERT_IDS: Final[int]

class MalformedRequest(ValueError):
    """The bytes are not an OCSPRequest (RFC 6960 §4.1.1), or break a limit. ``code`` is a fixed short name."""

    category: ClassVar[str]
    code: str
    offset: int
    def __init__(self, code: str, offset: int) -> None: ...

class Unsupported(ValueError):
    """Well-formed, but holds a critical extension that we do not know (RFC 6960 §4.1.2). ``code`` is a fixed short name."""

    category: ClassVar[str]
    code: str
    offset: int
    def __init__(self, code: str, offset: int) -> None: ...

@final
class CertID:
    """RFC 6960 §4.1.1. ``hash_name`` is sha1, sha256, sha384 or sha512, or None for any other algorithm."""

    def __init__(self, *args: Never, **kwargs: Never) -> None:
        """Raise TypeError: only the parser makes one."""
    @property
    def hash_name(self) -> str | None: ...
    @property
    def issuer_name_hash(self) -> bytes: ...
    @property
    def issuer_key_hash(self) -> bytes: ...
    @property
    def serial_octets(self) -> bytes:
        """Contents octets of the DER INTEGER: minimal, at most MAX_SERIAL_OCTETS, perhaps zero or negative."""
    @property
    def der(self) -> bytes:
        """The CertID's whole TLV as it stood in the request."""

@final
class OCSPRequest:
    """What a well-formed request asks."""

    def __init__(self, *args: Never, **kwargs: Never) -> None:
        """Raise TypeError: only the parser makes one."""
    @property
    def cert_ids(self) -> list[CertID]:
        """One or more, in the order of the request; duplicates stay."""
    @property
    def nonce_octets(self) -> bytes | None:
        """extnValue contents octets, that is the DER of Nonce (RFC 9654 §2.1); None: no nonce to honour."""
    @property
    def has_requestor_name(self) -> bool: ...
    @property
    def has_signature(self) -> bool: ...
    @property
    def accepts_basic(self) -> bool:
        """False only where acceptableResponses is there and lacks id-pkix-ocsp-basic."""
    @property
    def preferred_signature_algorithms_der(self) -> bytes | None:
        """extnValue contents octets, not looked into; None: absent."""

def parse_ocsp_request(data: bytes, max_cert_ids: int = 16) -> OCSPRequest:
    """Parse strict DER; raises MalformedRequest or Unsupported, never anything else.

    ``max_cert_ids`` is taken into 1 … MAX_CERT_IDS; a request with more is malformed.
    """
