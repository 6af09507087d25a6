"""bench/locust from outside, against a real Revocast and against a server that lies; and its checks, one defect at a time.

locust always runs in a process of its own: gevent patches the standard library, which must not happen to pytest.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from bench.locust.ocspload import checks
from bench.locust.ocspload.checks import CheckFailed, CRLChecker, HTTPAnswer, OCSPChecker, Question, Reason
from bench.locust.ocspload.targets import (
    ConfigError,
    Issuer,
    Target,
    build_request,
    get_url,
    load_certificates,
    load_issuer,
    load_serials,
    parse_serial,
)
from tests.pki import DAY_S, PKI, Entity, make_ca, make_leaf, make_signer, utc
from tests.server import Revocast, ca_section, index_line, write_index

ROOT = Path(__file__).parents[2]
GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()
OCSP_TYPE = "application/ocsp-response"
UNISSUED = 0xDEAD
NONCE = bytes(range(32))


# --- answers and CRLs, right and wrong ---


def make_answer(
    ca: PKI,
    serial_number: int,
    *,
    algorithm: hashes.HashAlgorithm = SHA1,
    status: ocsp.OCSPCertStatus = GOOD,
    this_update: int = -60,
    next_update: int | None = 3600,
    signer: Entity | None = None,
    certs: list[Entity] | None = None,
    by_name: bool = False,
    nonce: bytes | None = None,
    flip: bool = False,
) -> bytes:
    """Make an OCSPResponse; times are seconds from now, ``flip`` changes the last octet of a CA-signed answer."""
    now = int(time.time())
    signer = signer or ca.answer_signer
    if certs is None:
        certs = [] if signer is ca else [signer]
    issuer = Issuer.from_certificate(ca.certificate)
    cert_id = issuer.cert_id(serial_number, algorithm.name)
    is_revoked = status is REVOKED
    encoding = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            cert_id.issuer_name_hash,
            cert_id.issuer_key_hash,
            serial_number,
            algorithm,
            status,
            utc(now + this_update),
            None if next_update is None else utc(now + next_update),
            utc(now - DAY_S) if is_revoked else None,
            None,
        )
        .responder_id(encoding, signer.certificate)
    )
    if certs:
        builder = builder.certificates([entity.certificate for entity in certs])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    response = builder.sign(signer.key, SHA256 if signer.key_type in ("p256", "rsa2048") else None)
    body = response.public_bytes(serialization.Encoding.DER)
    return body[:-1] + bytes([body[-1] ^ 1]) if flip else body


def make_error(status: ocsp.OCSPResponseStatus) -> bytes:
    """Make an OCSPResponse without an answer."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(serialization.Encoding.DER)


def make_crl(
    ca: PKI, crl_number: int | None = 7, *, signer: Entity | None = None, this_update: int = -60, next_update: int = 60
) -> bytes:
    """Make a CRL with one entry in the name of ``ca``."""
    now = int(time.time())
    entry = x509.RevokedCertificateBuilder().serial_number(99).revocation_date(utc(now - DAY_S)).build()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(utc(now + this_update))
        .next_update(utc(now + next_update))
        .add_revoked_certificate(entry)
    )
    if crl_number is not None:
        builder = builder.add_extension(x509.CRLNumber(crl_number), critical=False)
    return builder.sign((signer or ca).key, SHA256).public_bytes(serialization.Encoding.DER)


def fields_of(body: bytes, method: str = "GET") -> dict[str, str]:
    """Return the header fields that a true answer has."""
    fields = {"content-type": OCSP_TYPE, "content-length": str(len(body))}
    if method == "GET":
        return {**fields, "cache-control": "max-age=600, public", "etag": f'"{hashlib.sha256(body).hexdigest()}"'}
    return {**fields, "cache-control": "max-age=0, private"}


# --- the checks of an OCSP answer ---


