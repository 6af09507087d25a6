"""The express lane answers octet for octet as the ordinary route does, or leaves the read to it (DESIGN §6).

Three connections stand beside each other: with the lane, with llhttp and the short way to ready answers, and with llhttp
and the endpoint alone, which is the reference (tests/express_room.py).
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.express import Missing
from fastpath.ocsp_response import error_response
from responder.http.message import http_date
from responder.http.state import ServerState
from responder.log import configure_logging
from responder.model import OCSPResponseStatus
from responder.store.layout import bucket_number
from tests.edge_room import EdgeRoom, in_edge, until
from tests.express_room import (
    GOOD,
    HOST,
    IDLE,
    MEANT,
    MODES,
    NEXT_UPDATE,
    POST_TYPE,
    REVOKED,
    THIS_UPDATE,
    WRONG,
    ExpressRoom,
    Kept,
    Streams,
    cut,
    get,
    post,
    post_of,
    request,
    target_of,
)
from tests.http_wire import NOW, Wire, parse_replies
from tests.pki import make_signer, verify
from tests.redis_fixture import RedisServer
from tests.reference import request_builder as build
from tests.signing_room import GOOD as GOOD_TEXT
from tests.signing_room import Room

VECTORS = Path(__file__).parents[1] / "vectors" / "http"
SMUGGLING = tomllib.loads((VECTORS / "smuggling" / "catalog.toml").read_text("utf-8"))["vector"]
CLIENTS = tomllib.loads((VECTORS / "clients" / "catalog.toml").read_text("utf-8"))["vector"]
TRY_LATER = error_response(OCSPResponseStatus.TRY_LATER)
UNAUTHORIZED = error_response(OCSPResponseStatus.UNAUTHORIZED)
MAX_REQUESTS = 16
MAX_MESSAGES = 65_536
MAX_FIELDS = 64


@pytest.fixture(autouse=True)
def _quiet() -> None:
    configure_logging("test", "error")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> ExpressRoom:
    """A room whose clock and table nobody changes for good."""
    configure_logging("test", "error")
    return ExpressRoom(tmp_path_factory.mktemp("express"))


@pytest.fixture
def room(tmp_path: Path) -> ExpressRoom:
    """A room of the test's own."""
    return ExpressRoom(tmp_path)


def taken(room: ExpressRoom, data: bytes) -> bytes | None:
    """Return what the lane writes for a read, None where it leaves it; nothing is sent."""
    answer = room.lane.read(data)
    if type(answer) is tuple:
        return answer[0]  # and its connection ends
    return answer if type(answer) is bytes else None


def padded(kept: Kept, count: int) -> bytes:
    """Return a request that an idle extension makes ``count`` octets long."""
    for size in range(count):
        der = kept.request(extensions=[build.extension(build.PRIVATE, bytes(size))])
        if len(der) == count:
            return der
    raise AssertionError(f"no request of {count} octets")


# --- any stream -----------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 9112", "11.2", "MUST")
def test_thousands_of_streams_get_the_same_octets_every_way(standing: ExpressRoom) -> None:
    """HTG-02: valid, odd, wrong and damaged requests, pipelined and cut anywhere: the same octets, the same end."""
    streams = Streams(standing)
    standing.took.clear()
    statuses: Counter[int] = Counter()
    for seed in range(6_000):
        chance = random.Random(seed)
        stream = streams.stream(chance)
        statuses += standing.run(*cut(chance, stream)).statuses
    assert statuses.keys() >= {200, 304, 400, 405, 411, 412, 413, 415, 417, 505}
    reads = standing.took.total()
    assert standing.took["taken"] > reads / 6
    assert standing.took["left"] > reads / 6
    assert standing.took["missing"] > 10


