"""Reads the database of smallstep step-ca: bbolt file, badger v2 directory, MySQL or PostgreSQL (docs/loaders/stepca.md).

Two of its buckets count: ``x509_certs`` (decimal serial → DER) and ``revoked_x509_certs`` (decimal serial → JSON). The
revocations are held in memory, some 200 octets each, the certificates pass by. A revocation is never taken back, and
step-ca knows no hold. Made by loaders/registry.py, read by loaders/runner.py.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

import sqlalchemy as sa
from pydantic import Field

from loaders.badger import BadgerDirectory, split_key
from loaders.base import FoundIssuer, LoaderOptions
from loaders.bbolt import BboltFile, read_meta
from loaders.database import Database
from loaders.database_file import DatabaseFileOptions, copy_time, table
from loaders.discovery import CertificateIssuers
from loaders.entries import (
    Doubts,
    Item,
    ItemSnapshot,
    RowMaker,
    reason_from_code,
    seconds_from_iso,
    serial_from_decimal,
)
from loaders.files import file_state
from loaders.ownership import CertificateOwner, certificate_expiry, certificate_serial, parse_certificate
from responder.clock import Clock
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer

CERTIFICATES, REVOKED = b"x509_certs", b"revoked_x509_certs"
MAX_JSON_BYTES = 1 << 16
ZERO_TIME = "0001-01-01"  # Go's time without a value
COPIES = 3  # tries to copy a bbolt file between two of its transactions


class Bucketed(Protocol):
    """One reading of a database of step-ca."""

    whole: bool  # False: it was written meanwhile

    def items(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a bucket; raises SourceUnavailable."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class StepCaOptions(DatabaseFileOptions):
    """The keys of ``source = { type = "stepca", … }``."""

    path: AnyPath | None = Field(
        None,
        description="The bbolt file or the badger v2 directory: db.dataSource of step-ca's ca.json; instead of url.",
    )
    is_copy: bool = Field(
        False,
        alias="copy",
        description="The path is a copy: what it says is known as of its mtime, of a directory that of its newest file.",
    )


class StepRows:
    """Makes items of what two buckets hold."""

    def __init__(self, source: str, owner: CertificateOwner, presumed_at: float) -> None:
        self._source = source
        self._make = RowMaker(source, presumed_at)
        self._owner = owner

    def items(self, database: Bucketed) -> Iterator[Item]:
        """Yield everything; raises SourceUnavailable where it is not the CA's."""
        self._owner.begin()
        revoked: dict[bytes, bytes] = {}
        for key, value in database.items(REVOKED):
            serial = Doubts()
            octets = serial.read("key", _serial_of_key, key)
            if octets is None:
                yield self._make.rejected(f"{REVOKED.decode()} {key[:80]!r}", serial.problem or "no serial")
            else:
                revoked[octets] = value
        met: set[bytes] = set()
        for key, der in database.items(CERTIFICATES):
            item = self._certificate(key, der, revoked, met)
            if item is not None:
                yield item
        self._owner.check(self._source)
        for octets, value in revoked.items():
            if octets not in met:
                # Its certificate is not here, as in the mode "ra"; whose it is nobody can say, and revoked is never wrong.
                yield self._revoked(octets, value, None, Doubts())

    def _certificate(self, key: bytes, der: bytes, revoked: dict[bytes, bytes], met: set[bytes]) -> Item | None:
        doubts = Doubts()
        octets = doubts.read("key", _serial_of_key, key)
        certificate = doubts.read("certificate", parse_certificate, der)
        where = f"{CERTIFICATES.decode()} {key[:80].decode('ascii', 'replace')}"
        if octets is None or certificate is None:
            if octets is not None and octets in revoked:
                met.add(octets)
                return self._revoked(octets, revoked[octets], None, doubts)
            return self._make.rejected(where, doubts.problem or "no serial", octets)
        own = doubts.read("certificate", certificate_serial, certificate)
        if own != octets:
            doubts.add(f"its certificate has the serial {own.hex() if own else 'none'}")
        if not self._owner.owns(certificate):
            if octets in revoked:
                met.add(octets)
            return None
        if octets in revoked:
            met.add(octets)
            return self._revoked(octets, revoked[octets], certificate_expiry(certificate), doubts)
        return self._make.good(where, octets, certificate_expiry(certificate), doubts)

    def _revoked(self, octets: bytes, value: bytes, not_after: int | None, doubts: Doubts) -> Item:
        said = doubts.read("value", _parse_json, value) or {}
        revoked_at = doubts.read("RevokedAt", _moment, said.get("RevokedAt"))
        reason = doubts.read("ReasonCode", reason_from_code, said.get("ReasonCode"))
        if not_after is None:
            not_after = doubts.read("ExpiresAt", _moment, said.get("ExpiresAt"))
        where = f"{REVOKED.decode()} {int.from_bytes(octets, 'big', signed=True)}"
        return self._make.revoked(where, octets, not_after, doubts, revoked_at=revoked_at, reason=reason)


def _serial_of_key(key: bytes) -> bytes:
    return serial_from_decimal(key[:1024].decode("ascii", "replace"))