@dataclass
class Room:
    """A CA with everything that can be wrong about its answers."""

    ca: PKI
    other: PKI
    serial_number: int = 0x1A2B

    def case(
        self,
        *,
        method: str = "GET",
        http_status: int = 200,
        fields: dict[str, str | None] | None = None,
        body: bytes | None = None,
        asked_nonce: bytes | None = None,
        asked: str = "sha1",
        expect: str | None = None,
        about: PKI | None = None,
        serial_number: int | None = None,
        **answer: object,
    ) -> tuple[HTTPAnswer, Question]:
        """Make a question and an answer that is right but for what is given."""
        if body is None:
            body = make_answer(about or self.ca, serial_number or self.serial_number, **answer)  # type: ignore[arg-type]
        changed = {**fields_of(body, method), **(fields or {})}
        headers = {name: value for name, value in changed.items() if value is not None}
        cert_id = Issuer.from_certificate(self.ca.certificate).cert_id(self.serial_number, asked)
        return HTTPAnswer(http_status, headers, body), Question(method, cert_id, asked_nonce, expect)

    def signer(self, **wrong: object) -> Entity:
        """Make a delegated signer beside the usual one."""
        return make_signer(self.ca, file_name="wrong", label="wrong", **wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Two CAs of the same name with delegated signers."""
    directory = tmp_path_factory.mktemp("room")
    return Room(make_ca(directory / "ca", delegated=True), make_ca(directory / "other", label="other", delegated=True))


Case = tuple[HTTPAnswer, Question]
TRY_LATER, UNAUTHORIZED = ocsp.OCSPResponseStatus.TRY_LATER, ocsp.OCSPResponseStatus.UNAUTHORIZED

RIGHT: dict[str, Callable[[Room], Case]] = {
    "delegated": lambda room: room.case(),
    "by the CA itself": lambda room: room.case(signer=room.ca),
    "ResponderID byName": lambda room: room.case(by_name=True),
    "SHA-256": lambda room: room.case(algorithm=SHA256, asked="sha256"),
    "POST": lambda room: room.case(method="POST"),
    "POST with a nonce": lambda room: room.case(method="POST", nonce=NONCE, asked_nonce=NONCE),
    "good as expected": lambda room: room.case(expect="good"),
    "revoked as expected": lambda room: room.case(expect="revoked", status=REVOKED),
    "revoked, nothing expected": lambda room: room.case(status=REVOKED),
    "unknown as expected": lambda room: room.case(expect="unknown", status=ocsp.OCSPCertStatus.UNKNOWN),
    "unauthorized as expected": lambda room: room.case(
        expect="unauthorized", body=make_error(UNAUTHORIZED), fields={"cache-control": "no-store", "etag": None}
    ),
    "clocks differ a little": lambda room: room.case(this_update=3),
    "spent in a cache": lambda room: room.case(fields={"cache-control": "max-age=4000", "age": "1000"}),
    "for one client alone": lambda room: room.case(fields={"cache-control": "max-age=0, private", "etag": None}),
    "for no cache": lambda room: room.case(fields={"cache-control": "no-store", "etag": None}),
    "two signers with one key": lambda room: room.case(
        signer=room.ca.signer, certs=[make_signer(room.ca, file_name="old", not_after=int(time.time()) + 9), room.ca.signer]
    ),
    "ML-DSA": lambda room: room.case(signer=make_signer(room.ca, "mldsa44", file_name="pq")),
    "RSA": lambda room: room.case(signer=make_signer(room.ca, "rsa2048", file_name="rsa")),
}  # fmt: skip

DEFECTS: dict[str, tuple[Callable[[Room], Case], str]] = {
    "404": (lambda room: room.case(http_status=404), "HTTP status: 404"),
    "text/html": (lambda room: room.case(fields={"content-type": "text/html"}), "wrong content type"),
    "no type": (lambda room: room.case(fields={"content-type": None}), "wrong content type"),
    "length": (lambda room: room.case(fields={"content-length": "9"}), "wrong Content-Length"),
    "no length": (lambda room: room.case(fields={"content-length": None}), "wrong Content-Length"),
    "two lengths": (lambda room: room.case(fields={"content-length": "9, 9"}), "wrong Content-Length"),
    "empty": (lambda room: room.case(body=b""), "not an OCSP response"),
    "HTML": (lambda room: room.case(body=b"<html>"), "not an OCSP response"),
    "tryLater": (lambda room: room.case(body=make_error(TRY_LATER)), "responseStatus: tryLater"),
    "unauthorized": (
        lambda room: room.case(body=make_error(UNAUTHORIZED), expect="good"),
        "responseStatus: unauthorized",
    ),
    "error may be cached": (
        lambda room: room.case(body=make_error(UNAUTHORIZED), expect="unauthorized"),
        "error may be cached",
    ),
    "another serial": (lambda room: room.case(serial_number=0x1A2C), "wrong CertID"),
    "another hash": (lambda room: room.case(algorithm=SHA256), "wrong CertID"),
    "another CA": (lambda room: room.case(about=room.other), "wrong CertID"),
    "flipped bit": (lambda room: room.case(signer=room.ca, flip=True), "bad signature"),
    "another key": (lambda room: room.case(signer=room.other, by_name=True, certs=[]), "bad signature"),
    "another kind of key": (
        lambda room: room.case(signer=make_ca(room.ca.directory / "rsa", "rsa2048"), by_name=True, certs=[]),
        "bad signature",
    ),
    "no signer": (lambda room: room.case(certs=[]), "signer's certificate missing"),
    "another signer": (lambda room: room.case(certs=[room.signer()]), "signer's certificate missing"),
    "foreign signer": (lambda room: room.case(signer=room.other.signer), "signer not issued by the CA"),
    "foreign CA": (lambda room: room.case(signer=room.other), "signer not issued by the CA"),
    "no usage": (lambda room: room.case(signer=room.signer(extended_key_usage=())), "signer without OCSPSigning"),
    "wrong usage": (
        lambda room: room.case(signer=room.signer(extended_key_usage=(ExtendedKeyUsageOID.SERVER_AUTH,))),
        "signer without OCSPSigning",
    ),
    "expired signer": (
        lambda room: room.case(signer=room.signer(not_after=int(time.time()) - 60)),
        "signer out of date",
    ),
    "signer of tomorrow": (
        lambda room: room.case(signer=room.signer(not_before=int(time.time()) + 60)),
        "signer out of date",
    ),
    "future": (lambda room: room.case(this_update=60), "thisUpdate in the future"),
    "expired": (lambda room: room.case(this_update=-7200, next_update=-10), "past nextUpdate"),
    "no nextUpdate": (lambda room: room.case(next_update=None), "no nextUpdate"),
    "no max-age": (lambda room: room.case(fields={"cache-control": "public"}), "no max-age"),
    "no Cache-Control": (lambda room: room.case(fields={"cache-control": None}), "no max-age"),
    "max-age": (lambda room: room.case(fields={"cache-control": "public, max-age=3700"}), "max-age past nextUpdate"),
    "s-maxage": (
        lambda room: room.case(fields={"cache-control": "max-age=60, s-maxage=3700"}),
        "max-age past nextUpdate",
    ),
    "max-age of a POST": (
        lambda room: room.case(method="POST", fields={"cache-control": "max-age=3700"}),
        "max-age past nextUpdate",
    ),
    "ETag": (lambda room: room.case(fields={"etag": '"0"'}), "wrong ETag"),
    "ETag of a POST": (lambda room: room.case(method="POST", fields={"etag": '"0"'}), "wrong ETag"),
    "no ETag": (lambda room: room.case(fields={"etag": None}), "wrong ETag"),
    "no nonce": (lambda room: room.case(method="POST", asked_nonce=NONCE), "nonce not echoed"),
    "another nonce": (lambda room: room.case(method="POST", nonce=NONCE[1:], asked_nonce=NONCE), "wrong nonce"),
    "a nonce unasked": (lambda room: room.case(nonce=NONCE), "wrong nonce"),
    "good": (lambda room: room.case(expect="revoked"), "wrong status: good, expected revoked"),
    "revoked": (lambda room: room.case(expect="good", status=REVOKED), "wrong status: revoked, expected good"),
    "good, not unauthorized": (
        lambda room: room.case(expect="unauthorized"),
        "wrong status: good, expected unauthorized",
    ),
}


def verdict(room: Room, case: Case, now: float | None = None) -> str:
    """Check one answer; returns why it is refused, or nothing."""
    answer, question = case
    checker = OCSPChecker(Issuer.from_certificate(room.ca.certificate))
    try:
        checker.check(answer, question, time.time() if now is None else now)
    except CheckFailed as failed:
        return str(failed)
    return ""


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name: str, room: Room) -> None:
    """No check refuses what is right."""
    assert verdict(room, RIGHT[name](room)) == ""


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_found(name: str, room: Room) -> None:
    """One thing is wrong, and the reason says which."""
    make, reason = DEFECTS[name]
    assert verdict(room, make(room)) == reason


def test_a_signature_algorithm_that_clients_refuse(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in the table of algorithms is not verified and not believed."""
    case = room.case()
    monkeypatch.setattr(checks, "_ALGORITHMS", {})
    assert verdict(room, case) == "signature algorithm not accepted"


def test_a_body_is_verified_once_and_compared_always(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory holds the signature's verdict; question, header fields and time are looked at each time."""
    parsed = []
    parse = checks.parse_response
    monkeypatch.setattr(checks, "parse_response", lambda body, issuer: parsed.append(body) or parse(body, issuer))
    checker = OCSPChecker(Issuer.from_certificate(room.ca.certificate))
    answer, question = room.case()
    now = time.time()
    for _ in range(3):
        checker.check(answer, question, now)
    assert len(parsed) == 1
    with pytest.raises(CheckFailed, match="past nextUpdate"):
        checker.check(answer, question, now + 3700)
    with pytest.raises(CheckFailed, match="wrong CertID"):
        checker.check(answer, room.case(asked="sha256")[1], now)
    with pytest.raises(CheckFailed, match="wrong ETag"):
        checker.check(HTTPAnswer(200, {**answer.headers, "etag": "x"}, answer.body), question, now)
    for serial_number in (7, 8):
        bad, asked = room.case(signer=room.ca, flip=True, this_update=-serial_number)
        for _ in range(2):
            with pytest.raises(CheckFailed, match="bad signature"):
                checker.check(bad, asked, now)
    assert len(parsed) == 3


def test_the_memory_is_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and parsed again when it comes back."""
    monkeypatch.setattr(checks, "CACHE_ENTRIES", 2)
    computed: list[bytes] = []
    remembered = checks._Remembered(lambda body: computed.append(body) or len(body))
    for body in (b"a", b"bb", b"a", b"ccc", b"a", b"bb"):
        assert remembered.get(body, body) == len(body)
    assert computed == [b"a", b"bb", b"ccc", b"bb"]


# --- the checks of a CRL ---

CRL_DEFECTS: dict[str, tuple[Callable[[Room], bytes], str]] = {
    "HTML": (lambda room: b"<html>", "not a CRL"),
    "OCSP": (lambda room: make_answer(room.ca, 1), "not a CRL"),
    "another key": (lambda room: make_crl(room.ca, signer=room.other), "bad signature"),
    "future": (lambda room: make_crl(room.ca, this_update=30), "thisUpdate in the future"),
    "expired": (lambda room: make_crl(room.ca, next_update=-20), "past nextUpdate"),
    "no number": (lambda room: make_crl(room.ca, None), "no cRLNumber"),
    "number": (lambda room: make_crl(room.ca, 4), "cRLNumber went back"),
}


@pytest.mark.parametrize("name", CRL_DEFECTS)
def test_each_defect_of_a_crl_is_found(name: str, room: Room) -> None:
    """After a right CRL with number 5, each wrong one is refused."""
    checker, url = CRLChecker(Issuer.from_certificate(room.ca.certificate)), "http://crl.test/a.crl"
    assert checker.floor(url) == -1
    checker.check(HTTPAnswer(200, {}, make_crl(room.ca, 5)), url, checker.floor(url), time.time())
    make, reason = CRL_DEFECTS[name]
    with pytest.raises(CheckFailed) as failed:
        checker.check(HTTPAnswer(200, {}, make(room)), url, checker.floor(url), time.time())
    assert str(failed.value) == reason


def test_crls_that_are_right(room: Room, tmp_path: Path) -> None:
    """The number may stay or grow, each URL has its own, and an answer under way may be older than a newer one."""
    checker = CRLChecker(Issuer.from_certificate(room.ca.certificate))

    def check(url: str, crl_number: int, floor: int, **fields: str) -> None:
        body = make_crl(room.ca, crl_number)
        headers = {"content-length": str(len(body)), **fields}
        checker.check(HTTPAnswer(200, headers, body), url, floor, time.time())

    check("http://a", 5, checker.floor("http://a"))
    floor = checker.floor("http://a")
    check("http://a", 6, checker.floor("http://a"))
    check("http://a", 6, checker.floor("http://a"))
    check("http://a", 5, floor)
    assert checker.floor("http://a") == 6
    check("http://b", 1, checker.floor("http://b"))
    with pytest.raises(CheckFailed, match="wrong Content-Length"):
        check("http://b", 1, 0, **{"content-length": "1"})
    stranger = make_ca(tmp_path, name="Example Other CA", label="ca")
    with pytest.raises(CheckFailed, match="wrong CRL issuer"):
        checker.check(HTTPAnswer(200, {}, make_crl(stranger)), "http://b", 0, time.time())


# --- the list, and requests ---


@pytest.mark.parametrize(
    ("text", "serial_number"),
    [("1a2B", 0x1A2B), ("0x1a2b", 0x1A2B), ("1A:2B", 0x1A2B), ("01:a", None), ("f", 15), ("00" * 5 + "1f", 31),
     ("ff" * 20, 2**160 - 1), ("f" * 64, None), ("xyz", None), ("-1", None), ("1a,", None), ("²", None)],
)  # fmt: skip
def test_serials_are_hex(text: str, serial_number: int | None) -> None:
    """Every common spelling is read, and a fingerprint is not taken for a serial."""
    assert parse_serial(text) == serial_number


def test_a_list_of_serials(tmp_path: Path) -> None:
    """Remarks and blank lines are passed over; a line's own status goes before --expect."""
    file = tmp_path / "list.txt"
    file.write_text("# all\n\n0a1b revoked\n0C\t unknown  # why\n1\n")
    assert load_serials(file) == [Target(0xA1B, "revoked"), Target(12, "unknown"), Target(1)]
    assert load_serials(file, "good")[2] == Target(1, "good")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"0a1b\nzz good\n", ":2: 'zz' is not a serial in hex of at most 20 octets"),
        (b"0a1b fine\n", ":1: 'fine' is not one of good, revoked, unknown, unauthorized"),
        (b"0a1b good good\n", ":1: 'good good' is not one of good, revoked, unknown, unauthorized"),
        (b"# nothing\n", ": no serial to ask about"),
        (b"\x30\x82\x00\x01", ": is not a text file of serials"),
        (None, ": No such file or directory"),
    ],
)
def test_mistakes_in_a_list_are_one_line(content: bytes | None, problem: str, tmp_path: Path) -> None:
    """The line names the file, the line and what is allowed."""
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_serials(file)
    assert str(error.value) == f"{file}{problem}"


