"""Recognising a CA by its CertID hashes, and refusing certificates that are not what the configuration says."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from responder.config import Config
from responder.errors import ConfigError
from responder.issuers import HASH_NAMES, Issuers, load_certificate
from responder.store.layout import ca_id
from tests.pki import PKI, make_ca, make_leaf, name_of, write_key


def config_of(tmp_path: Path, *cas: tuple[str, Path]) -> Config:
    """Build a configuration of CAs that sign for themselves."""
    key = tmp_path / "some.key"
    key.touch()
    return Config.model_validate(
        {
            "ca": [
                {
                    "name": name,
                    "certificate": path,
                    "source": {"type": "openssl", "path": "index.txt"},
                    "ocsp": {"key": str(key)},
                }
                for name, path in cas
            ]
        }
    )


def issuers_of(tmp_path: Path, *cas: tuple[str, Path]) -> Issuers:
    """Read the CAs of such a configuration."""
    return Issuers.from_config(config_of(tmp_path, *cas), "revocast.toml")


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize("key_type", ["rsa2048", "rsa2048pss", "p256", "ed25519", "mldsa44", "mldsa65", "mldsa87"])
def test_hashes_are_over_the_bytes_of_the_certificate(tmp_path: Path, key_type: str) -> None:
    """REQ-05: issuerNameHash is over the Name as it stands, issuerKeyHash over the key's bits alone."""
    ca = make_ca(tmp_path, key_type)
    issuer = issuers_of(tmp_path, ("corp", ca.certificate_path)).by_name("corp")
    assert issuer is not None
    assert issuer.certificate_der == ca.certificate_der
    assert issuer.subject_der == ca.subject_der
    # The key's bits are found by cutting the known lengths off the end of SubjectPublicKeyInfo.
    assert ca.public_key_der.endswith(b"\0" + issuer.public_key_octets)
    for name in HASH_NAMES:
        assert issuer.name_hashes[name] == hashlib.new(name, ca.subject_der).digest()
        assert issuer.key_hashes[name] == hashlib.new(name, issuer.public_key_octets).digest()
    ski = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_hashes["sha1"] == ski.digest
    assert issuer.id == ca_id(issuer.subject_der, issuer.public_key_octets)
    assert (issuer.not_before, issuer.not_after) == (
        int(ca.certificate.not_valid_before_utc.timestamp()),
        int(ca.certificate.not_valid_after_utc.timestamp()),
    )


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
def test_openssl_names_the_same_hashes(tmp_path: Path, digest: str) -> None:
    """REQ-05: a CertID that OpenSSL builds is recognised, with every hash algorithm."""
    ca = make_ca(tmp_path, "p256")
    leaf = make_leaf(ca)
    request = tmp_path / "request.der"
    subprocess.run(
        f"openssl ocsp -issuer {ca.certificate_path} -{digest} -cert {leaf.certificate_path} -reqout {request}".split(),
        check=True,
        capture_output=True,
    )
    asked = ocsp.load_der_ocsp_request(request.read_bytes())
    found = issuers_of(tmp_path, ("corp", ca.certificate_path)).find(
        digest, asked.issuer_name_hash, asked.issuer_key_hash
    )
    assert found is not None
    assert found.name == "corp"


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
def test_name_keeps_its_string_types(tmp_path: Path) -> None:
    """REQ-05: a Name of unusual string types is hashed as it stands, not as we would have encoded it."""
    name = asn1_x509.Name.build({"country_name": "NL", "common_name": "Zoë's CA"})
    rdns = name.chosen
    rdns[1][0]["value"] = asn1_x509.DirectoryString("bmp_string", "Zoë's CA")
    subject_der = name.dump(force=True)
    assert b"\x1e\x10\x00Z\x00o\x00\xeb" in subject_der
    ca = make_ca(tmp_path, "p256")
    certificate = asn1_x509.Certificate.load(ca.certificate_der)
    certificate["tbs_certificate"]["subject"] = asn1_x509.Name.load(subject_der)
    path = tmp_path / "odd.der"
    path.write_bytes(certificate.dump(force=True))  # its signature is of no concern here
    issuer = issuers_of(tmp_path, ("odd", path)).by_name("odd")
    assert issuer is not None
    assert issuer.subject_der == subject_der


@pytest.mark.clause("RFC 6960", "4.1.1", "MUST")
def test_both_hashes_must_match(tmp_path: Path) -> None:
    """REQ-06: the right name hash with another CA's key hash, or the reverse, names nobody."""
    one = make_ca(tmp_path / "1", "p256", name="CA One", label="one")
    two = make_ca(tmp_path / "2", "p256", name="CA Two", label="two")
    issuers = issuers_of(tmp_path, ("one", one.certificate_path), ("two", two.certificate_path))
    for name in HASH_NAMES:
        assert issuers.find(name, one.issuer_name_hash(name), one.issuer_key_hash(name)) is issuers.by_name("one")
        assert issuers.find(name, one.issuer_name_hash(name), two.issuer_key_hash(name)) is None
        assert issuers.find(name, two.issuer_name_hash(name), one.issuer_key_hash(name)) is None
    assert issuers.find("sha256", one.issuer_name_hash("sha1"), one.issuer_key_hash("sha1")) is None
    assert issuers.find(None, one.issuer_name_hash(), one.issuer_key_hash()) is None


