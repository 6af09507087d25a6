"""Who the CAs of the configuration are: names, keys and hashes, taken byte for byte from their certificates.

RFC 6960 §4.1.1: a CertID names an issuer by the hash of its Name and the hash of its key, and both must match. Two
generations of one CA (same name, other key) are two Issuers. Knows nothing of private keys: the edge imports it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from asn1crypto import core, parser, pem
from cryptography import x509

from fastpath.ocsp_response import encode_cert_id
from responder.config import DAY_S, CAConfig, Config
from responder.errors import ConfigError
from responder.store.layout import ca_id

HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")  # CertID hash algorithms by which an issuer is recognised


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """One CA key. ``subject_der`` and ``public_key_octets`` are the bytes that stand in the certificate.

    ``name`` is the config's, ``id`` the store's (layout.ca_id). ``public_key_octets`` is the contents of the
    subjectPublicKey BIT STRING without tag, length and count of unused bits. Times are POSIX seconds.
    """

    name: str
    id: str
    certificate_der: bytes
    subject_der: bytes
    public_key_octets: bytes
    name_hashes: Mapping[str, bytes]
    key_hashes: Mapping[str, bytes]
    not_before: int
    not_after: int
    config: CAConfig

    @property
    def profile(self) -> str:
        """Whose rules hold for its answers: webpki, etsi or private."""
        return self.config.profile

    def cert_id(self, hash_name: str, serial_octets: bytes) -> bytes:
        """Encode the CertID of one of its certificates."""
        return encode_cert_id(hash_name, self.name_hashes[hash_name], self.key_hashes[hash_name], serial_octets)

    def both_cert_ids(self, serial_octets: bytes) -> tuple[bytes, bytes]:
        """Encode the two CertIDs of a dual answer, in its order: SHA-1, SHA-256 (docs/adr/0009)."""
        return self.cert_id("sha1", serial_octets), self.cert_id("sha256", serial_octets)

    def stored_by(self, hash_name: str) -> str:
        """Return the hash algorithm in the name of the answers hash where a question's answer is looked for.

        A dual answer lies with the SHA-1 ones, so that whatever drops those drops it too.
        """
        return "sha1" if hash_name == "sha256" and self.config.ocsp.certid == "dual" else hash_name

    @property
    def subject_text(self) -> str:
        """The subject in the form of RFC 4514, for people."""
        return x509.load_der_x509_certificate(self.certificate_der).subject.rfc4514_string()


class Issuers:
    """The CAs of one configuration, by CertID hashes, by the store's id and by the config's name. Immutable."""

    def __init__(self, issuers: list[Issuer]) -> None:
        self._all = tuple(issuers)
        self._by_id = {issuer.id: issuer for issuer in issuers}
        self._by_name = {issuer.name: issuer for issuer in issuers}
        self._by_hashes = {
            (hash_name, issuer.name_hashes[hash_name], issuer.key_hashes[hash_name]): issuer
            for issuer in issuers
            for hash_name in HASH_NAMES
        }

    @classmethod
    def from_config(cls, config: Config, config_file: str) -> Issuers:
        """Read every CA certificate of the configuration; raises ConfigError for the first that will not do."""
        issuers: list[Issuer] = []
        for ca in config.ca:
            issuer = load_issuer(ca, config_file)
            for other in issuers:
                if other.id == issuer.id:
                    raise ConfigError(
                        config_file,
                        f"ca[{ca.name}].certificate",
                        f"{ca.certificate} has the same subject and key as the certificate of ca {other.name!r}; each CA key may stand here once",
                    )
            issuers.append(issuer)
        return cls(issuers)

    def find(self, hash_name: str | None, issuer_name_hash: bytes, issuer_key_hash: bytes) -> Issuer | None:
        """Return the CA that a CertID names, or None where it names none of ours.

        RFC 6960 §4.1.1: name and key hash identify the issuer together. We never look one up by the name alone.
        ``hash_name`` None is an algorithm that we do not know: nobody is recognised.
        """
        return self._by_hashes.get((hash_name, issuer_name_hash, issuer_key_hash))  # type: ignore[arg-type]  # a None key is never there

    def by_id(self, ca: str) -> Issuer | None:
        """Return the CA of the store's id, or None."""
        return self._by_id.get(ca)

    def by_name(self, name: str) -> Issuer | None:
        """Return the CA of the config's name, or None."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Issuer]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def load_issuer(ca: CAConfig, config_file: str) -> Issuer:
    """Read one CA's certificate; raises ConfigError where it is not a CA certificate."""
    key = f"ca[{ca.name}].certificate"
    certificate_der = load_certificate(ca.certificate, config_file, key)
    certificate = x509.load_der_x509_certificate(certificate_der)
    try:
        basic_constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_ca = basic_constraints.ca
    except x509.ExtensionNotFound:
        # Version 1 certificates have no extensions; old private roots are of that kind.
        is_ca = certificate.version is x509.Version.v1
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ConfigError(config_file, key, f"{ca.certificate}: an extension cannot be read: {error}") from error
    if not is_ca:
        # RFC 5280 §4.2.1.9: a key may sign certificates only where basicConstraints asserts cA.
        raise ConfigError(config_file, key, f"{ca.certificate} is not a CA certificate (basicConstraints lacks cA)")
    lifetime_s = int((certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds())
    if ca.ocsp.archive_cutoff == "issuer" and ca.retention < lifetime_s:
        # RFC 6960 §4.4.4: archiveCutoff says since when statuses are kept; the CA's notBefore (EN 319 411-2 CSS-6.3.10-10)
        # would be untrue of certificates that were forgotten before the CA ends.
        raise ConfigError(
            config_file,
            f"ca[{ca.name}].retention",
            f"must be {-(-lifetime_s // DAY_S)}d or more, the CA's whole life, where ocsp.archive_cutoff is "
            f'"issuer" (got {ca.retention} s)',
        )
    subject_der, public_key_octets = subject_and_key(certificate)
    return Issuer(
        name=ca.name,
        id=ca_id(subject_der, public_key_octets),
        certificate_der=certificate_der,
        subject_der=subject_der,
        public_key_octets=public_key_octets,
        name_hashes={name: _digest(name, subject_der) for name in HASH_NAMES},
        key_hashes={name: _digest(name, public_key_octets) for name in HASH_NAMES},
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        config=ca,
    )


def load_certificate(path: Path, config_file: str, key: str) -> bytes:
    """Read a file that holds one certificate, PEM (text around it is let be) or DER; returns its DER.

    Raises ConfigError, naming ``config_file`` and ``key``, for anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(config_file, key, f"cannot read {path}: {error.strerror}") from error
    if pem.detect(data):
        try:
            blocks = [(kind, der) for kind, _, der in pem.unarmor(data, multiple=True)]
        except ValueError as error:
            raise ConfigError(config_file, key, f"{path} is not PEM: {error}") from error
        found = [der for kind, der in blocks if kind in ("CERTIFICATE", "X509 CERTIFICATE")]
        if len(found) != 1:
            kinds = ", ".join(sorted({kind for kind, _ in blocks}))
            raise ConfigError(
                config_file,
                key,
                f"{path} holds {len(found)} certificates, and must hold one (PEM blocks there: {kinds})",
            )
        data = found[0]
    try:
        certificate = x509.load_der_x509_certificate(data)
        subject_and_key(certificate)
    except (ValueError, x509.InvalidVersion) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(config_file, key, f"{path} is not a certificate in PEM or DER: {reason}") from error
    return data


def subject_and_key(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    """Return the subject Name's whole TLV and the subjectPublicKey bits, both as they stand in the certificate.

    RFC 6960 §4.1.1: the hashes are over these very bytes. We cut them out rather than encode them again, since an
    encoder may choose other string types than the CA did; and we read no further into the key, so any kind will do.
    """
    fields = _tbs_fields(certificate)
    return fields[4], public_key_octets(fields[5])


def issuer_name(certificate: x509.Certificate) -> bytes:
    """Return the issuer Name's whole TLV as it stands in the certificate."""
    return _tbs_fields(certificate)[2]


def extension_octets(certificate: x509.Certificate) -> dict[str, bytes]:
    """Return extnValue's contents by the extension's dotted OID, as they stand, whether or not they can be parsed."""
    octets: dict[str, bytes] = {}
    for tag, _, extensions_der in _children(certificate.tbs_certificate_bytes):
        if tag == (2, 3):  # extensions [3] EXPLICIT
            for _, extension_der, _ in _children(extensions_der):
                parts = _children(extension_der)  # extnID, critical where TRUE, extnValue
                octets[core.ObjectIdentifier.load(parts[0][1]).dotted] = parts[-1][2]
    return octets


def public_key_octets(public_key_der: bytes) -> bytes:
    """Return the subjectPublicKey bits of a SubjectPublicKeyInfo: contents without the count of unused bits."""
    bit_string = _children(public_key_der)[1][2]
    if bit_string[:1] != b"\0":
        raise ValueError("the subjectPublicKey has unused bits")
    return bit_string[1:]


def _tbs_fields(certificate: x509.Certificate) -> list[bytes]:
    """Return serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo and the rest, whole TLVs."""
    fields = _children(certificate.tbs_certificate_bytes)
    # RFC 5280 §4.1: version is [0], and absent in version 1.
    return [der for tag, der, _ in fields if tag != (2, 0)]


def _children(der: bytes) -> list[tuple[tuple[int, int], bytes, bytes]]:
    """Return ((class, tag number), whole TLV, contents) of each element of a SEQUENCE."""
    contents = parser.parse(der, strict=True)[4]
    children = []
    while contents:
        tag_class, _, tag, header, value, trailer = parser.parse(contents)
        der = header + value + trailer
        children.append(((tag_class, tag), der, value))
        contents = contents[len(der) :]
    return children


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.new(name, data, usedforsecurity=False).digest()
