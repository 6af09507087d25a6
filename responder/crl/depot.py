"""The depot: published CRLs as files, each slot's newest and the one before it, so that readers see whole ones only.

``<data_dir>/crl/<ca>/<slot>-<number>-<sha256[:8]>.crl`` is a CRL in DER, ``<slot>.json`` beside it says which of them is
published (published.py). A manifest is replaced by one rename, after the file that it names is on the disk: a crash
between any two steps leaves the old CRL or the new one. Whoever has a file open keeps its bytes, whatever comes after.
Written by the publisher, the mirror and what fetches CRLs from other machines; read by the workers and by commands.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from responder.crl.published import Published
from responder.errors import CommitConflict, InvariantBroken

DIRECTORY = "crl"  # within data_dir
OPEN_TRIES = 5  # a reader meets a replacement between manifest and file at most once in two of them
_SLOT = re.compile(r"(?:full|delta|\d{1,5}(?:-delta)?)")
_FRESH = re.compile(r"\.fresh-(\d+)-[0-9a-f]+")


class Depot:
    """The CRLs of one machine. Any number of processes may read and write; writers of one CA take turns."""

    def __init__(self, root: Path) -> None:
        """``root``: ``data_dir / DIRECTORY``; made by the first ``put``."""
        self.root = root

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, ca: str, slot: str) -> Published | None:
        """Return what is published in a slot of a CA (its name), or None. Raises InvariantBroken for a damaged manifest."""
        path = self.manifest(ca, slot)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            return Published.from_text(text)
        except ValueError as error:
            raise InvariantBroken(f"{path}: {error}; remove it, and the CRL is issued or fetched anew") from error

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

    def has_file(self, published: Published) -> bool:
        """Say whether a published CRL's file is there, whole by its size."""
        try:
            return self.path(published).stat().st_size == published.size
        except OSError:
            return False

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
                    found = max(found, published.number or 0)
        return found

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
            self._replace_manifest(published)
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
        kept = {published.file} | ({before.file} if before is not None else set())
        if before is not None and before.file == published.file:
            return
        name = re.compile(rf"{re.escape(published.slot)}-(?:\d+|none)-[0-9a-f]{{8}}\.crl")
        for path in (self.root / published.ca).iterdir():
            if name.fullmatch(path.name) and path.name not in kept:
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


def sync(path: Path) -> None:
    """Have a file's content, or a directory's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
