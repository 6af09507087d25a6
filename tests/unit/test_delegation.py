"""Who may sign for a CA: certificates made wrong on purpose, one rule each."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from fastpath.ocsp_response import ResponseTemplate
from responder.config import DAY_S, CAConfig
from responder.errors import ConfigError, SignerUnavailable
from responder.issuers import load_issuer
from responder.signing.algorithms import public_key_to_der, verify_signature
from responder.signing.delegation import check_signer_certificate, open_response_signer, rsa_padding_of
from responder.signing.hsm import _hosts
from tests.pki import PKI, SIGNATURE_ALGORITHM_DER, Signer, key_of, make_ca, make_signer, utc, write_key, write_pem
from tests.softhsm import SoftHSMToken, Spy

NOW = int(time.time())
OCSP_SIGNING = ExtendedKeyUsageOID.OCSP_SIGNING


def config_of(ca: PKI, signer: Signer | None, profile: str = "private", **ocsp: Any) -> CAConfig:
    """Build one CA's configuration: delegated to ``signer``, or signing itself."""
    table = {
        "certificate": signer.certificate_path if signer else None,
        "key": str(signer.key_path if signer else ca.key_path),
        **ocsp,
    }
    return CAConfig.model_validate(
        {
            "name": "corp",
            "certificate": ca.certificate_path,
            "profile": profile,
            "source": {"type": "openssl"},
            "ocsp": table,
        }
    )


def check(ca: PKI, signer: Signer | None, profile: str = "private", now: float = NOW) -> list[str]:
    """Check a signer as open_response_signer does."""
    issuer = load_issuer(config_of(ca, signer, profile), "revocast.toml")
    entity = signer or ca
    der = signer.certificate_der if signer else None
    return check_signer_certificate(
        issuer, der, public_key_to_der(entity.key.public_key()), profile, now, "revocast.toml"
    )


def refusal(ca: PKI, signer: Signer | None, profile: str = "private", now: float = NOW) -> str:
    """Return the one line by which a signer is refused."""
    with pytest.raises(ConfigError) as caught:
        check(ca, signer, profile, now)
    text = str(caught.value)
    part = "ocsp.certificate" if signer else "certificate"
    assert text.startswith(f"revocast.toml: ca[corp].{part}: ")
    assert "\n" not in text
    return text


def signer_with(
    ca: PKI,
    *extensions: tuple[x509.ExtensionType, bool],
    without: tuple[type[x509.ExtensionType], ...] = (),
    key_type: str = "p256",
) -> Signer:
    """Make a signer by BR §7.1.2.8 with other extensions: those of the same kind are replaced."""
    good = make_signer(ca, key_type)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(good.certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(NOW - DAY_S))
        .not_valid_after(utc(NOW + 30 * DAY_S))
    )
    replaced = {type(value).oid for value, _ in extensions} | {kind.oid for kind in without}
    for extension in good.certificate.extensions:
        if extension.oid not in replaced:
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    certificate = builder.sign(ca.key, hashes.SHA256())
    write_pem(good.certificate_path, certificate)
    return replace(good, certificate=certificate)


def key_usage(**asserted: bool) -> x509.KeyUsage:
    """Build a KeyUsage that asserts what is named."""
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **asserted})


@pytest.fixture
def ca(tmp_path: Path) -> PKI:
    """Give a P-256 CA of the test's own."""
    return make_ca(tmp_path / "ca")


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
@pytest.mark.parametrize("profile", ["webpki", "etsi", "private"])
def test_right_delegate_passes(ca: PKI, profile: str) -> None:
    """DEL-01, DEL-03: a certificate by BR §7.1.2.8 passes in every profile without a warning."""
    assert check(ca, make_signer(ca), profile) == []


@pytest.mark.clause("BR", "7.1.2.10.7", "MUST")
@pytest.mark.parametrize("profile", ["webpki", "etsi", "private"])
def test_ca_signs_itself_where_its_certificate_allows(tmp_path: Path, profile: str) -> None:
    """DEL-06: a CA may sign answers directly only where its certificate asserts digitalSignature."""
    assert check(make_ca(tmp_path / "1"), None, profile) == []
    assert "its keyUsage lacks digitalSignature; set ocsp.certificate" in refusal(
        make_ca(tmp_path / "2", digital_signature=False), None, profile
    )


@pytest.mark.clause("RFC 5280", "4.2.1.3", "MUST")
def test_ca_without_key_usage(tmp_path: Path) -> None:
    """DEL-06: a CA without keyUsage is not restricted in profile private; the others want it asserted."""
    ca = make_ca(tmp_path)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(ca.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(ca.key.public_key())
        .serial_number(1)
        .not_valid_before(utc(NOW - DAY_S))
        .not_valid_after(utc(NOW + 300 * DAY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca.key, hashes.SHA256())
    )
    write_pem(ca.certificate_path, certificate)
    assert check(ca, None, "private") == []
    assert "keyUsage" in refusal(ca, None, "webpki")
    assert "keyUsage" in refusal(ca, None, "etsi")


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_issued_by_another_ca(ca: PKI, tmp_path: Path) -> None:
    """DEL-01: the delegate of another CA, or of the CA above, does not sign for this one."""
    root = make_ca(tmp_path / "root", name="Root", label="root")
    assert "it was issued by 'CN=Root," in refusal(ca, make_signer(root))


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_issued_by_another_generation(ca: PKI, tmp_path: Path) -> None:
    """DEL-01: the delegate of the same CA's other key has the right issuer name and is still refused."""
    other = make_ca(tmp_path / "old", label="older key")
    assert other.subject_der == ca.subject_der
    assert "its signature is not by the key of ca 'corp'; another generation" in refusal(ca, make_signer(other))


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_issuer_name_in_other_string_types(ca: PKI) -> None:
    """DEL-01: an issuer Name of other bytes is another Name, as REQ-05 hashes bytes."""
    signer = make_signer(ca)
    certificate = asn1_x509.Certificate.load(signer.certificate_der)
    name = asn1_x509.Name.load(ca.subject_der)
    name.chosen[2][0]["value"] = asn1_x509.DirectoryString("printable_string", "Example Issuing CA R1")
    certificate["tbs_certificate"]["issuer"] = asn1_x509.Name.load(name.dump(force=True))
    other = replace(signer, certificate=x509.load_der_x509_certificate(certificate.dump(force=True)))
    assert "it was issued by" in refusal(ca, other)


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
def test_key_of_another_certificate(ca: PKI) -> None:
    """DEL-07: a key that is not the certificate's would make answers that no client believes."""
    signer = make_signer(ca)
    assert "its key is not the configured one (ocsp.key)" in refusal(ca, replace(signer, key=key_of("p256", "other")))


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
@pytest.mark.parametrize("profile", ["webpki", "etsi", "private"])
@pytest.mark.parametrize(
    "usages",
    [
        (),
        (ExtendedKeyUsageOID.SERVER_AUTH,),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,),
    ],
    ids=["none", "serverAuth", "any"],
)
def test_without_ocsp_signing(ca: PKI, profile: str, usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    """DEL-01, DEL-07: without id-kp-OCSPSigning nothing is delegated; anyExtendedKeyUsage is not enough."""
    signer = make_signer(ca, extended_key_usage=usages)
    assert "its extendedKeyUsage lacks OCSPSigning (RFC 6960 §4.2.2.2)" in refusal(ca, signer, profile)


@pytest.mark.clause("BR", "7.1.2.8.7", "MUST NOT")
def test_more_than_ocsp_signing(ca: PKI) -> None:
    """DEL-03: in webpki extendedKeyUsage holds OCSPSigning alone."""
    signer = make_signer(ca, extended_key_usage=(OCSP_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH))
    assert "holds more than OCSPSigning" in refusal(ca, signer, "webpki")
    assert check(ca, signer, "private") == []


@pytest.mark.clause("BR", "7.1.2.8.6", "MUST")
def test_without_nocheck(ca: PKI) -> None:
    """DEL-02: webpki wants id-pkix-ocsp-nocheck; elsewhere its absence is a warning."""
    signer = make_signer(ca, nocheck=False)
    assert "it lacks id-pkix-ocsp-nocheck (BR §7.1.2.8.6)" in refusal(ca, signer, "webpki")
    for profile in ("private", "etsi"):
        (warning,) = check(ca, signer, profile)
        assert "lacks id-pkix-ocsp-nocheck" in warning


@pytest.mark.clause("BR", "7.1.2.8.6", "MUST")
def test_nocheck_critical(ca: PKI) -> None:
    """DEL-02: nocheck is not critical."""
    signer = signer_with(ca, (x509.OCSPNoCheck(), True))
    assert "nocheck is critical" in refusal(ca, signer, "webpki")
    assert len(check(ca, signer, "private")) == 1


@pytest.mark.clause("BR", "7.1.2.8.6", "MUST")
@pytest.mark.parametrize("value", [b"", b"\x01\x01\xff", b"\x30\x00"])
def test_nocheck_of_another_value(ca: PKI, value: bytes) -> None:
    """DEL-02: extnValue is exactly 0500; an empty value or TRUE is refused."""
    odd = x509.UnrecognizedExtension(x509.OCSPNoCheck.oid, value)
    signer = signer_with(ca, without=(x509.OCSPNoCheck,))
    for profile in ("webpki", "private"):
        assert f"id-pkix-ocsp-nocheck is {value.hex() or 'empty'}, not 0500" in refusal(
            ca, _with_raw_extension(ca, signer, odd), profile
        )


def _with_raw_extension(
    ca: PKI, signer: Signer, extension: x509.UnrecognizedExtension, critical: bool = False
) -> Signer:
    builder = (
        x509.CertificateBuilder()
        .subject_name(signer.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(signer.certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc(NOW - DAY_S))
        .not_valid_after(utc(NOW + 30 * DAY_S))
    )
    for present in signer.certificate.extensions:
        builder = builder.add_extension(present.value, present.critical)
    certificate = builder.add_extension(extension, critical).sign(ca.key, hashes.SHA256())
    write_pem(signer.certificate_path, certificate)
    return replace(signer, certificate=certificate)


@pytest.mark.clause("RFC 5280", "4.2", "MUST")
def test_unknown_critical_extension(ca: PKI) -> None:
    """Clients reject a signer with a critical extension that they do not know; an uncritical one is let be."""
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert check(ca, _with_raw_extension(ca, make_signer(ca), odd)) == []
    assert "unknown critical extension 1.3.6.1.4.1.99999.1" in refusal(
        ca, _with_raw_extension(ca, make_signer(ca), odd, critical=True)
    )


@pytest.mark.clause("RFC 5280", "4.2.1.3", "MUST")
@pytest.mark.parametrize("profile", ["webpki", "etsi", "private"])
def test_key_usage_without_digital_signature(ca: PKI, profile: str) -> None:
    """DEL-03: a key that may not sign cannot sign answers."""
    assert "its keyUsage lacks digitalSignature" in refusal(ca, make_signer(ca, digital_signature=False), profile)


@pytest.mark.clause("BR", "7.1.2.8", "MUST")
@pytest.mark.parametrize(
    ("extensions", "without", "problem"),
    [
        ([(key_usage(digital_signature=True), False)], (), "lacks a critical keyUsage"),
        ([], (x509.KeyUsage,), "lacks a critical keyUsage"),
        ([(key_usage(digital_signature=True, crl_sign=True), True)], (), "asserts more than digitalSignature"),
        ([], (x509.AuthorityKeyIdentifier,), "lacks authorityKeyIdentifier"),
        ([(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), False)], (), "has subjectAltName"),
        ([(x509.NameConstraints([x509.DNSName("example.com")], None), True)], (), "has nameConstraints"),
        (
            [
                (
                    x509.CRLDistributionPoints(
                        [
                            x509.DistributionPoint(
                                [x509.UniformResourceIdentifier("http://a.example.com")], None, None, None
                            )
                        ]
                    ),
                    False,
                )
            ],
            (),
            "has cRLDistributionPoints",
        ),
        ([(x509.BasicConstraints(ca=True, path_length=None), True)], (), "basicConstraints is not the empty SEQUENCE"),
    ],
)
def test_baseline_profile(
    ca: PKI,
    extensions: list[tuple[x509.ExtensionType, bool]],
    without: tuple[type[x509.ExtensionType], ...],
    problem: str,
) -> None:
    """DEL-03: in webpki the certificate has exactly what BR §7.1.2.8 lists; elsewhere that is the shop's affair."""
    signer = signer_with(ca, *extensions, without=without)
    assert problem in refusal(ca, signer, "webpki")
    warnings = check(ca, signer, "private")
    assert [warning for warning in warnings if "CA certificate" not in warning] == []


@pytest.mark.clause("BR", "7.1.2.8.2", "SHOULD NOT")
def test_baseline_recommendations(ca: PKI) -> None:
    """DEL-03: what BR only advises against is a warning."""
    access = x509.AccessDescription(
        x509.AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://a.example.com")
    )
    policy = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)
    signer = signer_with(
        ca,
        (x509.AuthorityInformationAccess([access]), False),
        (x509.CertificatePolicies([policy]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        without=(x509.SubjectKeyIdentifier,),
    )
    text = "\n".join(check(ca, signer, "webpki"))
    assert "has authorityInfoAccess" in text
    assert "has certificatePolicies" in text
    assert "lacks subjectKeyIdentifier" in text


@pytest.mark.clause("RFC 6960", "5.1.1", "MUST NOT")
@pytest.mark.parametrize("profile", ["webpki", "private"])
def test_weak_signature_on_the_certificate(ca: PKI, profile: str) -> None:
    """EXT-07: a delegate whose certificate is signed with SHA-1 is refused."""
    signer = make_signer(ca)
    # cryptography makes no SHA-1 certificates, so the OID is put in by hand; this check comes before the signature's.
    certificate = asn1_x509.Certificate.load(signer.certificate_der)
    certificate["tbs_certificate"]["signature"]["algorithm"] = "sha1_ecdsa"
    certificate["signature_algorithm"]["algorithm"] = "sha1_ecdsa"
    der = certificate.dump(force=True)
    weak = replace(signer, certificate=x509.load_der_x509_certificate(der))
    assert "it is signed with SHA1" in refusal(ca, weak, profile)


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
def test_ed25519_is_not_for_webpki(ca: PKI) -> None:
    """BR-11: the BR list has no EdDSA; other profiles may use it."""
    signer = make_signer(ca, "ed25519")
    assert "profile webpki does not allow Ed25519" in refusal(ca, signer, "webpki")
    assert check(ca, signer, "etsi") == []


@pytest.mark.clause("BR", "7.1.3.2", "MUST")
@pytest.mark.parametrize("key_type", ["mldsa44", "mldsa65", "mldsa87"])
def test_ml_dsa_is_not_for_webpki(ca: PKI, key_type: str) -> None:
    """BR-11: the BR list has no ML-DSA; other profiles may use it."""
    signer = make_signer(ca, key_type)
    assert f"profile webpki does not allow ML-DSA-{key_type[-2:]} keys" in refusal(ca, signer, "webpki")
    assert check(ca, signer, "etsi") == []


@pytest.mark.clause("RFC 9881", "5", "MUST NOT")
def test_key_usage_of_ml_dsa(tmp_path: Path) -> None:
    """ALG-05: an ML-DSA signer needs digitalSignature, and asserts nothing that encrypts."""
    ca = make_ca(tmp_path)
    assert "lacks digitalSignature" in refusal(ca, make_signer(ca, "mldsa65", digital_signature=False))
    wrong = key_usage(digital_signature=True, key_encipherment=True)
    assert check(ca, signer_with(ca, (wrong, True))) == []
    signer = signer_with(ca, (wrong, True), key_type="mldsa65")
    assert "its keyUsage asserts key_encipherment, which ML-DSA keys cannot do (RFC 9881 §5)" in refusal(ca, signer)


@pytest.mark.clause("RFC 6960", "4.2.2.2", "MUST")
@pytest.mark.parametrize("ca_type", ["mldsa44", "mldsa65", "mldsa87", "rsa2048pss", "ed25519"])
def test_ca_of_another_kind(tmp_path: Path, ca_type: str) -> None:
    """DEL-01: a delegate's certificate signed with ML-DSA or PSS is verified, and a stranger's signature is refused."""
    ca = make_ca(tmp_path / "ca", ca_type)
    assert check(ca, make_signer(ca, "p256")) == []
    stranger = make_ca(tmp_path / "stranger", ca_type, label="stranger")
    assert "its signature is not by the key of ca" in refusal(ca, make_signer(stranger, "p256"))
    opened = open_it(ca, None, tmp_path, rsa_padding="pss" if ca_type == "rsa2048pss" else None)  # the CA itself
    assert opened.template.responder_key_hash == ca.key_hash
    assert opened.template.signature_algorithm_der == SIGNATURE_ALGORITHM_DER[ca_type]
    opened.close()


def pss_bound_signer(ca: PKI, directory: Path, *parameters: str) -> Signer:
    """Have OpenSSL make a key that is id-RSASSA-PSS, with or without parameters, and a delegate's certificate for it."""
    directory.mkdir()
    key, public, extensions, out = (directory / name for name in ("k.pem", "p.pem", "e.cnf", "c.pem"))
    options = ["rsa_keygen_bits:2048", *parameters]
    run = partial(subprocess.run, check=True, capture_output=True)
    run(["openssl", "genpkey", "-algorithm", "RSA-PSS", "-out", key, *(w for o in options for w in ("-pkeyopt", o))])
    run(["openssl", "pkey", "-in", key, "-pubout", "-out", public])
    extensions.write_text(
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=OCSPSigning\nnoCheck=yes\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    command = ["openssl", "x509", "-new", "-subj", "/CN=PSS", "-force_pubkey", public, "-days", "30", "-out", out]
    run([*command, "-CA", ca.certificate_path, "-CAkey", ca.key_path, "-extfile", extensions])
    certificate = x509.load_pem_x509_certificate(out.read_bytes())
    return Signer(certificate, serialization.load_pem_private_key(key.read_bytes(), None), "rsa2048pss", out, key)


LATER = NOW + DAY_S  # OpenSSL has its certificates begin now, which may be after NOW
PSS_BOUND = ["rsa_pss_keygen_md:sha256", "rsa_pss_keygen_mgf1_md:sha256", "rsa_pss_keygen_saltlen:32"]


@pytest.mark.clause("RFC 4055", "1.2", "MUST")
@pytest.mark.parametrize("parameters", [[], PSS_BOUND], ids=["unbound", "bound"])
def test_key_that_is_bound_to_pss(tmp_path: Path, parameters: list[str]) -> None:
    """A certificate whose key is id-RSASSA-PSS implies PSS; the configuration cannot say otherwise; BR refuses it."""
    ca = make_ca(tmp_path / "ca", "p256")
    signer = pss_bound_signer(ca, tmp_path / "pss", *parameters)
    for rsa_padding in (None, "pss"):
        opened = open_it(ca, signer, tmp_path, now=LATER, rsa_padding=rsa_padding)
        assert opened.template.signature_algorithm_der == SIGNATURE_ALGORITHM_DER["rsa2048pss"]
        (signature,) = opened.signer.sign([b"message"])
        signer.verify(signature, b"message")
        opened.close()
    with pytest.raises(
        ConfigError, match=r'id-RSASSA-PSS: ocsp.rsa_padding must be "pss" or absent \(RFC 4055'
    ) as caught:
        open_it(ca, signer, tmp_path, now=LATER, rsa_padding="pkcs1")
    assert str(caught.value).startswith("revocast.toml: ca[corp].ocsp.certificate: ")
    assert "its key must be rsaEncryption, and is id-RSASSA-PSS (BR §7.1.3.1.1)" in refusal(ca, signer, "webpki", LATER)


@pytest.mark.clause("RFC 4055", "3.3", "MUST")
@pytest.mark.parametrize(
    "parameters",
    [
        ["rsa_pss_keygen_md:sha384", "rsa_pss_keygen_mgf1_md:sha384", "rsa_pss_keygen_saltlen:48"],
        [*PSS_BOUND[:2], "rsa_pss_keygen_saltlen:33"],
        [PSS_BOUND[0], "rsa_pss_keygen_mgf1_md:sha1", PSS_BOUND[2]],
    ],
    ids=["sha384", "salt", "mgf1"],
)
def test_key_that_is_bound_to_another_pss(tmp_path: Path, parameters: list[str]) -> None:
    """A key whose parameters forbid the form that is signed here is refused, and not used in spite of them."""
    ca = make_ca(tmp_path / "ca", "p256")
    signer = pss_bound_signer(ca, tmp_path / "pss", *parameters)
    with pytest.raises(ConfigError, match="bound to another PSS than SHA-256 with a salt of 32 octets"):
        open_it(ca, signer, tmp_path, now=LATER)


@pytest.mark.parametrize(
    "parameters",
    [
        "3000",
        "3005a203020121",
        "3011a00f300d06096086480165030402010500",
        "301ea11c301a06092a864886f70d010109300d06096086480165030402010500",
    ],
)
def test_pss_parameters_that_say_little(tmp_path: Path, parameters: str) -> None:
    """What binds the key to defaults (SHA-1), to half of what is needed, or to a mask that nobody knows, is one line."""
    ca = make_ca(tmp_path / "ca", "p256")
    signer = make_signer(ca, "rsa2048")
    plain, octets = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex(parameters)
    bound = bytes.fromhex("06092a864886f70d01010a") + octets
    key_info = asn1_x509.Certificate.load(signer.certificate_der)["tbs_certificate"]["subject_public_key_info"]
    bits = key_info.contents[len(plain) :]
    body = bytes([0x30, len(bound)]) + bound + bits
    der = splice(signer.certificate_der, key_info.dump(), b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    with pytest.raises(ConfigError, match="bound to another PSS"):
        rsa_padding_of(config_of(ca, signer), x509.load_der_x509_certificate(der), "revocast.toml")


def splice(certificate_der: bytes, old: bytes, new: bytes) -> bytes:
    """Put another SubjectPublicKeyInfo into a certificate; its signature is void then."""
    certificate = asn1_x509.Certificate.load(certificate_der)
    tbs = certificate["tbs_certificate"].contents.replace(old, new)
    rest = certificate.contents[len(certificate["tbs_certificate"].dump()) :]
    whole = b"\x30\x82" + len(tbs).to_bytes(2, "big") + tbs + rest
    return b"\x30\x82" + len(whole).to_bytes(2, "big") + whole


def test_rsa_padding_of_another_key(ca: PKI, tmp_path: Path) -> None:
    """rsa_padding beside a key that is not RSA names file and key, in one line."""
    with pytest.raises(ConfigError, match=r"^revocast.toml: ca\[corp\].ocsp.key: .*rsa_padding is for RSA keys"):
        open_it(ca, make_signer(ca), tmp_path, rsa_padding="pss")


@pytest.mark.clause("RFC 5280", "4.1.2.5", "MUST")
def test_dates(ca: PKI) -> None:
    """A signer out of date is refused; one about to end is warned of, since no answer outlives it."""
    signer = make_signer(ca, not_before=NOW, not_after=NOW + 30 * DAY_S)
    assert check(ca, signer, now=NOW) == []
    assert "it is not valid before" in refusal(ca, signer, now=NOW - 1)
    (warning,) = check(ca, signer, now=NOW + 20 * DAY_S)
    assert "expires at" in warning
    check(ca, signer, now=NOW + 30 * DAY_S)
    assert "it expired at" in refusal(ca, signer, now=NOW + 30 * DAY_S + 1)


def test_expired_ca_is_a_warning(tmp_path: Path) -> None:
    """A retired CA's certificates may still be asked about: its delegate signs on, and says so."""
    ca = make_ca(tmp_path, not_before=NOW - 9 * DAY_S, not_after=NOW - DAY_S)
    (warning,) = check(ca, make_signer(ca))
    assert "the certificate of ca 'corp' expired" in warning


def open_it(
    ca: PKI, signer: Signer | None, tmp_path: Path, profile: str = "private", now: float = NOW, **ocsp: Any
) -> Any:
    """Open a response signer as the presigner does."""
    config = config_of(ca, signer, profile, **ocsp)
    issuer = load_issuer(config, "revocast.toml")
    return open_response_signer(config, issuer, tmp_path / "data", now, "revocast.toml")


@pytest.mark.clause("Mozilla", "6", "MUST")
@pytest.mark.parametrize("key_type", ["rsa2048", "p256", "ed25519", "mldsa65"])
def test_open_delegated(ca: PKI, tmp_path: Path, key_type: str) -> None:
    """DEL-05: answers carry the delegate's certificate and never outlive it."""
    signer = make_signer(ca, key_type, not_after=NOW + 20 * DAY_S)
    opened = open_it(ca, signer, tmp_path)
    assert opened.certificate_der == signer.certificate_der
    assert opened.template.certs_der == (signer.certificate_der,)
    assert opened.template.responder_key_hash == signer.key_hash
    assert opened.template.signature_algorithm_der == SIGNATURE_ALGORITHM_DER[key_type]
    assert opened.latest_next_update == opened.not_after == NOW + 20 * DAY_S
    digest = hashlib.sha256(signer.certificate_der + opened.template.to_bytes()).hexdigest()
    assert opened.signer_id == digest[:16]
    assert opened.warnings == ()
    (signature,) = opened.signer.sign([b"message"])
    assert verify_signature(signer.public_key_der, signer.signature_algorithm_der, signature, b"message")
    assert isinstance(opened.template, ResponseTemplate)
    opened.close()


@pytest.mark.clause("Mozilla", "6", "MUST")
def test_open_direct(tmp_path: Path) -> None:
    """DEL-05: where the CA signs itself certs is absent, and answers never outlive the CA's certificate."""
    ca = make_ca(tmp_path, not_after=NOW + 100 * DAY_S)
    opened = open_it(ca, None, tmp_path)
    assert opened.certificate_der is None
    assert opened.template.certs_der == ()
    assert opened.template.responder_key_hash == ca.key_hash
    assert opened.latest_next_update == NOW + 100 * DAY_S
    assert opened.signer_id == hashlib.sha256(ca.certificate_der + opened.template.to_bytes()).hexdigest()[:16]
    opened.close()


def test_readable_key_file_is_a_warning(ca: PKI, tmp_path: Path) -> None:
    """A key or PIN file that every user can read is warned of."""
    signer = make_signer(ca)
    signer.key_path.chmod(0o644)
    pin_file = tmp_path / "pin"
    pin_file.write_text("unused\n")
    pin_file.chmod(0o604)
    opened = open_it(ca, signer, tmp_path, pin_file=pin_file)
    assert [warning.split(" can be read by every user")[0] for warning in opened.warnings] == [
        str(pin_file),
        str(signer.key_path),
    ]
    opened.close()


def test_key_file_of_another_key(ca: PKI, tmp_path: Path) -> None:
    """A key file that does not belong to the certificate is one line before anything is served."""
    signer = make_signer(ca)
    other = write_key(tmp_path / "other.key", key_of("p256", "other"))
    with pytest.raises(ConfigError, match="its key is not the configured one"):
        open_it(ca, signer, tmp_path, key=str(other))


def test_bad_uri_is_a_config_error(ca: PKI, tmp_path: Path) -> None:
    """A URI that is not understood names the file and the key."""
    with pytest.raises(ConfigError, match=r"^revocast.toml: ca\[corp\].ocsp.key: pin-value is refused"):
        open_it(ca, None, tmp_path, key="pkcs11:token=t;object=o;pin-value=1234?module-path=/m.so")


def test_two_cas_share_one_token(softhsm: Callable[..., SoftHSMToken], spy: Spy, tmp_path: Path) -> None:
    """Each CA has its own signer; keys of one token take one login."""
    token = softhsm()
    opened = []
    for number, key_type in enumerate(("p256", "rsa2048"), 1):
        ca = make_ca(tmp_path / key_type, name=f"CA {number}", label=key_type)
        signer = make_signer(ca, key_type, label=f"hsm {number}")
        # One private key has its public key in the token, the other has it in the certificate alone.
        token.import_key(signer.key, f"ocsp {number}", bytes([number]), public=number == 1)
        uri = token.uri(f"ocsp {number}", module=spy.module)
        opened.append(open_it(ca, signer, tmp_path, "webpki", key=uri, pin_file=token.pin_file))
    assert spy.login_count == 1
    assert len({one.signer_id for one in opened}) == 2
    for one in opened:
        (signature,) = one.signer.sign([b"message"])
        assert verify_signature(one.signer.public_key_der, one.signer.signature_algorithm_der, signature, b"message")
        one.close()


def test_first_signature_is_proven(softhsm: Callable[..., SoftHSMToken], spy: Spy, tmp_path: Path) -> None:
    """ALG-08: a private key that is not the certificate's is found out by a test signature, not by clients."""
    token = softhsm()
    ca = make_ca(tmp_path / "ca")
    signer = make_signer(ca, "p256")
    token.import_key(key_of("p256", "another"), "ocsp", b"\x01", public=False)
    with pytest.raises(SignerUnavailable, match="its signature does not verify"):
        open_it(ca, signer, tmp_path, key=token.uri("ocsp"), pin_file=token.pin_file)
    assert not _hosts, "a refused key stays open"
