"""The rows of a source that could not be understood, in a file for whoever mends them: one JSON object a line.

``data_dir/rejected/<ca>.jsonl``: source, row, reason, and the serial where it could be read. Each whole pass replaces it,
what changes afterwards is added to it. Called by loaders/runner.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from loaders.base import RowRejected
from responder.errors import LoadError

MAX_LINES = 100_000  # of one file, some 20 MB; the rest is counted
MAX_TEXT = 500  # characters of a reason or a row's name: both quote the source


class RejectsFile:
    """One CA's file. Raises OSError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0
        self._next: IO[str] | None = None

    def begin(self) -> None:
        """Begin a whole pass: what is added from now on will replace the file."""
        self.abandon()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._next = self.path.with_suffix(".new").open("w", encoding="utf-8")
        self._lines = 0

    def add(self, errors: Iterable[LoadError]) -> None:
        """Write some rows; outside a whole pass at the file's end."""
        lines = [_line(error) for error in errors][: MAX_LINES - self._lines]
        if not lines:
            return
        self._lines += len(lines)
        if self._next is not None:
            self._next.writelines(lines)
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def finish(self) -> None:
        """End a whole pass that was read to its end."""
        if self._next is not None:
            self._next.close()
            self._next = None
            self.path.with_suffix(".new").replace(self.path)

    def abandon(self) -> None:
        """End a pass that was not: the file stays as it was."""
        if self._next is not None:
            self._next.close()
            self._next = None
            self.path.with_suffix(".new").unlink(missing_ok=True)


def _line(error: LoadError) -> str:
    known: dict[str, str] = {"source": error.source, "row": error.row[:MAX_TEXT], "reason": error.reason[:MAX_TEXT]}
    if isinstance(error, RowRejected) and error.serial_octets is not None:
        known["serial"] = error.serial_octets.hex()[:MAX_TEXT]
    return json.dumps(known, ensure_ascii=True) + "\n"
