"""A worker's query path without Redis, its table full of signed answers, and the three ways through HTTP beside each other.

``ExpressRoom`` has two CAs. What it ``keeps`` lies in the table; what is on its ``shelf`` comes from a store that answers at
once; what is ``live`` is signed for the question. ``run`` sends the same pieces to three connections: with the express
lane, with llhttp and the short way, and with llhttp and the endpoint alone, which is the reference.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from fastpath.answer_table import AnswerTerms
from fastpath.express import ExpressLane
from fastpath.ocsp_response import AnswerHeader, ResponseTemplate, assemble, encode_single_response, pack_answer
from responder.clock import ManualClock
from responder.config import load_config
from responder.http.caching import CachedResponse
from responder.http.message import Response
from responder.http.state import ServerState
from responder.issuers import Issuer, Issuers
from responder.model import CertStatus
from responder.ocsp.answer import (
    OCSP_RESPONSE_TYPE,
    Answer,
    LiveAnswer,
    NotReady,
    Outcome,
    Question,
    question_of,
    terms_of,
)
from responder.ocsp.on_demand import Done
from responder.roles.worker import build_edge
from tests.http_wire import NOW, Reply, Wire, parse_replies
from tests.pki import DAY_S, PKI, make_ca, make_signer, sign
from tests.reference import request_builder as build

THIS_UPDATE = NOW - 3_600
NEXT_UPDATE = THIS_UPDATE + 4 * DAY_S
SIGNER_ID = "0123456789abcdef"
GOOD, REVOKED, UNKNOWN = 0, 1, 2
MODES = ("lane", "ready", "reference")


@dataclass
class Kept:
    """An answer, and the question that it answers."""

    ca: PKI
    question: Question
    cert_status: int
    terms: AnswerTerms
    response_der: bytes
    packed: bytes | None  # None: kept whole
    is_dual: bool = False

    @property
    def request_der(self) -> bytes:
        return self.request()

    def request(self, *, parameters: bytes = build.NULL, **options: Any) -> bytes:
        """Encode a request for it; ``options`` are the builder's."""
        issuer, hash_name = self.question.issuer, self.question.hash_name
        cert_id = build.cert_id(
            self.question.serial_octets,
            hash_name,
            parameters,
            name_hash=issuer.name_hashes[hash_name],
            key_hash=issuer.key_hashes[hash_name],
        )
        return build.request([build.single(cert_id)], **options)

    @property
    def target(self) -> bytes:
        return target_of(self.request_der)


@dataclass
class Seen:
    """What one connection did."""

    out: bytes
    closed: bool
    half_closed: bool
    aborted: bool
    reading: bool
    statuses: Counter[int]


class _Shelf:
    """A StoredSource that answers at once, or when told to."""

    def __init__(self, room: ExpressRoom) -> None:
        self._room = room
        self.is_slow = False
        self.waiting: list[Callable[[], None]] = []

    def fetch(self, question: Question, done: Callable[[Any], None]) -> None:
        if self.is_slow:
            self.waiting.append(lambda: done(self._found(question)))
        else:
            done(self._found(question))

    def _found(self, question: Question) -> Answer | NotReady:
        kept = self._room.shelf.get(question.cert_id_der)
        if kept is None:
            is_live = question.cert_id_der in self._room.live
            return NotReady("good exp=2049-12-31T23:59:59Z" if is_live else None, is_loaded=True, is_overridden=False)
        self._room.put(kept)
        return Answer(
            CertStatus(kept.cert_status),
            kept.response_der,
            hashlib.sha256(kept.response_der).digest(),
            kept.terms,
            question.serial_hash,
        )


class _Live:
    """An OnDemandSource that has what is on the list, and remembers it as the real one does."""

    def __init__(self, room: ExpressRoom) -> None:
        self._room = room

    def ask(self, questions: Sequence[Question], nonce_octets: bytes | None, done: Done) -> None:
        done(self._answer(questions, nonce_octets))

    def _answer(self, questions: Sequence[Question], nonce_octets: bytes | None) -> LiveAnswer | Outcome:
        kept = self._room.live.get(questions[0].cert_id_der)
        if kept is None or len(questions) > 1:
            return Outcome.NOT_SIGNED
        if nonce_octets is not None:
            return LiveAnswer(CertStatus(kept.cert_status), Response(200, self._room.signed(kept, nonce_octets)))
        self._room.put(kept)
        terms, hash_value = kept.terms, questions[0].serial_hash
        return LiveAnswer(
            CertStatus(kept.cert_status),
            CachedResponse(
                kept.response_der,
                OCSP_RESPONSE_TYPE,
                terms.this_update,
                terms.next_update,
                terms.fresh_until(hash_value),
            ),
        )


