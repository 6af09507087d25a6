"""How an operator names a CRL on the command line: its file, or its URL; and reading it, however large, with progress."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from fastpath.crl_decode import EntryReader
from responder.clock import SystemClock
from responder.crl.armor import open_der
from responder.crl.head import Head, read_head
from responder.crl.parts import cut
from responder.errors import CRLError, OperatorError

BLOCK_BYTES = 1 << 20
PATIENCE_S = 1.0  # what takes longer shows how far it is

Told = Callable[[int], None]


@dataclass(frozen=True)
class NamedCRL:
    """A CRL that was opened, its entries unread. ``name``: what the operator called it."""

    name: str
    path: Path
    file: IO[bytes]  # DER
    size: int  # octets of DER
    is_armored: bool  # it is PEM or base64
    head: Head

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs that its issuingDistributionPoint names."""
        return () if self.head.scope is None else self.head.scope.urls

    def entries(self, told: Told | None = None) -> EntryReader:
        """Read its entries; ``told`` hears of each block how many octets it had."""
        revoked = self.head.parts.revoked
        start, end = (0, 0) if revoked is None else (revoked.contents, revoked.end)
        blocks = self.blocks(start, end, told)
        return EntryReader(blocks, end - start, start, version_2=self.head.parts.version == 1)

    def blocks(self, start: int, end: int, told: Told | None = None) -> Iterator[bytes]:
        """Yield a part of the DER in blocks: read, not mapped, so that memory stays flat for whoever looks on."""
        while start < end and (block := os.pread(self.file.fileno(), min(BLOCK_BYTES, end - start), start)):
            start += len(block)
            if told is not None:
                told(len(block))
            yield block


@contextlib.contextmanager
def crl_named(where: str) -> Iterator[NamedCRL]:
    """Open the CRL of a file or URL; raises OperatorError for what is none, SourceUnavailable for what is out of reach."""
    with contextlib.ExitStack() as stack:
        if "://" in where:
            path = _fetched(where, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="revocast-"))))
        else:
            path = Path(where)
        try:
            file = stack.enter_context(open_der(path))
            is_armored = not os.path.sameopenfile(file.fileno(), stack.enter_context(path.open("rb")).fileno())
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise OperatorError(f"{where}: is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                head = read_head(cut(data))
        except OSError as error:
            raise OperatorError(f"{where}: cannot be read: {error.strerror or error}") from error
        except (ValueError, CRLError) as error:  # ValueError: NoCRL, and times that are none
            raise OperatorError(f"{where}: {str(error).removeprefix(f'{path}: ')}") from error
        yield NamedCRL(where, path, file, size, is_armored, head)


def _fetched(url: str, directory: Path) -> Path:
    from responder.crl.fetch import FetchTerms, open_place  # its HTTP and LDAP clients take long to import

    try:
        place = open_place(url, FetchTerms(), directory, SystemClock())
    except ValueError as error:
        raise OperatorError(str(error)) from error
    fetched = place.fetch()
    assert fetched is not None  # noqa: S101 - nothing was fetched before that it could be the same as
    return fetched.path


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Told]:
    """Show on standard error how far a reading is, once it takes long; ``total`` and what is told: octets."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    began = time.monotonic()
    started = False

    def told(octets: int) -> None:
        nonlocal started
        bar.advance(task, octets)
        if not started and bar.console.is_terminal and time.monotonic() - began > PATIENCE_S:
            started = True
            bar.start()

    try:
        yield told
    finally:
        if started:
            bar.stop()
