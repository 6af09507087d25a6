"""A signer's certificate that ends while Revocast runs: its answers end with it, and no client is given one past it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from tests.components import need
from tests.pki import PKI, Leaf, make_ca, make_leaf, make_signer
from tests.server import Revocast, ca_section, index_line, request_for, wait_until, write_index

LIFE_S = 14  # of the signer, from before the start: long enough to sign and to be asked on a busy machine
GOOD = ocsp.OCSPCertStatus.GOOD
TRY_LATER = ocsp.OCSPResponseStatus.TRY_LATER


@dataclass
class Shop:
    """A CA, a good certificate of it, and the index.txt that lists it."""

    ca: PKI
    leaf: Leaf
    index: Path


def make_shop(directory: Path, name: str, signer_not_after: int | None) -> Shop:
    ca = make_ca(directory / name, name=f"Example {name} CA", label=name)
    ca = PKI(**{**vars(ca), "signer": make_signer(ca, not_after=signer_not_after)})
    leaf = make_leaf(ca, host=f"{name}.example-shop.com")
    index = directory / name / "index.txt"
    write_index(index, [index_line(leaf)])
    return Shop(ca, leaf, index)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def openssl(server: Revocast, shop: Shop) -> str:
    ca = shop.ca.certificate_path
    return run(
        "openssl", "ocsp", "-no_nonce", "-issuer", ca, "-cert", shop.leaf.certificate_path, "-url", server.url,
        "-CAfile", ca,
    )  # fmt: skip


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_answers_end_with_their_signer(tmp_path: Path) -> None:
    """DEL-05: answers are clipped to the signer's end; past it openssl and Java get tryLater, and other CAs go on."""
    need("openssl", "ocsptool", "java", "javac")
    classes = tmp_path / "classes"
    run("javac", "-d", classes, Path(__file__).with_name("OcspCheck.java"))
    ends_at = int(time.time()) + LIFE_S
    ending, lasting = make_shop(tmp_path, "ending", ends_at), make_shop(tmp_path, "lasting", None)
    sections = [ca_section(shop.ca.directory.name, shop.ca, shop.index) for shop in (ending, lasting)]
    with Revocast(tmp_path / "server", sections) as server:

        def java(shop: Shop) -> str:
            return run(
                "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", classes, "OcspCheck",
                shop.ca.certificate_path, shop.leaf.certificate_path, server.url,
            )  # fmt: skip

        server.wait_for(ending.leaf, ending.ca, GOOD, within_s=ends_at - time.time() - 1)
        # While it lasts, clients believe it, and no answer is promised past its end, live ones included.
        for nonce in (None, b"n" * 16):
            answer = server.query(ending.leaf, ending.ca, nonce=nonce)
            assert answer.certificate_status is GOOD
            assert answer.next_update_utc is not None
            assert answer.next_update_utc.timestamp() == ends_at
        said = openssl(server, ending)
        assert "Response verify OK" in said
        assert f"{ending.leaf.certificate_path}: good" in said
        assert time.time() < ends_at, "this machine is too slow for LIFE_S"

        # From here on every answer is looked at, up to the end and over it.
        def ended() -> bool:
            asked_at = time.time()
            answers = [server.query(ending.leaf, ending.ca, nonce=nonce) for nonce in (None, b"n" * 16)]
            for answer in answers:
                assert answer.response_status is TRY_LATER or asked_at < ends_at
            return all(answer.response_status is TRY_LATER for answer in answers)

        wait_until("the signer's end", ended)
        assert "trylater" in openssl(server, ending)
        assert "TRY_LATER" in java(ending)
        said = run(
            "ocsptool", f"--ask={server.url}", "--load-cert", ending.leaf.certificate_path,
            "--load-issuer", ending.ca.certificate_path, "--load-trust", ending.ca.certificate_path,
        )  # fmt: skip
        assert "tryLater" in said, said
        assert "Status: good" not in said
        body = server.post(request_for(ending.leaf, ending.ca))[1]
        assert body == bytes.fromhex("30030a0103"), "an error is five octets, without an answer"
        wait_until("the log", lambda: "signer_ended" in server.log)

        # The other CA's answers go on, those that have to be signed now too.
        assert f"{lasting.leaf.certificate_path}: good" in openssl(server, lasting)
        assert java(lasting).strip() == "GOOD"
        assert server.query(lasting.leaf, lasting.ca, nonce=b"m" * 16).certificate_status is GOOD
        assert '"event": "role_died"' not in server.log
