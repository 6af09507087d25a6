"""Questions and replies of live answers to octets and back in plain Python: what fastpath.live_wire is compared with."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique

QUESTION_TIMEOUT_S = 2.0  # a question older than this is dropped, and a worker no longer waits for its reply
MAX_QUESTIONS = 1_000  # in one entry, and outstanding for one worker
MAX_SERIALS = 256  # CertIDs of one question: the most that http.max_cert_ids allows
MAX_SERIAL_OCTETS = 64  # the request parser allows fewer; this only bounds the encoding
MAX_NONCE_EXTN_VALUE = 131  # RFC 9654 §2.1: a Nonce of 128 octets with its own header
ASK_MAXLEN = 1_000  # entries of the stream of questions: what nobody reads within seconds is void anyway
REPLIES_MAXLEN = 1_000  # entries of a worker's stream of replies
REPLIES_EXPIRE_S = 30  # a worker's stream vanishes when it has gone

FIELD_WORKER = b"worker"
FIELD_SENT = b"sent"
FIELD_QUESTIONS = b"questions"
FIELD_REPLIES = b"replies"

_VERSION = 1
_HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")
_QUESTION = struct.Struct(">I8sBBH")  # id, CA, hash algorithm, octets of the nonce (0: none), serials
_REPLY = struct.Struct(">IBBqqI")  # id, kind, store hint, thisUpdate, nextUpdate, octets of the response
_WORKER_ID = re.compile(rb"[0-9A-Za-z_.-]{1,64}")


@unique
class ReplyKind(IntEnum):
    """How a question ended."""

    ANSWER = 0
    TRY_LATER = 1  # cannot be said now, or changed while it was being signed
    UNAUTHORIZED = 2  # RFC 9919 §3.2.3: no record that could be answered from


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker wants signed: one OCSPRequest of CertIDs that share issuer and hash algorithm.

    ``id`` is the worker's own, below 2**32. ``ca`` is the store's name of the CA. ``serials`` are contents octets of
    DER INTEGERs in the request's order. ``nonce_octets`` is the nonce's extnValue contents, or None.
    """

    id: int
    ca: str
    hash_name: str
    serials: tuple[bytes, ...]
    nonce_octets: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One entry of the stream of questions. ``sent_ms`` is the worker's clock in milliseconds."""

    worker: str
    sent_ms: int
    questions: list[Question]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to the question of the same ``id``. Times are POSIX seconds: the latest thisUpdate, the soonest nextUpdate.

    ``store_hint``: the answer holds no nonce and one CertID of a status that the store knows, so it may be kept until
    the journal names its bucket; without it the answer goes to nobody but who asked (RFC 6960 §4.4.1). All but
    ``id`` and ``kind`` mean nothing unless ``kind`` is ANSWER.
    """

    id: int
    kind: ReplyKind
    response_der: bytes = b""
    this_update: int = 0
    next_update: int = 0
    store_hint: bool = False


def encode_ask(worker: str, sent_ms: int, questions: Sequence[Question]) -> dict[bytes, bytes]:
    """Encode one entry of the stream of questions; raises ValueError for what ``decode_ask`` would refuse."""
    if not _WORKER_ID.fullmatch(worker.encode()):
        raise ValueError(f"worker is {worker!r}: must be 1 to 64 letters, digits, '_', '.' or '-'")
    return {
        FIELD_WORKER: worker.encode(),
        FIELD_SENT: b"%d" % sent_ms,
        FIELD_QUESTIONS: encode_questions(questions),
    }


def decode_ask(fields: Mapping[bytes, bytes]) -> Ask:
    """Read one entry of the stream of questions; raises ValueError for anything that ``encode_ask`` does not write."""
    worker, sent = fields.get(FIELD_WORKER, b""), fields.get(FIELD_SENT, b"")
    # The worker's name becomes part of a key's name.
    if not _WORKER_ID.fullmatch(worker):
        raise ValueError("worker is not a worker's id")
    if not re.fullmatch(rb"[0-9]{1,18}", sent):
        raise ValueError("sent is not a time")
    return Ask(worker.decode(), int(sent), decode_questions(fields.get(FIELD_QUESTIONS, b"")))


def encode_questions(questions: Sequence[Question]) -> bytes:
    """Encode questions compactly; raises ValueError for what is out of bounds."""
    if len(questions) > MAX_QUESTIONS:
        raise ValueError(f"{len(questions)} questions: at most {MAX_QUESTIONS}")
    parts = [bytes([_VERSION])]
    for one in questions:
        nonce = one.nonce_octets or b""
        _check_bounds(one.serials, nonce)
        parts.append(
            _QUESTION.pack(
                one.id, bytes.fromhex(one.ca), _HASH_NAMES.index(one.hash_name), len(nonce), len(one.serials)
            )
        )
        parts.append(nonce)
        for serial in one.serials:
            parts += (bytes([len(serial)]), serial)
    return b"".join(parts)


def decode_questions(data: bytes) -> list[Question]:
    """Read what ``encode_questions`` wrote; raises ValueError for anything else."""
    reader = _Reader(data)
    questions: list[Question] = []
    while reader.remaining:
        if len(questions) == MAX_QUESTIONS:
            raise ValueError(f"more than {MAX_QUESTIONS} questions")
        id_, ca, hash_code, nonce_size, count = _QUESTION.unpack(reader.take(_QUESTION.size))
        if hash_code >= len(_HASH_NAMES):
            raise ValueError(f"hash algorithm {hash_code} is not known")
        if not 1 <= count <= MAX_SERIALS:
            raise ValueError(f"{count} serials: must be 1 to {MAX_SERIALS}")
        nonce = reader.take(nonce_size)
        serials = tuple(reader.take(reader.take(1)[0]) for _ in range(count))
        _check_bounds(serials, nonce)
        questions.append(Question(id_, ca.hex(), _HASH_NAMES[hash_code], serials, nonce or None))
    return questions


def encode_replies(replies: Iterable[Reply]) -> dict[bytes, bytes]:
    """Encode one entry of a worker's stream of replies."""
    parts = [bytes([_VERSION])]
    for one in replies:
        parts += (
            _REPLY.pack(one.id, one.kind, one.store_hint, one.this_update, one.next_update, len(one.response_der)),
            one.response_der,
        )
    return {FIELD_REPLIES: b"".join(parts)}


