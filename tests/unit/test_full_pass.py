"""A pass over a whole source, on a real Redis: against a plain dict, under other writers, and after losses."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence

import pytest

from responder import full_pass
from responder.errors import CommitConflict, InvariantBroken, StoreUnavailable
from responder.full_pass import HashedRow, PassTerms, apply_pass, bits_for, map_buckets
from responder.model import CRLReason
from responder.revocation import Refused, Report, revoke
from responder.store import layout
from responder.store.layout import bucket_number, serial_hash
from responder.store.redis_store import Store
from responder.store.values import BucketMap
from tests.redis_fixture import RedisServer
from tests.store_room import CA, GOOD, HOLD, NAMES, REVOKED, everything, put, serials

NOW = 1_800_000_000  # 2027-01-15
RETENTION_S = 30 * 86_400
TERMS = PassTerms(NOW, RETENTION_S)
EXPIRED_GOOD = "good exp=2026-11-01T00:00:00Z"
EXPIRED_REVOKED = "revoked 2026-10-20T10:00:00Z superseded exp=2026-12-16T07:59:59Z"
JUST_KEPT = "revoked 2026-10-20T10:00:00Z superseded exp=2026-12-16T08:00:00Z"


def groups_of(rows: Sequence[tuple[bytes, str]], bits: int) -> Iterator[tuple[int, int, list[HashedRow]]]:
    """Return rows as a spool gives them."""
    grouped: list[list[HashedRow]] = [[] for _ in range(1 << bits)]
    for octets, text in rows:
        hash_octets = hashlib.sha256(octets).digest()[-4:]
        grouped[bucket_number(int.from_bytes(hash_octets, "big"), bits)].append((hash_octets, octets, text))
    for number, mine in enumerate(grouped):
        yield number, bits, mine


def run_pass(
    store: Store, rows: Sequence[tuple[bytes, str]], terms: PassTerms = TERMS, buckets: BucketMap | None = None
) -> Report:
    """Bring ``rows`` in as a whole source."""
    buckets = buckets or map_buckets(store, CA, len(rows))
    total = Report()
    for report in apply_pass(store, CA, buckets, groups_of(rows, min(8, buckets.least_bits)), terms):
        total.add(report)
    return total


def content(store: Store) -> dict[bytes, str]:
    """Return every status of the CA, each from the bucket where a reader would look for it."""
    info = store.ca_info(CA)
    assert info is not None
    assert info.bits is not None
    buckets = store.bucket_map(CA, info.bits)
    assert not buckets.missing
    assert buckets.bits == info.bits
    found: dict[bytes, str] = {}
    for bucket in store.read_status_buckets(CA, list(buckets.buckets)):
        assert buckets.buckets[bucket.bucket] == bucket.bits
        for octets, text in bucket.entries.items():
            assert bucket_number(serial_hash(octets), bucket.bits) == bucket.bucket
            found[octets] = text
    return found


@pytest.fixture
def store(each_redis: RedisServer) -> Iterator[Store]:
    """Return a store that knows the CA and nothing of its certificates."""
    with each_redis.store() as one:
        one.ensure_ca(CA, name="corp", subject="", certificate=b"")
        yield one


@pytest.mark.parametrize(
    ("count", "bits"), [(0, 4), (1, 4), (2_048, 4), (2_049, 5), (1_000_000, 13), (100_000_000, 20), (10**12, 24)]
)
def test_bits_are_chosen_from_the_count(count: int, bits: int) -> None:
    assert bits_for(count) == bits


@pytest.mark.parametrize("count", [0, 3, 5_000])
def test_a_first_load(store: Store, each_redis: RedisServer, count: int) -> None:
    rows = [(octets, REVOKED if at % 10 == 0 else GOOD) for at, octets in enumerate(serials(max(count, 1))[:count])]
    report = run_pass(store, rows)
    assert content(store) == dict(rows)
    assert (report.rows, report.changes, report.unchanged) == (count, {"new": count} if count else {}, 0)
    client = each_redis.client()
    scores = [score for p in range(16) for _, score in client.zrange(NAMES.due(p), 0, -1, withscores=True)]
    assert len(scores) == 1 << bits_for(count)
    assert set(scores) <= {NOW, float("inf")}
    # Again: nothing changes, nothing is written but the readers' guess.
    before = everything(client)
    report = run_pass(store, rows)
    assert (report.rows, report.changes, report.unchanged) == (count, {}, count)
    assert everything(client) == before


def test_each_row_is_decided(store: Store) -> None:
    mine = serials(8)
    run_pass(store, list(zip(mine, [GOOD, REVOKED, HOLD, GOOD, GOOD, REVOKED, HOLD, GOOD], strict=True)))
    rows = list(zip(mine, [REVOKED, GOOD, GOOD, HOLD, GOOD, HOLD, REVOKED, GOOD.replace("2030", "2031")], strict=True))
    report = run_pass(store, rows)
    assert report.changes == {"revoked": 3, "changed": 1}
    assert report.refused == {Refused.PERMANENT: 2, Refused.HOLD_NOT_RELEASED: 1}
    assert [content(store)[octets].split(" ")[0] for octets in mine] == [
        *("revoked", "revoked", "revoked", "revoked", "good", "revoked", "revoked", "good")
    ]
    report = run_pass(store, rows, PassTerms(NOW, RETENTION_S, good_releases_hold=True))
    assert report.changes == {"released": 1}
    assert content(store)[mine[2]] == GOOD


def test_vanished_rows_go_in_the_second_equal_pass(store: Store) -> None:
    """Removals need two equal passes; a revoked certificate that its CA deleted stays until it has expired."""
    mine = serials(600)
    rows = [(octets, REVOKED if at < 100 else GOOD) for at, octets in enumerate(mine)]
    run_pass(store, rows)
    left = rows[50:100] + rows[200:]
    report = run_pass(store, left)
    assert (report.vanished, report.kept_revoked, report.changes) == (100, 50, {})
    assert content(store) == dict(rows)
    kept = frozenset(mine[100:110])  # rows that could not be understood
    report = run_pass(store, left, PassTerms(NOW, RETENTION_S, remove_vanished=True, keep=kept))
    assert (report.vanished, report.kept_revoked, report.changes) == (0, 50, {"purged": 90})
    assert content(store) == dict(rows[:110] + rows[200:])


def test_expired_rows_are_not_kept(store: Store) -> None:
    """Past expiry and retention: not taken in, and taken out, whatever the source still lists."""
    a, b, c, d = serials(4)
    report = run_pass(store, [(a, EXPIRED_GOOD), (b, EXPIRED_REVOKED), (c, JUST_KEPT), (d, GOOD)])
    assert (report.expired, report.changes) == (2, {"new": 2})
    assert content(store) == {c: JUST_KEPT, d: GOOD}
    later = PassTerms(NOW + 86_400, RETENTION_S)
    report = run_pass(store, [(a, EXPIRED_GOOD), (c, JUST_KEPT), (d, GOOD)], later)
    assert (report.expired, report.changes) == (2, {"purged": 1})
    assert content(store) == {d: GOOD}


def test_what_is_revoked_stays_until_the_ca_s_crls_have_let_it_go(store: Store) -> None:
    """RFC 5280 §3.3. Whatever the retention; also where the source lists it no more, or lists it as good."""
    a, b, c, d = serials(4)
    rows = [(a, EXPIRED_REVOKED), (b, EXPIRED_REVOKED), (c, EXPIRED_REVOKED), (d, EXPIRED_GOOD)]
    expiry = NOW - RETENTION_S - 1
    waiting, gone = PassTerms(NOW, RETENTION_S, let_go=expiry), PassTerms(NOW, RETENTION_S, let_go=expiry + 1)
    report = run_pass(store, rows, waiting)
    assert (report.expired, report.changes) == (1, {"new": 3})
    for listed in (rows, [(a, EXPIRED_REVOKED), (b, EXPIRED_GOOD)]):
        report = run_pass(store, listed, waiting)
        assert report.changes == {}
        assert content(store) == dict(rows[:3])
    assert run_pass(store, rows[:1], gone).changes == {"purged": 3}
    assert content(store) == {}
    assert run_pass(store, rows, PassTerms(NOW, RETENTION_S, let_go=0)).changes == {"revoked": 3}, "kept for ever"


def test_of_two_rows_of_one_serial_the_revoked_one_counts(store: Store) -> None:
    a, b, c = serials(3)
    longer = GOOD.replace("2030", "2031")
    run_pass(store, [(a, REVOKED), (a, GOOD), (b, GOOD), (b, REVOKED), (c, GOOD), (c, longer)])
    assert content(store) == {a: REVOKED, b: REVOKED, c: longer}


def test_the_operators_word_outlives_a_pass(store: Store) -> None:
    """`revocast revoke` before the first load, and a source that says good."""
    mine = serials(3_000)
    revoke(store, CA, mine[7], CRLReason.KEY_COMPROMISE, NOW, now=NOW)
    report = run_pass(store, [(octets, GOOD) for octets in mine])
    assert report.refused == {Refused.OPERATOR: 1}
    found = content(store)
    assert found.pop(mine[7]).endswith("keyCompromise exp=2030-12-31T23:59:59Z by=operator")
    assert found == {octets: GOOD for octets in mine if octets != mine[7]}


def test_a_ca_that_grows_a_hundredfold(store: Store) -> None:
    few, many = serials(100), serials(10_000)
    run_pass(store, [(octets, REVOKED) for octets in few])
    report = run_pass(store, [(octets, REVOKED if octets in few else GOOD) for octets in many])
    assert report.changes == {"new": 9_900}
    found = content(store)
    assert sorted(octets for octets, text in found.items() if text == REVOKED) == sorted(few)
    assert len(found) == 10_000
    sizes = [len(one.entries) for one in store.read_status_buckets(CA, list(store.bucket_map(CA, 4).buckets))]
    assert max(sizes) <= layout.BUCKET_SPLIT_ABOVE


def test_lost_buckets_are_made_again(store: Store, each_redis: RedisServer) -> None:
    mine = serials(4_000)
    rows = [(octets, REVOKED if at % 10 == 0 else GOOD) for at, octets in enumerate(mine)]
    run_pass(store, rows)
    client = each_redis.client()
    lost = [key for key in client.scan_iter("*:status:*", count=1_000) if sum(key) % 3 == 0]
    client.delete(*lost)
    report = run_pass(store, rows)
    assert report.changes["new"] > 100
    assert content(store) == dict(rows)


def test_a_bucket_lost_under_a_pass_ends_it(store: Store, each_redis: RedisServer) -> None:
    rows = [(octets, GOOD) for octets in serials(500)]
    run_pass(store, rows)
    buckets = map_buckets(store, CA, 500)
    each_redis.client().delete(NAMES.status(CA, 3))
    with pytest.raises(StoreUnavailable, match="lost"):
        run_pass(store, rows, buckets=buckets)
    assert run_pass(store, rows).changed > 0
    assert content(store) == dict(rows)


def test_a_bucket_made_above_under_a_pass_ends_it(store: Store) -> None:
    """Two that repair at once with other ideas of the depth: no serial is ever in two buckets."""
    rows = [(octets, REVOKED) for octets in serials(500)]
    run_pass(store, rows)
    deep = BucketMap(5, {}, frozenset(range(32)))
    with pytest.raises(StoreUnavailable):
        run_pass(store, rows, buckets=deep)
    assert content(store) == dict(rows)


def test_groups_must_hold_whole_buckets(store: Store) -> None:
    buckets = map_buckets(store, CA, 10)
    with pytest.raises(InvariantBroken, match="do not hold whole buckets"):
        list(apply_pass(store, CA, buckets, groups_of([], 5), TERMS))


def test_a_pass_among_other_writers(store: Store, each_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits, the operator and another pass at the same time: every revocation stays, every row arrives."""
    monkeypatch.setattr(full_pass, "BATCH_BUCKETS", 8)
    monkeypatch.setattr(full_pass, "MAX_TRIES", 1_000)
    mine = serials(1_500)
    rows = [(octets, REVOKED if at % 10 == 0 else GOOD) for at, octets in enumerate(mine)]
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: object, *arguments: object) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    def passes(seed: int) -> None:
        with each_redis.store() as mine_store:
            texts = rows if seed == 0 else [(octets, text.replace("2030", f"203{seed}")) for octets, text in rows]
            for _ in range(6):
                while True:
                    try:
                        run_pass(mine_store, texts)
                        break
                    except StoreUnavailable:
                        continue

    def operator() -> None:
        with each_redis.store() as other:
            for octets in mine[5::50]:
                revoke(other, CA, octets, CRLReason.KEY_COMPROMISE, NOW, now=NOW)

    def splitter() -> None:
        chance = random.Random(5)
        with each_redis.store() as other:
            while not done.is_set():
                buckets = other.bucket_map(CA, 4)
                number = chance.choice([*buckets.buckets])
                if buckets.buckets[number] < 7:
                    try:
                        other.split_bucket(CA, other.read_status_bucket(CA, number))
                        other.grow(CA, buckets.buckets[number] + 1)
                    except CommitConflict:
                        continue

    run_pass(store, rows)
    threads = [threading.Thread(target=guarded, args=(passes, seed)) for seed in (0, 1)]
    threads.append(threading.Thread(target=guarded, args=(operator,)))
    background = threading.Thread(target=guarded, args=(splitter,))
    for thread in (*threads, background):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    background.join()
    assert errors == []
    found = content(store)
    assert found.keys() == set(mine)
    must_be_revoked = {*mine[::10], *mine[5::50]}
    assert {octets for octets, text in found.items() if text.startswith("revoked")} == must_be_revoked
    index = {
        serial.decode()
        for key in each_redis.client().scan_iter("*:revoked:*", count=10_000)
        for serial in each_redis.client().hkeys(key)
    }
    assert index == {octets.hex() for octets in must_be_revoked}


