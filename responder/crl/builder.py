"""Builds a CRL as a file: entries as they come, then head, extensions and signature, in flat memory.

RFC 5280 §5.1. A CRL's first octets say how long it is, so entries go to a nameless file first; then they are hashed and
signed, and everything is written in order. Nothing here decides what a CRL says: see publisher and checks.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastpath.crl_entries import Terms, encode_entries
from responder.crl.der import BIT_STRING, EXPLICIT_0, SEQUENCE, element, header
from responder.crl.extensions import encode_time
from responder.errors import InvariantBroken
from responder.signing.signer import Signer

COPY_OCTETS = 1 << 20
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
    with tempfile.TemporaryFile(dir=target.parent) as entries:
        built = _Entries(entries)
        for chunk in chunks():
            built.add(chunk, terms)
            progress(built.count)
        try:
            size, digest = _write(target, head, built, signer)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return BuiltCRL(size, digest, built.count, built.soonest_ahead, built.expired, built.reasons_left_out)


class _Entries:
    """The elements of revokedCertificates, in a file of their own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.count = 0
        self.expired = 0
        self.reasons_left_out = 0
        self.soonest_ahead: int | None = None

    def add(self, chunk: bytes, terms: Terms) -> None:
        """Encode a chunk's records behind those that are there."""
        encoded = encode_entries(chunk, terms, first=self.count == 0)
        self._file.write(encoded.der)
        self.size += len(encoded.der)
        self.count += encoded.count
        self.expired += encoded.expired
        self.reasons_left_out += encoded.reasons_left_out
        if encoded.soonest_ahead is not None:
            self.soonest_ahead = min(encoded.soonest_ahead, self.soonest_ahead or encoded.soonest_ahead)

    def whole(self, before: bytes, after: bytes) -> Iterator[bytes]:
        """Give the whole tbsCertList: what stands before the entries, the entries, what stands behind them."""
        yield before
        self._file.seek(0)
        while block := self._file.read(COPY_OCTETS):
            yield block
        yield after


def _write(target: Path, head: CRLHead, entries: _Entries, signer: Signer) -> tuple[int, str]:
    """Write the whole CRL; returns its size and SHA-256."""
    algorithm = signer.signature_algorithm_der
    before = VERSION_2 + algorithm + head.issuer + encode_time(head.this_update) + encode_time(head.next_update)
    # RFC 5280 §5.1.2.6: without revoked certificates the list is absent, never empty.
    if entries.count:
        before += header(SEQUENCE, entries.size)
    after = element(EXPLICIT_0, element(SEQUENCE, head.extensions))
    before = header(SEQUENCE, len(before) + entries.size + len(after)) + before
    tbs_size = len(before) + entries.size + len(after)
    # RFC 5280 §5.1.1.2: the same algorithm as in tbsCertList. The signature comes before the first octet is written, since
    # that says how long everything is.
    behind = algorithm + element(BIT_STRING, b"\x00" + _signature(entries, before, after, target.parent, signer))
    digest = hashlib.sha256()
    size = 0
    with target.open("wb") as file:
        for blocks in (
            [header(SEQUENCE, tbs_size + len(behind))],
            entries.whole(before, after),
            [behind],
        ):
            for block in blocks:
                digest.update(block)
                file.write(block)
                size += len(block)
    return size, digest.hexdigest()


def _signature(entries: _Entries, before: bytes, after: bytes, directory: Path, signer: Signer) -> bytes:
    """Sign the tbsCertList; returns BIT STRING octets."""
    if signer.digest_name:
        digest = hashlib.new(signer.digest_name)
        for block in entries.whole(before, after):
            digest.update(block)
        return signer.sign_digest(digest.digest())
    # Ed25519 and ML-DSA read the message more than once: the kernel holds it, and takes it back when memory is short.
    with tempfile.TemporaryFile(dir=directory) as file:
        for block in entries.whole(before, after):
            file.write(block)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as message, memoryview(message) as view:
            return signer.sign([view])[0]  # type: ignore[list-item]  # octets are octets