def decode_replies(fields: Mapping[bytes, bytes]) -> list[Reply]:
    """Read one entry of a worker's stream of replies; raises ValueError for what ``encode_replies`` does not write."""
    reader = _Reader(fields.get(FIELD_REPLIES, b""))
    replies: list[Reply] = []
    while reader.remaining:
        id_, kind, hint, this_update, next_update, size = _REPLY.unpack(reader.take(_REPLY.size))
        if hint > 1:
            raise ValueError("store hint is neither 0 nor 1")
        replies.append(Reply(id_, ReplyKind(kind), reader.take(size), this_update, next_update, bool(hint)))
    return replies


def _check_bounds(serials: Sequence[bytes], nonce: bytes) -> None:
    if not 1 <= len(serials) <= MAX_SERIALS:
        raise ValueError(f"{len(serials)} serials: must be 1 to {MAX_SERIALS}")
    if any(not 1 <= len(serial) <= MAX_SERIAL_OCTETS for serial in serials):
        raise ValueError(f"a serial must have 1 to {MAX_SERIAL_OCTETS} octets")
    if len(nonce) > MAX_NONCE_EXTN_VALUE:
        raise ValueError(f"a nonce of {len(nonce)} octets: at most {MAX_NONCE_EXTN_VALUE}")


class _Reader:
    """Takes octets from the front; the first is the version."""

    def __init__(self, data: bytes) -> None:
        if data[:1] != bytes([_VERSION]):
            raise ValueError("another version of the encoding, or none")
        self._data = data
        self._at = 1

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if self.remaining < count:
            raise ValueError(f"cut short: {count} octets wanted, {self.remaining} left")
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken
