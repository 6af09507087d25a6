"""The follower: what it has forgotten, and when it trusts what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from responder.clock import format_utc
from responder.errors import StoreUnavailable
from responder.log import configure_logging
from responder.ocsp import journal
from responder.store.layout import DUE_REVOKED, partition_of, serial_hash
from tests.edge_room import EdgeRoom, in_edge, octets, until
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

SERIALS = [0x1000 + n for n in range(60)]
REVOKED_NOW = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    configure_logging("test", "error")


@pytest.fixture
def room(each_redis: RedisServer, tmp_path: Path) -> Room:
    """A CA with sixty good certificates, all signed, on each version of Redis."""
    room = Room(each_redis, tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.presigner().run_until_idle()
    return room


def partition(serial: int) -> int:
    return partition_of(serial_hash(octets(serial)))


async def warm(edge: EdgeRoom) -> None:
    for serial in SERIALS:
        edge.good(await edge.ask(serial), serial, "stored")
    edge.pipelines.clear()


def remembered(edge: EdgeRoom) -> set[int]:
    table = edge.edge.endpoint._table
    ca = edge.room.issuer.id
    return {s for s in SERIALS if table.get(ca, "sha1", octets(s), edge.cert_id(s)) is not None}


def test_a_revocation_ends_the_answers_of_its_bucket_and_no_others(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        room.change(SERIALS[0], REVOKED_NOW)
        await edge.see_journal()
        assert remembered(edge) == {s for s in SERIALS if partition(s) != partition(SERIALS[0])}
        async with edge.presigning():
            edge.revoked(await edge.ask(SERIALS[0]), SERIALS[0], "on_demand")


def test_every_kind_of_entry_is_heard_of(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        one = SERIALS[0]
        for text, kind in ((REVOKED_NOW.replace("keyCompromise", "certificateHold"), "revoked"), (GOOD, "released")):
            room.change(one, text, kind)  # type: ignore[arg-type]
            room.presigner().run_until_idle()
            await edge.see_journal()
            result = await edge.ask(one)
            (edge.revoked if kind == "revoked" else edge.good)(result, one, "stored")
        room.change(one, None, "purged")
        await edge.see_journal()
        assert (await edge.ask(one)).outcome.value == "unassigned"


def test_a_poll_is_one_pipeline(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.follower.poll()
        assert len(edge.pipelines) == 1
        assert {command[0] for command in edge.pipelines[0]} == {"XREAD"}
        room.clock.advance(journal.LOOK_S)
        await edge.follower.poll()
        assert {command[0] for command in edge.pipelines[1]} == {"XREAD", "INFO", "XINFO"}


def test_a_gap_forgets_the_partition(room: Room) -> None:
    """Entries that were trimmed before they were seen may have been about anything."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        key, one = room.store.layout.journal(partition(SERIALS[0])), SERIALS[0]
        room.change(one, REVOKED_NOW)
        # The entry that named the bucket is gone; what comes next speaks of another CA.
        room.server.client().xtrim(key, maxlen=0)
        room.server.client().xadd(
            key, {"ca": "ff" * 8, "bucket": "0", "kind": "new", "serials": "01"}, id=f"{last_number(room, key) + 1}-0"
        )
        await edge.see_journal()
        assert remembered(edge) == {s for s in SERIALS if partition(s) != partition(one)}


def last_number(room: Room, key: str) -> int:
    return int(room.server.client().xinfo_stream(key)["last-generated-id"].split(b"-")[0])


