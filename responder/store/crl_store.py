"""What CRLs need of Redis: the revoked in chunks, what changed since a base, numbers, what is published, and bodies.

For the publishing role; its readers are crl/snapshot.py, numbering.py, delta.py and publisher.py. Knows no DER. A number is given
away, and a CRL published, by compare-and-set on ``rc:crl:<ca>``, and committed as statuses are (link.py). Called through
redis_store.Store alone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from typing import Any, TypeVar

from responder.clock import format_utc, parse_utc
from responder.errors import CommitConflict, StoreDamaged, StoreOutrun, StoreUnavailable
from responder.store import crl_scripts, layout, scripts, values
from responder.store.link import Command, Pending
from responder.store.store_base import PARTITIONS, StoreBase, batches

_Value = TypeVar("_Value")
CHUNKS = 1 << layout.CHUNK_BITS
HASHES_OF_CHUNK = 1 << layout.REVOKED_BITS - layout.CHUNK_BITS
# Serials and texts in one pipeline, of which so many are under way: less than what a socket holds (200 kB, each 55 octets), so that
# Redis never waits for the reader. At ten million revoked that is a single hash.
READ_ITEMS = 600
READS_AHEAD = 4
MOST_READ_AT_ONCE = 256  # hashes, where they hold next to nothing
CUT_FIELDS = 20_000  # entries that one CUT may read: some 10 ms in which Redis does nothing else
SWAP_TRIES = 20  # of a compare-and-set; each conflict is another publisher's success
SERIALS_AT_ONCE = 1_000
# What comes of removing a field that cannot be read, by how its name begins.
_WITHOUT = {
    layout.CRL_NUMBER: "numbers then go on above those of the depot",
    layout.CRL_SHARDS: "crl.shards is then agreed upon anew",
    layout.CRL_ENDED: "but if the CA's last CRL was issued, write its time, such as 2026-01-31T00:00:00Z",
    layout.CRL_PUBLISHED: "a complete CRL is then issued",
    layout.CRL_REGULAR: "the next complete CRL then leaves nothing out",
    layout.CRL_LET_GO: "expired entries are then kept until the next complete CRL",
    layout.CRL_BASE: "a complete CRL then comes before the next delta",
}


@dataclass(frozen=True, slots=True)
class CRLBase:
    """A complete CRL upon which delta CRLs may be based: of which instant it is.

    ``cut``: by partition, the number of the last journal entry that it has seen. ``history``: ``Store.run_id`` of then;
    under another one journal numbers may mean something else. ``ahead``: serials (hex) whose revocation was known and
    lay ahead, so that it is not in the CRL. ``regular_cut``: the cut of the last complete CRL that was issued by schedule, filled
    in by ``Store.publish_crls``; what changed since then is not left out yet, however long ago it has expired.
    """

    number: int
    cut: tuple[int, ...]
    history: str
    ahead: tuple[str, ...] = ()
    regular_cut: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """One CRL that is to be published. ``text``: what its slot shall say, the JSON of crl.published.Published.

    ``mirrored``: another issuer's, whose number was not reserved here; None: it has none. Of a complete CRL of ours:
    ``regular``: it was issued by schedule; ``let_go``: it left out what had expired before this second (0: nothing);
    ``base``: delta CRLs will be based upon it.
    """

    slot: str
    text: str
    number: int | None
    this_update: int
    mirrored: bool = False
    regular: bool = False
    let_go: int | None = None
    base: CRLBase | None = None


@dataclass(frozen=True, slots=True)
class CRLState:
    """What ``rc:crl:<ca>`` says; by slot where that is said. ``published``: the texts of ``Publication``."""

    number: int = 0
    shards: int | None = None
    ended: int | None = None  # when the last CRL was issued
    published: Mapping[str, str] = field(default_factory=dict)
    regular: Mapping[str, int] = field(default_factory=dict)
    let_go: Mapping[str, int] = field(default_factory=dict)
    bases: Mapping[str, CRLBase] = field(default_factory=dict)

    @property
    def all_let_go(self) -> int | None:
        """The certificates that expired before this are on none of the CA's CRLs; None: it issues none."""
        return min(self.let_go.values(), default=None)


