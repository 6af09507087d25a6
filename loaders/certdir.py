"""Reads directories of certificates as the list of what a CA issued (docs/loaders/certdir.md).

Every file is looked at, and every PEM or DER certificate and PKCS #7 bundle in it; whose a certificate is, its signature
says. Nothing here tells of revocations. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from pydantic import Field

from loaders.base import FoundIssuer, LoaderOptions, RowRejected
from loaders.discovery import CertificateIssuers
from loaders.entries import Doubts, Item, ItemSnapshot, RowMaker
from loaders.files import RECENT_S
from loaders.ownership import (
    CertificateOwner,
    certificate_expiry,
    certificate_serial,
    parse_certificate,
    parse_pem_certificate,
)
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

MAX_FILE_BYTES = 1 << 26  # a bundle of some 30 thousand certificates; larger files are no certificates
MAX_DEPTH = 32
_PEM = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE|PKCS7)-----.*?-----END \1-----", re.DOTALL)
_PEM_BEGIN = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE|PKCS7)-----")
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")  # id-signedData, near the start of a PKCS #7 bundle


class CertDirOptions(LoaderOptions):
    """The keys of ``source = { type = "certdir", … }``."""

    path: AnyPath = Field(description="The directory of the issued certificates; directories within it are read too.")
    suffixes: list[str] = Field(
        [".pem", ".crt", ".cer", ".der", ".p7b", ".p7c"],
        min_length=1,
        description="How names of the files end that are read; others are passed over.",
    )

    @property
    def shared_key(self) -> str:
        """Several CAs may put their certificates into one directory."""
        return os.path.realpath(self.path)


class CertDirLoader:
    """One tree of certificates for one CA."""

    Options: ClassVar[type[LoaderOptions]] = CertDirOptions
    lists_issued = True
    good_releases_hold = False  # a certificate says nothing of its status
    follows_clock = True
    keeps_vanished = True  # a file that was tidied away does not undo that its certificate was issued

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, CertDirOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._path = options.path
        self._suffixes = tuple(suffix.lower() for suffix in options.suffixes)
        self._clock = clock
        self._owner = CertificateOwner(issuer)
        self._folders: list[Path] = []  # as of the last reading

    def peek(self) -> str:
        """Return the mtimes of the directories: a file that comes or goes changes its directory's."""
        said, newest = [], 0.0
        for folder in self._folders or [self._path]:
            try:
                found = folder.stat()
            except OSError as error:
                if folder == self._path:
                    raise SourceUnavailable(f"{folder}: cannot be read: {error.strerror}") from error
                said.append(f"{folder}:gone")
            else:
                newest = max(newest, found.st_mtime)
                said.append(f"{found.st_ino}:{found.st_mtime_ns}")
        return ",".join(said) + (":recent" if self._clock.now() - newest < RECENT_S else "")

    def snapshot(self) -> ItemSnapshot:
        """Start one reading; raises SourceUnavailable."""
        if not self._path.is_dir():
            raise SourceUnavailable(f"{self._path}: no such directory")
        as_of = self._clock.now()
        self._owner.begin()
        return ItemSnapshot(self._items(RowMaker(self.name, as_of)), as_of)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the files hold."""
        if not self._path.is_dir():
            raise SourceUnavailable(f"{self._path}: no such directory")
        issuers, rows = CertificateIssuers(self.name), RowMaker(self.name, self._clock.now())
        for _, found in self._found(rows):
            if isinstance(found, x509.Certificate):
                issuers.add(found)
        return issuers.found()

    def _items(self, rows: RowMaker) -> Iterator[Item]:
        for where, found in self._found(rows):
            if isinstance(found, RowRejected):
                yield found
                continue
            doubts = Doubts()
            octets = doubts.read("serial", certificate_serial, found)
            if self._owner.owns(found):
                yield rows.good(where, octets, certificate_expiry(found), doubts)
        self._owner.check(self.name)

    def _found(self, rows: RowMaker) -> Iterator[tuple[str, x509.Certificate | RowRejected]]:
        """Yield where, and a certificate, or what there is none in and why."""
        self._folders = [self._path]
        for path in self._files(self._path, rows, 0):
            if not isinstance(path, Path):
                yield "", path
                continue
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            except OSError as error:
                yield "", rows.rejected(str(path), f"cannot be read: {error.strerror}")
                continue
            yield from self._certificates(path, data, rows)

    def _files(self, folder: Path, rows: RowMaker, depth: int) -> Iterator[Path | RowRejected]:
        """Yield the files in the order of their names, so that two readings are alike. Links to directories are not followed."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if folder == self._path:
                raise SourceUnavailable(f"{folder}: cannot be read: {error.strerror}") from error
            yield rows.rejected(str(folder), f"cannot be read: {error.strerror}")
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if depth >= MAX_DEPTH:
                    yield rows.rejected(entry.path, f"more than {MAX_DEPTH} directories deep")
                    continue
                self._folders.append(Path(entry.path))
                yield from self._files(Path(entry.path), rows, depth + 1)
            elif entry.name.lower().endswith(self._suffixes):
                try:
                    is_file = stat.S_ISREG(entry.stat().st_mode)  # a link to a file is one; a pipe would block
                except OSError:
                    is_file = False
                if is_file:
                    yield Path(entry.path)

    @staticmethod
    def _certificates(path: Path, data: bytes, rows: RowMaker) -> Iterator[tuple[str, x509.Certificate | RowRejected]]:
        if len(data) > MAX_FILE_BYTES:
            yield "", rows.rejected(str(path), f"more than {MAX_FILE_BYTES} octets")
            return
        for number, found in enumerate(_parts(data), 1):
            where = str(path) if number == 1 else f"{path}, certificate {number}"
            yield where, rows.rejected(where, str(found)) if isinstance(found, ValueError) else found


def _parts(data: bytes) -> Iterator[x509.Certificate | ValueError]:
    """Yield every certificate of a file, or why a part of it is none."""
    starts = len(_PEM_BEGIN.findall(data))
    if not starts:
        yield from _der(data)
        return
    ended = 0
    for match in _PEM.finditer(data):
        ended += 1
        if match[1] == b"PKCS7":
            yield from _bundle(match[0], is_pem=True)
            continue
        # OpenSSL's "trusted" form has more behind the certificate; "X509 CERTIFICATE" is an old name.
        yield _parsed(match[0].replace(match[1], b"CERTIFICATE"), is_pem=True)
    if ended < starts:
        yield ValueError("a PEM block without its end")


def _der(data: bytes) -> Iterator[x509.Certificate | ValueError]:
    if _SIGNED_DATA in data[:64]:
        yield from _bundle(data, is_pem=False)
    else:
        yield _parsed(data, is_pem=False)


def _parsed(data: bytes, *, is_pem: bool) -> x509.Certificate | ValueError:
    try:
        return parse_pem_certificate(data) if is_pem else parse_certificate(data)
    except ValueError as error:
        return error


def _bundle(data: bytes, *, is_pem: bool) -> Iterator[x509.Certificate | ValueError]:
    try:
        yield from pkcs7.load_pem_pkcs7_certificates(data) if is_pem else pkcs7.load_der_pkcs7_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        yield ValueError(f"not a PKCS #7 bundle: {' '.join(str(error).split())[:200]}")
