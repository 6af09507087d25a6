"""What a delta CRL says: which of the serials that changed since its base are entries, removeFromCRL, or not in it.

RFC 5280 §5.2.4, §5.3.1. Whether a serial may be listed in the base or in a CRL since is noted when its revocation changes
(store.layout.LISTED_MARK), so neither the base's file nor the deltas before are read: a delta costs what changed, and any
machine can make it (docs/adr/0016). Called by crl/snapshot.py, read by the publisher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastpath.crl_entries import pack_revoked
from responder.crl.numbering import Instant
from responder.store.crl_store import CHUNKS, Changed, CRLBase
from responder.store.layout import partition_of, serial_hash


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """The changes since the bases of some complete slots, as of one instant. ``texts``: of those that are revoked."""

    instant: Instant
    bases: Mapping[str, CRLBase]
    changed: Mapping[bytes, Changed]
    texts: Mapping[bytes, str]

    @property
    def as_of(self) -> int:
        """ThisUpdate."""
        return self.instant.as_of

    def base(self, slot: str) -> CRLBase:
        """Return the base of the delta CRL beside a complete slot."""
        return self.bases[slot]

    def chunks(self, slot: str) -> Iterator[bytes]:
        """Yield the records of the delta CRL beside a complete slot, in the order of its entries, as often as wanted.

        For Terms(delta=True) with no expiry: what was first revoked on a delta stays on all of them until it was on a
        complete CRL, however long ago its certificate has expired. A record with an empty text is removeFromCRL.
        """
        cut = self.bases[slot].cut
        by_chunk: dict[int, list[bytes]] = {}
        for serial, change in self.changed.items():
            place = serial_hash(serial)
            if change.number <= cut[partition_of(place)]:
                continue  # another slot's base is older
            text = self.texts.get(serial)
            if text is None and not change.may_be_listed:
                continue  # a hold that came and went between two CRLs: nobody has heard of it
            by_chunk.setdefault(place % CHUNKS, []).extend((serial.hex().encode(), (text or "").encode()))
        for number in sorted(by_chunk):
            yield pack_revoked(by_chunk[number])
