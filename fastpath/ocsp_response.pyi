from collections.abc import Iterable, Mapping
from typing import Final, Self, final

EXTENDED_REVOKE_DER: Final[bytes]
"""The extended-revoke Extension (RFC 6960 §4.4.8), for the ``extensions`` of ``tbs_response_data``."""

def encode_cert_id(hash_name: str, issuer_name_hash: bytes, issuer_key_hash: bytes, serial_octets: bytes) -> bytes:
    """Encode a CertID (RFC 6960 §4.1.1) with hashAlgorithm parameters NULL; returns the whole TLV.

    ``hash_name`` is sha1, sha256, sha384 or sha512. Raises ValueError for another, for a hash of the wrong length and
    for serial contents octets that are no minimal INTEGER. How long a serial may be is not decided here.
    """

def encode_single_response(
    cert_id_der: bytes,
    cert_status: int,
    revoked_at: int,
    reason: int,
    this_update: int,
    next_update: int,
    archive_cutoff: int = -1,
) -> bytes:
    """Encode a SingleResponse (RFC 6960 §4.2.1). ``reason`` -1: none; ``archive_cutoff`` -1: no extension.

    Times are POSIX seconds. ``revoked_at`` and ``reason`` are looked at only where ``cert_status`` is revoked (1).
    Raises ValueError for a time outside the years 1970 to 9999, nextUpdate before thisUpdate, a reason that
    RevokedInfo cannot show (0, 7, 8, above 10), or an unknown status.
    """

def encode_response_extension_nonce(nonce_octets: bytes) -> bytes:
    """Encode the nonce Extension; ``nonce_octets`` is the request's extnValue contents, repeated byte for byte.

    Raises ValueError unless it is the DER of an OCTET STRING of 1 to 128 octets (RFC 9654 §2.1).
    """

@final
class ResponseTemplate:
    """What every answer of one signer shares: ResponderID (byKey), signature algorithm, certs. Immutable."""

    def __new__(cls, responder_key_hash: bytes, signature_algorithm_der: bytes, certs_der: Iterable[bytes]) -> Self:
        """Take the SHA-1 of the signer's key, its AlgorithmIdentifier, and certs, the signer's own first.

        No certs: the field is absent, as it must be where the CA itself signs. Raises ValueError where a hash is not
        of 20 octets, a DER argument is not one SEQUENCE, or there are more than 15 certs.
        """

    @property
    def responder_key_hash(self) -> bytes: ...
    @property
    def signature_algorithm_der(self) -> bytes: ...
    @property
    def certs_der(self) -> tuple[bytes, ...]: ...
    def to_bytes(self) -> bytes:
        """Encode for the store; the first octet is a version."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote; raises ValueError for another version, truncation and trailing octets."""

    def tbs_response_data(self, singles: Iterable[bytes], produced_at: int, extensions: Iterable[bytes] = ()) -> bytes:
        """Build the bytes to sign: ResponseData v1 (RFC 6960 §4.2.1); no extensions: the field is absent.

        ``singles`` are ``encode_single_response``'s, at least one; ``extensions`` are Extensions that are not critical.
        Raises ValueError for anything else.
        """

    def stored_answers(
        self,
        issuers: list[tuple[str, bytes, bytes]],
        serials: list[bytes],
        wanted: Mapping[bytes, tuple[int, int, int, bool, bool, int, int]],
        this_update: int,
        next_update: int,
        produced_at: int,
        archive_cutoff: int = -1,
    ) -> list[bytes]:
        """Build what is signed for answers to be stored, one for each serial: the same as by the functions above.

        ``issuers``: hash name, issuerNameHash and issuerKeyHash of each CertID that an answer speaks of. ``wanted``, a
        dict: cert_status, revoked_at, reason, whether there is an archiveCutoff, and what is not looked at. Raises
        ValueError as those functions do, KeyError for a serial that is not wanted.
        """

    def nonce_answer(
        self,
        hash_name: str,
        issuer_name_hash: bytes,
        issuer_key_hash: bytes,
        serial_octets: bytes,
        wanted: tuple[int, int, int, bool, bool, int, int],
        produced_at: int,
        archive_cutoff: int,
        nonce_octets: bytes,
    ) -> bytes:
        """Build what is signed for one CertID with a nonce: the same as by the functions above, which is mostly what is asked live.

        ``wanted``: as of ``stored_answers``, and thisUpdate and nextUpdate. Raises ValueError as those functions do.
        """

    def response(self, tbs_response_data: bytes, signature: bytes) -> bytes:
        """Build the OCSPResponse around the signed bytes, untouched; ``signature`` is the BIT STRING's octets."""

