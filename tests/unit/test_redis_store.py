"""The store's statuses, commits, journal and splits, on a real Redis of both versions."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from responder.errors import CommitConflict, StoreUnavailable
from responder.model import serial_to_octets
from responder.store import layout
from responder.store.layout import NEVER_DUE, bucket_number, serial_hash
from responder.store.values import Change, Commit, Committed, NewBucket
from tests.redis_fixture import RedisServer
from tests.store_room import (
    CA,
    GOOD,
    HOLD,
    NAMES,
    OTHER_CA,
    REVOKED,
    answer,
    everything,
    new_bucket,
    open_ca,
    partition,
    put,
    serials,
    serials_of,
)


def test_a_ca_is_written_and_read(each_redis: RedisServer) -> None:
    with each_redis.store() as store:
        assert store.ca_info(CA) is None
        info = store.ensure_ca(CA, name="corp", subject="CN=Corp", certificate=b"\x30\x01\xff")
        assert (info.name, info.subject, info.certificate) == ("corp", "CN=Corp", b"\x30\x01\xff")
        assert (info.bits, info.as_of, info.loaded, info.cursor, info.override) == (None,) * 5
        store.set_as_of(CA, 1_800_000_000.9, cursor="offset 17", loaded=3)
        store.set_sha256_asked(CA, 1_800_000_001)
        info = store.ensure_ca(CA, name="renamed", subject="CN=Corp", certificate=b"\x30\x01\xff")
        assert (info.as_of, info.cursor, info.loaded) == (1_800_000_000, "offset 17", 3)
        assert (info.sha256_asked, info.name) == (1_800_000_001, "renamed")
        assert each_redis.client().hget(NAMES.ca(CA), "as_of") == b"2027-01-15T08:00:00Z"


def test_a_commit_changes_all_that_belongs_together(each_redis: RedisServer) -> None:
    """DESIGN §5: status, revoked index, answers, due time and journal in one script."""
    store, client = open_ca(each_redis), each_redis.client()
    revoked, other = serials_of(3, 4, 2)
    put(store, {revoked: GOOD, other: GOOD})
    answer(store, revoked)
    answer(store, other)
    client.hset(NAMES.answers(CA, 3, "sha256"), mapping={revoked: b"\x00x", other: b"\x00y"})
    client.zadd(NAMES.due(3), {f"{CA}:3": 99.0})
    number = store.commit(CA, 3, 4, [Change(revoked, GOOD, REVOKED, "revoked")], layout.DUE_REVOKED)
    assert store.find_status(CA, revoked) == REVOKED
    assert client.hgetall(NAMES.revoked(CA, serial_hash(revoked))) == {revoked.hex().encode(): REVOKED.encode()}
    assert set(store.read_answer_bucket(CA, 3, "sha1").answers) == {other}
    assert set(store.read_answer_bucket(CA, 3, "sha256").answers) == {other}
    assert client.zscore(NAMES.due(3), f"{CA}:3") == layout.DUE_REVOKED
    (entry,) = store.read_journal({3: number - 1})
    assert (entry.partition, entry.number, entry.ca, entry.bucket) == (3, number, CA, 3)
    assert (entry.kind, entry.serials) == ("revoked", (revoked,))
    # And back: the index holds the revoked alone.
    store.commit(CA, 3, 4, [Change(revoked, REVOKED, GOOD, "released")], 7.0)
    assert not client.exists(NAMES.revoked(CA, serial_hash(revoked)))
    assert client.zscore(NAMES.due(3), f"{CA}:3") == layout.DUE_REVOKED  # the smaller score stays
    store.commit(CA, 3, 4, [Change(revoked, GOOD, None, "purged")], 7.0)
    assert store.find_status(CA, revoked) is None


@pytest.mark.parametrize("wrong", ["old text", "absent", "bits"])
def test_a_conflict_changes_nothing(each_redis: RedisServer, wrong: str) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    first, second = serials_of(3, 4, 2)
    put(store, {first: GOOD, second: REVOKED})
    answer(store, first)
    before = everything(client)
    expected = {"old text": GOOD, "absent": None, "bits": REVOKED}[wrong]
    changes = [Change(first, GOOD, REVOKED, "revoked"), Change(second, expected, GOOD, "released")]
    with pytest.raises(CommitConflict):
        store.commit(CA, 3, 5 if wrong == "bits" else 4, changes, 0)
    assert everything(client) == before


def test_a_commit_of_several_kinds_has_consecutive_numbers(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    a, b, c, d = serials_of(5, 4, 4)
    put(store, {a: GOOD, b: HOLD})
    start = store.journal_ends()[5]
    changes = [
        Change(a, GOOD, REVOKED, "revoked"),
        Change(b, HOLD, GOOD, "released"),
        Change(c, None, GOOD, "new"),
        Change(d, None, GOOD, "new"),
    ]
    assert store.commit(CA, 5, 4, changes, 0) == start + 3
    entries = store.read_journal({5: start})
    assert [(entry.number, entry.kind, entry.serials) for entry in entries] == [
        (start + 1, "revoked", (a,)),
        (start + 2, "released", (b,)),
        (start + 3, "new", (c, d)),
    ]


def test_an_entry_names_at_most_sixteen_serials(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    some = serials_of(0, 4, 33)
    for count, named in ((16, True), (17, False)):
        start = store.journal_ends()[0]
        mine, some = some[:count], some[count:]
        put(store, dict.fromkeys(mine, GOOD))
        (entry,) = store.read_journal({0: start})
        assert entry.serials == (tuple(mine) if named else None)


def test_large_buckets_are_changed_whole(each_redis: RedisServer) -> None:
    """More fields than Lua's unpack takes at once."""
    store, client = open_ca(each_redis), each_redis.client()
    many = serials_of(1, 4, 2_500)
    put(store, dict.fromkeys(many, GOOD))
    client.hset(NAMES.answers(CA, 1, "sha1"), mapping=dict.fromkeys(many, b"\x00x"))
    put(store, dict.fromkeys(many, REVOKED), "revoked")
    assert set(store.read_status_bucket(CA, 1).entries.values()) == {REVOKED}
    assert not client.exists(NAMES.answers(CA, 1, "sha1"))
    indexed = [client.hlen(key) for key in client.scan_iter(f"rc:{{1}}:revoked:{CA}:*", count=5_000)]
    assert sum(indexed) == 2_500
    changes = [Change(octets, REVOKED, None, "purged") for octets in many]
    store.commit(CA, 1, 4, changes, NEVER_DUE)
    assert store.read_status_bucket(CA, 1).entries == {}
    assert not list(client.scan_iter(f"rc:{{1}}:revoked:{CA}:*", count=5_000))


