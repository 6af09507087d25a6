"""Whether a key may sign a CA's CRLs, and what every CRL takes from its certificate: checked before anything is issued.

RFC 5280 §5 (the CA itself, or a CRL issuer whom it lets), §4.2.1.3 (cRLSign). Called by the publisher and by checks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from responder import audit
from responder.clock import format_utc
from responder.issuers import Issuer, load_certificate, public_key_octets, subject_and_key
from responder.signing.delegation import CertificateCheck, prove_signer, rsa_padding_of
from responder.signing.ledger import key_fingerprint, key_reference
from responder.signing.open import open_signer, secret_file_warnings
from responder.signing.signer import Signer


@dataclass(frozen=True, slots=True, eq=False)
class CRLSigner:
    """A key that was proven to sign for one CA's CRLs.

    ``issuer_der``: its certificate's subject, the CRLs' issuer, as it stands. ``key_identifier``: for
    authorityKeyIdentifier. ``is_indirect``: the subject is not the CA's, so that every entry says whose certificate it
    is. No CRL may have a nextUpdate past ``not_after``, POSIX seconds.
    """

    signer: Signer
    certificate_der: bytes
    issuer_der: bytes
    key_identifier: bytes
    is_indirect: bool
    not_after: int
    warnings: tuple[str, ...]

    @property
    def key_fingerprint(self) -> str:
        """The key's name in the audit log."""
        return key_fingerprint(self.signer.public_key_der)

    def close(self) -> None:
        """Let go of the key."""
        self.signer.close()


def open_crl_signer(issuer: Issuer, data_dir: Path, now: float, config_file: str) -> CRLSigner:
    """Open the key of ``ca.crl``, check that it may sign the CA's CRLs, and try it once before it is used.

    Raises ConfigError where key, certificate and CA do not belong together or a rule forbids it (SignerEnded where the
    certificate has expired), SignerUnavailable where the key cannot be used now, one line each.
    """
    ca, crl = issuer.config, issuer.config.crl
    assert crl is not None  # noqa: S101 - the callers look
    using = crl.signer
    key = f"ca[{ca.name}].{using.table}.certificate" if using.certificate else f"ca[{ca.name}].certificate"
    file = using.certificate or ca.certificate
    certificate_der = load_certificate(file, config_file, key) if using.certificate else issuer.certificate_der
    certificate = x509.load_der_x509_certificate(certificate_der)
    subject_der, _ = subject_and_key(certificate)
    try:
        known = [certificate.public_key()]
    except (ValueError, UnsupportedAlgorithm):
        known = []  # the check says what is wrong with it
    padding = rsa_padding_of(ca, certificate, config_file, using)
    signer = open_signer(ca, data_dir, config_file, known, padding, using)
    try:
        check = CertificateCheck(
            certificate, config_file, key, str(file), webpki=ca.profile == "webpki", table=using.table
        )
        check.key(signer.public_key_der)
        check_may_sign_crls(check, ca.profile)
        check.dates(now)
        prove_signer(signer)
        audit.record("sign", ca=ca.name, key=key_fingerprint(signer.public_key_der), why="proof", count=1)
        identifier = check.value(x509.SubjectKeyIdentifier)
    except BaseException:
        signer.close()
        raise
    not_after = int(certificate.not_valid_after_utc.timestamp())
    opened = CRLSigner(
        signer=signer,
        certificate_der=certificate_der,
        issuer_der=subject_der,
        # RFC 5280 §5.2.1, §4.2.1.1: the certificate's subjectKeyIdentifier as it stands; only where it has none we may
        # choose, and take the SHA-1 of its key (§4.2.1.2, method 1), as those do who look for it.
        key_identifier=identifier.digest
        if identifier is not None
        else hashlib.sha1(public_key_octets(signer.public_key_der), usedforsecurity=False).digest(),
        is_indirect=subject_der != issuer.subject_der,
        not_after=not_after,
        warnings=(*check.warnings, *secret_file_warnings(using)),
    )
    audit.record(
        "crl_signer_opened",
        ca=ca.name,
        key=opened.key_fingerprint,
        reference=key_reference(using.key),
        certificate=hashlib.sha256(certificate_der).hexdigest(),
        serial=f"{certificate.serial_number:x}",
        not_after=format_utc(not_after),
    )
    return opened


def check_may_sign_crls(check: CertificateCheck, profile: str) -> None:
    """CRL-10, RFC 5280 §4.2.1.3: a key signs CRLs only where its certificate's keyUsage asserts cRLSign."""
    key_usage = check.value(x509.KeyUsage)
    if key_usage is None and profile == "private":
        # RFC 5280 §6.3.3 (f): without keyUsage the key is not restricted; old private roots are so.
        check.warnings.append("the CRL signer's certificate has no keyUsage; that it may sign CRLs is only not denied")
        return
    if key_usage is None or not key_usage.crl_sign:
        raise check.refusal("it cannot sign CRLs, since its keyUsage lacks cRLSign", "RFC 5280 §4.2.1.3")
