"""Reads the database of Microsoft AD CS, from a copy of its file (docs/loaders/adcs.md).

What it says is known as of the copy's own time. Made by loaders/registry.py, read by loaders/runner.py. For what
``certutil -view`` prints see loaders/certutil.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from loaders.adcs_edb import AdcsDatabase
from loaders.adcs_rows import AdcsJudge
from loaders.base import LoaderOptions
from loaders.entries import Item, ItemSnapshot
from loaders.files import file_state, open_source
from loaders.ownership import CertificateOwner
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer


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

    def peek(self) -> str:
        """Return the file's state; raises SourceUnavailable."""
        return file_state(find_database(self._path), self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        path = find_database(self._path)
        self._owner.begin()
        file, as_of = open_source(path, self._clock)
        try:
            database = AdcsDatabase(path, file)
            size = database.last_request_id()
        except BaseException:
            file.close()
            raise
        if database.consistent_at is not None:
            # A file that was copied without its mtime looks newer than it is.
            as_of = min(as_of, database.consistent_at)
        judge = AdcsJudge(str(path), self._owner, as_of, looks_always=False)

        def items() -> Iterator[Item]:
            for row in database.rows():
                item = judge.item(row)
                if item is not None:
                    yield item
            judge.check()

        return ItemSnapshot(items(), as_of, size=size, position=lambda: database.position, let_go=file.close)
