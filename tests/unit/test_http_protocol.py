"""The wire behaviour of one connection: octets in, octets out (docs/server-behavior.md says it in prose)."""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.errors import InvariantBroken
from responder.http.framing import MAX_CHUNK_EXTRA
from responder.http.heads import MAX_FIELDS
from responder.http.message import Request, Response
from responder.http.protocol import LINGER_S, MAX_EMPTY_LINES, MAX_LINGER_BYTES, MAX_PIPELINED
from responder.log import configure_logging
from tests.http_wire import EchoHandler, FixedHandler, LaterHandler, Wire, get, parse_replies, post, post_chunked

VECTORS = Path(__file__).parents[1] / "vectors" / "http"
CLIENTS = tomllib.loads((VECTORS / "clients" / "catalog.toml").read_text("utf-8"))["vector"]
SMUGGLING = tomllib.loads((VECTORS / "smuggling" / "catalog.toml").read_text("utf-8"))["vector"]
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def ids(vector: dict[str, Any]) -> str:
    return str(vector["id"])


# --- what real clients send ---------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
@pytest.mark.parametrize("vector", CLIENTS, ids=ids)
def test_captured_requests_of_clients(vector: dict[str, str]) -> None:
    """HTR-08, HTR-01: GnuTLS, OpenSSL, NSS and the JDK are answered, and hung up on exactly where they expect it."""
    wire = Wire().send((VECTORS / "clients" / vector["file"]).read_bytes())
    (request,) = wire.handler.requests
    assert wire.reply.status == 200
    assert request.method.decode() == vector["method"]
    assert wire.ended == (vector["version"] == "HTTP/1.0")
    assert "transfer-encoding" not in wire.reply.fields


@pytest.mark.parametrize("folder", ["clients", "smuggling"])
def test_catalogues_name_every_file_once(folder: str) -> None:
    """The catalogues and the files agree, and no key is misspelt."""
    vectors = CLIENTS if folder == "clients" else SMUGGLING
    assert sorted(vector["file"] for vector in vectors) == sorted(
        path.name for path in (VECTORS / folder).glob("*.http")
    )
    allowed = {"clients": {"id", "file", "client", "method", "version", "note"}, "smuggling": {"id", "file", "status", "clause", "why"}}  # fmt: skip
    assert all(vector.keys() == allowed[folder] for vector in vectors)
    assert len({vector["id"] for vector in vectors}) == len(vectors)


# --- smuggling ----------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9112", "11.2", "MUST")
@pytest.mark.parametrize("vector", SMUGGLING, ids=ids)
def test_smuggling_gets_one_response_and_the_door(vector: dict[str, Any]) -> None:
    """HTG-01, HTG-02, HTG-03, HTG-04: one refusal, then the connection ends; what follows is never read."""
    octets = (VECTORS / "smuggling" / vector["file"]).read_bytes()
    splits = [[octets], [bytes([octet]) for octet in octets]]
    splits += [[octets[:at], octets[at:]] for at in range(1, len(octets), 7)]
    for pieces in splits:
        wire = Wire().send(*pieces)
        assert wire.reply.status == vector["status"], pieces
        assert wire.reply.fields["connection"] == "close"
        assert wire.ended
        assert not wire.handler.requests


@pytest.mark.parametrize("vector", SMUGGLING, ids=ids)
def test_smuggling_after_a_good_request(vector: dict[str, Any]) -> None:
    """HTG-02: a good request before the bad one is answered first."""
    wire = Wire().send(get(b"/first") + (VECTORS / "smuggling" / vector["file"]).read_bytes())
    assert [reply.status for reply in wire.replies()] == [200, vector["status"]]
    assert [request.target for request in wire.handler.requests] == [b"/first"]


# --- GET, POST, HEAD and the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        b"/MEMwQTA%2FMD0wOzAJBgUr", b"/a+b/c=", b"//MEMw", b"/a//b", b"/%2e%2e/%00", b"/../../etc/passwd", b"/a?b=c",
        b"/a%0d%0aSet-Cookie:x", b"/%252f", b"//evil.example/", b"/\\..\\", b"/%c0%af",
    ],
)  # fmt: skip
def test_targets_reach_the_handler_untouched(target: bytes) -> None:
    """HTR-03, SEC-04, SEC-11: nothing is decoded, normalised, merged or redirected."""
    wire = Wire().send(get(target))
    assert wire.handler.requests[0].target == target
    assert wire.reply.status == 200
    assert "location" not in wire.reply.fields


