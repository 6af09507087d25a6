"""Reads the database of Microsoft AD CS, from a copy of its file (docs/loaders/adcs.md).

What it says is known as of the copy's own time. Made by loaders/registry.py, read by loaders/runner.py. For what
``certutil -view`` prints see loaders/certutil.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

from pydantic import Field

from loaders.adcs_edb import AdcsDatabase
from loaders.adcs_rows import AdcsJudge, issuers_of
from loaders.base import CursorLost, FoundIssuer, LoaderOptions
from loaders.entries import Item, ItemSnapshot
from loaders.files import file_state, open_source
from loaders.ownership import CertificateOwner
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

CURSOR_VERSION = "1"
OVERLAP_S = 600  # requests that were being resolved when the copy was made


class AdcsOptions(LoaderOptions):
    """The keys of ``source = { type = "adcs", … }``."""

    path: AnyPath = Field(
        description="A copy of the CA's database file, <CA name>.edb, or a directory that holds one .edb, such as DataBase of certutil -backupDB."
    )

    @property
    def shared_key(self) -> str:
        """Generations of a CA share its database."""
        return os.path.realpath(self.path)


def find_database(path: Path) -> Path:
    """Return the file itself, or the only .edb that a directory holds; raises SourceUnavailable."""
    if not path.is_dir():
        return path
    found = sorted(one for one in path.glob("*.edb") if one.name.lower() != "tmp.edb")
    if len(found) != 1:
        names = ", ".join(one.name for one in found[:5]) or "none"
        raise SourceUnavailable(f"{path}: must hold one .edb file, or source.path name one; there are: {names}")
    return found[0]


class AdcsLoader:
    """One AD CS database for one CA."""

    Options: ClassVar[type[LoaderOptions]] = AdcsOptions
    lists_issued = True
    good_releases_hold = True  # a release shows as disposition 20 again
    follows_clock = False

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, AdcsOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._path = options.path
        self._clock = clock
        self._owner = CertificateOwner(issuer)
        self._revoked: frozenset[int] = frozenset()  # RequestIDs that were revoked in the copy that was read last

    def peek(self) -> str:
        """Return the file's state; raises SourceUnavailable."""
        return file_state(find_database(self._path), self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        state = self.peek()
        database, file, as_of = self._open()
        judge = AdcsJudge(self._name_of(), self._owner, as_of, looks_always=False)
        with _closed_on_error(file):
            before = os.fstat(file.fileno())
            size = database.last_request_id()
            cursor = self._cursor(database, state, as_of, size)

        def items() -> Iterator[Item]:
            for row in database.rows():
                item = judge.item(row)
                if item is not None:
                    yield item
            self._check_still(file, before)
            judge.check()

        return ItemSnapshot(
            items(), as_of, size=size, position=lambda: database.position, let_go=file.close, cursor=cursor
        )

    def changes(self, cursor: str) -> ItemSnapshot:
        """Read what a newer copy may say otherwise, by its indexes; raises CursorLost, SourceUnavailable."""
        parts = cursor.split("|", 4)  # the file's name may hold anything
        if len(parts) != 5 or parts[0] != CURSOR_VERSION or not all(part.isdigit() for part in parts[1:4]):
            raise CursorLost
        request_id, resolved_at, known_as_of = (int(part) for part in parts[1:4])
        state = self.peek()
        if state == parts[4]:
            return ItemSnapshot(iter(()), float(known_as_of), cursor=lambda: cursor)
        database, file, as_of = self._open()
        judge = AdcsJudge(self._name_of(), self._owner, as_of, looks_always=False)
        revoked_before = self._revoked
        with _closed_on_error(file):
            before = os.fstat(file.fileno())
            if database.last_request_id() < request_id or int(as_of) < known_as_of:
                raise CursorLost  # an older copy, or another database: a whole pass judges it
            following = self._cursor(database, state, as_of, database.last_request_id())

        def items() -> Iterator[Item]:
            for row in database.changed(request_id, max(0, resolved_at - OVERLAP_S), revoked_before):
                item = judge.item(row)
                if item is not None:
                    yield item
            self._check_still(file, before)

        return ItemSnapshot(items(), as_of, let_go=file.close, cursor=following)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return the CA's generations, and whose certificates the database holds besides."""
        database, file, _ = self._open()
        with file:
            before = os.fstat(file.fileno())
            found = issuers_of(self.name, database.rows())
            self._check_still(file, before)
        return found

    def _check_still(self, file: BinaryIO, before: os.stat_result) -> None:
        """Raise SourceUnavailable where the file was written while it was read: parts of two copies are neither."""
        after = os.fstat(file.fileno())
        if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
            raise SourceUnavailable(f"{self.name}: was written while it was read; move a finished copy into its place")

    def _cursor(self, database: AdcsDatabase, state: str, as_of: float, request_id: int) -> Callable[[], str]:
        """Note how far a copy goes; what is revoked in it is remembered once it was read."""
        resolved_at, revoked = max(0, database.last_resolved()), database.revoked_ids()

        def cursor() -> str:
            self._revoked = revoked
            return f"{CURSOR_VERSION}|{request_id}|{resolved_at}|{int(as_of)}|{state}"

        return cursor

    def _name_of(self) -> str:
        return str(find_database(self._path))

    def _open(self) -> tuple[AdcsDatabase, BinaryIO, float]:
        path = find_database(self._path)
        self._owner.begin()
        file, as_of = open_source(path, self._clock)
        with _closed_on_error(file):
            database = AdcsDatabase(path, file)
        if database.consistent_at is not None:
            # A file that was copied without its mtime looks newer than it is.
            as_of = min(as_of, database.consistent_at)
        return database, file, as_of


@contextmanager
def _closed_on_error(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise
