"""Brings one whole reading of a source into the store, and judges how far the reading can be trusted.

What a row may do to a status is responder.revocation's business. Here: a reading that is not whole, or has just lost
rows, or ends a hold, must be found the same once more before it takes anything away; one that lists far too few takes
nothing away at all; ``as_of`` is written last, and only for a reading that is believed. Called by loaders/follow.py,
loaders/cli.py and, through the entry point ``revocast.services``, the quickstart. Times are POSIX seconds UTC.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loaders.base import Loader, LoaderOptions, Row, Snapshot, is_consistent, signal_of
from loaders.catch_up import CatchUp
from loaders.dry_run import dry
from loaders.duplicates import marked, without_duplicates, without_marked
from loaders.reading import MAX_KEPT_SERIALS, PassReport, Reading, refuse_holds
from loaders.registry import open_loader
from loaders.rejects import RejectsFile
from loaders.report import record_import
from loaders.spool import SPOOL_BITS, Spool, SpooledRow
from responder.audit_anchor import command_log
from responder.clock import Clock, SystemClock
from responder.config import Config, load_config
from responder.errors import LoadError, OperatorError
from responder.full_pass import PassTerms, apply_pass, map_buckets
from responder.issuers import Issuer, Issuers
from responder.log import get_logger
from responder.model import CertStatus, Status
from responder.revocation import apply
from responder.store.redis_store import Store
from responder.store.values import CAInfo

log = get_logger(__name__)

# Two readings this far apart that are the same are believed; a writer that was caught in between has moved on by then.
CONFIRM_AFTER_S = 0.5
MAX_READINGS = 4  # of one load whose source must be read twice the same; it may be written meanwhile
CLOCK_TOLERANCE_S = 2.0  # an as_of further ahead than that was written by a clock that was wrong

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


def is_ahead(as_of: float, clock: Clock, store: Store) -> bool:
    """Say whether an as_of lies ahead of our clock and of Redis's too: one alone may have been stepped back."""
    return as_of > max(clock.now(), store.time()) + CLOCK_TOLERANCE_S


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


class Stopped(Exception):
    """The process is to end; what was committed stands, and the next pass does the rest."""


