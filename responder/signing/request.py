"""A PKCS#10 request for an OCSP signer's certificate, signed by whatever holds the key.

RFC 2986 §4, RFC 2985 §5.4.2 (extensionRequest), RFC 6960 §4.2.2.2. ``cryptography`` signs only with keys that it holds,
so the request is put together here and signed through Signer.
"""

from __future__ import annotations

from asn1crypto import algos, core, csr, keys
from asn1crypto import x509 as asn1_x509

from responder.errors import SignerUnavailable
from responder.signing.algorithms import verify_signature
from responder.signing.signer import Signer


def build_certification_request(signer: Signer, subject_der: bytes) -> bytes:
    """Build and sign a CertificationRequest; returns its DER. ``subject_der`` is a Name's whole TLV.

    Raises SignerUnavailable, also where the signature that came back does not verify.
    """
    extensions = asn1_x509.Extensions(
        [
            # BR §7.1.2.8.8: keyUsage is critical and digitalSignature alone.
            _extension("key_usage", critical=True, value=asn1_x509.KeyUsage({"digital_signature"})),
            # RFC 6960 §4.2.2.2: delegation is designated by id-kp-OCSPSigning.
            _extension("extended_key_usage", critical=False, value=asn1_x509.ExtKeyUsageSyntax(["ocsp_signing"])),
            # RFC 6960 §4.2.2.2.1: id-pkix-ocsp-nocheck is not critical and its value is NULL.
            _extension("ocsp_no_check", critical=False, value=core.Null()),
        ]
    )
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": asn1_x509.Name.load(subject_der, strict=True),
            "subject_pk_info": keys.PublicKeyInfo.load(signer.public_key_der, strict=True),
            "attributes": [{"type": "extension_request", "values": [extensions]}],
        }
    )
    info_der: bytes = info.dump()
    (signature,) = signer.sign([info_der])
    if not verify_signature(signer.public_key_der, signer.signature_algorithm_der, signature, info_der):
        raise SignerUnavailable("the key's signature does not verify with its public key")
    request: bytes = csr.CertificationRequest(
        {
            "certification_request_info": csr.CertificationRequestInfo.load(info_der),
            "signature_algorithm": algos.SignedDigestAlgorithm.load(signer.signature_algorithm_der, strict=True),
            "signature": core.OctetBitString(signature),
        }
    ).dump()
    return request


def _extension(name: str, *, critical: bool, value: core.Asn1Value) -> asn1_x509.Extension:
    return asn1_x509.Extension(
        {"extn_id": name, "critical": critical, "extn_value": core.ParsableOctetString(value.dump())}
    )
