"""The certificates beside an index.txt: whose the file is, and whose each row is where two CAs share it.

index.txt has no column for the issuer. Both questions are answered by signatures (RFC 5280 §4.1.1.3), never by names
alone: two generations of a CA have the same name. Called by loaders/openssl.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from loaders.base import Batch, Row, RowRejected
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.log import get_logger
from responder.model import serial_from_octets

log = get_logger(__name__)

# Where openssl ca and Easy-RSA 3 put what they issue, by serial, from the index.txt's own directory.
DEFAULT_FOLDERS = (
    "newcerts",
    "certs_by_serial",
    "revoked/certs_by_serial",
    "renewed/certs_by_serial",
    "expired/certs_by_serial",
)
SUFFIXES = (".pem", ".crt", ".cer", ".der")
SAMPLE_ROWS = 16  # rows of each batch, from its start and from its end, whose certificates are looked for
MAX_CERTIFICATE_BYTES = 1 << 20


# What the library raises for extensions that it cannot read; no two of it are of one kind.
UNREADABLE_EXTENSIONS = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def file_stem(serial_octets: bytes) -> str:
    """Spell a serial as the file names do: BN_bn2hex, upper case, even length, no leading zero octet."""
    serial_number = serial_from_octets(serial_octets)
    digits = f"{abs(serial_number):X}"
    return ("-" if serial_number < 0 else "") + "0" * (len(digits) % 2) + digits


def is_issued_by(certificate: x509.Certificate, ca_certificate: x509.Certificate) -> bool:
    """Return whether the CA's key signed the certificate, and its name stands there as the issuer."""
    try:
        certificate.verify_directly_issued_by(ca_certificate)
    except UnsupportedAlgorithm:
        # MD5 and the like cannot be verified here any more; the key identifier must then do.
        return _names_key_of(certificate, ca_certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names_key_of(certificate: x509.Certificate, ca_certificate: x509.Certificate) -> bool:
    """RFC 5280 §4.2.1.1: the authorityKeyIdentifier is the CA's subjectKeyIdentifier, and its name stands there as the issuer."""
    try:
        if certificate.issuer != ca_certificate.subject:
            return False
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        subject = ca_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (x509.ExtensionNotFound, *UNREADABLE_EXTENSIONS):
        return False
    return authority.key_identifier == subject.digest


@dataclass(frozen=True, slots=True)
class _Stranger:
    """A certificate of the listing that is not what its row needs."""

    stem: str
    issuer: str
    serial_number: int


class CertificateFolders:
    """Certificates by serial. ``begin``, ``look_at`` each batch, ``check_owner``: once for each reading."""

    def __init__(self, index_path: Path, configured: Path | None, issuer: Issuer) -> None:
        self._index_path = index_path
        self._configured = configured
        self._issuer = issuer
        self._candidates: list[x509.Certificate] = [x509.load_der_x509_certificate(issuer.certificate_der)]
        self._folders: list[Path] = []
        self._is_ours = False
        self._strangers: list[_Stranger] = []
        self._has_warned = False

    def accept(self, ca_certificate: x509.Certificate) -> None:
        """Let another CA's certificates do as well: it shares the index.txt."""
        self._candidates.append(ca_certificate)

    def begin(self) -> None:
        """Start a reading; raises SourceUnavailable where the configured directory is not there."""
        if self._configured is not None and not self._configured.is_dir():
            raise SourceUnavailable(f"{self._configured}: no such directory (source.certificates)")
        base = self._index_path.parent
        folders = [self._configured] if self._configured else [base / name for name in DEFAULT_FOLDERS]
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._is_ours = False
        self._strangers = []

    def find(self, serial_octets: bytes) -> Iterator[x509.Certificate]:
        """Yield the certificates that stand under a serial's name, whoever issued them."""
        stem = file_stem(serial_octets)
        for folder in self._folders:
            for suffix in SUFFIXES:
                certificate = _read_certificate(folder / (stem + suffix))
                if certificate is not None:
                    yield certificate

    def look_at(self, batch: Batch) -> None:
        """Look for certificates of some rows, until one is found that shows whose the file is."""
        if self._is_ours or not self._folders:
            return
        rows = batch.rows
        for serial_octets, _ in rows[:SAMPLE_ROWS] + rows[SAMPLE_ROWS:][-SAMPLE_ROWS:]:
            for certificate in self.find(serial_octets):
                serial_number = certificate.serial_number
                if serial_number == serial_from_octets(serial_octets) and any(
                    is_issued_by(certificate, ca) for ca in self._candidates
                ):
                    self._is_ours = True
                    return
                if not self._strangers:
                    name = certificate.issuer.rfc4514_string()
                    self._strangers.append(_Stranger(file_stem(serial_octets), name, serial_number))

    def check_owner(self) -> None:
        """Raise SourceUnavailable where certificates were found, and not one is the CA's with its row's serial."""
        if self._is_ours:
            return
        if self._strangers:
            one = self._strangers[0]
            if file_stem(one.serial_number.to_bytes(21, "big", signed=True)) != one.stem:
                problem = f"the certificate named {one.stem} has the serial {one.serial_number:X}: the serials are not hexadecimal"
            else:
                problem = f"the certificate {one.stem} beside it was issued by {one.issuer!r}, not with the key of {self._issuer.subject_text!r}"
            raise SourceUnavailable(f"{self._index_path}: index.txt belongs to another CA: {problem}")
        if not self._has_warned:
            self._has_warned = True
            folders = [str(folder) for folder in self._folders] or "none"
            log.warning("index_owner_unchecked", path=str(self._index_path), ca=self._issuer.name, folders=folders)

    def beside(self) -> Iterator[x509.Certificate]:
        """Yield the certificates in the index.txt's own directory, where Easy-RSA and others keep the CA's."""
        yield from _certificates_in(self._index_path.parent)

    def all(self) -> Iterator[x509.Certificate]:
        """Yield every certificate of the folders, whether or not a row names it."""
        for folder in self._folders:
            yield from _certificates_in(folder)


def _certificates_in(folder: Path) -> Iterator[x509.Certificate]:
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.is_file()]
    except OSError as error:
        raise SourceUnavailable(f"{folder}: cannot be read: {error.strerror}") from error
    for path in paths:
        certificate = _read_certificate(path)
        if certificate is not None:
            yield certificate


