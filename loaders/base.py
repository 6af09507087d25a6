"""The contract of a loader: how a CA's database is read. loaders/runner.py does the rest for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from responder.errors import LoadError


@dataclass(frozen=True, slots=True)
class Row:
    """One certificate's status as a source tells it.

    ``status_text`` is ``responder.model.Status.to_text()``, or None for an explicit release from hold whose
    certificate is good again with ``release_not_after``. A plain NamedTuple-like value: a million are made per load.
    """

    serial_octets: bytes
    status_text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One whole reading of a source.

    ``as_of`` is the moment before the reading began (POSIX seconds), a copy's own time where it is a copy; ``rows``
    yields rows and, for those that cannot be understood, LoadError values (never raises one). ``fingerprint`` names
    the state that was read: two snapshots with the same fingerprint hold the same rows.
    """

    as_of: float
    fingerprint: str
    rows: Iterator[Row | LoadError]


class Loader(Protocol):
    """Reads one source for one CA. Raises SourceUnavailable where the source cannot be read at all."""

    lists_issued: bool  # True: a serial that it does not list was not issued

    def peek(self) -> str:
        """Return a cheap fingerprint; the source has not changed while it stays the same."""
        ...

    def snapshot(self) -> Snapshot:
        """Start one whole reading."""
        ...
