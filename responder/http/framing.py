"""Where a request begins and ends, and whether it may be believed: heads, fixed-length and chunked bodies.

llhttp reads every head and every body; this module finds their ends by itself and refuses what llhttp lets through.
Two readers that must agree on every octet leave no room for request smuggling (RFC 9112 §11.2). Bytes in, values
out: no sockets, no clock. Called by the protocol only.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from responder.config import HTTPConfig

MAX_FIELDS = 100  # fields in one header section; real clients send fewer than 20
MAX_LINE_START = 16  # the longest method we know, and a space; nothing needs more before the target
MAX_CHUNK_EXTRA = 4_096  # octets of chunk extensions, padding zeros and trailers in one body (RFC 9112 §7.1.1, §7.1.2)
_MAX_SIZE_LINE = 4_096
_END_OF_HEAD = b"\r\n\r\n"

# Fields that mean something here. Everything else is read by llhttp, counted, and forgotten.
_SINGLETONS = frozenset({b"host", b"content-length", b"content-type"})
_LISTS = frozenset({b"connection", b"transfer-encoding", b"expect", b"if-none-match", b"if-match"})
_DATES = frozenset({b"if-modified-since", b"if-unmodified-since"})
_CONDITIONS = _DATES | {b"if-none-match", b"if-match"}
_PLAIN_METHODS = (b"GET", b"POST")
_MEANT = _SINGLETONS | _LISTS | _DATES

# RFC 9112 §3.2, RFC 3986 §3.2.2: uri-host [":" port]. A comma is a legal sub-delim, but means two hosts joined.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?"
)
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)")
_ANY_VERSION = re.compile(rb" HTTP/[0-9](?:\.[0-9])?\Z")
_PLAUSIBLE_START = re.compile(rb"[A-Z-]+(?: |\Z)")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t\x20-\x7e\x80-\xff]*)?")


class Refused(Exception):
    """A request that ends its connection: ``status`` for the client, ``reason`` for our debug log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class HeadReader:
    """Reads the heads of one connection, one after the other; its attributes describe the latest.

    ``content_length`` is None without that field. ``fields`` holds the fields that mean something here, by
    lower-case name, without surrounding whitespace.
    """

    __slots__ = (
        "_complete",
        "_in_body",
        "_is_spent",
        "_last_host",
        "_max_header_bytes",
        "_max_target_bytes",
        "_parser",
        "_refusal",
        "chunked",
        "content_length",
        "fields",
        "http_1_0",
        "is_plain",
        "keep_alive",
        "method",
        "target",
    )

    def __init__(self, config: HTTPConfig) -> None:
        self._max_header_bytes = config.max_header_bytes
        self._max_target_bytes = config.max_target_bytes
        self.method = self.target = b""
        self.fields: dict[bytes, bytes] = {}
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = False
        self.http_1_0 = False
        self.is_plain = False  # GET or POST on a persistent HTTP/1.1 connection, without preconditions
        self._complete = 0  # ends of message that llhttp has seen since the head began; -1: it was not asked
        self._in_body = False
        self._last_host = b""  # found valid; a connection mostly repeats it
        self._refusal: Refused | None = None  # raised once llhttp is done: its callbacks cannot choose a status
        self._renew()

    def _renew(self) -> None:
        self._is_spent = False
        self._parser: Any = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Break the reference cycle with the parser."""
        self._parser = None

    # --- what llhttp calls ----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take the request target; whole, since heads are fed whole."""
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field; trailers (RFC 9112 §7.1.2) are read and ignored."""
        key = name.lower()
        if key not in _MEANT or self._in_body:
            # llhttp takes it for Connection, and reads nothing after a close; no standard has it.
            self._is_spent = self._is_spent or key == b"proxy-connection"
            return
        fields = self.fields
        if key not in fields:
            fields[key] = value.strip(b" \t")
        elif key in _LISTS:
            fields[key] += b", " + value.strip(b" \t")
        elif key in _DATES:
            fields[key] = b""  # two dates are no date: the field is ignored
        else:
            # RFC 9112 §3.2, §6.3: two Hosts or two lengths are an attack; so are two types.
            self._refusal = Refused(400, f"duplicate {key.decode()}")

    def on_message_complete(self) -> None:
        """Count ends of message: exactly one is due, and only where we see it too."""
        self._complete += 1

    # --- what the protocol calls ----------------------------------------------------------------------------------

    def find_end(self, data: bytes, start: int) -> int:
        """Return the offset after the head that begins at ``start``, or -1 if more must arrive.

        Raises Refused as soon as no continuation could make it a request: too long, or not HTTP at all.
        """
        end = data.find(_END_OF_HEAD, start)
        if end >= 0:
            return end + 4
        size = len(data) - start
        line_end = data.find(b"\r\n", start)
        if not _PLAUSIBLE_START.match(data, start):
            raise Refused(400, "not a request line")
        if line_end < 0:
            self._check_incomplete_line(data, start)
        elif line_end - start > self._max_target_bytes + MAX_LINE_START + 9:
            raise Refused(414, "target too long")
        elif not _ANY_VERSION.search(data, start, line_end):
            raise Refused(400, "not a request line")
        elif size - (line_end + 2 - start) > self._max_header_bytes + 1:  # 1: the CR of the empty line
            raise Refused(431, "header section too long")
        if _BARE_LINE_FEED.search(data, start):
            # RFC 9112 §2.2 lets us take a bare LF for a line's end; readers that differ on it can be smuggled past.
            raise Refused(400, "bare LF")
        return -1

    def _check_incomplete_line(self, data: bytes, start: int) -> None:
        space = data.find(b" ", start, start + MAX_LINE_START)
        if space < 0:
            if len(data) - start >= MAX_LINE_START:
                raise Refused(400, "no such method")
            return
        target_end = data.find(b" ", space + 1)
        # Without a second space, a final CR may be the line's end; it is not part of the target.
        target_bytes = (target_end if target_end >= 0 else len(data) - 1) - space - 1
        if target_bytes > self._max_target_bytes:
            raise Refused(414, "target too long")
        if target_end >= 0 and len(data) - target_end > len(b" HTTP/1.1\r"):
            raise Refused(400, "not a request line")

    def read(self, head: bytes) -> None:
        """Read a whole head, its empty line included, into the attributes; raises Refused."""
        line_end = head.find(b"\r\n")
        if line_end > self._max_target_bytes + MAX_LINE_START + 9:
            raise Refused(414, "target too long")
        if len(head) - line_end - 4 > self._max_header_bytes:
            raise Refused(431, "header section too long")
        if head.count(b"\r\n") - 2 > MAX_FIELDS:
            raise Refused(431, "too many fields")
        version = head[line_end - 9 : line_end]
        if version == b" HTTP/1.1":
            self.http_1_0 = False
        elif version == b" HTTP/1.0":
            self.http_1_0 = True
        elif _ANY_VERSION.search(head, 0, line_end):
            raise Refused(505, "version not supported")
        else:
            # llhttp also reads RTSP and ICE.
            raise Refused(400, "not a request line")
        if self._is_spent:
            self._renew()
        self.fields = {}
        self.target = b""
        self._complete = 0
        self._in_body = False
        self._refusal = None
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # RFC 9110 §7.8: a server MAY ignore Upgrade. We do; llhttp cannot, so it starts anew.
            self._renew()
            self._complete = -1
        except httptools.HttpParserError as error:
            raise Refused(400, str(error)) from error
        self._check_line(head, line_end)
        self._check_fields()

    def _check_line(self, head: bytes, line_end: int) -> None:
        space = head.find(b" ")
        self.method = head[:space]
        target = self.target
        if len(target) > self._max_target_bytes:
            raise Refused(414, "target too long")
        # RFC 9112 §3: single spaces; llhttp lets several through.
        if space + 1 + len(target) + 9 != line_end:
            raise Refused(400, "superfluous whitespace in the request line")
        if target[:1] != b"/":
            self._strip_authority(target)

    def _strip_authority(self, target: bytes) -> None:
        # RFC 9112 §3.2.2: a server MUST accept absolute-form. Scheme and authority are not looked at: what is asked
        # for stands in the path, and nothing is ever fetched or redirected by them (SEC-11).
        if absolute := _ABSOLUTE_FORM.match(target):
            if not _HOST.fullmatch(absolute[1]):
                raise Refused(400, "not a valid authority in the target")
            rest = target[absolute.end() :]
            self.target = rest if rest[:1] == b"/" else b"/" + rest
        elif self.method not in (b"OPTIONS", b"CONNECT"):  # their forms are for the 405 that follows
            raise Refused(400, "not a request target")

    def _check_fields(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        fields = self.fields
        host = fields.get(b"host")
        if host is None:
            # RFC 9112 §3.2: a 1.1 request without Host gets 400; HTTP/1.0 does not know it.
            if not self.http_1_0:
                raise Refused(400, "no Host")
        elif host != self._last_host:
            if not _HOST.fullmatch(host):
                raise Refused(400, "not a valid Host")
            self._last_host = host
        connection = fields.get(b"connection")
        if connection is None:
            # RFC 9112 §9.3: 1.1 persists unless it says close; 1.0 only if it says keep-alive.
            self.keep_alive = not self.http_1_0
        else:
            # llhttp overlooks a close that is not the first option.
            options = [option.strip(b" \t") for option in connection.lower().split(b",")]
            self.keep_alive = b"close" not in options and (not self.http_1_0 or b"keep-alive" in options)
        length = fields.get(b"content-length")
        self.content_length = None if length is None else int(length)  # llhttp let digits through, nothing else
        coding = fields.get(b"transfer-encoding")
        self.chunked = coding is not None
        if coding is not None:
            self._check_coding(coding.lower())
        self.is_plain = (
            self.keep_alive
            and not self.http_1_0
            and self.method in _PLAIN_METHODS
            and (len(fields) == 1 or not _CONDITIONS & fields.keys())  # one field: Host
        )
        if self._complete != (0 if self.content_length or self.chunked else 1) and self._complete >= 0:
            raise Refused(400, "no agreement on the body's length")

    def _check_coding(self, coding: bytes) -> None:
        # RFC 9112 §6.1: a Transfer-Encoding in HTTP/1.0 is faulty framing; llhttp lets it through.
        if self.http_1_0:
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        if self.content_length is not None:
            raise Refused(400, "Transfer-Encoding and Content-Length")
        if coding != b"chunked":
            # RFC 9112 §6.1: a coding that we do not understand SHOULD get 501.
            raise Refused(501, "transfer coding not supported")

    def check_body(self, raw: bytes) -> None:
        """Let llhttp read a body as it was framed by us; raises Refused unless it ends at the same octet."""
        if self._complete < 0:
            return  # an ignored Upgrade: llhttp has begun anew and expects a head
        self._in_body = True
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserError as error:
            raise Refused(400, str(error)) from error
        if self._complete != 1:
            raise Refused(400, "no agreement on the body's end")


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
        if _BARE_LINE_FEED.search(data, start):
            raise Refused(400, "bare LF")
        return None, -1

    def _count_extra(self, count: int) -> None:
        self._extra += count
        if self._extra > MAX_CHUNK_EXTRA:
            # RFC 9112 §7.1.1: extensions ought to be bounded.
            raise Refused(413, "too many chunk extensions")
