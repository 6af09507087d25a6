"""Bodies of requests: where a chunked one ends, and what it holds; and how a request is refused.

Strict, and bounded in every part (RFC 9112 §7.1). Bytes in, values out: no sockets, no clock. Called by heads and the
protocol only.
"""

from __future__ import annotations

import re

MAX_CHUNK_EXTRA = 4_096  # octets of chunk extensions, padding zeros and trailers in one body (RFC 9112 §7.1.1, §7.1.2)
_MAX_SIZE_LINE = 4_096

BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t\x20-\x7e\x80-\xff]*)?")


class Refused(Exception):
    """A request that ends its connection: ``status`` for the client, ``reason`` for our debug log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ChunkedBody:
    """Decodes one chunked body (RFC 9112 §7.1) as it arrives; strict, and bounded in every part."""

    __slots__ = ("_body", "_extra", "_left", "_max_body_bytes", "_raw", "_state", "complete")

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._body = bytearray()
        self._raw = bytearray()
        self._extra = 0  # octets so far that only serve to keep us busy
        self._left = 0  # octets of the present chunk still to come
        self._state = self._size_line
        self.complete = False

    @property
    def body(self) -> bytes:
        """The decoded octets."""
        return bytes(self._body)

    @property
    def raw(self) -> bytes:
        """The octets as they came, for llhttp to check."""
        return bytes(self._raw)

    def feed(self, data: bytes, start: int) -> int:
        """Decode from ``start``; returns the offset of the first octet not used yet. Raises Refused."""
        position = start
        while not self.complete:
            after = self._state(data, position)
            if after < 0:
                break
            self._raw += data[position:after]
            position = after
        return position

    # Each state returns the offset after what it used, or -1 if more must arrive.

    def _size_line(self, data: bytes, start: int) -> int:
        line, after = self._line(data, start)
        if line is None:
            return -1
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Refused(400, "not a chunk size")
        digits = match[1].lstrip(b"0")
        self._count_extra(len(line) - max(1, len(digits)))
        if len(digits) > 8 or len(self._body) + int(digits or b"0", 16) > self._max_body_bytes:
            raise Refused(413, "chunked body too large")
        self._left = int(digits or b"0", 16)
        self._state = self._data if self._left else self._trailer
        return after

    def _data(self, data: bytes, start: int) -> int:
        taken = min(self._left, len(data) - start)
        if taken == 0:
            return -1
        self._body += data[start : start + taken]
        self._left -= taken
        if self._left == 0:
            self._state = self._data_end
        return start + taken

    def _data_end(self, data: bytes, start: int) -> int:
        end = data[start : start + 2]
        if not b"\r\n".startswith(end):
            raise Refused(400, "chunk longer than its size")
        if len(end) < 2:
            return -1
        self._state = self._size_line
        return start + 2

    def _trailer(self, data: bytes, start: int) -> int:
        line, after = self._line(data, start)
        if line is None:
            return -1
        if line:
            self._count_extra(len(line) + 2)
        else:
            self.complete = True
        return after

    def _line(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        end = data.find(b"\r\n", start, start + _MAX_SIZE_LINE + 2)
        if end >= 0:
            return data[start:end], end + 2
        if len(data) - start > _MAX_SIZE_LINE + 1:
            raise Refused(413, "chunk line too long")
        if BARE_LINE_FEED.search(data, start):
            raise Refused(400, "bare LF")
        return None, -1

    def _count_extra(self, count: int) -> None:
        self._extra += count
        if self._extra > MAX_CHUNK_EXTRA:
            # RFC 9112 §7.1.1: extensions ought to be bounded.
            raise Refused(413, "too many chunk extensions")
