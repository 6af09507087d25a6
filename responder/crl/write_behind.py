"""Writes that another thread makes, while the next octets are computed: of large files a third of the time is the kernel's.

For the snapshot's file and the CRL's own. Nothing waits for the disk here (depot.sync does).
"""

from __future__ import annotations

import errno
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

PIECE_OCTETS = 1 << 20
MOST_PARTS = 512  # of a piece: the kernel takes 1024 at once
MOST_AHEAD = 3  # pieces that were handed over and may not be written yet: what this takes of memory


class WriteBehind:
    """Octets to be written one behind the other, from an offset on. To be closed, or the thread goes on to live."""

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self._descriptor = descriptor
        self.offset = offset  # of what is written next
        self._parts: list[bytes] = []
        self._size = 0
        self._ahead: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "write-behind")

    def write(self, octets: bytes) -> None:
        """Have octets written; raises OSError, for what was handed over before too."""
        self._parts.append(octets)
        self._size += len(octets)
        self.offset += len(octets)
        if self._size >= PIECE_OCTETS or len(self._parts) >= MOST_PARTS:
            self._hand_over()

    def flush(self) -> None:
        """Wait until all of it is in the file; raises OSError."""
        self._hand_over()
        while self._ahead:
            self._ahead.popleft().result()

    def close(self) -> None:
        """Forget what was not handed over, and end the thread."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _hand_over(self) -> None:
        if self._parts:
            self._ahead.append(self._thread.submit(_write, self._descriptor, self._parts, self.offset - self._size))
            self._parts, self._size = [], 0
        while len(self._ahead) > MOST_AHEAD:
            self._ahead.popleft().result()


def _write(descriptor: int, parts: list[bytes], offset: int) -> None:
    size = sum(map(len, parts))
    if os.pwritev(descriptor, parts, offset) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what else cuts the writing of a plain file short
