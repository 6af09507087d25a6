"""Caching headers and preconditions of responder.http.caching."""

from __future__ import annotations

import hashlib
import re
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.http.caching import CachedResponse, etag_matches, parse_http_date
from responder.http.message import Request, Response, http_date, non_authoritative_response
from tests.http_wire import NOW, FixedHandler, Reply, Wire, get, post

BODY = b"\x30\x03\x0a\x01\x00 not really an OCSPResponse"
THIS_UPDATE, NEXT_UPDATE, FRESH_UNTIL = NOW - 3_600, NOW + 86_400, NOW + 40_000
RESPONSE_TYPE = b"application/ocsp-response"
ETAG = '"' + hashlib.sha256(BODY).hexdigest() + '"'
IMF_FIXDATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT")  # fmt: skip


def ask(*fields: bytes, method: bytes = b"GET", after: int = 0) -> Reply:
    wire = Wire(FixedHandler(CachedResponse(BODY, RESPONSE_TYPE, THIS_UPDATE, NEXT_UPDATE, FRESH_UNTIL)))
    wire.clock.advance(after)
    return wire.send(get(b"/x", *fields, method=method)).reply


def seconds_of(date: str) -> int:
    assert IMF_FIXDATE.fullmatch(date), date
    return int(parsedate_to_datetime(date).timestamp())


@pytest.mark.clause("RFC 9919", "6", "SHOULD")
def test_all_fields_of_a_cacheable_answer() -> None:
    """HTC-01, HTR-07: type, exact length, validators, freshness and Date; nothing coded, no charset."""
    reply = ask()
    assert reply.status == 200
    assert reply.body == BODY
    assert set(reply.fields) == {"date", "content-type", "content-length", "last-modified", "etag", "expires", "cache-control"}  # fmt: skip
    assert reply.fields["content-type"] == "application/ocsp-response"
    assert reply.fields["content-length"] == str(len(BODY))
    assert reply.fields["cache-control"] == "max-age=40000, public, no-transform, must-revalidate"


@pytest.mark.clause("RFC 9110", "6.6.1", "MUST")
def test_date_is_the_second_of_sending() -> None:
    """HTC-01: an origin server with a clock sends Date."""
    assert seconds_of(ask(after=7).fields["date"]) == NOW + 7


@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_last_modified_is_this_update() -> None:
    """HTC-02: Last-Modified is thisUpdate."""
    assert seconds_of(ask().fields["last-modified"]) == THIS_UPDATE


@pytest.mark.clause("RFC 9110", "8.8.2.1", "MUST NOT")
def test_last_modified_is_never_later_than_date() -> None:
    """HTC-02: on a clock stepped back, Date stands in for a thisUpdate that lies ahead."""
    fields = ask(after=-7_200).fields
    assert fields["last-modified"] == fields["date"]


@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_expires_is_next_update() -> None:
    """HTC-03: Expires is nextUpdate, whenever it is asked for."""
    assert {seconds_of(ask(after=after).fields["expires"]) for after in (0, 1, 50_000)} == {NEXT_UPDATE}


@pytest.mark.clause("RFC 9919", "7.2", "RECOMMENDED")
def test_etag_is_the_strong_hash_of_the_body() -> None:
    """HTC-04: hex SHA-256, quoted, strong, the same from every worker."""
    assert ask().fields["etag"] == ETAG


@pytest.mark.clause("RFC 9919", "7.1", "MUST")
@pytest.mark.parametrize(("after", "max_age"), [(0, 40_000), (1, 39_999), (39_999, 1), (40_000, 0), (80_000, 0)])
def test_max_age_counts_down_to_the_refresh(after: int, max_age: int) -> None:
    """HTC-05: max-age names the same instant whenever it is asked for, and never a negative age."""
    assert ask(after=after).fields["cache-control"].startswith(f"max-age={max_age},")


@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_max_age_ends_before_next_update() -> None:
    """HTC-05: even a refresh planned too late leaves max-age before nextUpdate."""
    response = CachedResponse(BODY, RESPONSE_TYPE, THIS_UPDATE, NEXT_UPDATE, NEXT_UPDATE + 100)
    assert b"max-age=%d," % (NEXT_UPDATE - NOW - 1) in response.head(NOW)


def test_a_response_is_rendered_anew_each_second() -> None:
    """What is kept for a second is not kept for two."""
    response = CachedResponse(BODY, RESPONSE_TYPE, THIS_UPDATE, NEXT_UPDATE, FRESH_UNTIL)
    assert response.wire(NOW) is response.wire(NOW)
    assert response.wire(NOW) != response.wire(NOW + 1)


