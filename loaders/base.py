"""The contract of a loader: how a CA's database is read. loaders/runner.py does the rest for all of them.

A loader only reads, and judges nothing: what may follow upon what is responder.revocation's business. It never writes
to its source. Each loader is used by one thread. ``peek`` and ``snapshot`` are all that one must have; one that also has
``changes`` is read by what changed, one that also has ``discover`` tells whose certificates its source holds. Called by
loaders/runner.py and loaders/follow.py's poll; tried by loaders/contract_suite.py; docs/loaders/writing-one.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from responder.clock import Clock
from responder.config import HOUR_S, Duration
from responder.errors import LoadError
from responder.issuers import Issuer
from responder.revocation import Signal

# A certificate's status as a source tells it: the serial's DER INTEGER contents octets and the text of
# ``responder.model.Status``. A plain tuple: a million are made in a load, and a tuple is the cheapest value there is.
Row = tuple[bytes, str]


class RowRejected(LoadError):
    """A row that cannot be understood, or not wholly.

    ``serial_octets`` is the row's serial where that much can be read: its certificate keeps the status that it has,
    and counts as listed. None: nobody knows whose row it is, so that nothing may be taken for vanished in this pass.
    ``presumed``: the row surely says "revoked", but not when or why; this text is stored unless the certificate is
    revoked already, since good would be worse.
    """

    def __init__(
        self,
        source: str,
        row: str,
        reason: str,
        serial_octets: bytes | None = None,
        presumed: str | None = None,
    ) -> None:
        super().__init__(source, row, reason)
        self.serial_octets = serial_octets
        self.presumed = presumed


@dataclass(slots=True)
class Batch:
    """Some thousand rows of a snapshot. ``position`` of ``Snapshot.size`` was read when it was made.

    ``released`` are explicit releases from hold with the status that holds now, such as a row marked removeFromCRL.
    ``issued`` say that a certificate was issued, and nothing of revocations, such as a precertificate's row: they count
    where no other row of the reading speaks of the serial.
    """

    rows: list[Row]
    released: list[Row] = field(default_factory=list)
    rejected: list[RowRejected] = field(default_factory=list)
    position: int = 0
    issued: list[Row] = field(default_factory=list)


class Snapshot(Protocol):
    """One whole reading of a source. Read ``batches`` to its end once; the rest is known only then.

    A snapshot of a loader that has ``changes`` also has ``cursor: str``, as in ``Changes``. One that says itself until
    when it holds, as a CRL does, also has ``until: float`` (POSIX seconds): no answer is made to last longer. One of two
    sources also has ``issued_rows: int``, those of its list of the issued, which alone are counted for max_shrink. One whose
    source turns out to lack its end has ``cut`` true besides ``whole`` false: as_of stays until that is mended.
    """

    as_of: float  # POSIX seconds: the moment before the reading began, or a copy's own time; known at once
    size: int  # octets that ``Batch.position`` counts up to; 0: it counts rows, and nobody knows how many there are
    fingerprint: str  # names what was read: two snapshots with the same fingerprint hold the same rows
    whole: bool  # False: the source was changing or breaks off; its rows hold, what is not in it says nothing

    def batches(self) -> Iterator[Batch]:
        """Yield everything that was read; raises SourceUnavailable where the source is not the CA's, or breaks."""
        ...

    def close(self) -> None:
        """Let go of the source, also in mid-reading."""
        ...


class Changes(Protocol):
    """The rows that a source changed since a cursor. Read ``batches`` to its end once; ``cursor`` is known only then.

    It may have ``until``, as a Snapshot. One that has ``wants_pass`` true asks for a whole pass, before which as_of stays.
    """

    as_of: float  # POSIX seconds: the moment before the reading began
    cursor: str  # where the next reading goes on; opaque to all but the loader

    def batches(self) -> Iterator[Batch]:
        """Yield what changed, and what lies in the overlap once more, in the order of the changes."""
        ...

    def close(self) -> None:
        """Let go of the source, also in mid-reading."""
        ...


