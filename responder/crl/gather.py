"""Brings together what has the same key, however much there is: in memory while it is little, else on the disk.

For two CRLs whose entries stand in different orders, and for a serial that is on a CRL twice. Items are spread over temporary
files by their key's hash; a file at a time is then small enough to be looked at whole. Knows nothing of CRLs.
"""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, BinaryIO

PARTS = 256
MOST_IN_MEMORY = 200_000  # items; of ten million each part has 40,000
LENGTH_OCTETS = 4  # before each piece of a file

Item = tuple[bytes, Any]  # a key, and a value that marshal can write: numbers, texts, bytes, tuples and None


class Gather:
    """Takes items and gives them back by key. Use as a context manager: temporary files go at its end."""

    def __init__(self, most_in_memory: int | None = None) -> None:
        """``most_in_memory``: how many items are held before they go to the disk; None: MOST_IN_MEMORY."""
        self._most = MOST_IN_MEMORY if most_in_memory is None else most_in_memory
        self._count = 0  # of items that are held
        self._parts: list[list[Item]] = [[]]  # one, until there are files
        self._files: list[BinaryIO] = []

    def __enter__(self) -> Gather:
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._files:
            file.close()

    def add(self, items: Sequence[Item]) -> None:
        """Take items, in any order."""
        if self._files:
            self._spread(items)
        else:
            self._parts[0].extend(items)
        self._count += len(items)
        if self._count > self._most:
            self._write()

    def groups(self) -> Iterator[dict[bytes, list[Any]]]:
        """Give what was taken, each key in one of the groups, its values in the order in which they came."""
        for items in self._read():
            by_key: dict[bytes, list[Any]] = {}
            for key, value in items:
                by_key.setdefault(key, []).append(value)
            yield by_key

    def repeated(self) -> Iterator[tuple[bytes, list[Any]]]:
        """Give the keys that came more than once, with their values."""
        for items in self._read():
            if len(set(map(itemgetter(0), items))) == len(items):
                continue  # as almost always; much faster than the way below
            values: dict[bytes, list[Any]] = {}
            for key, value in items:
                values.setdefault(key, []).append(value)
            yield from ((key, found) for key, found in values.items() if len(found) > 1)

    def _spread(self, items: Iterable[Item]) -> None:
        parts = self._parts
        for item in items:
            # Python's hash of bytes has a seed of its own in each process: nobody can aim all serials at one part.
            parts[hash(item[0]) % PARTS].append(item)

    def _write(self) -> None:
        """Bring to the disk what is held."""
        if not self._files:
            for _ in range(PARTS):
                self._files.append(tempfile.TemporaryFile(prefix="revocast-"))  # noqa: SIM115 - __exit__ closes them
            (held,) = self._parts
            self._parts = [[] for _ in range(PARTS)]
            self._spread(held)
        for file, part in zip(self._files, self._parts, strict=True):
            piece = marshal.dumps(part)
            file.write(len(piece).to_bytes(LENGTH_OCTETS, "big") + piece)
            part.clear()
        self._count = 0

    def _read(self) -> Iterator[list[Item]]:
        """Yield all items, a part at a time."""
        if not self._files:
            yield self._parts[0]
            return
        self._write()
        for file in self._files:
            file.seek(0)
            items: list[Item] = []
            while length := file.read(LENGTH_OCTETS):
                piece = file.read(int.from_bytes(length, "big"))
                items += marshal.loads(piece)  # noqa: S302 - this process wrote it, into a file without a name
            yield items
