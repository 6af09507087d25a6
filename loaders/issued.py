"""Two sources of one CA: its CRLs tell what is revoked, a list beside them what was issued (docs/adr/0019).

Made of two loaders, neither of which knows of the other. What the list says of a certificate is that it was issued, and
never that it is not revoked: so an answer is known as of the CRL. Told by changes as well as by whole passes, so that what a
new CRL revokes does not wait until a list of millions is read. Made by loaders/registry.py, read by loaders/runner.py. Times
are POSIX seconds UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import ClassVar

from loaders.base import (
    Batch,
    Changes,
    CursorLost,
    Incremental,
    Loader,
    LoaderOptions,
    Row,
    Snapshot,
    is_consistent,
)
from responder.clock import Clock
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.log import get_logger
from responder.metrics import SOURCE_ERRORS

log = get_logger(__name__)

CURSOR_VERSION = "1"
AFTER_FAILURE_S = 60  # until a list that is asked for changes is asked again: each try may wait for seconds
MAX_CHANGED_ROWS = (
    100_000  # of a new CRL that are brought in at once; a larger one waits for the whole pass, in flat memory
)


class WithIssuedList:
    """Reads a CA's CRLs and the list of what it issued, for one CA."""

    Options: ClassVar[type[LoaderOptions]] = LoaderOptions
    lists_issued = True
    good_releases_hold = False
    goods_say_issued = True
    follows_clock = False  # an answer is as old as the CRL

    def __init__(
        self, revoked: Loader, issued: Loader, issued_options: LoaderOptions, issuer: Issuer, clock: Clock
    ) -> None:
        """``revoked`` names in each snapshot's ``fingerprint``, at once, what it will read, as the loader ``crl`` does."""
        self.revoked, self.issued = revoked, issued
        self.name = f"{revoked.name} with {issued.name}"
        self.consistent = is_consistent(revoked) and is_consistent(issued)
        self.keeps_vanished = bool(getattr(issued, "keeps_vanished", False))
        self._issuer = issuer
        self._clock = clock
        self._poll_s = float(issued_options.poll or 0)
        self._next_look_at = float("-inf")
        # Only where "was not issued" is signed, and so has a date, does it matter as of when the list is known.
        self._says_not_issued = issuer.config.ocsp.unassigned != "unauthorized"
        self._listed_as_of = float("-inf")
        self._problem: str | None = None

    def peek(self) -> str:
        """Return the state of both; raises SourceUnavailable."""
        return f"{self.revoked.peek()} {self.issued.peek()}"

    def snapshot(self) -> Both:
        """Read both; raises SourceUnavailable where either is out of reach."""
        revoked = self.revoked.snapshot()
        try:
            state = "" if isinstance(self.issued, Incremental) else self.issued.peek()
            issued = self.issued.snapshot()
        except BaseException:
            revoked.close()
            raise
        return Both(self, revoked, issued, state)

    def changes(self, cursor: str) -> BothChanges:
        """Read a CRL that was not read yet, and what the list says of changes; without the list the CRL alone.

        Raises SourceUnavailable where there is no CRL.
        """
        version, _, rest = cursor.partition(":")
        read, _, state = rest.partition(":")
        if version != CURSOR_VERSION:
            raise CursorLost
        revoked, listed, looked_at = self.revoked.snapshot(), None, self._clock.now()
        wants_pass = False
        now = self._clock.monotonic()
        if now >= self._next_look_at:
            self._next_look_at = now + self._poll_s
            try:
                if isinstance(self.issued, Incremental):
                    listed = self.issued.changes(state)
                else:
                    before, state = state, self.issued.peek()
                    wants_pass = state != before
                    if self.issued.follows_clock and not wants_pass:
                        self.note_list(looked_at)
            except SourceUnavailable as error:
                self.tell(error)
            except BaseException:
                revoked.close()
                raise
        return BothChanges(self, revoked, read, listed, state, wants_pass)

    def as_of(self, crl_time: float, listed_as_of: float | None = None) -> float:
        """Return as of when both together are known; without ``listed_as_of`` by the list that was last read to its end."""
        if not self._says_not_issued:
            return crl_time
        return min(crl_time, self._listed_as_of if listed_as_of is None else listed_as_of)

    def note_list(self, as_of: float) -> None:
        """Note that the list was read to its end, and as of when it is known."""
        self._listed_as_of, self._problem = as_of, None

    def tell(self, error: SourceUnavailable) -> None:
        """Raise the alarm, once for each problem, since the CRL is followed without the list; a database is left alone then."""
        if isinstance(self.issued, Incremental):
            self._next_look_at = self._clock.monotonic() + AFTER_FAILURE_S
        if str(error) != self._problem:
            self._problem = str(error)
            SOURCE_ERRORS.labels(self._issuer.name).inc()
            log.error("source_unavailable", ca=self._issuer.name, error=str(error))


