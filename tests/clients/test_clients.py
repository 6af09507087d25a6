"""The clients that people use believe what Revocast answers, and notice what it must not answer.

Each client is asked about a good, a revoked, an unknown and a foreign certificate, over RSA and ECDSA, from a delegated
signer and from the CA itself, with answers of each ``ocsp.certid``. Those that can ask with SHA-1 and with SHA-256 do both;
ocsptool, NSS and Java ask with SHA-1. Clients that exit 0 on almost anything are read, not counted on (openssl, ocsptool).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from tests.clients.conftest import World
from tests.components import need
from tests.ocsp_oracles import lint
from tests.pki import Leaf, verify
from tests.server import request_for


def run(*command: str | Path) -> str:
    """Run a client; returns all that it printed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


# --- OpenSSL ------------------------------------------------------------------------------------------------------


def openssl(world: World, leaf: Leaf, *options: str) -> str:
    ca = world.ca.certificate_path
    return run(
        "openssl", "ocsp", *options, "-issuer", ca, "-cert", leaf.certificate_path, "-url", world.server.url,
        "-CAfile", ca,
    )  # fmt: skip


@pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha384", "-sha512"])
@pytest.mark.parametrize("nonce", [[], ["-no_nonce"]], ids=["nonce", "no-nonce"])
@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
def test_openssl_good(world: World, digest: str, nonce: Sequence[str]) -> None:
    """REQ-06, CLI-01: openssl verifies a good answer for each hash algorithm, with and without a nonce."""
    need("openssl")
    said = openssl(world, world.good, *nonce, digest)
    assert "Response verify OK" in said
    assert f"{world.good.certificate_path}: good" in said
    assert "WARNING" not in said


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
@pytest.mark.clause("RFC 9919", "3.2.1", "MAY")
def test_openssl_revoked(world: World, digest: str) -> None:
    """openssl sees reason and time of a revocation."""
    need("openssl")
    said = openssl(world, world.revoked, "-no_nonce", digest)
    moment = datetime.fromtimestamp(world.revoked_at, UTC)
    assert "Response verify OK" in said
    assert f"{world.revoked.certificate_path}: revoked" in said
    assert "Reason: keyCompromise" in said
    assert f"Revocation Time: {moment.strftime('%b %e %H:%M:%S %Y')} GMT" in said


def test_openssl_unknown(world: World) -> None:
    """openssl verifies the signed `unknown` about a serial that nobody issued."""
    need("openssl")
    said = openssl(world, world.unknown)
    assert "Response verify OK" in said
    assert f"{world.unknown.certificate_path}: unknown" in said


@pytest.mark.clause("RFC 9919", "3.2.3", "MUST")
def test_openssl_wrong_issuer(world: World) -> None:
    """STS-05, ERR-05: a certificate of a CA that is not ours is answered unauthorized, unsigned."""
    need("openssl")
    said = run(
        "openssl", "ocsp", "-issuer", world.stranger.certificate_path, "-cert", world.foreign.certificate_path,
        "-url", world.server.url, "-CAfile", world.stranger.certificate_path,
    )  # fmt: skip
    assert "unauthorized (6)" in said


@pytest.mark.clause("RFC 6960", "4.2.2.3", "MUST")
def test_openssl_asks_for_several_certificates(world: World) -> None:
    """REQ-04: every CertID of a request is answered."""
    need("openssl")
    ca = world.ca.certificate_path
    leaves = (world.good, world.revoked, world.unknown, world.good)
    asked = [word for leaf in leaves for word in ("-cert", str(leaf.certificate_path))]
    said = run("openssl", "ocsp", "-issuer", ca, *asked, "-url", world.server.url, "-CAfile", ca)
    assert "Response verify OK" in said
    assert f"{world.good.certificate_path}: good" in said
    assert f"{world.revoked.certificate_path}: revoked" in said
    assert f"{world.unknown.certificate_path}: unknown" in said
    assert "No Status found" not in said


# --- GnuTLS -------------------------------------------------------------------------------------------------------


