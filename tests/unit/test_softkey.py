"""Keys in PEM files: what signs, what is refused, and how a passphrase is found."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from asn1crypto import algos, pem
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519

from responder.errors import ConfigError, SignerUnavailable
from responder.signing.algorithms import RSAPadding, public_key_to_der, verify_signature
from responder.signing.pins import PinSource
from responder.signing.softkey import SoftKeySigner, load_soft_key
from tests.pki import SIGNATURE_ALGORITHM_DER, key_of, make_ca, write_key

KEY_TYPES = ["rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521", "ed25519", "mldsa44", "mldsa65", "mldsa87"]
ML_DSA_OCTETS = {"mldsa44": 2420, "mldsa65": 3309, "mldsa87": 4627}  # FIPS 204, table 2
MESSAGES = [b"one", b"", b"three" * 1000]


def load(path: Path, *, pin_file: Path | None = None, pin_env: str | None = None) -> SoftKeySigner:
    """Load a key as open_signer does."""
    passphrase = PinSource("revocast.toml", "ca[corp].ocsp", "passphrase", pin_file=pin_file, pin_env=pin_env)
    return load_soft_key(path, passphrase, "revocast.toml", "ca[corp].ocsp.key")


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_signs(tmp_path: Path, key_type: str) -> None:
    """BR-11, ALG-02, ALG-03, ALG-04, ALG-05: signatures verify, and the AlgorithmIdentifier has the exact bytes."""
    private_key = key_of(key_type, "soft")
    signer = load(write_key(tmp_path / "key.pem", private_key))
    assert signer.public_key_der == public_key_to_der(private_key.public_key())
    assert signer.signature_algorithm_der == SIGNATURE_ALGORITHM_DER[key_type]
    signatures = signer.sign(MESSAGES)
    for message, signature in zip(MESSAGES, signatures, strict=True):
        assert verify_signature(signer.public_key_der, signer.signature_algorithm_der, signature, message)
        assert len(signature) == ML_DSA_OCTETS.get(key_type, len(signature))
    assert not verify_signature(signer.public_key_der, signer.signature_algorithm_der, signatures[0], MESSAGES[1])
    signer.close()
    with pytest.raises(SignerUnavailable, match="closed"):
        signer.sign(MESSAGES)


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
@pytest.mark.parametrize(
    ("key_type", "digest"), [("rsa2048", "sha256"), ("p256", "sha256"), ("p384", "sha384"), ("p521", "sha512")]
)
def test_openssl_verifies_with_the_hash_of_the_curve(tmp_path: Path, key_type: str, digest: str) -> None:
    """BR-11: the hash belongs to the curve; OpenSSL verifies with that one."""
    private_key = key_of(key_type, "soft")
    (signature,) = SoftKeySigner(private_key).sign([b"message"])
    public, data, signed = tmp_path / "public.pem", tmp_path / "data", tmp_path / "signature"
    public.write_bytes(
        private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    data.write_bytes(b"message")
    signed.write_bytes(signature)
    subprocess.run(
        ["openssl", "dgst", f"-{digest}", "-verify", public, "-signature", signed, data],
        check=True,
        capture_output=True,
    )


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
@pytest.mark.clause("RFC 4055", "3.1", "MUST")
@pytest.mark.parametrize("key_type", ["rsa2048", "rsa3072", "rsa4096"])
def test_pss(tmp_path: Path, key_type: str) -> None:
    """BR-11: PSS is SHA-256, MGF1 with SHA-256 and a salt of 32 octets; OpenSSL verifies exactly that."""
    private_key = key_of(key_type, "soft")
    signer = SoftKeySigner(private_key, "pss")
    assert signer.signature_algorithm_der == SIGNATURE_ALGORITHM_DER["rsa2048pss"]
    (signature,) = signer.sign([b"message"])
    public, data, signed = tmp_path / "public.pem", tmp_path / "data", tmp_path / "signature"
    public.write_bytes(
        private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    data.write_bytes(b"message")
    signed.write_bytes(signature)
    options = ["rsa_padding_mode:pss", "rsa_pss_saltlen:32", "rsa_mgf1_md:sha256"]
    command = ["openssl", "dgst", "-sha256", "-verify", public, "-signature", signed]
    command += [word for option in options for word in ("-sigopt", option)]
    assert b"Verified OK" in subprocess.run([*command, data], check=True, capture_output=True).stdout
    # What is padded one way does not verify as the other.
    pkcs1 = SoftKeySigner(private_key)
    assert verify_signature(signer.public_key_der, signer.signature_algorithm_der, signature, b"message")
    assert not verify_signature(signer.public_key_der, pkcs1.signature_algorithm_der, signature, b"message")
    assert not verify_signature(
        signer.public_key_der, signer.signature_algorithm_der, pkcs1.sign([b"message"])[0], b"message"
    )


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
def test_pss_algorithm_identifier_octet_by_octet(tmp_path: Path) -> None:
    """BR-11: the octets are those that cryptography and OpenSSL write for these parameters, the salt's 32 among them."""
    ours = SoftKeySigner(key_of("rsa2048", "soft"), "pss").signature_algorithm_der
    by_cryptography = make_ca(tmp_path, "rsa2048pss")
    assert by_cryptography.certificate_der.count(ours) == 2  # RFC 5280 §4.1.1.2: inside and outside
    options = ["rsa_padding_mode:pss", "rsa_pss_saltlen:32", "rsa_mgf1_md:sha256"]
    command = ["openssl", "req", "-x509", "-new", "-sha256", "-subj", "/CN=a", "-key", by_cryptography.key_path]
    command += [word for option in options for word in ("-sigopt", option)]
    by_openssl = subprocess.run([*command, "-outform", "DER"], check=True, capture_output=True).stdout
    assert by_openssl.count(ours) == 2


