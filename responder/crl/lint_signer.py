"""Whether a CRL is signed by the key of a given certificate, and whether that may sign it.

RFC 5280 §5.1.1.3, §5.2.1, §6.3.3 (f) and (g). Called by ``revocast crl show``.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509

from responder.crl.head import Head
from responder.crl.lint import Problem
from responder.crl.reader import CRLFile
from responder.errors import CRLError

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def lint_signer(head: Head, crl: CRLFile, certificate: x509.Certificate) -> tuple[bool, list[Problem]]:
    """Say whether a CRL's signature verifies with a certificate's key, and what else is wrong between the two."""
    problems = []

    def error(text: str, clause: str) -> None:
        problems.append(Problem("error", text, clause))

    if certificate.subject.public_bytes() != head.parts.issuer_der:
        error("issuer is not, octet by octet, the certificate's subject", "RFC 5280 §5.1.2.3")
    key_id = _extension(certificate, x509.SubjectKeyIdentifier)
    if key_id is not None and head.authority_key not in (None, key_id.digest):
        error("keyIdentifier is not the certificate's subjectKeyIdentifier", "RFC 5280 §5.2.1")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        error("the certificate's keyUsage does not assert cRLSign", "RFC 5280 §6.3.3 (f)")
    try:
        is_signed = crl.is_signed_by(certificate.public_key())
    except CRLError as problem:
        error(str(problem), "RFC 5280 §6.3.3 (g)")
        return False, problems
    if not is_signed:
        error("the signature does not verify with the certificate's key", "RFC 5280 §6.3.3 (g)")
    return is_signed, problems


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None
