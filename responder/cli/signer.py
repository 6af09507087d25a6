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

from responder.config import CAConfig, Config, load_config
from responder.errors import OperatorError
from responder.issuers import load_certificate
from responder.process import ConfigFile
from responder.signing.algorithms import RSAPadding
from responder.signing.delegation import rsa_padding_of
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
) -> None:
    """Write a PKCS#10 request for an OCSP signer's certificate, signed by the configured key.

    It asks for digitalSignature, OCSPSigning and id-pkix-ocsp-nocheck. Have the CA itself issue it, and name the
    certificate in the configuration as ca.ocsp.certificate.
    """
    settings = load_config(config)
    chosen = _choose(settings, ca)
    subject_der = _subject(subject, chosen.name)
    known, rsa_padding = _present_certificate(chosen, str(config))
    key = open_signer(chosen, settings.data_dir, str(config), known, rsa_padding)
    try:
        request_pem = pem.armor("CERTIFICATE REQUEST", build_certification_request(key, subject_der))
    finally:
        key.close()
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


def _present_certificate(ca: CAConfig, config_file: str) -> tuple[list[CertificatePublicKeyTypes], RSAPadding | None]:
    """On renewal the present certificate shows the key, where the token itself does not, and how it pads."""
    if ca.ocsp.certificate is None:
        return [], ca.ocsp.rsa_padding
    der = load_certificate(ca.ocsp.certificate, config_file, f"ca[{ca.name}].ocsp.certificate")
    certificate = x509.load_der_x509_certificate(der)
    return [certificate.public_key()], rsa_padding_of(ca, certificate, config_file)