@dataclass(frozen=True, slots=True)
class Changed:
    """A serial whose revocation changed: the number of its last journal entry, and whether base or a CRL since may list it."""

    number: int
    may_be_listed: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Chunks that have changed, by their number, as serials in hex and texts in turn; ``whole``: nothing else has, at one instant."""

    whole: bool
    numbers: tuple[int, ...]
    overrides: tuple[str, ...]
    chunks: dict[int, list[bytes]]


class CRLStore(StoreBase):
    """CRLs' part of the store."""

    # --- the revoked ------------------------------------------------------------------------------------------------

    def read_revoked_chunks(self, ca: str) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (number, serials in hex and status texts in turn) of every chunk, in order; not of one instant."""
        places = (place for chunk in range(CHUNKS) for place in range(chunk, 1 << layout.REVOKED_BITS, CHUNKS))
        for chunk, parts in enumerate(batches(self._read_hashes(ca, places), HASHES_OF_CHUNK)):
            yield chunk, list(chain.from_iterable(parts))

    def _read_hashes(self, ca: str, places: Iterator[int]) -> Iterator[list[bytes]]:
        """Yield hashes of the revoked index, as replies of HGETALL, in order."""
        pending, at_once = deque[tuple[list[str], Pending]](), HASHES_OF_CHUNK
        while True:
            while len(pending) < READS_AHEAD and (batch := list(islice(places, at_once))):
                keys = [self.layout.revoked(ca, place) for place in batch]
                pending.append((keys, self._link.send([("HGETALL", key) for key in keys])))
            if not pending:
                return
            keys, sent = pending.popleft()
            replies = [self._hash(key, reply) for key, reply in zip(keys, sent.result(), strict=True)]
            at_once = min(MOST_READ_AT_ONCE, READ_ITEMS * len(replies) // (sum(map(len, replies)) + 1) + 1)
            yield from replies

    def _hash(self, key: str, reply: Any) -> list[bytes]:
        try:
            found: list[bytes] = self._link.good(reply)
        except StoreDamaged as error:
            raise StoreDamaged(f"{key} is no hash ({error}); remove it: redis-cli DEL {key}") from error
        return found

    def cut(self, ca: str, seen: Sequence[int], patience: int = 1) -> Cut:
        """Return the chunks that changed since the journal numbers ``seen``, and the numbers now, of one instant.

        Where that is more than ``patience`` times ``CUT_FIELDS`` it is a part, not ``whole``: to be asked for again. Raises
        CommitConflict where a journal does not go on from what was seen: trimmed, or of another history.
        """
        arguments: list[Any] = [ca, patience * CUT_FIELDS]
        for p in PARTITIONS:
            start = self.layout.revoked(ca, p).removesuffix(f"{p:x}")
            arguments += (self.layout.journal(p), start, self.layout.override(ca, p), seen[p])
        keys = [self.layout.changed(ca, p) for p in PARTITIONS]
        reply = self._run([("EVALSHA", crl_scripts.CUT.sha, len(keys), *keys, *arguments)], crl_scripts.CUT)[0]
        if reply[0] == 0:
            raise CommitConflict(f"{reply[1].decode()} does not go on from what was read")
        _, whole, numbers, overrides, flat = reply
        chunks = {chunk: list(chain.from_iterable(parts)) for chunk, parts in values.pairs(flat).items()}
        return Cut(bool(whole), tuple(numbers), tuple(text.decode() for text in overrides), chunks)

    # --- what changed since a base ----------------------------------------------------------------------------------

    def keep_changes(self, ca: str) -> None:
        """Have every change of a revocation kept from now on: before the cut of the first base is begun."""
        self._each_changed_set(crl_scripts.KEEP, {p: (ca, self.layout.journal(p)) for p in PARTITIONS})

    def forget_changes(self, ca: str, cut: Sequence[int]) -> None:
        """Forget the changes up to a cut that every base has seen."""
        self._each_changed_set(crl_scripts.FORGET, {p: (ca, cut[p]) for p in PARTITIONS})

    def drop_changes(self, ca: str) -> None:
        """Keep no changes any more: the CA issues no delta CRLs."""
        self._write([("UNLINK", self.layout.changed(ca, p)) for p in PARTITIONS])

    def forget_bases(self, ca: str) -> None:
        """Let go of what deltas would need: the CA's CRLs are not issued here any more, and its changes would be kept for ever.

        Numbers stay, and ``let_go`` too: it says what no CRL has any more, and a series that goes on later must not claim it.
        """
        _, fields = self._state(ca)
        bases = [(name, text, "") for name, text in fields.items() if name.startswith(layout.CRL_BASE)]
        if self._swap(ca, bases):  # else somebody issues all the same
            self.drop_changes(ca)

    def _each_changed_set(self, script: scripts.Script, arguments: Mapping[int, tuple[str, Any]]) -> None:
        commands = [("EVALSHA", script.sha, 1, self.layout.changed(ca, p), what) for p, (ca, what) in arguments.items()]
        self._write(commands, script)

    def count_changes(self, ca: str) -> int | None:
        """Return how many changes are kept, about; None: none are, since nobody asked for it."""
        keys = [self.layout.changed(ca, p) for p in PARTITIONS]
        counts = self._read([("ZCARD", key) for key in keys])
        return sum(counts) if any(self._read([("ZSCORE", key, layout.BASE_MEMBER) for key in keys])) else None

    def changed_since(self, ca: str, after: Sequence[int]) -> dict[bytes, Changed] | None:
        """Return the serials whose revocation changed after journal numbers, by partition.

        None: not all changes since then were kept.
        """
        found: dict[bytes, Changed] = {}
        replies = self._read([("ZRANGE", self.layout.changed(ca, p), 0, -1, "WITHSCORES") for p in PARTITIONS])
        for p, flat in zip(PARTITIONS, replies, strict=True):
            numbers = {name.decode(): int(float(score)) for name, score in values.pairs(flat).items()}
            if numbers.get(layout.BASE_MEMBER, after[p] + 1) > after[p]:
                return None
            for name, number in numbers.items():
                if number > after[p] and name[0] != "." and not name.endswith(layout.LISTED_MARK):
                    listed = numbers.get(name + layout.LISTED_MARK, 0) > after[p]
                    found[bytes.fromhex(name)] = Changed(number, listed)
        return found

    def read_revoked_texts(self, ca: str, serials: Sequence[bytes]) -> dict[bytes, str]:
        """Return the status texts of those that are revoked."""
        found: dict[bytes, str] = {}
        for batch in batches(serials, SERIALS_AT_ONCE):
            commands = [("HGET", self.layout.revoked(ca, layout.serial_hash(one)), one.hex()) for one in batch]
            for octets, text in zip(batch, self._read(commands), strict=True):
                if text is not None:
                    found[octets] = text.decode()
        return found

    # --- numbers, and what is published -----------------------------------------------------------------------------

    def crl_state(self, ca: str) -> CRLState:
        """Return what is known of a CA's CRLs; raises StoreDamaged for a field that nobody of ours wrote."""
        return self._state(ca)[0]

    def _state(self, ca: str) -> tuple[CRLState, dict[str, str]]:
        key = self.layout.crl(ca)
        kind, flat = self._link.pipeline([("TYPE", key), ("HGETALL", key)])
        if (found := self._link.good(kind)) not in (b"hash", b"none"):
            raise StoreDamaged(f"{key} is a {found.decode()} and no hash; remove it: redis-cli DEL {key}")
        read_fields = values.pairs(self._link.good(flat)).items()
        fields = {name.decode("utf-8", "replace"): text.decode("utf-8", "replace") for name, text in read_fields}

        def read(start: str, parse: Callable[[str], _Value]) -> dict[str, _Value]:
            found: dict[str, _Value] = {}
            for name, text in fields.items():
                if name.startswith(start):
                    try:
                        found[name.removeprefix(start)] = parse(text)
                    except (ValueError, KeyError, TypeError) as error:
                        raise _damaged(key, name, text, error) from error
            return found

        return CRLState(
            number=read(layout.CRL_NUMBER, int).get("", 0),
            shards=read(layout.CRL_SHARDS, int).get(""),
            ended=read(layout.CRL_ENDED, parse_utc).get(""),
            published=read(layout.CRL_PUBLISHED, str),
            regular=read(layout.CRL_REGULAR, parse_utc),
            let_go=read(layout.CRL_LET_GO, parse_utc),
            bases=read(layout.CRL_BASE, _base),
        ), fields

    def agree_shards(self, ca: str, shards: int) -> int:
        """Return in how many shards the CA's CRLs are divided for ever; ``shards`` is what whoever comes first says."""
        for _ in range(SWAP_TRIES):
            state = self.crl_state(ca)
            if state.shards is not None:
                return state.shards
            self._swap(ca, [(layout.CRL_SHARDS, "", str(shards))])
        raise StoreOutrun(f"the number of shards of {ca} could not be agreed upon")

    def reserve_number(self, ca: str, seen: int, number: int) -> None:
        """Give a CRL number away, unless another than ``seen`` was given away last: then raises CommitConflict.

        As a write that waits for the replicas it also vouches for every status that was read before. Where its reply is
        lost the number may be given away: it is never used then.
        """
        asked = [(layout.CRL_NUMBER, str(seen) if seen else "", str(number)), (layout.CRL_ENDED, "", "")]
        if not self._swap(ca, asked):
            raise CommitConflict(f"another CRL of {ca} was begun meanwhile, or its last CRL was issued")

    def publish_crls(self, ca: str, publications: Sequence[Publication]) -> None:
        """Say that CRLs are published, all at once, and forget the changes that are in all bases. Those of one call may share
        their number.

        Raises CommitConflict where number or thisUpdate of a slot would go back, or where a greater number was given
        away since: what is published stays then.
        """
        for _ in range(SWAP_TRIES):
            _, fields = self._state(ca)
            swaps: list[tuple[str, str, str]] = []
            for one in publications:
                name = layout.CRL_PUBLISHED + one.slot
                if fields.get(name) != one.text:  # else an earlier try whose reply was lost
                    _check_follows(one, fields.get(name), self.layout.crl(ca))
                new = {name: one.text}
                if one.regular:
                    new[layout.CRL_REGULAR + one.slot] = format_utc(one.this_update)
                if one.let_go is not None:
                    new[layout.CRL_LET_GO + one.slot] = format_utc(one.let_go)
                if one.base is not None:
                    base = replace(one.base, regular_cut=_regular_cut(one, one.base, fields))
                    new[layout.CRL_BASE + one.slot] = json.dumps(asdict(base))
                swaps += [(name, fields.get(name, ""), text) for name, text in new.items()]
                if not one.mirrored:
                    if fields.get(layout.CRL_NUMBER) != str(one.number):
                        raise CommitConflict(f"{one.slot}: a greater number than {one.number} was given away meanwhile")
                    swaps.append((layout.CRL_NUMBER, str(one.number), str(one.number)))
            if self._swap(ca, swaps):
                self._forget_what_all_bases_have(ca, publications)
                return
        raise StoreOutrun(f"what is published of {ca} met a conflict {SWAP_TRIES} times")

    def _forget_what_all_bases_have(self, ca: str, publications: Sequence[Publication]) -> None:
        history = next((one.base.history for one in publications if one.base is not None), None)
        if history is not None:
            # One of another history is of no use any more (crl/snapshot.py).
            cuts = [base.regular_cut for base in self.crl_state(ca).bases.values() if base.history == history]
            self.forget_changes(ca, [min(numbers) for numbers in zip(*cuts, strict=True)])

    def end_crls(self, ca: str, at: float) -> None:
        """Say that the CA's last CRL is published: no number is given away any more. For ever."""
        self._swap(ca, [(layout.CRL_ENDED, "", format_utc(at))])

    def _swap(self, ca: str, fields: Iterable[tuple[str, str, str]]) -> bool:
        arguments = [text for one in fields for text in one]
        command = ("EVALSHA", crl_scripts.SWAP.sha, 1, self.layout.crl(ca), *arguments)
        return bool(self._write([command], crl_scripts.SWAP)[0][0])

    def lease_crls(self, ca: str, holder: str, seconds: float) -> bool:
        """Take or keep the lease of a CA's CRLs; 0 seconds gives it back. False: another holder has it.

        It only saves work: without it numbers would be wasted, not used twice.
        """
        command = ("EVALSHA", crl_scripts.LEASE.sha, 1, self.layout.crl_lease(ca), holder, int(seconds * 1000))
        return bool(self._run([command], crl_scripts.LEASE)[0] == holder.encode())

    # --- bodies, for other machines ---------------------------------------------------------------------------------

    def put_crl_body(self, ca: str, sha256: str, pieces: Iterable[bytes], expires_at: int) -> None:
        """Store a CRL in pieces of ``layout.CRL_BODY_CHUNK`` octets, each until ``expires_at``; before it is published."""
        commands = (
            [("SET", self.layout.crl_body(ca, sha256, number), piece, "EXAT", expires_at)]
            for number, piece in enumerate(pieces)
        )
        for replies, _ in self._link.write_pipelines(commands, []):
            for reply in replies:
                self._link.good(reply)

    def read_crl_body(self, ca: str, sha256: str, size: int) -> Iterator[bytes]:
        """Yield a CRL of ``size`` octets in pieces; raises StoreUnavailable where one is not there. To be hashed."""
        for number in range(_pieces(size)):
            piece: bytes | None = self._link.call("GET", self.layout.crl_body(ca, sha256, number))
            if piece is None:
                raise StoreUnavailable(f"{self.layout.crl_body(ca, sha256, number)} is not there")
            yield piece

    def drop_crl_body(self, ca: str, sha256: str, size: int) -> None:
        """Remove a CRL that nobody fetches any more."""
        names: list[Command] = [("UNLINK", self.layout.crl_body(ca, sha256, number)) for number in range(_pieces(size))]
        for batch in batches(names, SERIALS_AT_ONCE):
            self._write(batch)