def test_a_number_that_went_back_forgets_the_partition(room: Room) -> None:
    """A failover to a replica that lacked the last writes, or a journal begun anew."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        key, one = room.store.layout.journal(partition(SERIALS[0])), SERIALS[0]
        room.server.client().delete(key)
        await edge.see_journal()
        assert remembered(edge) == set(SERIALS)  # not looked at yet
        room.clock.advance(journal.LOOK_S)
        await edge.see_journal()
        assert remembered(edge) == {s for s in SERIALS if partition(s) != partition(one)}
        # And it follows the new numbering from its start.
        edge.good(await edge.ask(one), one, "stored")
        room.change(one, REVOKED_NOW)
        await edge.see_journal()
        assert one not in remembered(edge)


def test_a_restarted_redis_forgets_everything_before_it_is_trusted(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        age = edge.edge.contact.age()
        room.server.kill()
        room.clock.advance(3)
        with pytest.raises(StoreUnavailable):
            await edge.see_journal()
        assert edge.edge.contact.age() == age + 3
        assert remembered(edge) == set(SERIALS)  # served on, while max_blind lasts
        room.server.start()
        await asyncio.sleep(0.15)  # the link tries again after RETRY_S of its own
        await until_reached(edge)
        assert remembered(edge) == set()
        assert edge.edge.contact.age() == 0


@pytest.mark.parametrize("version", ["6.2", "7"])
def test_another_run_id_is_another_server_though_the_numbers_agree(
    redis_server: Callable[..., RedisServer], tmp_path: Path, version: str
) -> None:
    """A failover: the replica may have other entries under the same numbers."""
    room = Room(redis_server(version, appendonly="yes", appendfsync="always"), tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        numbers = dict(edge.follower._numbers)
        room.server.kill()
        room.server.start()
        await until("the loss to be seen", lambda: edge.edge.store._link._protocol.lost is not None)  # type: ignore[union-attr]
        await until_reached(edge)
        assert edge.follower._numbers == numbers
        assert remembered(edge) == set()


async def until_reached(edge: EdgeRoom) -> None:
    async def reached() -> bool:
        try:
            await edge.see_journal()
        except StoreUnavailable:
            return False
        return True

    for _ in range(100):
        if await reached():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the restarted Redis was not reached")


def test_a_connection_that_was_lost_is_looked_at_again_though_no_poll_failed(room: Room) -> None:
    """Somebody else's read may have connected anew between two polls, perhaps to another server."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        room.server.client().client_kill_filter(_type="normal", skipme=True)
        link = edge.edge.store._link
        await until("the connection to be lost", lambda: link._protocol.lost is not None)  # type: ignore[union-attr]
        seen_at = edge.edge.contact._seen_at
        room.clock.advance(0.01)
        edge.pipelines.clear()
        assert await edge.follower.poll()  # connected on the way, unlooked: nothing is taken from it
        assert edge.edge.contact._seen_at == seen_at
        assert not await edge.follower.poll()
        assert "INFO" in {command[0] for command in edge.pipelines[1]}
        assert remembered(edge) == set(SERIALS)


def test_what_is_fetched_before_the_first_contact_is_not_kept(room: Room) -> None:
    async def main() -> None:
        edge = EdgeRoom(room)
        try:
            assert (await edge.ask(SERIALS[0])).outcome.value == "blind"
            await edge.see_journal()
            assert remembered(edge) == set()
            edge.good(await edge.ask(SERIALS[0]), SERIALS[0], "stored")
        finally:
            await edge.close()
            room.close()

    asyncio.run(main())


def test_an_entry_for_all_buckets_forgets_the_partition(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        room.store.set_override(room.issuer.id, f"revoked {format_utc(room.clock.now())} cACompromise")
        await edge.see_journal()
        assert remembered(edge) == set()


def test_more_entries_than_one_poll_takes_are_all_seen_before_contact(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "READ_COUNT", 3)

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await warm(edge)
        room.clock.advance(0.5)
        one = SERIALS[0]
        for text in (REVOKED_NOW, GOOD) * 4:
            room.change(one, text, "changed", DUE_REVOKED)
        polls = 1
        while await edge.follower.poll():
            assert edge.edge.contact.age() == 0.5
            polls += 1
        assert polls == 3
        assert edge.edge.contact.age() == 0


def test_the_follower_runs_on_through_an_outage(room: Room) -> None:
    """Promise 1, end to end: polls come by themselves, and a revocation is seen soon after it was committed."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        running = asyncio.create_task(edge.follower.run())
        try:
            await warm(edge)
            loop = asyncio.get_running_loop()
            room.change(SERIALS[0], REVOKED_NOW)
            began = loop.time()
            await until("the revocation", lambda: SERIALS[0] not in remembered(edge), 2)
            assert loop.time() - began < 0.25
            room.server.kill()
            await asyncio.sleep(0.2)
            room.server.start()
            await until("everything to be forgotten", lambda: not remembered(edge), 5)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
