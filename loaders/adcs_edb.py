"""Reads the database file of AD CS, ``<CA>.edb`` (docs/loaders/adcs.md), through dissect.esedb.

Its tables Requests and Certificates are both ordered by RequestID, and are read side by side in constant memory. Dates are
FILETIMEs (100 ns since 1601, UTC), whatever the catalog calls them. Log files are not replayed by anyone here: a database
that was not shut down cleanly is refused. Called by loaders/adcs.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from dissect.esedb import EseDB
from dissect.esedb.c_esedb import TAG_FLAG
from dissect.esedb.exceptions import KeyNotFoundError
from dissect.esedb.record import Record

from loaders.adcs_rows import REVOKED, AdcsRow
from loaders.entries import Doubts
from responder.errors import SourceUnavailable

MAGIC = b"\xef\xcd\xab\x89"  # at offset 4
CLEAN_SHUTDOWN = 3
_FILETIME_EPOCH_S = 11_644_473_600  # from 1601 to 1970
_TICKS_A_SECOND = 10_000_000

# Pages fetched for one row, or for the catalog: pages that form a ring, in a damaged file, would never end.
MAX_PAGES_A_ROW = 100_000

DIRTY = (
    "was not shut down cleanly (state {state}): the newest transactions are in log files that only Windows can replay. "
    "Run `esentutl /r edb` in the folder of the copy and its logs, or copy with `esentutl /y … /vssrec`"
)


def seconds_from_filetime(ticks: int) -> int:
    """Return the POSIX seconds of a FILETIME, the fraction cut off."""
    return ticks // _TICKS_A_SECOND - _FILETIME_EPOCH_S


def ticks_from_seconds(seconds: int) -> int:
    """Return the FILETIME of POSIX seconds."""
    return (seconds + _FILETIME_EPOCH_S) * _TICKS_A_SECOND


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn whatever dissect.esedb raises within a damaged file into a SourceUnavailable."""
    try:
        yield
    except (SourceUnavailable, GeneratorExit):
        raise
    except OSError as error:
        raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        # The library checks little, and a damaged page ends in any kind of error.
        said = " ".join(str(error).split())[:200]
        raise SourceUnavailable(f"{path}: the database is damaged: {type(error).__name__}: {said}") from error


class _BoundedDatabase(EseDB):  # type: ignore[misc]  # the library has no types
    """Counts the pages that it fetches, and gives up where they are far too many."""

    def __init__(self, file: BinaryIO) -> None:
        self.fetched = 0
        super().__init__(file)
        cached = self.page  # an instance attribute by now

        def page(number: int) -> Any:
            self._count()
            return cached(number)

        setattr(self, "page", page)  # noqa: B010 - as the library itself does

    def page(self, number: int) -> Any:
        """Return a page; only the catalog is read by this, everything else through the cache."""
        self._count()
        return super().page(number)

    def _count(self) -> None:
        self.fetched += 1
        if self.fetched > MAX_PAGES_A_ROW:
            raise ValueError("its pages form a ring")