def test_random_passes_against_a_dict(store: Store) -> None:
    chance = random.Random(8)
    mine = serials(400)
    expected: dict[bytes, str] = {}
    for step in range(12):
        listed = chance.sample(mine, chance.randrange(200, 400))
        rows = [(octets, chance.choice([GOOD, GOOD, GOOD, REVOKED, EXPIRED_GOOD])) for octets in listed]
        remove = step % 3 == 2
        run_pass(store, rows, PassTerms(NOW, RETENTION_S, remove_vanished=remove))
        said = dict(rows)
        for octets in mine:
            old, new = expected.get(octets), said.get(octets)
            if new == EXPIRED_GOOD and old == REVOKED:
                continue  # which has not expired itself
            if new == EXPIRED_GOOD or (new is None and remove and old == GOOD):
                expected.pop(octets, None)
            elif new is not None and old != REVOKED:
                expected[octets] = new
        assert content(store) == expected


def test_a_pass_overtakes_what_somebody_puts_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = serials(1)
    run_pass(store, [(one, GOOD)])
    real, interrupted = store.read_status_buckets, []

    def read(ca: str, buckets: Sequence[int]) -> object:
        found = real(ca, buckets)
        if not interrupted:
            interrupted.append(True)
            put(store, {one: REVOKED}, "revoked")
        return found

    monkeypatch.setattr(store, "read_status_buckets", read)
    report = run_pass(store, [(one, GOOD.replace("2030", "2031"))])
    assert (report.conflicts, report.refused) == (1, {Refused.PERMANENT: 1})
    monkeypatch.undo()
    assert content(store) == {one: REVOKED}