OLD, SAME, NEW = (http_date(THIS_UPDATE + offset) for offset in (-1, 0, 1))
MATCHING, OTHER = ETAG.encode(), b'"' + b"0" * 64 + b'"'


@pytest.mark.clause("RFC 9110", "13.1.2", "MUST")
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 200),
        ([b"If-None-Match: " + MATCHING], 304),
        ([b"If-None-Match: W/" + MATCHING], 304),
        ([b"If-None-Match: *"], 304),
        ([b"If-None-Match: " + OTHER], 200),
        ([b"If-None-Match: " + OTHER + b", W/" + MATCHING], 304),
        ([b'If-None-Match: W/"a,b" ,,' + MATCHING + b","], 304),
        ([b"If-None-Match: " + OTHER, b"If-None-Match: " + MATCHING], 304),
        ([b'If-None-Match: "a", ' + OTHER], 200),
        ([b"If-None-Match: " + MATCHING.strip(b'"')], 200),
        ([b"If-None-Match: " + MATCHING + b" " + OTHER], 200),
        ([b"If-None-Match: *, " + MATCHING], 200),
        ([b"If-None-Match:"], 200),
        ([b"If-Modified-Since: " + SAME], 304),
        ([b"If-Modified-Since: " + NEW], 304),
        ([b"If-Modified-Since: " + OLD], 200),
        ([b"If-Modified-Since: yesterday"], 200),
        ([b"If-Modified-Since: " + SAME.replace(b"GMT", b"UTC")], 200),
        ([b"If-Modified-Since: " + SAME, b"If-Modified-Since: " + SAME], 200),
        ([b"If-None-Match: " + OTHER, b"If-Modified-Since: " + SAME], 200),
        ([b"If-None-Match: " + MATCHING, b"If-Modified-Since: " + OLD], 304),
        ([b"If-Match: " + MATCHING], 200),
        ([b"If-Match: *"], 200),
        ([b"If-Match: W/" + MATCHING], 412),
        ([b"If-Match: " + OTHER], 412),
        ([b"If-Match: " + MATCHING, b"If-None-Match: " + MATCHING], 304),
        ([b"If-Unmodified-Since: " + OLD], 412),
        ([b"If-Unmodified-Since: " + SAME], 200),
        ([b"If-Unmodified-Since: never"], 200),
        ([b"If-Match: *", b"If-Unmodified-Since: " + OLD], 200),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_preconditions(fields: list[bytes], status: int, method: bytes) -> None:
    """HTC-06: weak comparison, lists and `*`; If-Modified-Since only alone and only with a date."""
    reply = ask(*fields, method=method)
    assert reply.status == status
    assert reply.body == (BODY if status == 200 and method == b"GET" else b"")


@pytest.mark.clause("RFC 9110", "15.4.5", "MUST")
def test_not_modified_carries_what_a_cache_needs() -> None:
    """HTC-06: 304 has Cache-Control, Date, ETag and Expires as the 200 would, and no content."""
    full, unchanged = ask(after=3), ask(b"If-None-Match: *", after=3)
    assert set(unchanged.fields) == {"cache-control", "date", "etag", "expires"}
    assert unchanged.fields == {name: full.fields[name] for name in unchanged.fields}


