"""Changes rows of an AD CS database file in place: no sample of a revoked row is to be had.

A record grows by the columns that it lacked, moves into the free space of its page, and its tag follows. Page checksums
are left wrong: nobody here looks at them. Called by tests/unit/test_adcs_edb.py.
"""

from __future__ import annotations

import io
import struct

from dissect.esedb import EseDB

EPOCH_TICKS = 116_444_736_000_000_000  # from 1601 to 1970
_FIXED_END = 7  # columns up to ResolvedWhen, that every record has
_FIXED_BYTES = 36
_FREE_AT = 32  # ibMicFree in the header of a page, which has 40 octets in pages of 8 KiB at most
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
    database = EseDB(io.BytesIO(raw))
    record = next(one for one in database.table("Requests").records() if one.get("RequestID") == request_id)
    tag, old = record._node.tag, bytes(record._node.data)
    assert old[0] == _FIXED_END
    fixed = bytearray(old[4 : 4 + _FIXED_BYTES])
    struct.pack_into("<i", fixed, 16, disposition)
    values = (revoked_when, effective_when, reason)
    bits = old[4 + _FIXED_BYTES] & 0x7F | (values[0] is None) << 7 | (values[1] is None) << 8 | (values[2] is None) << 9
    added = struct.pack(
        "<qqi", *(0 if one is None else ticks(one) for one in values[:2]), 0 if reason is None else reason
    )
    start = struct.unpack("<H", old[2:4])[0] + len(added) + 1
    data = bytes([_REASON, old[1]]) + struct.pack("<H", start) + fixed + added + struct.pack("<H", bits)
    node = bytes(tag.data[: len(tag.data) - len(old)]) + data + old[5 + _FIXED_BYTES :]
    page = tag.page
    free = page.header.ibMicFree
    buffer = bytearray(page.buf)
    header_bytes = 40
    tags_start = len(buffer) - 4 * page.tag_count
    assert header_bytes + free + len(node) <= tags_start, "no room on the page"
    buffer[header_bytes + free : header_bytes + free + len(node)] = node
    struct.pack_into("<HH", buffer, len(buffer) - 4 * (tag.num + 1), len(node), free | tag.tag.ib_ & 0xE000)
    struct.pack_into("<H", buffer, _FREE_AT, free + len(node))
    at = (page.num + 1) * database.page_size
    return raw[:at] + bytes(buffer) + raw[at + database.page_size :]