def test_a_directory_of_certificates(tmp_path: Path) -> None:
    """PEM and DER, bundles too; keys, other files and the CA's own certificate are passed over, strangers are refused."""
    ca = make_ca(tmp_path)  # ca.pem and ca.key
    first, second, third = (make_leaf(ca) for _ in range(3))
    bundle = first.certificate_path.read_bytes() + second.certificate_path.read_bytes()
    first.certificate_path.write_bytes(bundle)
    second.certificate_path.unlink()
    third.certificate_path.unlink()
    (tmp_path / "third.CER").write_bytes(third.certificate_der)
    (tmp_path / "key.pem").write_bytes(third.key_path.read_bytes())
    (tmp_path / "index.txt").write_text("V\n")
    issuer = load_issuer(ca.certificate_path)
    found = load_certificates(tmp_path, issuer, "good")
    assert {target.serial_number for target in found} == {leaf.serial_number for leaf in (first, second, third)}
    assert {target.expect for target in found} == {"good"}
    assert load_certificates(tmp_path / "third.CER", issuer) == [Target(third.serial_number)]

    stranger = make_leaf(make_ca(tmp_path / "other", label="other"))
    with pytest.raises(ConfigError, match=r"pem: was not issued by the CA of --issuer$"):
        load_certificates(stranger.certificate_path, issuer)
    with pytest.raises(ConfigError, match=r"ca.pem: no certificate to ask about$"):
        load_certificates(ca.certificate_path, issuer)
    with pytest.raises(ConfigError, match=r"index.txt: holds no certificate in PEM or DER$"):
        load_certificates(tmp_path / "index.txt", issuer)
    with pytest.raises(ConfigError, match=r"CER: is not a CA's certificate$"):
        load_issuer(tmp_path / "third.CER")
    with pytest.raises(ConfigError, match=r"must hold one certificate, the CA's; it holds 2$"):
        load_issuer(first.certificate_path)


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_requests_name_what_an_independent_hand_names(hash_name: str, room: Room) -> None:
    """CertID as tests.pki computes it; a GET's base64 is escaped, so that no slash or plus is left in its path."""
    issuer = Issuer.from_certificate(room.ca.certificate)
    for serial_number in range(1, 200):
        request_der = build_request(issuer.cert_id(serial_number, hash_name))
        path = get_url("http://host/ocsp/", request_der).removeprefix("http://host/ocsp/")
        assert re.fullmatch(r"(?:[A-Za-z0-9]|%2B|%2F|%3D)+", path)
        request = ocsp.load_der_ocsp_request(base64.b64decode(urllib.parse.unquote(path)))
        assert (request.serial_number, request.hash_algorithm.name) == (serial_number, hash_name)
        assert request.issuer_name_hash == room.ca.issuer_name_hash(hash_name)
        assert request.issuer_key_hash == room.ca.issuer_key_hash(hash_name)
    with_nonce = ocsp.load_der_ocsp_request(build_request(issuer.cert_id(1, hash_name), NONCE))
    assert with_nonce.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == NONCE