class ExpressRoom:
    """See the module. Its clock stands at ``http_wire.NOW``, and the journal was seen just now."""

    def __init__(self, directory: Path, http_options: str = "", nonce: str = "optional") -> None:
        self.corp = make_ca(directory / "corp", name="Corp CA", label="corp")
        self.corp_signer = make_signer(self.corp)
        self.old = make_ca(directory / "old", "rsa2048", name="Old CA", label="old")
        config_file = directory / "revocast.toml"
        config_file.write_text(f"""
[http]
{http_options}
[[ca]]
name = "corp"
certificate = "corp/ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ certificate = "corp/ocsp.pem", key = "corp/ocsp.key", max_blind = "1h", nonce = "{nonce}" }}
[[ca]]
name = "old"
certificate = "old/ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ key = "old/ca.key", max_blind = "30m" }}
""")
        self.config = load_config(config_file)
        self.issuers = Issuers.from_config(self.config, str(config_file))
        self.clock = ManualClock(NOW)
        self.edge = build_edge(self.config, self.issuers, cast("Any", object()), self.clock)
        self.endpoint = self.edge.endpoint
        self.table = self.endpoint._table
        self.lane: ExpressLane = self.edge.ready._lane
        self.stored = _Shelf(self)
        self.endpoint._stored = cast("Any", self.stored)
        self.endpoint._on_demand = cast("Any", _Live(self))
        self.see_journal()
        self.kept: list[Kept] = []
        self.shelf: dict[bytes, Kept] = {}
        self.live: dict[bytes, Kept] = {}
        self.took: Counter[str] = Counter()  # what the lane did with the reads that it was shown
        self._fill()

    def signed(self, kept: Kept, nonce_octets: bytes) -> bytes:
        """Return what stands for the answer to a question with a nonce about what is ``live``."""
        return kept.response_der + nonce_octets

    def see_journal(self) -> None:
        """Note that the journal was seen to its end now."""
        self.edge.contact.seen(self.clock.monotonic())

    # --- answers ------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        for number, (status, reason, cutoff, hash_name, size) in enumerate(
            [
                (GOOD, -1, False, "sha1", 16), (GOOD, -1, False, "sha256", 16), (GOOD, -1, True, "sha1", 9),
                (GOOD, -1, False, "sha1", 1), (GOOD, -1, False, "sha1", 20), (GOOD, -1, False, "sha1", 21),
                (REVOKED, -1, False, "sha1", 16), (REVOKED, 1, False, "sha1", 8), (REVOKED, 10, True, "sha256", 20),
                (GOOD, -1, False, "sha384", 16), (REVOKED, 4, False, "sha512", 21), (UNKNOWN, -1, False, "sha1", 17),
            ]
        ):  # fmt: skip
            for ca in (self.corp, self.old):
                self.keep(self.make(ca, _serial(number, size), status, reason, cutoff=cutoff, hash_name=hash_name))
        # A CA whose key is at hand signs new answers itself; and some are kept whole.
        self.keep(self.make(self.corp, _serial(40, 16), GOOD, signer="itself"))
        for number, (status, hash_name) in enumerate([(UNKNOWN, "sha1"), (GOOD, "sha384"), (REVOKED, "sha256")], 50):
            self.keep(self.make(self.corp, _serial(number, 16), status, hash_name=hash_name, whole=True))
        # Dual answers, each asked for by both of its CertIDs; the last one is kept whole.
        for number, (status, reason, cutoff, size, whole) in enumerate(
            [(GOOD, -1, False, 16, False), (REVOKED, 1, True, 21, False), (UNKNOWN, -1, False, 1, False),
             (GOOD, -1, True, 20, True)], 80,
        ):  # fmt: skip
            for ca in (self.corp, self.old):
                kept = self.make(ca, _serial(number, size), status, reason, cutoff=cutoff, whole=whole, dual=True)
                self.keep(kept)
                question = question_of(kept.question.issuer, "sha256", kept.question.serial_octets)
                self.kept.append(replace(kept, question=question))
        for number in range(60, 64):
            kept = self.make(self.corp, _serial(number, 16), GOOD if number % 2 else REVOKED)
            self.shelf[kept.question.cert_id_der] = kept
        for number in range(70, 72):
            kept = self.make(self.corp, _serial(number, 16), GOOD, whole=True)
            self.live[kept.question.cert_id_der] = kept

    def issuer_of(self, ca: PKI) -> Issuer:
        """Return what the configuration knows of one of the CAs."""
        (issuer,) = (one for one in self.issuers if one.certificate_der == ca.certificate_der)
        return issuer

    def make(
        self,
        ca: PKI,
        serial: bytes,
        cert_status: int = GOOD,
        reason: int = -1,
        *,
        cutoff: bool = False,
        hash_name: str = "sha1",
        signer: str = "delegated",
        whole: bool = False,
        dual: bool = False,
        this_update: int = THIS_UPDATE,
        next_update: int = NEXT_UPDATE,
    ) -> Kept:
        """Sign an answer as the presigner does."""
        issuer = self.issuer_of(ca)
        question = question_of(issuer, hash_name, serial)
        by = self.corp_signer if ca is self.corp and signer == "delegated" else ca
        certs = [by.certificate_der] if by is not ca else []
        template = ResponseTemplate(by.key_hash, by.signature_algorithm_der, certs)
        archive_cutoff = THIS_UPDATE - 1_000_000 if cutoff else -1
        header = AnswerHeader(this_update, next_update, this_update, SIGNER_ID, archive_cutoff)
        revoked_at = THIS_UPDATE - 5_000
        cert_ids = issuer.both_cert_ids(serial) if dual else (question.cert_id_der,)
        singles = [
            encode_single_response(one, cert_status, revoked_at, reason, this_update, next_update, archive_cutoff)
            for one in cert_ids
        ]
        signature = sign(by.key, by.key_type, template.tbs_response_data(singles, header.produced_at))
        packed = pack_answer(5, cert_status, revoked_at, reason, cutoff, signature, dual)
        made_of = () if whole else (template, header)
        return Kept(
            ca,
            question,
            cert_status,
            terms_of(issuer, this_update, next_update, *made_of),
            assemble(template, header, cert_ids[0], packed, *cert_ids[1:]),
            None if whole else packed,
            dual,
        )

    def put(self, kept: Kept) -> None:
        """Put an answer into the table."""
        question, etag_digest = kept.question, hashlib.sha256(kept.response_der).digest()
        key = (question.issuer.id, question.hash_name, question.serial_octets, question.serial_hash, kept.terms)
        if kept.packed is None:
            self.table.put_whole(*key, kept.cert_status, kept.response_der, etag_digest, kept.is_dual)
        else:
            self.table.put(*key, kept.packed, etag_digest)

    def keep(self, kept: Kept) -> Kept:
        """Put an answer into the table, to be asked for."""
        self.put(kept)
        self.kept.append(kept)
        return kept

    def refill(self) -> None:
        """Put into the table what belongs there, and take out what a question brought."""
        for kept in (*self.shelf.values(), *self.live.values()):
            self.table.drop(kept.question.issuer.id, kept.question.hash_name, kept.question.serial_octets)
        for kept in self.kept:
            self.put(kept)

    # --- connections --------------------------------------------------------------------------------------------------

    def wire(self, mode: str) -> Wire:
        """Open a connection to a server of its own."""
        state = ServerState(
            self.endpoint, self.config.http, self.clock, None if mode == "reference" else self.edge.ready
        )
        if mode == "lane":
            state.read = self._read
        elif mode == "ready":
            state.read = None
        wire = Wire(self.endpoint, state=state)
        wire.clock = self.clock
        return wire

    def _read(self, data: bytes) -> Any:
        answer = self.lane.read(data)
        self.took["left" if answer is None else "taken" if type(answer) in (bytes, tuple) else "missing"] += 1
        return answer

    def see(self, mode: str, *pieces: bytes) -> Seen:
        """Send the pieces over a new connection."""
        self.edge.ready.take_messages()
        wire = self.wire(mode)
        for piece in pieces:
            if not wire.transport.closed:
                wire.send(piece)
        return self.seen(wire)

    def seen(self, wire: Wire) -> Seen:
        """Tell what a connection has done, and count what the short ways answered."""
        assert wire.state is not None
        transport, statuses = wire.transport, Counter(wire.state.responses)
        statuses[200] += self.edge.ready.take_messages()
        return Seen(
            wire.out, transport.closed, transport.half_closed, transport.aborted, transport.reading, +statuses
        )  # fmt: skip

    def run(self, *pieces: bytes) -> Seen:
        """Send the pieces every way, from the same table; all must do the same."""
        found = []
        for mode in MODES:
            for kept in (*self.shelf.values(), *self.live.values()):
                self.table.drop(kept.question.issuer.id, kept.question.hash_name, kept.question.serial_octets)
            found.append(self.see(mode, *pieces))
        reference = found[-1]
        for mode, seen in zip(MODES, found, strict=True):
            assert seen == reference, (mode, pieces)
        return reference

    def ask(self, stream: bytes) -> list[Reply]:
        """Send whole requests in one read; every way must take them, and the lane must answer all of it itself."""
        assert type(self.lane.read(stream)) in (bytes, tuple), stream
        return parse_replies(self.run(stream).out)


