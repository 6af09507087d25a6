"""Brings what another machine has published from Redis to this machine's depot, where its workers serve it from.

Reads only: the Redis user of the edge is enough. A body is hashed while it is written, and takes its place in the depot as
the publisher's does: whole, and never before a newer one. Called by the depot role, one process a machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from responder.config_crl import delta_slot
from responder.crl.depot import Depot
from responder.crl.published import Published
from responder.errors import CommitConflict, InvariantBroken, StoreDamaged, StoreUnavailable
from responder.issuers import Issuer, Issuers
from responder.log import get_logger
from responder.store.redis_store import Store

log = get_logger(__name__)


class Replica:
    """A machine's copy of the CRLs that are shared; ``look`` brings it up to date."""

    def __init__(self, store: Store, depot: Depot, issuers: Issuers) -> None:
        """CRLs of CAs whose configuration does not share any are let be."""
        self._store = store
        self._depot = depot
        self._issuers = [issuer for issuer in issuers if issuer.config.crl is not None and issuer.config.crl.share]
        self._refused: dict[tuple[str, str], str] = {}  # CA and slot, or "" → what cannot be used, said once

    def sweep(self) -> None:
        """Remove what an earlier process has left half fetched."""
        for issuer in self._issuers:
            self._depot.sweep(issuer.name)

    def look(self) -> int:
        """Fetch what is published and not here yet; returns how many CRLs came.

        Raises StoreUnavailable where Redis is out of reach. What is wrong with one CRL, or one CA, keeps no other from
        coming: it is logged, and what this machine has stays.
        """
        return sum(self._fetch_slot(*one) for issuer in self._issuers for one in self._wanted(issuer))

    def _wanted(self, issuer: Issuer) -> Iterator[tuple[Issuer, str, str]]:
        """Yield the slots of a CA, with what Redis says of them."""
        try:
            texts = self._store.crl_state(issuer.id).published
        except StoreDamaged as error:
            if self._refused.get((issuer.id, "")) != str(error):
                self._refused[issuer.id, ""] = str(error)
                log.error("crl_not_fetched", ca=issuer.name, error=str(error))
            return
        assert issuer.config.crl is not None  # noqa: S101 - __init__ saw to it
        for complete in issuer.config.crl.complete_slots:
            # First the full CRL: one may be fetched without its delta, but no delta is of use before its base is there.
            for slot in (complete, delta_slot(complete)):
                text = texts.get(slot)
                if text is not None and self._refused.get((issuer.id, slot)) != text:
                    yield issuer, slot, text

    def _fetch_slot(self, issuer: Issuer, slot: str, text: str) -> bool:
        try:
            published = replace(Published.from_text(text), ca=issuer.name)
            if (published.ca_id, published.slot) != (issuer.id, slot):
                raise InvariantBroken(f"it says that it is {published.ca_id}/{published.slot}")
            if self._has(published):
                return False
            self._fetch(published)
        except (ValueError, InvariantBroken, CommitConflict) as error:
            self._refused[issuer.id, slot] = text
            log.error("crl_not_fetched", ca=issuer.name, slot=slot, error=str(error))
            return False
        except (StoreUnavailable, OSError) as error:
            # Its body may have made room for a newer one's meanwhile, or the disk may be full: to be tried again.
            log.warning("crl_not_fetched", ca=issuer.name, slot=slot, error=str(error))
            return False
        log.info("crl_fetched", ca=issuer.name, slot=slot, number=published.number, bytes=published.size)
        return True

    def _has(self, published: Published) -> bool:
        try:
            here = self._depot.whole(published.ca, published.slot)
        except InvariantBroken:
            return False  # damaged: fetched anew
        return here is not None and here.sha256 == published.sha256 and here.ca_id == published.ca_id

    def _fetch(self, published: Published) -> None:
        fresh = self._depot.fresh(published.ca)
        try:
            self._write(fresh, published)
            self._depot.put(fresh, published)
        finally:
            fresh.unlink(missing_ok=True)

    def _write(self, fresh: Path, published: Published) -> None:
        """Write a body piece by piece; raises InvariantBroken unless it is what was published."""
        digest, size = hashlib.sha256(), 0
        with fresh.open("xb") as file:
            for piece in self._store.read_crl_body(published.ca_id, published.sha256, published.size):
                digest.update(piece)
                size += len(piece)
                file.write(piece)
        if (digest.hexdigest(), size) != (published.sha256, published.size):
            raise InvariantBroken(f"its {size} octets in Redis are not the {published.size} that were published")