@pytest.mark.clause("RFC 9112", "3.2.2", "MUST")
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://ocsp.example.com/a//b", b"/a//b"),
        (b"HTTP://[::1]:80/a", b"/a"),
        (b"http://ocsp.example.com", b"/"),
        (b"http://ocsp.example.com?q", b"/?q"),
    ],
)
def test_absolute_form(target: bytes, path: bytes) -> None:
    """SEC-04: absolute-form is accepted, its authority means nothing."""
    assert Wire().send(get(target)).handler.requests[0].target == path


def test_the_handler_sees_what_was_sent() -> None:
    """Request's fields are the client's octets, without the padding around them."""
    conditions = [
        b'If-None-Match:  "a"\t',
        b"if-modified-since: x",
        b"IF-MATCH: *",
        b"If-Unmodified-Since: y",
        b"Range: bytes=0-1",
    ]
    conditions.append(b'If-range: "b" ')
    wire = Wire(peer="2001:db8::1").send(post(b"abc", *conditions, content_type=b"Application/OCSP-Request; v=1 "))
    (request,) = wire.handler.requests
    assert {name: getattr(request, name) for name in Request.__slots__} == {
        "method": b"POST", "target": b"/", "body": b"abc", "content_type": b"Application/OCSP-Request; v=1",
        "if_none_match": b'"a"', "if_modified_since": b"x", "if_match": b"*", "if_unmodified_since": b"y", "range": b"bytes=0-1", "if_range": b'"b"', "peer": "2001:db8::1",
    }  # fmt: skip


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/ocsp-request", 200),
        (b"Application/OCSP-Request; v=1", 200),
        (b"application/ocsp-request ; charset=utf-8", 200),
        (b"application/ocsp-response", 415),
        (b"application/x-www-form-urlencoded", 415),
        (b"application/ocsp-request, application/ocsp-request", 415),
        (b"", 415),
    ],
)
def test_media_types_of_post(content_type: bytes, status: int) -> None:
    """HTR-06: case and parameters do not matter; another type is refused before its content is read."""
    wire = Wire().send(post(b"", content_type=content_type))
    assert wire.reply.status == status
    assert wire.ended == (status == 415)


def test_post_without_a_type_is_accepted() -> None:
    """HTR-06: a missing type is let through; the content shows what it is."""
    assert Wire().send(get(b"/", b"Content-Length: 3", method=b"POST") + b"abc").reply.body == b"POST / abc"


@pytest.mark.clause("RFC 9110", "9.3.2", "MUST NOT")
def test_head_has_no_content_and_keeps_step() -> None:
    """HTR-09: HEAD and GET by turns on one connection."""
    wire = Wire().send(get(b"/a", method=b"HEAD") + get(b"/b") + get(b"/c", method=b"HEAD") + get(b"/d"))
    assert [reply.body for reply in wire.replies()] == [b"", b"GET /b ", b"", b"GET /d "]
    assert [reply.fields["content-length"] for reply in wire.replies()] == ["8", "7", "8", "7"]


@pytest.mark.clause("RFC 9110", "15.5.6", "MUST")
@pytest.mark.parametrize("method", [b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"PROPFIND"])
def test_other_methods(method: bytes) -> None:
    """HTR-09: 405 with Allow; without content the connection lives on."""
    wire = Wire().send(get(method=method) + get(b"/next"))
    refused, answered = wire.replies()
    assert (refused.status, refused.fields["allow"], refused.body) == (405, "GET, HEAD, POST", b"")
    assert answered.body == b"GET /next "


def test_options_asterisk_and_connect() -> None:
    """HTR-09: the special forms of target get their 405, too; after CONNECT we hang up."""
    assert Wire().send(get(b"*", method=b"OPTIONS")).reply.status == 405
    wire = Wire().send(get(b"a.example:80", method=b"CONNECT") + get(b"/smuggled"))
    assert wire.reply.status == 405
    assert wire.ended
    assert not wire.handler.requests


