"""``revocast signer request``: a PKCS#10 from whatever holds the key, read by OpenSSL and cryptography."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from responder.cli.signer import signer as signer_app
from responder.config import load_config
from responder.errors import ConfigError, OperatorError, RevocastError
from responder.issuers import load_issuer
from responder.signing.algorithms import public_key_to_der
from responder.signing.delegation import check_signer_certificate
from tests.pki import PKI, SIGNATURE_ALGORITHM_DER, key_of, make_ca, make_signer, utc, write_key
from tests.softhsm import SoftHSMToken


def write_config(directory: Path, *cas: tuple[str, PKI, str]) -> Path:
    """Write a configuration whose CAs have these names, certificates and lines of the ocsp table."""
    path = directory / "revocast.toml"
    text = 'data_dir = "state"\n'
    for name, ca, ocsp in cas:
        text += (
            f'[[ca]]\nname = "{name}"\ncertificate = "{ca.certificate_path}"\n'
            f'source = {{ type = "openssl", path = "index.txt" }}\nocsp = {{ {ocsp} }}\n'
        )
    path.write_text(text)
    return path


def run(*arguments: str | Path) -> str:
    """Run the command; returns what it prints, raises what it raises."""
    result = CliRunner().invoke(signer_app, ["request", *map(str, arguments)], catch_exceptions=True)
    if isinstance(result.exception, RevocastError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def check_request(text: str, public_key_der: bytes, subject: str) -> x509.CertificateSigningRequest:
    """Check a request as a CA's administrator would, with OpenSSL and with cryptography."""
    said = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-text"], input=text.encode(), check=True, capture_output=True
    )
    assert b"verify OK" in said.stdout + said.stderr
    for expected in (b"Digital Signature", b"OCSP Signing", b"OCSP No Check"):
        assert expected in said.stdout
    request = x509.load_pem_x509_csr(text.encode())
    assert request.is_signature_valid
    assert public_key_to_der(request.public_key()) == public_key_der
    assert request.subject.rfc4514_string() == subject
    key_usage = request.extensions.get_extension_for_class(x509.KeyUsage)
    assert key_usage.critical
    assert key_usage.value.digital_signature
    # RFC 5280 §4.2.1.3: 03 length, 7 unused bits, bit 0 alone.
    assert bytes.fromhex("03020780") in request.tbs_certrequest_bytes
    usages = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usages.value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert not usages.critical
    nocheck = request.extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert not nocheck.critical
    # RFC 6960 §4.2.2.2.1: id-pkix-ocsp-nocheck, no BOOLEAN for critical, an OCTET STRING of 0500.
    assert bytes.fromhex("300f06092b060105050730010504020500") in request.tbs_certrequest_bytes
    return request


@pytest.mark.clause("RFC 6960", "4.2.2.2.1", "SHOULD")
@pytest.mark.parametrize("key_type", ["rsa2048", "p256", "p384", "p521", "ed25519"])
def test_key_in_a_file(tmp_path: Path, key_type: str) -> None:
    """DEL-02, DEL-03: the request asks for digitalSignature, OCSPSigning and nocheck, and nothing else."""
    key = write_key(tmp_path / "ocsp.key", key_of(key_type, "request"))
    config = write_config(tmp_path, ("corp", make_ca(tmp_path / "ca"), f'key = "{key}"'))
    text = run("-c", config)
    check_request(text, public_key_to_der(key_of(key_type, "request").public_key()), "CN=corp OCSP")


@pytest.mark.clause("RFC 9881", "3", "MUST")
@pytest.mark.parametrize("key_type", ["mldsa44", "mldsa65", "mldsa87"])
def test_ml_dsa_key_in_a_file(tmp_path: Path, key_type: str) -> None:
    """ALG-05: a request for an ML-DSA key verifies, and names its algorithm with parameters absent."""
    key = write_key(tmp_path / "ocsp.key", key_of(key_type, "request"))
    config = write_config(tmp_path, ("corp", make_ca(tmp_path / "ca"), f'key = "{key}"'))
    request = x509.load_pem_x509_csr(run("-c", config).encode())
    assert request.is_signature_valid
    assert public_key_to_der(request.public_key()) == public_key_to_der(key_of(key_type, "request").public_key())
    assert SIGNATURE_ALGORITHM_DER[key_type] in request.public_bytes(serialization.Encoding.DER)
    key_usage = request.extensions.get_extension_for_class(x509.KeyUsage)
    assert key_usage.value.digital_signature


@pytest.mark.parametrize("where", ["file", "token"])
def test_pss(tmp_path: Path, softhsm: Callable[..., SoftHSMToken], where: str) -> None:
    """With rsa_padding the request is signed as answers will be; OpenSSL verifies it."""
    private_key = key_of("rsa2048", "request")
    ocsp = f'key = "{write_key(tmp_path / "ocsp.key", private_key)}"'
    if where == "token":
        token = softhsm()
        token.import_key(private_key, "ocsp", b"\x01")
        ocsp = f'key = "{token.uri("ocsp")}", pin_file = "{token.pin_file}"'
    config = write_config(tmp_path, ("corp", make_ca(tmp_path / "ca"), f'{ocsp}, rsa_padding = "pss"'))
    request = check_request(run("-c", config), public_key_to_der(private_key.public_key()), "CN=corp OCSP")
    assert SIGNATURE_ALGORITHM_DER["rsa2048pss"] in request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("key_type", ["rsa2048", "p256", "p384", "ed25519"])
