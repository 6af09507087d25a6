"""Mirrors the CRLs of a CA that issues them itself: fetched, proved to be the CA's, and put into the depot.

An older, broken, foreign or replayed CRL never takes the place of a good one: what is published stays until a better one comes,
and the alarm says what is wrong. The CRL is served octet for octet as the CA signed it, in DER. RFC 5280 §5.2.3, §5.2.4, §6.3.3.
Called by roles/publish.py, in a thread of its own: a slow server must not keep other CAs' CRLs from being issued.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from responder import audit, metrics
from responder.clock import Clock, format_utc
from responder.config import Config
from responder.config_crl import SHARD, delta_slot
from responder.crl.acceptance import (
    CRLSigner,
    check_follows,
    check_kind,
    check_origin,
    check_scope,
    check_times,
    is_same_place,
    scope_of,
    scope_text,
    why_not_combined,
)
from responder.crl.depot import DIRECTORY, Depot
from responder.crl.fetch import Fetched, FetchTerms, Place, open_place
from responder.crl.published import Published
from responder.crl.reader import CRLFile
from responder.crl.size import say_if_large, show_sizes
from responder.errors import CommitConflict, ConfigError, CRLError, InvariantBroken, SourceUnavailable, StoreUnavailable
from responder.issuers import Issuer, load_certificate
from responder.log import get_logger
from responder.process import Stop
from responder.store import layout
from responder.store.crl_store import Publication
from responder.store.redis_store import Store

log = get_logger(__name__)

RETRY_S = 30.0  # after a failure, where the CRL is not looked for more often anyway
REMIND_EVERY_S = 300.0
LATE_SHARE = 1 / 8  # of a CRL's time that is left when its successor is said to be late
KEPT_AFTER_END_S = 30 * 86_400  # in Redis: an old CRL is better than none


class Mirror:
    """One CA's CRLs: every complete one, and its delta where there are any. ``step`` does what is due; used by one thread."""

    def __init__(
        self, config: Config, config_file: str, issuer: Issuer, clock: Clock, connect: Callable[[], Store]
    ) -> None:
        """Raises ConfigError. ``connect``: to an external Redis, from where other machines fetch what is mirrored here."""
        crl = issuer.config.crl
        assert crl is not None and crl.mirror is not None  # noqa: S101, PT018 - only such CAs are mirrored
        key = f"ca[{issuer.name}].crl.mirror"
        depot, certificate = Depot(config.data_dir / DIRECTORY), crl.certificate or issuer.config.certificate
        for name, template in (("mirror", crl.mirror), ("mirror_delta", crl.mirror_delta)):
            if template is not None and (SHARD in template) != (crl.shards > 1):
                problem = f"must hold {SHARD} where shards is more than 1, and only there, and is {template!r}"
                raise ConfigError(config_file, f"ca[{issuer.name}].crl.{name}", problem)
        try:
            signer = CRLSigner.of(load_certificate(certificate, config_file, key))
            directory = depot.root / issuer.name
            terms = FetchTerms(max_bytes=crl.max_bytes)
            self._slots: list[MirroredSlot] = []
            for slot in crl.complete_slots:
                full: MirroredSlot | None = None
                for name, template in ((slot, crl.mirror), (delta_slot(slot), crl.mirror_delta)):
                    if template is None:
                        continue
                    where = template.replace(SHARD, slot)
                    place = open_place(where if "://" in where else Path(where), terms, directory, clock)
                    made = MirroredSlot(issuer, name, place, signer, depot, crl.every, clock, full, self._slots)
                    full = full or made
                    self._slots.append(made)
        except ValueError as error:
            raise ConfigError(config_file, key, f"{certificate}: {error}") from error
        self._issuer, self._depot = issuer, depot
        self._clock = clock
        self._connect = connect
        self._store: Store | None = None
        self._share = config.redis is not None and crl.share
        self._shared: set[str] = set()  # by SHA-256
        self._directory = directory

    def step(self) -> float:
        """Look for newer CRLs where that is due; returns the seconds until something is. Raises nothing but StoreUnavailable."""
        self._directory.mkdir(parents=True, exist_ok=True)
        waits = [slot.step() for slot in self._slots]
        self._show()
        if self._share:
            try:
                self._store = self._store or self._connect()
                for slot in self._slots:
                    self._share_slot(slot, self._store)
            except StoreUnavailable:
                self.close()
                raise
        return min(waits)

    def close(self) -> None:
        """Drop the connection."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def sweep(self) -> None:
        """Remove what an earlier process has left half fetched."""
        self._depot.sweep(self._issuer.name)

    def _share_slot(self, slot: MirroredSlot, store: Store) -> None:
        """Put what is published here where other machines fetch it, before they are told of it."""
        published = slot.published
        if published is None or published.sha256 in self._shared:
            return
        until = max(published.next_update or 0, int(self._clock.now())) + KEPT_AFTER_END_S
        publication = Publication(
            published.slot, published.to_text(), published.number, published.this_update, mirrored=True
        )
        try:
            store.put_crl_body(published.ca_id, published.sha256, _pieces(self._depot.path(published)), until)
            store.publish_crls(published.ca_id, [publication])
        except CommitConflict as error:
            # Another machine's mirror was quicker: it has this one, or a newer one.
            log.info("crl_not_shared", ca=self._issuer.name, slot=published.slot, error=str(error))
        except OSError as error:  # the file is lost: the next look says so
            log.warning("crl_not_shared", ca=self._issuer.name, slot=slot.name, error=str(error))
            return
        self._shared.add(published.sha256)

    def _show(self) -> None:
        for kind in ("full", "delta"):
            found = [slot.published for slot in self._slots if slot.kind == kind and slot.published is not None]
            if found:
                label = (self._issuer.name, kind)
                metrics.CRL_THIS_UPDATE.labels(*label).set(min(one.this_update for one in found))
                metrics.CRL_NEXT_UPDATE.labels(*label).set(min(one.next_update or 0 for one in found))
                show_sizes(self._issuer, kind, found)
                metrics.CRL_ENTRIES.labels(*label).set(sum(one.entries for one in found))


class MirroredSlot:
    """One CRL and those that follow it at its place. ``published`` is the one in the depot."""

    def __init__(
        self,
        issuer: Issuer,
        slot: str,
        place: Place,
        signer: CRLSigner,
        depot: Depot,
        every_s: float,
        clock: Clock,
        full: MirroredSlot | None,
        slots: Sequence[MirroredSlot],
    ) -> None:
        """``full``: the complete CRL that a delta CRL goes with; None: this is a complete one. ``slots``: all of the CA's."""
        assert issuer.config.crl is not None  # noqa: S101 - Mirror saw to it
        self.kind = "full" if full is None else "delta"
        self._issuer = issuer
        self.name = slot
        self._place = place
        self._signer = signer
        self._depot = depot
        self._every_s = every_s
        self._clock = clock
        self._full = full
        self._url = issuer.config.crl.url_of(slot) if full is None else None  # a delta's scope is the full CRL's
        self._is_part = issuer.config.crl.shards > 1
        self._slots = slots
        self._look_at = float("-inf")  # monotonic
        self._refused: CRLError | None = None  # why what lies at the place now is not taken
        self._said: tuple[str, float] = ("", 0.0)
        self.scope = b""  # acceptance.scope_of what is published
        self.published: Published | None = None
        with contextlib.suppress(OSError):  # ``step`` says so
            self.published = self._in_depot()

    def step(self) -> float:
        """Look for a newer CRL if that is due; returns the seconds until it is again."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + (self._every_s if self._look() else min(RETRY_S, self._every_s))
        self._watch_end()
        return self._look_at - now

    # --- taking up ----------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        try:
            if (found := self._in_depot()) != self.published:
                self.published = found  # what was there is damaged, or somebody has removed it: it is fetched once more
                self._place.forget()
            fetched = self._place.fetch()
            if fetched is not None:
                self._take_up(fetched)
            elif self._refused is not None:
                self._fail("check", self._refused)
                return False
        except SourceUnavailable as error:
            self._fail("fetch", error)
        except CRLError as error:
            self._refused = error
            self._fail("check", error)
            if self._full is not None:  # its base may come next
                self._place.forget()
        except (CommitConflict, InvariantBroken) as error:
            self._fail("conflict", error)
            self._place.forget()
        except OSError as error:
            self._fail("disk", error)
            self._place.forget()
        else:
            return True
        return False

    def _take_up(self, fetched: Fetched) -> None:
        try:
            with CRLFile.open(fetched.path) as crl:
                crl.name = self._place.name
                self.published = self._in_depot()
                self._check(crl)
                path, sha256 = self._in_der(fetched, crl)
                try:
                    if self.published is None or self.published.sha256 != sha256:
                        self._publish(crl, path, sha256)
                finally:
                    path.unlink(missing_ok=True)
        finally:
            fetched.path.unlink(missing_ok=True)
        self._refused = None

    def _check(self, crl: CRLFile) -> None:
        """Prove that it is the CA's, and no step back; raises CRLError."""
        check_kind(crl, is_delta=self._full is not None)
        check_times(crl, self._clock.now())
        if self.published is not None:
            # ``lost``: clients have seen that one, though it was found damaged here.
            check_follows(crl, self.published.lost or self.published.number, self.published.this_update)
        check_origin(crl, self._signer)
        if self._full is not None:
            self._check_base(crl)
        else:
            self._check_scope(crl)
        if crl.unknown_critical:
            # Whether it may be used is for those who ask for it (RFC 5280 §5.2); it is the CA's own.
            log.warning("crl_has_unknown_critical_extension", ca=self._issuer.name, oids=crl.unknown_critical)

    def _check_scope(self, crl: CRLFile) -> None:
        """RFC 5280 §5.2.5: another shard's CRL is the CA's own too, and newer perhaps, but of other certificates."""
        if self.published is not None and not is_same_place(scope_of(crl), self.scope, self._url):
            raise crl.error(
                f"its issuingDistributionPoint ({scope_text(scope_of(crl))}) is not that of the published one ({scope_text(self.scope)}), so it is of other certificates (RFC 5280 §5.2.5); "
                f"if the CA has changed it for good, remove {self._depot.manifest(self._issuer.name, self.name)}"
            )
        others = [slot for slot in self._slots if slot is not self and slot.kind == self.kind and slot.published]
        check_scope(crl, self._url, {one.scope: one.name for one in others} if self._is_part else None)

    def _check_base(self, delta: CRLFile) -> None:
        """RFC 5280 §5.2.4: a delta CRL is of use only with a complete one that is published too, and not older than its base."""
        assert self._full is not None  # noqa: S101 - of a delta
        with contextlib.ExitStack() as opened:
            if self._full.published is None:
                raise delta.error("there is no full CRL yet that it could be combined with (RFC 5280 §5.2.4)")
            full = opened.enter_context(CRLFile.open(self._depot.path(self._full.published)))
            if why_not := why_not_combined(full, delta):
                raise delta.error(f"cannot be combined with the full CRL: {why_not} (RFC 5280 §5.2.4)")

    def _in_der(self, fetched: Fetched, crl: CRLFile) -> tuple[Path, str]:
        """Return a file that holds the DER alone, which is what clients are to get (RFC 5280 §4.2.1.13), and its SHA-256."""
        if fetched.size == crl.size:
            return fetched.path, fetched.sha256
        path, digest = self._depot.fresh(self._issuer.name), hashlib.sha256()
        with path.open("xb") as file:
            for block in crl.blocks(0, crl.size):
                digest.update(block)
                file.write(block)
        return path, digest.hexdigest()

    def _publish(self, crl: CRLFile, path: Path, sha256: str) -> None:
        before = self.published
        entries = sum(len(batch) for batch in crl.entries())  # raises CRLError for the first that cannot be read
        self.published = self._depot.put(
            path,
            Published(
                ca=self._issuer.name,
                ca_id=self._issuer.id,
                slot=self.name,
                number=crl.number,
                base_number=crl.base_number,
                this_update=crl.this_update,
                next_update=crl.next_update,
                # Nobody knows when the CA comes with the next one; caches are kept to an hour anyway (endpoint.py).
                next_publication=crl.next_update or crl.this_update + int(self._every_s),
                size=crl.size,
                sha256=sha256,
                entries=entries,
                shares_date=before is not None and (before.this_update == crl.this_update or before.lost is not None),
                file="",
            ),
        )
        self.scope = scope_of(crl)
        metrics.CRLS_MIRRORED.labels(self._issuer.name, self.kind).inc()
        known = {"ca": self._issuer.name, "slot": self.name, "number": crl.number, "sha256": sha256}
        audit.record("crl_mirrored", **known, source=self._place.name, this_update=format_utc(crl.this_update))
        log.info("crl_mirrored", **known, entries=entries, this_update=format_utc(crl.this_update), faults=crl.faults)
        say_if_large(self._issuer, [self.published])

    def _in_depot(self) -> Published | None:
        try:
            found = self._depot.whole(self._issuer.name, self.name)
        except InvariantBroken as error:
            log.error("crl_manifest_damaged", ca=self._issuer.name, slot=self.name, error=str(error))
            return None
        if found is None or found.ca_id != self._issuer.id:
            return None
        try:
            with CRLFile.open(self._depot.path(found)) as crl:
                self.scope = scope_of(crl)
        except CRLError as error:
            log.error("crl_not_read", ca=self._issuer.name, slot=self.name, error=str(error))
            return None
        return found

    # --- alarms -------------------------------------------------------------------------------------------------------

    def _fail(self, reason: str, error: Exception) -> None:
        metrics.CRL_MIRROR_FAILURES.labels(self._issuer.name, reason).inc()
        self._say("crl_not_mirrored", " ".join(str(error).split()) or type(error).__name__, reason=reason)

    def _watch_end(self) -> None:
        """Say long before it ends that the next CRL has not come."""
        published = self.published
        if published is None or published.next_update is None:
            return
        left = published.next_update - self._clock.now()
        if left < (published.next_update - published.this_update) * LATE_SHARE:
            self._say("crl_ends", f"no CRL after number {published.number} has come", reason="late")

    def _say(self, event: str, text: str, *, reason: str) -> None:
        """Log an alarm: once, and again when it has lasted."""
        now = self._clock.monotonic()
        if self._said[0] == text and now - self._said[1] < REMIND_EVERY_S:
            return
        self._said = (text, now)
        ends = self.published.next_update if self.published is not None else None
        stays = (
            f"the published CRL stays, until {format_utc(ends)}"
            if ends
            else "there is no CRL to serve, or it has no end"
        )
        log.error(event, ca=self._issuer.name, slot=self.name, reason=reason, error=text, consequence=stays)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(layout.CRL_BODY_CHUNK):
            yield piece


def open_mirrors(config: Config, config_file: str, issuers: Iterable[Issuer], clock: Clock) -> list[Mirror]:
    """Make a mirror for each CA whose CRLs are mirrored; raises ConfigError for the first that cannot be."""
    return [
        Mirror(config, config_file, issuer, clock, lambda: Store.connect(config, "publish"))
        for issuer in issuers
        if issuer.config.crl is not None and issuer.config.crl.mirror is not None
    ]


def run_mirrors(mirrors: Sequence[Mirror], stop: Stop) -> None:
    """Mirror until ``stop`` is set; the thread's whole work. A Redis that is away holds up what is shared alone."""
    for mirror in mirrors:
        mirror.sweep()
    while mirrors and not stop.is_set():
        wait = RETRY_S
        for mirror in mirrors:
            try:
                wait = min(wait, mirror.step())
            except StoreUnavailable as error:
                log.warning("crl_not_shared", error=str(error))
                wait = min(wait, 1.0)
        stop.wait(max(0.05, wait))
    for mirror in mirrors:
        mirror.close()