@pytest.mark.clause("RFC 9110", "7.8", "MAY")
def test_upgrade_is_ignored() -> None:
    """curl --http2 and WebSocket clients get HTTP/1.1, and the connection lives on, with content and without."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    wire = Wire().send(get(b"/a", *upgrade) + get(b"/b") + post(b"abc", *upgrade) + get(b"/c"))
    assert [reply.body for reply in wire.replies()] == [b"GET /a ", b"GET /b ", b"POST / abc", b"GET /c "]
    assert not wire.ended


@pytest.mark.clause("RFC 6960", "A.1", "MUST")
def test_no_transport_security_and_no_redirect() -> None:
    """HTG-08: plain http stays plain http."""
    assert set(Wire().send(get()).reply.fields) == {"date", "content-length"}


# --- persistence --------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9112", "9.3", "MUST")
@pytest.mark.parametrize(
    ("version", "fields", "connection"),
    [
        (b"HTTP/1.1", [], None),
        (b"HTTP/1.1", [b"Connection: keep-alive"], None),
        (b"HTTP/1.1", [b"Connection: close"], "close"),
        (b"HTTP/1.1", [b"Connection: CLOSE"], "close"),
        (b"HTTP/1.1", [b"Connection: foo, close"], "close"),
        (b"HTTP/1.1", [b"Connection: keep-alive", b"Connection: close"], "close"),
        (b"HTTP/1.1", [b"Connection: close", b"Connection: keep-alive"], "close"),
        (b"HTTP/1.0", [], "close"),
        (b"HTTP/1.0", [b"Connection: close"], "close"),
        (b"HTTP/1.0", [b"Connection: Keep-Alive"], "keep-alive"),
        (b"HTTP/1.0", [b"Connection: keep-alive, close"], "close"),
    ],
)
def test_persistence(version: bytes, fields: list[bytes], connection: str | None) -> None:
    """HTG-05: 1.1 persists unless it says close, 1.0 only if it says keep-alive."""
    wire = Wire().send(get(b"/a", *fields, version=version), get(b"/b"))
    assert wire.replies()[0].fields.get("connection") == connection
    assert wire.ended == (connection == "close")
    assert len(wire.handler.requests) == (1 if connection == "close" else 2)


def test_http_1_0_client_gets_an_http_1_1_line_and_exact_length() -> None:
    """HTR-07: no chunking, Content-Length exact."""
    reply = Wire().send(get(version=b"HTTP/1.0")).reply
    assert (reply.version, reply.fields["content-length"]) == ("HTTP/1.1", str(len(reply.body)))


@pytest.mark.clause("RFC 9112", "2.2", "SHOULD")
def test_empty_lines_before_a_request() -> None:
    """A few empty lines are ignored, as after an old client's POST; many are not."""
    wire = Wire().send(post(b"abc") + b"\r\n" + get(b"/a"), b"\r", b"\n", get(b"/b"))
    assert [reply.status for reply in wire.replies()] == [200, 200, 200]
    wire = Wire().send(b"\r\n" * (MAX_EMPTY_LINES + 1))
    assert wire.reply.status == 400


# --- pipelining ---------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9112", "9.3.2", "MUST")
def test_a_hundred_pipelined_in_order() -> None:
    """HTG-05: 100 mixed requests on one connection, in one read: order and count match, in few writes."""
    stream = b"".join(get(b"/%d" % n) if n % 3 else post(b"%d" % n) for n in range(100))
    wire = Wire().send(stream)
    assert [reply.body for reply in wire.replies()] == [b"GET /%d " % n if n % 3 else b"POST / %d" % n for n in range(100)]  # fmt: skip
    assert wire.transport.writes == 1


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_late_answers_keep_the_order_of_the_requests(order: list[int]) -> None:
    """HTG-05: whichever answer is ready first, the first request's goes first."""
    wire = Wire(LaterHandler()).send(b"".join(get(b"/%d" % n) for n in range(4)))
    for n in order:
        wire.handler.replies[n](Response(200, b"answer %d" % n))
    assert [reply.body for reply in wire.replies()] == [b"answer %d" % n for n in range(4)]


def test_a_ready_answer_is_written_within_the_read() -> None:
    """The ready route: no Task, no later turn of the loop."""
    wire = Wire()
    wire.protocol.data_received(get())
    assert wire.out.endswith(b"GET / ")


def test_pipelining_is_bounded() -> None:
    """HTG-05, SEC-02: past MAX_PIPELINED unanswered requests we stop reading, and go on when answers go out."""
    wire = Wire(LaterHandler()).send(b"".join(get(b"/%d" % n) for n in range(3 * MAX_PIPELINED)))
    assert len(wire.handler.requests) == MAX_PIPELINED
    assert not wire.transport.reading
    for n in range(3 * MAX_PIPELINED):
        wire.handler.replies[n](Response(200, b"%d" % n))
    assert [reply.body for reply in wire.replies()] == [b"%d" % n for n in range(3 * MAX_PIPELINED)]
    assert wire.transport.reading


