"""What a use of a key says in the audit log. Called by the presigner, the live signer and whoever opens a key.

A line has eight octets of each signature: so whoever holds an answer finds its line, and an answer without a line was not
signed here. A few answers are named, with the hash of what was signed. Answers share a line, and nothing is hashed that many
share: that is why it costs little (ADR 11).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from fastpath.ocsp_response import AnswerHeader
from responder import audit
from responder.clock import format_utc
from responder.store.layout import DUE_ASKED_FOR, DUE_REVOKED

if TYPE_CHECKING:
    from responder.signing.desk import Desk

MOST_SERIALS = 16  # that a line names, as the journal does; a routine batch is known by its bucket
SIGNATURE_OCTETS = 8  # of each signature
LONGEST_CLASSIC = 1024  # octets of a signature; longer ones are ML-DSA's


def signed(
    desk: Desk,
    bucket: int,
    hash_name: str,
    score: float,
    header: AnswerHeader,
    serials: Sequence[bytes],
    messages: Sequence[bytes],
    signatures: Sequence[bytes],
) -> None:
    """Record a bucket's answers, signed under one header. Raises AuditUnavailable: then none of them may be used."""
    why = "revoked" if score <= DUE_REVOKED else "asked-for" if score <= DUE_ASKED_FOR else "routine"
    same = (
        ("why", why),
        ("certid", "dual" if desk.is_dual else hash_name),
        *_times(header.this_update, header.next_update, header.produced_at),
    )
    _sign(desk, messages, signatures, serials, same, f',"bucket":"{bucket:x}"')


def signed_live(
    desk: Desk,
    hash_names: set[str],
    serials: Sequence[bytes],
    updates: Sequence[int],
    messages: Sequence[bytes],
    signatures: Sequence[bytes],
    now: int,
) -> None:
    """Record one slice of live answers; ``updates``: their thisUpdates and nextUpdates. Raises as ``signed``."""
    certid = ",".join(sorted(hash_names))
    same = (("why", "live"), ("certid", certid), *_times(min(updates), max(updates), now))
    _sign(desk, messages, signatures, serials, same)


@lru_cache(maxsize=64)
def _times(this_update: int, next_update: int, produced_at: int) -> tuple[tuple[str, str], ...]:
    times = {"this_update": this_update, "next_update": next_update, "produced_at": produced_at}
    return tuple((name, format_utc(at)) for name, at in times.items())


def _sign(
    desk: Desk,
    messages: Sequence[bytes],
    signatures: Sequence[bytes],
    serials: Sequence[bytes],
    same: tuple[tuple[str, str], ...],
    own: str = "",
) -> None:
    kept = b"".join(map(itemgetter(_kept_part(signatures[0])), signatures)).hex()
    if len(serials) <= MOST_SERIALS:
        named = " ".join([serial.hex() for serial in serials])
        own += f',"serials":"{named}","sha256":"{hashlib.sha256(b"".join(messages)).hexdigest()}"'
    fields = _encoded(desk.issuer.name, desk.signer.signer_id, desk.signer.signer.public_key_der, same)
    audit.record_encoded("sign", f'{fields}{own},"count":{len(signatures)},"signatures":"{kept}"')


@lru_cache(maxsize=64)
def _encoded(ca: str, signer: str, public_key_der: bytes, same: tuple[tuple[str, str], ...]) -> str:
    """Encode what the lines of a second share: this is done for every batch."""
    return audit.encode_fields({"ca": ca, "signer": signer, "key": key_fingerprint(public_key_der), **dict(same)})


def name_signature(signature: bytes) -> bytes:
    """Return what a line keeps of a signature: its last octets, which for a given message nobody can choose."""
    return signature[_kept_part(signature)]


def _kept_part(signature: bytes) -> slice:
    # FIPS 204 §7.2: ML-DSA ends with hints, mostly zero, and begins with a hash.
    return slice(-SIGNATURE_OCTETS, None) if len(signature) <= LONGEST_CLASSIC else slice(SIGNATURE_OCTETS)


@lru_cache(maxsize=64)
def key_fingerprint(public_key_der: bytes) -> str:
    """Name a key: the first 16 hex digits of SHA-256 over its SubjectPublicKeyInfo."""
    return hashlib.sha256(public_key_der).hexdigest()[:16]


def key_reference(key: str) -> str:
    """Return a configured key as it may be written down: a PKCS#11 URI without what tells the way to its PIN."""
    return re.sub(r"[?&](pin-value|pin-source)=[^&]*", "", key) if key.startswith("pkcs11:") else key
