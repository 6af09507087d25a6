"""What a database driver, or a file of text, hands over for a column → what loaders/entries.py makes rows of.

Nothing is guessed: the base of a serial, the unit and the zone of a time are declared by whoever knows the source. Every
function raises ValueError with a short reason for what it cannot read. Called by the loaders of databases and of delimited
files. Times are POSIX seconds UTC.
"""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import date, datetime, time
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from cryptography import x509

from loaders.entries import (
    checked_serial,
    reason_from_code,
    seconds_from_datetime,
    seconds_from_iso,
    serial_from_decimal,
    serial_from_hex,
)
from loaders.normalize import generalized_time_text, reason_from_name
from loaders.ownership import parse_certificate, parse_pem_certificate
from responder.clock import parse_utc
from responder.model import CRLReason

SerialBase = Literal["dec", "hex"]
TimeForm = Literal["s", "ms", "iso"]

MAX_SHOWN = 60  # characters of a value in a reason why it was rejected
MAX_TEXT = 4096  # characters of a serial, a time or a reason; a certificate has its own bound
_NUMBER = re.compile(r"-?[0-9]{1,18}")


def shown(value: object) -> str:
    """Spell a value for a reason: one short line of ASCII, whatever it is."""
    text = ascii(value[: 2 * MAX_SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def text_of(value: object) -> str:
    """Return what a column says as text, without blanks around it; raises ValueError for what is no UTF-8."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        try:
            text = data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"is no UTF-8: {shown(data)}") from error
    else:
        text = str(value).strip()
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text)} characters, of which {MAX_TEXT} would be many: {shown(text)}")
    return text


def serial_octets(value: object, base: SerialBase) -> bytes:
    """Read a serial as DER INTEGER contents octets. Hexadecimal digits may stand apart by colons, blanks or hyphens."""
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    if value is None or isinstance(value, (bool, float, Decimal)):
        # Of a float the last digits are lost already.
        raise ValueError(f"the serial {shown(value)} is no whole number")
    if isinstance(value, int):
        if base == "hex":
            raise ValueError(f"the serial {shown(value)} is a number, where hexadecimal digits were declared")
        return checked_serial(value)
    text = text_of(value)
    if base == "dec":
        return serial_from_decimal(text)
    return serial_from_hex(text.removeprefix("0x").removeprefix("0X"), ": -" if not text.startswith("-") else ": ")


def seconds_of(value: object, form: TimeForm, zone: ZoneInfo | None = None) -> int:
    """Read a time. ``zone``: of a date that names none; None: UTC. A driver's date is taken in whatever form."""
    if isinstance(value, date):
        value = value if isinstance(value, datetime) else datetime.combine(value, time())
        return seconds_from_datetime(_in_zone(value, zone))
    if form == "iso":
        return _seconds_from_text(text_of(value), zone)
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        text = text_of(value)
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{shown(text)} is no number of {'seconds' if form == 's' else 'milliseconds'}")
        value = int(text)
    if isinstance(value, Decimal | float):
        try:
            value = int(value)
        except (ValueError, ArithmeticError):  # not a number, infinite
            value = None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is no time")
    return value if form == "s" else value // 1000


def _in_zone(value: datetime, zone: ZoneInfo | None) -> datetime:
    return value.replace(tzinfo=zone) if zone is not None and value.tzinfo is None else value


def _seconds_from_text(text: str, zone: ZoneInfo | None) -> int:
    if re.fullmatch(r"[0-9]{14}Z", text):
        return parse_utc(generalized_time_text(text.encode()))
    if zone is None:
        return seconds_from_iso(text)
    try:
        return seconds_from_datetime(_in_zone(datetime.fromisoformat(text), zone))
    except (ValueError, OverflowError):
        raise ValueError(f"not a date of RFC 3339: {shown(text)}") from None


def reason_of(value: object) -> CRLReason:
    """Read a CRLReason by its number or by the name that any CA system gives it; nothing is *unspecified*."""
    if value is None or value == "":
        return CRLReason.UNSPECIFIED
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, int):
        return reason_from_code(value)
    text = text_of(value)
    if _NUMBER.fullmatch(text):
        return reason_from_code(int(text))
    try:
        return reason_from_name(text)
    except ValueError:
        raise ValueError(f"unknown revocation reason {shown(text)}") from None


def certificate_of(value: object) -> x509.Certificate:
    """Read a certificate: DER, PEM, or the DER in base64, with line breaks or without."""
    if isinstance(value, str):
        value = value.encode("ascii", "replace")
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ValueError(f"{shown(value)} is no certificate")
    data = bytes(value)
    if b"-----BEGIN" in data[:4096]:
        return parse_pem_certificate(data)
    if data[:1] != b"\x30":
        try:
            data = b64decode(data)
        except ValueError as error:
            raise ValueError(f"neither DER, PEM nor base64: {shown(data)}") from error
    return parse_certificate(data)
