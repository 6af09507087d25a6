"""A strict reader of the value logs of badger v2 (github.com/dgraph-io/badger/v2): every write, in the order of the writing.

All writes go to a value log first, so the tables of the tree need not be read. A log is a header of 20 octets and entries,
each with a CRC-32C; a transaction counts once its last entry is there. A log is only ever appended to, and what follows
its end is zeros. Called by loaders/stepca.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from google_crc32c import value as crc32c

from responder.errors import SourceUnavailable

MANIFEST_START = b"Bdgr\0\0\0\x07"  # magic and version of badger v2's manifest; version 1 writes 4
HEADER_BYTES = 20  # key number (0: not encrypted), and the start of the IV
MAX_KEY_BYTES = 1 << 16
MAX_VALUE_BYTES = 1 << 26
MAX_TRANSACTION_ENTRIES = 1 << 20  # badger admits far fewer
_DELETED, _IN_TRANSACTION, _ENDS_TRANSACTION = 0x01, 0x40, 0x80
_END_KEY = b"!badger!txn"
_MOVED = b"!badger!move"  # what a garbage collection wrote again
_INTERNAL = b"!badger!"
_VERSION_BYTES = 8
_CRC_BYTES = 4
_MAX_HEADER = 2 + 5 + 5 + 10


class Entry(NamedTuple):
    """One write. ``key`` is without its version; ``version`` rises with each transaction."""

    key: bytes
    value: bytes
    version: int
    is_deleted: bool


class BadgerDirectory:
    """The value logs of one directory. ``position`` counts the octets that were read, ``size`` those that there are."""

    def __init__(self, path: Path) -> None:
        """Look at the directory; raises SourceUnavailable where it is not badger v2's."""
        self._path = path
        self.position = 0
        try:
            with (path / "MANIFEST").open("rb") as file:
                start = file.read(len(MANIFEST_START))
            self._logs = sorted(path.glob("*.vlog"))
            self.size = sum(log.stat().st_size for log in self._logs)
        except OSError as error:
            raise SourceUnavailable(f"{path}: not a badger database: {error.filename}: {error.strerror}") from error
        if start != MANIFEST_START:
            raise SourceUnavailable(
                f"{path}: a badger database of another version than 2 (manifest {start.hex()}): only badgerv2 is read"
            )
        if not self._logs:
            raise SourceUnavailable(f"{path}: has no value log (*.vlog)")

    def state(self) -> str:
        """Return names and sizes of the logs, and the last one's mtime: a log in use has its full size from the start."""
        stats = [(log.name, log.stat()) for log in self._logs]
        return ",".join(f"{name}:{stat.st_size}" for name, stat in stats) + f":{stats[-1][1].st_mtime_ns}"

    def entries(self, wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        """Yield the committed writes of the keys that are ``wanted``; the values of others are not even read.

        Raises SourceUnavailable for a log that is damaged before its end.
        """
        self.position = 0
        for log in self._logs:
            try:
                with log.open("rb") as file:
                    yield from self._log(log, file, wanted)
                self.position += log.stat().st_size
            except OSError as error:
                raise SourceUnavailable(f"{log}: cannot be read: {error.strerror}") from error

    def _log(self, log: Path, file: BinaryIO, wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return  # it was just made
        if header[:8] != bytes(8):
            raise SourceUnavailable(f"{log}: is encrypted, which is not read")
        open_transaction: list[Entry] = []
        while True:
            at = file.tell()
            entry, is_end, is_open = self._entry(log, file, at, wanted)
            if is_end:
                is_past = at > os.fstat(file.fileno()).st_size  # of an entry that was passed over
                if (open_transaction or is_past) and log != self._logs[-1]:
                    raise self._damaged(log, at, "the log breaks off within a transaction")
                return
            if not is_open:
                if open_transaction:
                    raise self._damaged(log, at, "a transaction without its end")
                if entry is not None:
                    yield entry
                continue
            if entry is None:
                continue
            if entry.key == _END_KEY:
                yield from open_transaction
                open_transaction = []
            else:
                open_transaction.append(entry)
                if len(open_transaction) > MAX_TRANSACTION_ENTRIES:
                    raise self._damaged(log, at, "a transaction without end")

    def _entry(
        self, log: Path, file: BinaryIO, at: int, wanted: Callable[[bytes], bool]
    ) -> tuple[Entry | None, bool, bool]:
        """Read one entry: itself (None where nobody wants it), whether the log ends before it, and whether a transaction is open."""
        head = file.read(_MAX_HEADER)
        if len(head) < 3 or not any(head):
            return None, True, False
        meta = head[0]
        try:
            key_size, offset = _uvarint(head, 2)
            value_size, offset = _uvarint(head, offset)
            _, offset = _uvarint(head, offset)  # expires at
        except ValueError:
            return None, self._ends(log, at, file, "an entry without a header"), False
        if not _VERSION_BYTES < key_size <= MAX_KEY_BYTES or value_size > MAX_VALUE_BYTES:
            return None, self._ends(log, at, file, f"a key of {key_size} and a value of {value_size} octets"), False
        file.seek(at + offset)
        key = file.read(key_size)
        if len(key) < key_size:
            return None, self._ends(log, at, file, "an entry that breaks off"), False
        name, version = key[:-_VERSION_BYTES], (1 << 64) - 1 - int.from_bytes(key[-_VERSION_BYTES:], "big")
        if name.startswith(_MOVED):
            name = name[len(_MOVED) :]
        is_in_transaction = bool(meta & (_IN_TRANSACTION | _ENDS_TRANSACTION))
        is_ending = bool(meta & _ENDS_TRANSACTION)
        if not is_ending and (name.startswith(_INTERNAL) or not wanted(name)):
            file.seek(value_size + _CRC_BYTES, 1)
            return None, False, is_in_transaction
        body = file.read(value_size + _CRC_BYTES)
        if len(body) < value_size + _CRC_BYTES:
            return None, self._ends(log, at, file, "an entry that breaks off"), False
        if crc32c(head[:offset] + key + body[:value_size]) != int.from_bytes(body[value_size:], "big"):
            return None, self._ends(log, at, file, "an entry whose checksum is wrong"), False
        if is_ending and name != _END_KEY:
            raise self._damaged(log, at, "a transaction's end under another key")
        return Entry(name, body[:value_size], version, bool(meta & _DELETED)), False, is_in_transaction

    def _ends(self, log: Path, at: int, file: BinaryIO, what: str) -> bool:
        """Say that a log ends in an entry that cannot be read: true of the last log alone, which is being written."""
        if log == self._logs[-1] and _only_zeros_follow(file):
            return True
        raise self._damaged(log, at, what)

    @staticmethod
    def _damaged(log: Path, at: int, what: str) -> SourceUnavailable:
        return SourceUnavailable(f"{log}: damaged at {at}: {what}")


def _only_zeros_follow(file: BinaryIO) -> bool:
    """Say whether there is nothing but zeros ahead of the file's place."""
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _uvarint(data: bytes, at: int) -> tuple[int, int]:
    """Read an unsigned varint; returns it and where it ends; raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number that breaks off")
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise ValueError("a number without end")


def split_key(key: bytes) -> tuple[bytes, bytes] | None:
    """Divide a key of smallstep/nosql into bucket and key (each with its length, 16 bits little-endian); None for others."""
    if len(key) < 2:
        return None
    (bucket_size,) = struct.unpack_from("<H", key)
    rest = key[2 + bucket_size :]
    if len(rest) < 2:
        return None
    (key_size,) = struct.unpack_from("<H", rest)
    return (key[2 : 2 + bucket_size], rest[2:]) if len(rest) == 2 + key_size else None
