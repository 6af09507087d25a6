"""What workers and the presigning role say to each other over Redis: the encoding of questions and replies.

Both sides import it, so it holds no key and no policy. A worker adds entries to ``Layout.ask()``, each the questions of a
tick or more of its loop (``encode_ask``); the presigning role adds entries to ``Layout.replies(worker)`` (``encode_replies``).
The presigning role reads what a captured worker may have written, so everything is bounded and nothing is believed: a
worker can choose what is asked, never what is answered. The octets are fastpath.live_wire's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fastpath import live_wire
from fastpath.live_wire import (
    MAX_NONCE_EXTN_VALUE,
    MAX_QUESTIONS,
    MAX_SERIAL_OCTETS,
    MAX_SERIALS,
    Question,
    Reply,
    ReplyKind,
    decode_questions,
    encode_questions,
)

__all__ = [
    "MAX_NONCE_EXTN_VALUE",
    "MAX_QUESTIONS",
    "MAX_SERIALS",
    "MAX_SERIAL_OCTETS",
    "Ask",
    "Question",
    "Reply",
    "ReplyKind",
    "decode_ask",
    "decode_questions",
    "decode_replies",
    "encode_ask",
    "encode_questions",
    "encode_replies",
]

# MAX_QUESTIONS: in one entry, and outstanding for one worker. MAX_SERIALS: CertIDs of one question, the most that
# http.max_cert_ids allows. MAX_SERIAL_OCTETS: the request parser allows fewer. MAX_NONCE_EXTN_VALUE: RFC 9654 §2.1, a
# Nonce of 128 octets with its own header.
QUESTION_TIMEOUT_S = 2.0  # a question older than this is dropped, and a worker no longer waits for its reply
REPLIES_MAXLEN = 1_000  # entries of a worker's stream of replies
REPLIES_EXPIRE_S = 30  # a worker's stream vanishes when it has gone

FIELD_WORKER = b"worker"
FIELD_SENT = b"sent"
FIELD_QUESTIONS = b"questions"
FIELD_REPLIES = b"replies"

_WORKER_ID = re.compile(rb"[0-9A-Za-z_.-]{1,64}")


class Ask(NamedTuple):
    """One entry of the stream of questions. ``sent_ms`` is the worker's clock in milliseconds."""

    worker: str
    sent_ms: int
    questions: list[Question]


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


def encode_replies(replies: Iterable[Reply]) -> dict[bytes, bytes]:
    """Encode one entry of a worker's stream of replies."""
    return {FIELD_REPLIES: live_wire.encode_replies(replies)}


def decode_replies(fields: Mapping[bytes, bytes]) -> list[Reply]:
    """Read one entry of a worker's stream of replies; raises ValueError for what ``encode_replies`` does not write."""
    return live_wire.decode_replies(fields.get(FIELD_REPLIES, b""))
