"""Snapshots of what is revoked: of one instant, whoever writes meanwhile; and what changed since a base."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath.crl_entries import Terms, encode_entries, unpack_records
from responder.crl.numbering import Instant
from responder.crl.snapshot import Snapshot, take_changes, take_snapshot
from responder.errors import PublicationRefused, StoreUnavailable
from responder.store.crl_store import Publication
from responder.store.layout import serial_hash
from responder.store.redis_store import Store
from tests.redis_fixture import RedisServer, start_redis
from tests.store_room import CA, GOOD, HOLD, NAMES, OTHER_CA, REVOKED, open_ca, put, serials

NOW = 1_795_700_000
AHEAD = "revoked 2027-11-20T10:00:00Z superseded exp=2030-12-31T23:59:59Z"
EXPIRED = "revoked 2026-10-20T10:00:00Z superseded exp=2026-11-01T00:00:00Z"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give one server to all tests here; each empties it."""
    made = start_redis()
    yield made
    made.stop()


@pytest.fixture
def store(server: RedisServer) -> Store:
    """Give an empty CA that was loaded."""
    server.client().flushall()
    made = open_ca(server)
    made.set_as_of(CA, NOW)
    return made


@pytest.fixture
def take(store: Store, tmp_path: Path) -> Iterator[Callable[..., Snapshot]]:
    """Return a function that takes snapshots; they are closed with the test."""
    taken: list[Snapshot] = []

    def one(progress: Callable[[int, int], None] = lambda _done, _of: None) -> Snapshot:
        taken.append(take_snapshot(store, CA, tmp_path / f"spool{len(taken)}", progress))
        return taken[-1]

    yield one
    for snapshot in taken:
        snapshot.close()


def records(chunks: Iterator[bytes]) -> dict[bytes, str]:
    """Return {serial: text}; fails unless they come in the order of a CRL's entries, each once."""
    found = [(serial, text.decode()) for chunk in chunks for serial, text in unpack_records(chunk)]
    order = [(serial_hash(serial) & 4095, len(serial), serial) for serial, _ in found]
    assert order == sorted(set(order))
    return dict(found)


def revoke(store: Store, *octets: bytes, text: str = REVOKED) -> None:
    """Revoke, each in a commit of its own."""
    for one in octets:
        put(store, {one: text}, "revoked")


def publish(store: Store, snapshot: Snapshot, number: int, slot: str = "full", *, regular: bool = True) -> None:
    """Publish the complete CRL of a snapshot as a base; ``regular``: by schedule."""
    store.reserve_number(CA, store.crl_state(CA).number, number)
    said = f'{{"number": {number}, "this_update": {snapshot.as_of}}}'
    base = snapshot.base(number, NOW)
    store.publish_crls(CA, [Publication(slot, said, number, snapshot.as_of, regular=regular, base=base)])


# --- complete -----------------------------------------------------------------------------------------------------------


def test_everything_revoked_is_there_once_and_in_order(store: Store, take: Callable[..., Snapshot]) -> None:
    mine = serials(400)
    expected = {octets: (REVOKED, HOLD, AHEAD, EXPIRED)[at % 4] for at, octets in enumerate(mine[:300])}
    put(store, expected | dict.fromkeys(mine[300:], GOOD))
    store.ensure_ca(OTHER_CA, name="other", subject="CN=Other", certificate=b"\x30\x00")
    snapshot = take()
    assert records(snapshot.chunks()) == records(snapshot.chunks()) == expected
    assert (snapshot.count, snapshot.as_of) == (300, NOW)
    assert snapshot.instant.cut == tuple(store.journal_ends().values())


