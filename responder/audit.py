"""The audit log: who used which key for what, a line each, chained so that none can be changed or taken away unseen.

One file a writer in ``data_dir/audit``, cut into segments: JSON Lines, of which each ends with the hash of the one before it
and with its own (docs/audit.md). Called by every process that holds keys, changes statuses or runs others, through
``record``; a process has at most one log. audit_anchor.py keeps the newest hashes in Redis, audit_verify.py proves. The
edge has no part in this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from responder import __version__, metrics
from responder.clock import Clock, SystemClock
from responder.config import Config, config_digest
from responder.errors import AuditUnavailable, InvariantBroken
from responder.log import get_logger

log = get_logger(__name__)

FORMAT = 1
GENESIS = "0" * 64  # what the first line of a log names as the hash before it
KEY_USES = frozenset({"sign"})  # with ``audit.required`` nothing comes of these unless they are written down
MOST_WRITERS = 64  # logs of one name on one machine
TAIL_BYTES = 1 << 20  # that surely hold a whole line: one for 512 answers has 10 000 octets
_LINE = re.compile(rb'(\{"n":(\d+),.*,"prev":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}\n')
_SEGMENT = re.compile(r"([a-z]+(?:-\d+)?)\.(\d{12,})\.log")
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class Head(NamedTuple):
    """A line of a log, by its number and hash."""

    number: int
    hash: str


def encode_fields(fields: Mapping[str, Any]) -> str:
    """Encode what a line says, as ``encode_line`` wants it."""
    if "prev" in fields or "hash" in fields:
        raise InvariantBroken("prev and hash are the chain's own")
    return "," + _encode(fields)[1:-1] if fields else ""


def encode_line(number: int, at: str, event: str, fields: str, prev: str) -> tuple[bytes, str]:
    """Return a line and its hash: SHA-256 over the line as it is without ``hash``, which has ``prev`` in it."""
    body = f'{{"n":{number},"t":"{at}","event":"{event}"{fields},"prev":"{prev}"'
    digest = hashlib.sha256(f"{body}}}".encode()).hexdigest()
    return f'{body},"hash":"{digest}"}}\n'.encode(), digest


def read_line(line: bytes) -> tuple[Head, str] | None:
    """Return a line's number and hash, and the hash before it; None: it is not as it was written."""
    match = _LINE.fullmatch(line)
    if match is None or hashlib.sha256(match[1] + b"}").hexdigest() != match[4].decode():
        return None
    return Head(int(match[2]), match[4].decode()), match[3].decode()


