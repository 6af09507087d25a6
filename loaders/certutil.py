"""Reads what ``certutil -view`` printed of an AD CS database, as text or CSV (docs/loaders/adcs.md).

What it says is known as of the file's mtime. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, ClassVar, Literal

from pydantic import Field

from loaders.adcs_rows import AdcsJudge, issuers_of
from loaders.base import FoundIssuer, LoaderOptions
from loaders.certutil_dump import DEFAULT_COLUMNS, CertutilDump
from loaders.entries import Item, ItemSnapshot
from loaders.files import file_state, open_source
from loaders.ownership import CertificateOwner
from responder.clock import Clock
from responder.config import AnyPath
from responder.issuers import Issuer


class CertutilOptions(LoaderOptions):
    """The keys of ``source = { type = "certutil", … }``."""

    path: AnyPath = Field(description="What certutil -view printed, as text or CSV, in a file.")
    columns: list[str] = Field(
        list(DEFAULT_COLUMNS),
        min_length=1,
        description="The columns by their English names, in the order of -out. A dump with its Schema block names them itself.",
    )
    date_order: Literal["auto", "dmy", "mdy", "ymd"] = Field(
        "auto",
        description="How dates are written; auto learns it from the certificates in the file, and from days above 12.",
    )
    time_zone: str = Field(
        "auto",
        description="Time zone of the dates, such as Europe/Berlin; auto takes -gmt for what it says, and else learns it from the certificates in the file.",
    )

    @property
    def shared_key(self) -> str:
        """Generations of a CA share its database."""
        return os.path.realpath(self.path)


class CertutilLoader:
    """One dump for one CA."""

    Options: ClassVar[type[LoaderOptions]] = CertutilOptions
    lists_issued = True
    good_releases_hold = True  # a release shows as disposition 20 again
    follows_clock = False

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, CertutilOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._options = options
        self._clock = clock
        self._owner = CertificateOwner(issuer)

    def peek(self) -> str:
        """Return the file's state; raises SourceUnavailable."""
        return file_state(self._options.path, self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        path = self._options.path
        self._owner.begin()
        dump, file, as_of = self._open()
        size = path.stat().st_size
        judge = AdcsJudge(str(path), self._owner, as_of, looks_always=True)

        def items() -> Iterator[Item]:
            for row in dump.rows():
                item = judge.item(row)
                if item is not None:
                    yield item
            judge.check()

        return ItemSnapshot(
            items(),
            as_of,
            size=size,
            position=lambda: dump.position,
            is_whole=lambda: dump.is_complete,
            let_go=file.close,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the dump holds; without RawCertificate the number that the CA gives each of its generations."""
        dump, file, _ = self._open()
        with file:
            return issuers_of(self.name, dump.rows())

    def _open(self) -> tuple[CertutilDump, BinaryIO, float]:
        options = self._options
        file, as_of = open_source(options.path, self._clock)
        try:
            dump = CertutilDump(options.path, file, tuple(options.columns), options.date_order, options.time_zone)
        except BaseException:
            file.close()
            raise
        return dump, file, as_of
