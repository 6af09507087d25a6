from typing import ClassVar, Final

MAX_TARGET_OCTETS: Final[int]

class TargetError(ValueError):
    """The request target does not hold base64 of an OCSP request (RFC 6960 App. A.1). ``code`` is a fixed short name."""

    category: ClassVar[str]
    code: str
    offset: int
    def __init__(self, code: str, offset: int) -> None: ...

def decode_target(target: bytes) -> bytes:
    """Decode a GET target (origin form, leading ``/`` included, raw as on the wire) into the request's DER.

    One bounded pass: %-decoding and base64 together. Raises TargetError.
    """
