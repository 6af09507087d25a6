"""The CA that is asked about, and the requests, all made before anything is measured.

Certificates are rows of an ``index.txt`` with random 128-bit serials, every tenth revoked: a responder sees no more of
them. What is sent lies in three files: whole HTTP requests, where each begins, and the order in which they are sent.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tests.pki import PKI, make_ca, serial_octets

HOT = 4_000  # certificates asked for in the hot loads; also all that openssl and cfssl know
ZIPF_EXPONENT = 1.0
MISS_SHARE = 0.01
NONCE_OCTETS = 32  # RFC 9654 §2.1
REVOKED_EVERY = 10
ID_PKIX_OCSP_NONCE = bytes.fromhex("2b0601050507300102")  # 1.3.6.1.5.5.7.48.1.2, contents octets

Expectation = Literal["good", "revoked", "absent", "foreign"]

HOST = b"Host: ocsp.example-trust.com\r\n"
_SHA1 = bytes.fromhex("300906052b0e03021a0500")


def _tlv(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + contents


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask, and what is true."""

    serial: int
    expected: Expectation
    nonce: bytes = b""


@dataclass(frozen=True)
class RequestFiles:
    """Prepared requests under ``prefix`` (see wrk.lua), of which ``sent`` numbers stand in the order."""

    prefix: Path
    sent: int
    questions: Sequence[Question]

    def request(self, position: int) -> tuple[bytes, Question]:
        """Return what is sent at a position of the order, and the question in it."""
        number = _number_at(self.prefix.with_suffix(".order"), position)
        offsets = self.prefix.with_suffix(".offsets")
        begin, end = _number_at(offsets, number), _number_at(offsets, number + 1)
        with self.prefix.with_suffix(".requests").open("rb") as file:
            file.seek(begin)
            return file.read(end - begin), self.questions[number]


def _number_at(path: Path, index: int) -> int:
    with path.open("rb") as file:
        file.seek(4 * index)
        return int.from_bytes(file.read(4), sys.byteorder)