def test_close_ends_the_pipeline() -> None:
    """HTG-05: what follows a request that says close is not read, however late its answer."""
    wire = Wire(LaterHandler()).send(get(b"/a") + get(b"/b", b"Connection: close") + get(b"/c"))
    assert len(wire.handler.requests) == 2
    wire.handler.replies[1](Response(200, b"b"))
    wire.handler.replies[0](Response(200, b"a"))
    assert [reply.body for reply in wire.replies()] == [b"a", b"b"]
    assert wire.ended


def test_an_answer_to_a_client_that_has_gone() -> None:
    """A reply after the connection was lost does nothing."""
    wire = Wire(LaterHandler()).send(get(b"/a") + get(b"/b"))
    wire.lost()
    for reply in wire.handler.replies:
        reply(Response(200))
    assert wire.out == b""
    assert not wire.state.connections


def test_a_second_answer_is_a_bug() -> None:
    """A handler that answers twice is told so; the client sees one answer."""
    wire = Wire(LaterHandler()).send(get())
    wire.handler.replies[0](Response(200, b"once"))
    with pytest.raises(InvariantBroken):
        wire.handler.replies[0](Response(200, b"twice"))
    assert wire.reply.body == b"once"


class FailingHandler(EchoHandler):
    """Raises for /bug, before or after it replied."""

    def handle(self, request: Request, reply: Any) -> None:
        if request.target != b"/bug":
            super().handle(request, reply)
        if request.target != b"/":
            raise RuntimeError("a bug of ours")


def test_an_exception_in_the_handler_is_500_for_that_request_alone() -> None:
    """ERR-02: the worker lives on; an answer already given stands."""
    wire = Wire(FailingHandler()).send(get() + get(b"/bug") + get())
    assert [reply.status for reply in wire.replies()] == [200, 500]
    assert wire.ended
    assert Wire(FailingHandler()).send(get(b"/answered")).reply.status == 200


@pytest.mark.clause("RFC 9112", "9.6", "MUST")
def test_a_half_closed_client_is_answered() -> None:
    """A client that sends and shuts its side down gets what it asked for, then the end."""
    wire = Wire(LaterHandler()).send(get(b"/a") + get(b"/b") + b"GET /half")
    assert wire.protocol.eof_received() is True
    wire.handler.replies[0](Response(200, b"a"))
    assert not wire.ended
    wire.handler.replies[1](Response(200, b"b"))
    assert [reply.fields.get("connection") for reply in wire.replies()] == [None, "close"]
    assert wire.ended
    assert Wire().send(b"GET /").protocol.eof_received() is False


# --- any split ----------------------------------------------------------------------------------------------------

STREAM = [
    get(b"/MEMwQTA%2F"),
    post(b"\x30\x03\r\n\r\n"),
    post_chunked(b"ab", b"c" * 20, end=b'000;ext="a b"\r\nX-Trailer: y\r\n\r\n'),
    get(b"//x", method=b"HEAD"),
    b"\r\n" + get(b"/y", b"If-None-Match: *"),
    post(b""),
    get(method=b"OPTIONS"),
    get(b"http://a.example/z", b"Connection: keep-alive", version=b"HTTP/1.0"),
    post_chunked(),
]


def outcome(*pieces: bytes) -> tuple[bytes, list[tuple[bytes, bytes, bytes]]]:
    wire = Wire().send(*pieces)
    return wire.out, [(request.method, request.target, request.body) for request in wire.handler.requests]


def test_split_anywhere_is_the_same() -> None:
    """HTG-05: a pipelined stream cut in two at every offset, or sent octet by octet, gets the same octets."""
    stream = b"".join(STREAM)
    whole = outcome(stream)
    assert len(whole[1]) == len(STREAM) - 1  # the handler does not see OPTIONS
    for at in range(1, len(stream)):
        assert outcome(stream[:at], stream[at:]) == whole, at
    assert outcome(*(bytes([octet]) for octet in stream)) == whole


REQUESTS = st.sampled_from(STREAM)
OFFSETS = st.lists(st.integers(0, 2_000), max_size=8)


def cut(stream: bytes, offsets: list[int]) -> list[bytes]:
    marks = [0, *sorted({offset % (len(stream) + 1) for offset in offsets}), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks)]


