"""How an operator names a certificate on the command line: its serial in hex, or its file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from responder.config import Config, load_config
from responder.errors import OperatorError
from responder.issuers import Issuer, Issuers
from responder.log import configure_logging
from responder.model import serial_to_octets
from responder.store.embedded import connect_or_start


def open_config(config_file: Path) -> tuple[Config, Issuers]:
    """Read the configuration of a command; its logs are for a person."""
    settings = load_config(config_file)
    configure_logging("command", "error", "console")
    return settings, Issuers.from_config(settings, str(config_file))


@contextlib.contextmanager
def with_redis(config: Config) -> Iterator[None]:
    """Have a Redis: an embedded one that nobody runs is started for as long as it takes."""
    with connect_or_start(config.data_dir) if config.redis is None else contextlib.nullcontext():
        yield


def certificate_named(text: str, issuers: Issuers, ca: str | None) -> tuple[Issuer, bytes]:
    """Return the CA and the serial's octets of a named certificate; raises OperatorError where it is ambiguous."""
    found = certificates_named(text, issuers, ca)
    if len(found) > 1:
        raise OperatorError(f"{text}: say whose with --ca, one of {', '.join(issuer.name for issuer, _ in found)}")
    return found[0]


def certificates_named(text: str, issuers: Issuers, ca: str | None) -> list[tuple[Issuer, bytes]]:
    """Return every CA that a named certificate may be of, with the serial's octets; raises OperatorError for none."""
    if Path(text).is_file():
        certificate = read_certificate(Path(text).read_bytes(), text)
        if certificate is None:
            raise OperatorError(f"{text}: is not a certificate")
        return [(issuer_of(certificate, issuers, ca), serial_to_octets(certificate.serial_number))]
    octets = parse_serial(text)
    found = [(issuer, octets) for issuer in issuers if ca in (None, issuer.name)]
    if not found:
        raise OperatorError(f"--ca {ca}: no such CA; there are {', '.join(issuer.name for issuer in issuers)}")
    return found


def parse_serial(text: str) -> bytes:
    """Read a serial in hex, with or without colons, as its DER INTEGER's contents octets."""
    digits = text.removeprefix("0x").replace(":", "")
    if not re.fullmatch(r"-?[0-9a-fA-F]{1,64}", digits):
        raise OperatorError(f"{text}: is neither a file nor a serial in hex")
    return serial_to_octets(int(digits, 16))


def read_certificate(data: bytes, name: str) -> x509.Certificate | None:
    """Read a certificate, PEM or DER; None: it is something else, such as a request."""
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        if b"-----BEGIN" in data:
            raise OperatorError(f"{name}: cannot be read: {str(error).splitlines()[0]}") from error
        return None


def issuer_of(certificate: x509.Certificate, issuers: Issuers, ca: str | None) -> Issuer:
    """Find the CA whose key signed a certificate: of several generations only one did."""
    candidates = [issuer for issuer in issuers if ca in (None, issuer.name)]
    for issuer in candidates:
        try:
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.certificate_der))
        except (InvalidSignature, ValueError, TypeError):
            continue
        return issuer
    names = ", ".join(issuer.name for issuer in candidates) or "no CA"
    raise OperatorError(f"{certificate.serial_number:x}: signed by none of {names}")
