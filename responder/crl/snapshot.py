"""What is revoked, as of one instant: all of it for a complete CRL, or what changed since a base for a delta CRL.

DESIGN §7. as_of is read first, so that nothing is newer than what is read after it; then the revoked index, chunk by
chunk, while others go on writing; then what the journals say has changed meanwhile, until one script finds nothing more
to read in any partition. It runs alone, so that is the instant: whoever commits B after A never finds B here without A (docs/adr/0014). Records
go to a file, so memory is the same for a thousand and for ten million. Knows no DER and no key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

from fastpath.crl_entries import pack_revoked, unpack_records
from responder.clock import format_utc
from responder.crl.all_revoked import read_all_revoked
from responder.crl.delta import ChangeSet
from responder.crl.numbering import Instant
from responder.crl.write_behind import WriteBehind
from responder.errors import CommitConflict, PublicationRefused, StoreDamaged, StoreOutrun, StoreUnavailable
from responder.model import Status
from responder.store.crl_store import CHUNKS, Changed, CRLBase
from responder.store.layout import PARTITIONS, partition_of, serial_hash
from responder.store.redis_store import Store

TRIES = 3  # of a whole snapshot whose journals were trimmed under it, or whose server was replaced
# Parts of one cut. Who writes as fast as these are read is outrun by larger ones: Redis does nothing else meanwhile.
PATIENT_PARTS = 8
MOST_PARTS = 1_000
MOST_PATIENCE = 16  # times CUT_FIELDS: some 150 ms
MOST_AHEAD = 10_000  # serials dated ahead that a base remembers; with more there are no deltas, only complete CRLs
MOST_CHANGES = (
    100_000  # since the last complete CRL by schedule; with more there is no delta, which would be as large as that
)


class Snapshot:
    """All that is revoked at one instant, in a file of packed records (fastpath.crl_entries)."""

    def __init__(self, spool: Path) -> None:
        self._file: BinaryIO = spool.open("w+b", buffering=0)
        self._written = WriteBehind(self._file.fileno())
        self._places = [(0, 0)] * CHUNKS  # of each chunk in the file: offset, length
        self._counts = [0] * CHUNKS
        self._stays: dict[int, set[bytes]] = {}
        self._instant: Instant | None = None

    @property
    def instant(self) -> Instant:
        """Of when it is."""
        assert self._instant is not None  # noqa: S101 - take_snapshot has set it
        return self._instant

    @property
    def as_of(self) -> int:
        """ThisUpdate: the source is known as of then, and revocations are known to be there since."""
        return self.instant.as_of

    @property
    def count(self) -> int:
        """How many are revoked, those dated ahead and those expired among them."""
        return sum(self._counts)

    def chunks(self) -> Iterator[bytes]:
        """Yield the records of each chunk in order; as often as wanted."""
        descriptor = self._file.fileno()
        for number, (offset, length) in enumerate(self._places):
            if length:
                chunk = os.pread(descriptor, length, offset)
                if len(chunk) != length:
                    raise StoreUnavailable("the snapshot's file was cut short")
                yield self._without_expiry(chunk, number) if number in self._stays else chunk

    def base(self, number: int, now: float, *, any_ahead: bool = True) -> CRLBase | None:
        """Return what deltas need of the complete CRL ``number`` that was made of this; None: too many are dated ahead, or all
        are revoked by an override, of which the changes say nothing.

        ``any_ahead`` False: BuiltCRL.soonest_ahead says that no revocation lies ahead of ``now``, so none is looked for.
        """
        ahead = self._ahead(now) if any_ahead else []
        instant = self.instant
        if len(ahead) > MOST_AHEAD or instant.override:
            return None
        return CRLBase(number, instant.cut, instant.history, tuple(serial.hex() for serial in ahead))

    def changes(self, store: Store, slots: Sequence[str]) -> ChangeSet | None:
        """Return what changed since the bases of complete slots, as of this very instant: for a delta beside a complete CRL.

        None: not all of it is known, so there is no delta now.
        """
        bases = _usable_bases(self.instant, slots)
        changed = _changed(store, self.instant.ca, bases)
        if bases is None or changed is None or self.instant.override:
            return None
        texts: dict[bytes, str] = {}
        for number, serials in _by_chunk(changed).items():
            records = self._records(number)
            texts |= {serial: records[serial] for serial in serials if serial in records}
        return ChangeSet(self.instant, bases, changed, texts)

    def close(self) -> None:
        """Let go of the file; who named it removes it."""
        self._written.close()
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # --- filling it: take_snapshot ------------------------------------------------------------------------------------

    def put(self, number: int, flat: list[bytes]) -> None:
        """Put a chunk, a reply of HGETALL, in the place of the one that is there."""
        self._counts[number] = len(flat) // 2
        chunk = _packed(flat, number) if flat else b""
        self._places[number] = (self._written.offset, len(chunk))
        self._written.write(chunk)

    def put_all(self, chunks: Iterable[tuple[int, list[bytes]]]) -> None:
        """Put chunks in the place of everything that is there."""
        self._places, self._counts = [(0, 0)] * CHUNKS, [0] * CHUNKS
        for number, flat in chunks:
            self.put(number, flat)

    def seal(self, instant: Instant, changed: Iterable[bytes]) -> None:
        """Say of when it is. ``changed``: serials that the CRL keeps, however long ago their certificates have expired."""
        self._written.flush()
        self._instant = instant
        by_chunk = _by_chunk(changed)
        moment = format_utc(instant.as_of)
        for number, serials in by_chunk.items():
            records = self._records(number)
            expired = {one for one in serials if _expiry(records.get(one, "")) < moment}
            if expired:
                self._stays[number] = expired

    # --- within -----------------------------------------------------------------------------------------------------

    def _records(self, number: int) -> dict[bytes, str]:
        offset, length = self._places[number]
        chunk = os.pread(self._file.fileno(), length, offset)
        return {serial: text.decode() for serial, text in unpack_records(chunk)}

    def _without_expiry(self, chunk: bytes, number: int) -> bytes:
        """Return a chunk in which the records of what stays tell no expiry, so that nothing drops them."""
        flat: list[bytes] = []
        for serial, text in unpack_records(chunk):
            said = text
            if serial in self._stays[number]:
                said = replace(Status.from_text(text.decode()), not_after=None).to_text().encode()
            flat += (serial.hex().encode(), said)
        return pack_revoked(flat)

    def _ahead(self, now: float) -> list[bytes]:
        # Times in this form sort as they follow upon each other, and begin at the text's ninth octet.
        moment = format_utc(now).encode()
        found: list[bytes] = []
        for chunk in self.chunks():
            found += (serial for serial, text in unpack_records(chunk) if text[8:28] > moment)
            if len(found) > MOST_AHEAD:
                break
        return found


def take_snapshot(
    store: Store, ca: str, spool: Path, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> Snapshot:
    """Take a snapshot of all that is revoked; to be closed. ``spool``: a file that is replaced; it takes 90 octets a serial.

    ``progress`` hears how many chunks of how many were read. Raises StoreUnavailable, PublicationRefused where there can be
    no true CRL of this CA now, OSError.
    """
    for _ in range(TRIES):
        snapshot = Snapshot(spool)
        try:
            with suppress(CommitConflict):
                _fill(snapshot, store, ca, progress)
                return snapshot
        except BaseException:
            snapshot.close()
            raise
        snapshot.close()
    raise _not_of_one_instant(ca)


def take_changes(store: Store, ca: str, slots: Sequence[str]) -> ChangeSet | None:
    """Take what changed since the bases of complete slots, as of one instant. It costs what changed, not what there is.

    None: it is not known, since there is no base, or Redis was restarted since or has lost something: then a complete CRL
    is due. Raises as take_snapshot.
    """
    for _ in range(TRIES):
        with suppress(CommitConflict):
            return _changes(store, ca, slots)
    raise _not_of_one_instant(ca)


def _fill(snapshot: Snapshot, store: Store, ca: str, progress: Callable[[int, int], None]) -> None:
    instant = _begin(store, ca)
    for number, flat in store.read_revoked_chunks(ca):
        snapshot.put(number, flat)
        if number % 256 == 255:
            progress(number + 1, CHUNKS)
    instant = _cut(store, instant, snapshot.put)
    # What was revoked since the last complete CRL by schedule is on this one, even if it had expired before that: it may have
    # been on a delta CRL or one that was issued in between, and must stay until one by schedule had it (RFC 5280 §3.3, §5.2.4).
    bases = _usable_bases(instant, list(instant.state.bases)) or {}
    by_schedule = {slot: replace(base, cut=base.regular_cut) for slot, base in bases.items()}
    changed = _changed(store, ca, by_schedule or None)
    if changed is None and store.count_changes(ca) is not None:
        # Which ones that are is not known, so this CRL leaves nothing out.
        instant = replace(instant, state=replace(instant.state, regular={}))
    if instant.override:
        snapshot.put_all(read_all_revoked(store, ca, instant.override))
        if store.cut(ca, instant.cut).overrides != (instant.override,) * PARTITIONS:
            raise CommitConflict(f"the override of {ca} was changed")
    _end(store, instant)
    snapshot.seal(instant, changed or ())


def _changes(store: Store, ca: str, slots: Sequence[str]) -> ChangeSet | None:
    instant = _begin(store, ca)
    bases = _usable_bases(instant, slots)
    changed = _changed(store, ca, bases)
    if changed is None:
        return None
    texts = store.read_revoked_texts(ca, list(changed))
    chunks: dict[int, list[bytes]] = {}
    instant = _cut(store, instant, chunks.__setitem__)
    changed = _changed(store, ca, bases)
    _end(store, instant)
    if bases is None or changed is None or instant.override:
        return None
    fresh = {bytes.fromhex(serial.decode()): text.decode() for flat in chunks.values() for serial, text in _pairs(flat)}
    for serial, change in list(changed.items()):
        if serial_hash(serial) % CHUNKS in chunks:
            texts.pop(serial, None)
            if serial in fresh:
                texts[serial] = fresh[serial]
        elif change.number > instant.cut[partition_of(serial_hash(serial))] and serial not in texts:
            del changed[serial]  # since the cut, and not revoked at it
    return ChangeSet(instant, bases, changed, texts)


def _begin(store: Store, ca: str) -> Instant:
    """Read what must be read before any status."""
    history, state, info = store.run_id(), store.crl_state(ca), store.ca_info(ca)
    if info is None or info.as_of is None:
        reason = "the CA's database was not read yet, so it is not known what is revoked"
        raise PublicationRefused("source", "RFC 5280 §5.1.2.4", reason)
    return Instant(ca, info.as_of, tuple(store.journal_ends().values()), history, state, until=info.source_until)


def _cut(store: Store, instant: Instant, put: Callable[[int, list[bytes]], None]) -> Instant:
    """Read again what has changed, until nothing has; raises CommitConflict where the journals do not go on."""
    for part in range(MOST_PARTS):
        cut = store.cut(instant.ca, instant.cut, min(1 << part // PATIENT_PARTS, MOST_PATIENCE))
        for number, flat in cut.chunks.items():
            put(number, flat)
        instant = replace(instant, cut=cut.numbers)
        if cut.whole:
            # Where it is being set or cleared, it holds in some partitions: then for all.
            return replace(instant, override=max(cut.overrides))
    raise StoreOutrun(f"the revoked of {instant.ca} change faster than they can be read")


def _end(store: Store, instant: Instant) -> None:
    """Make sure that everything was read from one server; raises CommitConflict."""
    if store.run_id() != instant.history:
        raise CommitConflict(f"Redis was replaced while {instant.ca} was read")


def _usable_bases(instant: Instant, slots: Sequence[str]) -> dict[str, CRLBase] | None:
    """Return the slots' bases; None where one is missing, or is of another history, in which its numbers mean nothing."""
    bases = {slot: base for slot in slots if (base := instant.state.bases.get(slot)) is not None}
    if len(bases) < len(slots) or not bases:
        return None
    return None if any(base.history != instant.history for base in bases.values()) else bases


