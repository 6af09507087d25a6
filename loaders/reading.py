"""What a pass learns of a source beside its rows, and the report of what it did. Called by loaders/runner.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from loaders.base import Batch, Row, RowRejected
from responder.errors import LoadError
from responder.revocation import Report

KEPT_ERRORS = 1_000  # rejected rows that are named in a report; the others are counted
MAX_KEPT_SERIALS = 100_000  # serials of rejected rows that are held in memory; above it nothing is removed at all
_HOLD = " certificateHold"


@dataclass(slots=True)
class PassReport:
    """What one pass read and did."""

    ca: str
    as_of: float
    listed: int = 0  # rows that were understood
    counted: int = 0  # those that max_shrink is about
    rejected: int = 0
    errors: list[LoadError] = field(default_factory=list)  # the first KEPT_ERRORS of the rejected
    done: Report = field(default_factory=Report)
    whole: bool = True
    cut: bool = False  # the source lacks its end: what it has holds, but it is not known as of this reading
    shrunk_from: int | None = None  # rows of the last pass, where this one lists too few to be believed
    settled: bool = False  # as_of was moved to this reading's
    skipped: bool = False  # the same as the pass before, hence not compared with the store again
    until: float | None = None  # the source itself says that it holds no longer
    cursor: str = ""  # where changes go on after this pass
    removes_next: bool = False  # another reading of this consistent source would remove what both lack
    presumed: dict[bytes, str] = field(default_factory=dict)  # revoked for sure, but not known when or why

    def reject(self, error: LoadError) -> None:
        """Count an error, and keep it while there are few."""
        self.rejected += 1
        if len(self.errors) < KEPT_ERRORS:
            self.errors.append(error)

    @property
    def wants_confirmation(self) -> bool:
        """True where another, equal reading would do what this one left."""
        return not self.settled and self.shrunk_from is None and not self.cut

    @property
    def is_clean(self) -> bool:
        """True where the source was understood and believed as a whole, and nothing had to be refused."""
        return not self.rejected and not self.done.refused and self.settled


@dataclass(slots=True)
class Reading:
    """What a reading holds beside its rows."""

    released: dict[bytes, str] = field(default_factory=dict)  # unless another row says that it is revoked
    kept: set[bytes] = field(default_factory=set)
    presumed: dict[bytes, str] = field(default_factory=dict)
    issued: dict[bytes, str] | None = None  # of no other row; None: the source makes no such distinction
    is_blind: bool = False  # a row whose serial nobody knows: whatever is missing may be that row
    count: int = 0  # of rejected rows, which may list certificates too

    def take(self, row: RowRejected) -> None:
        self.count += 1
        if row.serial_octets is None or len(self.kept) >= MAX_KEPT_SERIALS:
            self.is_blind = True
        else:
            self.kept.add(row.serial_octets)
        if row.serial_octets is not None and row.presumed is not None:
            self.presumed[row.serial_octets] = row.presumed

    def surplus(self) -> list[Row]:
        """Return what is presumed where that is too much for memory: as rows, though their dates may replace better ones."""
        if len(self.presumed) <= MAX_KEPT_SERIALS:
            return []
        rows = list(self.presumed.items())
        self.presumed.clear()
        return rows


def refuse_holds(batch: Batch, source: str) -> None:
    """Make every hold of a batch a revocation for good, and report it.

    BR §4.9.13: there are no suspensions. We answer such a certificate as revoked for good and without a reason: good
    would be worse, and a hold could be released again. Nor is anything released that was held before the profile held: CRLs
    have said since that it is revoked, and may not take that back before it expires (§4.10.1, RFC 5280 §3.3).
    """
    for serial_octets, _ in batch.released:
        reason = "nothing is released in the profile webpki (BR §4.9.13, §4.10.1): if it was held, it stays revoked"
        batch.rejected.append(RowRejected(source, f"serial {serial_octets.hex()}", reason, serial_octets))
    batch.rows += batch.released  # a good row that ends no hold
    batch.released = []
    for at, (serial_octets, text) in enumerate(batch.rows):
        if _HOLD in text:
            batch.rows[at] = (serial_octets, text.replace(_HOLD, ""))
            reason = "certificateHold is not allowed in the profile webpki (BR §4.9.13): revoked for good"
            batch.rejected.append(RowRejected(source, f"serial {serial_octets.hex()}", reason, serial_octets))
