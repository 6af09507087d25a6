"""Prints rows as ``certutil -view`` does: text or CSV, in the words and dates of a language. For tests.

The layout is that of real dumps: labels are translated, codes and the order of columns are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

LABELS = {
    "en": (
        "Row",
        [
            "Issued Request ID",
            "Request Disposition",
            "Serial Number",
            "Certificate Effective Date",
            "Certificate Expiration Date",
            "Issuer Name ID",
            "Revocation Date",
            "Effective Revocation Date",
            "Revocation Reason",
            "Binary Certificate",
        ],
    ),
    "de": (
        "Zeile",
        [
            "Ausgestellte Anforderungs-ID",
            "Anforderungsdisposition",
            "Seriennummer",
            "Anfangsdatum des Zertifikats",
            "Ablaufdatum des Zertifikats",
            "Ausstellernamenkennung",
            "Sperrdatum",
            "Gültiges Sperrdatum",
            "Sperrungsgrund",
            "Binäres Zertifikat",
        ],
    ),
}
NAMES = [
    "RequestID",
    "Request.Disposition",
    "SerialNumber",
    "NotBefore",
    "NotAfter",
    "IssuerNameID",
    "Request.RevokedWhen",
    "Request.RevokedEffectiveWhen",
    "Request.RevokedReason",
    "RawCertificate",
]
FORMATS = {
    "us": "%-m/%-d/%Y %-I:%M %p",
    "us-gmt-seconds": "%-m/%-d/%Y %-I:%M %p %-S.000s GMT",
    "de": "%d.%m.%Y %H:%M",
    "gb": "%d/%m/%Y %H:%M",
    "iso": "%Y-%m-%d %H:%M:%S",
    "zh": "%Y/%-m/%-d %p %-I:%M",
    "thai": "%d/%m/25%y %H:%M",  # the Buddhist calendar: another year
}


@dataclass
class Printed:
    """One row of the database; ``raw`` replaces columns, by number, by what is to stand there."""

    certificate: x509.Certificate
    disposition: int = 20
    revoked: datetime | None = None
    effective: datetime | None = None
    reason: int | None = None
    issuer_name_id: int = 0
    raw: dict[int, str] = field(default_factory=dict)


@dataclass
class Printer:
    """certutil on one machine."""

    language: str = "en"
    date_format: str = "us-gmt-seconds"
    zone: tzinfo = UTC
    csv: bool = False
    schema: bool = False
    certificates: bool = True
    ending: str = "CertUtil: -view command completed successfully.\r\n"

    def date(self, moment: datetime | None) -> str:
        """Print a date."""
        if moment is None:
            return '"EMPTY"' if self.csv else "EMPTY"
        text = moment.astimezone(self.zone).strftime(FORMATS[self.date_format])
        if self.date_format == "zh":
            text = text.replace("AM", "上午").replace("PM", "下午")
        return f'"{text}"' if self.csv else text

    def columns(self, number: int, row: Printed) -> list[str]:
        """Print one row's columns."""
        start = "" if self.csv else "0x"
        words = {20: "Issued", 21: "Revoked", 9: "Pending", 31: "Denied"}.get(row.disposition, "?")
        code = f"{row.disposition}" if self.csv else f"{row.disposition:#x} ({row.disposition})"
        size = len(row.certificate.public_bytes(Encoding.DER))
        pem = row.certificate.public_bytes(Encoding.PEM).decode().replace("\n", "\r\n")
        empty = "EMPTY"
        cells = [
            f"{start}{number:x}" if not self.csv else str(number),
            f"{code} -- {words}",
            f'"{row.certificate.serial_number:x}"' if not self.csv else f"{row.certificate.serial_number:x}",
            self.date(row.certificate.not_valid_before_utc),
            self.date(row.certificate.not_valid_after_utc),
            f"{start}{row.issuer_name_id:x} CA Version 0.0" if not self.csv else str(row.issuer_name_id),
            self.date(row.revoked),
            self.date(row.effective),
            empty if row.reason is None else f"{start}{row.reason:x} -- Reason: Something",
            (f"{size} Bytes" if self.csv else f"\r\n{pem.rstrip()}") if self.certificates else empty,
        ]
        for at, text in row.raw.items():
            cells[at] = text
        return [cell if not self.csv or cell.startswith('"') else f'"{cell}"' for cell in cells]

    def print(self, rows: list[Printed]) -> str:
        """Print the whole dump."""
        word, labels = LABELS[self.language]
        if self.csv:
            lines = [",".join(f'"{label}"' for label in labels)]
            lines += [",".join(self.columns(number, row)) for number, row in enumerate(rows, 1)]
            return "\r\n".join(lines) + "\r\n" + self.ending
        text = ""
        if self.schema:
            text = "Schema:\r\n  Column Name                   Localized Name                Type    MaxLength\r\n"
            text += "  ----------------------------  ----------------------------  ------  ---------\r\n"
            text += "".join(
                f"  {name:29} {label:29} Long    4 -- Indexed\r\n" for name, label in zip(NAMES, labels, strict=True)
            )
        for number, row in enumerate(rows, 1):
            text += f"\r\n{word} {number}:\r\n"
            text += "".join(
                f"  {label}: {cell}\r\n" for label, cell in zip(labels, self.columns(number, row), strict=True)
            )
        return (
            text
            + f"\r\nMaximum Row Index: {len(rows)}\r\n\r\n{len(rows)} Rows\r\n  40 Row Properties, Total Size = 900\r\n"
            + self.ending
        )


PACIFIC = timezone(timedelta(hours=-7))
