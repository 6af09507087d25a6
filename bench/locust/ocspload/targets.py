"""What to ask: the issuer, a list of certificates or serials, and requests made of them (RFC 6960 §4.1, Appendix A.1).

Called by locustfile.py. A mistake of whoever runs the test is a ``ConfigError``, whose text is the one line to show.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509 import ocsp

HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - most clients still name certificates by it (RFC 9919 §3.1.1)
    "sha256": hashes.SHA256(),
}
EXPECTATIONS: Final = ("good", "revoked", "unknown", "unauthorized")
SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der"})
MAX_SERIAL_OCTETS: Final = 20  # RFC 5280 §4.1.2.2; what is longer is most often a fingerprint

_PEM_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-f]{1,2}(?::[0-9a-f]{2})+)|[0-9a-f]+)", re.IGNORECASE)


class ConfigError(Exception):
    """Something in the options or in the files they name is wrong."""


class Target(NamedTuple):
    """One serial to ask about, and the status that is due; None takes good, revoked and unknown."""

    serial_number: int
    expect: str | None = None


class CertID(NamedTuple):
    """What a question names and its answer must repeat (RFC 6960 §4.1.1); ``hash_algorithm`` as hashlib spells it."""

    hash_algorithm: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int


@dataclass(frozen=True)
class Issuer:
    """The CA whose certificates are asked about, and its two hashes under each algorithm."""

    certificate: x509.Certificate
    public_key: CertificateIssuerPublicKeyTypes
    issuer_hashes: dict[str, tuple[bytes, bytes]]

    @classmethod
    def from_certificate(cls, certificate: x509.Certificate) -> Issuer:
        """Compute the hashes; raises ConfigError for a key that signs nothing."""
        issuer_hashes = {}
        for name, algorithm in HASHES.items():
            # The hashes come from the issuer's part of a request; whose serial it names does not matter here.
            probe = ocsp.OCSPRequestBuilder().add_certificate(certificate, certificate, algorithm).build()
            issuer_hashes[name] = (probe.issuer_name_hash, probe.issuer_key_hash)
        # A key that signs no certificates (X25519) would fail at the first verification: verify_directly_issued_by.
        return cls(certificate, certificate.public_key(), issuer_hashes)  # type: ignore[arg-type]

    def cert_id(self, serial_number: int, hash_algorithm: str) -> CertID:
        """Name one of its certificates."""
        return CertID(hash_algorithm, *self.issuer_hashes[hash_algorithm], serial_number)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _parse_certificates(path: Path) -> list[x509.Certificate]:
    """Return every certificate of a file; none where it is PEM of something else, such as a key."""
    content = _read(path)
    try:
        if _PEM_CERTIFICATE in content:
            return x509.load_pem_x509_certificates(content)
        if b"-----BEGIN " in content:
            return []
        return [x509.load_der_x509_certificate(content)]
    except ValueError:
        raise ConfigError(f"{path}: holds no certificate in PEM or DER") from None


def load_issuer(path: Path) -> Issuer:
    """Read the CA's certificate, PEM or DER."""
    certificates = _parse_certificates(path)
    if len(certificates) != 1:
        raise ConfigError(f"{path}: must hold one certificate, the CA's; it holds {len(certificates)}")
    try:
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise ConfigError(f"{path}: is not a CA's certificate")
    return Issuer.from_certificate(certificates[0])


def load_certificates(path: Path, issuer: Issuer, expect: str | None = None) -> list[Target]:
    """Read a certificate file, or all of a directory; every one must have been issued by ``issuer``."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    else:
        files = [path]
    targets = []
    for file in files:
        for certificate in _parse_certificates(file):
            if certificate == issuer.certificate:
                continue  # many directories hold it too, and no CA answers for itself
            try:
                certificate.verify_directly_issued_by(issuer.certificate)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                raise ConfigError(f"{file}: was not issued by the CA of --issuer") from None
            targets.append(Target(certificate.serial_number, expect))
    if not targets:
        raise ConfigError(f"{path}: no certificate to ask about")
    return targets


def parse_serial(text: str) -> int | None:
    """Read a serial in hex, with 0x or colons if need be; None where it is none."""
    found = _HEX.fullmatch(text)
    if found is None:
        return None
    serial_number = int(found[1].replace(":", ""), 16)
    return serial_number if serial_number.bit_length() <= 8 * MAX_SERIAL_OCTETS else None


def load_serials(path: Path, expect: str | None = None) -> list[Target]:
    """Read a text file: a serial in hex in each line, and optionally the status that is due; # begins a remark."""
    try:
        text = _read(path).decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file of serials") from None
    targets = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        serial_number = parse_serial(words[0])
        if serial_number is None:
            raise ConfigError(f"{path}:{number}: {words[0][:60]!r} is not a serial in hex of at most 20 octets")
        if len(words) > 2 or (len(words) == 2 and words[1] not in EXPECTATIONS):
            said = " ".join(words[1:])[:60]
            raise ConfigError(f"{path}:{number}: {said!r} is not one of {', '.join(EXPECTATIONS)}")
        targets.append(Target(serial_number, words[1] if len(words) == 2 else expect))
    if not targets:
        raise ConfigError(f"{path}: no serial to ask about")
    return targets


def build_request(cert_id: CertID, nonce: bytes | None = None) -> bytes:
    """Encode an OCSPRequest with one CertID."""
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        cert_id.issuer_name_hash, cert_id.issuer_key_hash, cert_id.serial_number, HASHES[cert_id.hash_algorithm]
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(serialization.Encoding.DER)


def get_url(base: str, request_der: bytes) -> str:
    """Make the URL of a GET: the responder's, a slash, and the base64, whose + / = are escaped (RFC 6960 §A.1)."""
    return f"{base.rstrip('/')}/{urllib.parse.quote(base64.b64encode(request_der), safe='')}"
