from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar

MAX_QUESTIONS: int
MAX_SERIALS: int
MAX_SERIAL_OCTETS: int
MAX_NONCE_EXTN_VALUE: int

class ReplyKind(IntEnum):
    """How a question ended."""

    ANSWER = 0
    TRY_LATER = 1
    UNAUTHORIZED = 2

class Question:
    """What a worker wants signed: one OCSPRequest of CertIDs that share issuer and hash algorithm.

    ``id`` is the worker's own, below 2**32. ``ca`` is the store's name of the CA. ``serials`` are contents octets of
    DER INTEGERs in the request's order. ``nonce_octets`` is the nonce's extnValue contents, or None.
    """

    id: int
    ca: str
    hash_name: str
    serials: tuple[bytes, ...]
    nonce_octets: bytes | None
    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __init__(
        self,
        id: int,  # noqa: A002
        ca: str,
        hash_name: str,
        serials: tuple[bytes, ...],
        nonce_octets: bytes | None = None,
    ) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...

class Reply:
    """The reply to the question of the same ``id``. Times are POSIX seconds: the latest thisUpdate, the soonest nextUpdate.

    ``store_hint``: the answer holds no nonce and one CertID of a status that the store knows, so it may be kept until
    the journal names its bucket; without it the answer goes to nobody but who asked (RFC 6960 §4.4.1). All but
    ``id`` and ``kind`` mean nothing unless ``kind`` is ANSWER.
    """

    id: int
    kind: ReplyKind
    response_der: bytes
    this_update: int
    next_update: int
    store_hint: bool
    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __init__(
        self,
        id: int,  # noqa: A002
        kind: ReplyKind,
        response_der: bytes = b"",
        this_update: int = 0,
        next_update: int = 0,
        store_hint: bool = False,
    ) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...

def encode_questions(questions: Iterable[Question]) -> bytes:
    """Encode questions compactly; raises ValueError for what is out of bounds."""

def decode_questions(data: bytes) -> list[Question]:
    """Read what ``encode_questions`` wrote; raises ValueError for anything else."""

def encode_replies(replies: Iterable[Reply]) -> bytes:
    """Encode replies; raises ValueError for what is out of bounds."""

def decode_replies(data: bytes) -> list[Reply]:
    """Read what ``encode_replies`` wrote; raises ValueError for anything else."""

def check_answer(cert_ids: Iterable[bytes], nonce_octets: bytes | None, response_der: bytes) -> int:
    """Return the CertStatus that an answer gives: good where any of its CertIDs is good, else the first one's.

    Raises ValueError where it is not a successful answer to exactly these CertIDs, in their order, with exactly this
    nonce (extnValue contents) or none. RFC 6960 §4.2.1, RFC 9654 §2.1. The signature is not looked at.
    """