@given(st.lists(REQUESTS, min_size=1, max_size=12).map(b"".join), OFFSETS)
@settings(max_examples=200, deadline=None)
def test_any_valid_stream_split_anyhow_is_the_same(stream: bytes, offsets: list[int]) -> None:
    """HTG-05: whatever valid requests in whatever pieces: same requests, same octets back."""
    assert outcome(*cut(stream, offsets)) == outcome(stream)


@given(
    st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join),
    st.lists(st.tuples(st.integers(0, 2_000), st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"0", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff"])), min_size=1, max_size=4),
    OFFSETS,
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_no_split_turns_rubbish_into_another_request(
    stream: bytes, changes: list[tuple[int, bytes]], offsets: list[int]
) -> None:
    """HTG-02: a damaged stream gives the handler the same requests however it arrives, and never an exception."""
    for offset, octets in changes:
        at = offset % (len(stream) + 1)
        stream = stream[:at] + octets + stream[at + (not octets) :]
    whole, pieces = Wire().send(stream), Wire().send(*cut(stream, offsets))
    seen = [[(r.method, r.target, r.body) for r in wire.handler.requests] for wire in (whole, pieces)]
    assert seen[0] == seen[1]
    assert whole.ended == pieces.ended
    methods = [r.method for r in whole.handler.requests if r.method == b"HEAD"]
    if not methods:
        statuses = [[reply.status for reply in parse_replies(wire.out)] for wire in (whole, pieces)]
        assert [status < 400 for status in statuses[0]] == [status < 400 for status in statuses[1]]


# --- limits -------------------------------------------------------------------------------------------------------

LIMITS = {"max_body_bytes": 1_000, "max_target_bytes": 8_192, "max_header_bytes": 2_000}


@pytest.mark.clause("RFC 9112", "3", "RECOMMENDED")
@pytest.mark.parametrize("length", [255, 2_000, 8_000, 8_192])
def test_long_targets(length: int) -> None:
    """HTR-05: no 255 limit; request lines of 8000 octets and more pass."""
    target = b"/".ljust(length, b"a")
    assert Wire(limits=LIMITS).send(get(target)).handler.requests[0].target == target


@pytest.mark.clause("RFC 9110", "15.5.15", "MAY")
@pytest.mark.parametrize("cut_at", [None, 8_192 + 14, 8_192 + 6], ids=["whole", "in the version", "in the target"])
def test_target_too_long(cut_at: int | None) -> None:
    """HTR-05, HTR-11: 414, not a reset, as soon as the limit is passed."""
    wire = Wire(limits=LIMITS).send(get(b"/".ljust(8_193, b"a"))[:cut_at])
    assert wire.reply.status == 414
    assert wire.ended


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "unfinished"])
@pytest.mark.parametrize(("size", "status"), [(2_000, 200), (2_001, 431)])
def test_header_section_size(size: int, status: int, whole: bool) -> None:
    """HTR-11, SEC-02: 431 for max_header_bytes + 1, complete or not; no octet more is needed to know."""
    rest = size - len(b"Host: a\r\nX: \r\n")
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * rest + b"\r\n\r\n"
    wire = Wire(limits=LIMITS)
    if whole:
        wire.send(request)
    else:
        wire.send(*(bytes([octet]) for octet in request[: -1 if status == 200 else None]))
        if status == 200:
            assert wire.out == b""
            wire.send(b"\n")
    assert wire.reply.status == status


@pytest.mark.parametrize(("count", "status"), [(MAX_FIELDS, 200), (MAX_FIELDS + 1, 431)])
def test_number_of_fields(count: int, status: int) -> None:
    """HTR-11, SEC-02: 431 for more fields than any client sends."""
    assert Wire().send(get(b"/", *[b"X: y"] * (count - 1))).reply.status == status


@pytest.mark.clause("RFC 9110", "15.5.14", "MAY")
@pytest.mark.parametrize("length", [1_001, 10_000_000_000, 10**18])
def test_declared_body_too_large(length: int) -> None:
    """HTR-11: 413 at once, before the first octet of content, and close."""
    wire = Wire(limits=LIMITS).send(get(b"/", b"Content-Length: %d" % length, method=b"POST"))
    assert wire.reply.status == 413
    assert wire.ended


def test_body_at_the_limit() -> None:
    """SEC-02: the limit itself is allowed, fixed or chunked."""
    body = b"x" * 1_000
    wire = Wire(limits=LIMITS).send(post(body) + post_chunked(*[b"x"] * 1_000))
    assert [request.body for request in wire.handler.requests] == [body, body]


