"""Builds a CRL as a file: entries as they come, then head, extensions and signature, in flat memory.

RFC 5280 §5.1. A CRL's first octets say how long it is, which is known last: so room is left for them. What stands in the file is
then hashed and signed. Nothing here decides what a CRL says: see publisher and checks.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastpath.crl_entries import Terms, encode_entries
from responder.crl.der import BIT_STRING, EXPLICIT_0, SEQUENCE, element, header
from responder.crl.extensions import encode_time
from responder.crl.write_behind import WriteBehind
from responder.errors import InvariantBroken
from responder.signing.signer import Signer

COPY_OCTETS = 1 << 20
LONGEST_HEADER = 6  # octets of tag and length, up to 4 GB
VERSION_2 = bytes.fromhex("020101")  # RFC 5280 §5.1.2.1: MUST be v2 where extensions are used


@dataclass(frozen=True, slots=True)
class CRLHead:
    """What a CRL says besides its entries. Times are POSIX seconds UTC.

    ``issuer``: Name DER, octet for octet as in the issuer's certificate. ``extensions``: Extension elements, DER
    (``CRLExtensions.to_der``).
    """

    issuer: bytes
    this_update: int
    next_update: int
    extensions: bytes


@dataclass(frozen=True, slots=True)
class BuiltCRL:
    """A CRL that was written; that it is on the disk, the depot sees to.

    ``sha256``: of the whole file, hex. ``soonest_ahead``: POSIX seconds of the first revocation that is dated ahead, and so is
    not in it; it wants a CRL of its own then. ``expired``: entries that the terms dropped.
    """

    size: int
    sha256: str
    entries: int
    soonest_ahead: int | None
    expired: int
    reasons_left_out: int
    without_reason: int


def build_crl(
    target: Path,
    head: CRLHead,
    chunks: Callable[[], Iterator[bytes]],
    terms: Terms,
    signer: Signer,
    progress: Callable[[int], None] = lambda entries: None,
) -> BuiltCRL:
    """Write a CRL with the entries of ``chunks`` (packed records, asked for once), signed by ``signer``.

    ``target`` is replaced, and gone where this raises; nothing waits for the disk. ``progress`` hears how many
    entries there are so far. Raises ValueError for a record that cannot be in a CRL, SignerUnavailable, OSError.
    """
    if terms.this_update != head.this_update:
        raise InvariantBroken(f"entries as of {terms.this_update} in a CRL of thisUpdate {head.this_update}")
    try:
        with target.open("w+b") as file:
            entries = _Entries()
            begin = VERSION_2 + signer.signature_algorithm_der + head.issuer
            begin += encode_time(head.this_update) + encode_time(head.next_update)
            room = 3 * LONGEST_HEADER + len(begin)
            with WriteBehind(file.fileno(), room) as entries_file:
                for chunk in chunks():
                    entries_file.write(entries.add(chunk, terms))
                    progress(entries.count)
                entries_file.flush()
            extensions = element(EXPLICIT_0, element(SEQUENCE, head.extensions))
            size, digest = _complete(file, room, begin, entries, extensions, signer)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return BuiltCRL(
        size=size,
        sha256=digest,
        entries=entries.count,
        soonest_ahead=entries.soonest_ahead,
        expired=entries.expired,
        reasons_left_out=entries.reasons_left_out,
        without_reason=entries.without_reason,
    )


class _Entries:
    """What is known of the elements of revokedCertificates."""

    def __init__(self) -> None:
        self.size = 0
        self.count = 0
        self.expired = 0
        self.reasons_left_out = 0
        self.without_reason = 0
        self.soonest_ahead: int | None = None

    def add(self, chunk: bytes, terms: Terms) -> bytes:
        """Encode a chunk's records."""
        encoded = encode_entries(chunk, terms, first=self.count == 0)
        self.size += len(encoded.der)
        self.count += encoded.count
        self.expired += encoded.expired
        self.reasons_left_out += encoded.reasons_left_out
        self.without_reason += encoded.without_reason
        if encoded.soonest_ahead is not None:
            self.soonest_ahead = min(encoded.soonest_ahead, self.soonest_ahead or encoded.soonest_ahead)
        return encoded.der


def _complete(
    file: BinaryIO, room: int, begin: bytes, entries: _Entries, extensions: bytes, signer: Signer
) -> tuple[int, str]:
    """Write what stands around the entries, which begin behind ``room`` octets; returns the file's size and SHA-256."""
    file.seek(room + entries.size)
    file.write(extensions)
    # RFC 5280 §5.1.2.6: without revoked certificates the list is absent, never empty.
    before = begin + header(SEQUENCE, entries.size) if entries.count else begin
    before = header(SEQUENCE, len(before) + entries.size + len(extensions)) + before
    start, end = room - len(before), room + entries.size + len(extensions)
    if start < LONGEST_HEADER:
        raise ValueError(f"a CRL of {end - start} octets: it must have less than 4 GB")
    file.flush()
    os.pwrite(file.fileno(), before, start)
    # RFC 5280 §5.1.1.2: the same algorithm as in tbsCertList.
    behind = signer.signature_algorithm_der + element(
        BIT_STRING, b"\x00" + _signature(file.fileno(), start, end, signer)
    )
    file.write(behind)
    file.flush()
    outer = header(SEQUENCE, end - start + len(behind))
    start, end = start - len(outer), end + len(behind)
    os.pwrite(file.fileno(), outer, start)
    digest = hashlib.sha256()
    at = 0
    for block in _blocks(file.fileno(), start, end):
        digest.update(block)
        if start:  # less than 16 MB, so that its headers are shorter
            os.pwrite(file.fileno(), block, at)
            at += len(block)
    file.truncate(end - start)
    return end - start, digest.hexdigest()


def _signature(file: int, start: int, end: int, signer: Signer) -> bytes:
    """Sign the tbsCertList that stands in a file; returns BIT STRING octets."""
    if signer.digest_name:
        digest = hashlib.new(signer.digest_name)
        for block in _blocks(file, start, end):
            digest.update(block)
        return signer.sign_digest(digest.digest())
    # Ed25519 and ML-DSA read the message more than once: the kernel holds it, and takes it back when memory is short.
    with mmap.mmap(file, end, access=mmap.ACCESS_READ) as message, memoryview(message) as whole, whole[start:] as view:
        return signer.sign([view])[0]  # type: ignore[list-item]  # octets are octets


def _blocks(file: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(file, min(COPY_OCTETS, end - start), start)
        if not block:
            raise OSError("the CRL's file was cut short while it was written")
        yield block
        start += len(block)