class Runner:
    """The passes over one CA's source. Used by one thread; remembers the last reading in order to confirm it."""

    def __init__(
        self,
        store: Store,
        issuer: Issuer,
        loader: Loader,
        options: LoaderOptions,
        clock: Clock,
        spool_dir: Path,
        *,
        dry_run: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """``spool_dir`` is made if absent. ``is_stopped`` is asked often; once true, Stopped is raised."""
        self._store = dry(store) if dry_run else store
        self._issuer = issuer
        self._loader = loader
        self._options = options
        self._clock = clock
        self._spool_dir = spool_dir
        self._dry_run = dry_run
        self._is_stopped = is_stopped
        self._is_consistent = is_consistent(loader)
        issued = issuer.config.issued
        self._loaders = issuer.config.source.type + (f" with {issued.type}" if issued is not None else "")
        self._catch_up = CatchUp(store, issuer, loader, clock, self._go_on)
        self._rejects = RejectsFile(spool_dir.parent / "rejected" / f"{issuer.name}.jsonl")
        self._gone: frozenset[bytes] = frozenset()  # serials that the last pass over a consistent source lacked
        self._last: tuple[str, float] | None = None  # fingerprint of the last reading, and when it had ended
        self._applied: str | None = None  # fingerprint of the last reading that was settled

    def forget(self, *, cursor: bool = False) -> None:
        """Have the next pass compare everything: the store may have lost what it had; with ``cursor`` that too."""
        self._applied = None
        self._catch_up.forget(cursor=cursor)

    # --- changes ------------------------------------------------------------------------------------------------

    @property
    def has_cursor(self) -> bool:
        """True where the source told how far it was read, so that ``changes`` may be called."""
        return self._catch_up.cursor is not None

    @property
    def saved_cursor(self) -> str | None:
        """The cursor as ``Store.set_as_of`` takes it."""
        return self._catch_up.saved_cursor

    def resume(self, saved: str | None) -> None:
        """Go on from the cursor that the store had saved."""
        self._catch_up.resume(saved)

    def changes(self) -> PassReport:
        """Bring in what changed since the cursor. Writes neither as_of nor the cursor; raises as ``run``."""
        report = self._catch_up.run()
        self._presume(report.presumed, report, self._clock.now())
        try:
            self._rejects.add(report.errors)
        except OSError as error:
            raise OperatorError(f"{self._rejects.path}: cannot be written: {error.strerror}") from error
        if report.listed or report.rejected:
            record_import(report, self._loaders, self._options)
        return report

    # --- whole passes -------------------------------------------------------------------------------------------

    def run(self, progress: Progress = _silent, meanwhile: Callable[[], None] = lambda: None) -> PassReport:
        """Read the source once, and bring it in. ``meanwhile`` is called often, and may call ``changes``.

        Raises SourceUnavailable where it cannot be read or is not the CA's, StoreUnavailable where it is not known
        what of it is committed (the pass is to be done again), Stopped, and OperatorError where the disk is full.
        """
        started = self._clock.monotonic()
        snapshot = self._loader.snapshot()
        report = PassReport(self._issuer.name, snapshot.as_of, until=getattr(snapshot, "until", None))
        self._catch_up.begin_pass()
        try:
            self._spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Spool(self._spool_dir) as spool, _few_collections():
                if not self._dry_run:
                    self._rejects.begin()
                reading = self._read(snapshot, spool, report, progress, meanwhile)
                is_same = self._last is not None and self._last[0] == snapshot.fingerprint
                confirmed = is_same and self._last is not None and started - self._last[1] >= CONFIRM_AFTER_S
                if not is_same or confirmed:
                    self._last = (snapshot.fingerprint, self._clock.monotonic())
                report.cursor = getattr(snapshot, "cursor", "")
                self._bring_in(spool, reading, report, confirmed, snapshot.fingerprint, progress, meanwhile)
                self._rejects.finish()
                self._catch_up.start(report.cursor)
        except OSError as error:
            raise OperatorError(f"{self._spool_dir}: the rows of a load are put there: {error.strerror}") from error
        finally:
            self._rejects.abandon()
            snapshot.close()
            if not self._dry_run:
                record_import(report, self._loaders, self._options)
        return report

    # --- reading ------------------------------------------------------------------------------------------------

    def _read(
        self,
        snapshot: Snapshot,
        spool: Spool,
        report: PassReport,
        progress: Progress,
        meanwhile: Callable[[], None],
    ) -> Reading:
        reading = Reading()
        what, total = ("reading", snapshot.size) if snapshot.size else ("reading rows", self._rows_before())
        for batch in snapshot.batches():
            self._go_on()
            if self._issuer.profile == "webpki":
                refuse_holds(batch, self._loader.name)
            spool.add(batch.rows)
            if batch.released:
                spool.add(batch.released)
                reading.released.update(batch.released)
            if batch.issued:
                spool.add(marked(batch.issued))
                reading.issued = reading.issued or {}
            for row in batch.rejected:
                reading.take(row)
                self._reject(row, report)
            spool.add(reading.surplus())
            progress(what, batch.position, total)
            meanwhile()
        report.listed = spool.count
        report.counted = getattr(snapshot, "issued_rows", report.listed)
        report.whole, report.cut = snapshot.whole, getattr(snapshot, "cut", False)
        return reading

    def _rows_before(self) -> int:
        info = self._store.ca_info(self._issuer.id)
        return (info.loaded or 0) if info is not None else 0

    def _reject(self, error: LoadError, report: PassReport) -> None:
        report.reject(error)
        self._catch_up.is_news(error)
        if not self._dry_run:
            self._rejects.add([error])

    # --- bringing in --------------------------------------------------------------------------------------------

    def _bring_in(
        self,
        spool: Spool,
        reading: Reading,
        report: PassReport,
        confirmed: bool,
        fingerprint: str,
        progress: Progress,
        meanwhile: Callable[[], None],
    ) -> None:
        ca, now = self._issuer.id, self._clock.now()
        if self._dry_run:
            info = self._store.ca_info(ca)
        else:
            info = self._store.ensure_ca(
                ca,
                name=self._issuer.name,
                subject=self._issuer.subject_text,
                certificate=self._issuer.certificate_der,
            )
        # A source that listed something else before, the revoked alone, says nothing of how much there should be.
        before = info.loaded if info is not None and info.lists_issued == self._loader.lists_issued else None
        if before is not None and report.counted + reading.count < before * (1 - self._options.max_shrink):
            report.shrunk_from = before
            log.error("source_shrunk", ca=self._issuer.name, rows=report.counted, rows_before=before)
        if (
            confirmed
            and fingerprint == self._applied
            and report.shrunk_from is None
            and not report.cut
            and not self._gone
        ):
            report.skipped = True
            self._settle(report, info)
            return
        is_older = self._is_older(report, info)
        consistent = self._is_consistent and report.whole
        believed = (confirmed or consistent) and report.shrunk_from is None and not is_older and not report.cut
        ends_holds = self._loader.good_releases_hold and self._issuer.profile != "webpki"  # reading.refuse_holds
        sees_removals = believed and report.whole and self._loader.lists_issued and not reading.is_blind
        keeps_vanished = getattr(self._loader, "keeps_vanished", False)
        if keeps_vanished:
            sees_removals = False  # what is no longer in such a source was issued all the same
        # What the changes have brought in meanwhile is newer than this reading: its rows of those serials are passed over.
        # But where they only say that something was issued: then what else is said of it counts.
        touched, listed = self._catch_up.touched, self._catch_up.listed
        reading.kept |= touched | listed
        terms = PassTerms(
            now=now,
            retention_s=self._issuer.config.retention,
            good_releases_hold=ends_holds and believed,
            goods_say_issued=signal_of(self._loader) == "issued",
            releases_wait=not believed and not is_older and (ends_holds or bool(reading.released)),
            remove_vanished=sees_removals and confirmed,
            gone=self._gone if sees_removals else frozenset(),
            keep=reading.kept,
            let_go=self._let_go(),
        )
        buckets = map_buckets(self._store, ca, spool.count)
        bits = min(SPOOL_BITS, buckets.least_bits)
        releasing = believed and not self._loader.good_releases_hold
        groups = self._groups(spool, bits, reading, report, progress, releasing)
        for done in apply_pass(self._store, ca, buckets, groups, terms):
            report.done.add(done)
            self._go_on()
            meanwhile()
            reading.kept |= touched | listed
        for serial_octets in touched:
            reading.released.pop(serial_octets, None)
            reading.presumed.pop(serial_octets, None)
        self._gone = frozenset(report.done.vanished_serials if consistent and sees_removals else ())
        report.removes_next = bool(self._gone)
        if releasing:
            report.done.add(apply(self._store, ca, reading.released.items(), signal="release", now=now))
        if reading.issued:
            alone = [row for row in reading.issued.items() if row[0] not in touched]
            report.done.add(apply(self._store, ca, alone, signal="issued", now=now))
        self._presume(reading.presumed, report, now)
        if terms.goods_say_issued and terms.releases_wait:
            # Its good rows contradict no hold, so that none was counted.
            report.done.releases_waiting = self._holds_of(reading.released)
        is_open = (
            not report.whole or report.done.releases_waiting > 0 or (report.done.vanished > 0 and not keeps_vanished)
        )
        if report.shrunk_from is None and not report.cut and (believed or is_older or not is_open):
            self._applied = fingerprint
            self._settle(report, info)

    def _groups(
        self, spool: Spool, bits: int, reading: Reading, report: PassReport, progress: Progress, releasing: bool
    ) -> Iterator[tuple[int, int, Sequence[SpooledRow]]]:
        done = 0
        for number in range(1 << bits):
            self._go_on()
            rows = spool.group(number, bits)
            done += len(rows)
            if reading.issued is not None:
                rows, alone = without_marked(rows)
                reading.kept |= alone.keys()
                self._keep_issued(alone, reading.issued, report)
            unique, conflicts = without_duplicates(rows, self._loader.name, signal_of(self._loader))
            for conflict in conflicts:
                self._reject(conflict, report)
            if self._catch_up.touched:
                unique = [row for row in unique if row[1] not in self._catch_up.touched]
            if reading.released:
                for _, serial_octets, text in unique:
                    if text.startswith("revoked"):
                        reading.released.pop(serial_octets, None)
                if releasing:
                    # They are brought in as releases, behind the rows: as rows they would be refused first.
                    reading.kept |= reading.released.keys()
                    unique = [row for row in unique if row[1] not in reading.released]
            yield number, bits, unique
            progress("comparing", done, spool.count)

    def _keep_issued(self, alone: dict[bytes, str], issued: dict[bytes, str], report: PassReport) -> None:
        """Keep for the end of the pass what was issued, and nothing more is said of: as rows it would end holds."""
        if len(issued) + len(alone) <= MAX_KEPT_SERIALS:
            issued.update(alone)
        elif alone:
            reason = f"more than {MAX_KEPT_SERIALS} rows only say that something was issued: {len(alone)} are left out"
            self._reject(LoadError(self._loader.name, "", reason), report)

    def _holds_of(self, released: dict[bytes, str]) -> int:
        """Count the serials that a release would change."""
        places = self._store.locate(self._issuer.id, list(released))
        stored = [Status.from_text(place.text) for place in places if place.text is not None]
        return sum(1 for status in stored if status.is_hold and not status.by_operator)

    def _presume(self, presumed: dict[bytes, str], report: PassReport, now: float) -> None:
        """Revoke what surely is revoked, though nobody knows when or why, unless it is revoked already."""
        if not presumed:
            return
        serials = list(presumed)
        wanted: list[Row] = []
        for serial_octets, place in zip(serials, self._store.locate(self._issuer.id, serials), strict=True):
            status = Status.from_text(presumed[serial_octets])
            is_over = status.not_after is not None and status.not_after < now - self._issuer.config.retention
            if not is_over and (place.text is None or Status.from_text(place.text).cert_status is CertStatus.GOOD):
                wanted.append((serial_octets, presumed[serial_octets]))
        if self._dry_run:
            report.done.changes["revoked"] = report.done.changes.get("revoked", 0) + len(wanted)
        elif wanted:
            report.done.add(apply(self._store, self._issuer.id, wanted, signal="row", now=now))

    def _let_go(self) -> float:
        """Return before which second certificates must have expired to be on no CRL that is issued here."""
        crl = self._issuer.config.crl
        if crl is None or not crl.issue:
            return math.inf
        if crl.expired == "keep":
            return 0.0
        known = self._store.crl_state(self._issuer.id).all_let_go
        return math.inf if known is None else float(known)  # none was published: none has to list anything once more

    def _is_older(self, report: PassReport, before: CAInfo | None) -> bool:
        """Say whether a copy is older than what is stored: one that was put back says nothing of releases and removals.

        What it revokes is revoked. A live source is never older, whatever the clocks say.
        """
        return (
            not self._loader.follows_clock
            and before is not None
            and before.as_of is not None
            and report.as_of < before.as_of
            and not is_ahead(before.as_of, self._clock, self._store)
        )

    def _settle(self, report: PassReport, before: CAInfo | None) -> None:
        """Say as of when the source is known: after all its rows were committed, and never a step back.

        But for one that lies ahead, of a clock that was wrong: nothing would be signed until its time has come.
        """
        report.settled = True
        if self._dry_run:
            return
        if self._catch_up.touched:
            before = self._store.ca_info(self._issuer.id) or before  # the changes that came meanwhile may have moved it
        as_of_before = before.as_of if before is not None else None
        if (
            before is not None
            and as_of_before is not None
            and report.as_of < as_of_before
            and not is_ahead(as_of_before, self._clock, self._store)
        ):
            if not (self._is_consistent and self._loader.follows_clock):
                log.warning("source_older_than_before", ca=self._issuer.name, as_of=report.as_of, before=as_of_before)
            report.as_of, report.until = as_of_before, before.source_until
        self._catch_up.start(report.cursor)
        self._store.set_as_of(
            self._issuer.id,
            report.as_of,
            cursor=self.saved_cursor,
            loaded=report.counted,
            until=report.until,
            lists_issued=self._loader.lists_issued,
        )

    def _go_on(self) -> None:
        if self._is_stopped():
            raise Stopped


@contextmanager
def _few_collections() -> Iterator[None]:
    """Collect garbage seldom: a pass makes a million small values and no cycles, and looking for some costs a third."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


# --- one load ---------------------------------------------------------------------------------------------------------


def load_ca(
    store: Store,
    issuers: Issuers,
    issuer: Issuer,
    config: Config,
    config_file: Path,
    *,
    dry_run: bool = False,
    progress: Progress = _silent,
) -> PassReport:
    """Read one CA's source, and once more where only a second, equal reading may take something away.

    Raises ConfigError, SourceUnavailable, StoreUnavailable, OperatorError. Returns the last reading's report with the
    changes of all.
    """
    clock = SystemClock()
    loader, options = open_loader(issuers, issuer, str(config_file), clock)
    runner = Runner(store, issuer, loader, options, clock, config.data_dir / "spool", dry_run=dry_run)
    report = runner.run(progress)
    for _ in range(MAX_READINGS - 1):
        if not report.wants_confirmation and not report.removes_next:
            break
        time.sleep(CONFIRM_AFTER_S)
        before, report = report, runner.run(progress)
        if dry_run:
            continue  # nothing was written: the second reading finds all again
        for kind, count in before.done.changes.items():
            report.done.changes[kind] = report.done.changes.get(kind, 0) + count
    return report


def load_all(config_file: Path, progress: Callable[[int], None] = lambda done: None) -> PassReport:
    """Load every CA of a configuration once, into a Redis that runs; returns the last CA's report, rows of all.

    ``progress`` is told how many rows were compared. Raises as ``load_ca``. For the quickstart.
    """
    config = load_config(config_file)
    issuers = Issuers.from_config(config, str(config_file))
    rows = 0

    def told(what: str, done: int, _total: int) -> None:
        if what == "comparing":
            progress(rows + done)

    with Store.connect(config, "follow") as store, command_log(config, config_file, store):
        for issuer in issuers:
            report = load_ca(store, issuers, issuer, config, config_file, progress=told)
            rows += report.listed
    report.listed = rows
    return report