def test_journal_numbers_survive_trimming_and_a_poisoned_end(each_redis: RedisServer) -> None:
    """Numbers are gapless after trimming; a top id that cannot be followed starts the journal anew at 1."""
    store, client = open_ca(each_redis), each_redis.client()
    one, two, three, four, five = serials_of(2, 4, 5)
    put(store, {one: GOOD})
    client.xtrim(NAMES.journal(2), 0)
    put(store, {two: GOOD})
    assert store.journal_ends()[2] == 2
    client.xadd(NAMES.journal(2), {"x": "y"}, id="2-5")
    put(store, {three: GOOD})
    assert [entry.number for entry in store.read_journal({2: 1})] == [2, 2, 3]
    for poisoned in (f"{2**64 - 1}-{2**64 - 1}", f"{2**53 + 1}-0"):
        client.xadd(NAMES.journal(2), {"x": "y"}, id=poisoned)
        put(store, {four: REVOKED}, "revoked")
        assert store.find_status(CA, four) == REVOKED
        assert store.journal_ends()[2] == 1
        put(store, {four: GOOD}, "released")
        assert store.journal_ends()[2] == 2
    client.set("unrelated", "x")
    put(store, {five: GOOD})


def test_foreign_journal_entries_mean_that_anything_may_have_changed(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    client.xadd(NAMES.journal(2), {"x": "y"}, id="1-0")
    client.xadd(NAMES.journal(2), {"ca": CA, "bucket": "zz", "kind": "new", "serials": "01"}, id="2-0")
    client.xadd(NAMES.journal(2), {"ca": CA, "bucket": "2", "kind": "new", "serials": "0g"}, id="3-0")
    assert [(entry.bucket, entry.serials) for entry in store.read_journal({2: 0})] == [(None, None)] * 3


def test_the_journal_is_bounded(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    (one,) = serials_of(2, 4, 1)
    put(store, {one: GOOD})
    texts = itertools.cycle((GOOD, f"{GOOD} by=operator"))
    old = next(texts)
    commits = []
    for _ in range(layout.JOURNAL_MAXLEN + 1_000):
        new = next(texts)
        commits.append(Commit(CA, 2, 4, [Change(one, old, new, "changed")], 5))
        old = new
    assert all(isinstance(made, Committed) for made in store.commit_many(commits))
    length = each_redis.client().xlen(NAMES.journal(2))
    assert layout.JOURNAL_MAXLEN <= length < layout.JOURNAL_MAXLEN + 200
    assert store.journal_ends()[2] == layout.JOURNAL_MAXLEN + 1_001


def test_the_changed_set_records_revocations_once_there_is_a_base(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    a, b, c = serials_of(4, 4, 3)
    put(store, {a: REVOKED}, "revoked")
    assert not client.exists(NAMES.changed(CA, 4))
    client.zadd(NAMES.changed(CA, 4), {layout.BASE_MEMBER: store.journal_ends()[4]})
    put(store, {b: GOOD})
    put(store, {b: REVOKED}, "revoked")
    put(store, {a: GOOD, c: GOOD}, "released")
    changed = dict(client.zrange(NAMES.changed(CA, 4), 0, -1, withscores=True))
    listed = f"{a.hex()}{layout.LISTED_MARK}".encode()  # revoked at the base's cut
    assert changed == {layout.BASE_MEMBER.encode(): 1, b.hex().encode(): 3, a.hex().encode(): 4, listed: 4}


@pytest.mark.parametrize("key", ["answers", "changed", "due", "journal", "revoked"])
def test_a_key_of_a_wrong_type_does_not_stop_a_revocation(each_redis: RedisServer, key: str) -> None:
    """A worker on Redis 6.2 may XADD to any name under the prefix that is not taken."""
    store, client = open_ca(each_redis), each_redis.client()
    (one,) = serials_of(6, 4, 1)
    put(store, {one: GOOD})
    name = {
        "answers": NAMES.answers(CA, 6, "sha1"),
        "changed": NAMES.changed(CA, 6),
        "due": NAMES.due(6),
        "journal": NAMES.journal(6),
        "revoked": NAMES.revoked(CA, serial_hash(one)),
    }[key]
    client.delete(name)
    if key == "journal":
        client.set(name, "x")
    else:
        client.xadd(name, {"x": "y"})
    put(store, {one: REVOKED}, "revoked", due_at=0)
    assert store.find_status(CA, one) == REVOKED
    assert client.hget(NAMES.revoked(CA, serial_hash(one)), one.hex()) == REVOKED.encode()
    assert client.zscore(NAMES.due(6), f"{CA}:6") == 0
    answer(store, one)


def test_a_bucket_is_made_once(each_redis: RedisServer) -> None:
    store, client = each_redis.store(), each_redis.client()
    good, bad = serials_of(7, 6, 2)
    client.hset(NAMES.answers(CA, 7, "sha1"), mapping={good: b"\x00stale"})
    client.zadd(NAMES.expiry(CA, 7), {"7": 9_000})
    (made,) = store.create_many([new_bucket(7, 6, {good: GOOD, bad: REVOKED})])
    assert made == Committed(1, 2)
    assert client.hgetall(NAMES.revoked(CA, serial_hash(bad))) == {bad.hex().encode(): REVOKED.encode()}
    assert not client.exists(NAMES.answers(CA, 7, "sha1"))
    assert client.zscore(NAMES.due(7), f"{CA}:7") == 5
    assert client.zscore(NAMES.expiry(CA, 7), "7") == NEVER_DUE
    before = everything(client)
    (again,) = store.create_many([new_bucket(7, 6, {good: REVOKED})])
    assert isinstance(again, CommitConflict)
    # Nor below one that holds its serials.
    (below,) = store.create_many([new_bucket(7 + 64, 7, {})])
    assert isinstance(below, CommitConflict)
    assert everything(client) == before


def test_a_missing_bucket_is_not_an_absent_serial(each_redis: RedisServer) -> None:
    """Promise 1: Redis empty or evicted means "cannot know"."""
    store, client = open_ca(each_redis), each_redis.client()
    here, there = serials_of(1, 4, 1) + serials_of(9, 4, 1)
    put(store, {here: GOOD, there: REVOKED}, "revoked")
    client.delete(NAMES.status(CA, 9))
    assert store.find_status(CA, here) == GOOD
    for read in (
        lambda: store.find_status(CA, there),
        lambda: store.read_status_bucket(CA, 9),
        lambda: store.locate(CA, [here, there], bits=12),
        lambda: store.locate(OTHER_CA, [here]),
    ):
        with pytest.raises(StoreUnavailable, match="lost"):
            read()
    with pytest.raises(CommitConflict):
        store.commit(CA, 9, 4, [Change(there, None, GOOD, "new")], 0)
    assert store.bucket_map(CA, 4).missing == {9}


def test_serials_are_found_at_every_depth(each_redis: RedisServer) -> None:
    """Buckets of a CA lie at different depths; whatever the first guess is, each serial is found in its own."""
    store = open_ca(each_redis)
    mine = serials(300)
    put(store, {octets: f"{GOOD} invalid=2026-01-01T00:00:{at % 60:02}Z" for at, octets in enumerate(mine)})
    expected = {octets: store.find_status(CA, octets) for octets in mine}
    chance = random.Random(7)
    for _ in range(60):
        buckets = store.bucket_map(CA, 4)
        number = chance.choice(list(buckets.buckets))
        if buckets.buckets[number] < 9:
            number, child = store.split_bucket(CA, store.read_status_bucket(CA, number))
            assert child == number + (1 << buckets.buckets[number])
    buckets = store.bucket_map(CA, 4)
    assert not buckets.missing
    assert sum(2.0**-bits for bits in buckets.buckets.values()) == 1.0
    store.grow(CA, buckets.bits)
    for guess in (None, 4, 7, 9, 12):
        places = store.locate(CA, mine, guess)
        assert {octets: place.text for octets, place in zip(mine, places, strict=True)} == expected
        for octets, place in zip(mine, places, strict=True):
            assert buckets.buckets[place.bucket] == place.bits
            assert buckets.leaves[bucket_number(serial_hash(octets), buckets.bits)] == place.bucket
    assert [place.text for place in store.locate(CA, serials(40, seed=99)[1:])] == [None] * 39


def test_a_split_moves_answers_headers_and_due_time(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    stays, moves = serials_of(3, 5, 1) + serials_of(19, 5, 1)
    put(store, {stays: GOOD, moves: REVOKED}, due_at=42)
    answer(store, stays, b"\x00stays", b"header 0")
    answer(store, moves, b"\x0fmoves", b"header f")
    client.zadd(NAMES.expiry(CA, 3), {"3": 9_000})
    index = client.hgetall(NAMES.revoked(CA, serial_hash(moves)))
    number = store.journal_ends()[3]
    assert store.split_bucket(CA, store.read_status_bucket(CA, 3)) == (3, 19)
    parent, child = store.read_status_buckets(CA, [3, 19])
    assert (parent.bits, parent.entries) == (5, {stays: GOOD})
    assert (child.bits, child.entries) == (5, {moves: REVOKED})
    headers = {0: b"header 0", 15: b"header f"}
    assert store.read_answer_bucket(CA, 3, "sha1").answers == {stays: b"\x00stays"}
    assert store.read_answer_bucket(CA, 19, "sha1").answers == {moves: b"\x0fmoves"}
    assert store.read_answer_bucket(CA, 3, "sha1").headers == headers
    assert store.read_answer_bucket(CA, 19, "sha1").headers == headers
    assert client.zscore(NAMES.due(3), f"{CA}:3") == client.zscore(NAMES.due(3), f"{CA}:13") == 42
    assert client.zscore(NAMES.expiry(CA, 3), "3") == client.zscore(NAMES.expiry(CA, 3), "13") == 9_000
    assert client.hgetall(NAMES.revoked(CA, serial_hash(moves))) == index
    (entry,) = store.read_journal({3: number})
    assert (entry.kind, entry.bucket, entry.serials) == ("split", 3, None)


@pytest.mark.parametrize("meanwhile", ["added", "removed", "exchanged", "exchanged staying", "split", "changed"])
def test_a_split_of_what_has_changed_is_a_conflict(each_redis: RedisServer, meanwhile: str) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    staying, moving = serials_of(3, 5, 3), serials_of(19, 5, 3)
    put(store, dict.fromkeys([*staying[:2], *moving[:2]], GOOD))
    seen = store.read_status_bucket(CA, 3)

    def change(octets: bytes, old: str | None, new: str | None) -> None:
        store.commit(CA, 3, 4, [Change(octets, old, new, "changed")], 5)

    match meanwhile:
        case "added":
            change(moving[2], None, GOOD)
        case "removed":
            change(moving[0], GOOD, None)
        case "exchanged":
            change(moving[0], GOOD, None)
            change(moving[2], None, GOOD)
        case "exchanged staying":
            change(staying[0], GOOD, None)
            change(moving[2], None, GOOD)
        case "split":
            store.split_bucket(CA, seen)
        case "changed":
            change(moving[0], GOOD, REVOKED)  # the same serials: moved as they stand now
            store.split_bucket(CA, seen)
            assert store.find_status(CA, moving[0]) == REVOKED
            return
    before = everything(client)
    with pytest.raises(CommitConflict):
        store.split_bucket(CA, seen)
    assert everything(client) == before


def test_commits_survive_a_script_flush_in_the_middle(each_redis: RedisServer) -> None:
    """A fresh server, or one after SCRIPT FLUSH, answers NOSCRIPT: nothing is done twice, nothing is left out."""
    store, client = open_ca(each_redis, bits=10), each_redis.client()
    mine = serials(1_500)
    by_bucket: dict[int, list[Change]] = {}
    for octets in mine:
        bucket = bucket_number(serial_hash(octets), 10)
        by_bucket.setdefault(bucket, []).append(Change(octets, None, GOOD, "new"))

    def commits() -> itertools.chain[Commit]:
        def one_by_one() -> object:
            for at, (bucket, changes) in enumerate(by_bucket.items()):
                if at % 37 == 0:
                    client.script_flush()
                yield Commit(CA, bucket, 10, changes, 5)

        return itertools.chain(one_by_one())  # type: ignore[call-overload, no-any-return]

    assert all(isinstance(made, Committed) for made in store.commit_many(commits()))
    assert {place.text for place in store.locate(CA, mine)} == {GOOD}
    assert sum(store.journal_ends().values()) == len(by_bucket)


def test_a_generator_that_is_left_or_reads_between_mixes_no_replies_up(each_redis: RedisServer) -> None:
    store = open_ca(each_redis, bits=10)
    first, second = serials(1_200)[:600], serials(1_200)[600:]

    def commits(mine: list[bytes]) -> object:
        for octets in mine:
            (place,) = store.locate(CA, [octets])  # a read while commits are under way
            assert place.text is None
            if place.bucket not in used:
                used.add(place.bucket)
                yield Commit(CA, place.bucket, place.bits, [Change(octets, None, GOOD, "new")], 5)

    used: set[int] = set()
    assert all(isinstance(made, Committed) for made in store.commit_many(commits(first)))  # type: ignore[arg-type]
    used = set()
    left = store.commit_many(commits(second))  # type: ignore[arg-type]
    next(left)
    assert store.find_status(CA, first[0]) == GOOD
    del left
    assert store.time() > 1_700_000_000


def test_threads_may_share_a_store(each_redis: RedisServer) -> None:
    store = open_ca(each_redis, bits=6)
    wrong: list[object] = []

    def work(seed: int) -> None:
        for octets in serials_of(seed, 6, 40):
            text = f"{GOOD} invalid=2026-01-01T00:00:{seed:02}Z"
            store.commit(CA, seed, 6, [Change(octets, None, text, "new")], 5)
            if store.find_status(CA, octets) != text:
                wrong.append(octets)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(len(store.read_status_bucket(CA, bucket).entries) for bucket in range(8)) == 320


def test_first_comer_agrees_on_the_bits(each_redis: RedisServer) -> None:
    store = each_redis.store()
    store.ensure_ca(CA, name="corp", subject="", certificate=b"")
    assert store.agree_bits(CA, 7) == 7
    assert store.agree_bits(CA, 4) == 7
    store.create_buckets(CA, 4)
    buckets = store.bucket_map(CA, 4)
    assert (buckets.bits, len(buckets.buckets), buckets.least_bits) == (7, 128, 7)
    store.grow(CA, 6)
    info = store.ca_info(CA)
    assert info is not None
    assert info.bits == 7


def test_partitions_hold_their_own(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    mine = serials(64)
    put(store, dict.fromkeys(mine, GOOD))
    for number, entry in ((entry.partition, entry) for entry in store.read_journal(dict.fromkeys(range(16), 0))):
        assert {partition(octets) for octets in entry.serials or ()} == {number}


def test_new_buckets_are_made_in_bulk(each_redis: RedisServer) -> None:
    store = each_redis.store()
    mine = serials(3_000)
    by_bucket: dict[int, dict[bytes, str]] = {number: {} for number in range(32)}
    for at, octets in enumerate(mine):
        by_bucket[bucket_number(serial_hash(octets), 5)][octets] = REVOKED if at % 10 == 0 else GOOD
    made = store.create_many(NewBucket(CA, number, 5, entries, 5) for number, entries in by_bucket.items())
    assert [one.size for one in made if isinstance(one, Committed)] == [len(entries) for entries in by_bucket.values()]
    found = store.read_status_buckets(CA, range(32))
    assert {number: bucket.entries for number, bucket in enumerate(found)} == by_bucket
    client = each_redis.client()
    index = {k: v for key in client.scan_iter("*:revoked:*", count=5_000) for k, v in client.hgetall(key).items()}
    assert index == {octets.hex().encode(): REVOKED.encode() for octets in mine[::10]}


def test_new_deep_buckets_index_what_is_revoked(each_redis: RedisServer) -> None:
    """A bucket of 12 bits or more lies in one hash of the revoked index: all of it goes there, and into the changed set."""
    store, client = each_redis.store(), each_redis.client(decode_responses=True)
    store.ensure_ca(CA, name="corp", subject="CN=corp", certificate=b"\x30\x00")
    rows = {
        serial_to_octets(1 << 100 | at): "revoked 2026-11-20T10:00:00Z" if at % 3 else "good" for at in range(2_000)
    }
    for bits in (13, 11):
        client.flushall()
        for p in range(16):
            client.zadd(store.layout.changed(CA, p), {layout.BASE_MEMBER: 0})
        buckets: dict[int, dict[bytes, str]] = {}
        for octets, text in rows.items():
            buckets.setdefault(layout.bucket_number(layout.serial_hash(octets), bits), {})[octets] = text
        made = [NewBucket(CA, number, bits, entries, 1.0) for number, entries in sorted(buckets.items())]
        assert all(isinstance(one, Committed) for one in store.create_many(made))
        revoked = {octets.hex(): text for octets, text in rows.items() if text != "good"}
        found: dict[str, str] = {}
        for octets in rows:
            found |= client.hgetall(store.layout.revoked(CA, layout.serial_hash(octets)))
        assert found == revoked
        for octets in rows:
            key = store.layout.revoked(CA, layout.serial_hash(octets))
            assert client.hexists(key, octets.hex()) is (octets.hex() in revoked)
        changed = {member for p in range(16) for member in client.zrange(store.layout.changed(CA, p), 0, -1)}
        assert changed - {layout.BASE_MEMBER} == revoked.keys()
