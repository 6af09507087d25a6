"""The store's due buckets, answers, signers, overrides and streams, on a real Redis of both versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from responder.errors import CommitConflict, StoreUnavailable
from responder.store import layout
from responder.store.layout import NEVER_DUE
from responder.store.values import AnswerBucket, Change, Claim, SignedAnswer
from tests.redis_fixture import RedisServer
from tests.server import wait_until
from tests.store_room import CA, GOOD, NAMES, OTHER_CA, REVOKED, answer, everything, open_ca, put, serials_of

NOW = 1_000.0
LEASE_S = 30.0


def test_the_most_urgent_is_claimed_first(each_redis: RedisServer) -> None:
    """DESIGN §7: revocations, then what was asked for, then the nearest; over all partitions."""
    store, client = open_ca(each_redis), each_redis.client()
    scores = {1: 900.0, 2: layout.DUE_ASKED_FOR, 3: 800.5, 4: layout.DUE_REVOKED, 5: NOW, 6: NOW + 0.5, 20: 700.0}
    for bucket, score in scores.items():
        client.zadd(NAMES.due(bucket % 16), {f"{CA}:{bucket:x}": score})
    first = store.claim_due(range(16), NOW, LEASE_S, 3)
    assert [(claim.bucket, claim.score) for claim in first] == [(4, 0.0), (2, 1.0), (20, 700.0)]
    assert {claim.lease for claim in first} == {NOW + LEASE_S}
    assert [claim.bucket for claim in store.claim_due([1, 3, 6], NOW, LEASE_S, 10)] == [3, 1]
    assert [claim.bucket for claim in store.claim_due(range(16), NOW, LEASE_S, 10)] == [5]
    assert store.claim_due(range(16), NOW, LEASE_S, 10) == []
    assert store.due_counts(NOW) == (0, 0)
    # A claim that dies comes due again.
    again = store.claim_due(range(16), NOW + LEASE_S, LEASE_S, 100)
    assert sorted(claim.bucket for claim in again) == [1, 2, 3, 4, 5, 6, 20]


def expire(server: RedisServer, ends: dict[int, float], ca: str = CA) -> None:
    """Say of buckets when their first answers run out."""
    for bucket, at in ends.items():
        server.client().zadd(NAMES.expiry(ca, bucket % 16), {f"{bucket:x}": at})


def test_of_what_is_overdue_the_nearest_next_update_is_claimed_first(each_redis: RedisServer) -> None:
    """DESIGN §7: revocations, asked for, nearest nextUpdate, new; whenever each came due, in whichever partition."""
    store, client = open_ca(each_redis), each_redis.client()
    for bucket in range(16, 96):
        client.zadd(NAMES.due(bucket % 16), {f"{CA}:{bucket:x}": 100 + bucket})
    ends = {bucket: 5_000.0 - bucket for bucket in range(16, 80)}  # who came due last runs out first; 80 to 95 are new
    expire(each_redis, ends)
    client.zadd(NAMES.due(5), {f"{CA}:35": NOW + 1})  # not due, though it runs out soon
    client.zadd(NAMES.due(7), {f"{CA}:17": layout.DUE_ASKED_FOR, f"{CA}:27": layout.DUE_REVOKED})
    for p in range(16):
        client.zadd(NAMES.due(p), {f"{OTHER_CA}:{p:x}": 50})  # another configuration's
    taken: list[Claim] = []
    while claims := store.claim_due(range(16), NOW, LEASE_S, 2, [CA]):
        taken += claims
    mine = [claim.bucket for claim in taken if claim.ca == CA]
    routine = [bucket for bucket in sorted(ends, key=ends.__getitem__) if bucket not in (0x17, 0x27, 0x35)]
    assert mine == [0x27, 0x17, *routine, *range(80, 96)]
    assert len(taken) == len(mine) + 16


def test_answers_that_cannot_be_renewed_do_not_hide_the_others(each_redis: RedisServer) -> None:
    """Where the first to run out are not due, and many, the due time decides: nothing is left out."""
    store, client = open_ca(each_redis), each_redis.client()
    for number in range(1, 1_000):
        bucket = number * 16
        due = NOW - number if number > 900 else NOW + 5
        client.zadd(NAMES.due(0), {f"{CA}:{bucket:x}": due})
    expire(each_redis, {number * 16: 2_000.0 + number for number in range(1, 1_000)})
    taken: list[Claim] = []
    while claims := store.claim_due(range(16), NOW, LEASE_S, 4, [CA]):
        taken += claims
    assert sorted(claim.bucket for claim in taken) == [number * 16 for number in range(901, 1_000)]


def test_what_is_urgent_for_another_ca_is_left_to_its_presigner(each_redis: RedisServer) -> None:
    """However much of it there is: it keeps its place, and hides nothing of one's own."""
    store, client = open_ca(each_redis), each_redis.client()
    for number in range(1, 200):
        client.zadd(NAMES.due(0), {f"{OTHER_CA}:{16 * number:x}": layout.DUE_REVOKED})
    store.make_due(CA, 0, layout.DUE_REVOKED)
    store.make_due(CA, 1, NOW - 1)
    assert [claim.bucket for claim in store.claim_due(range(16), NOW, LEASE_S, 4, [CA])] == [0, 1]
    assert store.claim_due(range(16), NOW, LEASE_S, 4, [CA]) == []
    assert len(store.claim_due(range(16), NOW, LEASE_S, 500, [OTHER_CA])) == 199