@given(st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_any_stream_gets_the_same_octets_every_way(standing: ExpressRoom, chance: random.Random) -> None:
    """The same, with hypothesis to make a difference small."""
    standing.run(*cut(chance, Streams(standing).stream(chance)))


def test_cut_in_two_at_every_offset(standing: ExpressRoom) -> None:
    """HTG-05: wherever the read ends, in a head, in a body or between requests."""
    kept = standing.kept
    shelf = next(iter(standing.shelf.values()))
    streams = [
        get(kept[0], b"User-Agent: x") + post(kept[12]) + get(kept[3]),
        post(kept[0], b"Connection: keep-alive") + b"\r\n" + get(shelf) + get(kept[2]),
        get(kept[1], b"If-None-Match: *") + get(kept[7]) + get(kept[4], b"Connection: close") + get(kept[5]),
        get(kept[0]) + request(b"GET", kept[0].target, HOST, b"X : y") + get(kept[1]),
    ]
    for stream in streams:
        whole = standing.run(stream)
        for at in range(1, len(stream)):
            cut_in_two = standing.run(stream[:at], stream[at:])
            assert stream is streams[-1] or cut_in_two.out == whole.out
    for stream in streams[:3]:
        assert standing.run(*(bytes([octet]) for octet in stream)).out == standing.run(stream).out


@pytest.mark.clause("RFC 9112", "11.2", "MUST")
@pytest.mark.parametrize("vector", SMUGGLING, ids=lambda vector: str(vector["id"]))
def test_smuggling_is_the_same_every_way(standing: ExpressRoom, vector: dict[str, Any]) -> None:
    """HTG-02: alone, and with plain requests before and behind in the same read; no way but the ordinary one answers."""
    octets = (VECTORS / "smuggling" / vector["file"]).read_bytes()
    plain = get(standing.kept[0])
    for stream in (octets, plain + octets, octets + plain, plain + octets + plain, post(standing.kept[1]) + octets):
        assert standing.lane.read(stream) is None
        seen = standing.run(stream)
        assert seen.statuses[vector["status"]] == 1
        assert seen.statuses[200] == (1 if stream.startswith((plain, b"POST / HTTP/1.1\r\n" + HOST)) and stream != octets else 0)  # fmt: skip
        assert seen.closed or seen.half_closed
        for at in range(1, len(stream), 37):
            standing.run(stream[:at], stream[at:])
    # The lane answers the first read; the smuggled one comes alone.
    assert taken(standing, plain) is not None
    assert standing.run(plain, octets, plain).statuses == {200: 1, vector["status"]: 1}


@pytest.mark.parametrize("vector", CLIENTS, ids=lambda vector: str(vector["id"]))
def test_captured_requests_are_the_same_every_way(standing: ExpressRoom, vector: dict[str, Any]) -> None:
    """HTR-08: what real clients send."""
    octets = (VECTORS / "clients" / vector["file"]).read_bytes()
    standing.run(octets)
    standing.run(get(standing.kept[0]) + octets)


# --- what the lane takes and what it leaves ---------------------------------------------------------------------------

TAKEN: dict[str, Callable[[Kept], bytes]] = {
    "GET": get,
    "POST": post,
    "POST without type": lambda kept: request(b"POST", b"/", HOST, b"Content-Length: %d" % len(kept.request_der), body=kept.request_der),
    "POST with a path": lambda kept: post_of(kept.request_der, path=b"/ocsp//a%2Fb/~x.y_z-+="),
    "POST, type in capitals": lambda kept: request(b"POST", b"/", HOST, POST_TYPE.upper(), b"Content-Length: %d" % len(kept.request_der), body=kept.request_der),
    "POST, leading zeros": lambda kept: request(b"POST", b"/", HOST, b"Content-Length: 000%d" % len(kept.request_der), body=kept.request_der),
    "raw target": lambda kept: request(b"GET", target_of(kept.request_der, random.Random(2)), HOST),
    "one slash more": lambda kept: request(b"GET", b"/" + kept.target, HOST),
    "lower-case hex": lambda kept: request(b"GET", re.sub(rb"%..", lambda found: found[0].lower(), kept.target), HOST),
    "every octet quoted": lambda kept: request(b"GET", b"/" + b"".join(b"%%%02x" % octet for octet in target_of(kept.request_der, random.Random(2))[1:]), HOST),
    "Connection: keep-alive": lambda kept: get(kept, b"CONNECTION:\t Keep-Alive \t"),
    "idle fields": lambda kept: get(kept, *(line for line in IDLE if line.lower()[:10] != b"connection")),
    "no space after the colon": lambda kept: request(b"GET", kept.target, b"Host:a"),
    "Host with a port": lambda kept: request(b"GET", kept.target, b"hOST: 192.0.2.1:65535"),
    "parameters absent": lambda kept: get(kept, parameters=b""),
    "requestorName": lambda kept: get(kept, requestor_name=build.directory_name()),
    "signature": lambda kept: post(kept, optional_signature=build.signature()),
    "acceptable basic": lambda kept: get(kept, extensions=[build.acceptable_responses(build.BASIC)]),
    "idle extension": lambda kept: get(kept, extensions=[build.extension(build.PRIVATE, b"x")]),
    "Connection: close": lambda kept: get(kept, b"Connection: close"),
    "close in capitals": lambda kept: post(kept, b"connection:CLOSE "),
    "two, then close": lambda kept: get(kept) + post(kept) + get(kept, b"Connection: close"),
    "HTTP/1.0": lambda kept: request(b"GET", kept.target, HOST, version=b"HTTP/1.0"),
    "HTTP/1.0 that says close": lambda kept: request(b"GET", kept.target, b"Connection: close", HOST, version=b"HTTP/1.0"),
    "HTTP/1.0 without Host": lambda kept: request(b"POST", b"/", b"Content-Length: %d" % len(kept.request_der), version=b"HTTP/1.0", body=kept.request_der),
    "sixteen": lambda kept: get(kept) * 8 + post(kept) * 8,
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_lane_takes(standing: ExpressRoom, name: str) -> None:
    """Each kind for every answer there is: packed and whole, every status, hash algorithm, signer and length of serial."""
    for kept in standing.kept:
        replies = standing.ask(TAKEN[name](kept))
        assert all(reply.body == kept.response_der for reply in replies)


def _length(value: bytes) -> Callable[[Kept], bytes]:
    return lambda kept: request(b"POST", b"/", HOST, b"Content-Length: " + value, body=kept.request_der)


def _with(*fields: bytes) -> Callable[[Kept], bytes]:
    return lambda kept: get(kept, *fields)


LEFT: dict[str, Callable[[Kept], bytes]] = {
    **{f"GET with {line!r}": _with(line) for line in (*MEANT, *WRONG) if not line.startswith(b"X") and line.lower() != b"connection: close"},
    **{f"GET with {line!r}": _with(line) for line in WRONG if line.startswith(b"X")},
    "close, and more behind": lambda kept: get(kept, b"Connection: close") + get(kept),
    "close, and an octet behind": lambda kept: get(kept, b"Connection: close") + b"\r",
    "close twice": _with(b"Connection: close", b"Connection: close"),
    "HTTP/1.0 that stays": lambda kept: request(b"GET", kept.target, HOST, b"Connection: keep-alive", version=b"HTTP/1.0"),
    "HTTP/1.0 with two Hosts": lambda kept: request(b"GET", kept.target, HOST, HOST, version=b"HTTP/1.0"),
    "HTTP/1.0, and more behind": lambda kept: request(b"GET", kept.target, version=b"HTTP/1.0") + get(kept),
    "HTTP/1.1 without Host": lambda kept: request(b"GET", kept.target),
    "obs-text": _with(b"X: caf\xe9"),
    "Connection twice": _with(b"Connection: keep-alive", b"Connection: keep-alive"),
    **{
        f"{method!r}": lambda kept, method=method: request(method, kept.target, HOST)  # type: ignore[misc]
        for method in (b"HEAD", b"OPTIONS", b"get", b"G", b"", b" GET")
    },
    **{
        f"{version!r}": lambda kept, version=version: request(b"GET", kept.target, HOST, version=version)  # type: ignore[misc]
        for version in (b"HTTP/1.2", b"HTTP/1.", b"HTTP/1.10", b"HTTP/0.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"RTSP/1.0", b"")
    },
    **{
        f"{host!r}": lambda kept, host=host: request(b"GET", kept.target, host)  # type: ignore[misc]
        for host in (b"Host:", b"Host: a b", b"Host: [::1]", b"Host: a:1:2", b"Host: a:123456", b"Host: a:x", b"Host: a,b", b"Host: @a", b"Host : a", b"Host: :1", b"Hos: a")
    },
    **{
        f"target {target!r}": lambda kept, target=target: request(b"GET", target.replace(b"T", kept.target), HOST)  # type: ignore[misc]
        for target in (b"http://a.exampleT", b"//T", b"T=", b"T%20", b"T?a=b", b"T#a", b"T%", b"/", b"*", b"T\t", b"T T", b"T\xe9", b"/-_", b"T\0")
    },
    "empty line before": lambda kept: b"\r\n" + get(kept),
    "empty line behind": lambda kept: get(kept) + b"\r\n",
    "one octet behind": lambda kept: get(kept) + b"G",
    "cut off": lambda kept: get(kept)[:-1],
    "body cut off": lambda kept: post(kept)[:-1],
    "body too long": lambda kept: post(kept) + b"\0",
    "bare LF": lambda kept: get(kept).replace(b"\r\n", b"\n"),
    "bare CR in a value": _with(b"X: a\rbY: z"),
    "bare CR": lambda kept: get(kept).replace(b"\r\n", b"\r", 1),
    "folded": _with(b"X: y\r\n z"),
    "chunked": lambda kept: request(b"POST", b"/", HOST, b"Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(kept.request_der), kept.request_der)),
    "POST without length": lambda kept: request(b"POST", b"/", HOST),
    "POST with a query": lambda kept: post_of(kept.request_der, path=b"/a?b"),
    "POST in absolute form": lambda kept: post_of(kept.request_der, path=b"http://a.example/"),
    "POST of another type": lambda kept: post_of(kept.request_der, b"Content-Type: text/plain"),
    "Content-Type twice": lambda kept: post(kept, POST_TYPE),
    "Content-Length in digits beyond nine": lambda kept: post(kept).replace(b"Length: 83", b"Length: 7="),  # 7 * 10 + 13
    "POST with parameters": lambda kept: request(b"POST", b"/", HOST, POST_TYPE + b";v=1", b"Content-Length: %d" % len(kept.request_der), body=kept.request_der),
    "POST that expects": lambda kept: post(kept, b"Expect: 100-continue"),
    "Content-Length twice": lambda kept: post(kept, b"Content-Length: %d" % len(kept.request_der)),
    **{f"Content-Length {value!r}": _length(value) for value in (b"0", b"", b"+9", b"-1", b"0x9", b"9,9", b"9 9", b"0000009", b"9999999", b"9.", b"9" * 30)},
    "empty nonce": lambda kept: get(kept, extensions=[build.nonce(b"")]),
    "critical extension": lambda kept: get(kept, extensions=[build.extension(build.PRIVATE, b"x", build.CRITICAL)]),
    "no basic": lambda kept: post(kept, extensions=[build.acceptable_responses(b"\x2a\x03")]),
    "not DER": lambda kept: post_of(kept.request_der[:-1]),
    "trailing octets": lambda kept: post_of(kept.request_der + b"\0"),
    "stranger": lambda kept: post_of(build.request()),
    "unknown hash": lambda kept: post_of(build.request([build.single(build.cert_id(hash_algorithm=build.algorithm("1.2.3")))])),
    "no CertID": lambda kept: post_of(build.request([])),
    "rubbish": lambda kept: bytes(range(256)),
    "nothing": lambda kept: b"",
    "seventeen": lambda kept: get(kept) * 17,
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_the_lane_leaves(standing: ExpressRoom, name: str) -> None:
    """Each kind goes the ordinary way octet for octet; alone, and with plain requests before and behind."""
    kept = standing.kept[0]
    octets, plain = LEFT[name](kept), get(standing.kept[1])
    assert standing.lane.read(octets) is None
    standing.run(octets)
    if octets:
        for stream in (plain + octets, octets + plain, plain + octets + plain):
            assert standing.lane.read(stream) is None
            standing.run(stream)
        standing.run(plain, octets, plain)


def test_several_cert_ids_are_left(standing: ExpressRoom) -> None:
    """The lane answers one CertID; a list, even of the same one, is signed on demand."""
    kept = standing.kept[0]
    single = build.single(kept.question.cert_id_der)
    for singles in ([single, single], [single, build.single(standing.kept[2].question.cert_id_der)]):
        octets = post_of(build.request(singles))
        assert standing.lane.read(octets) is None
        standing.run(octets)


def test_name_and_key_name_the_issuer_together(standing: ExpressRoom) -> None:
    """RFC 6960 §4.1.1: one CA's name with another's key, or a hash that is cut short, is nobody."""
    corp, old = standing.issuer_of(standing.corp), standing.issuer_of(standing.old)
    serial = standing.kept[0].question.serial_octets
    for name_hash, key_hash in (
        (corp.name_hashes["sha1"], old.key_hashes["sha1"]),
        (old.name_hashes["sha1"], corp.key_hashes["sha1"]),
        (corp.name_hashes["sha1"][:-1], corp.key_hashes["sha1"]),
        (corp.name_hashes["sha1"], corp.key_hashes["sha1"][:-1]),
        (corp.name_hashes["sha1"], corp.key_hashes["sha1"][:3]),
        (b"", b""),
        (corp.name_hashes["sha256"], corp.key_hashes["sha256"]),
    ):
        octets = post_of(build.request([build.single(build.cert_id(serial, name_hash=name_hash, key_hash=key_hash))]))
        assert standing.lane.read(octets) is None
        assert parse_replies(standing.run(octets).out)[0].body in (UNAUTHORIZED, error_response(1))


def test_answers_verify(standing: ExpressRoom) -> None:
    """SEC-12: what the lane writes is about the serial that was asked for, and its signature is the signer's."""
    for kept in standing.kept:
        (reply,) = standing.ask(get(kept))
        response = ocsp.load_der_ocsp_response(reply.body)
        singles = {single.hash_algorithm.name: single for single in response.responses}
        assert list(singles) == (["sha1", "sha256"] if kept.is_dual else [kept.question.hash_name])
        for hash_name, single in singles.items():
            assert single.serial_number == int.from_bytes(kept.question.serial_octets, "big", signed=True)
            assert single.issuer_key_hash == kept.question.issuer.key_hashes[hash_name]
        signer = response.certificates[0].public_key() if response.certificates else kept.ca.key.public_key()
        verify(signer, kept.ca.key_type, response.signature, response.tbs_response_bytes)


@pytest.mark.parametrize("key_type", ["rsa2048pss", "mldsa44", "mldsa65", "mldsa87"])
@pytest.mark.parametrize("ask", [get, post])
def test_long_signatures(room: ExpressRoom, key_type: str, ask: Callable[[Kept], bytes]) -> None:
    """ALG-05: answers of many kilobytes lie in the table and are answered by the lane, octet for octet as elsewhere."""
    room.corp_signer = make_signer(room.corp, key_type, file_name="long")
    made = []
    for number, status in enumerate((GOOD, REVOKED, GOOD)):
        made.append(room.make(room.corp, bytes([0x60 + number]) * 16, status))
        room.keep(made[-1])
    for kept in made:
        (reply,) = room.ask(ask(kept))
        assert reply.body == kept.response_der
        response = ocsp.load_der_ocsp_response(reply.body)
        verify(room.corp_signer.key.public_key(), key_type, response.signature, response.tbs_response_bytes)
        assert room.run(ask(kept)).statuses == {200: 1}
    # What does not fit what is written at once goes the ordinary way, and comes back whole and in order.
    for count in (1, 5, MAX_REQUESTS // 3):
        run = room.run(b"".join(map(ask, made)) * count)
        assert [reply.body for reply in parse_replies(run.out)] == [kept.response_der for kept in made] * count


# --- limits ---------------------------------------------------------------------------------------------------------

LIMITS = "max_target_bytes = 1024\nmax_header_bytes = 1024\nmax_body_bytes = 256"


def test_limits_of_size_are_the_ordinary_ones(tmp_path: Path) -> None:
    """SEC-02: at each bound the lane answers; one octet more is refused, and not by the lane."""
    room = ExpressRoom(tmp_path, LIMITS)
    kept = room.kept[0]

    def target(length: int) -> bytes:
        letters = base64.b64encode(padded(kept, 700))
        for slashes in (b"/", b"//"):
            quotes, rest = divmod(length - len(letters) - len(slashes), 2)
            if rest == 0:
                return slashes + b"".join(b"%%%02X" % octet for octet in letters[:quotes]) + letters[quotes:]
        raise AssertionError(length)

    def header(length: int) -> bytes:
        rest = length - len(HOST) - len(b"\r\nX: \r\n")
        return get(kept, b"X: " + b"y" * rest)

    cases: list[tuple[int, int, Callable[[int], bytes]]] = [
        (414, 1_024, lambda length: request(b"GET", target(length), HOST)),
        (431, 1_024, header),
        (413, 256, lambda length: post_of(padded(kept, length))),
    ]
    for status, bound, make in cases:
        assert room.ask(make(bound))[0].body == kept.response_der
        assert room.lane.read(make(bound + 1)) is None
        assert room.run(make(bound + 1)).statuses == {status: 1}
        assert room.run(get(kept) + make(bound + 1)).statuses == {200: 1, status: 1}


def test_sixteen_requests_and_sixty_four_fields(standing: ExpressRoom) -> None:
    """One more of either is left, and answered all the same."""
    kept = standing.kept[0]
    assert len(standing.ask(get(kept) * MAX_REQUESTS)) == MAX_REQUESTS
    assert standing.lane.read(get(kept) * (MAX_REQUESTS + 1)) is None
    assert len(parse_replies(standing.run(get(kept) * (MAX_REQUESTS + 1)).out)) == MAX_REQUESTS + 1
    fields = [b"X-%d: y" % number for number in range(MAX_FIELDS)]
    assert len(standing.ask(get(kept, *fields[:-1]))) == 1
    assert standing.lane.read(get(kept, *fields)) is None
    assert standing.run(get(kept, *fields)).statuses == {200: 1}


@pytest.mark.parametrize("ask", [get, post])
def test_messages_of_64_kib(room: ExpressRoom, ask: Callable[[Kept], bytes]) -> None:
    """What the ordinary way gathers before it writes is the most that the lane writes at once."""
    made = room.make(room.corp, b"\x70", whole=True)
    made.response_der = bytes(30_000)
    room.put(made)
    size = len(taken(room, ask(made)) or b"")
    made.response_der = bytes(30_000 + MAX_MESSAGES // 2 - size)
    room.keep(made)
    assert len(taken(room, ask(made) * 2) or b"") == MAX_MESSAGES
    room.run(ask(made) * 2)
    more = room.make(room.corp, b"\x71", whole=True)
    more.response_der = made.response_der + b"\0"
    room.keep(more)
    assert room.lane.read(ask(made) + ask(more)) is None
    assert taken(room, ask(more)) is not None
    for count in (1, 2, 16):
        room.run(ask(made) * count + ask(more))


# --- heads ----------------------------------------------------------------------------------------------------------


def seconds_of(date: str) -> int:
    return int(parsedate_to_datetime(date).timestamp())


@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_heads_of_get(standing: ExpressRoom) -> None:
    """HTC-01 to HTC-04: Last-Modified is thisUpdate, Expires is nextUpdate, ETag is the hex SHA-256 of the content."""
    for kept in standing.kept:
        (reply,) = standing.ask(get(kept))
        response = next(iter(ocsp.load_der_ocsp_response(reply.body).responses))
        assert response.next_update_utc is not None
        assert reply.status == 200
        assert list(reply.fields) == ["date", "content-type", "content-length", "last-modified", "etag", "expires", "cache-control"]  # fmt: skip
        assert reply.fields["date"].encode() == http_date(NOW)
        assert reply.fields["content-type"] == "application/ocsp-response"
        assert seconds_of(reply.fields["last-modified"]) == response.this_update_utc.timestamp() == THIS_UPDATE
        assert seconds_of(reply.fields["expires"]) == response.next_update_utc.timestamp() == NEXT_UPDATE
        assert reply.fields["etag"] == '"' + hashlib.sha256(reply.body).hexdigest() + '"'


def max_age_of(room: ExpressRoom, kept: Kept) -> int:
    (reply,) = room.ask(get(kept))
    found = re.fullmatch(r"max-age=(\d+), public, no-transform, must-revalidate", reply.fields["cache-control"])
    assert found is not None
    return int(found[1])


@pytest.mark.clause("RFC 9919", "7.2", "MUST")
def test_max_age_ends_before_next_update_and_differs_over_serials(room: ExpressRoom) -> None:
    """HTC-05: between thisUpdate and nextUpdate, spread over the serials, counting down with the clock to nought."""
    ages = {kept.question.cert_id_der: max_age_of(room, kept) for kept in room.kept}
    assert all(0 < age < NEXT_UPDATE - NOW for age in ages.values())
    serials = {kept.question.serial_octets for kept in room.kept}
    assert len(set(ages.values())) > len(serials) // 2  # one serial has one second, whoever is its CA
    for seconds in (1, 999, 40_000):
        room.clock.advance(seconds)
        room.see_journal()
        for kept in room.kept:
            age = ages[kept.question.cert_id_der] = max(0, ages[kept.question.cert_id_der] - seconds)
            assert max_age_of(room, kept) == age
    room.clock.advance(NEXT_UPDATE - 1 - room.clock.now())
    room.see_journal()
    assert {max_age_of(room, kept) for kept in room.kept} == {0}


@pytest.mark.parametrize("seconds", [1, 9, 10, 11, 99, 100, 101, 12_345])
def test_max_age_of_any_number_of_digits(room: ExpressRoom, seconds: int) -> None:
    """The length of the head follows."""
    kept = room.kept[0]
    room.clock.advance(max_age_of(room, kept) - seconds)
    room.see_journal()
    assert max_age_of(room, kept) == seconds


@pytest.mark.clause("RFC 9919", "7.2", "MUST NOT")
def test_heads_of_post(standing: ExpressRoom) -> None:
    """HTC-08: nothing by which a cache could hand one certificate's status to everybody; no no-store either."""
    for kept in standing.kept:
        (reply,) = standing.ask(post(kept))
        assert list(reply.fields) == ["date", "content-type", "cache-control", "content-length", "last-modified"]
        assert reply.fields["cache-control"] == "max-age=0, private, no-transform, must-revalidate"
        assert seconds_of(reply.fields["last-modified"]) == THIS_UPDATE
        assert reply.body == kept.response_der


# --- the clock ------------------------------------------------------------------------------------------------------


def test_never_at_or_past_next_update(room: ExpressRoom) -> None:
    """SEC-13: the last second is served, with all its fraction; the next is not, and before thisUpdate it is left."""
    kept = room.kept[0]
    seconds = (
        (NEXT_UPDATE - 1, True), (NEXT_UPDATE - 0.001, True), (NEXT_UPDATE, False), (NEXT_UPDATE + 9, False),
        (THIS_UPDATE, True), (THIS_UPDATE - 0.001, False), (THIS_UPDATE - 9, False), (NOW, True), (0.5, False),
    )  # fmt: skip
    for at, is_taken in seconds:
        room.clock.step(at - room.clock.now())
        message = taken(room, get(kept))
        assert (message is not None) == is_taken
        assert message is None or b"\r\nDate: " + http_date(int(at)) in message
    for at, is_taken in seconds:
        room.clock.step(at - room.clock.now())
        room.refill()
        for ask in (get(kept), post(kept)):
            assert (taken(room, ask) is not None) == is_taken
            (reply,) = parse_replies(room.run(ask).out)
            assert (reply.body == kept.response_der) == (at < NEXT_UPDATE)
            assert seconds_of(reply.fields["date"]) == int(at)


@given(
    st.lists(
        st.tuples(st.sampled_from(["advance", "step", "seen"]), st.integers(-400_000, 400_000) | st.floats(-5, 5)),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_steps_of_the_clock(standing: ExpressRoom, steps: list[tuple[str, float]]) -> None:
    """Promise 1, SEC-13: every way the same, never past nextUpdate, never good while blind."""
    kept = [standing.kept[0], standing.kept[6], standing.kept[12], standing.kept[13]]
    try:
        for what, seconds in steps:
            if what == "advance":
                standing.clock.advance(abs(seconds))
                standing.edge.ready.take_messages()  # as the server's timer does every second, whatever the clock says
            elif what == "step":
                standing.clock.step(seconds)
            else:
                standing.see_journal()
            standing.refill()
            for one in kept:
                for ask in (get(one), post(one)):
                    (reply,) = parse_replies(standing.run(ask).out)
                    if reply.body == one.response_der:
                        assert standing.clock.now() < NEXT_UPDATE
                        max_blind = one.question.issuer.config.ocsp.max_blind
                        assert one.cert_status != GOOD or standing.edge.contact.age() <= max_blind
                    else:
                        assert reply.body in (TRY_LATER, UNAUTHORIZED)
    finally:
        standing.clock.step(NOW - standing.clock.now())
        standing.see_journal()
        standing.edge.ready.take_messages()
        standing.refill()


def test_blind_workers_say_good_no_more(room: ExpressRoom) -> None:
    """Promise 1: near max_blind good goes the ordinary way, past it is refused, CA by CA; revoked goes on."""
    good, revoked, other_good = room.kept[0], room.kept[12], room.kept[1]
    assert (good.cert_status, revoked.cert_status, other_good.ca) == (GOOD, REVOKED, room.old)
    for age, good_taken, good_said, other_said in (
        (1_790, True, True, True), (1_801, True, True, False), (3_590, True, True, False), (3_599, False, True, False),
        (3_600, False, True, False), (3_601, False, False, False), (90_000, False, False, False),
    ):  # fmt: skip
        room.clock.advance(age - room.edge.contact.age())
        for ask in (get, post):
            assert (taken(room, ask(good)) is not None) == good_taken
            assert parse_replies(room.run(ask(good)).out)[0].body == (good.response_der if good_said else TRY_LATER)
            other = parse_replies(room.run(ask(other_good)).out)[0].body
            assert other == (other_good.response_der if other_said else TRY_LATER)
            assert room.ask(ask(revoked))[0].body == revoked.response_der
    room.see_journal()
    room.clock.advance(1)
    assert room.ask(get(good))[0].body == good.response_der


def test_a_worker_that_never_saw_the_journal_says_no_good(tmp_path: Path) -> None:
    """The age is infinite before the first contact."""
    room = ExpressRoom(tmp_path)
    room.edge.contact._seen_at = None
    for kept in (room.kept[0], room.kept[1]):
        assert room.lane.read(get(kept)) is None
        assert parse_replies(room.run(get(kept)).out)[0].body == TRY_LATER
    assert room.ask(get(room.kept[12]))[0].body == room.kept[12].response_der


def test_a_clock_that_comes_back_to_the_second_hides_no_blindness(room: ExpressRoom) -> None:
    """Who is blind goes by the monotonic clock: the wall clock may have been stepped back to the very second."""
    kept = room.kept[0]
    assert taken(room, get(kept)) is not None
    room.clock.advance(7_200)
    room.edge.ready.take_messages()  # once a second, by the server's timer
    room.clock.step(-7_200)
    assert room.lane.read(get(kept)) is None
    assert parse_replies(room.run(get(kept)).out)[0].body == TRY_LATER


def test_the_journal_ends_an_answer_on_the_lane(room: ExpressRoom) -> None:
    """Promise 1: a named bucket is left at once, whatever else is in the same read."""
    kept = room.kept[0]
    other = next(one for one in room.kept[1:] if one.question.serial_hash & 15 != kept.question.serial_hash & 15)
    assert taken(room, get(kept) + get(other)) is not None
    room.table.drop_bucket(kept.question.issuer.id, bucket_number(kept.question.serial_hash, 12))
    assert taken(room, get(kept)) is None
    assert room.lane.read(get(other) + get(kept)) is None
    assert taken(room, get(other)) is not None
    assert parse_replies(room.run(get(kept)).out)[0].body == UNAUTHORIZED


# --- misses ---------------------------------------------------------------------------------------------------------


def test_a_miss_is_fetched_and_answered_the_same_every_way(standing: ExpressRoom) -> None:
    """Cold by GET and POST, alone and after others; hot on the lane afterwards."""
    for kept in standing.shelf.values():
        for ask in (get, post):
            standing.refill()
            missing = standing.lane.read(ask(kept))
            assert isinstance(missing, Missing)
            question = kept.question
            assert standing.issuers.by_id(question.issuer.id) is tuple(standing.issuers)[missing.issuer]
            assert (missing.hash_name, missing.serial_octets, missing.cert_id_der) == (
                question.hash_name, question.serial_octets, question.cert_id_der
            )  # fmt: skip
            assert standing.lane.message(missing) is None
            standing.put(kept)
            assert standing.lane.message(missing) == standing.lane.read(ask(kept))
            standing.refill()
            assert standing.lane.read(get(standing.kept[0]) + ask(kept)) is None
            assert standing.lane.read(ask(kept) + get(standing.kept[0])) is None
            standing.run(ask(kept))
            standing.run(ask(kept) + get(standing.kept[0]), ask(kept))
            standing.run(get(standing.kept[0]) + ask(kept))


@pytest.mark.clause("RFC 9654", "2.1", "MUST")
def test_a_nonce_is_handed_over_and_answered_the_same_every_way(standing: ExpressRoom) -> None:
    """NON-03: its octets come through as they are; alone, behind another, last on its connection; table or not."""
    for kept in (*standing.live.values(), standing.kept[0], next(iter(standing.shelf.values()))):
        for size in (1, 16, 32, 128):
            extensions = [build.nonce(bytes(range(size)))]
            for ask in (get, post):
                octets = ask(kept, extensions=extensions)
                missing = standing.lane.read(octets)
                assert isinstance(missing, Missing)
                nonce_octets = missing.nonce_octets
                assert nonce_octets is not None
                header = b"\x04%c" % size if size < 128 else b"\x04\x81\x80"
                assert nonce_octets == header + bytes(range(size))
                assert missing.cert_id_der == kept.question.cert_id_der
                seen = standing.run(octets)
                if kept.question.cert_id_der in standing.live:
                    assert parse_replies(seen.out)[0].body == standing.signed(kept, nonce_octets)
                assert standing.run(octets, octets, get(standing.kept[0])).statuses == {200: 3}
                for others in (octets + get(standing.kept[0]), get(standing.kept[0]) + octets, octets * 2):
                    assert standing.lane.read(others) is None
                    standing.run(others)
                assert standing.run(ask(kept, b"Connection: close", extensions=extensions)).closed
    plain = standing.lane.read(get(next(iter(standing.live.values()))))
    assert isinstance(plain, Missing)
    assert plain.nonce_octets is None


def test_a_nonce_that_is_ignored_is_left(tmp_path: Path) -> None:
    """`nonce = "ignore"` is the endpoint's: it answers from the table."""
    room = ExpressRoom(tmp_path, nonce="ignore")
    for kept in (room.kept[0], *room.live.values()):
        octets = get(kept, extensions=[build.nonce(b"n" * 16)])
        assert room.lane.read(octets) is None
        assert parse_replies(room.run(octets).out)[0].body == kept.response_der


def test_a_nonce_about_a_serial_that_is_known_to_be_absent(room: ExpressRoom) -> None:
    """Unauthorized at once: the presigner is not asked, every way."""
    kept = room.make(room.corp, b"\x75\x03")
    room.endpoint._absent.put(kept.question.issuer.id, b"\x75\x03", kept.question.serial_hash)
    room.live[kept.question.cert_id_der] = kept
    for ask in (get, post):
        seen = room.run(ask(kept, extensions=[build.nonce(b"n" * 16)]))
        assert parse_replies(seen.out)[0].body == UNAUTHORIZED


@pytest.mark.parametrize("hash_name", ["sha1", "sha256", "sha384", "sha512"])
def test_a_serial_that_nobody_issued(room: ExpressRoom, hash_name: str) -> None:
    """Unauthorized, every way, again and again; remembered or not."""
    kept = room.make(room.corp, b"\x75\x01", hash_name=hash_name)
    for _ in range(2):
        assert isinstance(room.lane.read(get(kept)), Missing)
        assert parse_replies(room.run(get(kept), post(kept)).out)[1].body == UNAUTHORIZED
        room.endpoint._absent.put(kept.question.issuer.id, b"\x75\x01", kept.question.serial_hash)


def test_a_late_answer_keeps_the_order(room: ExpressRoom) -> None:
    """HTG-05: while one answer is awaited nothing of the connection goes past it, hot as it may be."""
    first, second = list(room.shelf.values())[:2]
    hot = room.kept[0]
    room.stored.is_slow = True
    found = []
    for mode in MODES:
        room.refill()
        room.edge.ready.take_messages()
        wire = room.wire(mode).send(get(first), get(hot), get(second) + post(hot), get(hot)[:9])
        assert wire.out == b""
        waiting, room.stored.waiting = room.stored.waiting, []
        for settle in reversed(waiting):
            settle()
        wire.send(get(hot)[9:], get(hot))
        found.append(room.seen(wire))
    assert found[0] == found[1] == found[2]
    bodies = [reply.body for reply in parse_replies(found[0].out)]
    assert bodies == [kept.response_der for kept in (first, hot, second, hot, hot, hot)]


def cold(room: ExpressRoom, act: Callable[[Any, Callable[[], None]], None]) -> None:
    """Have a slow miss begun every way, let ``act`` do with the connection what it likes, and compare."""
    kept = next(iter(room.shelf.values()))
    room.stored.is_slow = True
    found = []
    for mode in MODES:
        room.refill()
        room.edge.ready.take_messages()
        wire = room.wire(mode).send(get(kept))
        (settle,) = room.stored.waiting
        room.stored.waiting = []
        act(wire, settle)
        found.append(room.seen(wire))
    assert found[0] == found[1] == found[2]


def test_a_miss_of_a_client_that_has_gone(room: ExpressRoom) -> None:
    """SEC-12: its answer goes nowhere, and stays in the table."""

    def act(wire: Any, settle: Callable[[], None]) -> None:
        wire.lost()
        settle()
        assert wire.out == b""

    cold(room, act)


def test_a_miss_of_a_half_closed_client(room: ExpressRoom) -> None:
    """RFC 9112 §9.6: it gets what it asked for, then the end."""

    def act(wire: Any, settle: Callable[[], None]) -> None:
        assert wire.protocol.eof_received() is True
        settle()
        assert parse_replies(wire.out)[0].fields["connection"] == "close"

    cold(room, act)


def test_a_miss_under_way_while_the_worker_drains(room: ExpressRoom) -> None:
    """It is answered, says close, and the connection ends."""

    def act(wire: Any, settle: Callable[[], None]) -> None:
        wire.state.drain()
        wire.protocol.drain()
        settle()
        assert parse_replies(wire.out)[0].fields["connection"] == "close"
        assert wire.ended

    cold(room, act)


@pytest.mark.clause("RFC 9919", "7.2", "MUST NOT")
@pytest.mark.parametrize("ask", [get, post])
def test_a_miss_that_is_signed_for_the_question(room: ExpressRoom, ask: Callable[[Kept], bytes]) -> None:
    """HTC-08: what is neither in the table nor in the store has the head of its method too."""
    for kept in room.live.values():
        (reply,) = parse_replies(room.run(ask(kept)).out)
        assert reply.body == kept.response_der
        assert ("etag" in reply.fields) == (ask is get)


@pytest.mark.parametrize("ask", [get, post])
def test_a_miss_while_the_lane_is_nearly_blind(room: ExpressRoom, ask: Callable[[Kept], bytes]) -> None:
    """HTC-08: an answer that came but is not the lane's to give has the head of its method too."""
    kept = next(one for one in room.shelf.values() if one.cert_status == GOOD)
    room.clock.advance(3_599)
    (reply,) = parse_replies(room.run(ask(kept)).out)
    assert reply.body == kept.response_der
    assert ("etag" in reply.fields) == (ask is get)


@pytest.mark.parametrize("ask", [get, post])
def test_a_mistake_of_our_own_in_a_miss_is_internal_error(room: ExpressRoom, ask: Callable[[Kept], bytes]) -> None:
    """ERR-02: the client gets an OCSPResponse, and the connection lives on."""
    configure_logging("test", "critical")

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of our own")

    room.stored.fetch = fail  # type: ignore[method-assign]
    kept = next(iter(room.shelf.values()))
    (reply,) = parse_replies(room.run(ask(kept)).out)
    assert reply.body == error_response(OCSPResponseStatus.INTERNAL_ERROR)


def test_a_serial_that_is_there_and_not_there(room: ExpressRoom) -> None:
    """Found in the table, but remembered as absent by an answer that came later: one of them, every way the same."""
    kept = room.kept[0]
    room.endpoint._absent.put(kept.question.issuer.id, kept.question.serial_octets, kept.question.serial_hash)
    room.run(get(kept))
    room.run(post(kept))


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeouts", ["", 'header_timeout = "20s"\nidle_timeout = "5s"'])
def test_idle_connections_end_the_same_every_way(tmp_path: Path, timeouts: str) -> None:
    """SEC-05: after the last answer, whichever way it went, the connection has idle_timeout."""
    room = ExpressRoom(tmp_path, timeouts)
    ends = []
    for mode in MODES:
        room.clock.step(NOW - room.clock.now())
        room.see_journal()
        wire = room.wire(mode)
        wire.send(get(room.kept[0])).wait(3).send(get(room.kept[0]) + post(room.kept[12]))
        seconds = 0
        while not wire.ended and seconds < 200:
            wire.wait(1)
            seconds += 1
        ends.append((seconds, len(parse_replies(wire.out)), room.config.http.idle_timeout))
    assert ends == [(room.config.http.idle_timeout + 1, 3, room.config.http.idle_timeout)] * 3


def test_a_field_of_proxies_ends_nothing(room: ExpressRoom) -> None:
    """RFC 9112 §9.3: Connection alone says whether a connection ends; the next request is answered, every way."""
    plain = get(room.kept[0])
    seen = room.run(plain, get(room.kept[1], b"Proxy-Connection: close"), plain)
    assert seen.statuses == {200: 3}


def test_a_draining_worker_says_close(room: ExpressRoom) -> None:
    """While draining every answer is the connection's last, so the lane is shut."""
    found = []
    for mode in MODES:
        room.edge.ready.take_messages()
        wire = room.wire(mode).send(get(room.kept[0]))
        assert wire.state is not None
        wire.state.drain()
        found.append(room.seen(wire.send(get(room.kept[1]) + get(room.kept[2]))))
    assert found[0] == found[1] == found[2]
    assert [reply.fields.get("connection") for reply in parse_replies(found[0].out)] == [None, "close"]


def test_a_client_that_does_not_read(room: ExpressRoom) -> None:
    """SEC-05: past the high-water mark we stop reading, whichever way the answers went."""
    found = []
    stream = get(room.kept[0]) * MAX_REQUESTS
    for mode in MODES:
        room.edge.ready.take_messages()
        wire = room.wire(mode)
        wire.transport.reads = False
        while wire.transport.reading:
            wire.send(stream)
        wire.send(stream[:50])  # was on its way
        wire.transport.reads, wire.transport.unsent = True, 0
        wire.protocol.resume_writing()
        wire.send(stream[50:], stream)
        found.append(room.seen(wire))
    assert found[0] == found[1] == found[2]
    assert found[0].reading
    assert found[0].statuses[200] % MAX_REQUESTS == 0


def test_counts_are_of_what_left(room: ExpressRoom) -> None:
    """Each message once, by its status; what was left, missed or made for a miss is not the lane's."""
    good, revoked, unknown = room.kept[0], room.kept[12], room.kept[22]
    shelf = next(iter(room.shelf.values()))
    room.lane.take_counts()
    for data in (get(good) * 3 + post(revoked), get(unknown), post(good), get(good) + b"x", get(good) * 17, get(good) + get(shelf), b"x"):  # fmt: skip
        room.lane.read(data)
    missing = room.lane.read(get(shelf))
    room.put(shelf)
    assert room.lane.message(missing) is not None
    assert room.lane.ready(False, revoked.target, b"") is not None
    assert room.lane.ready(True, b"/", good.request_der) is not None
    assert room.lane.ready(True, b"/", b"x") is None
    assert room.lane.take_counts() == (8, 5, 2, 1)
    assert room.lane.take_counts() == (0, 0, 0, 0)


def test_the_switch(tmp_path: Path) -> None:
    """`http.express = false`: everything goes through llhttp, with the same result."""
    on, off = ExpressRoom(tmp_path / "on"), ExpressRoom(tmp_path / "off", "express = false")
    assert on.edge.ready.read is not None
    assert off.edge.ready.read is None
    wire = off.wire("ready")
    assert wire.state is not None
    assert (wire.state.read, wire.state.ready) == (None, off.edge.ready.ready)
    assert len(parse_replies(wire.send(get(off.kept[0])).out)) == 1


# --- with a real store ------------------------------------------------------------------------------------------------


def test_a_real_worker_answers_the_same_every_way(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    """Cold from Redis, hot from the table, revoked by the journal: each way the same octets, and the lane takes them."""
    serials = [0x3000 + number for number in range(24)]
    room = Room(redis_server(), tmp_path / "ca")
    texts = dict.fromkeys(serials, GOOD_TEXT)
    texts[serials[3]] = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
    room.load(texts)
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        endpoint, ready = edge.edge.endpoint, edge.edge.ready
        asked = [*serials, 0x9999]  # the last one was never issued
        requests = [
            request(b"GET", target_of(edge.request(serial)), HOST) if serial % 2 else post_of(edge.request(serial))
            for serial in asked
        ]

        async def out(mode: str, pieces: list[bytes]) -> bytes:
            state = ServerState(endpoint, room.config.http, room.clock, None if mode == "reference" else ready)
            if mode == "ready":
                state.read = None
            wire = Wire(endpoint, state=state)
            for number, piece in enumerate(pieces, 1):
                wire.send(piece)
                await until("the answer", lambda number=number: len(parse_replies(wire.out)) == number)
            return wire.out

        async def every_way(pieces: list[bytes], *, is_cold: bool) -> bytes:
            found = []
            for mode in MODES:
                if is_cold:
                    endpoint._table.clear()
                    endpoint._absent.clear()
                found.append(await out(mode, pieces))
            assert found[0] == found[1] == found[2]
            return found[0]

        first = await every_way(requests, is_cold=True)
        ready.take_messages()
        assert await every_way(requests, is_cold=False) == first
        assert ready.take_messages() == 2 * len(serials)  # by the lane, and by the short way
        room.change(serials[5], texts[serials[3]])
        room.presigner().run_until_idle()
        await edge.see_journal()
        again = parse_replies(await every_way(requests, is_cold=False))
        statuses = [ocsp.load_der_ocsp_response(reply.body).certificate_status.name for reply in again[:-1]]
        assert [number for number, name in enumerate(statuses) if name == "REVOKED"] == [3, 5]
        assert again[-1].body == UNAUTHORIZED