@pytest.mark.parametrize("chunks", [[b"x" * 1_001], [b"x"] * 1_001, [b"x" * 600] * 2])
def test_chunked_body_too_large(chunks: list[bytes]) -> None:
    """HTG-03, HTR-11: 413 as soon as the sizes add up to too much."""
    wire = Wire(limits=LIMITS).send(post_chunked(*chunks))
    assert wire.reply.status == 413
    assert not wire.handler.requests


def test_endless_chunked_body() -> None:
    """HTR-11: a client that never ends is cut off after max_body_bytes."""
    wire = Wire(limits=LIMITS).send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    sent = 0
    while not wire.ended:
        wire.send(b"a\r\n0123456789\r\n")
        sent += 1
    assert sent == 101
    assert wire.reply.status == 413


@pytest.mark.clause("RFC 9112", "7.1.1", "MUST")
def test_chunk_extensions_and_trailers_are_ignored_within_bounds() -> None:
    """HTG-03: extensions and trailers do not harm a small body."""
    head = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    wire = Wire().send(
        head + b'2;a=b;c="d"\r\nhi\r\n0;last\r\nX-Sum: 1\r\nContent-Type: text/html\r\n\r\n' + get(b"/next")
    )
    assert [request.body for request in wire.handler.requests] == [b"hi", b""]
    assert wire.handler.requests[0].content_type is None


@pytest.mark.parametrize(
    ("line", "times"),
    [
        (b"1;" + b"x" * 1_000 + b"\r\nx\r\n", 10),
        (b"1;" + b"x" * 16_384 + b"\r\nx\r\n", 1),
        (b"0" * 1_000 + b"1\r\nx\r\n", 10),
        (b"0\r\n" + b"X: y\r\n" * 1_000, 1),
        (b"0\r\nX: " + b"y" * 16_384 + b"\r\n", 1),
    ],
    ids=["extensions", "extension", "zeros", "trailers", "trailer"],
)
@pytest.mark.parametrize("dribbled", [False, True])
def test_chunk_padding_is_cut_off(line: bytes, times: int, dribbled: bool) -> None:
    """HTG-03: extensions, zeros and trailers that only keep us busy are counted and refused."""
    stream = line * times + b"0\r\n\r\n"
    wire = Wire().send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
    sent = 0
    for octets in [stream[at : at + 100] for at in range(0, len(stream), 100)] if dribbled else [stream]:
        wire.send(octets)
        sent += len(octets)
        if wire.ended:
            break
    assert wire.reply.status == 413
    assert not wire.handler.requests
    assert not dribbled or sent < 2 * MAX_CHUNK_EXTRA


@pytest.mark.clause("RFC 9110", "15.5.12", "MAY")
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_post_without_length(version: bytes) -> None:
    """HTR-11: 411."""
    assert Wire().send(get(method=b"POST", version=version)).reply.status == 411


def test_error_responses_are_bare_and_not_kept() -> None:
    """ERR-07, HTR-11: an HTTP error has no content, no cache keeps it, and it says that we close."""
    reply = Wire().send(get(b"/", b"Content-Length: 99999999", method=b"POST")).reply
    assert reply.fields.keys() == {"date", "content-length", "cache-control", "connection"}
    assert (reply.body, reply.fields["cache-control"]) == (b"", "no-store")


# --- Expect -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9110", "10.1.1", "MUST")
def test_expect_continue() -> None:
    """HTR-10: 100 at once, then the answer."""
    head, body = post(b"abc", b"Expect: 100-Continue")[:-3], b"abc"
    wire = Wire().send(head)
    assert wire.out == CONTINUE
    assert wire.send(body).out[len(CONTINUE) :].endswith(b"POST / abc")


def test_expect_continue_with_chunks() -> None:
    """HTR-10: the same for a chunked body."""
    wire = Wire().send(get(b"/", b"Transfer-Encoding: chunked", b"Expect: 100-continue", method=b"POST"))
    assert wire.out == CONTINUE
    assert wire.send(b"1\r\nx\r\n0\r\n\r\n").out.endswith(b"POST / x")


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (post(b"abc", b"Expect: 100-continue"), 200),
        (post(b"abc", b"Expect: 100-continue")[:-2], None),
        (post(b"abc", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")[:-3], None),
        (post(b"", b"Expect: 100-continue"), 200),
        (get(b"/", b"Expect: 100-continue"), 200),
        (post(b"x" * 20_000, b"Expect: 100-continue")[:-20_000], 413),
        (post(b"abc", b"Expect: 100-continue", content_type=b"text/plain")[:-3], 415),
        (post(b"abc", b"Expect: pink")[:-3], 417),
    ],
)
def test_when_no_continue_is_sent(stream: bytes, status: int | None) -> None:
    """HTR-10: none where content is there already, to HTTP/1.0, or where the final status is known."""
    wire = Wire().send(stream)
    assert CONTINUE not in wire.out
    assert [reply.status for reply in wire.replies()] == ([] if status is None else [status])