class Both:
    """One whole reading: the CRL's rows first."""

    def __init__(self, loader: WithIssuedList, revoked: Snapshot, issued: Snapshot, state: str) -> None:
        self._loader = loader
        self._revoked, self._issued = revoked, issued
        self._state = state
        self.as_of = loader.as_of(revoked.as_of, issued.as_of)
        self.until: float | None = getattr(revoked, "until", None)
        self.size = 0
        self.fingerprint = ""
        self.whole = False
        self.cut = False
        self.cursor = ""
        self.issued_rows = 0

    def batches(self) -> Iterator[Batch]:
        """Yield the revoked, then the issued; raises SourceUnavailable.

        A release counts for what is on the list alone: it is no word on what was issued.
        """
        released: set[bytes] = set()
        count = 0
        for batch in self._revoked.batches():
            released.update(serial_octets for serial_octets, _ in batch.released)
            count += len(batch.rows)
            yield Batch(batch.rows, rejected=batch.rejected, position=count)
        for batch in self._issued.batches():
            issued = _as_list(batch)
            self.issued_rows += len(issued.rows)
            if released:
                issued.released = [row for row in issued.rows if row[0] in released and row[1].startswith("good")]
                if issued.released:
                    ended = {serial_octets for serial_octets, _ in issued.released}
                    issued.rows = [row for row in issued.rows if row[0] not in ended or row[1].startswith("revoked")]
            issued.position = count + self.issued_rows
            yield issued
        both = f"{self._revoked.fingerprint} {self._issued.fingerprint}"
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()
        self.whole = self._revoked.whole and self._issued.whole
        self.cut = bool(getattr(self._issued, "cut", False))
        if not self.cut:
            self._loader.note_list(self._issued.as_of)
        self.cursor = _cursor(self._revoked.fingerprint, getattr(self._issued, "cursor", "") or self._state)

    def close(self) -> None:
        """Let go of both."""
        self._revoked.close()
        self._issued.close()


class BothChanges:
    """What a new CRL revokes, and what the list says of changes. ``wants_pass``: a whole pass has to bring in the rest."""

    def __init__(
        self,
        loader: WithIssuedList,
        revoked: Snapshot,
        read: str,
        listed: Changes | None,
        state: str,
        wants_pass: bool,
    ) -> None:
        self._loader = loader
        self._revoked = revoked
        self._read = read
        self._listed = listed
        self._state = state
        self.wants_pass = wants_pass
        self.as_of = loader.as_of(revoked.as_of)
        self.until: float | None = getattr(revoked, "until", None)
        self.cursor = ""

    def batches(self) -> Iterator[Batch]:
        """Yield what changed; raises SourceUnavailable where the CRL cannot be read to its end."""
        if self._revoked.fingerprint != self._read:
            count = 0
            for batch in self._revoked.batches():
                count += len(batch.rows)
                # What is released has to be looked for on the list.
                self.wants_pass = self.wants_pass or bool(batch.released) or count > MAX_CHANGED_ROWS
                if count > MAX_CHANGED_ROWS:
                    break
                yield Batch(batch.rows, rejected=batch.rejected)
        if self._listed is not None:
            try:
                for batch in self._listed.batches():
                    yield _as_list(batch)
            except SourceUnavailable as error:
                self._loader.tell(error)
            else:
                self._state = self._listed.cursor
                self._loader.note_list(self._listed.as_of)
                self.as_of = self._loader.as_of(self._revoked.as_of)
        self.cursor = _cursor(self._revoked.fingerprint, self._state)

    def close(self) -> None:
        """Let go of both."""
        self._revoked.close()
        if self._listed is not None:
            self._listed.close()


def _cursor(read: str, state: str) -> str:
    return f"{CURSOR_VERSION}:{read}:{state}"


def _as_list(batch: Batch) -> Batch:
    """Return a batch as a list of the issued: that a hold is over is for the CRL to say."""
    rows: list[Row] = [*batch.issued, *batch.rows, *batch.released] if batch.released or batch.issued else batch.rows
    return Batch(rows, rejected=batch.rejected)
