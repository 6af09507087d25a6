"""One issue of a CA's CRLs, from what Redis holds to files that clients are served: all shards, complete ones or deltas.

A snapshot of one instant, a number that is reserved, files that are built, signed and checked, then the depot and Redis.
Whatever fails on the way, what is published stays. DESIGN §7, CRLs; RFC 5280 §5. Called by the publisher and by commands.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from asn1crypto import core

from fastpath.crl_entries import ALL_REASONS, Terms
from responder import audit
from responder.clock import Clock, format_utc
from responder.config_crl import CRLConfig, delta_slot, longest_validity
from responder.crl.builder import BuiltCRL, CRLHead, build_crl
from responder.crl.checks import Expected, check_before_publication
from responder.crl.delta import ChangeSet
from responder.crl.depot import Depot, sync
from responder.crl.extensions import EXPIRED_CERTS_ON_CRL, CRLExtensions
from responder.crl.numbering import Instant, reserve
from responder.crl.published import NO_NEXT_UPDATE, Published
from responder.crl.reader import CRLFile
from responder.crl.schedule import Due, is_regular, planned
from responder.crl.snapshot import Snapshot, take_changes, take_snapshot
from responder.errors import InvariantBroken, OperatorError
from responder.issuers import Issuer
from responder.log import get_logger
from responder.model import CRLReason
from responder.signing.crl_signer import CRLSigner
from responder.signing.ledger import name_signature
from responder.store.crl_store import CRLBase, CRLState, Publication
from responder.store.redis_store import Store

log = get_logger(__name__)

DELTA_OUTLASTS = (
    3  # a delta CRL is good for so many of their intervals: two may fail before clients need a complete one
)
PIECE_OCTETS = 1 << 20
# glibc gives every block larger than the largest that was ever freed back to the kernel, which clears it when it comes again. A
# chunk of ten million revoked is such blocks: a tenth of their CRL's time went there. This one is freed at once, untouched.
KEPT_OCTETS = 16 << 20
# BR §7.2.2: what a subscriber certificate's entry may say. Another reason is left out, the entry stays.
BASELINE_REASONS = sum(
    1 << reason
    for reason in (
        CRLReason.KEY_COMPROMISE,
        CRLReason.AFFILIATION_CHANGED,
        CRLReason.SUPERSEDED,
        CRLReason.CESSATION_OF_OPERATION,
        CRLReason.PRIVILEGE_WITHDRAWN,
    )
)
Progress = Callable[[str, int], None]  # what is being done, and how many entries of it are


class NoNews(Exception):
    """The source stands still: a CRL would only be dated afresh."""


@dataclass(frozen=True, slots=True)
class Office:
    """What every issue of one CA's CRLs needs. ``foreign``: the CA's own last CRL, before the first one here."""

    issuer: Issuer
    store: Store
    depot: Depot
    clock: Clock
    share: bool = False
    foreign: Path | None = None

    @property
    def crl(self) -> CRLConfig:
        """The CA's ``[ca.crl]``."""
        assert self.issuer.config.crl is not None  # noqa: S101 - only such CAs have an office
        return self.issuer.config.crl

    def published(self, slot: str) -> Published | None:
        """Return what is published in a slot under the CA's present key.

        One whose manifest is damaged counts as none. One whose file is lost or damaged is set aside (depot.py): what is then
        returned says so by ``lost``.
        """
        try:
            found = self.depot.whole(self.issuer.name, slot)
        except InvariantBroken as error:
            log.error("crl_manifest_damaged", ca=self.issuer.name, error=str(error))
            return None
        return found if found is not None and found.ca_id == self.issuer.id else None

    def first_due(self) -> tuple[Published | None, Published | None]:
        """Return of the complete CRLs and of the deltas the one that is due first; None where one is missing.

        ``soonest_ahead`` is that of all shards together: a revocation dated ahead is in one of them alone. So is ``lost``.
        """
        complete = self.crl.complete_slots
        return self._first(complete), self._first([delta_slot(slot) for slot in complete])

    def _first(self, slots: Sequence[str]) -> Published | None:
        found = [one for slot in slots if (one := self.published(slot)) is not None]
        if len(found) < len(slots):
            return None
        ahead = min((one.soonest_ahead for one in found if one.soonest_ahead is not None), default=None)
        lost = max((one.lost for one in found if one.lost is not None), default=None)
        return dataclasses.replace(min(found, key=lambda one: one.next_publication), soonest_ahead=ahead, lost=lost)


