"""A fixture factory for certificates: CAs, delegated OCSP signers, leaves; objects in memory and PEM files on disk.

Plain functions: ``make_ca``, ``make_signer``, ``make_leaf``. Their arguments also make what is wrong on purpose. The
session fixture ``pki`` gives one cached PKI for a pair of key types, to be read and never changed. Keys are cached by
type and label, since making RSA keys is slow; certificates are always new.

Times are POSIX seconds UTC and may be set everywhere, so that a test can have an expired signer or a CA of 2049.
Host names carry dots, because pkilint takes a URI without one for a mistake.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

DAY_S = 86_400
ORGANISATION = "Example Trust Services"
OCSP_HOST = "ocsp.example-trust.com"
CRL_HOST = "crl.example-trust.com"

_MAKERS: dict[str, Callable[[], Any]] = {
    "rsa2048": lambda: rsa.generate_private_key(65_537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65_537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65_537, 4096),
    "rsa2048pss": lambda: rsa.generate_private_key(65_537, 2048),  # an ordinary RSA key that signs with PSS
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "mldsa44": mldsa.MLDSA44PrivateKey.generate,
    "mldsa65": mldsa.MLDSA65PrivateKey.generate,
    "mldsa87": mldsa.MLDSA87PrivateKey.generate,
}
KEY_TYPES = tuple(_MAKERS)

# BR §7.1.3.2.1 and §7.1.3.2.2 list the bytes for RSA and ECDSA; RFC 8410 §3 and RFC 9881 §2: parameters absent.
_RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
_RSA_PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
)
SIGNATURE_ALGORITHM_DER: dict[str, bytes] = {
    "rsa2048": _RSA_SHA256,
    "rsa3072": _RSA_SHA256,
    "rsa4096": _RSA_SHA256,
    "rsa2048pss": _RSA_PSS_SHA256,
    "p256": bytes.fromhex("300a06082a8648ce3d040302"),
    "p384": bytes.fromhex("300a06082a8648ce3d040303"),
    "p521": bytes.fromhex("300a06082a8648ce3d040304"),
    "ed25519": bytes.fromhex("300506032b6570"),
    "mldsa44": bytes.fromhex("300b0609608648016503040311"),
    "mldsa65": bytes.fromhex("300b0609608648016503040312"),
    "mldsa87": bytes.fromhex("300b0609608648016503040313"),
}


def _hash_for(key_type: str) -> hashes.HashAlgorithm | None:
    """Return the hash that certificates and answers of a key are signed with; None where the scheme has its own."""
    if key_type.startswith("rsa") or key_type == "p256":
        return hashes.SHA256()
    return {"p384": hashes.SHA384(), "p521": hashes.SHA512()}.get(key_type)


@cache
def key_of(key_type: str, label: str) -> Any:
    """Return the private key of that type and label: the same one all session long."""
    assert label
    return _MAKERS[key_type]()


def _rsa_padding(key_type: str) -> padding.PKCS1v15 | padding.PSS | None:
    if not key_type.startswith("rsa"):
        return None
    return padding.PSS(padding.MGF1(hashes.SHA256()), 32) if key_type.endswith("pss") else padding.PKCS1v15()


def sign(key: Any, key_type: str, message: bytes) -> bytes:
    """Sign as an answer is signed; returns the BIT STRING's octets."""
    algorithm = _hash_for(key_type)
    if key_type.startswith("rsa"):
        return key.sign(message, _rsa_padding(key_type), algorithm)
    if algorithm is not None:
        return key.sign(message, ec.ECDSA(algorithm))
    return key.sign(message)


def verify(public_key: Any, key_type: str, signature: bytes, message: bytes) -> None:
    """Verify what ``sign`` made; raises cryptography's InvalidSignature."""
    algorithm = _hash_for(key_type)
    if key_type.startswith("rsa"):
        public_key.verify(signature, message, _rsa_padding(key_type), algorithm)
    elif algorithm is not None:
        public_key.verify(signature, message, ec.ECDSA(algorithm))
    else:
        public_key.verify(signature, message)


class _SubjectPublicKeyInfo(asn1.Sequence):
    """RFC 5280 §4.1.2.7 for any algorithm; asn1crypto's own class knows no ML-DSA."""

    _fields = [("algorithm", asn1.Any), ("subject_public_key", asn1.BitString)]  # noqa: RUF012 - asn1crypto's way


@dataclass(frozen=True)
class Entity:
    """A certificate with its private key, and the PEM files of both (PKCS #8, without a passphrase)."""

    certificate: x509.Certificate
    key: Any
    key_type: str
    certificate_path: Path
    key_path: Path

    @property
    def certificate_der(self) -> bytes:
        """The certificate's whole TLV."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def subject_der(self) -> bytes:
        """The subject Name's whole TLV, as it stands in the certificate."""
        return self.certificate.subject.public_bytes()

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo."""
        return self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def public_key_octets(self) -> bytes:
        """Contents of the subjectPublicKey BIT STRING, without tag, length and count of unused bits."""
        spki = _SubjectPublicKeyInfo.load(self.public_key_der, strict=True)
        return bytes(spki["subject_public_key"].contents[1:])

    @property
    def key_hash(self) -> bytes:
        """SHA-1 of the public key: the KeyHash of ResponderID byKey (RFC 6960 §4.2.1)."""
        return hashlib.sha1(self.public_key_octets, usedforsecurity=False).digest()

    @property
    def signature_algorithm_der(self) -> bytes:
        """AlgorithmIdentifier of the signatures that ``sign`` makes."""
        return SIGNATURE_ALGORITHM_DER[self.key_type]

    def sign(self, message: bytes) -> bytes:
        """Sign a message; returns the BIT STRING's octets."""
        return sign(self.key, self.key_type, message)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Verify a signature of this entity; raises cryptography's InvalidSignature."""
        verify(self.certificate.public_key(), self.key_type, signature, message)


@dataclass(frozen=True)
class Signer(Entity):
    """A delegated OCSP signer."""


@dataclass(frozen=True)
class Leaf(Entity):
    """A TLS server certificate."""

    ocsp_url: str = ""

    @property
    def serial_number(self) -> int:
        """The certificate's serial."""
        return self.certificate.serial_number

    @property
    def serial_octets(self) -> bytes:
        """Contents octets of the serial's DER INTEGER."""
        return serial_octets(self.certificate.serial_number)


@dataclass(frozen=True)
class PKI(Entity):
    """A CA; ``signer`` is its delegated OCSP signer where it was made with one, ``leaves`` what the fixture made."""

    directory: Path
    signer: Signer | None = None
    leaves: tuple[Leaf, ...] = field(default=())

    def issuer_name_hash(self, hash_name: str = "sha1") -> bytes:
        """IssuerNameHash of CertIDs (RFC 6960 §4.1.1); hash names as hashlib spells them."""
        return hashlib.new(hash_name, self.subject_der, usedforsecurity=False).digest()

    def issuer_key_hash(self, hash_name: str = "sha1") -> bytes:
        """IssuerKeyHash of CertIDs (RFC 6960 §4.1.1)."""
        return hashlib.new(hash_name, self.public_key_octets, usedforsecurity=False).digest()

    @property
    def answer_signer(self) -> Entity:
        """Who signs answers: the delegated signer, or the CA itself."""
        return self.signer or self

    @property
    def answer_certs_der(self) -> tuple[bytes, ...]:
        """What belongs in BasicOCSPResponse.certs: the delegated signer, or nothing."""
        return (self.signer.certificate_der,) if self.signer else ()


def serial_octets(serial_number: int) -> bytes:
    """Encode a serial as the contents octets of its DER INTEGER, spelled out apart from the code under test."""
    size = 1
    while not -(1 << (8 * size - 1)) <= serial_number < 1 << (8 * size - 1):
        size += 1
    return serial_number.to_bytes(size, "big", signed=True)


def utc(seconds: float) -> datetime:
    """Turn POSIX seconds into the aware datetime that cryptography's builders take."""
    return datetime.fromtimestamp(int(seconds), UTC)


def name_of(common_name: str) -> x509.Name:
    """Build a subject Name as public CAs do: country, organisation, common name."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "NL"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(**asserted: bool) -> x509.KeyUsage:
    bits = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**bits, **asserted})


def write_pem(path: Path, certificate: x509.Certificate) -> Path:
    """Write a certificate as PEM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def write_key(path: Path, key: Any, passphrase: str | None = None) -> Path:
    """Write a private key as PKCS #8 PEM, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, serial_number: int | None, not_before: int, not_after: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial_number is None else serial_number)
        .not_valid_before(utc(not_before))
        .not_valid_after(utc(not_after))
    )


def make_ca(
    directory: Path,
    key_type: str = "p256",
    *,
    name: str = "Example Issuing CA R1",
    label: str = "ca",
    not_before: int | None = None,
    not_after: int | None = None,
    digital_signature: bool = True,
    issuer: PKI | None = None,
    subject: x509.Name | None = None,
    key: Any = None,
    delegated: bool = False,
) -> PKI:
    """Make a CA: ``ca.pem`` and ``ca.key`` in ``directory``.

    Args:
        label: CAs of the same key type and label share a key; two generations of one CA take two labels.
        not_before, not_after: POSIX seconds; yesterday, and ten years from now.
        digital_signature: whether its key may sign answers itself (BR §7.1.2.10.7).
        issuer: the CA above; None for a root.
        delegated: make a delegated OCSP signer of the same key type too.
    """
    now = int(time.time())
    key = key or key_of(key_type, label)
    subject = subject or name_of(name)
    certificate = (
        _builder(
            subject,
            issuer.certificate.subject if issuer else subject,
            key,
            None,
            now - DAY_S if not_before is None else not_before,
            now + 3650 * DAY_S if not_after is None else not_after,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            _key_usage(key_cert_sign=True, crl_sign=True, digital_signature=digital_signature), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            _authority_key_identifier(issuer)
            if issuer
            else x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
        .sign(
            issuer.key if issuer else key,
            _hash_for(issuer.key_type if issuer else key_type),
            rsa_padding=_rsa_padding(issuer.key_type if issuer else key_type),
        )
    )
    ca = PKI(
        certificate=certificate,
        key=key,
        key_type=key_type,
        certificate_path=write_pem(directory / "ca.pem", certificate),
        key_path=write_key(directory / "ca.key", key),
        directory=directory,
    )
    return PKI(**{**vars(ca), "signer": make_signer(ca, key_type)}) if delegated else ca


def _authority_key_identifier(ca: PKI) -> x509.AuthorityKeyIdentifier:
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def make_signer(
    ca: PKI,
    key_type: str = "p256",
    *,
    directory: Path | None = None,
    file_name: str = "ocsp",
    name: str = "Example OCSP Responder 2026-11",
    label: str = "ocsp",
    not_before: int | None = None,
    not_after: int | None = None,
    nocheck: bool = True,
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
    digital_signature: bool = True,
    key: Any = None,
    serial_number: int | None = None,
) -> Signer:
    """Make a delegated OCSP signer by BR §7.1.2.8: ``ocsp.pem`` and ``ocsp.key`` beside the CA.

    ``nocheck``, ``extended_key_usage`` and ``digital_signature`` make one that is wrong; validity is yesterday to a
    month from now unless given in POSIX seconds.
    """
    now = int(time.time())
    directory = directory or ca.directory
    key = key or key_of(key_type, label)
    builder = (
        _builder(
            name_of(name),
            ca.certificate.subject,
            key,
            serial_number,
            now - DAY_S if not_before is None else not_before,
            now + 30 * DAY_S if not_after is None else not_after,
        )
        .add_extension(_authority_key_identifier(ca), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            _key_usage(digital_signature=digital_signature, content_commitment=not digital_signature),
            critical=True,
        )
    )
    if extended_key_usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=False)
    if nocheck:
        # BR §7.1.2.8.6: not critical, and extnValue is exactly 0500; cryptography writes just that.
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    certificate = builder.sign(ca.key, _hash_for(ca.key_type), rsa_padding=_rsa_padding(ca.key_type))
    return Signer(
        certificate=certificate,
        key=key,
        key_type=key_type,
        certificate_path=write_pem(directory / f"{file_name}.pem", certificate),
        key_path=write_key(directory / f"{file_name}.key", key),
    )


def make_leaf(
    ca: PKI,
    key_type: str = "p256",
    *,
    host: str = "www.example-shop.com",
    serial_number: int | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
    ocsp_url: str = f"http://{OCSP_HOST}",
    crl_url: str = "",
    crl_issuer: x509.Name | None = None,
    file_name: str | None = None,
    label: str = "leaf",
) -> Leaf:
    """Make a TLS server certificate with an AIA OCSP URL: ``leaf-<serial>.pem`` and ``.key`` beside the CA.

    ``ocsp_url`` empty: no authorityInfoAccess; ``crl_url`` empty: no cRLDistributionPoints; ``crl_issuer``:
    who issues the CRL, where it is not the CA. Validity is yesterday to 90 days from now unless given in POSIX seconds.
    """
    now = int(time.time())
    key = key_of(key_type, label)
    builder = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]),
            ca.certificate.subject,
            key,
            serial_number,
            now - DAY_S if not_before is None else not_before,
            now + 90 * DAY_S if not_after is None else not_after,
        )
        .add_extension(_authority_key_identifier(ca), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )
    if ocsp_url:
        builder = builder.add_extension(
            x509.AuthorityInformationAccess(
                [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))]
            ),
            critical=False,
        )
    if crl_url:
        others = None if crl_issuer is None else [x509.DirectoryName(crl_issuer)]
        place = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, others)
        builder = builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)
    certificate = builder.sign(ca.key, _hash_for(ca.key_type), rsa_padding=_rsa_padding(ca.key_type))
    stem = file_name or f"leaf-{certificate.serial_number:x}"
    return Leaf(
        certificate=certificate,
        key=key,
        key_type=key_type,
        certificate_path=write_pem(ca.directory / f"{stem}.pem", certificate),
        key_path=write_key(ca.directory / f"{stem}.key", key),
        ocsp_url=ocsp_url,
    )


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PKI]:
    """Give ``pki(key_type="p256", signer_key_type="p256")``: a CA with three leaves, the same one all session long.

    ``signer_key_type=None``: the CA signs answers itself, ``signer`` is None. The directory holds ca.pem, ca.key,
    ocsp.pem, ocsp.key and the leaves' files. Read it, never write to it: others use it too.
    """

    @cache
    def made(key_type: str, signer_key_type: str | None) -> PKI:
        directory = tmp_path_factory.mktemp(f"pki-{key_type}-{signer_key_type or 'direct'}")
        ca = make_ca(directory, key_type)
        return PKI(
            **{
                **vars(ca),
                "signer": make_signer(ca, signer_key_type) if signer_key_type else None,
                "leaves": tuple(make_leaf(ca, host=f"www{n}.example-shop.com") for n in range(1, 4)),
            }
        )

    def get(key_type: str = "p256", signer_key_type: str | None = "p256") -> PKI:
        return made(key_type, signer_key_type)

    return get
