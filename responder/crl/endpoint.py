"""CRLs and CA certificates over HTTP: a name in the URL to the file in the depot, or to what is to be said without one.

The names: ``/crl/<ca>.crl``, ``/crl/<ca>-delta.crl``, ``/crl/<ca>/<shard>.crl``, ``/crl/<ca>/<shard>-delta.crl``,
``/ca/<ca>.cer``, and the very paths of ``crl.url`` and ``crl.delta_url``, since certificates that exist name those. None can be
mistaken for an OCSP request in a path, which is base64 and begins with M (http/routes.py). Never waits, asks Redis nothing, and
holds no key. RFC 5280 §4.2.1.13, §4.2.2.1; RFC 2585 §4; RFC 9111 §4.2.1; docs/server-behavior.md tells what a client sees.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from responder.clock import Clock
from responder.config_crl import DELTA, FULL, delta_slot
from responder.crl.depot import Depot
from responder.crl.published import Published
from responder.errors import InvariantBroken
from responder.http.caching import CachedResponse
from responder.http.files import FileResponse, HeldFile
from responder.http.message import Request, Response, http_error
from responder.issuers import Issuer, Issuers
from responder.log import get_logger

log = get_logger(__name__)

CRL_TYPE = b"application/pkix-crl"  # RFC 2585 §4.2
CERTIFICATE_TYPE = b"application/pkix-cert"  # RFC 2585 §4.1
MOST_FRESH_S = 4 * 3_600  # that caches may keep a CRL: one is also issued off schedule, when something is revoked
CERTIFICATE_FRESH_S = 86_400  # a CA's certificate changes with the configuration alone
RETRY_AFTER_S = 10  # to who asks for a CRL before the first one is published
MOST_OPEN = 64  # files kept open, besides those that are being sent
SETTLED_NS = (
    100_000_000  # a manifest's times tell it from the next one when it is this old; a file's clock ticks in 10 ms
)
COMPLAINT_S = 60.0  # between two complaints about one CRL

_NOT_FOUND = http_error(404)
_NOT_YET = http_error(503, ((b"Retry-After", b"%d" % RETRY_AFTER_S),))


@dataclass(slots=True, eq=False)
class Slot:
    """One CRL's name, and what of it is open: None where nothing is, or is no more."""

    issuer: Issuer
    name: str
    is_expected: bool  # the configuration says that there will be such a CRL
    manifest: str
    stamp: tuple[int, int, int] | None = (
        None  # of the manifest that ``published`` was read from; None: to be read again
    )
    published: Published | None = None
    file: HeldFile | None = None
    complained_at: float = -COMPLAINT_S