@dataclass(frozen=True, slots=True)
class _Made:
    """A CRL that was built and checked, and is not published yet."""

    fresh: Path
    published: Published
    publication: Publication


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A CRL that is to be made. ``base`` None: it is a complete one."""

    slot: str
    complete: str
    chunks: Callable[[], Iterator[bytes]]
    base: CRLBase | None = None


class Issue:
    """One issue; made for it and then forgotten."""

    def __init__(
        self,
        office: Office,
        signer: CRLSigner,
        due: Due,
        *,
        last: bool = False,
        let_go: frozenset[bytes] = frozenset(),
        progress: Progress = lambda _what, _done: None,
    ) -> None:
        """``last``: the CA's last CRLs (EN 319 411-1 CSS-6.3.9-06). ``let_go``: serials that may be missing from now on."""
        self._office = office
        self._signer = signer
        self._due = due
        self._last = last
        self._let_go = let_go
        self._progress = progress
        self._state = CRLState()
        self._bases: list[CRLBase | None] = []  # at most one
        self.cut: tuple[int, ...] | None = None  # after ``run``: the journal numbers that the CRLs have seen

    def run(self) -> list[Published]:
        """Issue what is due, under one number; returns what is published from now on.

        Raises NoNews, PublicationRefused, SignerUnavailable, StoreUnavailable, CommitConflict, OSError: then nothing has
        changed, or (the last three) a number is lost, and another try publishes.
        """
        if self._due.needs_news and not self._last:
            self._look_for_news()
        self._agree_shards()
        bytes(KEPT_OCTETS)
        with contextlib.ExitStack() as stack:
            if not self._due.full:
                changes = take_changes(self._office.store, self._office.issuer.id, self._office.crl.complete_slots)
                if changes is not None and self._has_bases(changes) and self._delta_lasts(changes.instant):
                    return self._publish(changes.instant, self._deltas(changes), None, stack)
            return self._all(stack)

    def _all(self, stack: contextlib.ExitStack) -> list[Published]:
        """Issue complete CRLs, and deltas beside them whose base is the complete ones before (docs/adr/0016)."""
        office, ca = self._office, self._office.issuer.id
        self._due = dataclasses.replace(self._due, full=True)
        has_deltas = office.crl.delta_every is not None
        if has_deltas:
            office.store.keep_changes(ca)
        spool = self._fresh(stack)
        snapshot = stack.enter_context(take_snapshot(office.store, ca, spool, self._hear_chunks))
        wanted = [_Wanted(slot, slot, snapshot.chunks) for slot in office.crl.complete_slots]
        if has_deltas and not self._last and self._delta_lasts(snapshot.instant):
            changes = snapshot.changes(office.store, office.crl.complete_slots)
            wanted += self._deltas(changes) if changes is not None and self._has_bases(changes) else []
        published = self._publish(snapshot.instant, wanted, snapshot, stack)
        if not has_deltas:
            office.store.drop_changes(ca)  # in case there were deltas before
        return published

    def _has_bases(self, changes: ChangeSet) -> bool:
        """Say whether the depot has the bases, or later ones; it may be an old copy, or a machine's that issued nothing lately."""
        found = {slot: self._office.published(slot) for slot in self._office.crl.complete_slots}
        return all(one is not None and (one.number or 0) >= changes.base(slot).number for slot, one in found.items())

    def _delta_lasts(self, instant: Instant) -> bool:
        """Say whether a delta would be in date: not long after the source was last read, but a complete CRL may be then."""
        return self._next_update(instant, is_full=False) > self._office.clock.now()

    def _deltas(self, changes: ChangeSet) -> list[_Wanted]:
        return [
            _Wanted(delta_slot(slot), slot, partial(changes.chunks, slot), changes.base(slot))
            for slot in self._office.crl.complete_slots
        ]

    def _publish(
        self, instant: Instant, wanted: Sequence[_Wanted], snapshot: Snapshot | None, stack: contextlib.ExitStack
    ) -> list[Published]:
        office = self._office
        self._state, self.cut = instant.state, instant.cut
        number = reserve(office.store, instant, *self._floors())
        made = [self._make(self._fresh(stack), one, number, instant, snapshot) for one in wanted]
        # The files first: a base that Redis knows must be one that was published (RFC 5280 §5.2.4).
        published = [office.depot.put(one.fresh, one.published) for one in made]
        if office.share:
            self._share(published)
        publications = [
            dataclasses.replace(one.publication, text=put.to_text()) for one, put in zip(made, published, strict=True)
        ]
        office.store.publish_crls(instant.ca, publications)
        if office.share:
            self._drop_replaced(published)
        if self._last:
            office.store.end_crls(instant.ca, office.clock.now())
        return published

    # --- what it is about ---------------------------------------------------------------------------------------------

    def _agree_shards(self) -> None:
        """IDP-07, BR §7.2: a certificate never changes its shard."""
        shards = self._office.crl.shards
        if (agreed := self._office.store.agree_shards(self._office.issuer.id, shards)) != shards:
            raise OperatorError(
                f"ca {self._office.issuer.name}: crl.shards must stay {agreed}, as it was when the first CRL was published, and is {shards} (BR §7.2)"
            )

    def _floors(self) -> list[int | None]:
        """Return the numbers that this machine knows: Redis may have been restored from an old copy."""
        office = self._office
        numbers: list[int | None] = [office.depot.largest_number(office.issuer.id)]
        if office.foreign is not None:
            with CRLFile.open(office.foreign) as foreign:
                numbers.append(foreign.number)
        return numbers

    def _look_for_news(self) -> None:
        office, crl = self._office, self._office.crl
        info = office.store.ca_info(office.issuer.id)
        slots = crl.complete_slots if self._due.full else [delta_slot(slot) for slot in crl.complete_slots]
        before = [found.this_update for slot in slots if (found := office.published(slot)) is not None]
        if info is None or info.as_of is None:
            raise NoNews
        if len(before) == len(slots) and info.as_of <= max(before):  # where one is lacking it is issued, news or no
            raise NoNews

    def _fresh(self, stack: contextlib.ExitStack) -> Path:
        """Return a name for a new file, which is gone at the end unless it was published."""
        fresh = self._office.depot.fresh(self._office.issuer.name)
        stack.callback(fresh.unlink, missing_ok=True)
        return fresh

    def _hear_chunks(self, done: int, of: int) -> None:
        self._progress("reading", done * 100 // of)

    # --- one CRL ------------------------------------------------------------------------------------------------------

    def _make(self, fresh: Path, wanted: _Wanted, number: int, instant: Instant, snapshot: Snapshot | None) -> _Made:
        """Build, sign and check one CRL."""
        office, crl, signer, slot = self._office, self._office.crl, self._signer, wanted.slot
        is_full = wanted.base is None
        now = office.clock.now()
        full, before = office.published(wanted.complete), office.published(slot)
        regular = is_regular(self._due, now, full, instant.as_of)
        next_full, next_delta = planned(crl, now, full, regular=regular)
        let_go = self._let_go_before(wanted.complete) if is_full else 0
        terms = Terms(
            instant.as_of,
            now=int(now),
            drop_expired_before=let_go or None,
            shard=int(wanted.complete) if crl.shards > 1 else 0,
            shards=crl.shards,
            delta=not is_full,
            reasons=_reasons(office.issuer.profile, crl.scope),
            certificate_issuer=office.issuer.subject_der if signer.is_indirect else None,
        )
        url, delta_url = crl.url_of(wanted.complete), crl.url_of(delta_slot(wanted.complete))
        extensions = CRLExtensions(
            authority_key_identifier=signer.key_identifier,
            number=number,
            base_number=wanted.base.number if wanted.base is not None else None,
            distribution_points=(url,) if url is not None and self._has_scope else (),
            only_users=crl.scope == "users",
            only_cas=crl.scope == "cas",
            indirect=signer.is_indirect,
            freshest=(delta_url,) if is_full and delta_url and crl.delta_every is not None and not self._last else (),
            expired_certs_since=self._expired_since(slot, before) if crl.expired == "keep" and is_full else None,
            next_publish=(next_full if is_full else next_delta) if crl.next_publish and not self._last else None,
        )
        next_update = self._next_update(instant, is_full=is_full)
        head = CRLHead(signer.issuer_der, instant.as_of, next_update, extensions.to_der())
        audit.require()
        built = build_crl(fresh, head, wanted.chunks, terms, signer.signer, partial(self._progress, slot))
        self._record(fresh, slot, built, extensions, head)
        with ThreadPoolExecutor(1) as disk:
            # The file goes to the disk while it is checked: the depot, which waits for that, finds it there.
            synced = disk.submit(sync, fresh)
            self._check(fresh, wanted, extensions, head, terms, now)
            synced.result()
        if built.reasons_left_out:
            log.warning("crl_reasons_left_out", ca=office.issuer.name, slot=slot, entries=built.reasons_left_out)
        if built.without_reason and office.issuer.profile == "webpki" and crl.scope == "cas":
            # Unspecified(0) would be no reason either (BR §1.2.2: a meaningful one), and is told by leaving it out (§7.2.2, RFC 5280
            # §5.3.1). To publish no revocation for want of a reason would be worse.
            log.error(
                "crl_reasons_missing",
                ca=office.issuer.name,
                slot=slot,
                entries=built.without_reason,
                text="the entry of a CA certificate must tell the most appropriate reason (BR §7.2.2): name it in the CA's database",
            )
        published = Published(
            ca=office.issuer.name,
            ca_id=office.issuer.id,
            slot=slot,
            number=number,
            base_number=extensions.base_number,
            this_update=instant.as_of,
            next_update=next_update,
            next_publication=next_update if self._last else next_full if is_full else next_delta or next_full,
            size=built.size,
            sha256=built.sha256,
            entries=built.entries,
            shares_date=before is not None and (before.this_update == instant.as_of or before.lost is not None),
            file="",
            soonest_ahead=built.soonest_ahead,
        )
        base = None
        if snapshot is not None and is_full:
            base = self._base(snapshot, number, now, any_ahead=built.soonest_ahead is not None)
        publication = Publication(
            slot=slot,
            text="",
            number=number,
            this_update=instant.as_of,
            regular=is_full and regular,
            let_go=let_go if is_full else None,
            base=base,
        )
        return _Made(fresh, published, publication)

    def _base(self, snapshot: Snapshot, number: int, now: float, *, any_ahead: bool) -> CRLBase | None:
        """Return what deltas need of a complete CRL.

        What lies ahead is looked for once, of all shards: it is a pass over everything. What takes effect before the last of
        them is made stands on that one, and in the next delta once more.
        """
        if not any_ahead:
            return snapshot.base(number, now, any_ahead=False)
        if not self._bases:
            self._bases.append(snapshot.base(number, now))
        return self._bases[0]

    @property
    def _has_scope(self) -> bool:
        """RFC 5280 §5.2.5, BR §7.2.2: an issuingDistributionPoint only where the CRL is not of everything."""
        return self._office.crl.shards > 1 or self._office.crl.scope != "all" or self._signer.is_indirect

    def _next_update(self, instant: Instant, *, is_full: bool) -> int:
        crl = self._office.crl
        if self._last:
            return NO_NEXT_UPDATE
        lasts = crl.validity
        if not is_full and crl.delta_every is not None:
            lasts = min(lasts, max(60, DELTA_OUTLASTS * crl.delta_every))
        # Promise 2: what another CRL alone says is not said beyond that one's end.
        ends = self._signer.not_after if instant.until is None else min(self._signer.not_after, instant.until)
        return min(instant.as_of + lasts, ends)

    def _let_go_before(self, slot: str) -> int:
        """Return before which second certificates must have expired to leave now; 0: none leaves.

        RFC 5280 §3.3: an entry stays until it was on one regularly scheduled CRL issued after the certificate's expiry. The
        last such CRL had all that had not expired before the one before it, so what had expired by then may go.
        """
        if self._office.crl.expired == "keep":
            return 0
        return self._state.regular.get(slot, 0)

    def _expired_since(self, slot: str, before: Published | None) -> int:
        """Return since when what has expired is still listed (X.509 §9.5.2.8): never earlier than the last CRL said."""
        since = self._state.let_go.get(slot, 0)
        if before is not None:
            with CRLFile.open(self._office.depot.path(before)) as crl:
                extension = crl.extensions.get(EXPIRED_CERTS_ON_CRL)
            if extension is not None:
                when: datetime = core.GeneralizedTime.load(extension.value).native
                since = int(when.astimezone(UTC).timestamp())
        return max(since, self._office.issuer.not_before)

    def _record(self, fresh: Path, slot: str, built: BuiltCRL, extensions: CRLExtensions, head: CRLHead) -> None:
        """Write the use of the key down; raises AuditUnavailable: then the CRL may not be used."""
        with CRLFile.open(fresh) as crl:
            signature = crl.signature
        audit.record(
            "sign",
            ca=self._office.issuer.name,
            key=self._signer.key_fingerprint,
            why="crl",
            slot=slot,
            number=extensions.number,
            this_update=format_utc(head.this_update),
            next_update=format_utc(head.next_update),
            entries=built.entries,
            sha256=built.sha256,
            count=1,
            signatures=name_signature(signature).hex(),
        )

    def _check(
        self, fresh: Path, wanted: _Wanted, extensions: CRLExtensions, head: CRLHead, terms: Terms, now: float
    ) -> None:
        """Have it checked before it is published; raises PublicationRefused."""
        office, signer = self._office, self._signer
        expected = Expected(
            issuer_der=signer.issuer_der,
            public_key_der=signer.signer.public_key_der,
            algorithm_der=signer.signer.signature_algorithm_der,
            key_identifier=signer.key_identifier,
            number=extensions.number,
            base_number=extensions.base_number,
            this_update=head.this_update,
            next_update=head.next_update,
            longest_s=longest_validity(office.crl, office.issuer.profile),
            now=now,
            terms=terms,
            chunks=wanted.chunks,
            lookup=lambda serials: [place.text for place in office.store.locate(office.issuer.id, serials)],
            distribution_points=tuple(extensions.distribution_points),
            only_users=extensions.only_users,
            only_cas=extensions.only_cas,
            indirect=extensions.indirect,
            freshest=tuple(extensions.freshest),
            let_go=self._let_go,
        )
        before = office.published(wanted.slot)
        complete = office.published(wanted.complete) if wanted.base is not None else None
        is_foreign = before is None and wanted.base is None and office.foreign is not None and office.crl.shards == 1
        with contextlib.ExitStack() as opened:

            def read(published: Published | None) -> CRLFile | None:
                if published is None:
                    return None
                return opened.enter_context(CRLFile.open(office.depot.path(published)))

            previous = read(before)
            if is_foreign and office.foreign is not None:
                previous = opened.enter_context(CRLFile.open(office.foreign))
            check_before_publication(fresh, expected, previous=previous, base=read(complete), is_foreign=is_foreign)

    # --- other machines -----------------------------------------------------------------------------------------------

    def _share(self, published: Sequence[Published]) -> None:
        """Put them where other machines fetch them, before they are told of."""
        for one in published:
            assert one.next_update is not None  # noqa: S101 - ours have one
            path = self._office.depot.path(one)
            self._office.store.put_crl_body(one.ca_id, one.sha256, _pieces(path), one.next_update)

    def _drop_replaced(self, published: Sequence[Published]) -> None:
        """Make room; who is fetching one of those finds it gone, and fetches what took its place."""
        for one in published:
            with contextlib.suppress(ValueError, KeyError):
                before = Published.from_text(self._state.published[one.slot])
                if before.sha256 != one.sha256:
                    self._office.store.drop_crl_body(before.ca_id, before.sha256, before.size)


def _reasons(profile: str, scope: str) -> int:
    """Return the bits of the reasons that entries may have (Terms)."""
    if profile != "webpki":
        return ALL_REASONS
    # X.509 §9.5.3.1: cACompromise is for CA certificates, whose entries must tell the most appropriate reason (BR §7.2.2).
    return BASELINE_REASONS | (1 << CRLReason.CA_COMPROMISE if scope == "cas" else 0)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_OCTETS):
            yield piece
