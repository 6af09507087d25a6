"""A file as a response: whole, or the one part of it that a client asks for; cached by the rules of caching.py.

Of the file there is a descriptor and a size here, never its octets: file_sender sends them. RFC 9110 §14 (ranges), §13.1.5
(If-Range), §15.3.7 (206), §15.5.17 (416). Knows no CRL. Made by endpoints, sent by the protocol.
"""

from __future__ import annotations

import os
import re

from responder.http.caching import CachedResponse, parse_http_date
from responder.http.message import Request, Response, field_lines, http_error

# RFC 9110 §14.1.1: one range of octets; §14.1: the unit's name has no case. More digits than a file can have octets, and
# several ranges, are as if there were none: §14.2 lets a server ignore the field, and a client must not make us put a
# body together from a thousand pieces (§14.2, §17.15).
_RANGE = re.compile(rb"[Bb][Yy][Tt][Ee][Ss]=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*")


class HeldFile:
    """A file kept open for as long as anybody holds this; read at given offsets, so many may at the same time.

    The descriptor goes with the last reference: the endpoint lets go of a file that was replaced, and whatever is still
    being sent of it is sent to its end.
    """

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        """Take over a descriptor of a file of ``size`` octets."""
        self.fd = fd
        self.size = size

    def __del__(self) -> None:
        os.close(self.fd)


def requested_part(field: bytes, size: int) -> tuple[int, int] | None:
    """Return where the part that a Range field asks for begins and ends (exclusive); None: the field is to be ignored.

    An empty part means that nothing of it is there (416).
    """
    match = _RANGE.fullmatch(field)
    if match is None:
        return None
    if match[3] is not None:
        return (max(0, size - int(match[3])), size)
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return None  # RFC 9110 §14.1.1: invalid, so ignored
    return (start, max(start, min(last + 1, size)))


class FileResponse(CachedResponse):
    """A file, or a part of it, that caches may keep until ``fresh_until``; ``start`` and ``end`` say what is sent.

    ``modified`` goes into Last-Modified. Where ``date_tells`` is False it does not tell this file from another that
    had its name: dates then prove nothing to us (RFC 9110 §8.8.2.2), and a client that knows only them gets it all.
    """

    __slots__ = ("_date_tells", "end", "file", "start")

    def __init__(
        self,
        file: HeldFile,
        content_type: bytes,
        etag_digest: bytes,
        modified: int,
        fresh_until: int,
        *,
        date_tells: bool = True,
        part: tuple[int, int] | None = None,
    ) -> None:
        """``etag_digest`` is the SHA-256 of the whole file; times are POSIX seconds. With a ``part`` it is a 206."""
        super().__init__(b"", content_type, modified, fresh_until + 1, fresh_until, etag_digest)
        self.next_update = fresh_until  # Expires says what max-age says: some caches know it alone (RFC 9111 §5.3)
        self.file = file
        self.start, self.end = part or (0, file.size)
        self._date_tells = date_tells
        fields = [(b"Content-Type", content_type), (b"Content-Length", b"%d" % (self.end - self.start))]
        if part is not None:
            # RFC 9110 §15.3.7: every field of the 200 besides. Beside If-Range some SHOULD be left out; they are as
            # true there, and clients look at the type.
            self.status = 206
            fields.append((b"Content-Range", b"bytes %d-%d/%d" % (self.start, self.end - 1, file.size)))
        self._lines = field_lines((*fields, (b"Accept-Ranges", b"bytes")))

    def is_unchanged_since(self, date: int) -> bool:
        """Tell whether it is what it was at a POSIX second."""
        return self._date_tells and super().is_unchanged_since(date)

    def for_request(self, request: Request, second: int) -> Response:
        """Evaluate preconditions, then the range (RFC 9110 §13.2.2)."""
        response = super().for_request(request, second)
        # RFC 9110 §14.2: a Range means nothing in other methods than GET.
        if response is not self or request.range is None or request.method != b"GET":
            return response
        part = requested_part(request.range, self.file.size)
        if part is None or not self._is_if_range(request.if_range, second):
            return self
        if part[0] >= part[1]:
            return http_error(416, ((b"Content-Range", b"bytes */%d" % self.file.size), (b"Accept-Ranges", b"bytes")))
        return FileResponse(
            self.file,
            self._content_type,
            self.etag_digest,
            self.this_update,
            self.fresh_until,
            date_tells=self._date_tells,
            part=part,
        )

    def _is_if_range(self, field: bytes | None, second: int) -> bool:
        """Tell whether the client has the beginning of this very file (RFC 9110 §13.1.5), or did not ask."""
        if field is None or field == self.etag:
            return True
        # Only a strong validator will do: no weak tag, and a date only if nothing else had it.
        return self._date_tells and parse_http_date(field, second) == self.this_update