def early_and_late(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield pairs of serials in different partitions: the first is read early in a scan, the second late."""
    number = 0
    for _ in range(count):
        found: dict[bool, bytes] = {}
        while len(found) < 2:
            number += 1
            octets = b"\x01" + number.to_bytes(4, "big")
            place = serial_hash(octets) & 4095
            if place < 256 or place >= 3_840:
                found.setdefault(place < 256, octets)
        yield found[True], found[False]


def test_what_is_committed_during_the_scan_is_there_whole(store: Store, take: Callable[..., Snapshot]) -> None:
    """A, then B: the scan has passed A's place and not yet B's. Released ones are gone likewise."""
    (first, second), (hold, _) = early_and_late(2)
    put(store, {hold: HOLD}, "revoked")

    def meanwhile(done: int, of: int) -> None:
        assert of == 4096
        if done == 2048:
            revoke(store, first, second)
            put(store, {hold: GOOD}, "released")

    snapshot = take(meanwhile)
    assert records(snapshot.chunks()) == {first: REVOKED, second: REVOKED}
    assert snapshot.count == 2


def test_b_is_never_there_without_a(
    server: RedisServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three writers revoke A and then B, in other partitions, all the time, faster than one cut can read; they never stop."""
    monkeypatch.setattr("responder.store.crl_store.CUT_FIELDS", 3_000)
    ended = threading.Event()
    committed: list[tuple[bytes, bytes]] = []
    pairs = iter(list(early_and_late(4_000)))
    lock = threading.Lock()

    def write(mine: Store) -> None:
        while not ended.is_set():
            with lock:
                pair = next(pairs, None)
            if pair is None:
                return
            revoke(mine, *pair)
            committed.append(pair)

    writers = [threading.Thread(target=write, args=(server.store(),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        seen: set[bytes] = set()
        for at in range(4):
            before = list(committed)
            with take_snapshot(store, CA, tmp_path / f"spool{at}") as snapshot:
                found = records(snapshot.chunks()).keys()
            assert found >= seen, "revoked for good, and gone again"
            assert found >= {octets for pair in before for octets in pair}, "committed before it began"
            seen = set(found)
            torn = [first.hex() for first, second in [*committed] if second in found and first not in found]
            assert torn == []
            assert len(committed) > len(before), "nobody wrote meanwhile: this shows nothing"
    finally:
        ended.set()
        for writer in writers:
            writer.join(10)


def test_a_journal_that_was_trimmed_under_it_means_another_try(
    server: RedisServer, store: Store, take: Callable[..., Snapshot]
) -> None:
    (pair, other) = early_and_late(2)
    tries: list[int] = []

    def meanwhile(done: int, _of: int) -> None:
        if done == 256:
            tries.append(done)
        if done == 2048 and len(tries) == 1:
            revoke(store, *pair, *other)
            for p in range(16):
                server.client().xtrim(NAMES.journal(p), maxlen=0, approximate=False)

    assert records(take(meanwhile).chunks()).keys() == {*pair, *other}
    assert len(tries) == 2

    def always(done: int, _of: int) -> None:
        if done == 2048:
            put(store, {pair[0]: HOLD}, "changed")
            for p in range(16):
                server.client().xtrim(NAMES.journal(p), maxlen=0, approximate=False)

    with pytest.raises(StoreUnavailable, match="as of one instant"):
        take(always)


def test_another_server_in_between_means_another_try(
    store: Store, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover: what was read before may be another history."""
    runs = iter(["a", "b", "b", "b"])
    monkeypatch.setattr(Store, "run_id", lambda _self: next(runs))
    assert take().instant.history == "b"


def test_without_a_reading_there_is_no_crl(server: RedisServer, store: Store, take: Callable[..., Snapshot]) -> None:
    server.client().hdel(NAMES.ca(CA), "as_of")
    with pytest.raises(PublicationRefused, match=r"^source: the CA's database was not read yet"):
        take()


@pytest.mark.clause("RFC 6960", "2.7", "MAY")
@pytest.mark.parametrize("split", [False, True])
def test_an_override_lists_every_certificate(store: Store, take: Callable[..., Snapshot], split: bool) -> None:
    """As OCSP says it: with the override's time and reason and each certificate's own expiry. No delta could say it."""
    override = "revoked 2026-11-21T00:00:00Z cACompromise by=operator"
    mine = serials(60)
    put(store, {octets: (GOOD, REVOKED, HOLD)[at % 3] for at, octets in enumerate(mine)})
    if split:
        for number in (0, 3, 16, 7):
            store.split_bucket(CA, store.read_status_bucket(CA, number))
        store.grow(CA, 6)
    store.keep_changes(CA)
    publish(store, take(), 1)
    store.set_override(CA, override)
    snapshot = take()
    said = "revoked 2026-11-21T00:00:00Z cACompromise exp=2030-12-31T23:59:59Z by=operator"
    assert records(snapshot.chunks()) == dict.fromkeys(mine, said)
    assert snapshot.count == 60
    assert snapshot.changes(store, ["full"]) is None
    assert take_changes(store, CA, ["full"]) is None
    assert snapshot.base(2, NOW) is None
    # One that lies ahead takes nothing from what is revoked already.
    store.set_override(CA, override.replace("2026", "2099"))
    ahead = records(take().chunks())
    assert [ahead[octets][:12] for octets in mine[:3]] == ["revoked 2099", "revoked 2026", "revoked 2026"]
    store.clear_override(CA)
    assert records(take().chunks()).keys() == {octets for at, octets in enumerate(mine) if at % 3}


def test_an_override_that_is_not_of_one_instant(
    server: RedisServer, store: Store, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that revokes nothing, or is no status, is no CRL; one that is cleared under the reading means another try."""
    (octets,) = serials(1)
    put(store, {octets: REVOKED}, "revoked")
    store.set_override(CA, "good")
    with pytest.raises(PublicationRefused, match=r"^override: .*no CRL can say it: good"):
        take()
    store.set_override(CA, "revoked soon")
    with pytest.raises(StoreUnavailable, match="no status"):
        take()
    store.set_override(CA, HOLD)
    read = Store.read_status_buckets

    def then(self: Store, *what: Any) -> Any:
        found = read(self, *what)
        store.clear_override(CA)
        return found

    monkeypatch.setattr(Store, "read_status_buckets", then)
    assert records(take().chunks()) == {octets: REVOKED}


def test_what_is_no_status_is_named(server: RedisServer, store: Store, take: Callable[..., Snapshot]) -> None:
    server.client().hset(NAMES.revoked(CA, 0x123), "zz", REVOKED)
    with pytest.raises(StoreUnavailable, match=r"no status among the revoked \(chunk 123\)"):
        take()


def test_memory_is_flat(server: RedisServer, store: Store, take: Callable[..., Snapshot]) -> None:
    """Four times as many serials: the same memory, for neither taking nor reading."""
    chance = iter(range(1, 10**9))

    def fill(count: int) -> None:
        with server.client().pipeline(transaction=False) as pipe:
            for _ in range(count):
                octets = b"\x01" + next(chance).to_bytes(8, "big")
                pipe.hset(NAMES.revoked(CA, serial_hash(octets)), octets.hex(), REVOKED)
            pipe.execute()

    def peak() -> int:
        tracemalloc.start()
        for chunk in take().chunks():
            assert chunk
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    fill(4_000)
    peak()  # whatever is made once
    few = peak()
    fill(12_000)
    assert peak() < few + 16_000 * 40, "a serial and its status take 130 octets"


# --- changes since a base -------------------------------------------------------------------------------------------------


def test_changes_are_those_since_the_base(store: Store, take: Callable[..., Snapshot]) -> None:
    """RFC 5280 §5.2.4: new ones, other reasons, releases of what was on the base or on a delta; nothing else."""
    old, held, again, fresh, brief, listed = serials(6)
    put(store, {old: REVOKED, held: HOLD, again: HOLD, fresh: GOOD, brief: GOOD, listed: GOOD})
    assert take_changes(store, CA, ["full"]) is None, "there is no base"
    store.keep_changes(CA)
    revoke(store, *serials(8)[6:])  # before the cut: in the base
    publish(store, take(), 1)
    nothing = take_changes(store, CA, ["full"])
    assert nothing is not None
    assert records(nothing.chunks("full")) == {}
    put(store, {held: GOOD}, "released")
    revoke(store, fresh)
    revoke(store, again)  # for good now
    put(store, {brief: HOLD}, "revoked")
    put(store, {brief: GOOD}, "released")
    put(store, {listed: HOLD}, "revoked")
    first = take_changes(store, CA, ["full"])
    assert first is not None
    assert records(first.chunks("full")) == {held: "", fresh: REVOKED, again: REVOKED, listed: HOLD}
    assert first.base("full").number == 1
    put(store, {listed: GOOD}, "released")
    second = take_changes(store, CA, ["full"])
    assert second is not None
    # `listed` was never on the base, but on a delta (DLT-05).
    assert records(second.chunks("full")) == {held: "", fresh: REVOKED, again: REVOKED, listed: ""}
    assert second.instant.cut == tuple(store.journal_ends().values())


def test_a_delta_beside_a_complete_crl_is_of_the_same_instant(store: Store, take: Callable[..., Snapshot]) -> None:
    """DLT-03: the same number, hence the same information; what is changed between the two is in neither."""
    held, fresh, later, changed_later = serials(4)
    put(store, {held: HOLD, fresh: GOOD, later: GOOD, changed_later: GOOD})
    store.keep_changes(CA)
    publish(store, take(), 1)
    put(store, {held: GOOD}, "released")
    revoke(store, fresh)
    put(store, {changed_later: HOLD}, "revoked")
    snapshot = take()
    revoke(store, later)
    put(store, {changed_later: GOOD}, "released")
    changes = snapshot.changes(store, ["full"])
    assert changes is not None
    assert records(changes.chunks("full")) == {held: "", fresh: REVOKED, changed_later: HOLD}
    assert records(snapshot.chunks()) == {fresh: REVOKED, changed_later: HOLD}
    assert changes.instant == snapshot.instant
    publish(store, snapshot, 2)
    after = take_changes(store, CA, ["full"])
    assert after is not None
    assert records(after.chunks("full")) == {later: REVOKED, changed_later: ""}


def test_changes_while_others_write_are_of_one_instant(
    store: Store, take: Callable[..., Snapshot], monkeypatch: Any
) -> None:
    """A, then B, after the changed sets were read: both are there, or neither; what was released is."""
    (first, second), (hold, known) = early_and_late(2)
    put(store, {hold: HOLD, known: GOOD})
    store.keep_changes(CA)
    publish(store, take(), 1)
    revoke(store, known)
    read = Store.read_revoked_texts

    def slowly(self: Store, ca: str, wanted: Any) -> dict[bytes, str]:
        found = read(self, ca, wanted)
        revoke(store, first, second)
        put(store, {hold: GOOD}, "released")
        put(store, {known: HOLD}, "changed")
        return found

    monkeypatch.setattr(Store, "read_revoked_texts", slowly)
    changes = take_changes(store, CA, ["full"])
    assert changes is not None
    assert records(changes.chunks("full")) == {first: REVOKED, second: REVOKED, hold: "", known: HOLD}


def test_what_comes_after_the_cut_is_not_in_the_changes(
    store: Store, take: Callable[..., Snapshot], monkeypatch: Any
) -> None:
    before, after = serials(2)
    store.keep_changes(CA)
    publish(store, take(), 1)
    revoke(store, before)
    cut = Store.cut

    def then(self: Store, *what: Any) -> Any:
        found = cut(self, *what)
        revoke(store, after)
        return found

    monkeypatch.setattr(Store, "cut", then)
    changes = take_changes(store, CA, ["full"])
    assert changes is not None
    assert records(changes.chunks("full")) == {before: REVOKED}


def test_a_revocation_dated_ahead_at_the_base_comes_with_the_deltas(
    store: Store, take: Callable[..., Snapshot]
) -> None:
    """Nothing changes in Redis when its time comes."""
    ahead, other = serials(2)
    revoke(store, ahead, text=AHEAD)
    revoke(store, other)
    store.keep_changes(CA)
    publish(store, take(), 1)
    for _ in range(2):
        changes = take_changes(store, CA, ["full"])
        assert changes is not None
        assert records(changes.chunks("full")) == {ahead: AHEAD}
        (chunk,) = changes.chunks("full")
        early, late = (encode_entries(chunk, Terms(now, delta=True)) for now in (NOW, NOW + 400 * 86_400))
        assert (early.count, late.count) == (0, 1)
        assert early.soonest_ahead is not None
        publish(store, take(), store.crl_state(CA).number + 1)
    put(store, {ahead: None}, "purged")  # type: ignore[dict-item]
    gone = take_changes(store, CA, ["full"])
    assert gone is not None


def test_what_a_delta_had_stays_until_a_crl_by_schedule_had_it(store: Store, take: Callable[..., Snapshot]) -> None:
    """DLT-06, CRL-09: what was revoked since the last one is told without its expiry, so that nothing drops it."""
    old, late = serials(2)
    put(store, {old: EXPIRED, late: GOOD})
    store.keep_changes(CA)
    publish(store, take(), 1)
    revoke(store, late, text=EXPIRED)
    for number, regular in ((2, False), (3, True)):
        snapshot = take()
        assert records(snapshot.chunks()) == {old: EXPIRED, late: EXPIRED.partition(" exp=")[0]}
        terms = Terms(NOW, drop_expired_before=NOW)
        assert sum(encode_entries(chunk, terms).count for chunk in snapshot.chunks()) == 1
        publish(store, snapshot, number, regular=regular)
        changes = take_changes(store, CA, ["full"])
        assert changes is not None
        assert records(changes.chunks("full")) == {}, "it is in the base"
    assert records(take().chunks()) == {old: EXPIRED, late: EXPIRED}


def test_after_very_many_changes_there_is_no_delta_and_nothing_leaves(
    store: Store, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mass revocation: the delta would be as large as the complete CRL, and all changes would have to be held in memory."""
    store.keep_changes(CA)
    publish(store, take(), 1)
    revoke(store, *serials(60))
    monkeypatch.setattr("responder.crl.snapshot.MOST_CHANGES", 50)
    assert take_changes(store, CA, ["full"]) is None
    snapshot = take()
    assert (snapshot.count, snapshot.changes(store, ["full"])) == (60, None)
    assert (snapshot.instant.state.regular, store.crl_state(CA).regular) == ({}, {"full": NOW})
    publish(store, snapshot, 2)
    assert take_changes(store, CA, ["full"]) is not None
    assert take().instant.state.regular == {"full": NOW}
    store.drop_changes(CA)  # no deltas any more: then nothing can have been on one alone
    assert take().instant.state.regular == {"full": NOW}


def test_each_shard_has_its_own_base(store: Store, take: Callable[..., Snapshot]) -> None:
    first, second, third = serials(3)
    store.keep_changes(CA)
    both = take()
    publish(store, both, 1, "0")
    publish(store, both, 2, "1")
    revoke(store, first)
    publish(store, take(), 3, "1")
    revoke(store, second)
    changes = take_changes(store, CA, ["0", "1"])
    assert changes is not None
    assert records(changes.chunks("0")) == {first: REVOKED, second: REVOKED}
    assert records(changes.chunks("1")) == {second: REVOKED}
    publish(store, take(), 4, "0")
    revoke(store, third)
    assert store.changed_since(CA, changes.base("0").cut) is None, "what every base has was forgotten"
    assert take_changes(store, CA, ["0", "2"]) is None


@pytest.mark.parametrize("loss", ["changed", "base", "restart"])
def test_after_a_loss_there_is_no_delta(
    server: RedisServer, store: Store, take: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    store.keep_changes(CA)
    publish(store, take(), 1)
    assert take_changes(store, CA, ["full"]) is not None
    match loss:
        case "changed":
            server.client().delete(NAMES.changed(CA, 7))
        case "base":
            server.client().hdel(NAMES.crl(CA), "base:full")
        case "restart":
            monkeypatch.setattr(Store, "run_id", lambda _self: "another")
    assert take_changes(store, CA, ["full"]) is None
    assert take().changes(store, ["full"]) is None
    monkeypatch.undo()
    # The next complete CRL makes it good.
    store.keep_changes(CA)
    publish(store, take(), 2)
    assert take_changes(store, CA, ["full"]) is not None


def test_an_instant_knows_what_was_published_before(store: Store, take: Callable[..., Snapshot]) -> None:
    publish(store, take(), 7)
    instant: Instant = take().instant
    assert (instant.state.number, instant.ca) == (7, CA)
