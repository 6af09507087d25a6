"""What every CA system spells in its own way, and the store in one: reasons and dates.

RFC 5280 §5.3.1 (CRLReason), §4.1.2.5 (dates). Knows no source. Called by the loaders, a million times in a load: the
tables remember what they have read, so that the usual date costs two look-ups.
"""

from __future__ import annotations

import re
from datetime import date
from typing import NoReturn

from responder.model import REASON_NAMES, CRLReason

MAX_REMEMBERED = 100_000  # days; 270 years of them. A file of nonsense must not fill the memory
FIRST_YEAR = 1950  # the first that UTCTime can say; no X.509 certificate ended before

_SEPARATORS = str.maketrans("", "", "_- ")
_REASONS = {name.lower(): reason for reason, name in REASON_NAMES.items()} | {
    # EJBCA, Google CAS, OpenSSL's database, in that order
    "privilegeswithdrawn": CRLReason.PRIVILEGE_WITHDRAWN,
    "certificateauthoritycompromise": CRLReason.CA_COMPROMISE,
    "attributeauthoritycompromise": CRLReason.AA_COMPROMISE,
    "keytime": CRLReason.KEY_COMPROMISE,
    "cakeytime": CRLReason.CA_COMPROMISE,
    "holdinstruction": CRLReason.CERTIFICATE_HOLD,
}


def reason_from_name(name: str) -> CRLReason:
    """Return the CRLReason that a CA system means by ``name``, whatever its case and separators.

    ``removeFromCRL`` comes back as such: its certificate is not revoked. Raises ValueError for an unknown name.
    """
    reason = _REASONS.get(name.translate(_SEPARATORS).lower())
    if reason is None:
        raise ValueError(f"unknown revocation reason {name!r}")
    return reason


def reason_word(reason: CRLReason) -> str:
    """Return the reason as a word of a status text with the space before it, such as `` keyCompromise``.

    Empty for unspecified: RFC 5280 §5.3.1 wants that left out, and then there is no reason in the status either.
    """
    return "" if reason is CRLReason.UNSPECIFIED else " " + reason.asn1_name


def _refuse(text: bytes) -> NoReturn:
    raise ValueError(f"not a date of the form YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ: {text.decode('ascii', 'replace')!r}")


class _Days(dict[bytes, str]):
    """YYMMDD or YYYYMMDD → the start of a date as the store spells it, such as ``2029-02-25T``."""

    def __missing__(self, digits: bytes) -> str:
        if not digits.isdigit() or len(digits) not in (6, 8):
            _refuse(digits)
        year = int(digits[:-4])
        if len(digits) == 6:
            # RFC 5280 §4.1.2.5.1: where YY is 50 or more, the year is 19YY; below it is 20YY.
            year += 2000 if year < 50 else 1900
        if year < FIRST_YEAR:
            raise ValueError(f"a date before {FIRST_YEAR}: {digits.decode()!r}")
        try:
            day = date(year, int(digits[-4:-2]), int(digits[-2:]))
        except ValueError as error:
            raise ValueError(f"no such day: {digits.decode()!r}") from error
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        text = self[digits] = f"{day.year:04d}-{day.month:02d}-{day.day:02d}T"
        return text


class _Times(dict[bytes, str]):
    """HHMMSSZ → the end of a date as the store spells it, such as ``15:45:52Z``; 86 400 at most."""

    def __missing__(self, text: bytes) -> str:
        if not re.fullmatch(rb"([01][0-9]|2[0-3])([0-5][0-9]){2}Z", text):
            _refuse(text)
        value = self[text] = f"{text[:2].decode()}:{text[2:4].decode()}:{text[4:].decode()}"
        return value


DAYS = _Days()
TIMES = _Times()


def date_text(text: bytes) -> str:
    """Spell ``290225154552Z`` or ``20591001154649Z`` as ``2029-02-25T15:45:52Z``; raises ValueError for all else."""
    return DAYS[text[:-7]] + TIMES[text[-7:]]


def generalized_time_text(text: bytes) -> str:
    """Spell ``20591001154649Z`` as ``2059-10-01T15:46:49Z``; the two-digit year is refused here."""
    if len(text) != 15:
        raise ValueError(f"not a date of the form YYYYMMDDHHMMSSZ: {text.decode('ascii', 'replace')!r}")
    return date_text(text)
