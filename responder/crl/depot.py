"""The depot: published CRLs as files, each slot's newest and the one before it, so that readers see whole ones only.

``<data_dir>/crl/<ca>/<slot>-<number>-<sha256[:8]>.crl`` is a CRL in DER, ``<slot>.json`` beside it says which of them is
published (published.py). A manifest is replaced by one rename, after the file that it names is on the disk: a crash
between any two steps leaves the old CRL or the new one. Whoever has a file open keeps its bytes, whatever comes after.
Written by the publisher, the mirror and what fetches CRLs from other machines; read by the workers and by commands. Those who
write also see whether the files are still what was published (``whole``): the workers would have to read them for that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from responder import metrics
from responder.crl.published import Published
from responder.errors import CommitConflict, InvariantBroken
from responder.log import get_logger

log = get_logger(__name__)

DIRECTORY = "crl"  # within data_dir
PROVE_EVERY_S = (
    6 * 3_600.0
)  # a file that nothing has touched: disks forget; 50 MB are read and hashed in a tenth of a second
OPEN_TRIES = 5  # a reader meets a replacement between manifest and file at most once in two of them
_SLOT = re.compile(r"(?:full|delta|\d{1,5}(?:-delta)?)")
_FRESH = re.compile(r"\.fresh-(\d+)-[0-9a-f]+")


class Depot:
    """The CRLs of one machine. Any number of processes may read and write; writers of one CA take turns."""

    def __init__(self, root: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``root``: ``data_dir / DIRECTORY``; made by the first ``put``. ``monotonic``: seconds, for when to prove files anew."""
        self.root = root
        self._monotonic = monotonic
        # Of CA and slot: the file that was proved last, what its inode said then, and when that was.
        self._proved: dict[tuple[str, str], tuple[str, tuple[int, ...], float]] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, ca: str, slot: str) -> Published | None:
        """Return what is published in a slot of a CA (its name), or None. Raises InvariantBroken for a damaged manifest."""
        path = self.manifest(ca, slot)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            published = Published.from_text(text)
        except ValueError as error:
            raise InvariantBroken(f"{path}: {error}; remove it, and the CRL is issued or fetched anew") from error
        return published if published.file else None  # nothing could be put into a damaged one's place

    def open(self, ca: str, slot: str) -> tuple[Published, int] | None:
        """Open what is published: its description and a descriptor for reading, to be closed; None where nothing is."""
        for _ in range(OPEN_TRIES):
            published = self.get(ca, slot)
            if published is None:
                return None
            try:
                descriptor = os.open(self.path(published), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # it was replaced twice in between
            if os.fstat(descriptor).st_size == published.size:
                return published, descriptor
            os.close(descriptor)
            raise InvariantBroken(f"{self.path(published)} is not {published.size} octets long, as it was published")
        raise InvariantBroken(f"{self.manifest(ca, slot)} names a file that is not there")

    def path(self, published: Published) -> Path:
        """Return where a published CRL's file is."""
        return self.root / published.ca / published.file

    def manifest(self, ca: str, slot: str) -> Path:
        """Return where the manifest of a slot is, or would be: replaced in one step, so its stat tells whether it was."""
        return self.root / ca / f"{slot}.json"

    def slots(self, ca: str) -> list[str]:
        """Return the slots of a CA in which something is published."""
        return sorted(path.stem for path in (self.root / ca).glob("*.json") if _SLOT.fullmatch(path.stem))

    def largest_number(self, ca_id: str) -> int:
        """Return the largest cRLNumber that any directory here knows of a key's CRLs (RFC 5280 §5.2.3); 0: none does.

        Not by the CA's name: whoever gives it another one has the same series of numbers. Reads each manifest there is, and
        understands those of the key: a millisecond for some dozens.
        """
        found = 0
        for path in self.root.glob("*/*.json"):
            with contextlib.suppress(OSError, ValueError):
                text = path.read_text("utf-8")
                if ca_id in text and (published := Published.from_text(text)).ca_id == ca_id:
                    found = max(found, published.number or 0, published.lost or 0)
        return found

    # --- proving ----------------------------------------------------------------------------------------------------

    def whole(self, ca: str, slot: str) -> Published | None:
        """Return what is published, as ``get`` does, and see that its file is what was published; for those who can mend it.

        A file is read when it is first asked for, when something has touched it, and each ``PROVE_EVERY_S``. A damaged one is set
        aside as ``<slot>.damaged``, with an alarm, and the one before it is published again, ``lost`` saying so, or where there is none
        nothing is.
        """
        for _ in range(OPEN_TRIES):
            published = self.get(ca, slot)
            if published is None or (problem := self._why_damaged(published)) is None:
                return published
            self._set_aside(published, problem)
        return None

    def _why_damaged(self, published: Published) -> str | None:
        path, now = self.path(published), self._monotonic()
        try:
            with path.open("rb") as file:
                stamp = _stamp(file.fileno())
                if self._is_proved(published, stamp, now):
                    return None
                if (size := os.fstat(file.fileno()).st_size) != published.size:
                    return f"it has {size} octets, and was published with {published.size}"
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            # Of anything else, such as too many open files, it does not follow that something is wrong with the file.
            return f"it cannot be read: {error.strerror}" if error.errno in (errno.ENOENT, errno.EIO) else None
        if found != published.sha256:
            return f"its SHA-256 is {found}, and was {published.sha256}"
        self._proved[published.ca, published.slot] = (published.file, stamp, now)
        return None

    def _is_proved(self, published: Published, stamp: tuple[int, ...], now: float) -> bool:
        file, then, at = self._proved.get((published.ca, published.slot), ("", (), 0.0))
        return (file, then) == (published.file, stamp) and now - at < PROVE_EVERY_S

    def _set_aside(self, published: Published, problem: str) -> None:
        """Put the one before in its place: a revocation that only the damaged one had is out of sight until the next one is there."""
        ca, slot, path = published.ca, published.slot, self.path(published)
        with self._locked(ca):
            if self._before(published) != published:
                return  # replaced meanwhile
            lost = max(published.number or 0, published.lost or 0)
            kept = [one for one in self._kept(ca, slot) if one.ca_id == published.ca_id and one.file != published.file]
            before = next((one for one in kept if self._why_damaged(one) is None), None)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_name(f"{slot}.damaged"))
            if before is None:
                self._replace_manifest(replace(published, file="", lost=lost))
            else:
                # Of the past, so that caches ask again (DST-03).
                self._replace_manifest(replace(before, lost=lost, next_publication=before.this_update))
        metrics.CRL_FILES_DAMAGED.labels(ca).inc()
        served = "no CRL is served" if before is None else f"number {before.number}, the one before it, is served"
        log.error(
            "crl_file_damaged", ca=ca, slot=slot, path=str(path), error=problem, consequence=f"{served} until the next"
        )

    def _kept(self, ca: str, slot: str) -> Iterator[Published]:
        for path in (self.root / ca).glob(f"{slot}-*.json"):
            with contextlib.suppress(OSError, ValueError):
                if (found := Published.from_text(path.read_text("utf-8"))).slot == slot:
                    yield found

    # --- writing ----------------------------------------------------------------------------------------------------

    def fresh(self, ca: str) -> Path:
        """Return a name for a new CRL, on the disk where ``put`` wants it; ``sweep`` removes what a crash leaves there."""
        directory = self.root / ca
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f".fresh-{os.getpid()}-{secrets.token_hex(4)}"

    def put(self, fresh: Path, published: Published) -> Published:
        """Publish the file of a ``fresh`` name, which is moved; returns the description with ``file`` set.

        Durable when it returns. Raises CommitConflict, and changes nothing, where another CRL of the same key is there
        that is not older by number or, without numbers, by thisUpdate. The same CRL once more is no change.
        """
        if not _SLOT.fullmatch(published.slot):
            raise InvariantBroken(f"no slot of the depot: {published.slot!r}")
        number = "none" if published.number is None else str(published.number)
        published = replace(published, file=f"{published.slot}-{number}-{published.sha256[:8]}.crl")
        with self._locked(published.ca):
            before = self._before(published)
            if before is not None and before.sha256 != published.sha256:
                _check_newer(published, before)
            sync(fresh)
            fresh.replace(self.path(published))
            sync(self.path(published).parent)  # the name must be there before the manifest that speaks of it
            if before is not None and before.file != published.file:
                self.path(before).with_suffix(".json").write_text(before.to_text(), "utf-8")  # for ``whole``
            self._replace_manifest(published)
            self._proved[published.ca, published.slot] = (
                published.file,
                _stamp(self.path(published)),
                self._monotonic(),
            )
            self._prune(published, before)
        return published

    @contextlib.contextmanager
    def only_issuer(self, ca: str) -> Iterator[bool]:
        """Be the one process of this machine that issues a CA's CRLs; yields False where another is. Ends with the process."""
        directory = self.root / ca
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / ".issuer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def sweep(self, ca: str) -> None:
        """Remove what processes that are no more have left half made."""
        directory = self.root / ca
        for path in directory.iterdir() if directory.is_dir() else ():
            match = _FRESH.fullmatch(path.name)
            if match and not Path(f"/proc/{match[1]}").exists():
                path.unlink(missing_ok=True)

    def _before(self, published: Published) -> Published | None:
        """Return the CRL that is replaced; a manifest that cannot be read must not keep a good CRL from its place."""
        with contextlib.suppress(InvariantBroken):
            return self.get(published.ca, published.slot)
        return None

    def _replace_manifest(self, published: Published) -> None:
        fresh = self.fresh(published.ca)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            data = published.to_text().encode()
            if os.write(descriptor, data) != len(data):
                raise OSError(f"no room for {fresh}")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self.manifest(published.ca, published.slot))
        sync(fresh.parent)

    def _prune(self, published: Published, before: Published | None) -> None:
        """Keep the file and the one before it, which a reader may be about to open."""
        kept = {published.file.removesuffix(".crl")} | (
            {before.file.removesuffix(".crl")} if before is not None else set()
        )
        if before is not None and before.file == published.file:
            return
        name = re.compile(rf"{re.escape(published.slot)}-(?:\d+|none)-[0-9a-f]{{8}}\.(?:crl|json)")
        for path in (self.root / published.ca).iterdir():
            if name.fullmatch(path.name) and path.stem not in kept:
                path.unlink()

    @contextlib.contextmanager
    def _locked(self, ca: str) -> Iterator[None]:
        descriptor = os.open(self.root / ca / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _check_newer(published: Published, before: Published) -> None:
    """RFC 5280 §5.2.3: numbers increase; whoever saw a CRL must not be shown an older one (BR §4.9.7)."""
    if published.ca_id != before.ca_id:
        return  # another key, another series
    if published.number is not None and before.number is not None:
        stale = published.number <= before.number or published.this_update < before.this_update
    else:
        stale = published.this_update < before.this_update
    if stale:
        raise CommitConflict(
            f"{before.ca}/{before.slot}: number {before.number} is published, and number {published.number} does not follow it"
        )


def _stamp(file: int | Path) -> tuple[int, ...]:
    """Return what changes with a file when somebody writes to it, or puts another in its place."""
    found = os.stat(file)  # noqa: PTH116 - also of a descriptor
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sync(path: Path) -> None:
    """Have a file's content, or a directory's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
