"""Makes the quickstart's CA: an OpenSSL-style directory with certificates, a delegated OCSP signer and a config.

Nothing here is used by the responder itself. The layout is that of ``openssl ca``: ``ca.pem``, ``ca.key``,
``index.txt``, ``newcerts/SERIAL.pem``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

# As `openssl ca -revoke -crl_reason …` writes them into index.txt; None: revoked without a reason.
INDEX_REASONS = (
    None,
    "unspecified",
    "keyCompromise",
    "CACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "holdInstruction,holdInstructionReject",
    "keyTime,20260102030405Z",
    "CAkeyTime,20260102030405Z",
)
REVOKED_EVERY = 10
EXPIRED_EVERY = 25
CA_DAYS = 3650
SIGNER_DAYS = 90
CERTIFICATE_DAYS = 397


@dataclass(frozen=True, slots=True)
class DemoCA:
    """Where a demo CA is, and one serial of each kind to ask for."""

    directory: Path
    config: Path
    good_serial: str
    revoked_serial: str


def make_demo_ca(directory: Path, certificates: int, listen: str, progress: Callable[[int], None]) -> DemoCA:
    """Make the CA in ``directory``, which must not hold one; ``progress`` hears of each certificate made."""
    now = datetime.now(UTC).replace(microsecond=0)
    (directory / "newcerts").mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Revocast Quickstart"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Quickstart CA"),
        ]
    )
    # The certificates' own validity: some have expired, and the CA is older than all of them.
    ca_certificate = (
        _builder(ca_name, ca_name, ca_key.public_key(), now - timedelta(days=800), now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True, digital_signature=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_certificate(directory / "ca.pem", ca_certificate)
    _write_key(directory / "ca.key", ca_key)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    _make_signer(directory, ca_name, ca_key, authority, now)

    url = f"http://{listen}/"
    crl_url = x509.UniformResourceIdentifier(f"{url}crl/quickstart.crl")
    crl_points = x509.CRLDistributionPoints([x509.DistributionPoint([crl_url], None, None, None)])
    leaf_key = ec.generate_private_key(ec.SECP256R1())  # one key for all: it is a demo, and keys take time
    lines: list[str] = []
    good = revoked = ""
    for number in range(certificates):
        expired = number % EXPIRED_EVERY == EXPIRED_EVERY - 1
        end = now - timedelta(days=1 + number % 20) if expired else now + timedelta(days=CERTIFICATE_DAYS - number % 30)
        start = end - timedelta(days=CERTIFICATE_DAYS)
        name = f"host-{number:06d}.quickstart.example.com"
        certificate = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca_name, leaf_key.public_key(), start, end
            )
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(
                x509.AuthorityInformationAccess(
                    [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))]
                ),
                critical=False,
            )
            .add_extension(crl_points, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        serial = _index_serial(certificate.serial_number)
        _write_certificate(directory / "newcerts" / f"{serial}.pem", certificate)
        revocation = ""
        if number % REVOKED_EVERY == REVOKED_EVERY - 1:
            reason = INDEX_REASONS[(number // REVOKED_EVERY) % len(INDEX_REASONS)]
            revoked_at = max(start, min(end, now) - timedelta(days=1 + number % 50))
            revocation = _index_time(revoked_at) + (f",{reason}" if reason else "")
            if not revoked and not expired and reason == "keyCompromise":
                revoked = serial
        elif not good and not expired:
            good = serial
        status = "R" if revocation else "V"
        lines.append(f"{status}\t{_index_time(end)}\t{revocation}\t{serial}\tunknown\t/CN={name}\n")
        progress(number + 1)
    (directory / "index.txt").write_text("".join(lines))
    (directory / "index.txt.attr").write_text("unique_subject = no\n")
    config = directory / "revocast.toml"
    config.write_text(_config_text(listen))
    return DemoCA(directory, config, good, revoked or _first_revoked(lines))


def find_demo_ca(directory: Path) -> DemoCA:
    """Look at a demo CA that is there already; the serials are the first of each kind in its index."""
    lines = (directory / "index.txt").read_text().splitlines()
    today = _index_time(datetime.now(UTC))
    good = next((row[3] for line in lines if (row := line.split("\t"))[0] == "V" and row[1] > today), "")
    return DemoCA(directory, directory / "revocast.toml", good, _first_revoked(lines))


def _first_revoked(lines: list[str]) -> str:
    rows = [line.split("\t") for line in lines if line.startswith("R\t")]
    today = _index_time(datetime.now(UTC))
    named = [row[3] for row in rows if "," in row[2] and row[1] > today]
    return named[0] if named else rows[0][3] if rows else ""


def _make_signer(
    directory: Path,
    ca_name: x509.Name,
    ca_key: ec.EllipticCurvePrivateKey,
    authority: x509.AuthorityKeyIdentifier,
    now: datetime,
) -> None:
    # CA/B Forum BR §7.1.2.8: only OCSPSigning, only digitalSignature, nocheck, no SAN, no CRL distribution point.
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Quickstart OCSP signer")])
    certificate = (
        _builder(name, ca_name, key.public_key(), now - timedelta(hours=1), now + timedelta(days=SIGNER_DAYS))
        .add_extension(authority, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
        .add_extension(x509.OCSPNoCheck(), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_certificate(directory / "ocsp.pem", certificate)
    _write_key(directory / "ocsp.key", key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(secrets.token_bytes(16), "big") >> 1 or 1)
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _index_serial(serial: int) -> str:
    """Spell a serial as index.txt does: upper-case hex of an even number of digits."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else "0" + text


def _index_time(moment: datetime) -> str:
    return moment.strftime("%y%m%d%H%M%SZ")


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _config_text(listen: str) -> str:
    return f"""\
# The quickstart's configuration; docs/configuration.md explains every key.
data_dir = "state"

[http]
listen = ["{listen}"]
workers = 2

[log]
level = "warning"
format = "console"

[[ca]]
name = "quickstart"
certificate = "ca.pem"
source = {{ type = "openssl", path = "index.txt" }}
ocsp = {{ certificate = "ocsp.pem", key = "ocsp.key", validity = "4d" }}
crl = {{ issue = true, key = "ca.key", validity = "7d", every = "12h", delta_every = "1h", shards = 1, url = "http://{listen}/crl/quickstart.crl" }}
"""