def test_key_in_a_token(tmp_path: Path, softhsm: Callable[..., SoftHSMToken], key_type: str) -> None:
    """A key in a token signs its request there; the public key comes out of the token."""
    token = softhsm()
    if key_type == "ed25519":
        token.generate_ed25519("ocsp", b"\x01")
    else:
        token.import_key(key_of(key_type, "request"), "ocsp", b"\x01")
    ocsp = f'key = "{token.uri("ocsp")}", pin_file = "{token.pin_file}"'
    config = write_config(tmp_path, ("corp", make_ca(tmp_path / "ca"), ocsp))
    out = tmp_path / "ocsp.csr"
    assert run("-c", config, "--out", out) == ""
    text = out.read_text()
    request = x509.load_pem_x509_csr(text.encode())
    check_request(text, public_key_to_der(request.public_key()), "CN=corp OCSP")
    if key_type != "ed25519":
        assert public_key_to_der(request.public_key()) == public_key_to_der(key_of(key_type, "request").public_key())


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_what_a_ca_issues_from_it_is_accepted(tmp_path: Path) -> None:
    """DEL-01: a CA that copies what the request asks for makes a signer that Revocast takes without a warning."""
    key = write_key(tmp_path / "ocsp.key", key_of("p256", "request"))
    ca = make_ca(tmp_path / "ca")
    config = write_config(tmp_path, ("corp", ca, f'key = "{key}"'))
    request = x509.load_pem_x509_csr(run("-c", config).encode())
    now = int(ca.certificate.not_valid_before_utc.timestamp()) + 100
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(now))
        .not_valid_after(utc(now + 30 * 86_400))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key()), critical=False)
    )
    for extension in request.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    der = builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    issuer = load_issuer(load_config(config).ca[0], str(config))
    assert (
        check_signer_certificate(issuer, der, public_key_to_der(request.public_key()), "webpki", now, str(config)) == []
    )


def test_renewal_of_a_key_whose_token_shows_no_public_key(tmp_path: Path, softhsm: Callable[..., SoftHSMToken]) -> None:
    """Where the token holds the private key alone, the present certificate tells the public one."""
    token = softhsm()
    ca = make_ca(tmp_path / "ca")
    present = make_signer(ca)
    token.import_key(present.key, "ocsp", b"\x01", public=False)
    ocsp = f'key = "{token.uri("ocsp")}", pin_file = "{token.pin_file}"'
    with pytest.raises(ConfigError, match="is not in the token"):
        run("-c", write_config(tmp_path, ("corp", ca, ocsp)))
    text = run("-c", write_config(tmp_path, ("corp", ca, f'{ocsp}, certificate = "{present.certificate_path}"')))
    check_request(text, present.public_key_der, "CN=corp OCSP")


def test_subject_and_choice_of_ca(tmp_path: Path) -> None:
    """--subject takes a name in the form of RFC 4514; with several CAs, --ca must say which."""
    keys = [write_key(tmp_path / f"{name}.key", key_of(name, "request")) for name in ("p256", "p384")]
    cas = [make_ca(tmp_path / name, name=name, label=name) for name in ("one", "two")]
    config = write_config(
        tmp_path, *((ca.directory.name, ca, f'key = "{key}"') for ca, key in zip(cas, keys, strict=True))
    )
    text = run("-c", config, "--ca", "two", "--subject", "CN=OCSP 2026,O=Zoë & Co,C=NL")
    request = check_request(
        text, public_key_to_der(key_of("p384", "request").public_key()), "CN=OCSP 2026,O=Zoë & Co,C=NL"
    )
    assert [attribute.value for attribute in request.subject] == ["NL", "Zoë & Co", "OCSP 2026"]
    with pytest.raises(OperatorError, match="which CA\\? Say --ca with one of one, two"):
        run("-c", config)
    with pytest.raises(OperatorError, match="no CA 'three' in the configuration; there: one, two"):
        run("-c", config, "--ca", "three")
    for wrong in ("OCSP", ""):
        with pytest.raises(OperatorError, match="--subject"):
            run("-c", config, "--ca", "one", "--subject", wrong)
    with pytest.raises(OperatorError, match=r"cannot write .*: No such file or directory"):
        run("-c", config, "--ca", "one", "--out", tmp_path / "none" / "ocsp.csr")


def test_request_for_the_next_signer(tmp_path: Path) -> None:
    """--next takes the key of ocsp.next, which has no certificate yet; without such a table it is one line."""
    ca = make_ca(tmp_path / "ca", delegated=True)
    key = key_of("p256", "next")
    path = write_key(tmp_path / "next.key", key)
    present = f'certificate = "{ca.answer_signer.certificate_path}", key = "{ca.answer_signer.key_path}"'
    table = f'{present}, next = {{ from = 2026-12-01T00:00:00Z, key = "{path}" }}'
    config = write_config(tmp_path, ("corp", ca, table))
    check_request(run("-c", config, "--next"), public_key_to_der(key.public_key()), "CN=corp OCSP")
    check_request(run("-c", config), ca.answer_signer.public_key_der, "CN=corp OCSP")
    config = write_config(tmp_path, ("corp", ca, present))
    with pytest.raises(OperatorError, match=r"'corp' has no ocsp.next"):
        run("-c", config, "--next")
