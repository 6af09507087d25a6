"""Is the answer right? Asked before anything is measured: the prepared requests themselves, sent as they are."""

from __future__ import annotations

import random
import socket
import statistics
import time
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from bench.serve.corpus import Corpus, Question, RequestFiles
from bench.serve.rivals import Contender, Job

SAMPLE = 400
TIMEOUT_S = 10.0
ASK_AGAIN, ASK_AGAIN_AFTER_S = 5, 0.2
STATUSES = {"good": ocsp.OCSPCertStatus.GOOD, "revoked": ocsp.OCSPCertStatus.REVOKED}


class WrongAnswer(Exception):
    """A contender said something else than what is true; nothing of it is worth measuring."""


def check(contender: Contender, corpus: Corpus, files: RequestFiles, job: Job) -> float:
    """Ask a sample of the load's requests; returns the mean octets of a response. Raises WrongAnswer."""
    sample = random.Random(5).sample(range(files.sent), min(SAMPLE, files.sent))
    asked = [files.request(position) for position in sample]
    sizes = []
    responses = exchange(contender.port, [request for request, _ in asked])
    for (request, question), (head, body) in zip(asked, responses, strict=True):
        for _ in range(ASK_AGAIN):
            if not question.nonce or question.nonce in body:
                break
            # Revocast was too busy to sign it in time, and gave the ready answer. While measuring that does not count.
            time.sleep(ASK_AGAIN_AFTER_S)
            ((head, body),) = exchange(contender.port, [request])
        try:
            _check_one(contender, corpus, question, head, body, job)
        except Exception as error:
            raise WrongAnswer(f"{contender.title}, about {question}: {error!r}\n{head[:300]!r}") from error
        sizes.append(len(head) + len(body))
    return statistics.mean(sizes)


def _check_one(contender: Contender, corpus: Corpus, question: Question, head: bytes, body: bytes, job: Job) -> None:
    assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")), "not 200"
    assert b"\r\ncontent-type: application/ocsp-response\r\n" in head.lower(), "not the MIME type"
    if not contender.speaks_ocsp:
        assert body == job.body, "not the file"
        return
    answer = ocsp.load_der_ocsp_response(body)
    if question.expected in ("absent", "foreign") and contender.says_of_foreign == "unauthorized":
        assert answer.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED, answer.response_status
        return
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, answer.response_status
    expected = STATUSES.get(question.expected, ocsp.OCSPCertStatus.UNKNOWN)
    assert answer.certificate_status is expected, answer.certificate_status
    assert answer.serial_number == question.serial, "another serial"
    issuer = corpus.stranger if question.expected == "foreign" else corpus.ca
    assert answer.issuer_key_hash == issuer.issuer_key_hash(), "another issuer"
    _check_signature(answer, corpus)
    if question.nonce:
        nonce = answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        assert nonce == question.nonce, "not the nonce"


def _check_signature(answer: ocsp.OCSPResponse, corpus: Corpus) -> None:
    assert corpus.ca.signer is not None
    signer = corpus.ca.signer.certificate
    assert list(answer.certificates) == [signer], "not the delegated signer"
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(answer.signature_hash_algorithm, hashes.SHA256)
    key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))


def exchange(port: int, requests: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Send whole requests one after another; yields each response's head (with its empty line) and body."""
    connection: socket.socket | None = None
    try:
        for request in requests:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            connection.sendall(request)
            head, body = _read_response(connection)
            yield head, body
            if b"connection: close" in head.lower() or (
                head.startswith(b"HTTP/1.0") and b"connection: keep-alive" not in head.lower()
            ):
                connection.close()
                connection = None
    finally:
        if connection is not None:
            connection.close()


def _read_response(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if not (more := connection.recv(65_536)):
            raise WrongAnswer(f"closed within the head: {data!r}")
        data += more
    head, body = data[: end + 4], data[end + 4 :]
    lines = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    length = int(lines[b"content-length"])
    while len(body) < length:
        if not (more := connection.recv(65_536)):
            raise WrongAnswer(f"closed within the body: {head!r}")
        body += more
    return head, body
