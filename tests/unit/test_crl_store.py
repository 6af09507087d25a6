"""The store's CRLs: cuts of the revoked, changes since a base, numbers, what is published, bodies; on real Redis of both versions."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
import redis

from responder.errors import CommitConflict, StoreDamaged, StoreUnavailable
from responder.store import layout
from responder.store.acl import ROLES, acl_rules
from responder.store.crl_store import CUT_FIELDS, Changed, CRLBase, CRLState, Cut, Publication
from responder.store.layout import Layout, serial_hash
from responder.store.redis_store import Store
from responder.store.values import Change
from tests.redis_fixture import RedisServer
from tests.store_room import CA, GOOD, HOLD, NAMES, OTHER_CA, REVOKED, open_ca, put, serials, serials_of
from tests.unit.test_store_link import denied, version_of

START = [0] * 16


def users_of(server: RedisServer) -> dict[str, redis.Redis]:
    """Return a client for each role, logged in with the least rights."""
    for role in ROLES:
        server.client().execute_command(
            "ACL", "SETUSER", role, "on", f">{role}", *acl_rules(role, "rc:", version_of(server))
        )
    return {role: server.client(username=role, password=role) for role in ROLES}


def text(number: int | None, this_update: int, **more: Any) -> str:
    """Return what a slot would say."""
    return json.dumps({"number": number, "this_update": this_update} | more)


def revoked_of(cut: Cut) -> set[bytes]:
    """Return the serials in a cut's chunks."""
    return {bytes.fromhex(hex_.decode()) for flat in cut.chunks.values() for hex_ in flat[::2]}


# --- cuts -------------------------------------------------------------------------------------------------------------


