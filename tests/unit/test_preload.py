"""A fresh worker fills its table from Redis: all of it, and nothing that the journal has overtaken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastpath.answer_table import AnswerTable
from responder.log import configure_logging
from responder.ocsp.answer import terms_of
from responder.store.layout import partition_of, serial_hash
from tests.edge_room import EdgeRoom, in_edge, octets
from tests.redis_fixture import RedisServer
from tests.signing_room import GOOD, Room

SERIALS = [0x1000 + n for n in range(400)]
REVOKED = "revoked 2026-11-20T10:00:00Z keyCompromise exp=2049-12-31T23:59:59Z"
GONE = SERIALS[0]


@pytest.fixture
def room(each_redis: RedisServer, tmp_path: Path) -> Room:
    """A CA with four hundred certificates, some revoked, all signed; its buckets have been split."""
    configure_logging("test", "error")
    room = Room(each_redis, tmp_path / "ca")
    room.load({serial: REVOKED if serial % 10 == 3 else GOOD for serial in SERIALS})
    room.presigner().run_until_idle()
    return room


def is_revoked(serial: int) -> bool:
    return serial % 10 == 3


def test_every_answer_is_ready_without_asking_redis(room: Room) -> None:
    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.see_journal()
        await edge.edge.preload.run()
        edge.pipelines.clear()
        for serial in SERIALS:
            (edge.revoked if is_revoked(serial) else edge.good)(edge.ask_at_once(serial), serial, "table")
        assert edge.pipelines == []
        assert edge.edge.preload.answers == len(SERIALS)


def test_long_answers(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    """ALG-05: answers that Redis keeps in a hash table, for their length, are preloaded like any others."""
    room = Room(redis_server(), tmp_path / "ca", key_type="mldsa87")
    serials = SERIALS[:100]
    room.load({serial: REVOKED if is_revoked(serial) else GOOD for serial in serials})
    room.presigner().run_until_idle()
    key = f"rc:{{0}}:answers:{room.issuer.id}:0:sha1"
    assert room.server.client().execute_command("OBJECT", "ENCODING", key) == b"hashtable"

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.see_journal()
        await edge.edge.preload.run()
        edge.pipelines.clear()
        for serial in serials:
            (edge.revoked if is_revoked(serial) else edge.good)(edge.ask_at_once(serial), serial, "table")
        assert edge.pipelines == []
        assert edge.edge.preload.answers == len(serials)


def test_a_bucket_that_the_journal_names_meanwhile_is_left_out(room: Room) -> None:
    """The reply is older than the revocation: kept, it would be a wrong good that nothing ends."""

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.see_journal()
        store = edge.edge.store
        real = store.read_buckets

        async def overtaken(ca: str, numbers: Sequence[int], hash_name: str) -> Any:
            read = await real(ca, numbers, hash_name)
            if any(octets(GONE) in readings for readings in read):
                room.change(GONE, REVOKED)
                await edge.see_journal()
            return read

        store.read_buckets = overtaken  # type: ignore[method-assign]
        await edge.edge.preload.run()
        for serial in SERIALS:
            if partition_of(serial_hash(octets(serial))) != partition_of(serial_hash(octets(GONE))):
                (edge.revoked if is_revoked(serial) else edge.good)(edge.ask_at_once(serial), serial, "table")
        async with edge.presigning():
            edge.revoked(await edge.ask(GONE), GONE, "on_demand")


def test_a_full_table_ends_it(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    """Preloading never pushes out what queries brought."""
    configure_logging("test", "error")
    room = Room(redis_server(), tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS, GOOD))
    room.presigner().run_until_idle()

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.see_journal()
        preload = edge.edge.preload
        table = preload._table = preload._stored._table = AnswerTable(1024 * 1024, [room.issuer.id])
        terms = terms_of(room.issuer, 0, 2**31)
        filler = 1 << 40
        while table.fullness <= 0.95:
            filler += 1
            serial = octets(filler)
            table.put_whole(room.issuer.id, "sha1", serial, serial_hash(serial), terms, 0, bytes(72), bytes(32))
        before = len(table)
        await preload.run()
        assert 0 < preload.answers < len(SERIALS)
        assert len(table) == before + preload.answers


def test_a_redis_that_goes_away_ends_it_quietly(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    configure_logging("test", "critical")
    room = Room(redis_server(), tmp_path / "ca")
    room.load(dict.fromkeys(SERIALS[:20], GOOD))

    @in_edge(room)
    async def _(edge: EdgeRoom) -> None:
        await edge.see_journal()
        room.server.stop()
        await asyncio.wait_for(edge.edge.preload.run(), 10)
        assert edge.edge.preload.answers == 0
