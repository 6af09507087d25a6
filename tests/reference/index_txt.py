"""The obvious, slow reader of index.txt: octet by octet, with datetime; shares no code with loaders/.

What it returns is what the format means, line by line, so that the fast reader can be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

REASONS = {
    "unspecified": 0,
    "keycompromise": 1,
    "cacompromise": 2,
    "affiliationchanged": 3,
    "superseded": 4,
    "cessationofoperation": 5,
    "certificatehold": 6,
    "removefromcrl": 8,
    "privilegewithdrawn": 9,
    "privilegeswithdrawn": 9,
    "aacompromise": 10,
    "attributeauthoritycompromise": 10,
    "certificateauthoritycompromise": 2,
    "holdinstruction": 6,
    "keytime": 1,
    "cakeytime": 2,
}


@dataclass(frozen=True)
class Said:
    """What a line says. ``status``: good, revoked, released, or None where it cannot be understood."""

    number: int
    serial_number: int | None
    status: str | None
    doubtful: bool
    not_after: datetime | None = None
    revoked_at: datetime | None = None
    reason: int | None = None
    invalidity_date: datetime | None = None


def split_columns(line: bytes) -> list[bytes]:
    """Divide as TXT_DB_read does: at each TAB that no backslash precedes."""
    columns = [b""]
    previous = b""
    for value in line:
        octet = bytes([value])
        if octet == b"\t" and previous != b"\\":
            columns.append(b"")
        else:
            columns[-1] += octet
        previous = octet
    return columns


def read_date(text: bytes, *, long_only: bool = False) -> datetime | None:
    """Read a date; None for anything that is not one."""
    digits = text[:-1]
    if text[-1:] != b"Z" or not digits or any(octet not in b"0123456789" for octet in digits):
        return None
    if len(digits) == 12 and not long_only:
        digits = (b"20" if int(digits[:2]) < 50 else b"19") + digits
    if len(digits) != 14:
        return None
    parts = [int(digits[:4])] + [int(digits[at : at + 2]) for at in range(4, 14, 2)]
    try:
        found = datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return None
    return found if found.year >= 1950 else None


def read_serial(text: bytes) -> int | None:
    """Read a serial; None for anything that is not one."""
    digits = text.removeprefix(b"-")
    if not digits or len(digits) % 2 or len(text) > 256 or text == b"-00":
        return None
    if any(octet not in b"0123456789abcdefABCDEF" for octet in digits):
        return None
    return int(digits, 16) * (-1 if text[:1] == b"-" else 1)


def read_line(number: int, line: bytes) -> Said | None:
    """Read one line; None for one that says nothing."""
    if line.strip() == b"" or line[:1] == b"#":
        return None
    columns = split_columns(line)
    if len(columns) != 6:
        return Said(number, None, None, doubtful=True)
    status, expiry, revocation, serial = columns[:4]
    serial_number = read_serial(serial)
    if serial_number is None:
        return Said(number, None, None, doubtful=True)
    unclear = Said(number, serial_number, None, doubtful=True)
    not_after = read_date(expiry)
    if status in (b"V", b"E"):
        if not_after is None or revocation != b"":
            return unclear
        return Said(number, serial_number, "good", doubtful=False, not_after=not_after)
    if status not in (b"R", b"S"):
        return unclear
    date, *rest = revocation.split(b",", 2)
    revoked_at = read_date(date)
    if revoked_at is not None and revoked_at.year < 1970:
        revoked_at = None
    doubtful = not_after is None or revoked_at is None
    reason, invalidity_date = 0, None
    if rest and revoked_at is not None:
        keyword = rest[0].decode("utf-8", "replace")
        folded = "".join(sign for sign in keyword if sign not in "_- ").lower()
        known = REASONS.get(folded)
        if known is None:
            doubtful = True
        else:
            reason = known
            argument = rest[1] if len(rest) == 2 else None
            if keyword.lower() in ("keytime", "cakeytime"):
                invalidity_date = read_date(argument or b"", long_only=True)
                doubtful = doubtful or invalidity_date is None
            elif keyword.lower() == "holdinstruction":
                doubtful = doubtful or not argument
            else:
                doubtful = doubtful or argument is not None
    if reason == 8:
        if doubtful:
            return unclear
        return Said(number, serial_number, "released", doubtful=False, not_after=not_after)
    if status == b"S":
        reason = 6
    return Said(number, serial_number, "revoked", doubtful, not_after, revoked_at, reason, invalidity_date)


def read_index(data: bytes) -> list[Said]:
    """Read a whole file in which every line is ended."""
    found = (read_line(number, line) for number, line in enumerate(data.split(b"\n")[:-1], 1))
    return [said for said in found if said is not None]