def test_chunks_are_the_whole_revoked_index(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    mine, good = serials(300)[:270], serials(300)[270:]
    put(store, dict.fromkeys(mine, REVOKED), "revoked")
    put(store, dict.fromkeys(good, GOOD))
    chunks = list(store.read_revoked_chunks(CA))
    assert [number for number, _ in chunks] == list(range(4096))
    found = {bytes.fromhex(name.decode()): number for number, flat in chunks for name in flat[::2]}
    assert found == {octets: serial_hash(octets) & 4095 for octets in mine}


def test_what_is_no_serial_among_the_revoked(each_redis: RedisServer) -> None:
    """Where a lost bucket is made anew, it is named."""
    store, key = open_ca(each_redis), NAMES.revoked(CA, 3)
    each_redis.client().hset(key, "zz", REVOKED)
    with pytest.raises(StoreDamaged, match=re.escape(f"{key} holds a field that is no serial in hex")):
        store.read_revoked(CA, [(3, 4)])


def test_a_chunk_has_the_serials_of_all_its_hashes(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    first = serials(1)[0]
    # Of one chunk, and of two hashes of the index.
    second = next(
        octets
        for octets in (number.to_bytes(8, "big") for number in range(1 << 56, (1 << 56) + 100_000))
        if (serial_hash(octets) ^ serial_hash(first)) & 0xFFFF == 0x1000
    )
    put(store, {first: REVOKED}, "revoked")
    seen = store.cut(CA, START).numbers
    put(store, {second: REVOKED}, "revoked")
    assert len(each_redis.client().keys("rc:*:revoked:*")) == 2
    assert {first, second} <= revoked_of(store.cut(CA, seen))
    chunk = dict(store.read_revoked_chunks(CA))[serial_hash(first) & 4095]
    assert {bytes.fromhex(name.decode()) for name in chunk[::2]} == {first, second}


def test_a_cut_has_what_changed_and_the_numbers_of_its_instant(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    first, second, third = serials(3)
    put(store, {first: REVOKED, third: GOOD}, "revoked")
    before = store.cut(CA, START)
    assert (before.whole, revoked_of(before)) == (True, {first})
    assert before.numbers == tuple(store.journal_ends().values())
    put(store, {second: REVOKED}, "revoked")
    after = store.cut(CA, before.numbers)
    assert second in revoked_of(after)
    assert serial_hash(second) & 4095 in after.chunks
    nothing = store.cut(CA, after.numbers)
    assert (nothing.whole, nothing.chunks, nothing.numbers) == (True, {}, after.numbers)


def test_what_is_not_the_ca_s_or_not_a_status_costs_nothing(each_redis: RedisServer) -> None:
    """Signatures and splits are most of a journal; so are other CAs."""
    store = open_ca(each_redis)
    store.ensure_ca(OTHER_CA, name="other", subject="CN=Other", certificate=b"\x30\x00")
    store.create_buckets(OTHER_CA, 4)
    (octets, *_) = serials_of(3, 4, 2)
    put(store, {octets: REVOKED}, "revoked")
    seen = store.cut(CA, START).numbers
    store.commit(OTHER_CA, 3, 4, [Change(octets, None, REVOKED, "revoked")], 5)
    store.split_bucket(CA, store.read_status_bucket(CA, 3))
    client = each_redis.client()
    number = store.journal_ends()[3]
    client.xadd(NAMES.journal(3), {"ca": CA, "bucket": "3", "kind": "signed", "serials": "*"}, id=f"{number + 1}-0")
    cut = store.cut(CA, seen)
    assert (cut.whole, cut.chunks, cut.numbers[3]) == (True, {}, number + 1)


def test_a_cut_that_is_too_much_at_once_comes_in_parts(
    each_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is never held up for long, and in the end everything was seen."""
    monkeypatch.setattr("responder.store.crl_store.CUT_FIELDS", 300)
    assert CUT_FIELDS > 300
    store = open_ca(each_redis)
    mine = serials(60)
    for octets in mine:
        put(store, {octets: REVOKED}, "revoked")
    seen: tuple[int, ...] = tuple(START)
    found: dict[int, list[bytes]] = {}
    parts = 0
    while True:
        cut = store.cut(CA, seen)
        assert len(cut.chunks) <= 300 + 256, "one entry of a shallow bucket more than was allowed, at most"
        found |= cut.chunks
        parts += 1
        if cut.whole:
            break
        assert cut.numbers != seen
        seen = cut.numbers
    assert parts > 10
    assert {bytes.fromhex(name.decode()) for flat in found.values() for name in flat[::2]} == set(mine)
    assert cut.numbers == tuple(store.journal_ends().values())


def test_a_journal_that_does_not_go_on_is_no_cut(each_redis: RedisServer) -> None:
    """Trimmed in between, gone, or of another history."""
    store, client = open_ca(each_redis), each_redis.client()
    for octets in serials_of(3, 4, 3):
        put(store, {octets: REVOKED}, "revoked")
    seen = store.cut(CA, START).numbers
    with pytest.raises(CommitConflict, match="journal does not go on"):
        store.cut(CA, [number + 1 for number in seen])
    client.xtrim(NAMES.journal(3), maxlen=1, approximate=False)
    with pytest.raises(CommitConflict, match="journal does not go on"):
        store.cut(CA, START)
    assert store.cut(CA, seen).whole
    client.delete(NAMES.journal(3))
    with pytest.raises(CommitConflict, match="journal does not go on"):
        store.cut(CA, seen)


def test_a_false_entry_hides_nothing(each_redis: RedisServer) -> None:
    """On Redis 6.2 a captured worker may append to a journal: what it says of other partitions is not believed."""
    store, client = open_ca(each_redis), each_redis.client()
    (octets, *_) = serials_of(3, 4, 1)
    put(store, {octets: REVOKED}, "revoked")
    seen = store.cut(CA, START).numbers
    for number, bucket in enumerate(("3", "zz", "*"), start=seen[4] + 1):
        client.xadd(NAMES.journal(4), {"ca": CA, "bucket": bucket, "kind": "revoked", "serials": "*"}, id=f"{number}-0")
    cut = store.cut(CA, seen)
    assert (cut.chunks, cut.numbers[4]) == ({}, seen[4] + 3)


def test_overrides_are_of_the_same_instant(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    assert set(store.cut(CA, START).overrides) == {""}
    store.set_override(CA, REVOKED)
    assert set(store.cut(CA, START).overrides) == {REVOKED}


# --- changes since a base -----------------------------------------------------------------------------------------------


def test_changes_are_kept_from_the_first_cut_on(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    before, hold, other = serials_of(3, 4, 3)
    put(store, {before: HOLD, hold: GOOD, other: GOOD})
    assert store.changed_since(CA, START) is None
    store.keep_changes(CA)
    base = store.cut(CA, START).numbers
    assert store.changed_since(CA, base) == {}
    put(store, {hold: HOLD}, "revoked")
    put(store, {other: "good exp=2031-12-31T23:59:59Z"}, "changed")
    number = store.journal_ends()[3]
    assert store.changed_since(CA, base) == {hold: Changed(number - 1, may_be_listed=False)}
    put(store, {before: GOOD}, "released")
    assert store.changed_since(CA, base) == {
        hold: Changed(number - 1, may_be_listed=False),
        before: Changed(number + 1, may_be_listed=True),  # it was revoked at the base's cut
    }
    store.keep_changes(CA)  # once more changes nothing
    assert len(store.changed_since(CA, base) or {}) == 2
    assert store.changed_since(CA, [base[0] - 1, *base[1:]]) is None, "more than was kept"
    store.drop_changes(CA)
    assert store.changed_since(CA, base) is None


@pytest.mark.parametrize("cut_between", [True, False])
def test_a_hold_that_came_and_went_may_be_listed_only_if_a_crl_was_cut_meanwhile(
    each_redis: RedisServer, cut_between: bool
) -> None:
    """RFC 5280 §5.2.4: held in the base or in any CRL since; else nobody need hear of it."""
    store = open_ca(each_redis)
    (octets, *_) = serials_of(3, 4, 1)
    put(store, {octets: GOOD})
    store.keep_changes(CA)
    base = store.cut(CA, START).numbers
    put(store, {octets: HOLD}, "revoked")
    if cut_between:
        store.cut(CA, base)
    put(store, {octets: GOOD}, "released")
    changed = store.changed_since(CA, base) or {}
    assert changed[octets].may_be_listed is cut_between
    # And it stays so, whatever comes after, until there is a new base.
    put(store, {octets: HOLD}, "revoked")
    put(store, {octets: GOOD}, "released")
    assert (store.changed_since(CA, base) or {})[octets].may_be_listed is cut_between
    second = store.cut(CA, base).numbers
    store.forget_changes(CA, second)
    assert store.changed_since(CA, second) == {}
    assert store.changed_since(CA, base) is None
    put(store, {octets: HOLD}, "revoked")
    put(store, {octets: GOOD}, "released")
    assert not (store.changed_since(CA, second) or {})[octets].may_be_listed


def test_forgetting_never_goes_back(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    first, second = serials_of(3, 4, 2)
    store.keep_changes(CA)
    base = store.cut(CA, START).numbers
    put(store, {first: REVOKED}, "revoked")
    middle = store.cut(CA, base).numbers
    put(store, {second: REVOKED}, "revoked")
    store.forget_changes(CA, base)
    assert (store.changed_since(CA, base) or {}).keys() == {first, second}
    store.forget_changes(CA, middle)
    store.forget_changes(CA, base)
    assert (store.changed_since(CA, middle) or {}).keys() == {second}
    assert store.changed_since(CA, base) is None
    assert store.read_revoked_texts(CA, [first, second, b"\x01"]) == {first: REVOKED, second: REVOKED}


# --- numbers and publication ----------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 5280", "5.2.3", "MUST")
def test_a_number_is_given_away_once(each_redis: RedisServer) -> None:
    """CRL-07. Of two publishers that saw the same number one gets the next, whatever its size."""
    store, other = open_ca(each_redis), each_redis.store()
    assert store.crl_state(CA) == CRLState()
    store.reserve_number(CA, 0, 7)
    with pytest.raises(CommitConflict):
        other.reserve_number(CA, 0, 1)
    huge = 2**158
    other.reserve_number(CA, 7, huge)
    assert store.crl_state(CA).number == huge
    store.reserve_number(CA, huge, huge + 1)
    store.end_crls(CA, 1_800_000_000.5)
    assert store.crl_state(CA).ended == 1_800_000_000
    with pytest.raises(CommitConflict):
        store.reserve_number(CA, huge + 1, huge + 2)


def test_shards_are_fixed_by_whoever_comes_first(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    assert (store.agree_shards(CA, 8), store.agree_shards(CA, 4), store.crl_state(CA).shards) == (8, 8, 8)


def test_what_is_published_never_goes_back(each_redis: RedisServer) -> None:
    """CRL-07, DLT-03: neither number nor thisUpdate, and nothing of a refused publication is written."""
    store = open_ca(each_redis)

    def publish(number: int, this_update: int, slot: str = "full", **more: Any) -> None:
        store.publish_crls(CA, [Publication(slot, text(number, this_update), number, this_update, **more)])

    base = CRLBase(5, tuple(range(16)), "run/history", ("0a",), tuple(range(16)))
    store.reserve_number(CA, 0, 5)
    publish(5, 1_800_000_000, regular=True, let_go=1_700_000_000, base=base)
    publish(5, 1_800_000_000)  # its reply was lost
    store.reserve_number(CA, 5, 6)
    with pytest.raises(CommitConflict, match="older"):
        publish(6, 1_799_999_999)
    publish(6, 1_800_000_000, "delta")
    store.reserve_number(CA, 6, 7)
    with pytest.raises(CommitConflict, match="a greater number than 6 was given away"):
        publish(6, 1_800_000_009)
    state = store.crl_state(CA)
    assert state.published == {"full": text(5, 1_800_000_000), "delta": text(6, 1_800_000_000)}
    assert (state.regular, state.let_go, state.bases) == (
        {"full": 1_800_000_000},
        {"full": 1_700_000_000},
        {"full": base},
    )
    assert state.all_let_go == 1_700_000_000
    # A full and a delta CRL that are issued together, with one number.
    both = [Publication(slot, text(7, 1_800_000_100), 7, 1_800_000_100) for slot in ("full", "delta")]
    store.publish_crls(CA, both)
    assert set(store.crl_state(CA).published.values()) == {text(7, 1_800_000_100)}


def test_mirrored_crls_have_their_issuer_s_numbers(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)

    def mirror(number: int | None, this_update: int, **more: Any) -> None:
        said = text(number, this_update, **more)
        store.publish_crls(CA, [Publication("full", said, number, this_update, mirrored=True)])

    mirror(None, 100)
    for number, this_update in ((None, 100), (None, 99), (3, 99)):
        with pytest.raises(CommitConflict):
            mirror(number, this_update, sha256="another")
    mirror(3, 100)
    for number, this_update in ((None, 101), (3, 101), (2, 101), (4, 99)):
        with pytest.raises(CommitConflict):
            mirror(number, this_update, sha256="another")
    mirror(2**100, 101)
    assert store.crl_state(CA).published == {"full": text(2**100, 101)}
    assert (store.crl_state(CA).number, store.crl_state(CA).all_let_go) == (0, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "x"),
        ("base:full", "[]"),
        ("base:full", '{"number":1,"cut":[1],"regular_cut":[1],"history":"","ahead":[]}'),
        ("let_go:full", "soon"),
        ("shards", "\xff"),
        ("ended", "2026"),
    ],
)
def test_a_field_that_is_not_understood_is_named(each_redis: RedisServer, field: str, value: str) -> None:
    store = open_ca(each_redis)
    each_redis.client().hset(NAMES.crl(CA), field, value)
    with pytest.raises(StoreDamaged, match=f"rc:crl:{CA} holds a field that is not understood: {field} = .*HDEL"):
        store.crl_state(CA)


def test_a_key_of_another_type_is_named(each_redis: RedisServer) -> None:
    """On Redis 6.2 a captured worker can add a stream where nothing is yet."""
    store = open_ca(each_redis)
    each_redis.client().xadd(NAMES.crl(CA), {"a": "b"})
    with pytest.raises(
        StoreDamaged, match=f"rc:crl:{CA} is a stream and no hash; remove it: redis-cli DEL rc:crl:{CA}"
    ):
        store.crl_state(CA)


def test_one_holder_has_the_lease(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    assert store.lease_crls(CA, "m1", 30)
    assert not store.lease_crls(CA, "m2", 30)
    assert store.lease_crls(CA, "m1", 60)
    assert 30_000 < client.pttl(NAMES.crl_lease(CA)) <= 60_000
    assert not store.lease_crls(CA, "m2", 0)
    store.lease_crls(CA, "m1", 0)
    assert store.lease_crls(CA, "m2", 30)
    client.delete(NAMES.crl_lease(CA))  # it has run out
    assert store.lease_crls(CA, "m1", 30)


# --- bodies -------------------------------------------------------------------------------------------------------------


def test_bodies_travel_in_pieces(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    body = bytes(range(256)) * (5 * layout.CRL_BODY_CHUNK // 512)  # two and a half
    pieces = [body[at : at + layout.CRL_BODY_CHUNK] for at in range(0, len(body), layout.CRL_BODY_CHUNK)]
    digest = hashlib.sha256(body).hexdigest()
    store.put_crl_body(CA, digest, pieces, 4_000_000_000)
    assert b"".join(store.read_crl_body(CA, digest, len(body))) == body
    assert client.ttl(NAMES.crl_body(CA, digest, 2)) > 0
    store.drop_crl_body(CA, digest, len(body))
    assert list(client.scan_iter(match="*:body:*")) == []
    with pytest.raises(StoreUnavailable, match=f"{digest}:0 is not there"):
        list(store.read_crl_body(CA, digest, len(body)))


# --- rights ---------------------------------------------------------------------------------------------------------------


def test_the_publisher_writes_what_is_known_of_crls_and_nothing_else(each_redis: RedisServer) -> None:
    """All that it does works with its rights; on Redis 7 it can change no status and no answer."""
    users = users_of(each_redis)
    follow, publish = (each_redis.adopt(Store(users[role], Layout("rc:"))) for role in ("follow", "publish"))
    follow.ensure_ca(CA, name="corp", subject="", certificate=b"")
    follow.create_buckets(CA, 4)
    publish.keep_changes(CA)
    put(follow, dict.fromkeys(serials_of(3, 4, 3), REVOKED), "revoked")
    assert sum(len(flat) // 2 for _, flat in publish.read_revoked_chunks(CA)) == 3
    cut = publish.cut(CA, [0] * 16)
    assert cut.whole
    publish.agree_shards(CA, 1)
    publish.reserve_number(CA, 0, 1)
    publish.put_crl_body(CA, "0" * 64, [b"crl"], 4_000_000_000)
    base = CRLBase(1, cut.numbers, publish.run_id())
    publish.publish_crls(CA, [Publication("full", '{"number": 1, "this_update": 5}', 1, 5, base=base)])
    publish.forget_changes(CA, cut.numbers)
    publish.changed_since(CA, cut.numbers)
    publish.read_revoked_texts(CA, serials_of(3, 4, 3))
    assert publish.lease_crls(CA, "m1", 5)
    publish.lease_crls(CA, "m1", 0)
    publish.drop_crl_body(CA, "0" * 64, 3)
    publish.drop_changes(CA)
    publish.end_crls(CA, 1_800_000_000)
    publish.anchor("m1", "publish", 1, "f" * 64, "1 now " + "f" * 64, force=False)
    serve = each_redis.adopt(Store(users["serve"], Layout("rc:")))
    assert serve.crl_state(CA).number == 1
    status = NAMES.status(CA, 3)
    eval_hset = ("EVAL", "return redis.call('HSET', KEYS[1], 'x', 'good')", 1, status)
    for command in (("FLUSHALL",), ("XADD", NAMES.journal(3), "*", "x", "y"), eval_hset):
        assert denied(users["publish"], *command), command
    if each_redis.version == "7":
        for command in (
            ("HSET", status, "01", GOOD),
            ("DEL", NAMES.revoked(CA, 3)),
            ("SET", NAMES.override(CA, 3), "good"),
            ("HSET", NAMES.ca(CA), "as_of", "2030-01-01T00:00:00Z"),
            ("ZADD", NAMES.due(3), "0", "x"),
            ("HSET", NAMES.answers(CA, 3, "sha1"), "x", "y"),
        ):
            assert denied(users["publish"], *command), command
        for role in ("serve", "presign", "follow"):
            assert denied(users[role], "HSET", NAMES.crl(CA), "number", "9"), role
