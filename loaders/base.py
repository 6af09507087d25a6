"""The contract of a loader: how a CA's database is read. loaders/runner.py does the rest for all of them.

A loader only reads, and judges nothing: what may follow upon what is responder.revocation's business. It never writes
to its source. Each loader is used by one thread. Called by loaders/runner.py and loaders/follow.py's poll.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from responder.clock import Clock
from responder.errors import LoadError
from responder.issuers import Issuer

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
    """

    rows: list[Row]
    released: list[Row] = field(default_factory=list)
    rejected: list[RowRejected] = field(default_factory=list)
    position: int = 0


class Snapshot(Protocol):
    """One whole reading of a source. Read ``batches`` to its end once; the rest is known only then."""

    as_of: float  # POSIX seconds: the moment before the reading began, or a copy's own time; known at once
    size: int  # what ``Batch.position`` counts up to; for a progress bar; known at once
    fingerprint: str  # names what was read: two snapshots with the same fingerprint hold the same rows
    whole: bool  # False: the source was changing or breaks off; its rows hold, what is not in it says nothing

    def batches(self) -> Iterator[Batch]:
        """Yield everything that was read; raises SourceUnavailable where the source is not the CA's, or breaks."""
        ...

    def close(self) -> None:
        """Let go of the source, also in mid-reading."""
        ...


class LoaderOptions(BaseModel):
    """The keys of ``source`` that every loader knows; each adds its own. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    max_shrink: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Share of the certificates that may vanish from the source at once; above it nothing is removed, with an alarm. 1 allows all.",
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


# How the registry makes a loader: its checked options, its CA, the other CAs that share the source, and the time.
LoaderFactory = Callable[[LoaderOptions, Issuer, Sequence[Issuer], Clock], Loader]
