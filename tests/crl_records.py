"""Revoked serials as the store has them, for tests of CRLs: chunks in the order of ADR 13, and what cryptography reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from fastpath.crl_entries import pack_revoked
from responder.store.layout import CHUNK_BITS, bucket_number, serial_hash

NOW = 1_795_000_000  # 2026-11-18T13:46:40Z


class Seen(NamedTuple):
    """One entry as cryptography reads it; times are POSIX seconds."""

    serial: int
    date: int
    reason: str | None
    invalidity_date: int | None


def chunks_of(statuses: Mapping[bytes, str]) -> list[bytes]:
    """Pack {serial's contents octets: status text} as a snapshot gives it: a chunk for each hash of the index."""
    hashes: defaultdict[int, list[bytes]] = defaultdict(list)
    for serial, text in statuses.items():
        hashes[bucket_number(serial_hash(serial), CHUNK_BITS)] += [serial.hex().encode(), text.encode()]
    return [pack_revoked(hashes[number]) for number in sorted(hashes)]


def seen_by_cryptography(entries: Iterable[x509.RevokedCertificate]) -> list[Seen]:
    """Read entries with cryptography, their extensions included."""
    found = []
    for entry in entries:
        reason = invalidity_date = None
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason.value
            elif isinstance(extension.value, x509.InvalidityDate):
                invalidity_date = int(extension.value.invalidity_date_utc.timestamp())
        found.append(Seen(entry.serial_number, int(entry.revocation_date_utc.timestamp()), reason, invalidity_date))
    return found


def load(path: Path) -> x509.CertificateRevocationList:
    """Read a whole CRL with cryptography."""
    return x509.load_der_x509_crl(path.read_bytes())