@pytest.mark.clause("RFC 9881", "2", "MUST")
@pytest.mark.parametrize("key_type", ML_DSA_OCTETS)
def test_ml_dsa_is_pure_and_without_context(key_type: str) -> None:
    """ALG-05: the message itself is signed under an empty context; parameters are absent."""
    private_key = key_of(key_type, "soft")
    signer = SoftKeySigner(private_key)
    (signature,) = signer.sign([b"message"])
    private_key.public_key().verify(signature, b"message", b"")
    with pytest.raises(InvalidSignature):
        private_key.public_key().verify(signature, b"message", b"context")
    identifier = algos.AlgorithmIdentifier.load(signer.signature_algorithm_der, strict=True)
    number = {"mldsa44": 17, "mldsa65": 18, "mldsa87": 19}[key_type]
    assert identifier["algorithm"].dotted == f"2.16.840.1.101.3.4.3.{number}"
    assert len(identifier.contents) == len(identifier["algorithm"].dump())


def test_ml_dsa_without_seed_is_refused_in_words(tmp_path: Path) -> None:
    """RFC 9881 §6: a key in another form than its seed cannot be read; the line says which form can."""
    der = (Path(cryptography_vectors.__file__).parent / "asymmetric/MLDSA/mldsa65_noseed_priv.der").read_bytes()
    path = tmp_path / "key.pem"
    path.write_bytes(pem.armor("PRIVATE KEY", der))
    with pytest.raises(
        ConfigError, match=r"key\.pem: an ML-DSA key must be in the form that holds its seed alone"
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key_type", "name"), [("p256", "P-256"), ("ed25519", "Ed25519"), ("mldsa65", "ML-DSA-65")])
@pytest.mark.parametrize("rsa_padding", ["pss", "pkcs1"])
def test_rsa_padding_is_for_rsa(key_type: str, name: str, rsa_padding: RSAPadding) -> None:
    """A padding that means nothing to the key is an error, not ignored."""
    with pytest.raises(ValueError, match=f"^rsa_padding is for RSA keys, and this is a {name} key; leave it out$"):
        SoftKeySigner(key_of(key_type, "soft"), rsa_padding)


@pytest.mark.clause("RFC 6960", "5.1.1", "MUST NOT")
@pytest.mark.parametrize(
    ("private_key", "name"),
    [
        (rsa.generate_private_key(65_537, 1024), "RSA-1024"),  # noqa: S505 - weak on purpose
        (rsa.generate_private_key(65_537, 2056), "RSA-2056"),
        (ec.generate_private_key(ec.SECP256K1()), "EC secp256k1"),
        (ec.generate_private_key(ec.SECP224R1()), "EC secp224r1"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (x25519.X25519PrivateKey.generate(), "X25519"),
        (dsa.generate_private_key(1024), "DSA"),  # noqa: S505 - weak on purpose
    ],
    ids=["rsa1024", "rsa2056", "secp256k1", "p224", "ed448", "x25519", "dsa"],
)
def test_other_keys_are_refused(tmp_path: Path, private_key: Any, name: str) -> None:
    """EXT-07: weak and unusual keys do not sign; the line names what is allowed."""
    path = write_key(tmp_path / "key.pem", private_key)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == (
        f"revocast.toml: ca[corp].ocsp.key: {path}: a key of type {name} cannot sign answers; "
        "allowed: RSA of 2048, 3072 or 4096 bits, EC on P-256, P-384 or P-521, Ed25519, "
        "and with the key in a file ML-DSA-44, ML-DSA-65 or ML-DSA-87"
    )


def test_passphrase_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encrypted key takes its passphrase from the first line of a file, or from the environment."""
    path = write_key(tmp_path / "key.pem", key_of("p256", "soft"), "pass phrase")
    pin_file = tmp_path / "pin"
    pin_file.write_text("pass phrase\r\nnot this line\n")
    assert load(path, pin_file=pin_file).sign([b"m"])
    monkeypatch.setenv("TEST_PASSPHRASE", "pass phrase")
    assert load(path, pin_env="TEST_PASSPHRASE").sign([b"m"])
    pin_file.write_text("wrong\n")
    with pytest.raises(ConfigError, match=r"Incorrect password|[Dd]ecrypt") as caught:
        load(path, pin_file=pin_file)
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value).replace("Wrong", "")


def test_encrypted_ml_dsa(tmp_path: Path) -> None:
    """An ML-DSA key may be encrypted like any other."""
    path = write_key(tmp_path / "key.pem", key_of("mldsa65", "soft"), "pass phrase")
    pin_file = tmp_path / "pin"
    pin_file.write_text("pass phrase\n")
    signer = load(path, pin_file=pin_file)
    assert signer.public_key_der == public_key_to_der(key_of("mldsa65", "soft").public_key())


def test_passphrase_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encrypted key without a passphrase, and with nobody to ask, names the keys to set."""
    path = write_key(tmp_path / "key.pem", key_of("p256", "soft"), "pass phrase")
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(ConfigError, match="passphrase is needed: set pin_file or pin_env"):
            load(path)


def test_openssl_forms(tmp_path: Path) -> None:
    """Keys as openssl ecparam (parameters first) and openssl genrsa -traditional write them are read."""
    ecparam, traditional = tmp_path / "ec.pem", tmp_path / "rsa.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", ecparam], check=True)
    command = ["openssl", "genrsa", "-traditional", "-out", traditional, "2048"]
    subprocess.run(command, check=True, capture_output=True)
    assert load(ecparam).signature_algorithm_der == SIGNATURE_ALGORITHM_DER["p256"]
    assert load(traditional).signature_algorithm_der == SIGNATURE_ALGORITHM_DER["rsa2048"]


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_files_that_are_no_key(tmp_path: Path, content: bytes) -> None:
    """A file that holds no key is one line that names it."""
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^revocast.toml: ca\[corp\].ocsp.key: .*key.pem: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that went away between check and use is one line."""
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load(tmp_path / "none.pem")