def _read_certificate(path: Path) -> x509.Certificate | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CERTIFICATE_BYTES)
    except OSError:
        return None
    try:
        with warnings.catch_warnings():
            # A serial of zero or below is told by the index too, and is served like any other.
            warnings.simplefilter("ignore")
            if b"-----BEGIN" in data:
                return x509.load_pem_x509_certificate(data)
            return x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        return None


class Ownership:
    """Whose each row is, where several CAs (generations of one) share an index.txt; else every row is the CA's.

    Remembers what it found, some 120 octets a row: a certificate's issuer never changes.
    """

    def __init__(self, folders: CertificateFolders, issuer: Issuer, siblings: Sequence[Issuer]) -> None:
        self._folders = folders
        self._mine = x509.load_der_x509_certificate(issuer.certificate_der)
        self._others = [x509.load_der_x509_certificate(sibling.certificate_der) for sibling in siblings]
        self._names = ", ".join(sorted([issuer.name, *(sibling.name for sibling in siblings)]))
        for other in self._others:
            folders.accept(other)
        self._known: dict[bytes, tuple[bool, bool]] = {}

    def filter(self, batch: Batch, source: str) -> None:
        """Take out what is another CA's. What is nobody's is taken for ours if revoked, and else is rejected."""
        if not self._others:
            return
        batch.rows[:] = self._mine_of(batch.rows, batch.rejected, source)
        batch.released[:] = self._mine_of(batch.released, batch.rejected, source)
        batch.rejected[:] = [
            row
            for row in batch.rejected
            if row.serial_octets is None or self._owners(row.serial_octets) != (False, True)
        ]

    def _mine_of(self, rows: Sequence[Row], rejected: list[RowRejected], source: str) -> list[Row]:
        kept: list[Row] = []
        for row in rows:
            serial_octets, text = row
            is_mine, is_anothers = self._owners(serial_octets)
            if is_mine or (not is_anothers and text.startswith("revoked")):
                kept.append(row)
            elif not is_anothers:
                stem = file_stem(serial_octets)
                reason = f"no certificate tells which of {self._names} issued it; a good one is not guessed at"
                rejected.append(RowRejected(source, f"serial {stem}", reason, serial_octets))
        return kept

    def _owners(self, serial_octets: bytes) -> tuple[bool, bool]:
        """Return whether it is ours, and whether it is another's; both may be: serials are unique in one issuer."""
        known = self._known.get(serial_octets)
        if known is None:
            found = list(self._folders.find(serial_octets))
            serial_number = serial_from_octets(serial_octets)
            found = [certificate for certificate in found if certificate.serial_number == serial_number]
            is_mine = any(is_issued_by(certificate, self._mine) for certificate in found)
            is_anothers = any(is_issued_by(one, other) for one in found for other in self._others)
            known = (is_mine, is_anothers)
            if is_mine or is_anothers:  # a certificate that is not there yet may come
                self._known[serial_octets] = known
        return known