class CRLEndpoint:
    """Serves what the depot holds, and each CA's certificate; one event loop's thread only.

    What is published is looked for at every request, by one stat of the slot's manifest: of two answers to one client
    the second never has the smaller number, whichever workers of this machine gave them.
    """

    accepted_types: frozenset[bytes] = frozenset()

    def __init__(self, issuers: Issuers, depot: Depot, clock: Clock) -> None:
        self._depot = depot
        self._clock = clock
        self._slots: dict[bytes, Slot] = {}
        self._certificates = {b"/ca/%b.cer" % issuer.name.encode(): issuer for issuer in issuers}
        self._digests = {issuer.id: hashlib.sha256(issuer.certificate_der).digest() for issuer in issuers}
        self._open: dict[Slot, None] = {}  # in the order in which they were opened
        aliases: dict[bytes, set[Slot]] = {}
        for issuer in issuers:
            for slot, target, alias in self._slots_of(issuer):
                self._slots[target] = slot
                if alias is not None:
                    aliases.setdefault(alias, set()).add(slot)
        for alias, meant in aliases.items():
            if len(meant) == 1:
                self._slots.setdefault(alias, *meant)
            else:
                log.error(
                    "crl_url_ambiguous", path=alias.decode(), slots=[f"{one.issuer.name}/{one.name}" for one in meant]
                )

    def _slots_of(self, issuer: Issuer) -> Iterator[tuple[Slot, bytes, bytes | None]]:
        """Yield the CRLs that a CA may have, each with its target here and the one of its URL in certificates."""
        crl = issuer.config.crl
        if crl is None:
            return
        has_deltas = crl.delta_every is not None or crl.mirror_delta is not None
        for complete in crl.complete_slots:
            for name, is_expected in ((complete, True), (delta_slot(complete), has_deltas)):
                manifest = self._depot.manifest(issuer.name, name)
                tail = {FULL: "", DELTA: f"-{DELTA}"}.get(name, f"/{name}")
                url = urlsplit(crl.url_of(name) or "")
                alias = None
                if url.scheme in ("http", "https"):
                    alias = ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode()
                yield Slot(issuer, name, is_expected, str(manifest)), f"/crl/{issuer.name}{tail}.crl".encode(), alias

    def owns(self, target: bytes) -> bool:
        """Tell whether a target is a name of the depot's or a certificate's, whether or not there is such a file."""
        return target.startswith((b"/crl/", b"/ca/")) or target in self._slots

    def handle(self, request: Request, reply: Callable[[Response], None]) -> None:
        """Answer a GET or HEAD, at once."""
        slot = self._slots.get(request.target)
        if slot is not None:
            reply(self._crl(slot))
        else:
            issuer = self._certificates.get(request.target)
            reply(_NOT_FOUND if issuer is None else self._certificate(issuer))

    def _crl(self, slot: Slot) -> Response:
        now = int(self._clock.now())
        self._look(slot)
        published, file = slot.published, slot.file
        if published is None or file is None:
            return _NOT_YET if slot.is_expected else _NOT_FOUND
        # A CRL past its nextUpdate is served all the same: whoever reads it sees the date (RFC 5280 §6.3.3), its entries
        # are as true as ever, and an error would hide both.
        return FileResponse(
            file,
            CRL_TYPE,
            bytes.fromhex(published.sha256),
            published.this_update,
            fresh_until(published, now),
            date_tells=not published.shares_date,
        )

    def _look(self, slot: Slot) -> None:
        """See to it that the slot has what is published now, if that can be opened; else what it has had stays."""
        try:
            # Before the manifest is read: one that is replaced in between is read again the next time.
            found = os.stat(slot.manifest)  # noqa: PTH116 - at every request
        except OSError:
            slot.stamp = slot.published = slot.file = None
            self._open.pop(slot, None)
            return
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == slot.stamp:
            return
        try:
            opened = self._depot.open(slot.issuer.name, slot.name)
        except (InvariantBroken, OSError) as error:
            if self._clock.monotonic() - slot.complained_at >= COMPLAINT_S:
                slot.complained_at = self._clock.monotonic()
                log.error("crl_not_opened", ca=slot.issuer.name, slot=slot.name, error=str(error))
            return
        # The machine's own clock, whatever ours: it is the one that files are stamped with.
        slot.stamp = stamp if time.time_ns() - found.st_mtime_ns > SETTLED_NS else None
        slot.published = slot.file = None
        self._open.pop(slot, None)
        if opened is None:
            return
        published, descriptor = opened
        file = HeldFile(descriptor, published.size)
        if published.ca_id != slot.issuer.id:
            return  # of another key under this name, whose certificates this CRL does not cover
        slot.published, slot.file = published, file
        self._open[slot] = None
        if len(self._open) > MOST_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.stamp = oldest.published = oldest.file = None

    def _certificate(self, issuer: Issuer) -> Response:
        """RFC 5280 §4.2.2.1: what id-ad-caIssuers names is one certificate in DER."""
        fresh = int(self._clock.now()) + CERTIFICATE_FRESH_S
        digest = self._digests[issuer.id]
        # notBefore: the same on every machine, and true of these octets.
        return CachedResponse(issuer.certificate_der, CERTIFICATE_TYPE, issuer.not_before, fresh + 1, fresh, digest)


def fresh_until(published: Published, now: int) -> int:
    """Return until when caches may keep a CRL: till the next one is planned, before this one ends, and not for long.

    RFC 9111 §4.2.1. A cache that kept it until nextUpdate would hide the CRLs that come before (BR §4.9.7: within 24
    hours of a revocation).
    """
    ends = min(published.next_publication, now + MOST_FRESH_S)
    return ends if published.next_update is None else min(ends, published.next_update - 1)