def test_whoever_finishes_a_claim_says_when_answers_run_out(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    assert client.zrange(NAMES.expiry(CA, 3), 0, -1, withscores=True) == [(b"3", NEVER_DUE)]
    assert store.soonest_next_updates([CA]) == {}
    client.delete(NAMES.expiry(CA, 4))
    client.xadd(NAMES.expiry(CA, 4), {"a worker on Redis 6.2": "may do that"})
    assert store.soonest_next_updates([CA]) == {}
    for bucket, at in ((3, 700.0), (4, 600.0), (5, NEVER_DUE)):
        store.make_due(CA, bucket, NOW)
        (claim,) = store.claim_due(range(16), NOW, LEASE_S, 1, [CA])
        assert store.finish_claim(claim, NOW + 9, at)
    assert store.soonest_next_updates([CA, OTHER_CA]) == {CA: 600.0}
    (claim,) = store.claim_due([4], NOW + 9, LEASE_S, 1, [CA])
    assert store.finish_claim(claim, NOW + 99)
    assert client.zscore(NAMES.expiry(CA, 4), "4") == 600, "nothing was signed"
    (claim,) = store.claim_due([3], NOW + 9, LEASE_S, 1, [CA])
    store.make_due(CA, 3, layout.DUE_REVOKED)
    assert not store.finish_claim(claim, NOW + 99, 800.0)
    assert client.zscore(NAMES.expiry(CA, 3), "3") == 700, "whoever is told by the commit will say"
    store.set_override(CA, REVOKED)
    assert store.soonest_next_updates([CA]) == {}


def test_a_commit_meanwhile_wins_over_the_end_of_a_claim(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    (one,) = serials_of(8, 4, 1)
    put(store, {one: GOOD}, due_at=NOW)
    (claim,) = store.claim_due(range(16), NOW, LEASE_S, 1)
    put(store, {one: REVOKED}, "revoked", due_at=layout.DUE_REVOKED)
    assert store.due_counts(NOW) == (1, 1)
    assert not store.finish_claim(claim, NOW + 5_000)
    (urgent,) = store.claim_due(range(16), NOW, LEASE_S, 1)
    assert urgent.score == layout.DUE_REVOKED
    assert store.finish_claim(urgent, NOW + 5_000)
    assert client.zscore(NAMES.due(8), f"{CA}:8") == NOW + 5_000
    assert not store.finish_claim(urgent, NOW + 6_000)


def test_two_presigners_share_the_work(each_redis: RedisServer) -> None:
    store = open_ca(each_redis, bits=8)
    for bucket in range(256):
        each_redis.client().zadd(NAMES.due(bucket % 16), {f"{CA}:{bucket:x}": 1 + bucket})
    taken: list[Claim] = []

    def work() -> None:
        with each_redis.store() as mine:
            while claims := mine.claim_due(range(16), NOW, LEASE_S, 7):
                taken.extend(claims)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.claim_due(range(16), NOW, LEASE_S, 7) == []
    assert sorted(claim.bucket for claim in taken) == list(range(256))


def test_due_times_come_forward_and_never_back(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    assert client.zscore(NAMES.due(3), f"{CA}:3") == NEVER_DUE
    for at, expected in ((50.25, 50.25), (60, 50.25), (layout.DUE_ASKED_FOR, 1), (NEVER_DUE, 1)):
        store.make_due(CA, 3, at)
        assert client.zscore(NAMES.due(3), f"{CA}:3") == expected
    store.make_due(OTHER_CA, 3, 1)  # a bucket that is not there
    assert client.zcard(NAMES.due(3)) == 1


def test_an_answer_is_stored_only_for_the_status_that_was_signed(each_redis: RedisServer) -> None:
    """Promise 1: what was revoked while the answers were being signed is not good again."""
    store = open_ca(each_redis)
    kept, revoked, purged, unknown = serials_of(3, 4, 4)
    put(store, {kept: GOOD, revoked: GOOD, purged: GOOD})
    seen = store.read_answer_bucket(CA, 3, "sha1")
    signed = [SignedAnswer(octets, GOOD, b"\x00" + octets) for octets in (kept, revoked, purged, unknown)]
    put(store, {revoked: REVOKED}, "revoked")
    store.commit(CA, 3, 4, [Change(purged, GOOD, None, "purged")], 5)
    number = store.journal_ends()[3]
    assert store.put_answers(CA, 3, "sha1", 0, b"header", signed, seen=seen, replace=True) == 1
    assert store.read_answer_bucket(CA, 3, "sha1") == AnswerBucket({0: b"header"}, {kept: b"\x00" + kept})
    (entry,) = store.read_journal({3: number})
    assert (entry.kind, entry.bucket, entry.serials) == ("signed", 3, (kept,))
    # None of them: nothing happens.
    before = everything(each_redis.client())
    assert store.put_answers(CA, 3, "sha1", 1, b"x", signed[1:], seen=store.read_answer_bucket(CA, 3, "sha1")) == 0
    assert everything(each_redis.client()) == before


def test_answers_signed_alone_join_those_that_are_there(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    routine, late, third = serials_of(3, 4, 3)
    put(store, {routine: GOOD, late: REVOKED, third: GOOD})
    answer(store, routine, b"\x00routine", b"header 0")
    answer(store, late, b"\x07late", b"header 7")
    assert store.read_answer_bucket(CA, 3, "sha1") == AnswerBucket(
        {0: b"header 0", 7: b"header 7"}, {routine: b"\x00routine", late: b"\x07late"}
    )
    seen = store.read_answer_bucket(CA, 3, "sha1")
    whole = [SignedAnswer(routine, GOOD, b"\x00r2"), SignedAnswer(late, REVOKED, b"\x00l2")]
    assert store.put_answers(CA, 3, "sha1", 0, b"header 2", whole, seen=seen, replace=True) == 2
    assert store.read_answer_bucket(CA, 3, "sha1") == AnswerBucket(
        {0: b"header 2"}, {routine: b"\x00r2", late: b"\x00l2"}
    )
    assert store.read_answer_bucket(CA, 3, "sha256") == AnswerBucket()


@pytest.mark.parametrize("replace", [True, False])
def test_presigners_do_not_write_over_each_other(each_redis: RedisServer, replace: bool) -> None:
    """A header that changed since the reading means that another presigner was here."""
    store = open_ca(each_redis)
    one, two = serials_of(3, 4, 2)
    put(store, {one: GOOD, two: GOOD})
    seen = store.read_answer_bucket(CA, 3, "sha1")
    answer(store, two, b"\x01two", b"of another")
    before = everything(each_redis.client())
    slot = 0 if replace else 1
    with pytest.raises(CommitConflict, match="header"):
        store.put_answers(
            CA, 3, "sha1", slot, b"mine", [SignedAnswer(one, GOOD, bytes([slot]))], seen=seen, replace=replace
        )
    assert everything(each_redis.client()) == before
    # Another slot is free for all who add.
    assert store.put_answers(CA, 3, "sha1", 2, b"mine", [SignedAnswer(one, GOOD, b"\x02")], seen=seen) == 1


@pytest.mark.clause("RFC 6960", "2.7", "MAY")
def test_an_override_drops_every_answer_of_the_ca_at_once(each_redis: RedisServer) -> None:
    """STS-07: from then on all certificates are revoked, and no good answer is left or can be put back."""
    store, client = open_ca(each_redis, bits=6), each_redis.client()
    mine = [serials_of(bucket, 6, 1)[0] for bucket in (0, 16, 17, 63)]
    put(store, dict.fromkeys(mine, GOOD), due_at=NOW + 5_000)
    for octets in mine:
        answer(store, octets)
    other = NAMES.answers(OTHER_CA, 16, "sha1")
    client.hset(other, "x", "y")
    client.zadd(NAMES.due(0), {f"{OTHER_CA}:10": 77})
    client.zrem(NAMES.due(0), f"{CA}:10")  # damaged by hand: the bucket must not keep its good answers for that
    seen = store.read_answer_bucket(CA, 16, "sha1")
    numbers = store.journal_ends()
    text = "revoked 2026-11-20T10:00:00Z cACompromise"
    store.set_override(CA, text)
    info = store.ca_info(CA)
    assert info is not None
    assert info.override == text
    assert [store.override(CA, partition) for partition in range(16)] == [text] * 16
    assert list(client.scan_iter("*:answers:*", count=1_000)) == [other.encode()]
    assert client.zscore(NAMES.due(0), f"{OTHER_CA}:10") == 77
    assert store.due_counts(NOW) == (64 + 1, 64)
    entries = store.read_journal(numbers)
    assert {(entry.kind, entry.bucket, entry.serials, entry.ca) for entry in entries} == {("override", None, None, CA)}
    assert {entry.partition for entry in entries} == set(range(16))
    # What was signed before is not stored any more.
    signed = [SignedAnswer(mine[1], GOOD, b"\x00")]
    for old in (seen, AnswerBucket()):
        with pytest.raises(CommitConflict, match="override"):
            store.put_answers(CA, 16, "sha1", 0, b"h", signed, seen=old, replace=True)
    assert store.put_answers(CA, 16, "sha1", 0, b"h", signed, seen=AnswerBucket(), override=text, replace=True) == 1
    store.clear_override(CA)
    assert [store.override(CA, partition) for partition in range(16)] == [None] * 16
    assert not list(client.scan_iter(f"*:answers:{CA}*", count=1_000))
    info = store.ca_info(CA)
    assert info is not None
    assert info.override is None


def test_signers_are_kept(each_redis: RedisServer) -> None:
    store = each_redis.store()
    assert store.get_signer("0" * 16) is None
    store.put_signer("0" * 16, b"\x00template", b"\x30certificate")
    record = store.get_signer("0" * 16)
    assert record is not None
    assert (record.template, record.certificate) == (b"\x00template", b"\x30certificate")


def test_questions_are_taken_once_and_replies_vanish(each_redis: RedisServer) -> None:
    store, other, client = each_redis.store(), each_redis.store(), each_redis.client()
    key = NAMES.ask()
    assert store.exchange_live({}, 10, 60, 20) == []
    store.await_live(5)
    for number in range(3):
        client.xadd(key, {b"questions": bytes([number]), "worker": "w"})
    store.await_live(60_000)
    assert [fields[b"questions"] for _, fields in store.exchange_live({}, 10, 60, 2)] == [b"\x00", b"\x01"]
    assert store.exchange_live({}, 10, 60, 0) == []
    ((_, rest),) = other.exchange_live({"w": {b"replies": b"\xff"}, "v": {b"replies": b"\xfe"}}, 10, 60, 2)
    assert rest == {b"questions": b"\x02", b"worker": b"w"}
    assert store.exchange_live({}, 10, 60, 20) == []
    ((_, fields),) = client.xrange(NAMES.replies("w"))
    assert fields == {b"replies": b"\xff"}
    assert 0 < client.ttl(NAMES.replies("w")) <= 60
    client.set(NAMES.replies("x"), "a string")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.exchange_live({"x": {b"replies": b""}}, 10, 60, 0)


def test_taking_and_replying_write_nothing_to_the_append_only_file(redis_server: Callable[..., RedisServer]) -> None:
    """What is void in two seconds must not cost a write to the disk at every step."""
    for version in ("6.2", "7"):
        server = redis_server(version)
        store, client = server.store(), server.client()
        client.config_set("appendfsync", "always")  # else a busy disk puts off what is counted here
        client.config_set("appendonly", "yes")
        client.xadd(NAMES.ask(), {"x": "y"})

        def persistence(name: str, client: Any = client) -> int:
            return int(client.info("persistence")[name])

        def written(look: Callable[[str], int] = persistence) -> int:
            return look("aof_current_size")

        wait_until(
            "the first file", lambda look=persistence: look("aof_current_size") and not look("aof_rewrite_in_progress")
        )
        store.exchange_live({"w": {b"replies": b""}}, 10, 60, 0)  # scripts are known from here on
        before = written()
        assert len(store.exchange_live({"w": {b"replies": b"\xff"}}, 10, 60, 20)) == 1
        assert written() == before
        client.xadd(NAMES.ask(), {"x": "y"})
        assert written() > before
