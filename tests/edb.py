"""Changes rows of an AD CS database file in place: no sample of a revoked row is to be had.

A record grows by the columns that it lacked, and its page is laid out anew. Page checksums are left wrong: nobody here looks
at them. Called by tests/unit/test_adcs_edb.py.
"""

from __future__ import annotations

import io
import struct
from typing import Any

from dissect.esedb import EseDB

EPOCH_TICKS = 116_444_736_000_000_000  # from 1601 to 1970
_FIXED_END = 7  # columns up to ResolvedWhen, that every record has
_FIXED_BYTES = 36
_FREE_AT = 32  # ibMicFree in the header of a page, which has 40 octets in pages of 8 KiB at most
_HEADER_BYTES = 40
_TURNED = 1 << 31
# disposition, RevokedWhen, RevokedEffectiveWhen, RevokedReason
Values = tuple[int, int | None, int | None, int | None]
_REASON = 10  # the last fixed column: RevokedReason


def ticks(seconds: int) -> int:
    """POSIX seconds as a FILETIME."""
    return seconds * 10_000_000 + EPOCH_TICKS


def with_request(
    raw: bytes,
    request_id: int,
    *,
    disposition: int,
    revoked_when: int | None = None,
    effective_when: int | None = None,
    reason: int | None = None,
) -> bytes:
    """Return the database with other values in one row of Requests; dates in POSIX seconds."""
    return with_requests(raw, {request_id: (disposition, revoked_when, effective_when, reason)})


def with_requests(raw: bytes, changes: dict[int, Values]) -> bytes:
    """Return the database with other values in rows of Requests that were not changed before, by RequestID."""
    database = EseDB(io.BytesIO(raw))
    pages: dict[int, Any] = {}
    nodes: dict[int, dict[int, bytes]] = {}
    for record in database.table("Requests").records():
        values = changes.get(record.get("RequestID"))
        if values is not None:
            tag = record._node.tag
            pages[tag.page.num] = tag.page
            nodes.setdefault(tag.page.num, {})[tag.num] = _changed(bytes(tag.data), bytes(record._node.data), values)
    for number, page in pages.items():
        raw = _with_nodes(raw, database.page_size, page, nodes[number])
    return raw


def _changed(node: bytes, old: bytes, values: Values) -> bytes:
    """Return a node with other values in its record, ``old``."""
    disposition, *dates, reason = values
    assert old[0] == _FIXED_END
    fixed = bytearray(old[4 : 4 + _FIXED_BYTES])
    struct.pack_into("<i", fixed, 16, disposition)
    bits = old[4 + _FIXED_BYTES] & 0x7F | (dates[0] is None) << 7 | (dates[1] is None) << 8 | (reason is None) << 9
    added = struct.pack("<qqi", *(0 if one is None else ticks(one) for one in dates), 0 if reason is None else reason)
    start = struct.unpack("<H", old[2:4])[0] + len(added) + 1
    data = bytes([_REASON, old[1]]) + struct.pack("<H", start) + fixed + added + struct.pack("<H", bits)
    return node[: len(node) - len(old)] + data + old[5 + _FIXED_BYTES :]


def with_index_of_dispositions(raw: bytes, dispositions: dict[int, int]) -> bytes:
    """Return the database with RequestDispositionIndex as these dispositions, by RequestID, would make it."""
    database = EseDB(io.BytesIO(raw))
    page = database.table("Requests").index("RequestDispositionIndex").root
    assert not page.is_branch  # of a database with more requests it would be
    nodes = []
    for number in range(1, page.tag_count):
        node = bytearray(page.tag(number).data)
        # Octets of the key, then the key and the primary key: each a 7f and a signed number with its highest bit turned.
        assert node[:3] == b"\x05\0\x7f"
        request_id = int.from_bytes(node[8:], "big") - _TURNED
        if request_id in dispositions:
            node[3:7] = (dispositions[request_id] + _TURNED).to_bytes(4, "big")
        nodes.append(bytes(node))
    return _with_nodes(raw, database.page_size, page, dict(enumerate(sorted(nodes), 1)))


def _with_nodes(raw: bytes, page_size: int, page: Any, nodes: dict[int, bytes]) -> bytes:
    """Replace nodes of a page, by their tags' numbers, and lay out all of them one behind the other."""
    buffer = bytearray(page.buf)
    free, end = 0, len(buffer) - 4 * page.tag_count
    for number in range(page.tag_count):
        tag = page.tag(number)
        node = nodes.get(number, bytes(tag.data))
        assert _HEADER_BYTES + free + len(node) <= end, "no room on the page"
        buffer[_HEADER_BYTES + free : _HEADER_BYTES + free + len(node)] = node
        struct.pack_into("<HH", buffer, len(buffer) - 4 * (number + 1), len(node), free | tag.tag.ib_ & 0xE000)
        free += len(node)
    struct.pack_into("<H", buffer, _FREE_AT, free)
    at = (page.num + 1) * page_size
    return raw[:at] + bytes(buffer) + raw[at + page_size :]
