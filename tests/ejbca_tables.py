"""EJBCA's tables as its scripts make them (column types of 8.2), and rows in them. Called by tests and benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509

_COLUMNS = """fingerprint {text} NOT NULL, {base64Cert} cAFingerprint {text}, certificateProfileId {int} NOT NULL,
 endEntityProfileId {int}, crlPartitionIndex {int}, expireDate {long} NOT NULL, issuerDN {text} NOT NULL,
 notBefore {long}, invalidityDate {long}, revocationDate {long} NOT NULL, revocationReason {int} NOT NULL,
 rowProtection {lob}, rowVersion {int} NOT NULL, serialNumber {text} NOT NULL, status {int} NOT NULL,
 subjectAltName {text}, subjectDN {text} NOT NULL, subjectKeyId {text}, accountBindingId {text}, tag {text},
 type {int} NOT NULL, updateTime {long} NOT NULL, username {text}, certificateRequest {lob}"""
_TYPES = {
    "postgresql": {"text": "TEXT", "int": "INT4", "long": "INT8", "lob": "TEXT"},
    "mariadb": {"text": "VARCHAR(250) BINARY", "int": "INT(11)", "long": "BIGINT(20)", "lob": "LONGTEXT"},
}
_NAMES = [
    "fingerprint",
    "base64Cert",
    "cAFingerprint",
    "certificateProfileId",
    "expireDate",
    "issuerDN",
    "invalidityDate",
    "revocationDate",
    "revocationReason",
    "rowVersion",
    "serialNumber",
    "status",
    "subjectDN",
    "type",
    "updateTime",
    "tag",
]
FAR = 1_924_991_999_000  # 2030-12-31T23:59:59Z, milliseconds


def create(engine: sa.Engine) -> None:
    """Make the tables, with the indexes that EJBCA's documentation recommends."""
    kinds = _TYPES["postgresql" if engine.dialect.name == "postgresql" else "mariadb"]
    tail = "" if engine.dialect.name == "postgresql" else " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    lob = kinds["lob"]
    columns = _COLUMNS.format(**kinds, base64Cert=f"base64Cert {lob},")
    statements = [
        f"CREATE TABLE CertificateData ({columns}, PRIMARY KEY (fingerprint)){tail}",
        f"CREATE TABLE NoConflictCertificateData (id {kinds['text']} NOT NULL, {columns}, PRIMARY KEY (id)){tail}",
        f"CREATE TABLE Base64CertData (fingerprint {kinds['text']} NOT NULL, base64Cert {lob}, rowProtection {lob}, "
        f"rowVersion {kinds['int']} NOT NULL, certificateRequest {lob}, PRIMARY KEY (fingerprint)){tail}",
        f"CREATE TABLE CAData (cAId {kinds['int']} NOT NULL, data {lob} NOT NULL, expireTime {kinds['long']} NOT NULL, "
        f"name {kinds['text']}, rowProtection {lob}, rowVersion {kinds['int']} NOT NULL, status {kinds['int']} NOT NULL, "
        f"subjectDN {kinds['text']}, updateTime {kinds['long']} NOT NULL, PRIMARY KEY (cAId)){tail}",
        "CREATE INDEX certificatedata_idx11 ON CertificateData (subjectDN)",
        "CREATE UNIQUE INDEX certificatedata_idx12 ON CertificateData (serialNumber, issuerDN)",
        "CREATE INDEX certificatedata_idx_upd ON CertificateData (updateTime)",
    ]
    if engine.dialect.name != "postgresql":
        statements = [
            statement.replace("(serialNumber, issuerDN)", "(serialNumber(100), issuerDN(100))")
            for statement in statements
        ]
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def row(ca: str, issuer: str, serial: str, **values: Any) -> dict[str, Any]:
    """Return a row of an active end entity's certificate. ``ca``: fingerprint of the issuer's certificate."""
    return {
        "fingerprint": hashlib.sha1(f"{issuer};{serial}".encode(), usedforsecurity=False).hexdigest(),
        "base64Cert": None,
        "cAFingerprint": ca,
        "certificateProfileId": 1,
        "expireDate": FAR,
        "issuerDN": issuer,
        "invalidityDate": None,
        "revocationDate": -1,
        "revocationReason": -1,
        "rowVersion": 0,
        "serialNumber": serial,
        "status": 20,
        "subjectDN": "CN=x",
        "type": 1,
        "updateTime": 1_794_000_000_000,
        "tag": None,
    } | values


def certificate_row(
    certificate: x509.Certificate, ca: x509.Certificate, issuer: str, subject: str, **values: Any
) -> dict[str, Any]:
    """Return the row of a certificate, which stands in it in base64 with line breaks."""
    from base64 import encodebytes

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    der = certificate.public_bytes(Encoding.DER)
    return row(
        ca.fingerprint(hashes.SHA1()).hex(),
        issuer,
        str(certificate.serial_number),
        fingerprint=hashlib.sha1(der, usedforsecurity=False).hexdigest(),
        base64Cert=encodebytes(der).decode(),
        expireDate=int(certificate.not_valid_after_utc.timestamp()) * 1000,
        subjectDN=subject,
        **values,
    )


def insert(engine: sa.Engine, rows: Sequence[dict[str, Any]], table: str = "CertificateData") -> None:
    """Put rows in."""
    if not rows:
        return
    names = [*(["id"] if table.startswith("NoConflict") else []), *_NAMES]
    marks = ", ".join(":" + name for name in names)
    with engine.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"), list(rows))  # noqa: S608
