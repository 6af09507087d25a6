class TargetError(ValueError):
    """The request target does not hold base64 of an OCSP request (RFC 6960 App. A.1). ``code`` is a fixed short name."""

    code: str
    offset: int

def decode_target(target: bytes) -> bytes:
    """Decode a GET target (origin form, leading ``/`` included, raw as on the wire) into the request's DER.

    One bounded pass: %-decoding and base64 together. Raises TargetError.
    """
