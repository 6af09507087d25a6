"""Heads of requests: where one ends, what llhttp reads in it, and whether that may be believed.

llhttp reads every head and every body; this module and framing find their ends by themselves and refuse what llhttp lets
through. Two readers that must agree on every octet leave no room for request smuggling (RFC 9112 §11.2). Bytes in, values
out: no sockets, no clock. Compiled, since every request that is not the express lane's comes by here. Called by the
protocol only.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

import re

import httptools

from responder.http.framing import BARE_LINE_FEED, Refused

cdef enum:
    FIELDS_MOST = 100  # in one header section; real clients send fewer than 20
    LINE_START_MOST = 16  # the longest method we know, and a space; nothing needs more before the target
    LEAST_FIELD = 4  # octets of a field with its line's end
    VERSION_SIZE = 9  # " HTTP/1.1"

MAX_FIELDS = FIELDS_MOST

cdef bytes END_OF_HEAD = b"\r\n\r\n"
cdef bytes GET = b"GET"
cdef bytes POST = b"POST"

# Fields that mean something here. Everything else is read by llhttp, counted, and forgotten.
cdef frozenset LISTS = frozenset({b"connection", b"transfer-encoding", b"expect", b"if-none-match", b"if-match"})
# Not lists, but twice one of them is the same as none: joined, they mean nothing to whoever reads them.
cdef frozenset RANGES = frozenset({b"range", b"if-range"})
cdef frozenset DATES = frozenset({b"if-modified-since", b"if-unmodified-since"})
cdef frozenset CONDITIONS = DATES | {b"if-none-match", b"if-match"}
cdef frozenset MEANT = LISTS | DATES | RANGES | {b"host", b"content-length", b"content-type"}

# RFC 9112 §3.2, RFC 3986 §3.2.2: uri-host [":" port]. A comma is a legal sub-delim, but means two hosts joined.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?"
)
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)")
_ANY_VERSION = re.compile(rb" HTTP/[0-9](?:\.[0-9])?\Z")
_PLAUSIBLE_START = re.compile(rb"[A-Z-]+(?: |\Z)")


cdef Py_ssize_t line_end_of(const char* head, Py_ssize_t size) noexcept nogil:
    """Offset of the first CR LF; -1: there is none."""
    cdef const char* at = head
    while True:
        at = <const char*>memchr(at, c"\r", size - (at - head))
        if at == NULL or at - head + 1 >= size:
            return -1
        if at[1] == c"\n":
            return at - head
        at += 1


@cython.final
@cython.auto_pickle(False)
cdef class HeadReader:
    cdef readonly bytes method
    cdef readonly bytes target
    cdef readonly dict fields
    cdef readonly object content_length
    cdef readonly bint chunked
    cdef readonly bint keep_alive
    cdef readonly bint http_1_0
    cdef readonly bint is_plain
    cdef Py_ssize_t _max_header_bytes
    cdef Py_ssize_t _max_target_bytes
    cdef object _parser
    cdef int _complete  # ends of message that llhttp has seen since the head began; -1: it was not asked
    cdef bint _in_body
    cdef bint _is_spent
    cdef bytes _last_host  # found valid; a connection mostly repeats it
    cdef object _refusal  # raised once llhttp is done: its callbacks cannot choose a status

    def __init__(self, Py_ssize_t max_header_bytes, Py_ssize_t max_target_bytes):
        self._max_header_bytes = max_header_bytes
        self._max_target_bytes = max_target_bytes
        self.method = self.target = self._last_host = b""
        self.fields = {}
        self._renew()

    cdef int _renew(self) except -1:
        self._is_spent = False
        self._parser = httptools.HttpRequestParser(self)
        return 0

    def close(self):
        self._parser = None

    # --- what llhttp calls ----------------------------------------------------------------------------------------

    def on_url(self, bytes url not None):
        self.target = url

    def on_header(self, bytes name not None, bytes value not None):
        cdef bytes key = name.lower()
        cdef dict fields = self.fields
        if key not in MEANT or self._in_body:
            # llhttp takes it for Connection, and reads nothing after a close; no standard has it.
            self._is_spent = self._is_spent or key == b"proxy-connection"
        elif key not in fields:
            fields[key] = value.strip(b" \t")
        elif key in LISTS or key in RANGES:
            fields[key] += b", " + value.strip(b" \t")
        elif key in DATES:
            fields[key] = b""  # two dates are no date: the field is ignored
        else:
            # RFC 9112 §3.2, §6.3: two Hosts or two lengths are an attack; so are two types.
            self._refusal = Refused(400, f"duplicate {key.decode()}")

    def on_message_complete(self):
        self._complete += 1

    # --- what the protocol calls ----------------------------------------------------------------------------------

    def find_end(self, bytes data not None, Py_ssize_t start):
        cdef Py_ssize_t end = data.find(END_OF_HEAD, start)
        cdef Py_ssize_t size = len(data) - start
        cdef Py_ssize_t line_end
        if end >= 0:
            return end + 4
        line_end = data.find(b"\r\n", start)
        if not _PLAUSIBLE_START.match(data, start):
            raise Refused(400, "not a request line")
        if line_end < 0:
            self._check_incomplete_line(data, start)
        elif line_end - start > self._max_target_bytes + LINE_START_MOST + VERSION_SIZE:
            raise Refused(414, "target too long")
        elif not _ANY_VERSION.search(data, start, line_end):
            raise Refused(400, "not a request line")
        elif size - (line_end + 2 - start) > self._max_header_bytes + 1:  # 1: the CR of the empty line
            raise Refused(431, "header section too long")
        if BARE_LINE_FEED.search(data, start):
            # RFC 9112 §2.2 lets us take a bare LF for a line's end; readers that differ on it can be smuggled past.
            raise Refused(400, "bare LF")
        return -1

    cdef int _check_incomplete_line(self, bytes data, Py_ssize_t start) except -1:
        cdef Py_ssize_t space = data.find(b" ", start, start + LINE_START_MOST)
        cdef Py_ssize_t target_end, target_bytes
        if space < 0:
            if len(data) - start >= LINE_START_MOST:
                raise Refused(400, "no such method")
            return 0
        target_end = data.find(b" ", space + 1)
        # Without a second space, a final CR may be the line's end; it is not part of the target.
        target_bytes = (target_end if target_end >= 0 else len(data) - 1) - space - 1
        if target_bytes > self._max_target_bytes:
            raise Refused(414, "target too long")
        if target_end >= 0 and len(data) - target_end > VERSION_SIZE + 1:
            raise Refused(400, "not a request line")
        return 0

    def read(self, bytes head not None):
        cdef const char* octets = PyBytes_AS_STRING(head)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(head)
        cdef Py_ssize_t line_end = line_end_of(octets, size)
        if line_end > self._max_target_bytes + LINE_START_MOST + VERSION_SIZE:
            raise Refused(414, "target too long")
        if size - line_end - 4 > self._max_header_bytes:
            raise Refused(431, "header section too long")
        if size > LEAST_FIELD * FIELDS_MOST and head.count(b"\r\n") - 2 > FIELDS_MOST:
            raise Refused(431, "too many fields")
        if line_end >= VERSION_SIZE and memcmp(octets + line_end - VERSION_SIZE, b" HTTP/1.1", VERSION_SIZE) == 0:
            self.http_1_0 = False
        elif line_end >= VERSION_SIZE and memcmp(octets + line_end - VERSION_SIZE, b" HTTP/1.0", VERSION_SIZE) == 0:
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

    cdef int _check_line(self, bytes head, Py_ssize_t line_end) except -1:
        cdef const char* octets = PyBytes_AS_STRING(head)
        cdef const char* space = <const char*>memchr(octets, c" ", PyBytes_GET_SIZE(head))
        cdef Py_ssize_t method_size = space - octets  # there is one: before the version
        if method_size == 3 and memcmp(octets, b"GET", 3) == 0:
            self.method = GET
        elif method_size == 4 and memcmp(octets, b"POST", 4) == 0:
            self.method = POST
        else:
            self.method = head[:method_size]
        if PyBytes_GET_SIZE(self.target) > self._max_target_bytes:
            raise Refused(414, "target too long")
        # RFC 9112 §3: single spaces; llhttp lets several through.
        if method_size + 1 + PyBytes_GET_SIZE(self.target) + VERSION_SIZE != line_end:
            raise Refused(400, "superfluous whitespace in the request line")
        if PyBytes_GET_SIZE(self.target) == 0 or PyBytes_AS_STRING(self.target)[0] != c"/":
            self._strip_authority(self.target)
        return 0

    cdef int _strip_authority(self, bytes target) except -1:
        # RFC 9112 §3.2.2: a server MUST accept absolute-form. Scheme and authority are not looked at: what is asked
        # for stands in the path, and nothing is ever fetched or redirected by them (SEC-11).
        cdef object absolute = _ABSOLUTE_FORM.match(target)
        if absolute:
            if not _HOST.fullmatch(absolute[1]):
                raise Refused(400, "not a valid authority in the target")
            rest = target[absolute.end() :]
            self.target = rest if rest[:1] == b"/" else b"/" + rest
        elif self.method not in (b"OPTIONS", b"CONNECT"):  # their forms are for the 405 that follows
            raise Refused(400, "not a request target")
        return 0

    cdef int _check_fields(self) except -1:
        cdef dict fields = self.fields
        cdef object host = fields.get(b"host")
        cdef object connection, length, coding
        if self._refusal is not None:
            raise self._refusal
        if host is None:
            # RFC 9112 §3.2: a 1.1 request without Host gets 400; HTTP/1.0 does not know it.
            if not self.http_1_0:
                raise Refused(400, "no Host")
        elif host != self._last_host:
            if not _HOST.fullmatch(host):
                raise Refused(400, "not a valid Host")
            self._last_host = host
        # RFC 9112 §9.3: 1.1 persists unless it says close; 1.0 only if it says keep-alive.
        self.keep_alive = not self.http_1_0
        self.content_length = None
        self.chunked = False
        if len(fields) > (0 if host is None else 1):  # more than Host
            connection = fields.get(b"connection")
            if connection is not None:
                # llhttp overlooks a close that is not the first option.
                options = [option.strip(b" \t") for option in connection.lower().split(b",")]
                self.keep_alive = b"close" not in options and (not self.http_1_0 or b"keep-alive" in options)
            length = fields.get(b"content-length")
            if length is not None:
                self.content_length = int(length)  # llhttp let digits through, nothing else
            coding = fields.get(b"transfer-encoding")
            if coding is not None:
                self.chunked = True
                self._check_coding(coding.lower())
        self.is_plain = (
            self.keep_alive
            and not self.http_1_0
            and (self.method is GET or self.method is POST)
            and (len(fields) == 1 or not CONDITIONS & fields.keys())  # one field: it is Host
        )
        if self._complete >= 0 and self._complete != (0 if self.content_length or self.chunked else 1):
            raise Refused(400, "no agreement on the body's length")
        return 0

    cdef int _check_coding(self, bytes coding) except -1:
        # RFC 9112 §6.1: a Transfer-Encoding in HTTP/1.0 is faulty framing; llhttp lets it through.
        if self.http_1_0:
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        if self.content_length is not None:
            raise Refused(400, "Transfer-Encoding and Content-Length")
        if coding != b"chunked":
            # RFC 9112 §6.1: a coding that we do not understand SHOULD get 501.
            raise Refused(501, "transfer coding not supported")
        return 0

    def check_body(self, bytes raw not None):
        if self._complete < 0:
            return  # an ignored Upgrade: llhttp has begun anew and expects a head
        self._in_body = True
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserError as error:
            raise Refused(400, str(error)) from error
        if self._complete != 1:
            raise Refused(400, "no agreement on the body's end")
