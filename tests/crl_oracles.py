"""What independent programs say of CRLs: asn1crypto, pkilint, OpenSSL, GnuTLS, NSS and the JDK.

Each has blind spots, so tests ask all of them, and assert by themselves what none of them looks at. Programs that exit 0 on
almost anything are read, not counted on.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from asn1crypto import crl as asn1_crl
from pkilint import loader, pkix
from pkilint.cabf import cabf_crl
from pkilint.pkix import crl as pkilint_crl
from pkilint.pkix import extension, name
from pkilint.validation import ValidationFindingSeverity

from tests.components import need

REVOKED = 23  # X509_V_ERR_CERT_REVOKED
EXPIRED = 12  # X509_V_ERR_CRL_HAS_EXPIRED
NO_CRL = 3  # X509_V_ERR_UNABLE_TO_GET_CRL
OTHER_SCOPE = 44  # X509_V_ERR_DIFFERENT_CRL_SCOPE


def run(*command: str | Path) -> str:
    """Run a program; returns all that it printed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


def read_strictly(crl_der: bytes) -> Any:
    """Parse with asn1crypto and encode again; the bytes must be the same, so it is DER, and nothing trails."""
    certificate_list = asn1_crl.CertificateList.load(crl_der, strict=True)
    assert certificate_list["tbs_cert_list"].native is not None  # parses every field below
    tbs_der = certificate_list["tbs_cert_list"].dump()
    assert asn1_crl.TbsCertList.load(tbs_der, strict=True).dump(force=True) == tbs_der
    return certificate_list


def pem_of(crl_der: bytes) -> str:
    """Armour a CRL for the programs that take nothing else."""
    lines = base64.encodebytes(crl_der).decode().replace("\n", "")
    body = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n"


@cache
def _pkilint(kind: str, profile: str) -> Any:
    # As pkilint's own command `lint_crl lint -t KIND -p PROFILE` puts it together.
    crl_type = pkilint_crl.CertificateRevocationListType[kind]
    is_br = profile == "BR"
    validity = [cabf_crl.create_validity_period_validator(crl_type)] if is_br else []
    return pkilint_crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            pkilint_crl.create_issuer_validator_container([]),
            pkilint_crl.create_validity_validator_container(validity),
            pkilint_crl.create_extensions_validator_container([]),
            *([cabf_crl.CabfCrlReasonCodeAllowlistValidator(crl_type)] if is_br else []),
        ],
    )


def pkilint(crl_der: bytes, kind: str = "CRL", profile: str = "BR") -> list[str]:
    """Return pkilint's findings of notice and above, as ``severity code message``; ``kind``: CRL or ARL."""
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(crl_der, "crl")
    return [
        f"{found.finding.severity.name} {found.finding.code} {found.message or ''}".strip()
        for result in _pkilint(kind, profile).validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= ValidationFindingSeverity.NOTICE  # FATAL is 0
    ]


def openssl_verify(
    ca: Path,
    certificate: Path,
    crls: Sequence[Path],
    at: int,
    *,
    extended: bool = True,
    deltas: bool = True,
    untrusted: Path | None = None,
    download: bool = False,
) -> int:
    """Verify a certificate with these CRLs (PEM) at a time; returns X509_V_OK (0) or the error of its first complaint.

    ``untrusted``: a certificate that helps to build paths, such as that of a CRL's issuer. ``download``: it fetches the CRL that
    the certificate names.
    """
    need("openssl")
    options = ["-crl_check", *(["-extended_crl"] if extended else []), *(["-use_deltas"] if deltas else [])]
    given = [word for path in crls for word in ("-CRLfile", path)]
    if download:
        options.append("-crl_download")
    if untrusted is not None:
        given += ["-untrusted", untrusted]
    said = run("openssl", "verify", *options, "-attime", str(at), "-CAfile", ca, *given, certificate)
    if said.strip() == f"{certificate}: OK":
        return 0
    assert "error " in said, said
    return int(said.partition("error ")[2].split(" ")[0])


def openssl_reads(ca: Path, crl: Path) -> str:
    """Return what ``openssl crl`` prints of a CRL in DER; its signature must verify."""
    need("openssl")
    said = run("openssl", "crl", "-inform", "DER", "-in", crl, "-CAfile", ca, "-verify", "-noout", "-text")
    assert "verify OK" in said, said  # the exit code says nothing
    return said


def certtool_verifies(ca: Path, crl_pem: Path) -> bool:
    """Say whether GnuTLS finds a CRL's signature good."""
    need("certtool")
    said = run("certtool", "--verify-crl", "--load-ca-certificate", ca, "--infile", crl_pem)
    assert "Verification output:" in said, said
    return "Verification output: Verified." in said


def certtool_accepts(ca: Path, certificate: Path, crl_pem: Path) -> bool:
    """Say whether GnuTLS believes a certificate, given a CRL; False: it is revoked."""
    need("certtool")
    said = run("certtool", "--verify", "--load-ca-certificate", ca, "--load-crl", crl_pem, "--infile", certificate)
    assert "Chain verification output: Verified." in said or "is revoked" in said, said
    return "is revoked" not in said


class NSS:
    """A database of NSS that trusts one CA."""

    def __init__(self, directory: Path, ca: Path) -> None:
        need("certutil", "crlutil")
        directory.mkdir()
        self._database = f"sql:{directory}"
        assert run("certutil", "-N", "-d", self._database, "--empty-password") == ""
        run("certutil", "-A", "-d", self._database, "-n", "ca", "-t", "CT,C,C", "-a", "-i", ca)

    def import_crl(self, crl: Path) -> str:
        """Import a CRL in DER; returns the complaint, empty where it was taken."""
        return run("crlutil", "-I", "-i", crl, "-d", self._database).strip()

    def check(self, name: str, certificate: Path) -> str:
        """Return what NSS says of a certificate."""
        run("certutil", "-A", "-d", self._database, "-n", name, "-t", ",,", "-a", "-i", certificate)
        return run("certutil", "-V", "-d", self._database, "-n", name, "-u", "V").strip()


def java(plan: Iterable[Sequence[object]], directory: Path, *properties: str) -> dict[str, str]:
    """Have the JDK go through a plan (tests/clients/CrlCheck.java) in one run; returns what it found by case."""
    need("java", "javac")
    file = directory / "plan.tsv"
    file.write_text("".join("\t".join(map(str, case)) + "\n" for case in plan))
    source = Path(__file__).parent / "clients" / "CrlCheck.java"
    said = run("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", *(f"-D{one}" for one in properties), source, file)
    found = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    assert len(found) == len(file.read_text().splitlines()), said
    return found
