"""Signers replaced under load: `revocast run`, clients that never stop asking, and a look at each answer (DEL-04).

Nothing here waits for luck: each step waits until live answers are the new signer's, and every answer that any client was told is
verified by cryptography with the certificate that it carries, which must be one that the CA issued.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp

from responder.clock import format_utc
from tests.pki import PKI, Signer, make_ca, make_leaf, make_signer, verify
from tests.server import Revocast, ca_section, index_line, wait_until, write_index

KEY_TYPES = {"secp256r1": "p256", "secp384r1": "p384"}
AHEAD_S = 5  # from the start to the time of the signer that is configured ahead
ENOUGH = 10  # answers that each client must be told between two steps
PAUSE_S = 0.01
ORDINARY = range(0x1000, 0x1000 + 20)  # asked for again and again
SELDOM = range(0x2000, 0x2000 + 1_000)  # asked for once each


class Shop:
    """A CA with many certificates, and what its clients were told."""

    def __init__(self, directory: Path, name: str, *serials: int) -> None:
        self.name = name
        self.ca: PKI = make_ca(directory / name, name=f"Example {name} CA", label=name, delegated=True)
        self.index = directory / name / "index.txt"
        leaf = make_leaf(self.ca, serial_number=0x10)
        self._line, self._lines = index_line(leaf), list[str]()
        self.issue(*serials)
        names = (self.ca.subject_der, self.ca.public_key_octets)
        self._hashes = [hashlib.sha1(data, usedforsecurity=False).digest() for data in names]
        self._issued: set[bytes] = set()

    def issue(self, *serials: int) -> None:
        """Have the CA issue more certificates."""
        self._lines += [self._line.replace("\t10\t", f"\t{serial:X}\t") for serial in serials]
        write_index(self.index, self._lines)

    def request(self, serial: int, nonce: bytes | None = None) -> bytes:
        """Write a request about one certificate."""
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(*self._hashes, serial, hashes.SHA1())
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.build().public_bytes(serialization.Encoding.DER)

    def check(self, serial: int, body: bytes) -> ocsp.OCSPResponse:
        """Verify an answer as a client does, with nothing but the CA's certificate; raises for whatever is wrong."""
        answer = ocsp.load_der_ocsp_response(body)
        assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, answer.response_status
        assert answer.serial_number == serial
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
        (certificate,) = answer.certificates
        der = certificate.public_bytes(serialization.Encoding.DER)
        if der not in self._issued:
            certificate.verify_directly_issued_by(self.ca.certificate)
            self._issued.add(der)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        key_type = KEY_TYPES[key.curve.name] if isinstance(key, ec.EllipticCurvePublicKey) else "rsa2048"
        verify(key, key_type, answer.signature, answer.tbs_response_bytes)
        assert answer.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest
        assert answer.next_update_utc is not None
        assert answer.next_update_utc <= certificate.not_valid_after_utc
        return answer


class Client(threading.Thread):
    """Asks on one connection until it is stopped; ``told`` counts its answers, ``problems`` says what was wrong.

    ``signers`` has those of its answers, of live ones alone where it asks with a nonce.
    """

    def __init__(self, server: Revocast, shop: Shop, serials: Iterator[int], *, nonce: bool = False) -> None:
        super().__init__(daemon=True)
        self.told = 0
        self.problems: list[str] = []
        self.signers: dict[bytes, tuple[float, float]] = {}  # certificate → producedAt of its first and last answer
        self._connection = http.client.HTTPConnection(*server.http, timeout=10)
        self._shop = shop
        self._serials = serials
        self._nonce = nonce
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask."""
        for serial in self._serials:
            if self._ended.wait(PAUSE_S):
                break
            try:
                self._ask(serial)
            except Exception as error:
                self.problems.append(f"{self._shop.name} {serial:x}: {type(error).__name__}: {error}")
                self._connection.close()
        self._connection.close()

    def _ask(self, serial: int) -> None:
        nonce = os.urandom(16) if self._nonce else None
        self._connection.request(
            "POST", "/", self._shop.request(serial, nonce), {"Content-Type": "application/ocsp-request"}
        )
        answer = self._shop.check(serial, self._connection.getresponse().read())
        self.told += 1
        if nonce is not None:
            if not len(answer.extensions):
                return  # RFC 9919 §3.2.1: the ready answer, where the machine is too busy for a live one
            assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
        der = answer.certificates[0].public_bytes(serialization.Encoding.DER)
        produced_at = answer.produced_at_utc.timestamp()
        self.signers[der] = (self.signers.get(der, (produced_at, 0.0))[0], produced_at)

    def was_told_by(self, certificate_der: bytes) -> bool:
        """Tell whether a signer's answer has come; fails where another was wrong."""
        assert not self.problems, self.problems[:5]
        return certificate_der in self.signers

    def stop(self) -> None:
        """End after the answer under way."""
        self._ended.set()


@pytest.mark.clause("RFC 9919", "3.2.2", "SHOULD")
def test_signers_are_replaced_under_load(tmp_path: Path) -> None:
    """DEL-04: whatever was asked while signers changed, each answer verifies with the certificate that it carries."""
    corp, ahead = Shop(tmp_path, "corp", *ORDINARY, *SELDOM), Shop(tmp_path, "ahead", *ORDINARY)
    takes_over_at = int(time.time()) + AHEAD_S
    following = make_signer(ahead.ca, "p384", file_name="next", label="next", name="OCSP next")
    table = (
        f', next = {{ from = {format_utc(takes_over_at)}, certificate = "{following.certificate_path}", '
        f'key = "{following.key_path}" }}'
    )
    sections = [
        ca_section(corp.name, corp.ca, corp.index),
        ca_section(ahead.name, ahead.ca, ahead.index, extra_ocsp=table),
    ]
    with Revocast(tmp_path / "run", sections, workers=2) as server:
        for shop, serials in ((corp, [*ORDINARY, *SELDOM[::50]]), (ahead, ORDINARY)):
            for serial in serials:
                ask_until_answered(server, shop, serial)
        hot = [Client(server, shop, itertools.cycle(ORDINARY)) for shop in (corp, ahead)]
        seldom = [Client(server, corp, iter(SELDOM))]
        live = Client(server, corp, itertools.cycle(ORDINARY), nonce=True)
        live_ahead = Client(server, ahead, itertools.cycle(ORDINARY), nonce=True)
        clients = [*hot, *seldom, live, live_ahead]
        for client in clients:
            client.start()
        try:
            for number, replace in enumerate((replace_both, replace_bit_by_bit)):
                each_told(clients)
                key_type = ("p384", "rsa2048")[number]
                signer = make_signer(corp.ca, key_type, file_name=f"new{number}", label=f"new{number}")
                replace(corp.ca.answer_signer, signer, lambda: each_told(clients))
                wait_until("the new signer", lambda der=signer.certificate_der: live.was_told_by(der))
                # Ready answers of the new signer: the workers have what puts them together.
                fresh = range(0x8000 + 0x100 * number, 0x8000 + 0x100 * number + 8)
                corp.issue(*fresh)
                for serial in fresh:
                    assert ask_until_answered(server, corp, serial).certificates[0] == signer.certificate
            wait_until("the signer configured ahead", lambda: live_ahead.was_told_by(following.certificate_der))
            each_told(clients)
        finally:
            for client in clients:
                client.stop()
            for client in clients:
                client.join(20)
        problems = [problem for client in clients for problem in client.problems]
        assert not problems, f"{len(problems)}: {problems[:5]}\n{server.log[-4000:]}"
        # One after the other, and none came back: live answers of each signer ended before those of its successor's second.
        for asked in (live, live_ahead):
            times = list(asked.signers.values())
            assert all(last <= first for (_, last), (first, _) in itertools.pairwise(times)), times
        assert len(live.signers) == 3
        assert live_ahead.signers[following.certificate_der][0] >= takes_over_at
        assert '"event": "role_died"' not in server.log


def ask_until_answered(server: Revocast, shop: Shop, serial: int) -> ocsp.OCSPResponse:
    """Ask until there is an answer, which is verified."""

    def body() -> bytes | None:
        try:
            told = server.post(shop.request(serial))[1]
        except OSError:  # the workers are not up yet
            return None
        status = ocsp.load_der_ocsp_response(told).response_status
        return told if status is ocsp.OCSPResponseStatus.SUCCESSFUL else None

    return shop.check(serial, wait_until(f"an answer about {serial:x}", body) or b"")


def each_told(clients: list[Client]) -> None:
    """Wait until each client that still asks has been told some more."""
    before = [client.told for client in clients]
    wait_until(
        "answers",
        lambda: all(
            client.told >= told + ENOUGH or not client.is_alive() for client, told in zip(clients, before, strict=True)
        ),
    )


Wait = Callable[[], None]


def put(source: Path, place: Path) -> None:
    """Replace a file in one step."""
    fresh = place.with_suffix(".fresh")
    fresh.touch(mode=0o600)
    fresh.write_bytes(source.read_bytes())
    fresh.replace(place)


def replace_both(old: Signer, new: Signer, _ask: Wait) -> None:
    """Rename both into place."""
    put(new.key_path, old.key_path)
    put(new.certificate_path, old.certificate_path)


def replace_bit_by_bit(old: Signer, new: Signer, ask: Wait) -> None:
    """Write into the files themselves, the certificate's first, each in two halves."""
    for source, place in ((new.certificate_path, old.certificate_path), (new.key_path, old.key_path)):
        text = source.read_bytes()
        with place.open("wb") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            ask()
            file.write(text[len(text) // 2 :])