def _serial(number: int, size: int) -> bytes:
    """Return minimal contents octets of that size, different for each number."""
    if size == 21:
        return b"\0\xee" + bytes([number]) + b"\x5a" * 18
    return bytes([0x10 + number]) + random.Random(number).randbytes(size - 1)


def target_of(request_der: bytes, chance: random.Random | None = None) -> bytes:
    """Spell a GET target, fully quoted; with ``chance`` in any of the spellings that mean the same."""
    text = base64.b64encode(request_der).decode()
    if chance is None:
        return b"/" + quote(text, safe="").encode()
    style = chance.randrange(5)
    if style == 0:
        spelled = text  # raw + / =
    elif style == 1:
        spelled = quote(text, safe="").replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")
    elif style == 2:
        spelled = "".join(f"%{ord(letter):02X}" if chance.random() < 0.2 else letter for letter in text)
    else:
        spelled = quote(text, safe="")
    return b"/" * chance.choice([1, 1, 1, 2]) + spelled.encode()


def request(method: bytes, target: bytes, *fields: bytes, version: bytes = b"HTTP/1.1", body: bytes = b"") -> bytes:
    """Spell a request exactly: no field is added."""
    return b"\r\n".join((b"%b %b %b" % (method, target, version), *fields, b"", body))


