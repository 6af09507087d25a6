"""Whether a key may sign answers for a CA, and what its answers carry: checked before anything is served.

RFC 6960 §2.6 and §4.2.2.2: the CA itself signs, or a key to whose certificate that very CA gave id-kp-OCSPSigning.
BR §7.1.2.8 says what such a certificate looks like, under profile ``webpki``. Called by the presigner and by checks.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, PublicKeyAlgorithmOID

from fastpath.ocsp_response import ResponseTemplate
from responder import audit
from responder.clock import format_utc
from responder.config import DAY_S, CAConfig, SignerConfig
from responder.errors import ConfigError, SignerEnded, SignerUnavailable
from responder.issuers import Issuer, extension_octets, issuer_name, load_certificate, public_key_octets
from responder.signing.algorithms import (
    PSS_SALT_OCTETS,
    RSAPadding,
    public_key_to_der,
    scheme_of,
    verify_signature,
)
from responder.signing.ledger import key_fingerprint, key_reference
from responder.signing.open import open_signer, secret_file_warnings
from responder.signing.signer import Signer

EXPIRY_WARNING_S = 14 * DAY_S  # time enough for an AD CS or EJBCA administrator to issue the next one
NOCHECK_OID = ExtensionOID.OCSP_NO_CHECK.dotted_string  # id-pkix-ocsp-nocheck, 1.3.6.1.5.5.7.48.1.5
NULL_DER = b"\x05\x00"
EMPTY_SEQUENCE_DER = b"\x30\x00"
WEAK_HASHES = ("md5", "sha1")
TRIAL_TEXT = b"Revocast tries this key: "

# BR §7.1.2.8.2: extensions that an OCSP signer's certificate must not have, or should rather not.
_FORBIDDEN = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "subjectAltName",
    ExtensionOID.NAME_CONSTRAINTS: "nameConstraints",
    ExtensionOID.CRL_DISTRIBUTION_POINTS: "cRLDistributionPoints",
}
_DISCOURAGED = {
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: "authorityInfoAccess",
    ExtensionOID.CERTIFICATE_POLICIES: "certificatePolicies",
}

ExtensionValue = TypeVar("ExtensionValue", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseSigner:
    """A key that was proven to sign for one CA, and what all its answers share.

    ``certificate_der`` is None where the CA itself signs. ``signer_id``: 16 hex digits that name certificate and
    template together. Times are POSIX seconds; no answer may have a nextUpdate past ``latest_next_update``.
    """

    signer: Signer
    certificate_der: bytes | None
    template: ResponseTemplate
    signer_id: str
    latest_next_update: int
    not_after: int
    warnings: tuple[str, ...]

    def close(self) -> None:
        """Let go of the key."""
        self.signer.close()


def open_response_signer(
    ca: CAConfig,
    issuer: Issuer,
    data_dir: Path,
    now: float,
    config_file: str,
    using: SignerConfig | None = None,
    *,
    patience_s: float | None = None,
) -> ResponseSigner:
    """Open a CA's signer (``using``, by default ``ca.ocsp``), check that it may sign, and try it once before it is used.

    Raises ConfigError where key, certificate and CA do not belong together or a rule forbids it, SignerUnavailable
    where the key cannot be used now, one line each; SignerOpening and ``patience_s`` as ``open_signer``.
    """
    using = using or ca.ocsp
    certificate_der: bytes | None = None
    if using.certificate is not None:
        certificate_der = load_certificate(using.certificate, config_file, f"ca[{ca.name}].{using.table}.certificate")
    shown = x509.load_der_x509_certificate(certificate_der or issuer.certificate_der)
    try:
        known = [shown.public_key()]
    except (ValueError, UnsupportedAlgorithm):
        known = []  # check_signer_certificate says what is wrong with it
    padding = rsa_padding_of(ca, shown, config_file, using)
    signer = open_signer(ca, data_dir, config_file, known, padding, using, patience_s=patience_s)
    try:
        warnings = check_signer_certificate(
            issuer, certificate_der, signer.public_key_der, ca.profile, now, config_file, using
        )
        prove_signer(signer)
        audit.record("sign", ca=ca.name, key=key_fingerprint(signer.public_key_der), why="proof", count=1)
        template = ResponseTemplate(
            hashlib.sha1(public_key_octets(signer.public_key_der), usedforsecurity=False).digest(),
            signer.signature_algorithm_der,
            [certificate_der] if certificate_der else [],
        )
    except BaseException:
        signer.close()
        raise
    not_after = int(shown.not_valid_after_utc.timestamp())
    following = ca.ocsp.next
    if using is ca.ocsp and following is not None and not_after < following.start:
        gap = f"from {format_utc(not_after)} to {format_utc(following.start)} (ocsp.next.from)"
        warnings.append(f"{using.certificate or ca.certificate} ends before ocsp.next takes over: nobody signs {gap}")
    opened = ResponseSigner(
        signer=signer,
        certificate_der=certificate_der,
        template=template,
        # A CA's renewed certificate makes it another signer, though its answers carry none: it ends at another time.
        signer_id=hashlib.sha256((certificate_der or issuer.certificate_der) + template.to_bytes()).hexdigest()[:16],
        # Mozilla policy §6: nextUpdate is not past the notAfter of any certificate in certs or, where certs is
        # absent, of the CA's.
        latest_next_update=not_after,
        not_after=not_after,
        warnings=(*warnings, *secret_file_warnings(using)),
    )
    audit.record(
        "signer_opened",
        ca=ca.name,
        signer=opened.signer_id,
        key=key_fingerprint(signer.public_key_der),
        reference=key_reference(using.key),
        certificate=hashlib.sha256(certificate_der or issuer.certificate_der).hexdigest(),
        serial=f"{shown.serial_number:x}",
        not_after=format_utc(not_after),
    )
    return opened


def prove_signer(signer: Signer) -> None:
    """Make one signature and verify it as a client would; raises SignerUnavailable where it does not verify.

    What is signed can be no one's answer or certificate: those begin with the octet 30.
    """
    message = TRIAL_TEXT + os.urandom(16)
    (signature,) = signer.sign([message])
    if not verify_signature(signer.public_key_der, signer.signature_algorithm_der, signature, message):
        raise SignerUnavailable("the key signs, but its signature does not verify with its public key")


def rsa_padding_of(
    ca: CAConfig, certificate: x509.Certificate, config_file: str, using: SignerConfig | None = None
) -> RSAPadding | None:
    """Return how the key of the CA's signer (``using``, by default ``ca.ocsp``) pads; None: as its kind does by default.

    Raises ConfigError where the certificate binds the key to PSS, and not to the form that is signed here.
    """
    using = using or ca.ocsp
    configured = using.rsa_padding
    if certificate.public_key_algorithm_oid != PublicKeyAlgorithmOID.RSASSA_PSS:
        return configured
    problem = f'its key is id-RSASSA-PSS: {using.table}.rsa_padding must be "pss" or absent (RFC 4055 §1.2)'
    if configured != "pkcs1":
        if _admits_our_pss(certificate):
            return "pss"
        problem = (
            f"its key is bound to another PSS than SHA-256 with a salt of {PSS_SALT_OCTETS} octets (RFC 4055 §3.3)"
        )
    where = f"{using.table}.certificate" if using.certificate else "certificate"
    raise ConfigError(config_file, f"ca[{ca.name}].{where}", f"{using.certificate or ca.certificate}: {problem}")


def _admits_our_pss(certificate: x509.Certificate) -> bool:
    """Say whether an id-RSASSA-PSS key may make the signatures that are made here."""
    whole = asn1_x509.Certificate.load(certificate.public_bytes(serialization.Encoding.DER))
    parameters = whole["tbs_certificate"]["subject_public_key_info"]["algorithm"]["parameters"].native
    # RFC 4055 §3.3: absent, they bind nothing; else hash and mask must be the same, and the salt no shorter.
    return parameters is None or (
        parameters["hash_algorithm"]["algorithm"] == "sha256"
        and parameters["mask_gen_algorithm"]["algorithm"] == "mgf1"
        and parameters["mask_gen_algorithm"]["parameters"]["algorithm"] == "sha256"
        and parameters["salt_length"] <= PSS_SALT_OCTETS
    )


def check_signer_certificate(
    issuer: Issuer,
    signer_certificate_der: bytes | None,
    public_key_der: bytes,
    profile: str,
    now: float,
    config_file: str,
    using: SignerConfig | None = None,
) -> list[str]:
    """Check that the key may sign answers for ``issuer``; returns warnings, raises ConfigError for the first violation.

    ``signer_certificate_der`` None: the CA itself signs. ``public_key_der`` is the key's own SubjectPublicKeyInfo.
    ``using`` is where both are configured, by default ``ocsp``.
    """
    delegated = signer_certificate_der is not None
    using = using or issuer.config.ocsp
    file = using.certificate if delegated else issuer.config.certificate
    key = f"ca[{issuer.name}].{using.table}.certificate" if delegated else f"ca[{issuer.name}].certificate"
    check = CertificateCheck(
        x509.load_der_x509_certificate(signer_certificate_der or issuer.certificate_der),
        config_file,
        key,
        str(file),
        webpki=profile == "webpki",
        table=using.table,
    )
    check.key(public_key_der)
    if delegated:
        check.issued_by(issuer)
        check.dates(now)
        check.extensions_are_known()
        check.delegation()
        check.key_usage()
        if profile == "webpki":
            check.baseline_extensions()
    else:
        check.ca_may_sign(profile)
        check.dates(now)
    if now >= issuer.not_after and delegated:
        check.warnings.append(f"the certificate of ca {issuer.name!r} expired at {format_utc(issuer.not_after)}")
    return check.warnings


class CertificateCheck:
    """One certificate under check; each method is one rule or a few that belong together."""

    def __init__(
        self,
        certificate: x509.Certificate,
        config_file: str,
        config_key: str,
        file: str,
        *,
        webpki: bool,
        table: str = "ocsp",
    ) -> None:
        """``table``: where key and certificate are configured, within their CA's."""
        self.warnings: list[str] = []
        self._certificate = certificate
        self._where = (config_file, config_key)
        self._file = file
        self._webpki = webpki
        self._table = table
        self._octets = extension_octets(certificate)
        # RFC 6960 §4.2.2.2.1: the value SHALL be NULL. Refused in every profile: some clients then cannot read the
        # certificate at all, as cryptography cannot below.
        if self._octets.get(NOCHECK_OID, NULL_DER) != NULL_DER:
            octets = self._octets[NOCHECK_OID].hex() or "empty"
            raise self.refusal(f"the value of its id-pkix-ocsp-nocheck is {octets}, not 0500", "BR §7.1.2.8.6")
        try:
            self._extensions = certificate.extensions
        except ValueError as error:
            raise self.refusal(f"an extension cannot be read: {error}", "RFC 5280 §4.2") from error

    def key(self, public_key_der: bytes) -> None:
        """The key is the certificate's, and of a kind that may sign under the profile."""
        try:
            public_key = self._certificate.public_key()
            scheme = scheme_of(public_key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self.refusal(str(error), "RFC 6960 §4.3") from error
        if public_key_to_der(public_key) != public_key_der:
            raise self.refusal(f"its key is not the configured one ({self._table}.key)", "RFC 6960 §4.2.2.2")
        if self._webpki and not scheme.in_baseline_requirements:
            raise self.refusal(f"profile webpki does not allow {scheme.name} keys", "BR §7.1.3.2")
        if self._webpki and self._certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
            raise self.refusal("its key must be rsaEncryption, and is id-RSASSA-PSS", "BR §7.1.3.1.1")

    def issued_by(self, issuer: Issuer) -> None:
        """DEL-01, DEL-07: issued directly by the CA whose certificates are asked about."""
        # RFC 6960 §4.2.2.2: "This certificate MUST be issued directly by the CA that issued the certificate in question".
        hash_algorithm = None
        try:
            hash_algorithm = self._certificate.signature_hash_algorithm
        except UnsupportedAlgorithm:
            self.warnings.append(f"{self._file}: its signature algorithm is one that few clients know")
        if hash_algorithm is not None and hash_algorithm.name in WEAK_HASHES:
            raise self.refusal(f"it is signed with {hash_algorithm.name.upper()}", "RFC 6960 §5.1.1, BR §7.1.3.2")
        ca = x509.load_der_x509_certificate(issuer.certificate_der)
        if issuer_name(self._certificate) != issuer.subject_der:
            raise self.refusal(
                f"it was issued by {self._certificate.issuer.rfc4514_string()!r}, not by ca {issuer.name!r} ({ca.subject.rfc4514_string()!r})",
                "RFC 6960 §4.2.2.2",
            )
        try:
            self._certificate.verify_directly_issued_by(ca)
        except InvalidSignature as error:
            raise self.refusal(
                f"its signature is not by the key of ca {issuer.name!r}; another generation of that CA may have issued it",
                "RFC 6960 §4.2.2.2",
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self.refusal(f"its signature cannot be verified: {error}", "RFC 6960 §4.2.2.2") from error

    def dates(self, now: float) -> None:
        """It is in date, and not about to end."""
        not_before = self._certificate.not_valid_before_utc.timestamp()
        not_after = self._certificate.not_valid_after_utc.timestamp()
        if now < not_before:
            raise self.refusal(f"it is not valid before {format_utc(not_before)}", "RFC 5280 §4.1.2.5")
        if now > not_after:
            raise SignerEnded(*self._where, f"{self._file}: it expired at {format_utc(not_after)} (RFC 5280 §4.1.2.5)")
        if not_after - now < EXPIRY_WARNING_S:
            self.warnings.append(f"{self._file} expires at {format_utc(not_after)}: no answer outlives it (DEL-05)")

    def extensions_are_known(self) -> None:
        """Clients must reject a certificate with a critical extension that they do not know."""
        for extension in self._extensions:
            if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
                raise self.refusal(
                    f"it has an unknown critical extension {extension.oid.dotted_string}", "RFC 5280 §4.2"
                )

    def delegation(self) -> None:
        """DEL-01 to DEL-03: id-kp-OCSPSigning, and how nocheck stands."""
        usages = self.value(x509.ExtendedKeyUsage)
        # RFC 6960 §4.2.2.2: id-kp-OCSPSigning itself; anyExtendedKeyUsage does not delegate.
        if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
            raise self.refusal("its extendedKeyUsage lacks OCSPSigning", "RFC 6960 §4.2.2.2")
        if self._webpki and len(list(usages)) > 1:
            raise self.refusal("its extendedKeyUsage holds more than OCSPSigning", "BR §7.1.2.8.7")
        nocheck = self._extension(ExtensionOID.OCSP_NO_CHECK)
        if nocheck is None:
            if self._webpki:
                raise self.refusal("it lacks id-pkix-ocsp-nocheck", "BR §7.1.2.8.6")
            self.warnings.append(
                f"{self._file} lacks id-pkix-ocsp-nocheck: clients may ask for its own status (RFC 6960 §4.2.2.2.1)"
            )
        elif nocheck.critical:
            problem = "its id-pkix-ocsp-nocheck is critical"
            if self._webpki:
                raise self.refusal(problem, "BR §7.1.2.8.6")
            self.warnings.append(f"{self._file}: {problem} (RFC 6960 §4.2.2.2.1)")

    def key_usage(self) -> None:
        """Its key may sign what is no certificate."""
        key_usage = self.value(x509.KeyUsage)
        if key_usage is not None and not key_usage.digital_signature:
            raise self.refusal("its keyUsage lacks digitalSignature", "RFC 5280 §4.2.1.3")
        if key_usage is not None and scheme_of(self._certificate.public_key()).family == "ml-dsa":
            wrong = [name for name in _NOT_FOR_SIGNATURES if getattr(key_usage, name)]
            if wrong:
                raise self.refusal(f"its keyUsage asserts {wrong[0]}, which ML-DSA keys cannot do", "RFC 9881 §5")
        basic_constraints = self.value(x509.BasicConstraints)
        if basic_constraints is not None and basic_constraints.ca and not self._webpki:
            self.warnings.append(f"{self._file} is a CA certificate; an OCSP signer's should not be (BR §7.1.2.8.4)")

    def baseline_extensions(self) -> None:
        """DEL-03: the certificate profile of BR §7.1.2.8."""
        extension = self._extension(ExtensionOID.KEY_USAGE)
        if extension is None or not extension.critical:
            raise self.refusal("it lacks a critical keyUsage", "BR §7.1.2.8.8")
        asserted = [name for name in _KEY_USAGES if getattr(extension.value, name)]
        if asserted != ["digital_signature"]:
            raise self.refusal("its keyUsage asserts more than digitalSignature", "BR §7.1.2.8.8")
        if self._octets.get(ExtensionOID.BASIC_CONSTRAINTS.dotted_string, EMPTY_SEQUENCE_DER) != EMPTY_SEQUENCE_DER:
            raise self.refusal("its basicConstraints is not the empty SEQUENCE", "BR §7.1.2.8.4")
        if self._extension(ExtensionOID.AUTHORITY_KEY_IDENTIFIER) is None:
            raise self.refusal("it lacks authorityKeyIdentifier", "BR §7.1.2.8.2")
        for oid, name in _FORBIDDEN.items():
            if self._extension(oid) is not None:
                raise self.refusal(f"it has {name}", "BR §7.1.2.8.2")
        for oid, name in _DISCOURAGED.items():
            if self._extension(oid) is not None:
                self.warnings.append(f"{self._file} has {name}, which is not recommended (BR §7.1.2.8.2)")
        if self._extension(ExtensionOID.SUBJECT_KEY_IDENTIFIER) is None:
            self.warnings.append(f"{self._file} lacks subjectKeyIdentifier, which is recommended (BR §7.1.2.8.2)")

    def ca_may_sign(self, profile: str) -> None:
        """DEL-06: a CA signs answers itself only where its certificate asserts digitalSignature."""
        key_usage = self.value(x509.KeyUsage)
        # RFC 5280 §4.2.1.3: without keyUsage a key is not restricted; old private roots are so. Others must assert it.
        if (key_usage is None and profile != "private") or (key_usage and not key_usage.digital_signature):
            raise self.refusal(
                "the CA cannot sign answers itself, since its keyUsage lacks digitalSignature; set ocsp.certificate to a delegated signer",
                "BR §7.1.2.10.7",
            )

    def _extension(self, oid: x509.ObjectIdentifier) -> x509.Extension[x509.ExtensionType] | None:
        try:
            return self._extensions.get_extension_for_oid(oid)
        except x509.ExtensionNotFound:
            return None

    def value(self, kind: type[ExtensionValue]) -> ExtensionValue | None:
        """Return an extension, or None."""
        try:
            return self._extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    def refusal(self, problem: str, clause: str) -> ConfigError:
        """Make the one line that says why the certificate will not do."""
        return ConfigError(*self._where, f"{self._file}: {' '.join(problem.split())} ({clause})")


_NOT_FOR_SIGNATURES = ("key_encipherment", "data_encipherment", "key_agreement")
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
