"""What a use of a key says in the audit log. Called by the presigner, the live signer and whoever opens a key.

Of each answer the first half of SHA-256's first half stands in the line, 16 hex digits, over the octets that were signed: so
whoever holds an answer finds its line, and an answer without a line was not signed here (ADR 9). Several answers share a
line: that, and one write a line, is why it costs little.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastpath.ocsp_response import AnswerHeader
from responder import audit
from responder.clock import format_utc
from responder.store.layout import DUE_ASKED_FOR, DUE_REVOKED

if TYPE_CHECKING:
    from responder.signing.desk import Desk

MOST_SERIALS = 16  # that a line names, as the journal does; a routine batch is known by its bucket
DIGEST_BYTES = 8


def signed(
    desk: Desk,
    bucket: int,
    hash_name: str,
    score: float,
    header: AnswerHeader,
    serials: Sequence[bytes],
    messages: Sequence[bytes],
) -> None:
    """Record a bucket's answers, signed under one header. Raises AuditUnavailable: then none of them may be used."""
    why = "revoked" if score <= DUE_REVOKED else "asked-for" if score <= DUE_ASKED_FOR else "routine"
    _sign(
        desk,
        why,
        messages,
        serials,
        bucket=f"{bucket:x}",
        certid="dual" if desk.is_dual else hash_name,
        this_update=format_utc(header.this_update),
        next_update=format_utc(header.next_update),
        produced_at=format_utc(header.produced_at),
    )


def signed_live(
    desk: Desk,
    hash_names: set[str],
    serials: Sequence[bytes],
    updates: Sequence[int],
    messages: Sequence[bytes],
    now: int,
) -> None:
    """Record one slice of live answers; ``updates``: their thisUpdates and nextUpdates. Raises as ``signed``."""
    _sign(
        desk,
        "live",
        messages,
        serials,
        certid=",".join(sorted(hash_names)),
        this_update=format_utc(min(updates)),
        next_update=format_utc(max(updates)),
        produced_at=format_utc(now),
    )


def _sign(desk: Desk, why: str, messages: Sequence[bytes], serials: Sequence[bytes], **fields: Any) -> None:
    sha256 = hashlib.sha256
    if len(serials) <= MOST_SERIALS:
        fields["serials"] = " ".join(serial.hex() for serial in serials)
    audit.record(
        "sign",
        ca=desk.issuer.name,
        signer=desk.signer.signer_id,
        key=key_fingerprint(desk.signer.signer.public_key_der),
        why=why,
        count=len(messages),
        **fields,
        answers=b"".join([sha256(message).digest()[:DIGEST_BYTES] for message in messages]).hex(),
    )


@lru_cache(maxsize=64)
def key_fingerprint(public_key_der: bytes) -> str:
    """Name a key: the first 16 hex digits of SHA-256 over its SubjectPublicKeyInfo."""
    return hashlib.sha256(public_key_der).hexdigest()[:16]


def key_reference(key: str) -> str:
    """Return a configured key as it may be written down: a PKCS#11 URI without what tells the way to its PIN."""
    return re.sub(r"[?&](pin-value|pin-source)=[^&]*", "", key) if key.startswith("pkcs11:") else key