@final
class AnswerHeader:
    """What answers signed together share. Times are POSIX seconds; ``archive_cutoff`` -1: none. Immutable."""

    def __new__(
        cls, this_update: int, next_update: int, produced_at: int, signer_id: str, archive_cutoff: int = -1
    ) -> Self:
        """``signer_id`` is 16 lower-case hex digits. Raises ValueError as ``encode_single_response`` does."""

    @property
    def this_update(self) -> int: ...
    @property
    def next_update(self) -> int: ...
    @property
    def produced_at(self) -> int: ...
    @property
    def archive_cutoff(self) -> int: ...
    @property
    def signer_id(self) -> str: ...
    def to_bytes(self) -> bytes:
        """Encode for the store, 29 octets; the first is a version."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote; raises ValueError for another version, another length or impossible times."""

@final
class PackedAnswer:
    """A packed answer taken apart; only ``unpack_answer`` makes one that holds anything."""

    @property
    def slot(self) -> int: ...
    @property
    def cert_status(self) -> int: ...
    @property
    def revoked_at(self) -> int:
        """POSIX seconds; 0 unless revoked."""

    @property
    def reason(self) -> int:
        """CRLReason; -1: none."""

    @property
    def has_archive_cutoff(self) -> bool: ...
    @property
    def is_dual(self) -> bool: ...
    @property
    def signature(self) -> bytes:
        """The BIT STRING's octets."""

def pack_answer(
    slot: int,
    cert_status: int,
    revoked_at: int,
    reason: int,
    has_archive_cutoff: bool,
    signature: bytes,
    is_dual: bool = False,
) -> bytes:
    """Pack what is an answer's own.

    Octet 0: the header's slot (low four bits), cert_status << 4 (two bits), has_archive_cutoff << 6; the top bit is is_dual.
    If revoked: revoked_at in five octets, big-endian, and the reason in one, ff for none. Then the signature's octets.
    ``revoked_at`` and ``reason`` are looked at only where revoked. Raises ValueError as ``encode_single_response``
    does, for a slot above 15 and for an empty signature.
    """

def unpack_answer(packed: bytes) -> PackedAnswer:
    """Take a packed answer apart; raises ValueError where the bytes are not one."""

def packed_slot_and_status(packed: bytes) -> tuple[int, int]:
    """Return the header's slot and cert_status of a packed answer; raises ValueError where the bytes are not one."""

def is_dual(packed: bytes) -> bool:
    """Say whether a packed answer has two SingleResponses, of one certificate's SHA-1 and SHA-256 CertIDs."""

def assemble(
    template: ResponseTemplate,
    header: AnswerHeader,
    cert_id_der: bytes,
    packed: bytes,
    second_der: bytes | None = None,
) -> bytes:
    """Put the exact OCSPResponse together again that was signed.

    ``cert_id_der`` must be the CertID that was signed, in ``encode_cert_id``'s form; nothing here can tell, apart from
    the signature. A dual answer needs two: its SHA-1 CertID, and its SHA-256 one as ``second_der``; any other, one.
    Raises ValueError where an argument is malformed, the number of CertIDs is wrong, or ``packed`` has an archiveCutoff and
    ``header`` none.
    """

def error_response(response_status: int) -> bytes:
    """Return the five octets of an unsuccessful OCSPResponse; raises ValueError for 0, 4, above 6 and below 0."""