@pytest.mark.clause("RFC 6960", "4.2.2.2", "SHOULD")
def test_generations_of_one_ca_are_apart(tmp_path: Path) -> None:
    """DEL-01: the same name with another key is another issuer, with its own id."""
    old = make_ca(tmp_path / "old", "p256", label="generation 1")
    new = make_ca(tmp_path / "new", "p256", label="generation 2")
    assert old.subject_der == new.subject_der
    issuers = issuers_of(tmp_path, ("old", old.certificate_path), ("new", new.certificate_path))
    first, second = issuers
    assert len(issuers) == 2
    assert first.id != second.id
    assert issuers.find("sha1", old.issuer_name_hash(), old.issuer_key_hash()) is first
    assert issuers.find("sha1", new.issuer_name_hash(), new.issuer_key_hash()) is second
    assert issuers.by_id(second.id) is second
    assert issuers.by_id("0" * 16) is None
    assert issuers.by_name("none") is None


def test_same_ca_twice_is_refused(tmp_path: Path) -> None:
    """One key of one name may stand in the configuration once, even by another certificate for it."""
    one = make_ca(tmp_path / "1", "p256")
    renewed = make_ca(tmp_path / "2", "p256", not_after=int(one.certificate.not_valid_after_utc.timestamp()) + 9)
    with pytest.raises(ConfigError, match=r"^revocast.toml: ca\[b\].certificate: .* of ca 'a'"):
        issuers_of(tmp_path, ("a", one.certificate_path), ("b", renewed.certificate_path))


def test_pem_with_text_and_der(tmp_path: Path) -> None:
    """A certificate file may be DER, or PEM with OpenSSL's text before it."""
    ca = make_ca(tmp_path, "p256")
    der, text = tmp_path / "ca.der", tmp_path / "text.pem"
    der.write_bytes(ca.certificate_der)
    text.write_bytes(
        subprocess.run(["openssl", "x509", "-in", ca.certificate_path, "-text"], check=True, capture_output=True).stdout
    )
    assert load_certificate(der, "f", "k") == load_certificate(text, "f", "k") == ca.certificate_der


def _bundle(directory: Path, ca: PKI) -> Path:
    path = directory / "bundle.pem"
    path.write_bytes(ca.certificate_path.read_bytes() * 2)
    return path


def _garbage(directory: Path, ca: PKI) -> Path:
    path = directory / "garbage.der"
    path.write_bytes(b"\x30\x03\x02\x01\x00")
    return path


def _cut(directory: Path, ca: PKI) -> Path:
    path = directory / "cut.der"
    path.write_bytes(ca.certificate_der[:-5])
    return path


def _half_pem(directory: Path, ca: PKI) -> Path:
    path = directory / "half.pem"
    path.write_bytes(ca.certificate_path.read_bytes()[:200])
    return path


def _of_version_2(directory: Path, ca: PKI) -> Path:
    path = directory / "v2.der"
    path.write_bytes(ca.certificate_der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"))
    return path


def _with_one_extension_twice(directory: Path, ca: PKI) -> Path:
    path = directory / "twice.der"
    path.write_bytes(ca.certificate_der.replace(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x0f"))
    return path


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_with_one_extension_twice, "an extension cannot be read"),
        (_of_version_2, "is not a certificate in PEM or DER"),
        (_bundle, "holds 2 certificates, and must hold one"),
        (lambda directory, ca: write_key(directory / "key.pem", ca.key), "holds 0 certificates"),
        (_garbage, "is not a certificate in PEM or DER"),
        (_cut, "is not a certificate in PEM or DER"),
        (_half_pem, "is not PEM|holds 0 certificates"),
        (lambda directory, ca: make_leaf(ca).certificate_path, "is not a CA certificate"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, make: Callable[[Path, PKI], Path], problem: str) -> None:
    """A wrong certificate file is one line that names the file, the key and the problem."""
    ca = make_ca(tmp_path / "ca", "p256", subject=name_of("Some CA"))
    path = make(tmp_path, ca)
    with pytest.raises(ConfigError, match=problem) as caught:
        issuers_of(tmp_path, ("corp", path))
    assert re.match(rf"revocast.toml: ca\[corp\].certificate: {re.escape(str(path))}", str(caught.value))
    assert "\n" not in str(caught.value)


def test_version_1_root(tmp_path: Path) -> None:
    """A root of X.509 version 1 has no extensions at all, and is a CA where the operator says so."""
    key, path = tmp_path / "v1.key", tmp_path / "v1.pem"
    ca = make_ca(tmp_path / "ca", "p256")
    write_key(key, ca.key)
    request = tmp_path / "v1.csr"
    subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=Old Root", "-out", request], check=True)
    subprocess.run(
        ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-out", path], check=True, capture_output=True
    )
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert certificate.version is x509.Version.v1
    issuer = issuers_of(tmp_path, ("old", path)).by_name("old")
    assert issuer is not None
    assert issuer.subject_text == "CN=Old Root"
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert issuer.certificate_der == certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.clause("RFC 6960", "4.4.4", "SHOULD")
def test_an_archive_since_the_cas_first_day_is_kept_whole(tmp_path: Path) -> None:
    """EXT-03, ETS-08: archiveCutoff = the CA's notBefore would be untrue where statuses are forgotten before its end."""
    ca = make_ca(tmp_path / "ca")  # lives for 3651 days
    config = config_of(tmp_path, ("corp", ca.certificate_path))
    (table,) = config.ca
    terms = table.ocsp.model_copy(update={"archive_cutoff": "issuer"})
    for days, is_kept in ((3650, False), (3651, True)):
        kept = table.model_copy(update={"ocsp": terms, "retention": days * 86_400})
        changed = config.model_copy(update={"ca": [kept]})
        if is_kept:
            assert len(Issuers.from_config(changed, "revocast.toml")) == 1
        else:
            with pytest.raises(ConfigError, match=r"ca\[corp\]\.retention: must be 3651d or more"):
                Issuers.from_config(changed, "revocast.toml")
