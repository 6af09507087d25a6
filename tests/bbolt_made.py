"""Writes bbolt files (go.etcd.io/bbolt, format 2) as its own code lays them out: leaves, branches, overflow pages, inline buckets.

Independent of loaders/bbolt.py, which reads them. Called by tests/unit/test_stepca_contract.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

PAGE = 4096
_MAGIC, _VERSION = 0xED0CDAED, 2
_HEADER, _LEAF_ELEMENT, _BRANCH_ELEMENT = struct.Struct("<QHHI"), struct.Struct("<IIII"), struct.Struct("<IIQ")
_BRANCH, _LEAF, _META, _FREELIST, _IS_BUCKET = 1, 2, 4, 16, 1
_INLINE_MOST = PAGE // 4  # a bucket that is smaller stands within its parent's page


def _fnv64a(data: bytes) -> int:
    value = 14_695_981_039_346_656_037
    for octet in data:
        value = (value ^ octet) * 1_099_511_628_211 % (1 << 64)
    return value


def _leaf(number: int, items: list[tuple[int, bytes, bytes]]) -> bytes:
    """A leaf page of flags, keys and values; not padded."""
    elements, data = b"", b""
    for at, (flags, key, value) in enumerate(items):
        position = (len(items) - at) * _LEAF_ELEMENT.size + len(data)
        elements += _LEAF_ELEMENT.pack(flags, position, len(key), len(value))
        data += key + value
    body = elements + data
    return _HEADER.pack(number, _LEAF, len(items), max(0, _pages(len(body) + _HEADER.size) - 1)) + body


def _branch(number: int, children: list[tuple[bytes, int]]) -> bytes:
    elements, data = b"", b""
    for at, (key, page) in enumerate(children):
        elements += _BRANCH_ELEMENT.pack((len(children) - at) * _BRANCH_ELEMENT.size + len(data), len(key), page)
        data += key
    body = elements + data
    return _HEADER.pack(number, _BRANCH, len(children), max(0, _pages(len(body) + _HEADER.size) - 1)) + body


def _pages(size: int) -> int:
    return -(-size // PAGE)


class _Writer:
    def __init__(self) -> None:
        self.pages = [b"", b"", _HEADER.pack(2, _FREELIST, 0, 0)]  # two metas come last; nothing is free

    def add(self, page: bytes) -> int:
        """Append a page with its overflow; returns its number, which it must have been made with."""
        number = len(self.pages)
        self.pages.append(page)
        self.pages += [b""] * (_pages(len(page)) - 1)
        return number

    def bucket(self, items: Mapping[bytes, bytes]) -> bytes:
        """Write a bucket's pages; returns the value that stands for it in its parent."""
        entries = [(0, key, items[key]) for key in sorted(items)]
        inline = _leaf(0, entries)
        if len(inline) <= _INLINE_MOST:
            return struct.pack("<QQ", 0, 0) + inline
        children: list[tuple[bytes, int]] = []
        while entries:
            taken = 1
            while taken < len(entries) and len(_leaf(0, entries[: taken + 1])) <= PAGE:
                taken += 1
            children.append((entries[0][1], self.add(_leaf(len(self.pages), entries[:taken]))))
            entries = entries[taken:]
        root = children[0][1] if len(children) == 1 else self.add(_branch(len(self.pages), children))
        return struct.pack("<QQ", root, 0)


def make_bbolt(buckets: Mapping[bytes, Mapping[bytes, bytes]]) -> bytes:
    """Return a file with these top-level buckets."""
    writer = _Writer()
    values = [(_IS_BUCKET, name, writer.bucket(buckets[name])) for name in sorted(buckets)]
    root = writer.add(_leaf(len(writer.pages), values))
    for number in (0, 1):  # the older transaction's meta is of another root, which nobody must follow
        meta = struct.pack(
            "<IIIIQQQQQ", _MAGIC, _VERSION, PAGE, 0, root if number else 2, 0, 2, len(writer.pages), number
        )
        writer.pages[number] = _HEADER.pack(number, _META, 0, 0) + meta + struct.pack("<Q", _fnv64a(meta))
    image = bytearray(len(writer.pages) * PAGE)
    for number, page in enumerate(writer.pages):
        image[number * PAGE : number * PAGE + len(page)] = page
    return bytes(image)