class Rows:
    """A ready-made Snapshot and Changes over an iterator of batches: all that a simple loader needs.

    The fingerprint is made from the rows, in their order. ``cursor`` is asked for when the batches have ended.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        as_of: float,
        *,
        size: int = 0,
        cursor: Callable[[], str] = lambda: "",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``batches`` may raise SourceUnavailable. Where it is a generator it is closed before ``close`` is called."""
        self._batches = iter(batches)
        self._cursor = cursor
        self._close = close
        self.as_of = as_of
        self.size = size
        self.fingerprint = ""
        self.whole = False
        self.cursor = ""

    def batches(self) -> Iterator[Batch]:
        """Yield the batches as they are."""
        digest, count = hashlib.sha256(), 0
        for batch in self._batches:
            count += len(batch.rows)
            if not self.size:
                batch.position = count
            digest.update(
                repr((batch.rows, batch.released, [str(row) for row in batch.rejected], batch.issued)).encode()
            )
            yield batch
        self.fingerprint, self.cursor, self.whole = digest.hexdigest(), self._cursor(), True

    def close(self) -> None:
        """Let go of the source."""
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._close()


@dataclass(frozen=True, slots=True)
class FoundIssuer:
    """An issuer that a source holds. ``certificate_der`` None: the source names it, but has not its certificate.

    Then ``issued_der``, a certificate that it issued, shows by its signature which of the configured CAs it is.
    """

    name: str  # as the source calls it: a subject, a label
    certificate_der: bytes | None = None
    rows: int | None = None  # certificates of it in the source, where that is known
    issued_der: bytes | None = None


class LoaderOptions(BaseModel):
    """The keys of ``source`` that every loader knows; each adds its own. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    max_shrink: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Share of the certificates that may vanish from the source at once; above it nothing is removed, with an alarm. 1 allows all.",
    )
    poll: Duration | None = Field(
        None,
        description="How often the source is looked at for changes; absent: twice a second, a database each second.",
    )
    reconcile: Duration = Field(
        HOUR_S,
        ge=1,
        description="How often the whole source is read and compared, although nothing seems to have changed.",
    )
    compare: Duration | None = Field(
        None,
        ge=1,
        description="How often `revocast follow` compares the source with Redis, answers and CRLs, as `revocast reconcile` does; its result is in the metrics. Absent: never.",
    )

    @property
    def shared_key(self) -> str | None:
        """Name of the source, where two CAs (generations of one) may share it; None: never."""
        return None


class Loader(Protocol):
    """Reads one source for one CA. Every method raises SourceUnavailable where the source cannot be read at all."""

    Options: ClassVar[type[LoaderOptions]]
    name: str  # the source, as reports and errors call it
    lists_issued: bool  # True: a serial that it does not list was not issued
    good_releases_hold: (
        bool  # True: a good row states the status now, and so ends a hold; False: only ``released`` does
    )
    follows_clock: bool  # True: the source is live, so that an unchanged one is known as of now; False: a dated copy

    def peek(self) -> str:
        """Return a cheap fingerprint; the source has not changed while it stays the same."""
        ...

    def snapshot(self) -> Snapshot:
        """Start one whole reading."""
        ...


@runtime_checkable
class Incremental(Protocol):
    """What a loader has besides where its source tells what changed.

    Then ``peek`` is not asked: each poll reads the changes. Every reading is one consistent view of a live source (one
    transaction), and a row states the status now: nothing waits for a second, equal reading but removals. Those are
    found by the whole passes alone.
    """

    def changes(self, cursor: str) -> Changes:
        """Start to read what changed since ``cursor``, less an overlap for clocks and transactions that differ.

        Raises SourceUnavailable, and CursorLost where the cursor says nothing to it: then the whole source is read.
        """
        ...


@runtime_checkable
class Discovering(Protocol):
    """What a loader has besides where its source can say whose certificates it holds.

    One whose source cannot, or cannot always, says why in a text ``no_issuers``: half a sentence, for an operator.
    """

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the issuers that the source holds, configured or not; raises SourceUnavailable. May read the whole source."""
        ...


class CursorLost(Exception):
    """A cursor of another source, or of an older version: only a whole pass says what changed since."""


def is_consistent(loader: Loader) -> bool:
    """Say whether each reading is one consistent view of a live source, as of every Incremental loader.

    Others say it with an attribute ``consistent = True``, and one whose changes are only a part of it with False.
    """
    return bool(getattr(loader, "consistent", isinstance(loader, Incremental)))


def signal_of(loader: Loader) -> Signal:
    """Return what a good row of a believed reading states (responder.revocation).

    A loader whose good rows only say that a certificate was issued has an attribute ``goods_say_issued = True``.
    """
    if getattr(loader, "goods_say_issued", False):
        return "issued"
    return "release" if loader.good_releases_hold else "row"


# How the registry makes a loader: its checked options, its CA, the other CAs that share the source, and the time.
LoaderFactory = Callable[[LoaderOptions, Issuer, Sequence[Issuer], Clock], Loader]