def test_every_reason_is_documented() -> None:
    """docs/load-testing.md explains each reason that a tester can meet, and no other."""
    text = (ROOT / "docs" / "load-testing.md").read_text()
    assert set(re.findall(r"^\| `([^`]+)` \|", text.partition("## What a failure means")[2], re.MULTILINE)) == set(
        Reason
    )


# --- the whole, as a load tester runs it ---


@dataclass(frozen=True)
class Outcome:
    """What a run of locust said."""

    code: int
    requests: dict[str, int]
    failures: dict[str, int]
    reasons: dict[str, set[str]]
    output: str


def run_locust(directory: Path, *options: str, seconds: int = 3) -> Outcome:
    """Run it headless in a process of its own and read its tables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "bench" / "locust" / "locustfile.py"), "--headless",
         "--only-summary", "-u", "6", "-r", "100", "-t", f"{seconds}s", *options],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    output = done.stdout + done.stderr
    rows = re.findall(r"^(?:GET|POST) +(OCSP GET|OCSP POST|CRL) +(\d+) +(\d+)\(", output, re.MULTILINE)
    reasons: dict[str, set[str]] = {name: set() for name, _, _ in rows}
    for name, reason in re.findall(r"^\d+ +(?:GET|POST) (OCSP GET|OCSP POST|CRL): (.*?) *$", output, re.MULTILINE):
        reasons[name].add(reason)
    return Outcome(
        done.returncode,
        {name: int(count) for name, count, _ in rows},
        {name: int(count) for name, _, count in rows},
        reasons,
        output,
    )


Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def serve(reply: Callable[[str, bytes], Reply]) -> Iterator[str]:
    """Serve what ``reply`` returns for a path and a body; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, fields, body = reply(self.path, content)
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = int(fields["content-length"]) != len(body)

        do_POST = do_GET  # noqa: N815 - the base class's name

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # locust drops what is under way when its time is up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_real_revocast_passes(tmp_path: Path) -> None:
    """GET, POST (some with a nonce) and CRL downloads at once: every kind is asked, nothing fails, exit code 0."""
    assert "gevent" not in sys.modules
    ca = make_ca(tmp_path / "ca", delegated=True)
    good, revoked = [make_leaf(ca) for _ in range(3)], [make_leaf(ca) for _ in range(2)]
    index = tmp_path / "index.txt"
    long_ago = int(time.time()) - 3600
    lines = [index_line(leaf) for leaf in good] + [index_line(leaf, long_ago, "superseded") for leaf in revoked]
    write_index(index, lines)
    listed = [f"{leaf.serial_number:x} good" for leaf in good] + [f"{leaf.serial_number:X} revoked" for leaf in revoked]
    (tmp_path / "list.txt").write_text("\n".join([*listed, f"{UNISSUED:x} unauthorized"]))
    crls = cycle([make_crl(ca, 1)])
    with (
        Revocast(tmp_path / "run", [ca_section("corp", ca, index)]) as server,
        serve(lambda path, body: (200, {"content-length": str(len(crl := next(crls)))}, crl)) as crl_url,
    ):
        for leaf in good:
            server.wait_for(leaf, ca, GOOD)
        for leaf in revoked:
            server.wait_for(leaf, ca, REVOKED)
        outcome = run_locust(
            tmp_path, "-H", server.url, "--issuer", str(ca.certificate_path), "--serials", "list.txt",
            "--crl-url", f"{crl_url}/ca.crl", "--get-weight", "3", "--post-weight", "2", "--crl-weight", "1",
            "--nonce-share", "0.05", "--per-user-rate", "50",
        )  # fmt: skip
    assert outcome.code == 0, outcome.output
    assert set(outcome.requests) == {"OCSP GET", "OCSP POST", "CRL"}, outcome.output
    assert min(outcome.requests.values()) > 0
    assert set(outcome.failures.values()) == {0}, outcome.output