HOST = b"Host: ocsp.example.com"
POST_TYPE = b"Content-Type: application/ocsp-request"


def get(kept: Kept, *fields: bytes, **options: Any) -> bytes:
    """Ask by GET."""
    return request(b"GET", target_of(kept.request(**options)), HOST, *fields)


def post(kept: Kept, *fields: bytes, **options: Any) -> bytes:
    """Ask by POST."""
    return post_of(kept.request(**options), *fields)


def post_of(body: bytes, *fields: bytes, path: bytes = b"/") -> bytes:
    return request(b"POST", path, HOST, POST_TYPE, b"Content-Length: %d" % len(body), *fields, body=body)


# --- streams --------------------------------------------------------------------------------------------------------

# Fields that change nothing, that mean something, and that are wrong.
IDLE = [
    b"User-Agent: x/1.0 (y; z)", b"Accept: */*", b"accept: application/ocsp-response, */*;q=0.1", b"Accept-Encoding: gzip, br",
    b"Cache-Control: no-cache", b"Pragma:no-cache", b"X:", b"X: \t ", b"X-1!#$%&'*+-.^_`|~: \"\\{}()", b"Via: 1.1 a, 1.0 b",
    b"Cookie: a=b; c=d", b"Keep-Alive: timeout=5", b"TE: trailers", b"Date: x", b"If-Range: x", b"Range: bytes=0-1",
    b"Connection: keep-alive", b"CONNECTION:\tKeep-Alive \t", b"Forwarded: for=1.2.3.4", b"Trailer: X", b"Content-Encoding: gzip",
    b"HTTP2-Settings: AAMAAABk", b"X: " + b"y" * 300, b"Content-Language: nl", b"Hosts: a", b"Content-Lengt: 5",
]  # fmt: skip
MEANT = [
    b"Connection: close", b"Connection: keep-alive, close", b"Connection: x", b"Connection:", b"connection: CLOSE",
    b"If-None-Match: *", b'If-None-Match: "a", W/"b"', b"If-Modified-Since: Wed, 18 Nov 2026 11:06:40 GMT", b"If-Match: *",
    b"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT", b'if-match: "x"', b"Expect: 100-continue", b"Expect: pink",
    b"Upgrade: h2c", b"Connection: Upgrade\r\nUpgrade: h2c", b"Proxy-Connection: keep-alive", b"proxy-connection: x",
    b"Content-Length: 0", b"Content-Type: text/plain", b"Content-Type: APPLICATION/OCSP-REQUEST", b"Content-Type:",
    b"Content-Type: application/ocsp-request; v=1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"X: caf\xe9",
]  # fmt: skip
WRONG = [
    b"Host: b.example", b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length:", b"X : y",
    b" folded", b"\tfolded", b"no colon", b": empty", b"X: a\x00b", b"X: a\x7fb", b"X: a\nY: b", b"X: a\rb", b"H\xe9: a", b"X\x00: y",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"Host: a, b", b"Host : a", b"Content-Length: 99999999", b"X(: y",
]  # fmt: skip
HOSTS = [HOST] * 12 + [
    b"host:a", b"HOST: 192.0.2.1:8080 ", b"Host:\tx-1.example:", b"Host: [::1]:80", b"Host: a_b", b"Host:", b"Host: a b", b"Host: a:123456",
    b"Host: a:8o", b"Host: a/b", b"Host: a@b", b"Host: a%20b", b"Host: :80", b"X: no host",
]  # fmt: skip
NOISE = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b" ",
    b"\0",
    b"GET",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"0\r\n\r\n",
    b"PRI * HTTP/2.0",
]