@pytest.mark.clause("RFC 9110", "5.6.7", "MUST")
@pytest.mark.parametrize(
    "date",
    [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"],
)
def test_three_forms_of_date(date: bytes) -> None:
    """HTC-07: the obsolete forms are understood."""
    assert parse_http_date(date, NOW) == 784_111_777


@pytest.mark.clause("RFC 9110", "5.6.7", "MUST")
def test_two_digit_years_lie_at_most_fifty_years_ahead() -> None:
    """HTC-07: an RFC 850 year that seems more than 50 years ahead is of the last century."""
    assert parse_http_date(b"Friday, 01-Jan-76 00:00:00 GMT", NOW) == 3_345_062_400  # 2076
    assert parse_http_date(b"Friday, 01-Jan-77 00:00:00 GMT", NOW) == 220_924_800  # 1977


@pytest.mark.parametrize(
    "date",
    [
        b"", b"0", b"1795000000", b"2026-11-18T11:06:40Z", b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000", b"sun, 06 nov 1994 08:49:37 gmt", b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Feb 1994 08:49:37 GMT", b"Tue, 29 Feb 2023 00:00:00 GMT", b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT", b"Sun, 06 Nov 1994 08:60:00 GMT", b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Wednesday, 29-Feb-26 00:00:00 GMT", b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)  # fmt: skip
def test_what_is_not_a_date_is_ignored(date: bytes) -> None:
    """HTC-06: no date, no condition."""
    assert parse_http_date(date, NOW) is None


@given(st.integers(0, 253_402_300_799))
def test_dates_round_trip(seconds: int) -> None:
    """HTC-07: what we write we read, and so does Python's own parser."""
    date = http_date(seconds)
    assert IMF_FIXDATE.fullmatch(date.decode())
    assert parse_http_date(date, NOW) == seconds
    assert parsedate_to_datetime(date.decode()).timestamp() == seconds


@given(st.binary(max_size=200))
def test_any_octets_may_stand_in_a_condition(octets: bytes) -> None:
    """SEC-02: rubbish in a condition is no error and matches nothing by accident."""
    assert parse_http_date(octets, NOW) is None or octets[:3].isalpha()
    assert not etag_matches(octets, MATCHING, weak=True) or b"*" in octets or MATCHING in octets


@pytest.mark.clause("RFC 9111", "4", "MUST NOT")
def test_post_is_not_to_be_cached_and_says_the_same() -> None:
    """HTC-08, ERR-07: same content; nothing by which a cache might keep it; yet no no-store on a true answer."""
    wire = Wire(FixedHandler(CachedResponse(BODY, RESPONSE_TYPE, THIS_UPDATE, NEXT_UPDATE, FRESH_UNTIL)))
    reply = wire.send(post(b"abc", b"If-None-Match: *")).reply
    assert reply.status == 200
    assert reply.body == ask().body
    assert reply.fields["cache-control"] == "max-age=0, private, no-transform, must-revalidate"
    assert not reply.fields.keys() & {"expires", "etag", "pragma", "content-location"}


@pytest.mark.clause("RFC 9919", "7.2", "MUST NOT")
def test_true_answers_are_never_forbidden_to_caches() -> None:
    """ERR-07: neither no-cache nor no-store nor Pragma on an authoritative answer."""
    for fields in (ask().fields, ask(b"If-None-Match: *").fields, ask(method=b"HEAD").fields):
        assert "no-cache" not in fields["cache-control"]
        assert "no-store" not in fields["cache-control"]
        assert "pragma" not in fields


@pytest.mark.clause("RFC 9919", "7.2", "SHOULD")
def test_non_authoritative_answers_are_not_kept() -> None:
    """ERR-06, ERR-07: an OCSP error is a 200 of the OCSP type that no cache keeps, and conditions do not touch it."""
    response = non_authoritative_response(b"\x30\x03\x0a\x01\x06", RESPONSE_TYPE)
    reply = Wire(FixedHandler(response)).send(get(b"/x", b"If-None-Match: *")).reply
    assert (reply.status, reply.body) == (200, b"\x30\x03\x0a\x01\x06")
    assert reply.fields["cache-control"] == "no-store"
    assert set(reply.fields) == {"date", "content-type", "content-length", "cache-control"}


@pytest.mark.clause("RFC 9110", "12.5.5", "SHOULD")
@pytest.mark.parametrize(
    "field", [b"Cache-Control: no-cache", b"Pragma: no-cache", b"Accept: text/html", b"Accept-Encoding: gzip", b"X-Forwarded-Host: evil.example", b"Range: bytes=0-1"],
)  # fmt: skip
def test_nothing_else_in_a_request_changes_the_answer(field: bytes) -> None:
    """HTC-09, SEC-07: no Vary, since nothing varies; no-cache reaches us and gets the same octets."""
    assert ask(field) == ask()


@pytest.mark.clause("RFC 9110", "9.3.2", "SHOULD")
def test_head_mirrors_get() -> None:
    """HTR-09: every field of the GET, and no content."""
    head, full = ask(method=b"HEAD"), ask()
    assert head.fields == full.fields
    assert (head.body, full.body) == (b"", BODY)


def test_a_line_break_in_a_field_is_refused() -> None:
    """A response cannot be split."""
    with pytest.raises(ValueError, match="line break"):
        Response(200, b"", ((b"Content-Type", b"text/plain\r\nSet-Cookie: a"),))


def test_for_request_is_pure() -> None:
    """The same response serves GET and POST by turns."""
    response = CachedResponse(BODY, RESPONSE_TYPE, THIS_UPDATE, NEXT_UPDATE, FRESH_UNTIL)
    before = response.wire(NOW)
    response.for_request(Request(b"POST", b"/"), NOW).wire(NOW)
    assert response.for_request(Request(b"GET", b"/"), NOW).wire(NOW) == before
