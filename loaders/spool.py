"""Rows of one pass, sorted by where they belong in the store, on disk: a load's memory does not grow with the CA.

One temporary file without a name, in which the rows of each of 256 slots (by the low bits of the serial's hash) are
found by their offsets. Memory: at most BUFFERED_ROWS rows on the way in (some 20 MB), one slot's rows on the way out
(of ten million certificates 40 thousand rows, some 12 MB), and 100 octets for each 256 rows. Called by loaders/runner.py.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from loaders.base import Row

SPOOL_BITS = 8
SLOTS = 1 << SPOOL_BITS
BUFFERED_ROWS = 65_536  # rows in memory before they are written: about 256 a slot and write

# The last four octets of SHA-256(serial octets) (layout.serial_hash), the serial's octets, the text.
SpooledRow = tuple[bytes, bytes, str]


class Spool:
    """Rows by serial hash: write everything, then read group by group."""

    def __init__(self, directory: Path) -> None:
        """Open the file. It has no name, so that a process that dies leaves nothing behind. Raises OSError."""
        # Unbuffered: whole chunks are written, and read at their offsets.
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by close()
        self._end = 0
        self._chunks: list[list[tuple[int, int]]] = [[] for _ in range(SLOTS)]
        self._buffers: list[list[SpooledRow]] = [[] for _ in range(SLOTS)]
        self._buffered = 0
        self.count = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: Sequence[Row]) -> None:
        """Put rows in; raises OSError where the disk is full."""
        buffers, sha256 = self._buffers, hashlib.sha256
        for serial_octets, text in rows:
            digest = sha256(serial_octets).digest()
            buffers[digest[31]].append((digest[28:], serial_octets, text))
        self.count += len(rows)
        self._buffered += len(rows)
        if self._buffered >= BUFFERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        parts: list[bytes] = []
        for chunks, buffer in zip(self._chunks, self._buffers, strict=True):
            if buffer:
                # marshal is the fastest there is, and nobody else can write to a file without a name.
                data = marshal.dumps(buffer)
                chunks.append((self._end, len(data)))
                self._end += len(data)
                parts.append(data)
                buffer.clear()
        left = memoryview(b"".join(parts))
        while left:
            left = left[self._file.write(left) :]
        self._buffered = 0

    def group(self, number: int, bits: int) -> list[SpooledRow]:
        """Return all rows whose hash ends in ``number`` at ``bits`` (at most SPOOL_BITS).

        Two rows of one serial stand in the order in which they were put in.
        """
        rows: list[SpooledRow] = []
        for slot in range(number, SLOTS, 1 << bits):
            for offset, length in self._chunks[slot]:
                data = os.pread(self._file.fileno(), length, offset)
                rows += marshal.loads(data)  # noqa: S302 - written by this object, into a file that has no name
            rows += self._buffers[slot]
        return rows

    def close(self) -> None:
        """Drop everything."""
        self._file.close()
        self._buffers = [[] for _ in range(SLOTS)]