class Streams:
    """Makes streams of requests from chance: mostly plain ones, some that are not, and damage."""

    def __init__(self, room: ExpressRoom) -> None:
        self._room = room
        corp = room.issuer_of(room.corp)
        stranger = build.request()
        missing = build.cert_id(0x7766, name_hash=corp.name_hashes["sha1"], key_hash=corp.key_hashes["sha1"])
        swapped = build.cert_id(
            1, name_hash=corp.name_hashes["sha1"], key_hash=room.issuer_of(room.old).key_hashes["sha1"]
        )
        self._odd = [
            lambda kept: kept.request(extensions=[build.nonce(b"n" * 16)]),
            lambda kept: kept.request(extensions=[build.nonce(b"n" * 128)]),
            lambda kept: kept.request(extensions=[build.nonce(b"n" * 129)]),
            lambda kept: self._live[0].request(extensions=[build.nonce(b"n" * 32)]),
            lambda kept: self._shelf[0].request(extensions=[build.nonce(b"n")]),
            lambda kept: kept.request(extensions=[build.extension("1.3.6.1.5.5.7.48.1.2", b"raw")]),
            lambda kept: kept.request(extensions=[build.nonce(b"")]),
            lambda kept: kept.request(extensions=[build.acceptable_responses(b"\x2a\x03")]),
            lambda kept: kept.request(extensions=[build.extension(build.PRIVATE, b"x", build.CRITICAL)]),
            lambda kept: stranger,
            lambda kept: build.request([build.single(missing)]),
            lambda kept: build.request([build.single(swapped)]),
            lambda kept: build.request([build.single(missing)] * 2),
            lambda kept: build.request([]),
            lambda kept: kept.request()[:-1],
            lambda kept: kept.request() + b"\0",
            lambda kept: b"",
        ]  # fmt: skip
        self._plain = [
            lambda kept: kept.request(parameters=b""),
            lambda kept: kept.request(version=build.VERSION_V1),
            lambda kept: kept.request(requestor_name=build.directory_name()),
            lambda kept: kept.request(optional_signature=build.signature()),
            lambda kept: kept.request(extensions=[build.acceptable_responses(build.BASIC)]),
            lambda kept: kept.request(extensions=[build.preferred_signature_algorithms()]),
            lambda kept: kept.request(extensions=[build.extension(build.PRIVATE, b"x" * 9)]),
        ]
        self._shelf, self._live = list(room.shelf.values()), list(room.live.values())

    def request(self, chance: random.Random, *, plain: bool) -> bytes:
        """Make one request: one that the lane takes, or any."""
        kept = chance.choice(self._room.kept)
        der = chance.choice(self._plain)(kept) if chance.random() < 0.2 else kept.request()
        fields = [chance.choice(IDLE) for _ in range(chance.choice([0, 0, 1, 2, 5]))]
        fields = [f for f in fields if f.lower()[:10] != b"connection"] + [f for f in fields if f.lower()[:10] == b"connection"][:1]  # fmt: skip
        host = HOST
        method, version = chance.choice([b"GET", b"GET", b"POST"]), b"HTTP/1.1"
        body, framing = b"", []
        path = chance.choice([b"/", b"/", b"//", b"/ocsp/a%2Fb", b"/~a.b_c-d=+"])
        oddity = chance.randrange(12) if not plain else -1
        if oddity == 0:
            der = chance.choice(self._odd)(kept)
        elif oddity == 1:
            der = chance.choice(self._shelf).request_der
        elif oddity == 2:
            method, der = b"GET", chance.choice(self._live).request_der
        elif oddity == 3:
            fields.append(chance.choice(MEANT))
        elif oddity == 4:
            fields.append(chance.choice(WRONG))
        elif oddity == 5:
            host = chance.choice(HOSTS)
        elif oddity == 6:
            method = chance.choice([b"HEAD", b"OPTIONS", b"PUT", b"get", b"CONNECT", b"GETT", b"PO ST", b""])
        elif oddity == 7:
            version = chance.choice(
                [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"ICE/1.0"]
            )
        elif oddity == 8:
            fields += [b"X-%d: y" % n for n in range(chance.choice([60, 64, 90, 101]))]
        if method == b"POST":
            body, target = der, path
            framing = [b"Content-Length: %d" % len(body)]
            if chance.random() < 0.8:
                framing.append(POST_TYPE)
            if oddity == 9:
                body = (
                    b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]) if part)
                    + b"0\r\n\r\n"
                )
                framing[0] = b"Transfer-Encoding: chunked"
            elif oddity == 10:
                length = len(body)
                framing[0] = b"Content-Length: " + chance.choice(
                    [b"%d" % (length - 1), b"%d" % (length + 1), b"0%d" % length, b"%07d" % length, b"+%d" % length, b"0x%x" % length,
                     b"%d " % length, b"%d,%d" % (length, length), b"0", b"", b"-1", b"1%018d" % length, b"%d\r\nContent-Length: %d" % (length, length)]
                )  # fmt: skip
        else:
            target = target_of(der, chance)
            if oddity == 9:
                target = chance.choice([b"http://a.example" + target, b"http:/" + target, b"*", b"", target[1:], b"/" + target[:-1] + b"?a=b"])  # fmt: skip
            elif oddity == 10:
                target = chance.choice([target + b"=", target + b"%20", target + b"#a", target.replace(b"A", b"-", 1), target + b"%0", b"/a" + target,
                                        b"///" + target, target[:-4], target + b"\t", target + b" x", target + b"\xe9", target + b"%00", b"/"])  # fmt: skip
        lines = [*fields, *framing, host]
        chance.shuffle(lines)
        lines = [_recased(chance, line) if chance.random() < 0.1 else line for line in lines]
        return request(method, target, *lines, version=version, body=body)

    def stream(self, chance: random.Random) -> bytes:
        """Make a stream of one to six requests, or rarely of twenty, and damage some."""
        count = chance.choice([1, 1, 1, 2, 3, 6]) if chance.random() < 0.98 else chance.choice([16, 17, 20])
        all_plain = chance.random() < 0.5
        parts = [self.request(chance, plain=all_plain or chance.random() < 0.7) for _ in range(count)]
        if chance.random() < 0.05:
            parts.insert(chance.randrange(len(parts) + 1), chance.choice([*NOISE, chance.randbytes(20)]))
        stream = b"".join(parts)
        return damaged(chance, stream) if chance.random() < 0.3 else stream


