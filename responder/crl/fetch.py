"""Fetches a CRL from where its CA publishes it: a file, here; http(s) in http_place.py, a directory in ldap_place.py.

Whatever comes is untrusted and goes to a new file in chunks, never into memory as a whole; size, time and redirects are
bounded, and each failure is one line. What is in the file is not looked at here. Called by mirror.py and loaders/crl.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from responder.clock import Clock
from responder.errors import SourceUnavailable

CHUNK_BYTES = 1 << 18
MAX_BYTES = 512 * 1024 * 1024  # ten million entries are about 400 MB
TIMEOUT_S = 300.0  # for the whole of a download
IDLE_S = 20.0  # for any step of it
RECENT_S = 2.0  # coarser than any file system's clock (FAT: 2 s)


@dataclass(frozen=True, slots=True)
class FetchTerms:
    """Limits and credentials of one place. ``password`` is asked for at each login, so that a changed one is taken up."""

    max_bytes: int = MAX_BYTES
    timeout_s: float = TIMEOUT_S
    idle_s: float = IDLE_S
    ca_certificate: Path | None = None  # PEM of the CA that https and ldaps trust; None: the system's
    bind_dn: str | None = None
    password: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched: a new file, which whoever asked for it moves or deletes, and its SHA-256 in hex."""

    path: Path
    size: int
    sha256: str


class Place(Protocol):
    """One place that a CRL is fetched from. Remembers what it gave last. Used by one thread at a time."""

    name: str  # for people: without credentials
    fresh_for_s: (
        float  # after a fetch: how long the server says that nothing newer need be asked for; 0: it says nothing
    )

    def fetch(self) -> Fetched | None:
        """Fetch it; None: it is what was fetched last. Raises SourceUnavailable, one line that names the place."""
        ...

    def forget(self) -> None:
        """Have the next ``fetch`` fetch it, also if it is the same: what came last was of no use."""
        ...


def open_place(where: str | Path, terms: FetchTerms, directory: Path, clock: Clock) -> Place:
    """Return the place that a path or URL names; new files are made in ``directory``, which must be there.

    Raises ValueError for a URL that is none, or of a scheme other than http, https, ldap, ldaps and file.
    """
    if isinstance(where, Path):
        return FilePlace(where, terms, directory, clock)
    try:
        scheme = urlsplit(where).scheme.lower()
        urlsplit(where).port  # noqa: B018 - raises for one above 65535
    except ValueError as error:
        raise ValueError(f"{where!r} is no URL: {error}") from error
    # Their clients take time and memory to import: only where one is used.
    if scheme in ("http", "https"):
        from responder.crl.http_place import HTTPPlace

        return HTTPPlace(where, terms, directory)
    if scheme in ("ldap", "ldaps"):
        from responder.crl.ldap_place import LDAPPlace

        return LDAPPlace(where, terms, directory)
    if scheme == "file" and urlsplit(where).netloc in ("", "localhost"):
        return FilePlace(Path(urlsplit(where).path), terms, directory, clock)
    raise ValueError(f"{where!r} is no http://, https://, ldap://, ldaps:// or file:/// URL")


class Incoming:
    """A download that is being written; bounded. Deleted unless it is kept."""

    def __init__(self, name: str, directory: Path, max_bytes: int) -> None:
        """Make the file; raises SourceUnavailable where the disk says no."""
        self._name = name
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._size = 0
        self._kept = False
        try:
            # The depot's name for what is not published yet: it removes what a crash leaves there.
            self._path = directory / f".fresh-{os.getpid()}-{secrets.token_hex(8)}"
            self._file = self._path.open("xb", buffering=0)
        except OSError as error:
            raise SourceUnavailable(f"{name}: {directory}: {error.strerror}") from error

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def expect(self, size: int) -> None:
        """Refuse a length that was announced and is too large."""
        if size > self._max_bytes:
            raise SourceUnavailable(f"{self._name}: {size} octets; at most {self._max_bytes} are taken (max_bytes)")

    def write(self, chunk: bytes) -> None:
        """Take a chunk; raises SourceUnavailable where there is too much of it, or no room."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise SourceUnavailable(f"{self._name}: more than the {self._max_bytes} octets that are taken (max_bytes)")
        self._digest.update(chunk)
        left = memoryview(chunk)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise SourceUnavailable(f"{self._name}: {self._path.parent}: {error.strerror}") from error

    def keep(self, last_sha256: str | None) -> Fetched | None:
        """Keep the file, unless it is the same as the last; raises SourceUnavailable for an empty one."""
        if not self._size:
            raise SourceUnavailable(f"{self._name}: empty: no CRL")
        sha256 = self._digest.hexdigest()
        if sha256 == last_sha256:
            return None
        self._kept = True
        return Fetched(self._path, self._size, sha256)


class FilePlace:
    """A file, such as the one that the CA writes its CRL to."""

    fresh_for_s = 0.0

    def __init__(self, path: Path, terms: FetchTerms, directory: Path, clock: Clock) -> None:
        self.name = str(path)
        self._path = path
        self._terms = terms
        self._directory = directory
        self._clock = clock
        self._seen = ""
        self._sha256: str | None = None

    def forget(self) -> None:
        """Copy it once more; see ``Place``."""
        self._seen, self._sha256 = "", None

    def fetch(self) -> Fetched | None:
        """Copy it, so that nobody rewrites it under its reader; see ``Place``."""
        try:
            stat = self._path.stat()
            # Written twice within one tick of the file system's clock it looks the same: a recent one is read again.
            recent = self._clock.now() - stat.st_mtime < RECENT_S
            seen = f"{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{stat.st_size}"
            if seen == self._seen:
                return None
            with (
                self._path.open("rb", buffering=0) as file,
                Incoming(self.name, self._directory, self._terms.max_bytes) as incoming,
            ):
                incoming.expect(stat.st_size)
                while chunk := file.read(CHUNK_BYTES):
                    incoming.write(chunk)
                fetched = incoming.keep(self._sha256)
        except OSError as error:
            self._seen = ""
            raise SourceUnavailable(f"{self.name}: cannot be read: {error.strerror}") from error
        self._seen = "" if recent else seen
        if fetched is not None:
            self._sha256 = fetched.sha256
        return fetched
