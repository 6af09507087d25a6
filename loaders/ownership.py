"""Whose a certificate is, for sources whose rows hold the certificates themselves.

A CA's name is not enough: two generations of a CA share it (RFC 6960 §4.1.1 names an issuer by name and key). So a
signature is verified for each authorityKeyIdentifier, once; the others of that identifier and name follow it. Called by
the loaders of files and databases; loaders/certificates.py does the same for an index.txt.
"""

from __future__ import annotations

import warnings

from cryptography import x509

from loaders.certificates import UNREADABLE_EXTENSIONS, is_issued_by
from loaders.entries import checked_serial
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.log import get_logger

log = get_logger(__name__)

MAX_CERTIFICATE_BYTES = 1 << 20  # the largest that is looked at; with long lists of names some have 100 KiB


def parse_certificate(der: bytes) -> x509.Certificate:
    """Read a DER certificate; raises ValueError."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise ValueError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} octets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a serial of zero or below is served like any other
        try:
            return x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion) as error:
            raise ValueError(f"not a DER certificate: {' '.join(str(error).split())[:200]}") from error


def parse_pem_certificate(text: bytes) -> x509.Certificate:
    """Read the first PEM certificate of a text; raises ValueError."""
    if len(text) > 2 * MAX_CERTIFICATE_BYTES:
        raise ValueError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} octets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return x509.load_pem_x509_certificate(text)
        except (ValueError, x509.InvalidVersion) as error:
            raise ValueError(f"not a PEM certificate: {' '.join(str(error).split())[:200]}") from error


def certificate_serial(certificate: x509.Certificate) -> bytes:
    """Return a certificate's serial as DER INTEGER contents octets; raises ValueError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checked_serial(certificate.serial_number)


def certificate_expiry(certificate: x509.Certificate) -> int:
    """Return a certificate's notAfter in POSIX seconds."""
    return int(certificate.not_valid_after_utc.timestamp())


def key_id(certificate: x509.Certificate, *, authority: bool) -> bytes | None:
    """Return the authorityKeyIdentifier's key identifier, or the subjectKeyIdentifier; None where there is none.

    RFC 5280 §4.2.1.1, §4.2.1.2. Extensions that cannot be read count as absent.
    """
    try:
        if authority:
            return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, *UNREADABLE_EXTENSIONS):
        return None


class CertificateOwner:
    """Says of each certificate of a reading whether the CA issued it, and in the end whether any was."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._ca = parse_certificate(issuer.certificate_der)
        self._subject = self._ca.subject
        # authorityKeyIdentifiers of which one certificate was verified. What is not the CA's is asked about each time:
        # one forged certificate must not speak for the others.
        self._key_ids: set[bytes] = set()
        self._has_warned = False
        self.begin()

    @property
    def ca_certificate(self) -> x509.Certificate:
        """The CA's own certificate."""
        return self._ca

    def begin(self) -> None:
        """Start a reading."""
        self.ours = 0
        self._strangers = 0
        self._stranger = ""

    def owns(self, certificate: x509.Certificate) -> bool:
        """Return whether the CA's key signed it, or another of the same authorityKeyIdentifier and issuer."""
        try:
            is_named = certificate.issuer == self._subject
        except ValueError:
            is_named = False
        if is_named:
            identifier = key_id(certificate, authority=True)
            if identifier is not None and identifier in self._key_ids:
                self.ours += 1
                return True
            if is_issued_by(certificate, self._ca):
                if identifier is not None:
                    self._key_ids.add(identifier)
                self.ours += 1
                return True
        self._strangers += 1
        if not self._stranger:
            try:
                self._stranger = certificate.issuer.rfc4514_string()
            except ValueError:
                self._stranger = "a name that cannot be read"
        return False

    def check(self, source: str) -> None:
        """Raise SourceUnavailable where there were certificates, and not one is the CA's; warn where there were none."""
        if self.ours:
            return
        if self._strangers:
            raise SourceUnavailable(
                f"{source}: belongs to another CA: none of its {self._strangers} certificates was signed with the key of "
                f"{self._issuer.subject_text!r}; the first was issued by {self._stranger!r}"
            )
        if not self._has_warned:
            self._has_warned = True
            log.warning("source_owner_unchecked", source=source, ca=self._issuer.name)