def _recased(chance: random.Random, line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    return chance.choice([name.upper(), name.lower(), name.swapcase()]) + colon + value


def damaged(chance: random.Random, stream: bytes) -> bytes:
    """Flip, insert, delete or repeat an octet, or cut the end off; mostly in a head, where it matters."""
    octets = bytearray(stream)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at = chance.randrange(len(octets))
        match chance.randrange(6):
            case 0:
                octets[at] ^= 1 << chance.randrange(8)
            case 1:
                octets[at] = chance.choice(b"\0\t\r\n :;,/%=+0aA\x7f\x80\xff")
            case 2:
                octets[at:at] = chance.choice(
                    [b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"/", b"%", b"%41", b"0", b"\xff", b"Host: a\r\n"]
                )
            case 3:
                del octets[at]
            case 4:
                octets[at:at] = octets[at : at + chance.choice([1, 2, 20])]
            case 5 if chance.random() < 0.3 and at > 0:
                del octets[at:]
    return bytes(octets)


def cut(chance: random.Random, stream: bytes) -> list[bytes]:
    """Cut a stream at random places, mostly at few or none."""
    count = chance.choice([0, 0, 0, 1, 1, 2, 5])
    marks = sorted({chance.randrange(len(stream) + 1) for _ in range(count)}) if stream else []
    return [
        piece for start, end in zip([0, *marks], [*marks, len(stream)], strict=True) if (piece := stream[start:end])
    ]
