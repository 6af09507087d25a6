from collections.abc import Sequence

def encode_cert_id(hash_name: str, issuer_name_hash: bytes, issuer_key_hash: bytes, serial_octets: bytes) -> bytes:
    """Encode a CertID (RFC 6960 §4.1.1); hashAlgorithm parameters are NULL."""

def encode_single_response(
    cert_id_der: bytes,
    cert_status: int,
    revoked_at: int,
    reason: int,
    this_update: int,
    next_update: int,
    archive_cutoff: int = ...,
) -> bytes:
    """Encode a SingleResponse. ``reason`` -1: none; ``archive_cutoff`` -1: no extension. Times are POSIX seconds.

    Raises ValueError for a time outside years 1970 to 9999, a reason of 0, 7 or 8, or an unknown status.
    """

def encode_response_extension_nonce(nonce_octets: bytes) -> bytes:
    """Encode the nonce Extension; ``nonce_octets`` is the request's extnValue contents, repeated byte for byte."""

EXTENDED_REVOKE_DER: bytes  # the Extension of RFC 6960 §4.4.8

class ResponseTemplate:
    """What every answer of one signer shares: ResponderID (byKey), signature algorithm, certs."""

    responder_key_hash: bytes
    signature_algorithm_der: bytes
    certs_der: tuple[bytes, ...]

    def __init__(self, responder_key_hash: bytes, signature_algorithm_der: bytes, certs_der: Sequence[bytes]) -> None: ...
    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, data: bytes) -> ResponseTemplate: ...
    def tbs_response_data(self, singles: Sequence[bytes], produced_at: int, extensions: Sequence[bytes] = ...) -> bytes:
        """Build the bytes to sign: ResponseData v1 (RFC 6960 §4.2.1); no extensions: the field is absent."""
    def response(self, tbs_response_data: bytes, signature: bytes) -> bytes:
        """Build the OCSPResponse around signed bytes; ``signature`` is the BIT STRING's octets."""

class AnswerHeader:
    """What answers signed together share. Times are POSIX seconds; ``archive_cutoff`` -1: none."""

    this_update: int
    next_update: int
    produced_at: int
    archive_cutoff: int
    signer_id: str  # 16 hex digits

    def __init__(self, this_update: int, next_update: int, produced_at: int, signer_id: str, archive_cutoff: int = ...) -> None: ...
    def to_bytes(self) -> bytes: ...
    @classmethod
    def from_bytes(cls, data: bytes) -> AnswerHeader: ...

class PackedAnswer:
    """A packed answer taken apart."""

    slot: int
    cert_status: int
    revoked_at: int  # 0 unless revoked
    reason: int  # -1: none
    has_archive_cutoff: bool
    signature: bytes

def pack_answer(slot: int, cert_status: int, revoked_at: int, reason: int, has_archive_cutoff: bool, signature: bytes) -> bytes:
    """Pack what is an answer's own. The first byte's low four bits are the header's slot."""

def unpack_answer(packed: bytes) -> PackedAnswer:
    """Take a packed answer apart; raises ValueError where the bytes are not one."""

def assemble(template: ResponseTemplate, header: AnswerHeader, cert_id_der: bytes, packed: bytes) -> bytes:
    """Put the exact OCSPResponse together again that was signed. ``cert_id_der`` must be in ``encode_cert_id``'s form."""

def error_response(response_status: int) -> bytes:
    """Return the five octets of an unsuccessful OCSPResponse; raises ValueError for 0, 4 and above 6."""