def test_continue_keeps_its_turn() -> None:
    """HTR-10, HTG-05: 100 waits until the answers before it have gone."""
    wire = Wire(LaterHandler()).send(get(b"/a") + post(b"abc", b"Expect: 100-continue")[:-3])
    assert wire.out == b""
    wire.handler.replies[0](Response(200, b"a"))
    assert wire.out.endswith(b"\r\n\r\na" + CONTINUE)
    wire.send(b"abc")
    wire.handler.replies[1](Response(200, b"b"))
    assert [reply.status for reply in parse_replies(wire.out)] == [200, 100, 200]


# --- time ---------------------------------------------------------------------------------------------------------

TIMES = {"header_timeout": "10s", "idle_timeout": "60s"}


@pytest.mark.clause("RFC 9110", "15.5.9", "SHOULD")
@pytest.mark.parametrize("start", [b"G", get()[:-2], post(b"abc")[:-1], post(b"abc")[:-3], get(b"/", b"Transfer-Encoding: chunked", method=b"POST")])  # fmt: skip
def test_a_request_that_does_not_arrive(start: bytes) -> None:
    """SEC-05: 408 header_timeout after the first octet, however it dribbles."""
    wire = Wire(limits=TIMES).send(start).wait(10)
    assert wire.out == b""
    wire.wait(1)
    assert wire.reply.status == 408
    assert wire.ended
    assert wire.transport.half_closed
    wire.wait(LINGER_S + 1)
    assert wire.transport.aborted


def test_dribbling_does_not_buy_time() -> None:
    """SEC-05: an octet a second is no progress."""
    wire = Wire(limits=TIMES)
    for octet in get(b"/" + b"a" * 100)[:11]:
        wire.send(bytes([octet])).wait(1)
    assert wire.reply.status == 408


def test_each_request_has_its_own_time() -> None:
    """SEC-05: a slow second request is not charged for the first, nor the first for idling before it."""
    wire = Wire(limits=TIMES).wait(9).send(get()[:-4]).wait(9).send(get()[-4:])
    assert wire.reply.status == 200
    wire.wait(50).send(get()[:-4]).wait(9).send(get()[-4:] + get(b"/half")[:-1]).wait(9)
    assert [reply.status for reply in wire.replies()] == [200, 200]
    wire.wait(2)
    assert [reply.status for reply in wire.replies()] == [200, 200, 408]


def test_idle_connections_are_closed_without_a_word() -> None:
    """SEC-05: idle_timeout after the last answer; header_timeout where nothing was ever asked."""
    wire = Wire(limits=TIMES).wait(11)
    assert (wire.out, wire.transport.closed) == (b"", True)
    wire = Wire(limits=TIMES).send(get()).wait(60)
    assert not wire.ended
    wire.wait(1)
    assert (len(wire.replies()), wire.ended) == (1, True)


def test_a_busy_connection_is_never_idle() -> None:
    """The wheel's lazy buckets do not expire what moved on."""
    wire = Wire(limits=TIMES)
    for _ in range(50):
        wire.send(get()).wait(7)
    assert len(wire.replies()) == 50
    assert not wire.ended


def test_the_wheel_keeps_few_notes() -> None:
    """SEC-05: a connection that alternates between slow requests and idling does not pile up notes in the wheel."""
    wire = Wire(limits=TIMES)
    for _ in range(500):
        wire.send(get()[:-4]).wait(3).send(get()[-4:]).wait(4)
    assert len(wire.replies()) == 500
    assert sum(len(bucket) for bucket in wire.state.wheel._buckets.values()) <= 8


def test_a_client_that_does_not_read() -> None:
    """SEC-05: past the high-water mark we stop reading and answering, and cut it off after idle_timeout."""
    wire = Wire(FixedHandler(Response(200, b"x" * 10_000)), limits=TIMES, reads=False)
    wire.send(get() * 100)
    answered = len(wire.handler.requests)
    assert 6 <= answered < 20
    assert not wire.transport.reading
    wire.wait(60)
    assert not wire.transport.aborted
    wire.wait(1)
    assert wire.transport.aborted