def ocsptool(world: World, leaf: Leaf, *options: str | Path) -> str:
    # A CA that signs answers itself has to be named as the signer, instead of as a trust anchor (CLI-02).
    trusted = "--load-trust" if world.ca.signer else "--load-signer"
    return run(
        "ocsptool", f"--ask={world.server.url}", "--load-cert", leaf.certificate_path,
        "--load-issuer", world.ca.certificate_path, trusted, world.ca.certificate_path, *options,
    )  # fmt: skip


@pytest.mark.parametrize("nonce", ["--no-nonce", "--nonce"])
def test_gnutls_good(world: World, nonce: str) -> None:
    """CLI-02: ocsptool, an HTTP/1.0 client, verifies a good answer."""
    need("ocsptool")
    said = ocsptool(world, world.good, *([nonce] if nonce == "--nonce" else []))
    assert "Verifying OCSP Response: Success" in said
    assert "Certificate Status: good" in said


def test_gnutls_revoked(world: World) -> None:
    """ocsptool sees reason and time of a revocation."""
    need("ocsptool")
    said = ocsptool(world, world.revoked)
    moment = datetime.fromtimestamp(world.revoked_at, UTC)
    assert "Verifying OCSP Response: Success" in said
    assert "Certificate Status: revoked" in said
    assert "Revocation reason" not in said or "Key" in said
    assert moment.strftime("%b %d %H:%M:%S UTC %Y") in said


def test_gnutls_unknown(world: World) -> None:
    """ocsptool verifies the signed `unknown`."""
    need("ocsptool")
    said = ocsptool(world, world.unknown)
    assert "Verifying OCSP Response: Success" in said
    assert "Certificate Status: unknown" in said


def test_gnutls_wrong_issuer(world: World) -> None:
    """ocsptool is told unauthorized about another CA's certificate."""
    need("ocsptool")
    stranger = world.stranger.certificate_path
    said = run(
        "ocsptool", f"--ask={world.server.url}", "--load-cert", world.foreign.certificate_path,
        "--load-issuer", stranger, "--load-trust", stranger,
    )  # fmt: skip
    assert "nauthorized" in said, said
    assert "Success" not in said


# --- NSS ----------------------------------------------------------------------------------------------------------


def ocspclnt(world: World, leaf: Leaf, directory: Path, ca: Path | None = None) -> str:
    """Ask through NSS, which takes the responder's address from the certificate (AIA)."""
    database = f"sql:{directory}"
    run("certutil", "-N", "-d", database, "--empty-password")
    run("certutil", "-A", "-d", database, "-n", "ca", "-t", "CT,C,C", "-a", "-i", ca or world.ca.certificate_path)
    run("certutil", "-A", "-d", database, "-n", "leaf", "-t", ",,", "-a", "-i", leaf.certificate_path)
    return run("ocspclnt", "-d", database, "-S", "leaf")


def test_nss_good(world: World, tmp_path: Path) -> None:
    """CLI-03, HTR-08: NSS, the strictest on times and DER, believes a good answer."""
    need("certutil", "ocspclnt")
    said = ocspclnt(world, world.good, tmp_path)
    assert 'Check of certificate "leaf" succeeded' in said, said


def test_nss_revoked(world: World, tmp_path: Path) -> None:
    """NSS sees the revocation."""
    need("certutil", "ocspclnt")
    assert "revoked" in ocspclnt(world, world.revoked, tmp_path).lower()


def test_nss_unknown(world: World, tmp_path: Path) -> None:
    """NSS is told that nobody issued the serial."""
    need("certutil", "ocspclnt")
    assert "has no status for the certificate" in ocspclnt(world, world.unknown, tmp_path)


def test_nss_wrong_issuer(world: World, tmp_path: Path) -> None:
    """NSS is told unauthorized about another CA's certificate."""
    need("certutil", "ocspclnt")
    said = ocspclnt(world, world.foreign, tmp_path, ca=world.stranger.certificate_path)
    assert "succeeded" not in said
    assert "not authorized" in said or "unauthorized" in said.lower(), said


# --- Java ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled checker."""
    need("java", "javac")
    classes = tmp_path_factory.mktemp("java")
    said = run("javac", "-d", classes, Path(__file__).with_name("OcspCheck.java"))
    assert (classes / "OcspCheck.class").exists(), said
    return classes