def _changed(store: Store, ca: str, bases: Mapping[str, CRLBase] | None) -> dict[bytes, Changed] | None:
    """Return what changed since the oldest of the bases, and what lay ahead at one of them; None: that is not known."""
    if bases is None or (store.count_changes(ca) or 0) > MOST_CHANGES:
        return None
    oldest = [min(numbers) for numbers in zip(*(base.cut for base in bases.values()), strict=True)]
    changed = store.changed_since(ca, oldest)
    if changed is None:
        return None
    for base in bases.values():
        for name in base.ahead:
            serial = bytes.fromhex(name)
            at = base.cut[partition_of(serial_hash(serial))] + 1  # as if it had changed just after the cut
            known = changed.get(serial, Changed(0, may_be_listed=False))
            changed[serial] = replace(known, number=max(known.number, at))
    return changed


def _by_chunk(serials: Iterable[bytes]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for serial in serials:
        found.setdefault(serial_hash(serial) % CHUNKS, []).append(serial)
    return found


def _expiry(text: str) -> str:
    """Return when a certificate expires, as its status says; later than all times where that says nothing."""
    at = text.find("exp=")
    return text[at + 4 : at + 24] if at >= 0 else "~"


def _packed(flat: list[bytes], number: int) -> bytes:
    try:
        return pack_revoked(flat)
    except ValueError as error:
        raise StoreDamaged(f"Redis holds what is no status among the revoked (chunk {number:x}): {error}") from error


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _not_of_one_instant(ca: str) -> StoreOutrun:
    return StoreOutrun(f"what is revoked of {ca} could not be read as of one instant: the journal was trimmed under it")