def test_a_client_that_reads_again() -> None:
    """SEC-05: what waited is answered, in order and completely."""
    wire = Wire(FixedHandler(Response(200, b"x" * 10_000)), limits=TIMES, reads=False)
    wire.send(get() * 100).wait(30)
    wire.transport.reads, wire.transport.unsent = True, 0
    wire.protocol.resume_writing()
    assert len(wire.replies()) == 100
    assert wire.transport.reading
    assert not wire.ended


def test_an_answer_that_never_comes() -> None:
    """A handler that forgets a request does not keep the connection for ever."""
    wire = Wire(LaterHandler(), limits=TIMES).send(get()).wait(61)
    assert wire.transport.aborted


def test_a_refused_client_may_finish_sending_but_not_for_ever() -> None:
    """HTR-11: after 413 the client's octets are taken and dropped, so that it can read why; up to a bound."""
    wire = Wire().send(get(b"/", b"Content-Length: 10000000000", method=b"POST"))
    assert (wire.transport.half_closed, wire.transport.closed) == (True, False)
    wire.send(b"x" * MAX_LINGER_BYTES)
    assert not wire.transport.closed
    wire.send(b"x")
    assert wire.transport.aborted


def test_an_orderly_close_does_not_linger() -> None:
    """With nothing unread, close is close."""
    assert Wire().send(get(b"/", b"Connection: close")).transport.closed


# --- drain and admission ------------------------------------------------------------------------------------------


def test_drain() -> None:
    """Idle connections are closed at once; others get their answer, which says close."""
    idle = Wire().send(get())
    state = idle.state
    fresh = Wire(state=state)
    arriving = Wire(state=state).send(get(b"/half")[:-1])
    later = LaterHandler()
    state.handler = later
    asked = Wire(state=state).send(get(b"/a") + get(b"/b"))
    state.draining = True
    for wire in (idle, fresh, arriving, asked):
        wire.protocol.drain()
    assert [wire.ended for wire in (idle, fresh, arriving, asked)] == [True, False, False, False]
    later.replies[0](Response(200, b"a"))
    assert not asked.ended
    later.replies[1](Response(200, b"b"))
    assert [reply.fields.get("connection") for reply in parse_replies(asked.out)] == [None, "close"]
    assert asked.ended
    state.handler = EchoHandler()
    for wire in (arriving.send(b"\n"), fresh.send(get())):
        (reply,) = parse_replies(wire.out)
        assert reply.fields["connection"] == "close"
        assert wire.ended


def test_connections_are_counted_in_and_out() -> None:
    """SEC-05: the next connection past a limit is closed at once, and room is made again by one that ends."""
    first = Wire(limits={"max_connections": 3, "max_connections_per_address": 2})
    second = Wire(state=first.state)
    refused = Wire(state=first.state)
    assert (refused.transport.aborted, refused.out) == (True, b"")
    refused.lost()
    other = Wire(state=first.state, peer="192.0.2.2")
    assert Wire(state=first.state, peer="192.0.2.3").transport.aborted
    second.lost()
    again = Wire(state=first.state)
    assert not again.transport.closed
    assert len(first.state.connections) == 3
    for wire in (first, other, again):
        wire.lost()
    assert not first.state.connections


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    """SEC-05: a /64 belongs to one client; IPv4 in IPv6's clothes is the IPv4 address."""
    first = Wire(limits={"max_connections_per_address": 1}, peer="2001:db8::1")
    assert Wire(state=first.state, peer="2001:db8::2").transport.aborted
    assert not Wire(state=first.state, peer="2001:db8:0:1::1").transport.aborted
    assert not Wire(state=first.state, peer="192.0.2.1").transport.aborted
    assert Wire(state=first.state, peer="::ffff:192.0.2.1").transport.aborted


# --- logs ---------------------------------------------------------------------------------------------------------


def test_a_client_cannot_write_in_the_log(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    """SEC-10: control characters, quotes and length: one escaped record at debug, none above."""
    attack = b'GET /%0a\x1b[31m\r\x00"}{\n' + b"A" * 5_000
    request.addfinalizer(structlog.reset_defaults)
    configure_logging("test", level="debug")
    Wire().send(attack)
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["event"], record["status"], record["peer"]) == ("request_refused", 400, "192.0.2.1")
    assert len(line) < 1_000
    assert "\x1b" not in line
    configure_logging("test", level="info")
    Wire().send(attack)
    assert capsys.readouterr().err == ""
