"""Brings in what an Incremental source changed since its cursor, between the whole passes. Called by loaders/runner.py.

Rows go the same way as an operator's word: ``revocation.apply``. The cursor belongs to what was committed: it is saved
together with as_of in one write after the rows, never before. What lies in the overlap comes again with each reading;
what was applied already is not applied again. Times are POSIX seconds UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from loaders.base import Batch, CursorLost, Incremental, Loader, Row, signal_of
from loaders.duplicates import without_duplicates
from loaders.reading import PassReport, Reading, refuse_holds
from responder.clock import Clock, format_utc
from responder.errors import LoadError
from responder.issuers import Issuer
from responder.revocation import Signal, apply
from responder.store.redis_store import Store

MAX_SEEN = 200_000  # rows of the overlap that are remembered as applied, some 30 MB; above it they are applied again

MAX_GOOD = 20_000  # good rows of one reading that wait for its end


class CatchUp:
    """The changes of one CA's source. Used by one thread."""

    def __init__(
        self, store: Store, issuer: Issuer, loader: Loader, clock: Clock, go_on: Callable[[], None] = lambda: None
    ) -> None:
        """``go_on`` is called between batches, and may raise to end the reading."""
        self._store = store
        self._issuer = issuer
        self._loader = loader
        self._clock = clock
        self._go_on = go_on
        self._tag = hashlib.sha256(f"{issuer.config.source.type} {loader.name}".encode()).hexdigest()[:8]
        self._seen: dict[bytes, str] = {}
        self._complained: set[str] = set()
        self._good: dict[bytes, str] = {}  # of one reading: good rows that wait for its end
        self._issued: dict[bytes, str] = {}  # likewise, those that say no more
        self._not_good: set[bytes] = set()  # serials of its other rows
        self.cursor: str | None = None
        self.touched: set[bytes] = set()  # serials that were brought in since the last whole pass began
        self.listed: set[bytes] = set()  # likewise, but of which no more is known than that they were issued

    @property
    def saved_cursor(self) -> str | None:
        """The cursor as the store keeps it: with the mark of its source."""
        return None if self.cursor is None else f"{self._tag} {self.cursor}"

    def resume(self, saved: str | None) -> None:
        """Go on where the store says; a cursor of another source says nothing."""
        tag, _, cursor = (saved or "").partition(" ")
        if tag == self._tag and cursor and isinstance(self._loader, Incremental):
            self.cursor = cursor

    def start(self, cursor: str) -> None:
        """Go on where a whole pass, now brought in, tells; the cursor of changes that came since is further on."""
        if self.cursor is None and cursor and isinstance(self._loader, Incremental):
            self.cursor = cursor

    def forget(self, *, cursor: bool) -> None:
        """Apply all rows of the overlap again; with ``cursor`` only a whole pass says where to go on."""
        self._seen.clear()
        if cursor:
            self.cursor = None

    def begin_pass(self) -> None:
        """Have a whole pass begin: from now on its serials are ``touched`` and its errors news."""
        self.touched.clear()
        self.listed.clear()
        self._complained.clear()

    def is_news(self, error: LoadError) -> bool:
        """Say whether an error was not told since the last whole pass began: the overlap brings it again and again."""
        text = str(error)
        if text in self._complained or len(self._complained) >= MAX_SEEN:
            return False
        self._complained.add(text)
        return True

    def run(self) -> PassReport:
        """Bring in what changed since the cursor; returns what was done, with as_of of the reading.

        Saves neither as_of nor the cursor: whoever knows that nothing before is missing does. Raises SourceUnavailable,
        StoreUnavailable; then the cursor stays, and the next run reads the same again.
        """
        assert self.cursor is not None  # noqa: S101 - the callers have looked
        assert isinstance(self._loader, Incremental)  # noqa: S101 - else there is no cursor
        try:
            changes = self._loader.changes(self.cursor)
        except CursorLost:
            self.forget(cursor=True)
            return PassReport(self._issuer.name, self._clock.now(), whole=False)
        report, reading = PassReport(self._issuer.name, changes.as_of), Reading()
        report.until = getattr(changes, "until", None)
        self._good.clear()
        self._issued.clear()
        self._not_good.clear()
        try:
            for batch in changes.batches():
                self._go_on()
                if self._issuer.profile == "webpki":
                    refuse_holds(batch, self._loader.name)
                self._take(batch, report, reading)
            self._take_good(report)
            self.cursor = changes.cursor
        finally:
            changes.close()
        report.presumed, report.as_of = reading.presumed, changes.as_of
        report.settled, report.whole = True, not getattr(changes, "wants_pass", False)
        return report

    def _take(self, batch: Batch, report: PassReport, reading: Reading) -> None:
        now = self._clock.now()
        rows, conflicts = without_duplicates(
            [(b"", *row) for row in batch.rows], self._loader.name, signal_of(self._loader)
        )
        for error in [*conflicts, *batch.rejected]:
            if self.is_news(error):
                report.reject(error)
        for rejected in batch.rejected:
            reading.take(rejected)
        expired_before = format_utc(max(0.0, now - self._issuer.config.retention))
        fresh: list[Row] = []
        for _, serial_octets, text in rows:
            at = text.find("exp=")
            if at >= 0 and text[at + 4 : at + 24] < expired_before:
                report.done.expired += 1  # nobody keeps it; what the store has of it goes with the next whole pass
            elif text.startswith("good"):
                if self._seen.get(serial_octets) != text:
                    self._good[serial_octets] = text
            else:
                self._not_good.add(serial_octets)
                if self._seen.get(serial_octets) != text:
                    fresh.append((serial_octets, text))
        self._issued.update(row for row in batch.issued if self._seen.get(row[0]) != row[1])
        released = [row for row in batch.released if self._seen.get(row[0]) != row[1]]
        self._apply(fresh, "row", report)
        self._apply(released, "release", report)
        if len(self._good) + len(self._issued) > MAX_GOOD:
            self._take_good(report)

    def _take_good(self, report: PassReport) -> None:
        """Bring in the good rows, of whose certificates no other row of this reading says something worse.

        They wait for its end: two tables may speak of one certificate, and good must not stand until the second comes.
        """
        rows = [row for row in self._good.items() if row[0] not in self._not_good]
        signal = signal_of(self._loader)
        # reading.refuse_holds: nothing is released under webpki.
        self._apply(rows, "row" if signal == "release" and self._issuer.profile == "webpki" else signal, report)
        issued = [row for row in self._issued.items() if row[0] not in self._not_good and row[0] not in self._good]
        self._apply(issued, "issued", report)
        self._good.clear()
        self._issued.clear()

    def _apply(self, rows: list[Row], signal: Signal, report: PassReport) -> None:
        if not rows:
            return
        report.done.add(apply(self._store, self._issuer.id, rows, signal=signal, now=self._clock.now()))
        if len(self._seen) + len(rows) > MAX_SEEN:
            self._seen.clear()
        touched = self.listed if signal == "issued" else self.touched
        for serial_octets, text in rows:
            self._seen[serial_octets] = text
            touched.add(serial_octets)
        report.listed += len(rows)
