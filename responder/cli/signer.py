"""``revocast signer``: what an operator does with a signer's key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from asn1crypto import pem
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.name import NameAttribute
from cryptography.x509.oid import NameOID

from responder import audit
from responder.config import CAConfig, Config, SignerConfig, load_config
from responder.errors import OperatorError
from responder.issuers import load_certificate
from responder.log import configure_logging
from responder.process import ConfigFile
from responder.signing.algorithms import RSAPadding
from responder.signing.delegation import rsa_padding_of
from responder.signing.ledger import key_fingerprint
from responder.signing.open import open_signer
from responder.signing.request import build_certification_request

signer = typer.Typer(help="Keys that sign answers.", no_args_is_help=True)


@signer.callback()
def _group() -> None:
    """Keys that sign answers."""


@signer.command()
def request(
    config: ConfigFile,
    ca: Annotated[
        str | None, typer.Option("--ca", help="The CA's name in the configuration, where it has several.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; absent: standard output.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help='Subject in the form of RFC 4514; default: "CN=<ca name> OCSP".')
    ] = None,
    for_next: Annotated[bool, typer.Option("--next", help="For the key of ca.ocsp.next.")] = False,
) -> None:
    """Write a PKCS#10 request for an OCSP signer's certificate, signed by the configured key.

    It asks for digitalSignature, OCSPSigning and id-pkix-ocsp-nocheck. Have the CA itself issue it, and name the
    certificate in the configuration as ca.ocsp.certificate, or as ca.ocsp.next.certificate.
    """
    settings = load_config(config)
    configure_logging("command", "error", "console")  # the request goes to standard output, alone
    chosen = _choose(settings, ca)
    subject_der = _subject(subject, chosen.name)
    using = chosen.ocsp.next if for_next else chosen.ocsp
    if using is None:
        raise OperatorError(f"ca {chosen.name!r} has no ocsp.next in {config}")
    known, rsa_padding = _present_certificate(chosen, using, str(config))
    with audit.opened(settings, config, "command", durable=True):
        key = open_signer(chosen, settings.data_dir, str(config), known, rsa_padding, using)
        try:
            request_pem = pem.armor("CERTIFICATE REQUEST", build_certification_request(key, subject_der))
            fingerprint = key_fingerprint(key.public_key_der)
        finally:
            key.close()
        audit.record("sign", ca=chosen.name, key=fingerprint, why="request", count=1)
    if out is None:
        sys.stdout.write(request_pem.decode("ascii"))
        return
    try:
        out.write_bytes(request_pem)
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {os.strerror(error.errno or 0)}") from error


def _choose(settings: Config, name: str | None) -> CAConfig:
    names = [ca.name for ca in settings.ca]
    if name is None and len(names) > 1:
        raise OperatorError(f"which CA? Say --ca with one of {', '.join(names)}")
    for ca in settings.ca:
        if name in (None, ca.name):
            return ca
    raise OperatorError(f"no CA {name!r} in the configuration; there: {', '.join(names)}")


def _subject(text: str | None, ca_name: str) -> bytes:
    if text is None:
        return x509.Name([NameAttribute(NameOID.COMMON_NAME, f"{ca_name} OCSP"[:64])]).public_bytes()
    try:
        name = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        raise OperatorError(
            f"--subject {text!r} is not a name in the form of RFC 4514, such as CN=a,O=b: {error}"
        ) from error
    if not name.rdns:
        raise OperatorError("--subject is empty")
    return name.public_bytes()


def _present_certificate(
    ca: CAConfig, using: SignerConfig, config_file: str
) -> tuple[list[CertificatePublicKeyTypes], RSAPadding | None]:
    """On renewal the present certificate shows the key, where the token itself does not, and how it pads."""
    if using.certificate is None:
        return [], using.rsa_padding
    der = load_certificate(using.certificate, config_file, f"ca[{ca.name}].{using.table}.certificate")
    certificate = x509.load_der_x509_certificate(der)
    return [certificate.public_key()], rsa_padding_of(ca, certificate, config_file, using)