def test_a_lying_server_is_found_out(room: Room, tmp_path: Path) -> None:
    """Every lie is a failure with its reason and never a success, and the exit code says so."""
    ca = room.ca
    honest = make_answer(ca, 1)
    lies: dict[int, tuple[str, Reply]] = {}

    def lie(reason: str, body: bytes | None = None, status: int = 200, **fields: str) -> None:
        body = make_answer(ca, len(lies) + 1) if body is None else body
        headers = fields_of(body) | {name.replace("_", "-"): value for name, value in fields.items()}
        lies[len(lies) + 1] = (reason, (status, headers, body))

    lie("wrong content type", content_type="text/plain")
    lie("wrong CertID", honest)
    lie("past nextUpdate", make_answer(ca, 3, this_update=-7200, next_update=-60))
    lie("bad signature", make_answer(ca, 4, signer=ca, flip=True))
    lie("thisUpdate in the future", make_answer(ca, 5, this_update=600))
    lie("signer not issued by the CA", make_answer(ca, 6, signer=room.other.signer))
    lie("wrong status: good, expected revoked")
    lie("HTTP status: 500", status=500)
    lie("HTTP status: 301", status=301, location="/elsewhere")
    lie("responseStatus: tryLater", make_error(TRY_LATER))
    lie("connection broken", content_length="9999")
    lie("not an OCSP response", b"Welcome!")
    lie("max-age past nextUpdate", cache_control="max-age=99999")
    (tmp_path / "list.txt").write_text(
        "\n".join(f"{serial:x}{' revoked' if 'expected revoked' in why else ''}" for serial, (why, _) in lies.items())
    )
    crls = {
        "/back.crl": cycle([make_crl(ca, 6), make_crl(ca, 5)]),
        "/forged.crl": cycle([make_crl(ca, signer=room.other)]),
    }

    def reply(path: str, body: bytes) -> Reply:
        if path in crls:
            crl = next(crls[path])
            return 200, {"content-length": str(len(crl))}, crl
        request_der = body or base64.b64decode(urllib.parse.unquote(path[1:]))
        return lies[ocsp.load_der_ocsp_request(request_der).serial_number][1]

    with serve(reply) as url:
        outcome = run_locust(
            tmp_path, "-H", url, "--issuer", str(ca.certificate_path), "--serials", "list.txt", "--hashes", "sha1",
            "--crl-url", f"{url}/back.crl", "--crl-url", f"{url}/forged.crl", "--crl-weight", "2", "--post-weight", "2",
            "--get-weight", "2", "--per-user-rate", "100",
        )  # fmt: skip
    assert outcome.code == 1, outcome.output
    reasons = {reason for reason, _ in lies.values()}
    for name in ("OCSP GET", "OCSP POST"):
        assert outcome.reasons[name] == reasons, outcome.output
        assert outcome.failures[name] == outcome.requests[name] > len(lies), outcome.output
    assert outcome.reasons["CRL"] == {"cRLNumber went back", "bad signature"}, outcome.output