class Corpus:
    """A CA with a delegated signer in ``directory``, its index, and another CA that nobody here answers for."""

    def __init__(self, directory: Path, certificates: int) -> None:
        """Make the CA and its index; ``certificates`` are the rows."""
        self.directory = directory
        self.ca: PKI = make_ca(directory / "ca", name="Example Issuing CA R1", delegated=True)
        self.stranger: PKI = make_ca(directory / "stranger", name="Example Foreign CA F1", label="stranger")
        # A CertID up to its serial.
        self._issuers = {
            name: _SHA1 + _tlv(4, ca.issuer_name_hash()) + _tlv(4, ca.issuer_key_hash())
            for name, ca in (("own", self.ca), ("foreign", self.stranger))
        }
        chance = random.Random(1)  # the same serials every time
        self.serials = [chance.getrandbits(126) | 1 << 126 for _ in range(certificates)]
        self.misses = [chance.getrandbits(126) | 1 << 126 for _ in range(max(100, certificates // 100))]
        self.index = directory / "index.txt"
        self.short_index = directory / "short" / "index.txt"  # for those that keep it all in memory, or scan it
        self.answers = self.short_index.with_name("answers.b64")
        self.short_index.parent.mkdir()
        _write_index(self.index, self.serials)
        _write_index(self.short_index, self.serials[:HOT])

    def known(self, number: int) -> Question:
        """Return the question about a certificate."""
        return Question(self.serials[number], "revoked" if number % REVOKED_EVERY == 0 else "good")

    def hot(self) -> list[Question]:
        """Return one question about each of the hot certificates."""
        return [self.known(number) for number in range(min(HOT, len(self.serials)))]

    def write_answers(self, answers: Sequence[bytes]) -> None:
        """Write ready answers as `cfssl ocspserve` reads them: base64, a line each."""
        self.answers.write_bytes(b"".join(b64encode(answer) + b"\n" for answer in answers))

    def request_der(self, question: Question) -> bytes:
        """Encode an OCSPRequest with one CertID, SHA-1 as nearly all clients send."""
        issuer = self._issuers["foreign" if question.expected == "foreign" else "own"]
        cert_id = issuer + _tlv(2, serial_octets(question.serial))
        request_list = _tlv(0x30, _tlv(0x30, _tlv(0x30, cert_id)))
        extensions = b""
        if question.nonce:
            nonce = _tlv(6, ID_PKIX_OCSP_NONCE) + _tlv(4, _tlv(4, question.nonce))
            extensions = _tlv(0xA2, _tlv(0x30, _tlv(0x30, nonce)))
        return _tlv(0x30, _tlv(0x30, request_list + extensions))

    def write(
        self, name: str, questions: Sequence[Question], order: Sequence[int], method: str, header: bytes = b""
    ) -> RequestFiles:
        """Write the files of a load; ``header`` are header lines to add to every request."""
        prefix = self.directory / name
        offsets = array("I", [0])
        with prefix.with_suffix(".requests").open("wb") as file:
            for question in questions:
                file.write(http_request(self.request_der(question), method, header))
                offsets.append(file.tell())
        prefix.with_suffix(".offsets").write_bytes(offsets.tobytes())
        prefix.with_suffix(".order").write_bytes(array("I", order).tobytes())
        return RequestFiles(prefix, len(order), questions)

    def zipf(self, length: int) -> tuple[list[Question], list[int]]:
        """Return questions about every certificate and the misses, and an order: Zipf, 1 % of it misses."""
        chance = random.Random(2)
        count = len(self.serials)
        weights = list(itertools.accumulate(1 / (rank + 1) ** ZIPF_EXPONENT for rank in range(count)))
        order = chance.choices(range(count), cum_weights=weights, k=length)
        for position in range(length):
            if chance.random() < MISS_SHARE:
                order[position] = count + chance.randrange(len(self.misses))
        questions = [self.known(number) for number in range(count)]
        questions += [Question(serial, "absent") for serial in self.misses]
        return questions, order

    def shuffled(self) -> tuple[list[Question], list[int]]:
        """Return every certificate once, in no order."""
        order = list(range(len(self.serials)))
        random.Random(3).shuffle(order)
        return [self.known(number) for number in range(len(order))], order

    def with_nonces(self, count: int) -> list[Question]:
        """Return questions about the hot certificates, each with a nonce of its own."""
        chance = random.Random(4)
        hot = self.hot()
        return [
            Question(asked.serial, asked.expected, chance.randbytes(NONCE_OCTETS))
            for asked in itertools.islice(itertools.cycle(hot), count)
        ]

    def foreign(self) -> list[Question]:
        """Return questions about certificates of the other CA."""
        return [Question(asked.serial, "foreign") for asked in self.hot()]

    def fingerprint(self) -> str:
        """Return a digest of the serials, which two runs can be compared by."""
        return hashlib.sha256(b"".join(map(serial_octets, self.serials))).hexdigest()[:16]


def http_request(request_der: bytes, method: str, header: bytes = b"") -> bytes:
    """Spell a whole HTTP request: GET as RFC 6960 App. A.1 has it, POST with the DER as its body."""
    if method == "GET":
        return b"GET /%s HTTP/1.1\r\n%s%s\r\n" % (quote(b64encode(request_der), safe="").encode(), HOST, header)
    return b"POST / HTTP/1.1\r\n%sContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n%s\r\n%s" % (
        HOST,
        len(request_der),
        header,
        request_der,
    )


def _write_index(path: Path, serials: Sequence[int]) -> None:
    with path.open("w") as file:
        for number, serial in enumerate(serials):
            head = "R\t381231235959Z\t260101120000Z,superseded" if number % REVOKED_EVERY == 0 else "V\t381231235959Z\t"
            text = f"{serial:X}"
            file.write(f"{head}\t{'0' * (len(text) % 2)}{text}\tunknown\t/CN=host-{number}.example-shop.com\n")
    path.with_name("index.txt.attr").write_text("unique_subject = no\n")