def java(classes: Path, world: World, leaf: Leaf, *, nonce: bool = False, ca: Path | None = None) -> str:
    options = ["-Djdk.security.certpath.ocspNonce=true"] if nonce else []
    return run(
        "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", *options, "-cp", classes, "OcspCheck",
        ca or world.ca.certificate_path, leaf.certificate_path, world.server.url,
    )  # fmt: skip


@pytest.mark.parametrize("nonce", [False, True], ids=["no-nonce", "nonce"])
def test_java_good(world: World, java_classes: Path, nonce: bool) -> None:
    """CLI-04: Java's PKIXRevocationChecker believes a good answer."""
    assert java(java_classes, world, world.good, nonce=nonce).strip() == "GOOD"


def test_java_revoked(world: World, java_classes: Path) -> None:
    """Java sees reason and time."""
    moment = datetime.fromtimestamp(world.revoked_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert java(java_classes, world, world.revoked).strip() == f"REVOKED KEY_COMPROMISE {moment}"


def test_java_unknown(world: World, java_classes: Path) -> None:
    """Java is told that nobody issued the serial."""
    said = java(java_classes, world, world.unknown)
    assert said.startswith("FAILED UNDETERMINED_REVOCATION_STATUS"), said


def test_java_wrong_issuer(world: World, java_classes: Path) -> None:
    """ERR-06: the error arrives under HTTP 200, so Java can name it."""
    assert "UNAUTHORIZED" in java(java_classes, world, world.foreign, ca=world.stranger.certificate_path)


# --- pyca/cryptography --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()], ids=lambda a: a.name)
@pytest.mark.parametrize("nonce", [None, b"n" * 32], ids=["no-nonce", "nonce"])
@pytest.mark.clause("RFC 6960", "4.2.1", "MUST")
def test_cryptography(world: World, algorithm: hashes.HashAlgorithm, nonce: bytes | None) -> None:
    """REQ-07, RSP-04, RSP-08, RSP-10: CertID, ResponderID, signature and nonce hold under an independent parser."""
    for leaf, status in (
        (world.good, ocsp.OCSPCertStatus.GOOD),
        (world.revoked, ocsp.OCSPCertStatus.REVOKED),
        (world.unknown, ocsp.OCSPCertStatus.UNKNOWN),
    ):
        answer = world.server.query(leaf, world.ca, algorithm, nonce)
        assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        singles = {single.hash_algorithm.name: single for single in answer.responses}
        # Two CertIDs only in what others may be given too, and only of SHA-1 and SHA-256.
        is_dual = world.certid == "dual" and nonce is None and algorithm.name != "sha384" and leaf is not world.unknown
        assert list(singles) == (["sha1", "sha256"] if is_dual else [algorithm.name])
        for hash_name, single in singles.items():
            assert single.certificate_status is status
            assert single.serial_number == leaf.serial_number
            assert single.issuer_name_hash == world.ca.issuer_name_hash(hash_name)
            assert single.issuer_key_hash == world.ca.issuer_key_hash(hash_name)
        signer = world.ca.answer_signer
        assert answer.responder_key_hash == signer.key_hash
        assert [c.public_bytes(serialization.Encoding.DER) for c in answer.certificates] == list(
            world.ca.answer_certs_der
        )
        verify(signer.certificate.public_key(), signer.key_type, answer.signature, answer.tbs_response_bytes)
        echoed = [
            extension.value.nonce for extension in answer.extensions if isinstance(extension.value, x509.OCSPNonce)
        ]
        assert echoed == ([] if nonce is None else [nonce])


@pytest.mark.clause("RFC 6960", "2.3", "MUST")
def test_cryptography_wrong_issuer(world: World) -> None:
    """ERR-05: unauthorized, with nothing signed."""
    for algorithm in (hashes.SHA1(), hashes.SHA256()):
        body = world.server.post(request_for(world.foreign, world.stranger, algorithm))[1]
        assert body == bytes.fromhex("30030a0106")


def test_pkilint_finds_nothing(world: World) -> None:
    """Every kind of answer passes pkilint, as does the delegated signer's certificate."""
    for leaf in (world.good, world.revoked, world.unknown):
        for algorithm, nonce in ((hashes.SHA1(), None), (hashes.SHA256(), None), (hashes.SHA1(), b"n" * 16)):
            assert lint(world.server.post(request_for(leaf, world.ca, algorithm, nonce))[1]) == []