def _damaged(key: str, name: str, text: str, error: Exception) -> StoreDamaged:
    without = next(words for start, words in _WITHOUT.items() if name.startswith(start))
    return StoreDamaged(
        f"{key} holds a field that is not understood: {name} = {text[:60]!r} ({error}); remove it: redis-cli HDEL {key} {name}; {without}"
    )


def _check_follows(one: Publication, stands: str | None, key: str) -> None:
    """Raise CommitConflict unless a CRL may come after the one that stands in a slot of ``key`` (CRL-07, DLT-03)."""
    if stands is None:
        return
    try:
        known = json.loads(stands)
        number, this_update = known["number"], int(known["this_update"])
    except (ValueError, KeyError, TypeError) as error:
        if not one.mirrored:
            return  # the number that was reserved is above all that were given away, so nothing newer can have stood there
        raise _damaged(key, layout.CRL_PUBLISHED + one.slot, stands, error) from error
    if number is not None and (one.number is None or one.number <= number):
        raise CommitConflict(f"{one.slot}: a CRL with the number {number} is published, and this one has {one.number}")
    if one.this_update < this_update or (one.number is None and one.this_update == this_update):
        raise CommitConflict(f"{one.slot}: a CRL of {format_utc(this_update)} is published, and this one is older")


def _regular_cut(one: Publication, base: CRLBase, fields: Mapping[str, str]) -> tuple[int, ...]:
    before = fields.get(layout.CRL_BASE + one.slot)
    if one.regular or before is None or _base(before).history != base.history:
        return base.cut
    return _base(before).regular_cut


def _base(text: str) -> CRLBase:
    raw = json.loads(text)
    cut, regular_cut = (tuple(int(number) for number in raw[name]) for name in ("cut", "regular_cut"))
    if len(cut) != layout.PARTITIONS or len(regular_cut) != layout.PARTITIONS:
        raise ValueError(f"a base's cuts must have {layout.PARTITIONS} numbers")
    return CRLBase(int(raw["number"]), cut, str(raw["history"]), tuple(raw["ahead"]), regular_cut)


def _pieces(size: int) -> int:
    return -(-size // layout.CRL_BODY_CHUNK)
