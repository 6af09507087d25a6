"""The workers' store: pipelined reads of buckets that move, the journal, and connections that fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from fastpath.ocsp_response import AnswerHeader, pack_answer
from responder.errors import StoreUnavailable
from responder.store import layout
from responder.store.edge_store import EdgeStore, Reading
from responder.store.layout import bucket_number, serial_hash
from responder.store.redis_store import Store
from responder.store.target import Target
from responder.store.values import SignedAnswer
from tests.redis_fixture import RedisServer
from tests.server import wait_until
from tests.store_room import CA, GOOD, NAMES, OTHER_CA, REVOKED, open_ca, put, serials

HEADERS = [AnswerHeader(1_800_000_000 + at, 1_800_100_000, 1_800_000_000, "00112233aabbccdd") for at in range(16)]


def run(server: RedisServer, work: Callable[[EdgeStore], Awaitable[Any]], **options: Any) -> Any:
    """Run ``work`` on a worker's loop with a store, and see that it is closed."""

    async def inside() -> Any:
        async with edge_store(server, **options) as store:
            return await work(store)

    return uvloop.run(inside())


@asynccontextmanager
async def edge_store(server: RedisServer, **options: Any) -> AsyncIterator[EdgeStore]:
    terms: dict[str, Any] = {"label": "test", "layout": NAMES, "unix_path": str(server.socket_path), "timeout_s": 2.0}
    store = EdgeStore(Target(**(terms | options)))
    try:
        yield store
    finally:
        await store.close()


def of(octets: bytes, hash_name: str = "sha1", ca: str = CA) -> tuple[str, str, bytes, int]:
    """Spell a certificate as ``read_answers`` takes it."""
    return ca, hash_name, octets, serial_hash(octets)


def sign_all(store: Store, mine: list[bytes], hash_name: str = "sha1", slot: int = 0) -> None:
    """Store an answer for each serial; its signature is the serial."""
    by_bucket: dict[int, list[SignedAnswer]] = {}
    for octets, place in zip(mine, store.locate(CA, mine), strict=True):
        assert place.text is not None
        packed = pack_answer(slot, 0, 0, -1, False, octets)
        by_bucket.setdefault(place.bucket, []).append(SignedAnswer(octets, place.text, packed))
    for bucket, answers in by_bucket.items():
        seen = store.read_answer_bucket(CA, bucket, hash_name)
        store.put_answers(CA, bucket, hash_name, slot, HEADERS[slot].to_bytes(), answers, seen=seen)


def filled(server: RedisServer, count: int = 200) -> tuple[Store, list[bytes]]:
    """Return a store whose CA has certificates in buckets of different depths, every answer signed."""
    store = open_ca(server)
    mine = serials(count)
    put(store, dict.fromkeys(mine, GOOD))
    sign_all(store, mine)
    for number in (0, 0, 16, 3, 3, 3, 11):
        store.split_bucket(CA, store.read_status_bucket(CA, number))
    store.grow(CA, store.bucket_map(CA, 4).bits)
    return store, mine


def reading_of(octets: bytes, slot: int = 0) -> Reading:
    """Return what ``sign_all`` leaves."""
    return Reading(GOOD, HEADERS[slot], pack_answer(slot, 0, 0, -1, False, octets))


def same(left: object, right: Reading) -> bool:
    """Compare readings; headers by their bytes."""
    return (
        isinstance(left, Reading)
        and (left.status_text, left.packed) == (right.status_text, right.packed)
        and left.header is not None
        and right.header is not None
        and left.header.to_bytes() == right.header.to_bytes()
    )


def test_answers_are_read_at_every_depth(each_redis: RedisServer) -> None:
    store, mine = filled(each_redis)
    absent = [octets for octets in serials(40, seed=5) if octets not in mine]

    async def work(edge: EdgeStore) -> None:
        for _ in range(3):  # the second time with a better guess of the bits
            found = await edge.read_answers([of(octets) for octets in [*mine, *absent]])
            assert all(same(one, reading_of(octets)) for one, octets in zip(found, mine, strict=False))
            assert found[len(mine) :] == [Reading(None)] * len(absent)
        # In another order the guess is bad again.
        for octets in mine[::-1]:
            (one,) = await edge.read_answers([of(octets)])
            assert same(one, reading_of(octets))
        assert await edge.read_answers([of(mine[0], "sha256")]) == [Reading(GOOD)]
        assert await edge.read_answers([]) == []

    run(each_redis, work)
    store.close()