def _parse_json(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES} octets of JSON")
    try:
        said = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {str(error)[:100]}") from error
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def _moment(text: object) -> int | None:
    """Read a date of RFC 3339 with nanoseconds; None where it is absent or Go's zero."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f"not a date: {str(text)[:40]!r}")
    return None if text.startswith(ZERO_TIME) else seconds_from_iso(text)


# --- the databases ----------------------------------------------------------------------------------------------------


class BboltReading:
    """A bbolt file that was copied between two of its transactions, so that nothing changes under the reader."""

    def __init__(self, path: Path) -> None:
        """Copy the file into one without a name; raises SourceUnavailable."""
        self._copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        try:
            for _ in range(COPIES):
                with path.open("rb") as file:
                    before = read_meta(file)
                    file.seek(0)
                    self._copy.seek(0)
                    self._copy.truncate()
                    while block := file.read(1 << 20):
                        self._copy.write(block)
                    self.whole = before is not None and read_meta(file) == before
                if self.whole:
                    break
            self._database = BboltFile(str(path), self._copy)
        except OSError as error:
            self.close()
            raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
        except SourceUnavailable:
            self.close()
            raise

    def items(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a bucket."""
        return self._database.bucket(bucket)

    def close(self) -> None:
        """Let go of the copy."""
        self._copy.close()


class BadgerReading:
    """The value logs of a badger directory. They are only appended to: what was read stays as it is."""

    def __init__(self, path: Path) -> None:
        self._directory = BadgerDirectory(path)
        self.whole = True

    def items(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a bucket; a key that was written again comes again."""
        start = len(bucket).to_bytes(2, "little") + bucket
        for entry in self._directory.entries(lambda key: key.startswith(start)):
            divided = split_key(entry.key)
            # The key of the bucket itself is empty. step-ca deletes neither certificates nor revocations, and a
            # deletion by hand must not make a revoked certificate good.
            if divided is not None and not entry.is_deleted:
                yield divided[1], entry.value

    def close(self) -> None:
        """Do nothing: a log is open only while it is read."""


class SqlReading:
    """One read-only transaction of MySQL or PostgreSQL, where a bucket is a table of two columns."""

    def __init__(self, database: Database) -> None:
        self._stack = ExitStack()
        self._database = database
        self._connection: sa.Connection | None = None
        self.whole = True

    def items(self, bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a bucket; raises SourceUnavailable."""
        try:
            if self._connection is None:
                self._connection = self._stack.enter_context(self._database.reading())
            found = table(self._connection, bucket.decode(), ("nkey", "nvalue"), self._database.name)
            statement = sa.select(found.c.nkey, found.c.nvalue).order_by(found.c.nkey)
            with closing(self._database.stream(self._connection, statement)) as pages:
                for page in pages:
                    for key, value in page:
                        yield _octets(key), _octets(value)
        except sa.exc.SQLAlchemyError as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())[:500]
            raise SourceUnavailable(f"{self._database.name}: cannot be read: {said}") from error

    def close(self) -> None:
        """End the transaction."""
        self._stack.close()


def _octets(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value) if isinstance(value, bytes | memoryview) else b""


class StepCaLoader:
    """One database of step-ca for one CA."""

    Options: ClassVar[type[LoaderOptions]] = StepCaOptions
    lists_issued = True
    good_releases_hold = False

    def __init__(self, options: LoaderOptions, issuer: Issuer, _siblings: Sequence[Issuer], clock: Clock) -> None:
        assert isinstance(options, StepCaOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = options.shown_url
        self._path = options.path
        self._database = None if options.path is not None else Database(options)
        self._is_copy = options.is_copy
        self._clock = clock
        self._owner = CertificateOwner(issuer)
        self.follows_clock = options.path is not None and not options.is_copy
        self.consistent = options.path is None  # one transaction sees one state

    def peek(self) -> str:
        """Return the state of the file, or of the directory's logs; of a server always the same. Raises SourceUnavailable."""
        if self._path is None:
            return ""
        if self._path.is_dir():
            try:
                return BadgerDirectory(self._path).state()
            except OSError as error:
                raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
        return file_state(self._path, self._clock)

    def snapshot(self) -> ItemSnapshot:
        """Open the database for one reading; raises SourceUnavailable."""
        as_of = self._as_of()
        database = self._open()
        rows = StepRows(self.name, self._owner, as_of)
        return ItemSnapshot(rows.items(database), as_of, is_whole=lambda: database.whole, let_go=database.close)

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates the database holds: step-ca keeps no certificate of a CA in it, unless one issued that too."""
        database = self._open()
        # badger may hold a certificate twice: its garbage collection writes again what it moves.
        issuers = CertificateIssuers(self.name, counts=not isinstance(database, BadgerReading))
        with closing(database):
            for _, der in database.items(CERTIFICATES):
                certificate = Doubts().read("certificate", parse_certificate, der)
                if certificate is not None:
                    issuers.add(certificate)
        return issuers.found()

    def _open(self) -> Bucketed:
        if self._database is not None:
            return SqlReading(self._database)
        assert self._path is not None  # noqa: S101 - the options have the one or the other
        return BadgerReading(self._path) if self._path.is_dir() else BboltReading(self._path)

    def _as_of(self) -> float:
        now = self._clock.now()
        if not self._is_copy or self._path is None:
            return now
        if not self._path.is_dir():
            return copy_time(self._path, self._clock)
        try:
            return min(now, max((one.stat().st_mtime for one in self._path.iterdir()), default=0.0))
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
