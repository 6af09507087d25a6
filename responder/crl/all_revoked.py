"""What a CRL lists under an override: every certificate that the CA is known to have issued (RFC 6960 §2.7).

In the worst hour (``revocast revoke --all``). Read from the statuses themselves, bucket by bucket, in flat memory. Called by
crl/snapshot.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from responder.errors import CommitConflict, PublicationRefused, StoreDamaged
from responder.model import CertStatus, Status
from responder.store.crl_store import CHUNKS
from responder.store.layout import CHUNK_BITS, serial_hash
from responder.store.redis_store import Store


def read_all_revoked(store: Store, ca: str, override: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of a chunk, serials in hex and status texts as HGETALL gives them), each chunk once, in any order.

    What is said of a certificate is what OCSP says of it: the override where that is in effect, whatever stood before.
    Raises CommitConflict where buckets were split meanwhile, PublicationRefused for an override that revokes nothing.
    """
    for_all, info, now = _status(override), store.ca_info(ca), store.time()
    if for_all.cert_status is not CertStatus.REVOKED:
        reason = f"an override holds for every certificate of the CA, and no CRL can say it: {override}"
        raise PublicationRefused("override", "RFC 6960 §2.7", reason)
    if info is None or info.bits is None:
        raise StoreDamaged(f"Redis has no buckets of {ca}")
    buckets = store.bucket_map(ca, info.bits)
    if buckets.missing:
        raise StoreDamaged(f"Redis lacks {len(buckets.missing)} buckets of {ca}: their certificates are not known")
    # By so many bits a group has whole buckets and whole chunks.
    mask = (1 << min(buckets.least_bits, CHUNK_BITS)) - 1
    groups: dict[int, list[int]] = {}
    for bucket in buckets.buckets:
        groups.setdefault(bucket & mask, []).append(bucket)
    for group in groups.values():
        chunks: dict[int, list[bytes]] = {}
        for found in store.read_status_buckets(ca, group):
            if found.bits != buckets.buckets[found.bucket]:
                raise CommitConflict(f"bucket {found.bucket:x} of {ca} was split")
            for serial, text in found.entries.items():
                said = _said(_status(text), for_all, now).to_text().encode()
                chunks.setdefault(serial_hash(serial) % CHUNKS, []).extend((serial.hex().encode(), said))
        yield from chunks.items()


def _status(text: str) -> Status:
    try:
        return Status.from_text(text)
    except ValueError as error:
        raise StoreDamaged(f"Redis holds what is no status: {error}") from error


def _said(own: Status, for_all: Status, now: float) -> Status:
    if for_all.at(now) is not CertStatus.REVOKED and own.cert_status is CertStatus.REVOKED:
        return own
    return replace(for_all, not_after=own.not_after)