class AdcsDatabase:
    """One open .edb. ``consistent_at``: when it was shut down cleanly, in POSIX seconds; None where that is not told."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Take the open file; raises SourceUnavailable for one that is dirty, damaged, or no CA's."""
        self._path = path
        with damage_told(path):
            self._database = _BoundedDatabase(file)
            state = self._database.header.dbstate
            if state != CLEAN_SHUTDOWN:
                raise SourceUnavailable(f"{path}: " + DIRTY.format(state=int(state)))
            size, page_size = file.seek(0, io.SEEK_END), int(self._database.page_size)
            if size % page_size:
                raise SourceUnavailable(f"{path}: {size} octets are no whole number of pages: the copy is not complete")
            self.consistent_at = _log_time(self._database.header.logtimeConsistent)
            try:
                self._requests = self._database.table("Requests")
                self._certificates = self._database.table("Certificates")
            except KeyError as error:
                raise SourceUnavailable(f"{path}: an ESE database, but not of a CA: {error.args[0]}") from error
        self.position = 0  # RequestID of the last row

    def rows(self) -> Iterator[AdcsRow]:
        """Yield every request that has, or might have, a certificate; raises SourceUnavailable where it is damaged."""
        with damage_told(self._path):
            certificates = _ordered(self._certificates, self._path)
            at, record = next(certificates, (None, None))
            for request_id, request in _ordered(self._requests, self._path):
                self.position = request_id
                self._database.fetched = 0
                while at is not None and at < request_id:
                    at, record = next(certificates, (None, None))
                yield self._row(request_id, request, record if at == request_id else None)

    def changed(self, request_id: int, resolved_at: int, also: frozenset[int]) -> Iterator[AdcsRow]:
        """Yield, through the database's own indexes, what may be other than it was; raises SourceUnavailable.

        That is: requests after ``request_id``; those resolved at ``resolved_at`` (POSIX seconds) or later, since a
        pending one is issued under its old number; all that are revoked now, since a revocation may be dated back; and
        ``also``, those that were revoked before.
        """
        with damage_told(self._path):
            wanted = set(also)
            cursor = self._requests.index("RequestReqIdIndex").cursor()
            cursor.seek(RequestID=request_id + 1)
            wanted.update(self._ids(cursor))
            cursor = self._requests.index("RequestResolvedWhenIndex").cursor()
            cursor.seek(ResolvedWhen=ticks_from_seconds(resolved_at))
            wanted.update(self._ids(cursor))
            wanted.update(self.revoked_ids())
            for one in sorted(wanted):
                self._database.fetched = 0
                request = self._find(self._requests, "RequestReqIdIndex", one)
                if request is not None:
                    certificate = self._find(self._certificates, "CertificateReqIdIndex", one)
                    yield self._row(one, request, certificate)

    def revoked_ids(self) -> frozenset[int]:
        """Return the RequestIDs of all that is revoked, by the index of dispositions; raises SourceUnavailable."""
        with damage_told(self._path):
            try:
                return frozenset(
                    self._ids(self._requests.index("RequestDispositionIndex").cursor().find_all(Disposition=REVOKED))
                )
            except KeyNotFoundError:
                return frozenset()

    def last_resolved(self) -> int:
        """Return when the latest request was resolved, POSIX seconds; 0 where none was. Raises SourceUnavailable."""
        with damage_told(self._path):
            cursor = self._requests.index("RequestResolvedWhenIndex").cursor()
            cursor.seek(ResolvedWhen=(1 << 63) - 1)
            ticks = cursor.record().get("ResolvedWhen")
            return seconds_from_filetime(ticks) if ticks else 0

    def _ids(self, records: Iterable[Any]) -> Iterator[int]:
        """Yield RequestIDs; raises ValueError where there are more than requests: pages that form a ring never end."""
        most = self.last_request_id() + 1
        for count, record in enumerate(records):
            self._database.fetched = 0
            if count > most:
                raise ValueError("an index without end")
            found = record.get("RequestID")
            if not isinstance(found, int):
                raise ValueError("a request without RequestID")
            yield found

    @staticmethod
    def _find(table: Any, index: str, request_id: int) -> Any:
        try:
            return table.index(index).search(RequestID=request_id)
        except KeyNotFoundError:
            return None

    def last_request_id(self) -> int:
        """Return the highest RequestID, 0 where there is none."""
        with damage_told(self._path):
            page = self._requests.root
            while page.is_branch:
                page = self._database.page(page.node(page.node_count - 1).child)
            if not page.node_count:
                return 0
            return int(Record(self._requests, page.node(page.node_count - 1)).get("RequestID"))

    def _row(self, request_id: int, request: Any, certificate: Any) -> AdcsRow:
        doubts = Doubts()

        def value(record: Any, name: str, kind: type) -> Any:
            if record is None:
                return None
            try:
                found = record.get(name)
            except KeyError:
                return None  # the servers' versions differ in their columns
            except Exception as error:
                doubts.add(f"{name}: cannot be read: {type(error).__name__}")
                return None
            if found is not None and not isinstance(found, kind):
                doubts.add(f"{name}: a value of the wrong kind")
                return None
            return found

        def moment(record: Any, name: str) -> int | None:
            ticks = value(record, name, int)
            return None if ticks is None else seconds_from_filetime(ticks)

        return AdcsRow(
            f"RequestID {request_id}",
            value(request, "Disposition", int),
            value(certificate, "$SerialNumber", str),
            value(certificate, "IssuerNameID", int),
            moment(certificate, "NotAfter"),
            moment(request, "RevokedWhen"),
            moment(request, "RevokedEffectiveWhen"),
            value(request, "RevokedReason", int),
            doubts,
            _reader(certificate),
        )


def _reader(record: Any) -> Callable[[], bytes | None]:
    def read() -> bytes | None:
        if record is None:
            return None
        try:
            found = record.get("RawCertificate")
        except Exception as error:
            raise ValueError(f"cannot be read: {type(error).__name__}") from error
        return None if found is None else bytes(found)

    return read


def _ordered(table: Any, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield RequestIDs and records; raises SourceUnavailable where they do not rise: pages that form a ring never end."""
    last = -1
    for node in table.root.iter_leaf_nodes():
        if node.tag.flags & TAG_FLAG.Deleted:
            continue  # a row of certutil -deleterow, whose place was not yet given to another
        record = Record(table, node)
        request_id = record.get("RequestID")
        if not isinstance(request_id, int) or request_id <= last:
            raise SourceUnavailable(
                f"{path}: the database is damaged: RequestID {request_id} after {last} in the table {table.name}"
            )
        last = request_id
        yield request_id, record


def _log_time(value: Any) -> int | None:
    """Return a LOGTIME in POSIX seconds, None for an empty one and for local time, as Windows before 8 wrote it."""
    if not value.fTimeIsUTC or not value.bDay:
        return None
    try:
        moment = datetime(
            value.bYear + 1900, value.bMonth + 1, value.bDay, value.bHours, value.bMinutes, value.bSeconds, tzinfo=UTC
        )
    except ValueError:
        return None
    return int(moment.timestamp())
