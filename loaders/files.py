"""Files as sources: their state for ``peek``, and as of when a copy speaks. Called by the loaders of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from responder.clock import Clock
from responder.errors import SourceUnavailable

RECENT_S = 2.0  # coarser than any file system's clock (FAT: 2 s)


def file_state(path: Path, clock: Clock) -> str:
    """Return mtime, inode and size; raises SourceUnavailable.

    A file may be written twice within one tick of the file system's clock. So its mtime says nothing while it is
    recent, and what was read then is read once more.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
    age = clock.now() - stat.st_mtime
    return f"{path.name}:{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_size}" + (":recent" if age < RECENT_S else "")


def open_source(path: Path, clock: Clock) -> tuple[BinaryIO, float]:
    """Open a copy for reading, and return as of when it speaks: its mtime; raises SourceUnavailable.

    Never ahead of the clock: thisUpdate comes from it.
    """
    try:
        file = path.open("rb")
        return file, min(os.fstat(file.fileno()).st_mtime, clock.now())
    except OSError as error:
        raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
