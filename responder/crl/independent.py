"""A CRL parsed a second time, by code that is not ours: cryptography's, in flat memory.

For the checks before publication. Its parser wants the whole CRL at once, so it is given the CRL in pieces: some entries at a
time under the CRL's own head, and head and extensions alone. Shares nothing with reader.py; only where one entry ends and
the next begins is fastpath's, and a wrong end is no CRL to the parser.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fastpath.crl_decode import EntryError, split_entries
from responder.errors import CRLError

PIECE_OCTETS = 1 << 18


@dataclass(frozen=True, slots=True)
class Parsed:
    """What cryptography makes of a CRL. ``crl`` has its head, extensions and signature, and no entries."""

    crl: x509.CertificateRevocationList
    entries: int


def independent_parse(path: Path) -> Parsed:
    """Parse a CRL in DER, strictly and to its last octet; raises CRLError, one line.

    Of each piece the first entry is read in full, with its extensions; of the others the parser has checked the structure.
    """
    try:
        with path.open("rb") as file:
            return _parse(file.fileno())
    except OSError as error:
        raise CRLError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (
        ValueError,
        TypeError,
        EntryError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ) as error:
        raise CRLError(f"{path}: {' '.join(str(error).split())}") from error


def _parse(file: int) -> Parsed:
    size = os.fstat(file).st_size
    _, tbs, end = _header(file, 0, 0x30)
    if end != size:
        raise ValueError(f"{size - end} octets behind the CRL" if end < size else "it is cut off")
    _, at, tbs_end = _header(file, tbs, 0x30)
    tbs_contents = at
    revoked = (at, at)
    # version, signature, issuer, thisUpdate, nextUpdate, then SEQUENCE of entries, [0] extensions
    seen_time = False
    head_end = at
    while at < tbs_end:
        tag, contents, end = _header(file, at)
        if tag in (0x17, 0x18):
            seen_time = True
        elif seen_time:
            break
        at = head_end = end
    if at < tbs_end and tag == 0x30:
        revoked, at = (contents, end), end
    head = os.pread(file, head_end - tbs_contents, tbs_contents)
    extensions = os.pread(file, tbs_end - at, at)
    behind = os.pread(file, size - tbs_end, tbs_end)
    crl = _crl(head, b"", extensions, behind)
    _ = (crl.extensions, crl.issuer, crl.last_update_utc, crl.next_update_utc)
    count = 0
    for piece in split_entries(_blocks(file, *revoked), revoked[1] - revoked[0]):
        part = _crl(head, piece, extensions, behind)
        count += len(part)
        first = next(iter(part))  # by index, all of them would be read again
        _ = (first.serial_number, first.revocation_date_utc, first.extensions)
    return Parsed(crl, count)


def _crl(head: bytes, entries: bytes, extensions: bytes, behind: bytes) -> x509.CertificateRevocationList:
    listed = _length(0x30, len(entries)) + entries if entries else b""
    tbs = head + listed + extensions
    whole = _length(0x30, len(tbs)) + tbs + behind
    return x509.load_der_x509_crl(_length(0x30, len(whole)) + whole)


def _length(tag: int, size: int) -> bytes:
    octets = size.to_bytes(4, "big").lstrip(b"\x00")
    return bytes((tag, size)) if size < 0x80 else bytes((tag, 0x80 + len(octets))) + octets


def _header(file: int, at: int, tag: int | None = None) -> tuple[int, int, int]:
    """Read an element's tag, and where its contents begin and end."""
    octets = os.pread(file, 6, at)
    if len(octets) < 2 or (tag is not None and octets[0] != tag):
        raise ValueError(f"no element of a CRL at octet {at}")
    if octets[1] < 0x80:
        return octets[0], at + 2, at + 2 + octets[1]
    more = octets[1] & 0x7F
    size = int.from_bytes(octets[2 : 2 + more], "big")
    if not 1 <= more <= 4 or _length(octets[0], size) != octets[: 2 + more]:
        raise ValueError(f"the length at octet {at} is not DER")
    return octets[0], at + 2 + more, at + 2 + more + size


def _blocks(file: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (block := os.pread(file, min(PIECE_OCTETS, end - start), start)):
        yield block
        start += len(block)