def test_a_server_that_is_away_is_a_failure(room: Room, tmp_path: Path) -> None:
    """No answer in time, and nobody at the door: locust's own errors become two of our reasons."""
    (tmp_path / "list.txt").write_text("1")
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there either
        outcome = run_locust(
            tmp_path, "-H", f"http://127.0.0.1:{silent.getsockname()[1]}", "--issuer", str(room.ca.certificate_path),
            "--serials", "list.txt", "--crl-url", f"http://127.0.0.1:{closed.getsockname()[1]}/", "--timeout", "0.2",
            "--get-weight", "1", "--post-weight", "1", "--per-user-rate", "20", seconds=2,
        )  # fmt: skip
    assert outcome.code == 1, outcome.output
    expected = {"OCSP GET": {"timeout"}, "OCSP POST": {"timeout"}, "CRL": {"connection refused"}}
    assert outcome.reasons == expected, outcome.output
    assert outcome.failures == outcome.requests


def test_a_run_that_asks_nothing_is_no_success(room: Room, tmp_path: Path) -> None:
    """Where not one answer came, the exit code is not 0 and one line says why."""
    (tmp_path / "list.txt").write_text("1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        outcome = run_locust(
            tmp_path, "-H", url, "--issuer", str(room.ca.certificate_path), "--serials", "list.txt", seconds=1
        )
    assert outcome.code == 1, outcome.output
    assert "load test: no request was answered or failed" in outcome.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "load test: --issuer: the CA's certificate must be given"),
        (("--issuer", "ca.pem"), "load test: nothing to ask: give --certificates, --serials or --crl-url"),
        (("--issuer", "ca.pem", "--serials", "bad.txt"), "load test: bad.txt:1: 'zz' is not a serial in hex"),
        (("--issuer", "ca.pem", "--serials", "list.txt"), "load test: --host: the responder's URL must be given"),
        (("--issuer", "ca.pem", "--serials", "list.txt", "-H", "127.0.0.1"), "load test: --host: '127.0.0.1' does not"),
        (("--issuer", "ca.pem", "--serials", "list.txt", "-H", "http://[::1]", "CRLDownload"), "CRLDownload needs"),
        (("--nonce-share", "2"), "error: argument --nonce-share: '2' is not a number from 0 to 1"),
        (("--hashes", "md5"), "error: argument --hashes: 'md5' is not one of sha1, sha256"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_of_the_tester_are_one_line(
    options: tuple[str, ...], problem: str, room: Room, tmp_path: Path
) -> None:
    """Exit code 2, one line, no traceback, nothing asked."""
    (tmp_path / "ca.pem").write_bytes(room.ca.certificate_path.read_bytes())
    (tmp_path / "bad.txt").write_text("zz\n")
    (tmp_path / "list.txt").write_text("1\n")
    outcome = run_locust(tmp_path, "--loglevel", "WARNING", *options)
    assert outcome.code == 2, outcome.output
    assert problem in outcome.output
    assert len(outcome.output.strip().splitlines()) == 1, outcome.output