def segments(directory: Path) -> dict[str, list[Path]]:
    """Return the segments in a directory by log, the oldest first."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        if match := _SEGMENT.fullmatch(path.name):
            found.setdefault(match[1], []).append((int(match[2]), path))
    return {name: [path for _, path in sorted(of_log)] for name, of_log in sorted(found.items())}


def read_tail(descriptor: int) -> tuple[Head | None, bytes]:
    """Return the last whole line of a segment (None: it is damaged) and the octets after it, of a write cut short."""
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
    end = data.rfind(b"\n") + 1
    last = read_line(data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : end])
    return (last[0] if last else None), data[end:]


def spell_time(now: float) -> str:
    """Spell POSIX seconds as ``2026-11-20T10:00:00.000Z``."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class AuditLog:
    """One log and its only writer; its methods may be called by any thread.

    A line is in the file, by one write(2), when ``record`` returns, so it outlives the process; it outlives the machine from
    the next fsync on: ``durable`` has one after each line, otherwise audit_anchor.py sees to it every second.
    """

    def __init__(
        self,
        directory: Path,
        role: str,
        *,
        machine: str,
        max_bytes: int,
        required: bool = True,
        durable: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Open nothing yet. ``role`` names the log; another process that holds it makes this one ``<role>-2``, and so on."""
        self._directory = directory
        self._role = role
        self._machine = machine
        self._max_bytes = max_bytes
        self._required = required
        self._durable = durable
        self._clock = clock or SystemClock()
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._size = 0
        self._head = Head(0, GENESIS)
        self._unrecorded: Counter[str] = Counter()  # what could not be written since the last line
        self._second, self._spelled = -1, ""  # the last line's second, and how it is spelled
        self.name = role

    def record(self, event: str, fields: Mapping[str, Any] | str) -> bool:
        """Append a line, and say whether it is there. Raises AuditUnavailable for a key's use that cannot be written down, where that is required."""
        with self._mutex:
            try:
                self._open()
                self._fill_gap()
                self._append(event, fields)
            except OSError as error:
                self._unrecorded[event] += 1
                self._complain(error)
                if self._required and event in KEY_USES:
                    raise self._unavailable(error) from error
                return False
            return True

    def require(self) -> None:
        """Raise AuditUnavailable where the last line could not be written, and still none can; to ask before a key is used."""
        if not self._unrecorded or not self._required:
            return
        with self._mutex:
            try:
                self._open()
                self._fill_gap()
            except OSError as error:
                raise self._unavailable(error) from error

    def close(self) -> None:
        """Let go of the file, once all of it is on the disk."""
        with self._mutex:
            if self._fd is not None:
                with contextlib.suppress(OSError):
                    os.fsync(self._fd)
                os.close(self._fd)
            if self._lock_fd is not None:
                os.close(self._lock_fd)
            self._fd = self._lock_fd = None

    # --- under the mutex; each raises OSError ---------------------------------------------------------------------------

    def _append(self, event: str, fields: Mapping[str, Any] | str) -> None:
        line, digest = self._line(event, fields)
        if self._size + len(line) > self._max_bytes:
            self._start_segment()
            line, digest = self._line(event, fields)
        self._write(line)
        self._head = Head(self._head.number + 1, digest)

    def _line(self, event: str, fields: Mapping[str, Any] | str) -> tuple[bytes, str]:
        text = fields if isinstance(fields, str) else encode_fields(fields)
        now = self._clock.now()
        if int(now) != self._second:
            self._second, self._spelled = int(now), spell_time(int(now))[:-4]
        at = f"{self._spelled}{int(now * 1000) % 1000:03}Z"
        return encode_line(self._head.number + 1, at, event, text, self._head.hash)

    def _write(self, octets: bytes) -> None:
        """Append all or nothing."""
        assert self._fd is not None  # noqa: S101 - _open has set it
        written = os.write(self._fd, octets)
        try:
            if written != len(octets):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise OSError(errno.ENOSPC, f"only {written} of {len(octets)} octets were written")
            if self._durable:
                os.fsync(self._fd)
        except OSError:
            os.close(self._fd)
            self._fd = None  # to be read anew, as after a crash
            raise
        self._size += len(octets)

    def _fill_gap(self) -> None:
        if self._unrecorded:
            self._append("gap", {"unrecorded": dict(self._unrecorded)})
            self._unrecorded.clear()

    def _open(self) -> None:
        if self._fd is not None:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock_fd is None:
            self._take_lock()
        there = segments(self._directory).get(self.name)
        if not there:
            self._head = Head(0, GENESIS)
            self._start_segment()
            return
        self._fd = os.open(there[-1], os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        head, torn = read_tail(self._fd)
        self._size = os.fstat(self._fd).st_size
        if head is None:
            self._start_after_damage(there[-1])
            return
        self._head = head
        if torn and (whole := read_line(torn + b"\n")) and whole == (Head(head.number + 1, whole[0].hash), head.hash):
            self._write(b"\n")  # all of it is there but for its end
            self._head = whole[0]
        elif torn:
            # The last write before a crash, never vouched for. It stays; the next line says what it is.
            line, digest = self._line("recovered", {"octets": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})
            self._write(b"\n" + line)
            self._head = Head(head.number + 1, digest)
            log.warning("audit_recovered", log=self.name, octets=len(torn), after=head.number)

    def _take_lock(self) -> None:
        for number in range(1, MOST_WRITERS + 1):
            name = self._role if number == 1 else f"{self._role}-{number}"
            descriptor = os.open(self._directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self._give_away(descriptor)
            self._lock_fd, self.name = descriptor, name
            return
        raise OSError(errno.EAGAIN, f"{MOST_WRITERS} processes write audit logs named {self._role}")

    def _start_segment(self, **fields: str) -> None:
        """Go on in a new file. It appears whole, with its first line: a segment is never empty."""
        line, digest = self._line(
            "segment", {"format": FORMAT, "machine": self._machine, "log": self.name, "revocast": __version__, **fields}
        )
        head = Head(self._head.number + 1, digest)
        fresh = self._directory / f"{self.name}.new"
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._give_away(descriptor)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "no room for a new segment")
            os.fsync(descriptor)
            if self._fd is not None:
                os.fsync(self._fd)
            fresh.rename(self._directory / f"{self.name}.{head.number:012}.log")
            directory = os.open(self._directory, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        except BaseException:
            os.close(descriptor)
            raise
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size, self._head = descriptor, len(line), head

    def _start_after_damage(self, path: Path) -> None:
        """Go on with numbers that are free, and no hash: no crash leaves such a line, so it is never taken for one."""
        number = int(path.name.split(".")[1]) + path.read_bytes().count(b"\n")
        log.error("audit_log_damaged", log=self.name, file=path.name)
        metrics.AUDIT_FAILURES.labels("damaged").inc()
        self._head = Head(number, GENESIS)
        self._start_segment(damaged=path.name)

    def _give_away(self, descriptor: int) -> None:
        """What root's command makes is the roles' own: they must be able to go on with it."""
        if os.geteuid() == 0:
            owner = self._directory.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _complain(self, error: OSError) -> None:
        metrics.AUDIT_FAILURES.labels("unwritable").inc()
        log.error("audit_unwritable", directory=str(self._directory), error=str(error), required=self._required)

    def _unavailable(self, error: OSError) -> AuditUnavailable:
        return AuditUnavailable(f"the audit log in {self._directory} cannot be written: {error.strerror or error}")


# --- the process's log ------------------------------------------------------------------------------------------------

_log: AuditLog | None = None


def record(event: str, **fields: Any) -> bool:
    """Append a line to the process's log and say whether it is there; no log, no line. See AuditLog.record."""
    return _log is not None and _log.record(event, fields)


def record_encoded(event: str, fields: str) -> bool:
    """Append a line as ``record`` does; ``fields`` as of ``encode_fields``."""
    return _log is not None and _log.record(event, fields)


def require() -> None:
    """Raise AuditUnavailable where a use of a key could not be written down. See AuditLog."""
    if _log is not None:
        _log.require()


def directory_of(config: Config) -> Path:
    """Return where the logs of this machine are."""
    return config.data_dir / "audit"


@contextlib.contextmanager
def opened(config: Config, config_file: Path, role: str, *, durable: bool = False) -> Iterator[AuditLog]:
    """Have ``record`` write to the log of a role, and record its start and stop."""
    made = AuditLog(
        directory_of(config),
        role,
        machine=config.audit.machine_name,
        max_bytes=config.audit.max_bytes,
        required=config.audit.required,
        durable=durable,
    )
    with installed(made):
        record("start", pid=os.getpid(), revocast=__version__, config=config_digest(config_file), **operator())
        try:
            yield made
        except BaseException as error:
            record("stop", error=type(error).__name__)
            raise
        record("stop")


@contextlib.contextmanager
def installed(made: AuditLog) -> Iterator[None]:
    """Have ``record`` write to a log; close it at the end."""
    global _log
    before, _log = _log, made
    try:
        yield
    finally:
        _log = before
        made.close()


def operator() -> dict[str, Any]:
    """Say as whom this process runs, and who became that user by sudo."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    who: dict[str, Any] = {"uid": os.getuid(), "user": user}
    if "SUDO_USER" in os.environ:
        who["sudo_user"] = os.environ["SUDO_USER"]
    return who
