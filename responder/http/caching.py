"""The caching rules of an answer that is true until a known time: validators, freshness, preconditions.

RFC 9110 §8.8 (validators), §13 (preconditions), RFC 9111 §5 (Cache-Control, Expires), RFC 9919 §6, §7.2 (which of
them an OCSP answer carries). Knows no OCSP: a body, its type and three times. Called by endpoints and, through
``Response``, by the protocol.
"""

from __future__ import annotations

import re
from calendar import timegm
from hashlib import sha256
from typing import NamedTuple

from responder.http.message import STATUS_LINES, Request, Response, date_line, http_date

_ETAG_OPEN = b'ETag: "'
_AGE_OPEN = b"Cache-Control: max-age="
_AGE_CLOSE = b", public, no-transform, must-revalidate\r\n"
# RFC 9919 §7.2 rules out no-store and no-cache on an authoritative answer.
_PRIVATE = b"max-age=0, private, no-transform, must-revalidate"

_MONTH_NUMBERS = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}
_MONTH = rb"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_HTTP_DATES = (
    # RFC 9110 §5.6.7: IMF-fixdate, then the obsolete forms, which a recipient MUST accept: RFC 850, asctime.
    re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT"),
    re.compile(rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{2})-" + _MONTH + rb"-(?P<year>[0-9]{2}) " + _TIME + rb" GMT"),
    re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) " + _MONTH + rb" (?P<day>[0-9]{2}| [0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)  # fmt: skip
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_ENTITY_TAG = rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# RFC 9110 §5.6.1.2: empty list elements are to be tolerated.
_ENTITY_TAG_LIST = re.compile(rb"[ \t,]*" + _ENTITY_TAG + rb"(?:[ \t]*,[ \t,]*" + _ENTITY_TAG + rb")*[ \t,]*")
_ENTITY_TAGS = re.compile(rb'(W/)?("[^"]*")')


def parse_http_date(value: bytes, now: int) -> int | None:
    """Return the POSIX second of an HTTP-date in any of its three forms; None if it is not one.

    ``now`` decides the century of RFC 850's two-digit year: a date more than 50 years ahead is meant to be past.
    """
    for form in _HTTP_DATES:
        if match := form.fullmatch(value):
            break
    else:
        return None
    year, month, day = int(match["year"]), _MONTH_NUMBERS[match["month"]], int(match["day"])
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if len(match["year"]) == 2:
        leap = year % 4 == 0  # the centuries that can be meant are 1900's and later; 2000 is a leap year
    if not 1 <= day <= _DAYS_IN_MONTH[month - 1] or (month == 2 and day == 29 and not leap):
        return None
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    if len(match["year"]) == 2:
        century = int(http_date(now)[12:14]) * 100
        year += century
        if timegm((year, month, day, hour, minute, second)) > timegm((_year(now) + 50, *_rest(now))):
            year -= 100
    return timegm((year, month, day, hour, minute, second))


def _year(now: int) -> int:
    return int(http_date(now)[12:16])


def _rest(now: int) -> tuple[int, int, int, int, int]:
    date = http_date(now)
    return (_MONTH_NUMBERS[date[8:11]], int(date[5:7]), int(date[17:19]), int(date[20:22]), int(date[23:25]))


def etag_matches(field: bytes, etag: bytes, *, weak: bool) -> bool:
    """Tell whether a list of entity tags, or ``*``, holds ``etag`` (a strong one, with its quotes).

    RFC 9110 §8.8.3.2: the weak comparison ignores ``W/``, the strong one never matches a weak tag. A field that is
    not a list of entity tags matches nothing.
    """
    if field == etag:  # what every cache sends
        return True
    if field.strip(b" \t") == b"*":
        return True
    if not _ENTITY_TAG_LIST.fullmatch(field):
        return False
    return any(tag == etag and (weak or not weakness) for weakness, tag in _ENTITY_TAGS.findall(field))


class HeadParts(NamedTuple):
    """What the heads of CachedResponses are made of, for whoever puts them together without making one (fastpath.express).

    To GET: status_line, Date, to_length, the length, CRLF, Last-Modified, etag_open, the digest in hex, a quote and CRLF,
    Expires, age_open, max-age, age_close. To POST: status_line, Date, post_to_length, the length, CRLF, Last-Modified.
    """

    status_line: bytes
    to_length: bytes
    post_to_length: bytes
    etag_open: bytes
    age_open: bytes
    age_close: bytes


def head_parts(content_type: bytes) -> HeadParts:
    """Return the fixed parts of the heads of answers of one media type."""
    to_length = b"Content-Type: " + content_type + b"\r\n"
    return HeadParts(
        STATUS_LINES[200],
        to_length + b"Content-Length: ",
        to_length + b"Cache-Control: " + _PRIVATE + b"\r\nContent-Length: ",
        _ETAG_OPEN,
        _AGE_OPEN,
        _AGE_CLOSE,
    )


def last_modified_line(this_update: int) -> bytes:
    """Return the Last-Modified field's line."""
    return b"Last-Modified: " + http_date(this_update) + b"\r\n"


def expires_line(next_update: int) -> bytes:
    """Return the Expires field's line; RFC 9919 §7.2: it equals nextUpdate."""
    return b"Expires: " + http_date(next_update) + b"\r\n"


class CachedResponse(Response):
    """A successful answer that caches may keep: the same bytes from every worker, for everybody.

    ``this_update``, ``next_update`` and ``fresh_until`` are POSIX seconds. Caches may use it until ``fresh_until``,
    by which time there is a newer one, and must ask again then (max-age, must-revalidate).
    """

    __slots__ = ("_content_type", "_post", "etag_digest", "fresh_until", "next_update", "this_update")

    def __init__(
        self,
        body: bytes,
        content_type: bytes,
        this_update: int,
        next_update: int,
        fresh_until: int,
        etag_digest: bytes | None = None,
    ) -> None:
        """``etag_digest`` is the SHA-256 of ``body``, where the caller knows it."""
        # RFC 9111 §4.3.1 and RFC 9110 §8.6: Content-Type and exact Content-Length with the content.
        super().__init__(200, body, ((b"Content-Type", content_type),))
        self._content_type = content_type
        self.this_update = this_update
        self.next_update = next_update
        # RFC 9919 §7.2: max-age ends after thisUpdate and before nextUpdate.
        self.fresh_until = min(fresh_until, next_update - 1)
        # RFC 9919 §7.2: the ETag is the hex SHA-256 of the OCSPResponse; strong, and the same from every worker.
        self.etag_digest = sha256(body).digest() if etag_digest is None else etag_digest
        self._post: Response | None = None

    @property
    def etag(self) -> bytes:
        """The entity tag, with its quotes."""
        return b'"%s"' % self.etag_digest.hex().encode("ascii")

    def head(self, second: int) -> bytes:
        """Return the head with the seven fields of RFC 9919 §6."""
        return (
            STATUS_LINES[self.status]
            + date_line(second)
            + self._lines
            + _last_modified(self.this_update, second)
            + self._freshness(second)
        )

    def for_request(self, request: Request, second: int) -> Response:
        """Evaluate the request's preconditions (RFC 9110 §13.2.2); POST has none and is not to be cached."""
        if request.method == b"POST":
            if self._post is None:
                self._post = _PostResponse(self)
            return self._post
        if (
            request.if_none_match is None
            and request.if_modified_since is None
            and request.if_match is None
            and request.if_unmodified_since is None
        ):
            return self
        if request.if_match is not None:
            if not etag_matches(request.if_match, self.etag, weak=False):
                return _PreconditionFailed()
        elif request.if_unmodified_since is not None:
            date = parse_http_date(request.if_unmodified_since, second)
            if date is not None and not self.is_unchanged_since(date):
                return _PreconditionFailed()
        # RFC 9110 §13.1.3: If-Modified-Since MUST be ignored beside If-None-Match, and if it is not a valid date.
        if request.if_none_match is not None:
            if etag_matches(request.if_none_match, self.etag, weak=True):
                return _NotModified(self)
        elif request.if_modified_since is not None:
            date = parse_http_date(request.if_modified_since, second)
            if date is not None and self.is_unchanged_since(date):
                return _NotModified(self)
        return self

    def is_unchanged_since(self, date: int) -> bool:
        """Tell whether it is what it was at a POSIX second."""
        return self.this_update <= date

    def _freshness(self, second: int) -> bytes:
        return b'%s%s"\r\n%s%s%d%s' % (
            _ETAG_OPEN,
            self.etag_digest.hex().encode("ascii"),
            expires_line(self.next_update),
            _AGE_OPEN,
            max(0, self.fresh_until - second),
            _AGE_CLOSE,
        )


def _last_modified(this_update: int, second: int) -> bytes:
    # RFC 9110 §8.8.2.1: never later than Date, not even on a machine whose clock was stepped back.
    return last_modified_line(min(this_update, second))


class _NotModified(Response):
    """304 for a CachedResponse.

    RFC 9110 §15.4.5: Cache-Control, Date, ETag and Expires as in the 200, no content, and no other metadata.
    """

    __slots__ = ("_full",)

    def __init__(self, full: CachedResponse) -> None:
        super().__init__(304)
        self._full = full

    def head(self, second: int) -> bytes:
        return STATUS_LINES[304] + date_line(second) + self._full._freshness(second)


class _PostResponse(Response):
    """The same content in answer to a POST, for this client alone.

    A cache that kept it under the request's URL, which is the same for every POST, would hand one certificate's
    status to everybody. RFC 9111 §4 forbids that; caches have done it. So there is no explicit freshness to keep it
    by, no Expires and no ETag.
    """

    __slots__ = ("_this_update",)

    def __init__(self, full: CachedResponse) -> None:
        super().__init__(
            200,
            full.body,
            (
                (b"Content-Type", full._content_type),
                (b"Cache-Control", _PRIVATE),
            ),
        )
        self._this_update = full.this_update

    def head(self, second: int) -> bytes:
        return super().head(second) + _last_modified(self._this_update, second)


class _PreconditionFailed(Response):
    """412: If-Match or If-Unmodified-Since does not hold (RFC 9110 §15.5.13)."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(412, b"", ((b"Cache-Control", b"no-store"),))
