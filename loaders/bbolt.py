"""A strict reader of bbolt files (go.etcd.io/bbolt, format 2): the keys and values of a top-level bucket, in key order.

Pages are B+ tree nodes, copied on write; two meta pages take turns, and the one with the higher transaction and a valid
checksum holds. Everything that a page says is checked against the file before it is used. Called by loaders/stepca.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from responder.errors import SourceUnavailable

MAGIC = 0xED0CDAED
VERSION = 2
MAX_DEPTH = 64  # levels of a tree; a real one of 2^40 keys has a dozen
MAX_PAGE_BYTES = 1 << 16
MAX_VALUE_BYTES = 1 << 26  # of one page with its overflow pages
_HEADER = struct.Struct("<QHHI")  # id, flags, count, overflow
_META = struct.Struct("<IIIIQQQQQQ")  # magic, version, pageSize, flags, root, sequence, freelist, pages, txid, checksum
_LEAF = struct.Struct("<IIII")  # flags, position of the key from here, octets of the key, of the value
_BRANCH = struct.Struct("<IIQ")  # position, octets of the key, page
_BUCKET = struct.Struct("<QQ")  # root page, sequence
_BRANCH_PAGE, _LEAF_PAGE, _META_PAGE, _IS_BUCKET = 1, 2, 4, 1


class Meta(NamedTuple):
    """What a meta page says."""

    page_size: int
    root: int
    pages: int
    txid: int


def _fnv64a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for octet in data:
        value = (value ^ octet) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def read_meta(file: BinaryIO) -> Meta | None:
    """Return the meta page that holds, None where the file is no bbolt file or both are damaged."""
    found: list[Meta] = []
    for page_size in (0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        file.seek(page_size)
        page = file.read(_HEADER.size + _META.size)
        if len(page) < _HEADER.size + _META.size:
            break
        body = page[_HEADER.size :]
        magic, version, size, _, root, _, _, pages, txid, checksum = _META.unpack(body)
        if magic == MAGIC and version == VERSION and checksum == _fnv64a(body[:-8]) and 512 <= size <= MAX_PAGE_BYTES:
            found.append(Meta(size, root, pages, txid))
            if page_size:
                break
    return max(found, key=lambda meta: meta.txid) if found else None


class BboltFile:
    """One open bbolt file."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        """Take the open file; raises SourceUnavailable."""
        self._name = name
        self._file = file
        meta = read_meta(file)
        if meta is None:
            raise SourceUnavailable(f"{name}: not a bbolt database, or both of its meta pages are damaged")
        self.meta = meta

    def bucket(self, name: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a top-level bucket, nothing where there is none; raises SourceUnavailable."""
        for flags, key, value in self._walk(self._page(self.meta.root), 0, b""):
            if key == name and flags & _IS_BUCKET:
                if len(value) < _BUCKET.size:
                    raise self._damaged("a bucket without its header")
                root, _ = _BUCKET.unpack_from(value)
                page = value[_BUCKET.size :] if root == 0 else self._page(root)
                for inner, inner_key, inner_value in self._walk(page, 0, b""):
                    if not inner & _IS_BUCKET:
                        yield inner_key, inner_value
                return

    def _damaged(self, what: str) -> SourceUnavailable:
        return SourceUnavailable(f"{self._name}: the bbolt database is damaged: {what}")

    def _page(self, number: int) -> bytes:
        """Read a page with its overflow pages."""
        if not 2 <= number < self.meta.pages:
            raise self._damaged(f"page {number} of {self.meta.pages}")
        self._file.seek(number * self.meta.page_size)
        page = self._file.read(self.meta.page_size)
        if len(page) < self.meta.page_size:
            raise self._damaged(f"the file ends before page {number}")
        told, _, _, overflow = _HEADER.unpack_from(page)
        if told != number:
            raise self._damaged(f"page {number} says that it is page {told}")
        size = overflow * self.meta.page_size
        if size > MAX_VALUE_BYTES:
            raise self._damaged(f"page {number} has {overflow} overflow pages")
        rest = self._file.read(size)
        if len(rest) < size:
            raise self._damaged(f"the file ends within page {number}")
        return page + rest

    def _walk(self, page: bytes, depth: int, after: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield flags, key and value of each element. Keys must rise, so that a ring of pages ends."""
        if depth > MAX_DEPTH or len(page) < _HEADER.size:
            raise self._damaged("a tree without end")
        _, flags, count, _ = _HEADER.unpack_from(page)
        is_leaf = bool(flags & _LEAF_PAGE)
        if is_leaf == bool(flags & _BRANCH_PAGE):
            raise self._damaged(f"a page with the flags {flags:#x}")
        element = _LEAF if is_leaf else _BRANCH
        if _HEADER.size + count * element.size > len(page):
            raise self._damaged(f"{count} elements in a page of {len(page)} octets")
        for number in range(count):
            at = _HEADER.size + number * element.size
            fields = element.unpack_from(page, at)
            position, key_size = (fields[1], fields[2]) if is_leaf else (fields[0], fields[1])
            value_size = fields[3] if is_leaf else 0
            start = at + position
            if start + key_size + value_size > len(page):
                raise self._damaged("an element beyond its page")
            key = page[start : start + key_size]
            if is_leaf:
                if key <= after and after:
                    raise self._damaged("keys out of order")
                after = key
                yield fields[0], key, page[start + key_size : start + key_size + value_size]
            else:
                for item in self._walk(self._page(fields[2]), depth + 1, after):
                    after = item[1]
                    yield item