def test_a_header_of_another_slot_is_read_with_its_answer(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    mine = serials(60)
    put(store, dict.fromkeys(mine, GOOD))
    for slot in range(16):
        sign_all(store, mine[slot * 3 : slot * 3 + 3], slot=slot)

    async def work(edge: EdgeStore) -> None:
        found = await edge.read_answers([of(octets) for octets in mine])
        for at, octets in enumerate(mine):
            expected = reading_of(octets, at // 3) if at < 48 else Reading(GOOD)
            assert same(found[at], expected) if at < 48 else found[at] == expected

    run(each_redis, work)


def test_what_is_lost_is_not_absent(each_redis: RedisServer) -> None:
    """Promise 1: a missing bucket means "cannot know", which is neither unauthorized nor good."""
    store, mine = filled(each_redis)
    lost = store.locate(CA, [mine[7]])[0].bucket
    each_redis.client().delete(NAMES.status(CA, lost))

    async def work(edge: EdgeStore) -> None:
        found = await edge.read_answers([of(octets) for octets in mine])
        for octets, one in zip(mine, found, strict=True):
            buckets = store.bucket_map(CA, 4)
            number = buckets.leaves[bucket_number(serial_hash(octets), buckets.bits)]
            assert isinstance(one, StoreUnavailable) == (number in buckets.missing)
        assert isinstance(found[7], StoreUnavailable)
        (other,) = await edge.read_answers([of(mine[0], "sha1", OTHER_CA)])
        assert isinstance(other, StoreUnavailable)

    run(each_redis, work)


def test_an_answer_is_never_older_than_the_status_read_with_it(each_redis: RedisServer) -> None:
    """Revoked while it is being read: status and answer may both be new, but never an old good beside a new revoked."""
    store = open_ca(each_redis)
    mine = serials(40)
    put(store, dict.fromkeys(mine, GOOD))
    sign_all(store, mine)

    async def work(edge: EdgeStore) -> None:
        async def revoke() -> None:
            for octets in mine:
                await asyncio.to_thread(put, store, {octets: REVOKED}, "revoked")

        revoking = asyncio.create_task(revoke())
        while not revoking.done():
            for one in await edge.read_answers([of(octets) for octets in mine]):
                assert isinstance(one, Reading)
                assert one.status_text == GOOD or one.packed is None
        await revoking

    run(each_redis, work)


def test_splits_under_a_reader(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    mine = serials(150)
    put(store, dict.fromkeys(mine, GOOD))
    sign_all(store, mine)

    async def work(edge: EdgeStore) -> None:
        async def split() -> None:
            for bits in range(4, 8):
                for number in range(1 << bits):
                    bucket = await asyncio.to_thread(store.read_status_bucket, CA, number)
                    await asyncio.to_thread(store.split_bucket, CA, bucket)

        splitting = asyncio.create_task(split())
        while not splitting.done():
            # An answer may be just on its way to the child; its status never is.
            for one in await edge.read_answers([of(octets) for octets in mine]):
                assert isinstance(one, Reading)
                assert one.status_text == GOOD
        await splitting
        found = await edge.read_answers([of(octets) for octets in mine])
        assert all(same(one, reading_of(octets)) for one, octets in zip(found, mine, strict=True))

    run(each_redis, work)


def test_the_journal_and_its_ends(each_redis: RedisServer) -> None:
    store, client = open_ca(each_redis), each_redis.client()
    mine = serials(20)

    async def work(edge: EdgeStore) -> None:
        start = await edge.read_journal({}, look=True)
        assert start.entries == []
        assert start.run_id == f"{client.info('server')['run_id']}/{client.info('replication')['master_replid']}"
        assert start.ends == dict.fromkeys(range(16), 0)
        put(store, dict.fromkeys(mine, GOOD))
        put(store, {mine[0]: REVOKED}, "revoked")
        reading = await edge.read_journal(start.ends, look=False)
        assert (reading.run_id, reading.ends) == (None, {})
        assert reading.entries == store.read_journal(start.ends)
        assert [entry.kind for entry in reading.entries].count("revoked") == 1
        after = await edge.read_journal(start.ends, look=True, count=1)
        assert after.ends == store.journal_ends()
        assert len(after.entries) == sum(1 for end in after.ends.values() if end)
        assert (await edge.read_journal(after.ends, look=False)).entries == []
        client.set(NAMES.journal(5), "x")
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await edge.read_journal(after.ends, look=False)

    run(each_redis, work)


def test_questions_and_replies(each_redis: RedisServer) -> None:
    store, client = each_redis.store(), each_redis.client()
    client.config_set("appendfsync", "always")
    client.config_set("appendonly", "yes")

    def written() -> int:
        return int(client.info("persistence")["aof_current_size"])

    async def work(edge: EdgeStore) -> None:
        for is_loaded in (False, True):
            if is_loaded:
                store.load_ask()
                wait_until("the first file", lambda: not client.info("persistence")["aof_rewrite_in_progress"])
            before = written()
            await edge.ask({b"worker": b"w", b"questions": b"\x00\xff"})
            if is_loaded:
                assert written() == before, "a question is void in two seconds, and not worth a write to the disk"
            ((_, fields),) = store.exchange_live({}, 10, 60, 20)
            assert fields == {b"worker": b"w", b"questions": b"\x00\xff"}
            client.script_flush()
        waiting = asyncio.create_task(edge.read_replies("w", b"0"))
        assert await edge.ca_info(CA) is None  # the waiting one is in nobody's way
        assert not waiting.done()
        store.exchange_live({"w": {b"replies": b"1"}}, 10, 60, 0)
        after, entries = await waiting
        assert entries == [{b"replies": b"1"}]
        again, entries = await edge.read_replies("w", after)
        assert (again, entries) == (after, [])

    run(each_redis, work)


def test_signers_and_cas(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    store.put_signer("0" * 16, b"t", b"c")

    async def work(edge: EdgeStore) -> None:
        assert await edge.signer("1" * 16) is None
        record = await edge.signer("0" * 16)
        assert record is not None
        assert (record.template, record.certificate) == (b"t", b"c")
        assert await edge.ca_info(CA) == store.ca_info(CA)

    run(each_redis, work)


def test_clients_that_go_away_leave_nothing_behind(each_redis: RedisServer) -> None:
    """SEC-12: whoever is cancelled, whenever, every answer belongs to the serial that was asked for."""
    _, mine = filled(each_redis, 300)
    chance = random.Random(3)

    async def work(edge: EdgeStore) -> None:
        async def client(octets: bytes) -> int:
            (one,) = await edge.read_answers([of(octets)])
            assert same(one, reading_of(octets))
            return 1

        done = 0
        for _ in range(60):
            tasks = [asyncio.create_task(client(chance.choice(mine))) for _ in range(20)]
            for task in tasks:
                if chance.random() < 0.5:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} <= {int, asyncio.CancelledError}
            done += sum(result for result in results if isinstance(result, int))
        assert 300 < done < 1_200

    run(each_redis, work)


class Losing:
    """A reader of replies that loses the first."""

    def __init__(self, reader: Any) -> None:
        self.feed = reader.feed
        self._gets = reader.gets
        self._lost = False

    def gets(self) -> Any:
        reply = self._gets()
        if self._lost or reply is False:
            return reply
        self._lost = True
        return self._gets()


@pytest.mark.parametrize("stray", [b"$-1\r\n", b"*2\r\n$1\r\n5\r\n$4\r\ngood\r\n", b""], ids=["more", "alike", "fewer"])
def test_replies_out_of_step_go_to_nobody(each_redis: RedisServer, stray: bytes) -> None:
    """SEC-12: a packed answer does not say whose it is; one reply too many or too few ends the connection instead."""
    _, mine = filled(each_redis, 2)

    async def work(edge: EdgeStore) -> None:
        wanted = [of(octets) for octets in mine]
        before = await edge.read_answers(wanted)
        protocol: Any = edge._link._protocol
        if stray:
            protocol._reader.feed(stray)  # as if somebody else's reply had been left behind
        else:
            protocol._reader = Losing(protocol._reader)
        asked = [asyncio.ensure_future(edge.read_answers(wanted)) for _ in range(2)]
        for one in asked:
            with pytest.raises(StoreUnavailable, match="out of step"):
                await one
        assert await edge.read_answers(wanted) == before, "and the next connection is in step again"
        assert edge.connections == 2

    run(each_redis, work)


def test_a_client_that_goes_away_while_connecting_harms_no_other(each_redis: RedisServer) -> None:
    open_ca(each_redis)

    async def work(edge: EdgeStore) -> None:
        first = asyncio.create_task(edge.ca_info(CA))
        second = asyncio.create_task(edge.ca_info(CA))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is not None

    run(each_redis, work)


def test_a_hanging_redis_costs_one_timeout_and_the_connection(each_redis: RedisServer) -> None:
    store, mine = filled(each_redis, 20)
    assert each_redis.process is not None
    pid = each_redis.process.pid

    async def work(edge: EdgeStore) -> None:
        assert await edge.ca_info(CA) is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            asked = [asyncio.create_task(edge.read_answers([of(octets)])) for octets in mine]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(result) for result in results} == {StoreUnavailable}
        finally:
            os.kill(pid, signal.SIGCONT)
        # The late replies belong to the connection that was dropped.
        found: list[Any] = []
        while not found:
            try:
                found = await edge.read_answers([of(octets) for octets in mine])
            except StoreUnavailable:
                await asyncio.sleep(0.01)
        assert all(same(one, reading_of(octets)) for one, octets in zip(found, mine, strict=True))

    run(each_redis, work, timeout_s=0.2)
    store.close()


def test_a_redis_that_comes_back_is_found_again(each_redis: RedisServer) -> None:
    each_redis.kill()

    async def work(edge: EdgeStore) -> None:
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="test"):
                await edge.ca_info(CA)
        await asyncio.to_thread(each_redis.start)
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            try:
                assert await edge.ca_info(CA) is None
                break
            except StoreUnavailable:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
        each_redis.kill()
        with pytest.raises(StoreUnavailable):
            await edge.ca_info(CA)

    run(each_redis, work)


def test_a_redis_that_evicts_or_rejects_the_user_is_refused(each_redis: RedisServer) -> None:
    client = each_redis.client()
    client.acl_setuser("worker", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all"])

    async def evicts(edge: EdgeStore) -> None:
        with pytest.raises(StoreUnavailable, match="maxmemory-policy is allkeys-lfu"):
            await edge.ca_info(CA)

    async def wrong_password(edge: EdgeStore) -> None:
        with pytest.raises(StoreUnavailable, match="WRONGPASS") as caught:
            await edge.ca_info(CA)
        assert "t0ps3cret" not in str(caught.value)

    async def works(edge: EdgeStore) -> None:
        assert await edge.ca_info(CA) is None

    run(each_redis, works, username="worker", password="s3cret")
    run(each_redis, wrong_password, username="worker", password="t0ps3cret")
    client.config_set("maxmemory-policy", "allkeys-lfu")
    run(each_redis, evicts)


def test_malformed_content_is_not_an_answer(each_redis: RedisServer) -> None:
    store = open_ca(each_redis)
    (one,) = serials(1)
    put(store, {one: GOOD})
    bucket = store.locate(CA, [one])[0].bucket
    client = each_redis.client()

    async def work(edge: EdgeStore) -> None:
        for packed, header in ((b"", HEADERS[0].to_bytes()), (pack_answer(0, 0, 0, -1, False, b"s"), b"\xff")):
            client.delete(NAMES.answers(CA, bucket, "sha1"))
            client.hset(NAMES.answers(CA, bucket, "sha1"), mapping={one: packed, layout.HEADER_FIELDS[0]: header})
            (found,) = await edge.read_answers([of(one)])
            assert isinstance(found, StoreUnavailable)
        client.hdel(NAMES.answers(CA, bucket, "sha1"), layout.HEADER_FIELDS[0])
        assert await edge.read_answers([of(one)]) == [Reading(GOOD)]
        client.set(NAMES.answers(CA, bucket, "sha256"), "x")
        (found,) = await edge.read_answers([of(one, "sha256")])
        assert isinstance(found, StoreUnavailable)

    run(each_redis, work)


def test_a_closed_store_stays_closed(each_redis: RedisServer) -> None:
    async def work(edge: EdgeStore) -> None:
        assert await edge.ca_info(CA) is None
        await edge.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await edge.ca_info(CA)

    run(each_redis, work)
