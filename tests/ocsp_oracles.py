"""What independent programs say of an OCSP response's bytes: asn1crypto, cryptography, OpenSSL, pkilint.

Each has blind spots, so tests ask all of them. Every function raises AssertionError with the program's own words.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ocsp
from pkilint import loader, pkix
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as pkilint_ocsp
from pkilint.validation import ValidationFindingSeverity

from tests.components import need
from tests.pki import PKI


def read_with_asn1crypto(response_der: bytes) -> Any:
    """Parse strictly (no trailing octets at any level) and encode again; the bytes must be the same, so it is DER."""
    response = asn1_ocsp.OCSPResponse.load(response_der, strict=True)
    basic = asn1_ocsp.BasicOCSPResponse.load(response["response_bytes"]["response"].contents, strict=True)
    tbs = basic["tbs_response_data"]
    original = tbs.dump()
    assert tbs.native is not None  # parses every field below
    again = asn1_ocsp.ResponseData.load(original, strict=True)
    assert again.dump(force=True) == original, "asn1crypto encodes ResponseData differently"
    return basic


def read_with_cryptography(response_der: bytes) -> ocsp.OCSPResponse:
    """Parse; the response must be successful."""
    response = ocsp.load_der_ocsp_response(response_der)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    return response


def check_signature(response_der: bytes, ca: PKI) -> None:
    """Verify the signature over tbsResponseData as two parsers cut it out, with the key that ``ca`` answers with."""
    basic = read_with_asn1crypto(response_der)
    response = read_with_cryptography(response_der)
    signed = basic["tbs_response_data"].dump()
    assert signed == response.tbs_response_bytes
    assert signed in response_der
    ca.answer_signer.verify(response.signature, signed)


@cache
def _pkilint_validator() -> Any:
    # As pkilint's own command lint_ocsp_response puts it together.
    return pkilint_ocsp.create_pkix_ocsp_response_validator_container(
        [
            pkilint_ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )


def lint(response_der: bytes) -> list[str]:
    """Return pkilint's findings of notice and above, as ``severity code message``."""
    document = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(response_der, "response")
    return [
        f"{found.finding.severity.name} {found.finding.code} {found.message or ''}".strip()
        for result in _pkilint_validator().validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= ValidationFindingSeverity.NOTICE  # FATAL is 0
    ]


def ask_openssl(response_der: bytes, ca: PKI, serial_number: int, directory: Path, hash_name: str = "sha1") -> str:
    """Return what `openssl ocsp` prints of a response for a serial of ``ca``.

    Its exit code says little: read "Response verify OK", the status line, and "WARNING: Status times invalid".
    """
    need("openssl")
    path = directory / "response.der"
    path.write_bytes(response_der)
    command = ["openssl", "ocsp", "-respin", path, "-CAfile", ca.certificate_path, "-issuer", ca.certificate_path]
    command += [f"-{hash_name}", "-serial", hex(serial_number), "-no_nonce"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr
