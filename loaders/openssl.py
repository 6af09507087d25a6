"""Reads ``index.txt``: the database of ``openssl ca`` and of Easy-RSA 3 (docs/loaders/openssl.md).

Six columns divided by TAB: status, expiry, revocation, serial, file name, subject. The subject is never used, and the
file does not say whose certificates it lists: certificates beside it do (loaders/certificates.py). Knows no store.
Made by loaders/registry.py, read by loaders/runner.py. RFC 5280 §5.3.1 (CRLReason).
"""

from __future__ import annotations

import hashlib
import os
import re
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from loaders.base import Batch, FoundIssuer, LoaderOptions, Row, RowRejected
from loaders.certificates import CertificateFolders, Ownership
from loaders.discovery import CertificateIssuers, is_ca_certificate
from loaders.normalize import DAYS, TIMES, date_text, generalized_time_text, reason_from_name, reason_word
from responder.clock import Clock, format_utc
from responder.config import AnyPath
from responder.errors import SourceUnavailable
from responder.issuers import Issuer
from responder.model import CRLReason, serial_to_octets

BLOCK_BYTES = 1 << 20  # read at a time: some 15 thousand rows
RECENT_S = 2.0  # coarser than any file system's clock (FAT: 2 s)
MAX_LINE_BYTES = 1 << 16  # openssl writes a few hundred; a file without line ends must not fill the memory
_YEAR_2000 = 946_684_800  # POSIX seconds
_EXPIRED_BEFORE_2000 = " exp=19"
MAX_SERIAL_HEX = 256  # RFC 5280 §4.1.2.2 allows 20 octets; far more is no serial
_SERIAL = re.compile(rb"(-?)((?:[0-9A-Fa-f]{2})+)")
_COLUMN_END = re.compile(rb"(?<!\\)\t")  # TXT_DB writes a TAB inside a column as backslash, TAB
_ARGUMENT_DATES = {"keytime", "cakeytime"}


class OpenSSLOptions(LoaderOptions):
    """The keys of ``source = { type = "openssl", … }``."""

    path: AnyPath = Field(description="The index.txt.")
    certificates: AnyPath | None = Field(
        None,
        description="Directory of the issued certificates, PEM or DER, named by serial; absent: newcerts, certs_by_serial and the like beside the path, where they exist.",
    )
    live: bool = Field(True, description="The file is the CA's own: what it says is known as of the moment it is read.")
    is_copy: bool = Field(
        False, alias="copy", description="The file is a copy: what it says is known as of the file's mtime."
    )

    @model_validator(mode="after")
    def _live_or_copy(self) -> OpenSSLOptions:
        if self.is_copy and self.live and "live" in self.model_fields_set:
            raise ValueError("live = true and copy = true exclude each other")
        return self

    @property
    def dated(self) -> bool:
        """True for a copy, whose mtime says as of when it is known."""
        return self.is_copy or not self.live

    @property
    def shared_key(self) -> str:
        """Generations of a CA share their index.txt after the CA's certificate was renewed with a new key."""
        return os.path.realpath(self.path)


@dataclass(frozen=True, slots=True)
class IndexLine:
    """What one line says. ``text`` None: it cannot be understood; ``problem`` says why, or what of it is doubtful."""

    serial_octets: bytes | None
    text: str | None = None
    is_release: bool = False
    problem: str | None = None


def parse_serial(text: bytes) -> bytes:
    """Read ``0F``, ``00`` or ``-1A`` (BN_bn2hex) as DER INTEGER contents octets; raises ValueError."""
    match = _SERIAL.fullmatch(text)
    if match is None or text == b"-00" or len(text) > MAX_SERIAL_HEX:
        raise ValueError(f"the serial {text[:80].decode('ascii', 'replace')!r} is not hexadecimal of even length")
    magnitude = int(match[2], 16)
    return serial_to_octets(-magnitude if match[1] else magnitude)


def parse_revocation(column: bytes) -> tuple[str, CRLReason, str | None, str | None]:
    """Read ``date[,reason[,argument]]`` as (date text, reason, invalidity date text or None, problem or None).

    Raises ValueError where not even the date can be read. A reason that cannot be read is *unspecified*, with the
    problem told: the certificate is revoked all the same.
    """
    parts = column.split(b",", 2)
    revoked_at = date_text(parts[0])
    if revoked_at < "1970":
        raise ValueError("the revocation is dated before 1970, which no OCSP response can say")
    if len(parts) == 1:
        return revoked_at, CRLReason.UNSPECIFIED, None, None
    keyword = parts[1].decode("utf-8", "replace")
    try:
        reason = reason_from_name(keyword)
    except ValueError as error:
        return revoked_at, CRLReason.UNSPECIFIED, None, str(error)
    argument = parts[2] if len(parts) == 3 else None
    if keyword.lower() in _ARGUMENT_DATES:
        try:
            return revoked_at, reason, generalized_time_text(argument or b""), None
        except ValueError as error:
            return revoked_at, reason, None, f"the invalidity date of {keyword}: {error}"
    if keyword.lower() == "holdinstruction":
        # The instruction itself is not used: RFC 5280 has no place for it, and OCSP never had.
        return revoked_at, reason, None, None if argument else "holdInstruction without an instruction"
    if argument is not None:
        return revoked_at, reason, None, f"{keyword} takes no argument"
    return revoked_at, reason, None, None


def parse_line(line: bytes, presumed_at: str, *, cut_off: bool = False) -> IndexLine | None:
    """Read one line without its line end; None for a blank line and for a comment, which say nothing.

    ``presumed_at``: the date of a revocation that has none that can be read. ``cut_off``: the file ends in this line,
    so that columns after the serial may be missing. Never raises.
    """
    if not line.strip() or line.startswith(b"#"):
        return None
    columns = _COLUMN_END.split(line)
    if cut_off and len(columns) == 5:
        columns.append(b"")
    if len(columns) != 6:
        where = ": the file breaks off here" if cut_off else ""
        return IndexLine(None, problem=f"{len(columns)} columns instead of 6{where}")
    status, expiry, revocation, serial = columns[:4]
    try:
        octets = parse_serial(serial)
    except ValueError as error:
        return IndexLine(None, problem=str(error))
    not_after, problem = "", None
    try:
        not_after = " exp=" + date_text(expiry)
    except ValueError as error:
        problem = f"expiry: {error}"
    match status:
        case b"V" | b"E":
            if problem is None and revocation:
                # openssl ca refuses such a file as a whole: somebody has edited one column and forgotten the other.
                problem = f"status {status.decode()}, but with a revocation date"
            return IndexLine(octets, None if problem else "good" + not_after, problem=problem)
        case b"R" | b"S":
            return _revoked_line(octets, status, revocation, not_after, problem, presumed_at)
    return IndexLine(octets, problem=f"unknown status {status[:20].decode('ascii', 'replace')!r}")


def _revoked_line(
    octets: bytes, status: bytes, revocation: bytes, not_after: str, problem: str | None, presumed_at: str
) -> IndexLine:
    """Read a line of status R, or of S: suspended, in other tools that write this format."""
    try:
        revoked_at, reason, invalidity_date, doubt = parse_revocation(revocation)
    except ValueError as error:
        revoked_at, reason, invalidity_date, doubt = presumed_at, CRLReason.UNSPECIFIED, None, f"revocation: {error}"
    problem = problem or doubt
    if reason is CRLReason.REMOVE_FROM_CRL:
        # RFC 5280 §5.3.1: removeFromCRL means that the certificate is no longer revoked; OCSP never says it.
        return IndexLine(octets, None if problem else "good" + not_after, is_release=problem is None, problem=problem)
    if status == b"S":
        reason = CRLReason.CERTIFICATE_HOLD
    text = f"revoked {revoked_at}{reason_word(reason)}{not_after}"
    if invalidity_date is not None:
        text += f" invalid={invalidity_date}"
    return IndexLine(octets, text, problem=problem)


class _ReasonWords(dict[bytes, str]):
    """What follows the revocation's date → the reason in a status text, for the usual reasons without an argument."""

    def __missing__(self, tail: bytes) -> str:
        _, reason, invalidity_date, problem = parse_revocation(b"700101000000Z," + tail)
        if invalidity_date or problem or reason is CRLReason.REMOVE_FROM_CRL or b"," in tail:
            raise ValueError("not the usual form")
        value = self[tail] = reason_word(reason)
        return value


_REASON_WORDS = _ReasonWords({b"": ""})


def parse_lines(lines: Sequence[bytes], first: int, source: str, presumed_at: str) -> Batch:
    """Read many lines, the first of which is number ``first`` of the file: the usual ones here, the odd in parse_line.

    Everything that is taken here, parse_line takes for the same (a test compares): this is for speed alone.
    """
    rows: list[Row] = []
    batch = Batch(rows)
    days, times, reason_words, append = DAYS, TIMES, _REASON_WORDS, rows.append
    for at, line in enumerate(lines, first):
        try:
            status, expiry, revocation, serial, _, _ = line.split(b"\t")
            octets = unhexlify(serial)
            leading = octets[0]
            if leading >= 0x80:
                octets = b"\0" + octets  # X.690 §8.3: a positive INTEGER begins with a zero bit
            if leading and len(octets) < MAX_SERIAL_HEX // 2 and b"\\\t" not in line:
                if status == b"R":
                    date, comma, tail = revocation.partition(b",")
                    revoked_at = days[date[:-7]] + times[date[-7:]]
                    if revoked_at >= "1970" and (tail or not comma):
                        reason = reason_words[tail]
                        append((octets, f"revoked {revoked_at}{reason} exp={days[expiry[:-7]]}{times[expiry[-7:]]}"))
                        continue
                elif not revocation and (status == b"V" or status == b"E"):
                    append((octets, f"good exp={days[expiry[:-7]]}{times[expiry[-7:]]}"))
                    continue
        except (ValueError, IndexError):
            pass  # the slow way says what is odd about it
        _take(batch, parse_line(line, presumed_at), source, at)
    return batch


def _take(batch: Batch, said: IndexLine | None, source: str, number: int) -> None:
    if said is None:
        return
    if said.problem is not None:
        presumed = said.text
        batch.rejected.append(RowRejected(source, str(number), said.problem, said.serial_octets, presumed))
    elif said.serial_octets is not None and said.text is not None:
        (batch.released if said.is_release else batch.rows).append((said.serial_octets, said.text))


class IndexSnapshot:
    """One reading of an index.txt, by one open file: a rename in the meantime does not disturb it."""

    def __init__(
        self,
        path: Path,
        now: float,
        *,
        dated: bool,
        folders: CertificateFolders,
        owner: Ownership,
        ca_since: float,
    ) -> None:
        """Open the file; raises SourceUnavailable. ``ca_since``: notBefore of the CA's certificate, POSIX seconds."""
        self._path = str(path)
        self._ca_since = ca_since
        self._folders = folders
        self._owner = owner
        try:
            self._file = path.open("rb", buffering=0)
            self._stat = os.fstat(self._file.fileno())
        except OSError as error:
            raise SourceUnavailable(f"{path}: cannot be read: {error.strerror}") from error
        # Never ahead of the clock: thisUpdate comes from it.
        self.as_of = min(self._stat.st_mtime, now) if dated else now
        self.size = self._stat.st_size
        self.fingerprint = ""
        self.whole = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the file's rows, block by block; raises SourceUnavailable for an index of another CA."""
        presumed_at = format_utc(self.as_of)
        digest, rest, number, position = hashlib.sha256(), b"", 1, 0
        try:
            while block := self._file.read(BLOCK_BYTES):
                digest.update(block)
                position += len(block)
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                if len(rest) > MAX_LINE_BYTES:
                    raise SourceUnavailable(
                        f"{self._path}:{number + len(lines)}: a line of more than {MAX_LINE_BYTES} octets: not an index.txt"
                    )
                yield self._checked(parse_lines(lines, number, self._path, presumed_at), position)
                number += len(lines)
            stat = os.fstat(self._file.fileno())
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
        finally:
            self.close()
        if rest:
            yield self._checked(self._last_line(rest, number, presumed_at), position)
        self._folders.check_owner()
        self.fingerprint = digest.hexdigest()
        before = self._stat
        unchanged = (stat.st_mtime_ns, stat.st_size) == (
            before.st_mtime_ns,
            before.st_size,
        ) and position == stat.st_size
        self.whole = unchanged and not rest

    def _last_line(self, line: bytes, number: int, presumed_at: str) -> Batch:
        """Read a line that the file breaks off in: it says something only if its serial is followed by a TAB."""
        batch = Batch([])
        _take(batch, parse_line(line, presumed_at, cut_off=True), self._path, number)
        return batch

    def _checked(self, batch: Batch, position: int) -> Batch:
        batch.position = position
        self._refuse_impossible(batch)
        self._folders.look_at(batch)
        self._owner.filter(batch, self._path)
        return batch

    def _refuse_impossible(self, batch: Batch) -> None:
        """Reject rows that expired before there was the CA: XCA exports the years from 2050 on with two digits."""
        if self._ca_since < _YEAR_2000:
            return
        odd = [row for row in batch.rows if _EXPIRED_BEFORE_2000 in row[1]]
        if not odd:
            return
        batch.rows[:] = [row for row in batch.rows if _EXPIRED_BEFORE_2000 not in row[1]]
        for serial_octets, text in odd:
            said = text.partition(" exp=")[0]
            reason = f"the certificate would have expired before its CA began ({text}): a year from 2050 on takes four digits"
            presumed = said if said.startswith("revoked") else None
            batch.rejected.append(
                RowRejected(self._path, f"serial {serial_octets.hex()}", reason, serial_octets, presumed)
            )


class OpenSSLLoader:
    """One index.txt for one CA."""

    Options: ClassVar[type[LoaderOptions]] = OpenSSLOptions
    lists_issued = True
    no_issuers = "index.txt has no column for the issuer, and there are no certificates beside it"
    good_releases_hold = True  # openssl has no command for it: people set R back to V by hand

    def __init__(self, options: LoaderOptions, issuer: Issuer, siblings: Sequence[Issuer], clock: Clock) -> None:
        """``siblings`` are the other CAs whose source is this very file."""
        assert isinstance(options, OpenSSLOptions)  # noqa: S101 - the registry checks options by our own model
        self.name = str(options.path)
        self._options = options
        self._clock = clock
        self._folders = CertificateFolders(options.path, options.certificates, issuer)
        self._owner = Ownership(self._folders, issuer, siblings)
        self._ca_since = issuer.not_before
        self.follows_clock = not options.dated

    def peek(self) -> str:
        """Return mtime, inode and size; raises SourceUnavailable.

        A file may be written twice within one tick of the file system's clock. So its mtime says nothing while it is
        recent, and what was read then is read once more.
        """
        try:
            stat = self._options.path.stat()
        except OSError as error:
            raise SourceUnavailable(f"{self._options.path}: cannot be read: {error.strerror}") from error
        age = self._clock.now() - stat.st_mtime
        return f"{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_size}" + (":recent" if age < RECENT_S else "")

    def snapshot(self) -> IndexSnapshot:
        """Open the file for one reading; raises SourceUnavailable."""
        self._folders.begin()
        return IndexSnapshot(
            self._options.path,
            self._clock.now(),
            dated=self._options.dated,
            folders=self._folders,
            owner=self._owner,
            ca_since=self._ca_since,
        )

    def discover(self) -> Sequence[FoundIssuer]:
        """Return whose certificates lie beside the index.txt, which itself has no column for the issuer."""
        self.peek()
        self._folders.begin()
        issuers = CertificateIssuers(self.name, counts=False)  # Easy-RSA keeps a revoked certificate in two folders
        for certificate in self._folders.beside():
            if is_ca_certificate(certificate):
                issuers.add_ca(certificate)
        for certificate in self._folders.all():
            issuers.add(certificate)
        return issuers.found()