def test_buckets_split_before_the_pass_reaches_them(store: Store) -> None:
    """The map of buckets that a pass began with is not the last word."""
    mine = serials(900)
    run_pass(store, [(octets, GOOD) for octets in mine[:600]])
    buckets = map_buckets(store, CA, 600)
    for number in (0, 0, 16, 5):
        store.split_bucket(CA, store.read_status_bucket(CA, number))
    store.grow(CA, 6)
    report = run_pass(store, [(octets, REVOKED) for octets in mine], buckets=buckets)
    assert (report.conflicts, report.changes) == (0, {"revoked": 900})
    assert content(store) == dict.fromkeys(mine, REVOKED)


def test_a_lost_bucket_keeps_its_revocations(store: Store, each_redis: RedisServer) -> None:
    """Promise 1: an operator's revocation, which the source does not know, outlives the loss of its bucket."""
    rows = [(octets, GOOD) for octets in serials(300)]
    run_pass(store, rows)
    gone, held = rows[0][0], rows[1][0]
    put(store, {gone: REVOKED, held: HOLD})
    before = content(store)
    client = each_redis.client()
    for key in client.scan_iter(match=NAMES.prefix + "*:status:*"):
        client.delete(key)
    report = run_pass(store, rows)
    assert content(store) == before
    assert report.refused == {Refused.PERMANENT: 1, Refused.HOLD_NOT_RELEASED: 1}
    # A source that releases holds by its rows still does, once the bucket is there again.
    for key in client.scan_iter(match=NAMES.prefix + "*:status:*"):
        client.delete(key)
    report = run_pass(store, rows, PassTerms(NOW, RETENTION_S, good_releases_hold=True))
    assert content(store) == before | {held: GOOD}
    assert report.changes["released"] == 1
    assert store.read_revoked(CA, [(bucket, 4) for bucket in range(16)]) == [
        {gone: REVOKED} if bucket == bucket_number(serial_hash(gone), 4) else {} for bucket in range(16)
    ]
